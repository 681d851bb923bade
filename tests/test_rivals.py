"""The codecs people already use: what each format promises beyond the contract."""

import io
import sys

import numpy as np
import pytest
import torch
from helpers import photo
from PIL import Image

import cml
from cml.codecs.factory import identify
from cml.errors import BitstreamError, CodecError

FILES = {
    "png": "PNG", "webp-lossless": "WEBP", "webp": "WEBP", "jpeg": "JPEG", "avif": "AVIF", "jpeg2000": "JPEG2000",
}  # fmt: skip


def levels(x_hat: torch.Tensor) -> torch.Tensor:
    return ((x_hat + 1) * 127.5).round()


@pytest.mark.parametrize(("name", "format"), FILES.items())
@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_are_plain_files(name, format, channels):
    x = photo((30, 41), channels)
    codec = cml.create_codec(name)
    blob = codec.compress(x)
    picture = Image.open(io.BytesIO(blob))
    assert picture.format == format and picture.size == (41, 30)
    samples = np.asarray(picture.convert("L" if channels == 1 else "RGB")).reshape(30, 41, channels)
    assert np.array_equal(samples.transpose(2, 0, 1), levels(codec.decompress(blob)).numpy())
    if codec.spec.lossless:
        assert np.array_equal(samples.transpose(2, 0, 1), x.numpy())


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_ls_keeps_every_sample_within_near(channels):
    x = photo((64, 80), channels)
    sizes = []
    for near in (0, 1, 4, 20):
        codec = cml.create_codec("jpegls", near=near)
        blob = codec.compress(x)
        sizes.append(len(blob))
        assert (levels(codec.decompress(blob)) - x).abs().max() <= near
        assert identify(blob).spec.name.startswith("jpegls")
        assert codec.spec.lossless == (near == 0)
    assert sizes == sorted(sizes, reverse=True)
    assert identify(cml.create_codec("jpeg").compress(x)).spec.name.startswith("jpeg:")


@pytest.mark.parametrize("channels", [1, 3])
def test_heic_is_read_by_its_own_library_and_costs_what_quality_asks(channels):
    pillow_heif = pytest.importorskip("pillow_heif")
    x = photo((96, 97), channels)
    sizes, errors = [], []
    for quality in (5, 40, 90):
        codec = cml.create_codec("heic", quality=quality)
        blob = codec.compress(x)
        sizes.append(len(blob))
        errors.append((levels(codec.decompress(blob)) - x).abs().mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)
    picture = pillow_heif.open_heif(io.BytesIO(blob))
    assert picture.mode == ("L" if channels == 1 else "RGB") and picture.size == (97, 96)
    assert identify(blob).spec.name.startswith("heic")
    assert identify(cml.create_codec("avif").compress(x)).spec.name.startswith("avif")


@pytest.mark.parametrize(
    ("name", "package"), [("heic", "pillow_heif"), ("jpegls", "imagecodecs"), ("jpegxl", "imagecodecs")]
)
def test_a_missing_package_is_named(name, package, monkeypatch):
    pytest.importorskip(package)
    blob = cml.create_codec(name).compress(photo((16, 16)))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CodecError, match=r"pip install 'cml-toolkit\[bench\]'"):
        cml.create_codec(name)
    with pytest.raises(CodecError, match="bench"):
        cml.decompress(blob)


def test_pictures_of_other_kinds_are_read_or_refused():
    imagecodecs = pytest.importorskip("imagecodecs")
    buffer = io.BytesIO()
    Image.fromarray(np.full((8, 8), 999, np.uint16)).save(buffer, "PNG")
    for blob in (buffer.getvalue(), imagecodecs.jpegls_encode(np.full((8, 8), 999, np.uint16))):
        with pytest.raises(BitstreamError, match="16"):
            cml.decompress(blob)
    buffer = io.BytesIO()
    Image.new("RGBA", (5, 4), (255, 0, 0, 255)).save(buffer, "PNG")
    assert torch.equal(levels(cml.decompress(buffer.getvalue()))[:, 0, 0], torch.tensor([255.0, 0, 0]))


def test_bits_are_the_leading_ones_and_the_middle_of_their_cell():
    x = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    for bits in range(1, 9):
        cell = 2 ** (8 - bits)
        x_hat = (cml.decompress(cml.create_codec("bits", bits=bits).compress(x)) + 1) * 127.5
        assert len(x_hat.unique()) == 2**bits
        assert torch.allclose((x_hat - x).abs().max(), torch.tensor((cell - 1) / 2), atol=1e-4)
        assert torch.allclose(x_hat.view(-1, cell).mean(1), x.float().view(-1, cell).mean(1), atol=1e-4)


def test_fewer_bits_cost_less():
    sizes = [len(cml.create_codec("bits", bits=bits).compress(photo((64, 64)))) for bits in range(1, 9)]
    assert sizes == sorted(sizes)


def test_jpeg_xl_has_the_distances_of_libjxl_and_a_lossless_end(monkeypatch):
    from cml.codecs.jpegxl import distance_of

    # JxlEncoderDistanceFromQuality: 0.1 at 100 in its linear part, both parts 6.4 at 30, 25 at 0.
    assert [round(distance_of(q), 6) for q in (100, 90, 75, 30, 0)] == [0, 1, 2.35, 6.4, 25]
    assert distance_of(29.999) == pytest.approx(6.4, abs=1e-3)
    for channels in (1, 3):
        x = photo((40, 50), channels)
        codec = cml.create_codec("jpegxl:quality=100")
        assert codec.spec.lossless
        assert torch.allclose((codec.decompress(codec.compress(x)) + 1) * 127.5, x.float(), atol=1e-4)
    blob = codec.compress(x)
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    with pytest.raises(CodecError, match=r"pip install 'cml-toolkit\[bench\]'"):
        cml.create_codec("jpegxl")
    with pytest.raises(CodecError, match="bench"):
        cml.decompress(blob)


def test_jpeg_xl_of_other_kinds_is_refused():
    imagecodecs = pytest.importorskip("imagecodecs")
    deep = imagecodecs.jpegxl_encode(np.full((8, 8, 3), 999, np.uint16), lossless=True)
    with pytest.raises(BitstreamError, match="8-bit grey or RGB"):
        cml.decompress(deep)
