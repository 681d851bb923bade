"""Rivals of volumes and cubes: slices as pictures and as video, compressors of arrays, downsampling."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import photo
from torch import Tensor

import cml
from cml.codecs.bitstream import Container
from cml.codecs.downsample import Downsample
from cml.errors import BitstreamError, CmlError, CodecError

pytest.importorskip("imagecodecs")
pytest.importorskip("av")

OWN_RANGE = [
    "slices-jpeg2000:rate=4",
    "slices-jpegxl",
    "slices-hevc",
    "zfp",
    "sz3",
    "sperr:bpp=4",
    "downsample:factor=1",
]


def scan(size: tuple[int, int, int], seed: int = 0) -> Tensor:
    """A smooth body that changes from slice to slice, in noise: float32 (1, z, y, x) in [0, 1]."""
    z, y, x = (torch.linspace(-1, 1, n).view([-1 if i == axis else 1 for i in range(3)]) for axis, n in enumerate(size))
    body = torch.sigmoid(12 * (0.7 - (x**2 + y**2 + 0.5 * z**2).sqrt())) * (1 + 0.3 * torch.sin(9 * x + 4 * z))
    noise = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    body = body + 0.01 * noise
    return ((body - body.min()) / (body.max() - body.min()))[None]


def hounsfield(size: tuple[int, int, int]) -> Tensor:
    """A CT as its reader gives it: 12 of 16 bits, around the middle."""
    return (scan(size) * 4000 + 32768 - 1000).round().to(torch.int32).to(torch.uint16)


def psnr(x: Tensor, x_hat: Tensor) -> float:
    return float(10 * torch.log10((x.max() - x.min()) ** 2 / (x - x_hat).square().mean()))


def unit(x: Tensor) -> Tensor:
    """Integers of 16 bits as float in [-1, 1]."""
    return x.float() / 32767.5 - 1


@pytest.mark.parametrize("name", OWN_RANGE)
def test_scans_of_any_type_come_back_in_their_own_range(name: str):
    codec = cml.create_codec(name)
    x = scan((6, 40, 48))
    signals = [(x, (x * 255).round().to(torch.uint8)), (x * 4000 - 1000, None), (x * 1e-6, None), (x * -7e4, None)]
    for wanted, given in signals:
        x_hat = codec.decompress(codec.compress(wanted if given is None else given))
        if given is not None:
            x_hat = (x_hat + 1) / 2
        assert x_hat.shape == x.shape and psnr(wanted, x_hat) > 30
    wide = hounsfield((6, 40, 48))
    x_hat = codec.decompress(codec.compress(wide))
    assert psnr(unit(wide), x_hat) > 30  # of the 4000 levels that are used, not of 65,535


@pytest.mark.parametrize("name", OWN_RANGE)
def test_channels_and_constants(name: str):
    codec = cml.create_codec(name)
    two = torch.cat([scan((3, 20, 23)) * 50 + 900, scan((3, 20, 23), 1) * 50 - 900])
    blob = codec.compress(two)
    x_hat = cml.decompress(blob)
    assert torch.equal(x_hat, codec.decompress(blob))
    assert (x_hat - two).abs().mean() < 4
    flat = torch.full((1, 3, 9, 8), 7.25)
    assert (codec.decompress(codec.compress(flat)) - flat).abs().max() < 0.02


def test_slices_of_jpeg_xl_at_quality_100_are_lossless():
    codec = cml.create_codec("slices-jpegxl:quality=100")
    eight = photo((20, 31), 1)[:, None].repeat(1, 3, 1, 1)
    assert torch.equal(((cml.decompress(codec.compress(eight)) + 1) * 127.5).round().to(torch.uint8), eight)
    wide = hounsfield((3, 17, 22))
    blob = codec.compress(wide)
    assert torch.equal(((cml.decompress(blob) + 1) * 32767.5).round().int(), wide.int())
    assert len(blob) < 12 / 16 * 2 * wide.numel()  # the four unused bits of each sample cost nothing
    floats = scan((3, 17, 22)) * 9
    assert (cml.decompress(codec.compress(floats)) - floats).abs().max() <= 9 / 65535 / 2 * 1.001


def test_the_range_of_a_scan_is_as_good_to_jpeg_xl_as_8_bits():
    """16 bits are linear light to imagecodecs; the same samples as 8 bits of sRGB must not be much better."""
    imagecodecs: Any = sys.modules.get("imagecodecs") or pytest.importorskip("imagecodecs")
    eight = (scan((4, 64, 80)) * 255).round().to(torch.uint8)
    blob = cml.create_codec("slices-jpegxl:quality=40").compress(eight.to(torch.int32).mul(16).to(torch.uint16))
    files = [imagecodecs.jpegxl_encode(picture, distance=5.5, usecontainer=False) for picture in eight[0].numpy()]
    plain = torch.from_numpy(np.stack([imagecodecs.jpegxl_decode(file) for file in files])[None].astype(np.float32))
    ours = (cml.decompress(blob) + 1) * 32767.5 / 16
    x = eight.float()
    assert psnr(x, ours) > psnr(x, plain) - 0.5
    assert len(blob) < 1.1 * sum(map(len, files))


def test_jpeg_2000_keeps_its_rate_or_its_psnr():
    x = hounsfield((8, 128, 128))
    for rate in (10, 40):
        bits = 8 * len(cml.create_codec("slices-jpeg2000", rate=rate).compress(x)) / x.numel()
        assert 0.6 * 16 / rate < bits < 1.1 * 16 / rate
    eight = (scan((8, 128, 128)) * 255).round().to(torch.uint8)
    assert 8 * len(cml.create_codec("slices-jpeg2000:rate=10").compress(eight)) / x.numel() < 1.1 * 8 / 10
    for wanted in (30, 45):
        codec = cml.create_codec("slices-jpeg2000", psnr=wanted)
        assert codec.spec.name == f"slices-jpeg2000:psnr={wanted}"
        assert abs(psnr(unit(x), codec.decompress(codec.compress(x))) - wanted) < 2


def test_slices_alike_share_their_headers():
    flat = torch.zeros(1, 64, 32, 32, dtype=torch.uint8)
    flat[..., :16] = 100
    one, many = (len(cml.create_codec("slices-jpeg2000:rate=30").compress(x)) for x in (flat[:, :1], flat))
    assert many < 64 * one / 10


@pytest.mark.parametrize("name", ["zfp", "sz3"])
def test_the_error_stays_below_the_tolerance(name: str):
    sizes = []
    for tolerance in (0.1, 0.004):
        codec = cml.create_codec(name, tolerance=tolerance)
        for x in (scan((9, 30, 33)) * 3000 - 1000, scan((9, 30, 33))):
            blob = codec.compress(x)
            assert (cml.decompress(blob) - x).abs().max() <= tolerance * (x.max() - x.min()) * 1.001
        sizes.append(len(blob))
    assert sizes[0] < sizes[1] / 1.5


def test_sperr_keeps_its_rate_and_gets_better_with_it():
    x = scan((16, 64, 64)) * 100
    quality = []
    for bpp in (0.1, 0.5, 2):
        codec = cml.create_codec("sperr", bpp=bpp)
        blob = codec.compress(x)
        assert 0.9 * bpp < 8 * len(blob) / x.numel() < 1.1 * bpp + 0.02
        quality.append(psnr(x, codec.decompress(blob)))
    assert quality[0] + 2 < quality[1] < quality[2] - 2


def test_hevc_predicts_a_slice_from_the_one_before():
    x = (photo((64, 64), 1).float() / 255)[:, None]
    still = x.repeat(1, 12, 1, 1)
    codec = cml.create_codec("slices-hevc:crf=20")
    one, all = (len(codec.compress(signal)) for signal in (x, still))
    assert all < 2 * one
    assert psnr(still, codec.decompress(codec.compress(still))) > 30
    fine, codec = scan((5, 33, 70)), cml.create_codec("slices-hevc:crf=0")
    assert psnr(fine, codec.decompress(codec.compress(fine))) > 52  # 12 bits: beyond what 8 bits tell apart


def test_downsampling_is_antialiased_on_each_axis_and_keeps_the_depth():
    codec = cml.create_codec("downsample:factor=4")
    assert isinstance(codec, Downsample)
    checker = torch.from_numpy(np.indices((16, 20, 24)).sum(0) % 2).float()[None] * 2000
    small = codec.downsample(checker)
    assert small.shape == (1, *codec.small_size((16, 20, 24))) == (1, 4, 5, 6)
    assert (small - 1000).abs().max() < 60  # grey, not a false pattern
    x = hounsfield((10, 21, 30))
    blob = codec.compress(x)
    assert torch.equal(codec.load_small(blob), codec.downsample(x))
    levels = (codec.load_small(blob) + 1) * 32767.5
    assert torch.allclose(levels, levels.round(), atol=0.01) and levels.unique().numel() > 40
    ramp = torch.linspace(-300, 5000, 40).view(1, 40, 1, 1).repeat(1, 1, 6, 7)
    assert (codec.decompress(codec.compress(ramp)) - ramp)[:, 4:-4].abs().max() < 0.01 * 5300


def test_fewer_axes_leave_bands_apart():
    codec = cml.create_codec("downsample:factor=2,axes=2")
    assert isinstance(codec, Downsample)
    x = torch.stack([torch.full((1, 9, 8), value) for value in (1.0, -50.0, 30.0)], 1)
    assert codec.small_size((3, 9, 8)) == (3, 4, 4)
    assert (cml.decompress(codec.compress(x)) - x).abs().max() < 0.01


def test_a_factor_that_float32_rounds_is_read_as_it_was_written():
    codec = cml.create_codec("downsample:factor=1.1")
    x = scan((11, 33, 55))
    assert cml.decompress(codec.compress(x)).shape == x.shape


@pytest.mark.parametrize("name", ["slices-jpeg2000", "slices-jpegxl", "slices-hevc", "zfp", "sperr", "downsample"])
def test_a_payload_of_something_else_is_refused(name: str):
    codec = cml.create_codec(name)
    container = Container.unpack(codec.compress(hounsfield((3, 20, 22))))
    for payload in (b"", b"\x05abcde", container.payload[:-1], container.payload + b"\0"):
        with pytest.raises(BitstreamError):
            codec.decompress(replace(container, payload=payload).pack())
    with pytest.raises(BitstreamError):
        codec.decompress(replace(container, shape=(1, 3, 40, 44)).pack())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("slices-jpeg2000:rate=0.5", "from 1"),
        ("slices-jpeg2000:rate=20,psnr=30", "not both"),
        ("slices-jpegxl:quality=101", "from 0 to 100"),
        ("slices-hevc:crf=52", "from 0 to 51"),
        ("slices-hevc:preset=quick", "presets ultrafast"),
        ("zfp:tolerance=0", "from 1e-09"),
        ("sz3:tolerance=2", "to 1 as tolerance"),
        ("sperr:bpp=0", "from 0.0001"),
        ("downsample:factor=0.5", "from 1 to 1024"),
        ("downsample:axes=4", "from 1 to 3"),
    ],
)
def test_bad_options_get_a_sentence(name: str, sentence: str):
    with pytest.raises(CmlError, match=sentence):
        cml.create_codec(name)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("zfp", "imagecodecs", "bench"), ("downsample", "imagecodecs", "bench"), ("slices-jpegxl", "imagecodecs", "bench"),
     ("slices-hevc", "av", "volumes")],
)  # fmt: skip
def test_a_missing_package_is_named(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch):
    blob = cml.create_codec(name).compress(scan((2, 9, 9)))
    monkeypatch.setitem(sys.modules, package, None)
    for attempt in (lambda: cml.create_codec(name), lambda: cml.decompress(blob)):
        with pytest.raises(CodecError, match=rf"package {package}: pip install 'cml-toolkit\[{extra}\]'"):
            attempt()
    x = torch.zeros(1, 2, 3, 4)
    assert torch.equal(cml.decompress(cml.create_codec("identity:ndim=3").compress(x)), x)


def test_a_wheel_without_a_library_gets_a_sentence(monkeypatch: pytest.MonkeyPatch):
    imagecodecs = pytest.importorskip("imagecodecs")
    monkeypatch.setattr(imagecodecs.SPERR, "available", False)
    with pytest.raises(CodecError, match="built without sperr"):
        cml.create_codec("sperr")


def test_values_too_far_apart_get_a_sentence():
    with pytest.raises(CodecError, match="further apart"):
        cml.create_codec("slices-jpeg2000").compress(torch.tensor([-3e38, 3e38]).view(1, 1, 1, 2))
