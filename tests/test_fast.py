"""The compiled path against the reference: symbols, samples, tiles, threads, rows, memory."""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers import ROOT, photo
from memory import peak_megabytes

import cml
from cml.codecs import fast, fast_codec, fast_weights
from cml.codecs.architecture import WaveletConfig
from cml.codecs.base import to_unit
from cml.codecs.neural import WaveletCodec
from cml.errors import CodecError


def linear_codec(
    ndim: int, channels: int, levels: int | tuple[int, ...], latents: int, seed: int = 0, **options: Any
) -> WaveletCodec:
    """A codec of random orthonormal rows; its decoder is their transpose."""
    packets = channels * 2 ** (ndim * levels if isinstance(levels, int) else sum(levels))
    given: dict[str, Any] = {"step": 0.1, "rdo": 1.0} | options
    config = WaveletConfig(ndim, channels, levels, latents, (0.0,) * latents, (1.0,) * latents, **given)
    codec = WaveletCodec(config, "random")
    rng = np.random.default_rng(seed)
    rows = torch.from_numpy(np.linalg.qr(rng.normal(size=(packets, latents)))[0].T).float()
    with torch.no_grad():
        codec.encoder.get_parameter("weight").copy_(rows)
        codec.encoder.get_parameter("bias").copy_(torch.from_numpy(rng.normal(size=latents)) / 10)
        if config.decoder == "linear":
            codec.decoder.get_parameter("weight").copy_(rows.T)
            codec.decoder.get_parameter("bias").copy_(torch.from_numpy(rng.normal(size=packets)) / 100)
    return codec


def signal(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    waves = np.sin(np.arange(np.prod(shape)).reshape(shape) ** 1.1 / 30) / 2 + rng.normal(size=shape) / 8
    if dtype.is_floating_point:
        return torch.from_numpy(waves.clip(-1, 1)).to(dtype)
    return torch.from_numpy((waves.clip(-1, 1) + 1) / 2 * torch.iinfo(dtype).max).to(dtype)


@torch.no_grad()
def reference(codec: WaveletCodec, x: torch.Tensor) -> torch.Tensor:
    return codec.quantize(codec.analysis(to_unit(x)[None]))[0]


def assert_same_symbols(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    difference = (mine.int() - theirs.int()).abs()
    assert difference.max() <= 1
    assert (difference > 0).sum() <= max(1, difference.numel() / 10_000)


CASES = [
    *((2, 3, levels, c, size) for levels, c in ((1, 4), (2, 7), (3, 12), (4, 48))
      for size in ((1, 1), (7, 5), (91, 77))),
    (2, 1, 3, 16, (40, 1200)), (2, 4, 3, 9, (333, 64)), (2, 3, 3, 48, (1, 3000)), (2, 1, 6, 30, (70, 300)),
    *((1, channels, levels, 16, (n,)) for channels, levels in ((1, 8), (2, 5), (4, 10)) for n in (1, 99, 50_001)),
    *((3, channels, levels, 4, size) for channels, levels in ((1, 3), (2, 2), (3, 1))
      for size in ((1, 1, 1), (5, 9, 17), (20, 41, 70))),
    *((2, 3, levels, 7, size) for levels in ((0, 3), (3, 1)) for size in ((1, 1), (91, 77))),
    *((3, channels, levels, 4, size)
      for channels, levels in ((1, (1, 3, 3)), (2, (3, 1, 1)), (1, (0, 2, 1)), (1, (2, 1, 3)))
      for size in ((1, 1, 1), (5, 9, 17), (20, 41, 70))),
]  # fmt: skip


@pytest.mark.parametrize("ndim, channels, levels, latents, size", CASES)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_symbols_and_samples_are_those_of_the_reference(ndim, channels, levels, latents, size, dtype):
    codec = linear_codec(ndim, channels, levels, latents)
    x = signal((channels, *size), dtype)
    latent = codec.encode(x)
    assert_same_symbols(latent.symbols, reference(codec, x))
    with torch.no_grad():
        whole = codec.synthesis(latent.to_float(normalize=False)[None], size)[0].clamp(-1, 1)
    assert torch.allclose(codec.decode(latent), whole, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["rgb_f8c12", "rgb_f8c48:step=0.3", "rgb_f16c48", "gray_f8c4", "gray_f8c16:channels=9"]
)
def test_bundled_codecs_on_photographs(name, kodak):
    codec = cml.create_codec(name)
    assert isinstance(codec, WaveletCodec)
    differ = total = 0
    for file in kodak[:3]:
        x = cml.read_image(file, codec.config.channels)
        mine, theirs = codec.encode(x).symbols, reference(codec, x)
        assert (mine.int() - theirs.int()).abs().max() <= 1
        differ, total = differ + int((mine != theirs).sum()), total + mine.numel()
    assert differ <= total / 10_000


def test_without_rdo_and_with_fewer_channels():
    x = signal((3, 50, 1100), torch.uint8)
    points: list[dict[str, Any]] = [{"rdo": 0.0}, {"channels": 5}, {"step": 0.013}]
    for options in points:
        codec = linear_codec(2, 3, 3, 12)
        point = WaveletCodec(codec.config, "random", **options)
        point.load_state_dict(codec.state_dict())
        symbols = point.encode(x).symbols
        assert_same_symbols(symbols, reference(point, x))
        assert len(symbols) == options.get("channels", 12)


@pytest.mark.parametrize("options", [{"quantizer": "gaussian", "decoder": "residual", "decoder_width": 32}, {}])
@pytest.mark.parametrize("boundary", ["symmetric", "periodic"])
def test_companding_and_periodic_codecs(options, boundary):
    codec = linear_codec(2, 3, 2, 8, boundary=boundary, rdo=0.0, **options)
    for size in ((1, 1), (9, 30), (70, 200)):
        x = signal((3, *size), torch.uint8)
        assert_same_symbols(codec.encode(x).symbols, reference(codec, x))
        assert codec.decompress(codec.compress(x)).shape == x.shape


def test_symbols_widen_and_never_wrap():
    x = signal((3, 64, 900), torch.float32)
    codec = linear_codec(2, 3, 3, 12)
    for step, dtype in ((0.1, torch.int8), (0.01, torch.int16)):
        symbols = codec.at(step).encode(x).symbols
        assert symbols.dtype == dtype
        assert_same_symbols(symbols, reference(codec.at(step), x))
    for step in (1e-5, 1e-12):
        with pytest.raises(CodecError, match="take a larger step"):
            codec.at(step).encode(x)


def test_neither_threads_nor_tiles_change_a_bit(monkeypatch):
    codec, x = linear_codec(2, 3, 3, 12), signal((3, 400, 700), torch.uint8)
    volume, y = linear_codec(3, 1, 2, 8), signal((1, 50, 60, 70), torch.uint8)
    companded = linear_codec(2, 3, 3, 12, quantizer="gaussian", decoder="residual", decoder_width=32)
    whole, deep, curved = codec.encode(x), volume.encode(y), companded.encode(x)
    samples, slices = codec.decode(whole), volume.decode(deep)
    for threads, columns, lines in ((1, 30, 7), (2, 128, 512), (3, 41, 20)):
        monkeypatch.setattr(fast, "_RING_FLOATS", columns * 24 * 48)
        monkeypatch.setattr(fast, "_LINES", lines)
        monkeypatch.setattr(fast, "_VOLUME_COLUMNS", columns // 3)
        monkeypatch.setattr(fast, "_VOLUME_FLOATS", 1 << 18)
        monkeypatch.setattr(fast_codec, "_SLAB_FLOATS", columns * 300)
        torch.set_num_threads(threads)
        try:
            assert torch.equal(codec.encode(x).symbols, whole.symbols)
            assert torch.equal(codec.decode(whole), samples)
            assert torch.equal(volume.encode(y).symbols, deep.symbols)
            assert torch.equal(companded.encode(x).symbols, curved.symbols)
            assert torch.equal(volume.decode(deep), slices)
        finally:
            torch.set_num_threads(1)


def test_rows_give_the_same_bytes_and_samples():
    x = signal((3, 1203, 200), torch.uint8)
    for codec in (linear_codec(2, 3, 3, 12), cml.create_codec("rgb_f8c12"), linear_codec(2, 3, 3, 12).at(0.01)):
        assert isinstance(codec, WaveletCodec)
        asked: list[tuple[int, int]] = []

        def rows(start: int, stop: int, asked=asked) -> np.ndarray:
            asked.append((start, stop))
            return x[:, start:stop].numpy()

        blob = codec.compress_rows(rows, tuple(x.shape), np.dtype(np.uint8))
        assert blob == codec.compress(x)
        assert len(asked) > 1 and asked[0][0] == 0 and asked[-1][1] == 1203
        assert all(before[1] == after[0] for before, after in pairwise(asked))
        stripes = list(codec.decompress_rows(blob))
        assert len(stripes) > 1 or codec.config.decoder == "light"
        assert torch.allclose(torch.cat(stripes, 1), codec.decompress(blob), atol=1e-5)


def test_strided_signals_are_read_as_they_are():
    x = photo((203, 150))
    codec = linear_codec(2, 3, 3, 12)
    symbols = codec.encode(x).symbols
    assert torch.equal(codec.encode(x.permute(1, 2, 0).contiguous().permute(2, 0, 1)).symbols, symbols)
    flipped = x.numpy()[:, ::-1]
    assert torch.equal(codec.encode(flipped).symbols, codec.encode(np.ascontiguousarray(flipped)).symbols)


def test_signals_that_require_a_gradient_are_encoded():
    codec, x = linear_codec(2, 3, 3, 12), signal((3, 40, 50), torch.float32)
    assert torch.equal(codec.encode(x.clone().requires_grad_()).symbols, codec.encode(x).symbols)


def test_symbols_of_another_shape_are_refused():
    codec = linear_codec(2, 3, 3, 12)
    latent = codec.encode(signal((3, 40, 50), torch.uint8))
    for symbols in (latent.symbols[:, :-1], latent.symbols[:0], torch.zeros(12, 50, 50, dtype=torch.int8)):
        with pytest.raises(CodecError, match="are not those of a signal"):
            codec.decode(replace(latent, symbols=symbols))


def test_many_threads_at_once_with_different_steps_and_types():
    codec = linear_codec(2, 3, 3, 12)
    x = signal((3, 48, 80), torch.uint8)
    latents = [codec.at(0.05 * (k + 1)).encode(x) for k in range(4)]
    samples = [codec.decode(latent) for latent in latents]
    inputs = [x, to_unit(x)]
    symbols = [codec.encode(one).symbols for one in inputs]

    def work(number: int) -> bool:
        same = torch.equal(codec.decode(latents[number % 4]), samples[number % 4])
        return same and torch.equal(codec.encode(inputs[number % 2]).symbols, symbols[number % 2])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(200)))


def test_new_weights_are_seen():
    codec, x = linear_codec(2, 3, 3, 12), photo((64, 64))
    before = codec.encode(x)
    samples = codec.decode(before)
    with torch.no_grad():
        codec.encoder.get_parameter("weight").mul_(2)
        codec.decoder.get_parameter("weight").mul_(0.5)
    after = codec.encode(x)
    assert_same_symbols(after.symbols, reference(codec, x))
    assert not torch.equal(after.symbols, before.symbols)
    assert not torch.equal(codec.decode(after), samples)


def test_the_linear_part_of_a_light_decoder():
    codec = cml.create_codec("rgb_f8c12")
    linear = cml.create_codec("rgb_f8c12:decoder=linear")
    assert isinstance(linear, WaveletCodec) and linear.spec.name.endswith("decoder=linear")
    x = photo((120, 90))
    blob = codec.compress(x)
    assert linear.compress(x) == blob
    latent = linear.unpack(blob)
    with torch.no_grad():
        whole = linear.synthesis(latent.to_float(normalize=False)[None], (120, 90))[0].clamp(-1, 1)
    assert torch.allclose(linear.decompress(blob), whole, atol=1e-5)
    assert not torch.allclose(codec.decompress(blob), whole, atol=1e-3)
    assert linear.at(0.5).spec.name.endswith("decoder=linear")
    with pytest.raises(CodecError, match="decodes by decoder=linear or light, not by 'attention'"):
        cml.create_codec("rgb_f8c12:decoder=attention")


def test_the_product_undoes_the_gains():
    config = linear_codec(2, 1, 2, 3).config
    identity = np.eye(16)[:3]
    product = fast_weights.analysis_product(config, identity, np.zeros(3), 3, "float32", 0.5)
    assert product.weights.shape == (1, 16, 4) and product.bias.shape == (1, 4)
    assert np.count_nonzero(product.weights) == 3
    back = fast_weights.synthesis_product(config, identity.T, np.zeros(16), 3, 0.5)
    weights = product.weights[0, :, :3].reshape(4, 4, 3)  # column, row, latent
    inverse = np.concatenate(list(back.weights[:, 0].transpose(0, 2, 1)))  # row, column; latent
    inverse = inverse.reshape(4, 4, 3).transpose(1, 0, 2)
    chosen = weights != 0
    assert np.allclose(weights[chosen] * inverse[chosen], 1)


_WORK = """
import sys
import numpy as np
import torch
sys.path.insert(0, {tests!r})
from test_fast import linear_codec

torch.set_num_threads(1)
codec = linear_codec({codec})
codec.decompress(codec.compress(np.zeros({small}, np.{dtype})))
x = np.zeros({shape}, np.{dtype})
x[..., ::7] = 1
blob = codec.compress(x) if {decode} else b""
with measured():
    out = codec.decompress(blob) if {decode} else codec.compress(x)
"""


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize(
    "codec, shape, small, dtype, most",
    [
        ("2, 3, 3, 12", (3, 6000, 6000), (3, 64, 64), "uint8", 100),
        ("2, 3, 4, 192", (3, 4000, 4000), (3, 64, 64), "uint8", 100),
        ("1, 1, 8, 16", (1, 3600 * 8000), (1, 5000), "float32", 100),
        ("3, 1, 3, 8", (1, 80, 512, 512), (1, 9, 9, 9), "uint8", 100),
        ("3, 1, 2, 16", (1, 200, 512, 512), (1, 9, 9, 9), "uint8", 160),
    ],
)
def test_memory_is_flat(codec, shape, small, dtype, most, decode):
    """Pictures, an hour of sound at 8 kHz, and volumes: `most` megabytes beyond what goes in and out."""
    code = _WORK.format(codec=codec, shape=shape, small=small, dtype=dtype, decode=decode, tests=str(ROOT / "tests"))
    assert peak_megabytes(code) - (4 * math.prod(shape) / 1e6 if decode else 0) < most
