"""Decoding in stripes gives what decoding the whole gives, in a memory that does not grow with the signal."""

import math

import pytest
import torch
from memory import peak_megabytes

from cml.codecs import tiles
from cml.codecs.architecture import WaveletConfig
from cml.codecs.factory import create_codec
from cml.codecs.geometry import grid_shape
from cml.codecs.neural import WaveletCodec

SIZES = {1: [(403,), (64,), (9,)], 2: [(83, 37), (64, 8), (131, 5)], 3: [(45, 9, 7), (50, 4, 6)]}


def random_codec(ndim, decoder, levels=2, **options):
    torch.manual_seed(0)
    c = min(5, 2 ** ((ndim * levels if isinstance(levels, int) else sum(levels)) + 1))
    config = WaveletConfig(ndim, 2, levels, c, (0.0,) * c, (1.0,) * c, 0.5, decoder=decoder, **options)
    codec = WaveletCodec(config, "trial")
    with torch.no_grad():
        for parameter in codec.decoder.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter))
    return codec


def stripes_and_whole(codec, size, channels=None, step=0.3):
    c = codec.config.latent_channels
    channels = channels or c
    symbols = torch.randint(-9, 10, (channels, *grid_shape(size, codec.config.cell)), dtype=torch.int8)
    z = torch.zeros(1, c, *symbols.shape[1:])
    z[0, :channels] = symbols * step
    with torch.no_grad():
        whole = codec.synthesis(z, size, torch.tensor([step]))[0]
    return list(tiles.synthesis_stripes(codec, symbols, size, step)), whole


@pytest.mark.parametrize("decoder", ["linear", "light"])
@pytest.mark.parametrize("levels", [0, 1, 3])
@pytest.mark.parametrize(("ndim", "size"), [(ndim, size) for ndim, sizes in SIZES.items() for size in sizes])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_stripes_are_the_whole(monkeypatch, decoder, levels, ndim, size, rows):
    codec = random_codec(ndim, decoder, levels, decoder_width=6, decoder_depth=2)
    grid = grid_shape(size, 2**levels)
    monkeypatch.setattr(tiles, "_FLOATS", rows * codec.config.packet_channels * math.prod(grid[1:]))
    stripes, whole = stripes_and_whole(codec, size)
    assert len(stripes) > 1 or grid[0] <= max(2 * rows, 6)
    joined = torch.cat(stripes, 1)
    assert joined.shape == whole.shape
    assert (joined - whole).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("decoder", ["linear", "light"])
@pytest.mark.parametrize("levels", [(1, 3, 2), (0, 1, 1), (2, 0, 1)])
def test_stripes_where_axes_have_levels_of_their_own(monkeypatch, decoder, levels):
    codec = random_codec(3, decoder, levels, decoder_width=6, decoder_depth=2)
    for size in SIZES[3]:
        grid = grid_shape(size, codec.config.cell)
        monkeypatch.setattr(tiles, "_FLOATS", 2 * codec.config.packet_channels * math.prod(grid[1:]))
        stripes, whole = stripes_and_whole(codec, size)
        assert len(stripes) > 1
        assert (torch.cat(stripes, 1) - whole).abs().max() < 1e-5 * whole.abs().max()


def test_companding_and_unsent_channels(monkeypatch):
    monkeypatch.setattr(tiles, "_FLOATS", 2000)
    for quantizer in ("gaussian", "laplace"):
        codec = random_codec(2, "light", quantizer=quantizer, decoder_width=6, decoder_depth=1)
        stripes, whole = stripes_and_whole(codec, (90, 50), channels=3)
        assert len(stripes) > 3
        assert (torch.cat(stripes, 1) - whole).abs().max() < 1e-5 * whole.abs().max()


def test_decoders_that_see_the_whole_signal_get_it(monkeypatch):
    monkeypatch.setattr(tiles, "_FLOATS", 2000)
    for codec in (
        random_codec(2, "attention", levels=3, decoder_depth=1),
        random_codec(2, "residual", levels=3, decoder_width=32),
        random_codec(2, "linear", boundary="periodic"),
    ):
        stripes, whole = stripes_and_whole(codec, (90, 50))
        assert len(stripes) == 1
        assert torch.equal(stripes[0], whole)


def test_small_signals_come_in_one_piece():
    codec = random_codec(2, "light", decoder_width=6, decoder_depth=2)
    stripes, whole = stripes_and_whole(codec, (83, 37))
    assert len(stripes) == 1
    assert torch.equal(stripes[0], whole)


@pytest.mark.parametrize("name", ["rgb_f8c48", "rgb_f16c48"])
def test_a_bundled_codec(monkeypatch, name):
    monkeypatch.setattr(tiles, "_FLOATS", 2**16)
    codec = create_codec(name)
    assert isinstance(codec, WaveletCodec)
    symbols = torch.randint(-4, 5, (48, 41, 9), dtype=torch.int8)
    size = tuple(n * codec.config.cell[0] - 3 for n in (41, 9))
    with torch.no_grad():
        whole = codec.synthesis(symbols[None] * codec.step, size)[0]
    stripes = list(tiles.synthesis_stripes(codec, symbols, size, codec.step))
    assert len(stripes) > 4
    assert (torch.cat(stripes, 1) - whole).abs().max() < 1e-4


_DECODE = """
import torch
from cml.codecs import tiles
from cml.codecs.factory import create_codec
codec = create_codec("rgb_f8c48")
symbols = torch.zeros(48, {rows}, 500, dtype=torch.int8)
for stripe in tiles.synthesis_stripes(codec, symbols[:, :4, :50], (32, 400), 0.5):
    pass
with measured():
    for stripe in tiles.synthesis_stripes(codec, symbols, ({rows} * 8, 4000), 0.5):
        pass
"""


def test_memory_does_not_grow_with_the_signal():
    """12 megapixels as float32 alone are 144 MB."""
    assert peak_megabytes(_DECODE.format(rows=375)) < 110
