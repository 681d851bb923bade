import itertools

import numpy as np
import pytest
import pywt
import torch

from cml.codecs.wavelet import analysis, synthesis
from cml.errors import CodecError

SIZES = [
    *[(n,) for n in range(1, 20)],
    *itertools.product((1, 2, 3, 7, 8, 9, 17), (1, 2, 5, 8, 16)),
    *itertools.product((1, 3, 8), (2, 9), (1, 4, 7)),
]


@pytest.mark.parametrize("boundary", ["symmetric", "periodic"])
def test_reconstruction_is_perfect_for_every_size(boundary):
    generator = torch.Generator().manual_seed(0)
    for size, levels in itertools.product(SIZES, (1, 2, 3)):
        x = torch.randn(1, 2, *size, dtype=torch.float64, generator=generator)
        packets = analysis(x, levels, boundary)
        assert packets.shape == (1, 2 * 2 ** (len(size) * levels), *[-(-n // 2**levels) for n in size])
        assert torch.allclose(synthesis(packets, levels, size, boundary), x, atol=1e-12), (size, levels)


@pytest.mark.parametrize("boundary", ["symmetric", "periodic"])
@pytest.mark.parametrize("levels", [(2, 3, 3), (0, 1, 2), (3, 0, 1), (1, 0, 0)])
def test_axes_have_levels_of_their_own(boundary, levels):
    """Perfect reconstruction at every size; an axis that is split alone is the one-dimensional transform along it."""
    generator = torch.Generator().manual_seed(0)
    cell = [2**level for level in levels]
    for size in itertools.product((1, 3, 8), (2, 9), (1, 4, 7)):
        x = torch.randn(1, 2, *size, dtype=torch.float64, generator=generator)
        packets = analysis(x, levels, boundary)
        grid = [-(-n // m) for n, m in zip(size, cell, strict=True)]
        assert packets.shape == (1, 2 * 2 ** sum(levels), *grid)
        assert torch.allclose(synthesis(packets, levels, size, boundary), x, atol=1e-12), size
    x = torch.randn(1, 1, 16, 6, 4, dtype=torch.float64, generator=generator)
    alone = analysis(x[0, 0].permute(1, 2, 0).reshape(24, 1, 16), 3)
    assert torch.allclose(analysis(x, (3, 0, 0))[0].flatten(2).permute(2, 0, 1), alone)


def test_levels_that_do_not_fit_the_axes():
    x = torch.zeros(1, 1, 8, 8)
    with pytest.raises(CodecError, match="one for each of 2 axes"):
        analysis(x, (1, 2, 3))
    with pytest.raises(CodecError, match="0 or more"):
        analysis(x, (1, -2))


def test_one_level_is_the_cdf97_filter_bank():
    """Against PyWavelets' bior4.4, away from any border question: circular, long enough."""
    x = np.random.default_rng(0).normal(size=64)
    low, high = pywt.dwt(x, "bior4.4", mode="periodization")
    ours = analysis(torch.from_numpy(x)[None, None], 1, "periodic")[0]
    # pywt's periodization starts its output at another phase
    assert any(np.allclose(np.roll(low, shift), ours[0], atol=1e-9) for shift in range(-8, 9))
    assert any(np.allclose(np.roll(high, shift), ours[1], atol=1e-9) for shift in range(-8, 9))


@pytest.mark.filterwarnings("ignore")
def test_periodic_is_the_transform_of_walloc():
    """`wavelet_analysis` of the walloc package, at sizes where theirs reconstructs (ten samples at each level)."""
    walloc = pytest.importorskip("walloc.walloc", reason="needs the walloc package")
    theirs = walloc.LinearCodec2D(channels=3, J=3, latent_dim=12, latent_bits=8)
    x = torch.randn(2, 3, 80, 96, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(theirs.wavelet_analysis(x, J=3), analysis(x, 3, "periodic"), atol=1e-5)
    one = walloc.Codec1D(2, 4, 8, 8, 8, 8, True, False)
    y = torch.randn(1, 2, 320, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(one.wavelet_analysis(y, J=4), analysis(y, 4, "periodic"), atol=1e-5)


def test_gradient():
    x = torch.randn(1, 1, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: analysis(x, 2), x)
    z = torch.randn(1, 16, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda z: synthesis(z, 2, (5, 6)), z)


def test_constant_and_ramp_have_no_detail():
    """Four vanishing moments: a polynomial of degree 3 leaves the high band empty inside."""
    t = torch.arange(64, dtype=torch.float64)
    high = analysis((1 + t + t**2 / 64 + t**3 / 4096)[None, None], 1)[0, 1]
    assert high[3:-3].abs().max() < 1e-9


@pytest.mark.parametrize(
    ("shape", "levels", "boundary"),
    [
        ((1, 1, 8), 1, "odd"),
        ((1, 8), 1, "symmetric"),
        ((1, 1, 8, 8, 8, 8), 1, "symmetric"),
        ((1, 1, 0), 1, "symmetric"),
        ((1, 1, 8), -1, "symmetric"),
    ],
)
def test_bad_arguments_get_a_sentence(shape, levels, boundary):
    with pytest.raises(CodecError):
        analysis(torch.zeros(shape), levels, boundary)
