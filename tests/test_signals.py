"""Reading and writing pictures of every kind."""

import numpy as np
import pytest
import torch
from helpers import photo
from PIL import Image, ImageCms

import cml
from cml.data.signals import find_images
from cml.errors import DataError


def save(tmp_path, picture, name="a.png", **options):
    path = tmp_path / name
    picture.save(path, **options)
    return path


RGB = Image.fromarray(photo((12, 17)).permute(1, 2, 0).numpy().copy())


def test_rgb_and_grey(tmp_path):
    assert torch.equal(cml.read_image(save(tmp_path, RGB)), photo((12, 17)))
    grey = cml.read_image(save(tmp_path, RGB.convert("L"), "g.png"))
    assert grey.shape == (1, 12, 17) and grey.dtype == torch.uint8
    assert cml.read_image(tmp_path / "g.png", channels=3).shape == (3, 12, 17)
    assert cml.read_image(tmp_path / "a.png", channels=1).shape == (1, 12, 17)


def test_palette_and_bilevel(tmp_path):
    assert cml.read_image(save(tmp_path, RGB.quantize(16))).shape == (3, 12, 17)
    one = cml.read_image(save(tmp_path, RGB.convert("1"), "b.png"))
    assert one.shape == (1, 12, 17) and set(one.unique().tolist()) <= {0, 255}


def test_transparency(tmp_path):
    opaque = RGB.convert("RGBA")
    assert cml.read_image(save(tmp_path, opaque)).shape == (3, 12, 17)
    assert cml.read_image(save(tmp_path, RGB.convert("LA"), "la.png")).shape == (1, 12, 17)
    opaque.putpixel((3, 3), (0, 0, 0, 100))
    with pytest.raises(DataError, match="transparent"):
        cml.read_image(save(tmp_path, opaque, "t.png"))


def test_16_bit_grey(tmp_path):
    deep = np.linspace(0, 65535, 12 * 17).reshape(12, 17).astype(np.uint16)
    x = cml.read_image(save(tmp_path, Image.fromarray(deep), "d.png"))
    assert x.dtype == torch.uint16 and np.array_equal(x[0].numpy(), deep)
    x = cml.read_image(save(tmp_path, Image.fromarray(deep), "d.tif"))
    assert np.array_equal(x[0].numpy(), deep)
    with pytest.raises(DataError, match="16-bit"):
        cml.read_image(tmp_path / "d.png", channels=3)


def test_16_bit_colour_is_refused(tmp_path):
    import struct
    import zlib

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(2 * 6) for _ in range(2))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    (tmp_path / "deep.png").write_bytes(png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match="16-bit colour"):
        cml.read_image(tmp_path / "deep.png")


def test_float_samples_are_refused(tmp_path):
    with pytest.raises(DataError, match="8-bit grey or RGB"):
        cml.read_image(save(tmp_path, Image.fromarray(np.zeros((4, 4), np.float32)), "f.tif"))


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: show it rotated by 90 degrees
    path = save(tmp_path, RGB, "r.jpg", exif=exif, quality=100, subsampling=0)
    assert cml.read_image(path).shape == (3, 17, 12)


def test_cmyk(tmp_path):
    x = cml.read_image(save(tmp_path, RGB.convert("CMYK"), "c.jpg", quality=100, subsampling=0))
    assert (x.float() - photo((12, 17)).float()).abs().mean() < 4
    broken = save(tmp_path, RGB.convert("CMYK"), "p.tif", icc_profile=b"no profile at all")
    assert cml.read_image(broken).shape == (3, 12, 17)
    rgb_profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert cml.read_image(save(tmp_path, RGB.convert("CMYK"), "q.tif", icc_profile=rgb_profile)).shape == (3, 12, 17)


def test_many_frames_are_refused(tmp_path):
    path = save(tmp_path, RGB, "m.tif", save_all=True, append_images=[RGB.rotate(90)])
    with pytest.raises(DataError, match="2 frames"):
        cml.read_image(path)


def test_missing_empty_and_broken_files(tmp_path):
    with pytest.raises(DataError, match="no file"):
        cml.read_image(tmp_path / "none.png")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "cut.png").write_bytes(save(tmp_path, RGB).read_bytes()[:80])
    for name in ("empty.png", "text.png", "cut.png"):
        with pytest.raises(DataError, match=name):
            cml.read_image(tmp_path / name)
    with pytest.raises(DataError, match="no folder"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "void").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        find_images(tmp_path / "void")


def test_writing_is_lossless_or_refused(tmp_path):
    x = photo((9, 5)).float() / 127.5 - 1
    for name in ("a.png", "a.tif", "a.bmp"):
        cml.write_image(tmp_path / name, x)
        assert torch.equal(cml.read_image(tmp_path / name), photo((9, 5)))
    deep = torch.linspace(-1, 1, 45).view(1, 9, 5)
    cml.write_image(tmp_path / "d.png", deep, 16)
    assert (cml.read_image(tmp_path / "d.png").float() / 32767.5 - 1 - deep).abs().max() < 1e-4
    with pytest.raises(DataError, match="without loss"):
        cml.write_image(tmp_path / "a.jpg", x)
    with pytest.raises(DataError, match="16 bits"):
        cml.write_image(tmp_path / "a.png", x, 16)
    with pytest.raises(DataError, match="Cannot write"):
        cml.write_image("/proc/none/a.png", x)


def test_transparency_by_one_colour_is_seen(tmp_path):
    for mode, colour in (("RGB", (255, 0, 0)), ("L", 7)):
        picture = Image.new(mode, (6, 6), colour)
        with pytest.raises(DataError, match="transparent"):
            cml.read_image(save(tmp_path, picture, f"{mode}.png", transparency=colour))


def test_16_bit_ppm_is_refused(tmp_path):
    (tmp_path / "deep.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(24))
    with pytest.raises(DataError, match="16-bit colour"):
        cml.read_image(tmp_path / "deep.ppm")


def test_integers_are_written_as_they_are(tmp_path):
    x = photo((9, 5))
    cml.write_image(tmp_path / "u8.png", x)
    assert torch.equal(cml.read_image(tmp_path / "u8.png"), x)
    deep = (torch.arange(45, dtype=torch.int32) * 1456).to(torch.uint16).view(1, 9, 5)
    cml.write_image(tmp_path / "u16.png", deep)
    assert torch.equal(cml.read_image(tmp_path / "u16.png").int(), deep.int())
    with pytest.raises(DataError, match="no picture"):
        cml.write_image(tmp_path / "v.png", torch.zeros(1, 4, 4, 4))


def test_reading_in_threads_leaves_the_warning_filters_alone(tmp_path):
    """Filters belong to the process: threads that swap them without a lock once left `error` behind."""
    import warnings
    from concurrent.futures import ThreadPoolExecutor

    blob = cml.create_codec("jpeg").compress(photo((64, 64)))
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: cml.decompress(blob), range(200)))
    assert list(warnings.filters) == before
