"""Deep pictures: light through the PQ curve and back, 16 bits as they are, and what belongs to neither."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cml
from cml.codecs.bitstream import attach, facts
from cml.data.hdr import from_pq, to_pq
from cml.data.samples import restore
from cml.data.signal_files import kind_of, read_signal, write_signal
from cml.errors import DataError

OpenEXR: Any = pytest.importorskip("OpenEXR")
imagecodecs: Any = pytest.importorskip("imagecodecs")


def scene(largest: float = 40.0) -> np.ndarray:
    """(y, x, 3) float32: shadows, a gradient over many powers of two, and a lamp."""
    y, x = np.mgrid[0:48, 0:64]
    light = 2.0 ** (-9 + 12 * x / 64 + np.sin(y / 6))
    light = light[..., None] * np.array([1.0, 0.8, 0.5])
    light[20:24, 30:34] = largest
    light[0, 0] = 0
    return light.astype(np.float32)


def exr(path: Path, light: np.ndarray, name: str = "RGB", **header: Any) -> Path:
    told = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage} | header
    OpenEXR.File(told, {name: np.ascontiguousarray(light)}).write(str(path))
    return path


def values(path: Path) -> np.ndarray:
    with OpenEXR.File(str(path)) as file:
        return next(iter(file.channels().values())).pixels


def test_the_curve_is_that_of_the_standard():
    # SMPTE ST 2084 as ITU-R BT.2100 tabulates it: 100 cd/m2 and 1,000 cd/m2 lie at 0.5081 and 0.7518.
    assert np.allclose(to_pq(np.array([0, 0.01, 0.1, 1])), [7.3e-7, 0.5081, 0.7518, 1], atol=1e-4)
    light = np.concatenate([[0], np.geomspace(1e-9, 1, 200)])
    assert np.allclose(from_pq(to_pq(light)), light, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("largest", [3.0, 40.0, 30000.0])
def test_light_comes_back_in_its_unit(dtype, largest, tmp_path):
    light = scene(largest).astype(dtype)
    chromaticities = (0.708, 0.292, 0.17, 0.797, 0.131, 0.046, 0.3127, 0.329)
    path = exr(tmp_path / "x.exr", light, chromaticities=chromaticities)
    picture = read_signal(path)
    assert kind_of(path) == picture.kind == "picture" and picture.samples.shape == (3, 48, 64)
    assert picture.samples.dtype == torch.float32 and picture.samples.abs().max() <= 1
    assert picture.facts["transfer"] == "pq" and picture.facts["dtype"] == np.dtype(dtype).name
    assert picture.facts["unit"] == pytest.approx(203 if largest < 49 else 10_000 / largest, rel=1e-3)
    assert picture.facts["chromaticities"] == pytest.approx(chromaticities)
    blob = attach(cml.create_codec("rgb_f8c48").compress(picture.samples), picture.facts)
    assert facts(blob) == picture.facts
    write_signal(tmp_path / "y.exr", picture.samples, facts(blob))
    again = values(tmp_path / "y.exr")
    assert again.dtype == dtype
    assert np.allclose(again.astype(float), light.astype(float), rtol=2e-3, atol=1e-5 * largest)
    assert read_signal(tmp_path / "y.exr").facts["chromaticities"] == picture.facts["chromaticities"]
    for suffix in (".hdr", ".tif", ".npy"):
        write_signal(tmp_path / f"y{suffix}", picture.samples, picture.facts)
    assert np.allclose(
        np.load(tmp_path / "y.npy"), light.transpose(2, 0, 1).astype(float), rtol=2e-3, atol=1e-5 * largest
    )
    for suffix in (".hdr", ".tif"):  # Radiance has 8 bits and a common exponent
        other = read_signal(tmp_path / f"y{suffix}")
        assert (other.samples - picture.samples).abs().mean() < 0.01 and other.facts["transfer"] == "pq"


def test_a_file_that_tells_its_white(tmp_path):
    picture = read_signal(exr(tmp_path / "x.exr", scene(2.0), whiteLuminance=120.0))
    assert picture.facts["unit"] == 120
    grey = read_signal(exr(tmp_path / "y.exr", scene()[..., 0], "Y"))
    assert grey.samples.shape == (1, 48, 64)
    write_signal(tmp_path / "z.exr", grey.samples, grey.facts)
    assert np.allclose(values(tmp_path / "z.exr"), scene()[..., 0], rtol=1e-3, atol=1e-5)
    write_signal(tmp_path / "z.hdr", grey.samples, grey.facts)
    assert read_signal(tmp_path / "z.hdr").samples.shape == (3, 48, 64)


def test_what_no_codec_of_pictures_takes(tmp_path):
    light = scene()
    for name, value, sentence in (("nan", np.nan, "NaN or infinity"), ("inf", np.inf, "NaN or infinity")):
        bad = light.copy()
        bad[3, 4, 1] = value
        with pytest.raises(DataError, match=sentence):
            read_signal(exr(tmp_path / f"{name}.exr", bad))
    alpha = np.concatenate([light, np.ones_like(light[..., :1])], 2)
    assert read_signal(exr(tmp_path / "opaque.exr", alpha, "RGBA")).samples.shape == (3, 48, 64)
    alpha[0, 0, 3] = 0.5
    with pytest.raises(DataError, match="transparent in places"):
        read_signal(exr(tmp_path / "alpha.exr", alpha, "RGBA"))
    with pytest.raises(DataError, match="has the channels Z"):
        read_signal(exr(tmp_path / "depth.exr", light[..., 0], "Z"))
    negative = light - 0.01
    told = read_signal(exr(tmp_path / "negative.exr", negative)).facts["negative"]
    assert told == int((negative < 0).sum()) > 0
    for name in ("text.exr", "text.hdr"):
        (tmp_path / name).write_text("no picture")
        with pytest.raises(DataError, match=r"(Cannot read|neither a Radiance picture)"):
            read_signal(tmp_path / name)
    (tmp_path / "cut.hdr").write_bytes(imagecodecs.rgbe_encode(light)[:300])
    with pytest.raises(DataError, match=r"Cannot read .* as a Radiance picture"):
        read_signal(tmp_path / "cut.hdr")
    with pytest.raises(DataError, match=r"written as \.exr"):
        write_signal(tmp_path / "x.png", torch.zeros(3, 4, 4), {"kind": "picture", "transfer": "pq", "unit": 1.0})


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_colour(channels, suffix, tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 65536, (20, 30, channels)).astype(np.uint16)
    x[..., 3:] = 65535
    path = tmp_path / f"x{suffix}"
    if suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(x))
    else:
        tifffile = pytest.importorskip("tifffile")
        tifffile.imwrite(path, x, photometric="rgb", extrasamples=["unassalpha"] * (channels - 3))
    picture = read_signal(path)
    assert kind_of(path) == "picture" and picture.samples.dtype == torch.uint16
    assert np.array_equal(picture.samples.numpy(), x[..., :3].transpose(2, 0, 1))
    for again in (".png", ".tif"):
        write_signal(tmp_path / f"y{again}", picture.samples, picture.facts)
        assert torch.equal(read_signal(tmp_path / f"y{again}").samples, picture.samples)
    floats = picture.samples.float() / 32767.5 - 1
    assert np.array_equal(restore(floats, picture.facts), picture.samples.numpy())


def test_plain_pictures_stay_with_read_image(tmp_path):
    x = torch.zeros(3, 8, 9)
    for name, signal, depth in (("a.png", x, 8), ("b.tif", x, 8), ("c.png", x[:1], 16), ("d.tif", x[:1], 16)):
        cml.write_image(tmp_path / name, signal, depth)
        assert kind_of(tmp_path / name) is None
        with pytest.raises(DataError, match=r"cml\.read_image reads plain ones"):
            read_signal(tmp_path / name)
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "f.tif").write_bytes(b"II*\0\xff\xff\xff\xff")
    assert kind_of(tmp_path / "e.png") is None and kind_of(tmp_path / "f.tif") is None
