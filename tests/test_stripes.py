"""Pictures in stripes: the samples and refusals of `read_image`, whole files or none, in little memory."""

import numpy as np
import pytest
import torch
from helpers import photo
from memory import peak_megabytes
from PIL import Image
from typer.testing import CliRunner

from cml.cli import app
from cml.codecs.factory import create_codec
from cml.codecs.neural import WaveletCodec
from cml.data import stripes
from cml.data.signals import read_image, write_image
from cml.data.stripes import open_stripes, write_stripes
from cml.errors import DataError

SIZE = (75, 41)


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(stripes, "_LARGE", 1)


def picture(channels=3, size=SIZE):
    samples = photo(size, channels).numpy()
    return Image.fromarray(samples[0] if channels == 1 else samples.transpose(1, 2, 0))


def deep(size=SIZE):
    return Image.fromarray(np.random.default_rng(0).integers(0, 65536, size).astype(np.uint16))


def joined(source, rows=16):
    height = source.shape[1]
    return np.concatenate([source.rows(y, min(y + rows, height)) for y in range(0, height, rows)], 1)


@pytest.mark.parametrize(
    ("name", "make", "options"),
    [
        ("rgb.png", picture, {}),
        ("grey.png", lambda: picture(1), {}),
        ("deep.png", deep, {}),
        ("rgb.tif", picture, {}),
        ("packed.tif", picture, {"compression": "tiff_adobe_deflate"}),
        ("grey.tif", lambda: picture(1), {"compression": "tiff_lzw"}),
        ("deep.tif", deep, {}),
        ("rgb.jpg", picture, {"quality": 80}),
        ("full.jpg", picture, {"quality": 80, "subsampling": 0}),
        ("progressive.jpg", picture, {"progressive": True}),
        ("grey.jpg", lambda: picture(1), {}),
    ],
)
def test_plain_files_are_read_in_stripes(tmp_path, name, make, options):
    path = tmp_path / name
    make().save(path, **options)
    source, whole = open_stripes(path), read_image(path).numpy()
    assert isinstance(source, stripes._Sequential)
    assert (source.shape, source.dtype) == (whole.shape, whole.dtype)
    assert np.array_equal(joined(source), whole)
    assert torch.equal(open_stripes(path).whole().int(), torch.from_numpy(whole.astype(np.int32)))


def upside_down():
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def late_exif(path):
    """A PNG whose orientation stands behind its samples."""
    picture().save(path, exif=upside_down())
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
    path.write_bytes(data[:start] + data[stop:-12] + data[start:stop] + data[-12:])


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("exif.jpg", lambda path: picture().save(path, exif=upside_down())),
        ("exif.png", lambda path: picture().save(path, exif=upside_down())),
        ("exif.tif", lambda path: picture().save(path, exif=upside_down())),
        ("late.png", late_exif),
        ("palette.png", lambda path: picture().quantize(16).save(path)),
        ("bits.png", lambda path: picture(1).convert("1").save(path)),
        ("opaque.png", lambda path: picture().convert("RGBA").save(path)),
        ("cmyk.jpg", lambda path: picture().convert("CMYK").save(path)),
        ("photometric.tif", lambda path: picture(1).save(path, tiffinfo={262: 0})),
        ("ycbcr.tif", lambda path: picture().save(path, compression="jpeg")),
        ("plain.webp", lambda path: picture().save(path, lossless=True)),
        ("plain.bmp", lambda path: picture().save(path)),
        ("plain.ppm", lambda path: picture().save(path)),
    ],
)
def test_other_files_are_read_as_ever(tmp_path, name, save):
    path = tmp_path / name
    save(path)
    source, whole = open_stripes(path), read_image(path).numpy()
    assert isinstance(source, stripes._Whole)
    assert (source.shape, source.dtype) == (whole.shape, whole.dtype)
    assert np.array_equal(joined(source), whole)


def test_orientation_behind_the_samples_counts(tmp_path):
    path = tmp_path / "late.png"
    late_exif(path)
    assert torch.equal(read_image(path), photo(SIZE).flip(1, 2))


def test_small_pictures_are_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(stripes, "_LARGE", 75 * 41 + 1)
    picture().save(tmp_path / "a.png")
    assert isinstance(open_stripes(tmp_path / "a.png"), stripes._Whole)


def test_what_read_image_refuses_is_refused(tmp_path):
    glass = picture().convert("RGBA")
    glass.putalpha(128)
    glass.save(tmp_path / "glass.png")
    (tmp_path / "text.png").write_text("no picture")
    picture().save(tmp_path / "two.tif", save_all=True, append_images=[picture()])
    for name, message in (("glass", "transparent"), ("text", "Cannot read"), ("two", "2 frames"), ("none", "no file")):
        with pytest.raises(DataError, match=message):
            open_stripes(tmp_path / f"{name}.{'tif' if name == 'two' else 'png'}")


@pytest.mark.parametrize("name", ["cut.png", "cut.jpg", "cut.tif"])
def test_cut_files_are_refused(tmp_path, name):
    path = tmp_path / name
    picture(size=(300, 200)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"Cannot read .*{name}"):
        joined(open_stripes(path))


@pytest.mark.parametrize(
    ("suffix", "channels", "bit_depth"),
    [(suffix, *kind) for suffix in (".png", ".tif", ".tiff") for kind in [(3, 8), (1, 8), (1, 16), (3, 32)]]
    + [(".bmp", 3, 8), (".bmp", 1, 8)],
)
def test_stripes_are_written_as_write_image_writes(tmp_path, suffix, channels, bit_depth):
    x = torch.rand(channels, *SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    write_image(tmp_path / f"whole{suffix}", x, bit_depth)
    write_stripes(tmp_path / "new" / f"stripes{suffix}", x.shape, bit_depth, x.split(17, 1))
    whole, again = read_image(tmp_path / f"whole{suffix}"), read_image(tmp_path / "new" / f"stripes{suffix}")
    assert whole.dtype == again.dtype
    assert np.array_equal(whole.numpy(), again.numpy())
    assert [path.name for path in (tmp_path / "new").iterdir()] == [f"stripes{suffix}"]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_a_failure_leaves_nothing(tmp_path, suffix):
    def failing():
        yield torch.zeros(3, 20, 41)
        raise DataError("enough")

    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")
    with pytest.raises(DataError, match="enough"):
        write_stripes(path, (3, *SIZE), 8, failing())
    assert [item.name for item in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == b"before"


def test_writing_says_what_is_wrong(tmp_path):
    rows = torch.zeros(3, *SIZE).split(20, 1)
    for name, shape, depth, message in (
        ("a.jpg", (3, *SIZE), 8, "without loss"),
        ("a.png", (3, *SIZE), 16, "16 bits"),
        ("a.png/b.png", (3, *SIZE), 8, "Cannot write"),
    ):
        (tmp_path / "a.png").write_bytes(b"")
        with pytest.raises(DataError, match=message):
            write_stripes(tmp_path / name, shape, depth, rows)


@pytest.mark.parametrize(("codec", "channels"), [("rgb_f8c12", 3), ("gray_f8c4", 1)])
def test_the_command_line_reads_and_writes_stripes(tmp_path, codec, channels):
    source, coded, back = (tmp_path / name for name in ("in.png", "a.cml", "out.png"))
    picture(channels, (310, 97)).save(source)
    run = CliRunner()
    assert run.invoke(app, ["encode", str(source), "-o", str(coded), "-c", codec]).exit_code == 0
    chosen = create_codec(codec)
    assert isinstance(chosen, WaveletCodec)
    assert coded.read_bytes() == chosen.compress(read_image(source))
    assert run.invoke(app, ["decode", str(coded), "-o", str(back)]).exit_code == 0
    write_image(tmp_path / "whole.png", chosen.decompress(coded.read_bytes()))
    assert torch.equal(read_image(back), read_image(tmp_path / "whole.png"))


_CODE = """
import torch
from cml.data.stripes import open_stripes, write_stripes

def copy(source, target):
    picture = open_stripes(source)
    rows = (picture.rows(y, min(y + 32, picture.shape[1])) for y in range(0, picture.shape[1], 32))
    write_stripes(target, picture.shape, 8, (torch.tensor(r) / 127.5 - 1 for r in rows))

copy({small!r}, {target!r})
with measured():
    copy({large!r}, {target!r})
"""


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_memory_does_not_grow_with_the_picture(tmp_path, suffix):
    """The samples alone are 75 MB."""
    names = {name: str(tmp_path / f"{name}.{suffix}") for name in ("small", "large", "target")}
    Image.new("RGB", (2100, 2100)).save(names["small"])
    Image.new("RGB", (5000, 5000)).save(names["large"])
    assert peak_megabytes(_CODE.format(**names)) < 60
