import numpy as np
import pytest
import torch
from helpers import photo

import cml
from cml.codecs.rdo import bits, rdo_round
from cml.errors import CodecError


def laplacian(scale: float, size=(1, 1, 400, 400)) -> torch.Tensor:
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.laplace(0, scale, size)).float()


def entropy(symbols: torch.Tensor) -> float:
    _, counts = symbols.unique(return_counts=True)
    p = counts / counts.sum()
    return float(-(p * p.log2()).sum())


def test_strength_zero_rounds_and_a_strength_only_lowers_magnitudes():
    v = laplacian(2.0)
    assert torch.equal(rdo_round(v, 0), v.round())
    for strength in (0.5, 1, 4):
        q = rdo_round(v, strength)
        lowered = v.round().abs() - q.abs()
        assert set(lowered.unique().tolist()) == {0.0, 1.0}
        assert (q * v >= 0).all() and (q - v).abs().max() <= 0.8 + 1e-5


def test_it_pays_where_symbols_are_sparse():
    """At equal entropy the optimised symbols are nearer to the latents than those of a coarser plain step."""
    v = laplacian(0.5)
    optimised = rdo_round(v, 1.0)
    rate, distortion = entropy(optimised), float((optimised - v).square().mean())
    fine, coarse = 1.0, 3.0
    for _ in range(30):
        middle = (fine + coarse) / 2
        fine, coarse = (middle, coarse) if entropy((v / middle).round()) > rate else (fine, middle)
    plain = float(((v / coarse).round() * coarse - v).square().mean())
    assert distortion < 0.98 * plain


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 20.0])
def test_the_estimate_of_bits_follows_the_entropy(scale):
    v = laplacian(scale)
    assert float(bits(v).mean()) == pytest.approx(entropy(v.round()), rel=0.12, abs=0.05)


def test_one_two_and_three_dimensions():
    for ndim in (1, 2, 3):
        v = torch.randn(2, 3, *[5] * ndim)
        assert rdo_round(v, 1.0).shape == bits(v).shape == v.shape
        assert rdo_round(torch.ones(1, 1, *[1] * ndim) * 3.4, 1.0).item() == 3


def test_a_codecs_option():
    x = photo((64, 64))
    plain, optimised = (cml.create_codec("rgb_f8c48", step=0.5, rdo=rdo) for rdo in (0, 1))
    assert len(optimised.compress(x)) < len(plain.compress(x))
    with pytest.raises(CodecError, match="strength"):
        cml.create_codec("rgb_f8c48", rdo=-1)
