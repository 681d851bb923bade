"""Large pictures in stripes: read and written some rows at a time, so that no picture is in memory as a whole.

libvips reads PNG, TIFF and JPEG in order from the top; TIFF is written plainly, and PNG made from that. Whatever is
small, of another format, or anything but plain grey or RGB goes through `read_image` and `write_image`: what those
convert, they convert here, and what they refuse is refused.
"""

import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    IMAGELENGTH,
    IMAGEWIDTH,
    PHOTOMETRIC_INTERPRETATION,
    ROWSPERSTRIP,
    SAMPLESPERPIXEL,
    STRIPBYTECOUNTS,
    STRIPOFFSETS,
    ImageFileDirectory_v2,
)
from torch import Tensor

from cml.codecs.base import to_uint8
from cml.codecs.conventional import UNREADABLE, open_picture
from cml.data.signals import read_image, write_image
from cml.errors import DataError

_LARGE = 2**22  # pixels, from which stripes are worth it
_LAYOUTS = {"PNG": ("L", "RGB", "I;16B"), "TIFF": ("L", "RGB", "I;16", "I;16B"), "JPEG": ("L", "RGB")}
_FETCHED = 64  # rows at a time: libvips keeps several times as many
_WRITABLE = (".png", ".tif", ".tiff")
_TIFF_SAMPLES = 2**30  # a TIFF file ends at 4 GB
_STRIP = 16  # rows of a strip of a TIFF file
_ADAPTIVE = 0xF8  # PNG's five filters, the best for each row


class Stripes(Protocol):
    """A picture to be read from the top.

    Attributes:
        shape: (C, H, W).
        dtype: uint8 or uint16.
    """

    shape: tuple[int, int, int]
    dtype: np.dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows start ... stop (C, stop - start, W); asked for in order, each once."""
        ...

    def whole(self) -> Tensor:
        """All of it, as `read_image` gives it."""
        ...


def open_stripes(path: str | Path) -> Stripes:
    """Open a picture file; its samples are those of `read_image`, and so are the errors."""
    path = Path(path)
    try:
        with open_picture(path) as picture:
            plain = picture.width * picture.height >= _LARGE and _is_plain(picture, path)
    except UNREADABLE:
        plain = False
    return _Sequential(path) if plain else _Whole(path)


def _is_plain(picture: ImageFile, path: Path) -> bool:
    """Whether the samples of the file are what `read_image` gives: upright, opaque, grey or RGB."""
    layouts = _LAYOUTS.get(picture.format or "", ())
    arguments = [tile.args if isinstance(tile.args, str) else (tile.args or ("",))[0] for tile in picture.tile]
    tags = getattr(picture, "tag_v2", {})
    return (
        all(layout in layouts for layout in arguments)
        and bool(arguments)
        and "transparency" not in picture.info
        and getattr(picture, "n_frames", 1) == 1
        # Of the base class: that of PNG reads the whole file.
        and Image.Image.getexif(picture).get(ExifTags.Base.Orientation, 1) == 1
        and picture.info.get("compression") != "jpeg"  # within TIFF, where decoders may differ
        and tags.get(PHOTOMETRIC_INTERPRETATION, 1) in (1, 2)  # black is zero, RGB
        and not (picture.format == "PNG" and _is_unusual_png(path))
    )


def _is_unusual_png(path: Path) -> bool:
    """Whether the file is interlaced, or describes the picture (its orientation, say) only after the samples."""
    with path.open("rb") as file:
        head = file.read(29)
        file.seek(8)
        samples = False
        while len(chunk := file.read(8)) == 8:
            kind = chunk[4:]
            if samples and kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
                return True
            samples = samples or kind == b"IDAT"
            file.seek(int.from_bytes(chunk[:4], "big") + 4, os.SEEK_CUR)
    return head[28] != 0


class _Whole:
    def __init__(self, path: Path):
        self._x = read_image(path)
        channels, height, width = self._x.shape
        self.shape, self.dtype = (channels, height, width), self._x.numpy().dtype

    def rows(self, start: int, stop: int) -> np.ndarray:
        return self._x[:, start:stop].numpy()

    def whole(self) -> Tensor:
        return self._x


class _Sequential:
    def __init__(self, path: Path):
        import pyvips

        self._path, self._error = path, pyvips.Error
        try:
            image = pyvips.Image.new_from_file(str(path), access="sequential", fail_on="error")
            self._region = pyvips.Region.new(image)
        except pyvips.Error as error:
            raise self._unreadable(error) from error
        self.shape = (image.bands, image.height, image.width)
        self.dtype = np.dtype({"uchar": np.uint8, "ushort": np.uint16}[str(image.format)])

    def rows(self, start: int, stop: int) -> np.ndarray:
        channels, _, width = self.shape
        out = np.empty((channels, stop - start, width), self.dtype)
        for first in range(start, stop, _FETCHED):
            last = min(first + _FETCHED, stop)
            try:
                samples = self._region.fetch(0, first, width, last - first)
            except self._error as error:
                raise self._unreadable(error) from error
            piece = np.frombuffer(samples, self.dtype).reshape(last - first, width, channels)
            out[:, first - start : last - start] = piece.transpose(2, 0, 1)
        return out

    def whole(self) -> Tensor:
        return read_image(self._path)

    def _unreadable(self, error: Exception) -> DataError:
        return DataError(f"Cannot read {self._path} as a picture: {' '.join(str(error).split())}.")


def write_stripes(path: str | Path, shape: tuple[int, ...], bit_depth: int, stripes: Iterable[Tensor]) -> None:
    """Write a picture without loss as its stripes come, all of the file or nothing.

    Args:
        path: ends in .png, .tif, .tiff or .bmp.
        shape: (C, H, W).
        bit_depth: as of `write_image`, which gets what cannot be written in stripes.
        stripes: float32 (C, rows, W) in [-1, 1], from the top.
    """
    path = Path(path)
    samples = np.dtype("<u2" if bit_depth == 16 else "u1")
    plain = len(shape) == 3 and (shape[0] == 1 or (shape[0] == 3 and bit_depth != 16))
    large = math.prod(shape[1:]) >= _LARGE and math.prod(shape) < _TIFF_SAMPLES
    if not (plain and large and path.suffix.lower() in _WRITABLE):
        write_image(path, _joined(stripes, shape), bit_depth)
        return
    import pyvips

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written, png = Path(folder, "written.tif"), Path(folder, "written.png")
            with written.open("wb") as file:
                _tiff_directory(shape, samples).save(file)
                for stripe in stripes:
                    _write_rows(file, stripe, samples)
            if path.suffix.lower() == ".png":
                pyvips.Image.new_from_file(str(written), access="sequential").write_to_file(str(png), filter=_ADAPTIVE)
                written = png
            os.replace(written, path)
    except pyvips.Error as error:
        raise DataError(f"Cannot write {path}: {' '.join(str(error).split())}.") from error
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from error


def _joined(stripes: Iterable[Tensor], shape: tuple[int, ...]) -> Tensor:
    x, row = torch.empty(shape), 0
    for stripe in stripes:
        x[:, row : (row := row + stripe.shape[1])] = stripe
    return x


def _write_rows(file: BinaryIO, x: Tensor, samples: np.dtype) -> None:
    rows = ((x + 1) * 32767.5).round().numpy() if samples.itemsize == 2 else to_uint8(x).numpy()
    file.write(np.ascontiguousarray(rows.transpose(1, 2, 0), samples).data)


def _tiff_directory(shape: tuple[int, ...], samples: np.dtype) -> ImageFileDirectory_v2:
    """The header of a plain TIFF file, whose samples follow it."""
    channels, height, width = shape
    row = channels * width * samples.itemsize
    starts = range(0, height, _STRIP)
    directory = ImageFileDirectory_v2()
    directory[IMAGEWIDTH], directory[IMAGELENGTH] = width, height
    directory[BITSPERSAMPLE], directory[SAMPLESPERPIXEL] = (8 * samples.itemsize,) * channels, channels
    directory[COMPRESSION], directory[PHOTOMETRIC_INTERPRETATION] = 1, 2 if channels == 3 else 1
    directory[ROWSPERSTRIP] = _STRIP
    directory[STRIPOFFSETS] = tuple(start * row for start in starts)  # Pillow adds its own length
    directory[STRIPBYTECOUNTS] = tuple(min(_STRIP, height - start) * row for start in starts)
    return directory
