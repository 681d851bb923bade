"""Reading and writing images: any file Pillow opens becomes a tensor, or is refused with one sentence."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps
from PIL.ImageFile import ImageFile
from torch import Tensor

from cml.codecs.base import CodecSpec, check_signal
from cml.codecs.conventional import UNREADABLE, open_picture, to_pillow
from cml.errors import DataError
from cml.files import write_atomic

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".jp2", ".j2k", ".ppm", ".pgm"}
)
LOSSLESS_SUFFIXES = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}


def read_picture(path: str | Path) -> Image.Image:
    """Decode a picture file whole and turn it upright (EXIF orientation)."""
    path = Path(path)
    try:
        with open_picture(path) as picture:
            return _upright(picture, path)
    except FileNotFoundError as error:
        raise DataError(f"There is no file {path}.") from error
    except UNREADABLE as error:
        raise DataError(f"Cannot read {path} as a picture: {error}.") from error


def _upright(picture: ImageFile, path: Path) -> Image.Image:
    frames = getattr(picture, "n_frames", 1)
    if frames > 1 and picture.format != "MPO":
        raise DataError(f"{path} holds {frames} frames; split it into single pictures.")
    layout = str([tile.args for tile in picture.tile])
    deep = ";16" in layout or (picture.format == "PPM" and "65535" in layout)
    if deep and picture.mode in ("RGB", "RGBA", "RGBX", "LA"):
        raise DataError(f"{path} has 16-bit colour, which Pillow reads as 8; convert it to 8 bits or 16-bit grey.")
    picture.load()
    return ImageOps.exif_transpose(picture)


def read_image(path: str | Path, channels: int | None = None) -> Tensor:
    """A picture file as (C, H, W), uint8, or uint16 for 16-bit grey.

    Upright (EXIF), without palette; CMYK goes to sRGB through its embedded profile if it has one. Transparency that
    hides nothing is dropped; real transparency, float samples and 16-bit colour are refused.

    Args:
        path: the file.
        channels: 1 or 3 to convert to grey or RGB; None to keep what the file has.
    """
    picture = read_picture(path)
    mode = picture.mode
    if mode in ("P", "PA"):
        picture = picture.convert("RGBA" if mode == "PA" or "transparency" in picture.info else "RGB")
    elif mode == "1":
        picture = picture.convert("L")
    elif mode == "CMYK":
        picture = _cmyk_to_rgb(picture)
    elif mode in ("YCbCr", "HSV", "RGBX"):
        picture = picture.convert("RGB")
    elif mode in ("L", "RGB") and "transparency" in picture.info:
        picture = picture.convert("RGBA")  # one colour of the file stands for transparent
    if picture.mode in ("RGBA", "LA"):
        low = picture.getchannel("A").getextrema()[0]
        if not isinstance(low, int) or low < 255:
            raise DataError(f"{path} is transparent in places; flatten it on a background first.")
        picture = picture.convert("L" if mode in ("L", "LA") else "RGB")
    if picture.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        samples = np.asarray(picture)
        if samples.min() < 0 or samples.max() > 65535:
            raise DataError(
                f"{path} has samples past 16 bits ({samples.min()} to {samples.max()}); scale it to 16 bits."
            )
        if channels == 3:
            raise DataError(f"{path} is 16-bit grey; it cannot be read as 8-bit RGB without loss, convert it first.")
        return torch.from_numpy(samples.astype(np.uint16))[None]
    if picture.mode not in ("L", "RGB"):
        raise DataError(f"{path} has samples of the kind {picture.mode!r}; convert it to 8-bit grey or RGB.")
    if channels is not None:
        picture = picture.convert("L" if channels == 1 else "RGB")
    samples = np.asarray(picture)
    samples = samples[None] if samples.ndim == 2 else samples.transpose(2, 0, 1)
    return torch.from_numpy(samples.copy())


def _cmyk_to_rgb(picture: Image.Image) -> Image.Image:
    profile = picture.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(picture, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile leaves the plain formula
    return picture.convert("RGB")


def write_image(path: str | Path, x: Tensor, bit_depth: int = 8) -> None:
    """Write a picture, rounded to its bit depth and then without loss.

    Args:
        path: ends in .png, .tif, .tiff or .bmp.
        x: (1 or 3, H, W), uint8, uint16 (written with 16 bits), or float in [-1, 1].
        bit_depth: of float signals: 8 (also written for 32), or 16 for grey .png and .tif.
    """
    path = Path(path)
    format = LOSSLESS_SUFFIXES.get(path.suffix.lower())
    if format is None:
        suffixes = ", ".join(sorted(LOSSLESS_SUFFIXES))
        raise DataError(f"Decoded pictures are written without loss: name the output {suffixes}, not {path.name}.")
    if x.dim() != 3:
        raise DataError(f"A signal of shape {tuple(x.shape)} is no picture (1 or 3, H, W); decode it from Python.")
    x, depth = check_signal(x, CodecSpec(name="write_image", ndim=2, channels=(1, 3)))
    bit_depth = bit_depth if depth == 32 else depth
    if bit_depth == 16 and (len(x) != 1 or format == "BMP"):
        raise DataError(f"{path} would lose its 16 bits: 16-bit pictures are written as grey .png or .tif.")
    if bit_depth == 16:
        picture = Image.fromarray(((x[0] + 1) * 32767.5).round().numpy().astype(np.uint16))
    else:
        picture = to_pillow(x)
    buffer = io.BytesIO()
    picture.save(buffer, format=format)
    write_atomic(path, buffer.getvalue())


def find_images(folder: str | Path) -> list[Path]:
    """Every picture file below a folder, in a fixed order; none at all is an error."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not files:
        raise DataError(f"{folder} holds no pictures ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return files
