"""Pictures of more than 8 bits: 16-bit colour as it is, and floats of high dynamic range through the PQ curve.

    linear light, 0 ... anything --x unit / 10,000 cd/m2, PQ--> [-1, 1] --codec--> [-1, 1] --PQ back--> linear light

Light in a float file has no largest value, and an error of 0.1 is nothing in the sun and everything in a shadow. The PQ
curve of SMPTE ST 2084 spaces luminances as the eye tells them apart, so that a codec of pictures, whose errors are
about the same at every level, spends its bits where they are seen. The facts `transfer` ("pq") and `unit`, the cd/m2
that a value of 1 stands for, take it back.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from torch import Tensor

from cml.data.samples import SignalFile, admit, load_package, replacing, restore
from cml.errors import DataError
from cml.files import read_bytes, write_atomic

WHITE = 203.0  # cd/m2 of 1.0 where a file tells none: reference white of ITU-R BT.2408
_BRIGHTEST = 10_000.0  # cd/m2, the end of the curve
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
_GEOGRAPHY = (33550, 33922, 34264, 34735)  # tags of GeoTIFF: scale, tie points, matrix, keys
_SAMPLES, _BITS, _FORMAT, _FLOAT = 277, 258, 339, 3


def read_hdr(path: str | Path) -> SignalFile:
    """A deep picture, (1 or 3, y, x): uint16 of 16 bits, or float32 in [-1, 1] through PQ.

    Args:
        path: .exr, Radiance .hdr, 16-bit colour .png, or 16-bit or float .tif.

    Returns:
        Samples; facts of floats: `transfer`, `unit`, and `chromaticities` where the file tells them. Where values are
        so large that they would pass the curve's end, `unit` is as much smaller. What is below 0 becomes 0 and is
        counted in the fact `negative`.

    Raises:
        DataError: it cannot be read, has other channels, real transparency, NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    suffix = path.suffix.lower()
    if suffix in (".tif", ".tiff"):
        from cml.data.rasters import read_raster

        raster = read_raster(path)
        if raster.kind != "picture" or not raster.samples.is_floating_point():
            return raster
        return _through_pq(raster.samples.numpy(), raster.facts | {"format": "tiff"}, WHITE, path)
    if suffix == ".png":
        return _read_png(path)
    return _read_exr(path) if suffix == ".exr" else _read_radiance(path)


def write_hdr(path: str | Path, x: Tensor, facts: Mapping[str, Any]) -> None:
    """Write a picture of `read_hdr`, decoded or as read.

    Args:
        path: ends in .exr, .hdr (Radiance), .tif or .npy; .png and .tif for integers.
        x: (1 or 3, y, x).
        facts: of the reader.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if x.dim() != 3:
        raise DataError(f"A picture is (1 or 3, y, x), not a signal of shape {tuple(x.shape)}.")
    light = facts.get("transfer") == "pq"
    if suffix in (".tif", ".tiff"):
        from cml.data.rasters import write_raster

        write_raster(path, _linear(x, facts) if light else x, facts)
        return
    samples = restore(_linear(x, facts) if light else x, facts)
    if suffix == ".npy":
        with replacing(path) as written:
            np.save(written, samples)
    elif suffix == ".png" and not light and samples.dtype in (np.uint8, np.uint16):
        codecs = load_package("imagecodecs", "16-bit pictures")
        write_atomic(path, codecs.png_encode(_last(samples)))
    elif suffix == ".exr" and light:
        _write_exr(path, samples, facts)
    elif suffix == ".hdr" and light:
        codecs = load_package("imagecodecs", "Radiance pictures")
        rgb = samples if len(samples) == 3 else samples.repeat(3, 0)
        write_atomic(path, codecs.rgbe_encode(_last(rgb.astype(np.float32))))
    else:
        fit = ".exr, .hdr, .tif or .npy" if light else ".tif, .npy, or for 8 and 16 bits .png"
        raise DataError(f"This picture is written as {fit}, not {path.name}.")


def to_pq(light: np.ndarray) -> np.ndarray:
    """Luminance in [0, 1], where 1 is 10,000 cd/m2, to the PQ signal in [0, 1]; float64."""
    power = np.power(np.asarray(light, np.float64), _M1)
    return np.power((_C1 + _C2 * power) / (1 + _C3 * power), _M2)


def from_pq(signal: np.ndarray) -> np.ndarray:
    """The inverse of `to_pq`."""
    power = np.power(np.asarray(signal, np.float64).clip(0, 1), 1 / _M2)
    return np.power(np.maximum(power - _C1, 0) / (_C2 - _C3 * power), 1 / _M1)


def deep_picture(path: Path) -> str | None:
    """ "picture" or "cube" for a .png or .tif that `cml.read_image` does not take, by its header; else None."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
            if head[12:16] == b"IHDR":
                return "picture" if head[24] == 16 and head[25] in (2, 6) else None
            if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
                return None
            file.seek(0)
            tags = ImageFileDirectory_v2(file.read(16 if head[2:3] + head[3:4] in (b"+\0", b"\0+") else 8))
            file.seek(tags.next)
            tags.load(file)
    except Exception:  # whatever Pillow makes of a broken file: the reader will tell
        return None
    count, bits = int(tags.get(_SAMPLES, 1)), max(tags.get(_BITS, (1,)))
    kinds = set(tags.get(_FORMAT, (1,)))
    on_earth = any(tag in tags for tag in _GEOGRAPHY)
    if not on_earth and kinds == {1} and (bits <= 8 or (bits == 16 and count == 1)) and count <= 4:
        return None
    if on_earth:
        return "picture" if count in (1, 3) and _FLOAT not in kinds else "cube"
    return "picture" if count <= 4 else "cube"


def _through_pq(light: np.ndarray, facts: dict[str, Any], white: float, path: Path) -> SignalFile:
    if len(light) not in (1, 3):
        raise DataError(f"{path} has {len(light)} channels; a picture has 1 or 3: choose among them.")
    largest = float(light.max())
    unit = min(white, _BRIGHTEST / largest) if largest > 0 else white
    negative = int((light < 0).sum())
    signal = to_pq(np.clip(light.astype(np.float64) * (unit / _BRIGHTEST), 0, 1)) * 2 - 1
    facts = {**facts, "transfer": "pq", "unit": unit} | ({"negative": negative} if negative else {})
    return SignalFile(torch.from_numpy(signal.astype(np.float32)), facts)


def _linear(x: Tensor, facts: Mapping[str, Any]) -> Tensor:
    light = from_pq((x.double().numpy() + 1) / 2) * (_BRIGHTEST / facts["unit"])
    return torch.from_numpy(light)


def _read_png(path: Path) -> SignalFile:
    codecs = load_package("imagecodecs", "16-bit pictures")
    try:
        samples = codecs.png_decode(read_bytes(path))
    except (RuntimeError, ValueError) as error:
        raise DataError(f"Cannot read {path} as a picture: {str(error).rstrip('.')}.") from error
    samples = samples[..., None] if samples.ndim == 2 else samples
    if samples.shape[-1] in (2, 4):
        if (samples[..., -1] != np.iinfo(samples.dtype).max).any():
            raise DataError(f"{path} is transparent in places; flatten it on a background first.")
        samples = samples[..., :-1]
    x, changed = admit(samples.transpose(2, 0, 1), str(path))
    return SignalFile(x, {"kind": "picture", "format": "png"} | changed)


def _read_radiance(path: Path) -> SignalFile:
    codecs = load_package("imagecodecs", "Radiance pictures")
    data = read_bytes(path)
    if not data.startswith(b"#?"):
        raise DataError(f"{path} is neither a Radiance picture nor the header of an ENVI cube.")
    if b"32-bit_rle_xyze" in data[:4096]:
        raise DataError(f"{path} holds XYZ colours; convert it to RGB.")
    try:
        light = codecs.rgbe_decode(data)
    except (RuntimeError, ValueError) as error:
        raise DataError(f"Cannot read {path} as a Radiance picture: {str(error).rstrip('.')}.") from error
    x, changed = admit(light.transpose(2, 0, 1), str(path))
    return _through_pq(x.numpy(), {"kind": "picture", "format": "radiance"} | changed, WHITE, path)


def _read_exr(path: Path) -> SignalFile:
    package = load_package("OpenEXR", "EXR pictures")
    try:
        with package.File(str(path)) as file:
            header = dict(file.header())  # which is emptied with the file
            channels = {name: channel.pixels for name, channel in file.channels().items()}
            parts = len(file.parts)
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(f"Cannot read {path} as EXR: {' '.join(str(error).split()).rstrip('.')}.") from error
    if parts > 1:
        raise DataError(f"{path} holds {parts} pictures; split it into single ones.")
    pixels = next((channels[name] for name in ("RGB", "RGBA", "Y") if name in channels), None)
    if pixels is None:
        raise DataError(f"{path} has the channels {', '.join(channels)}; a picture has R, G and B, or Y.")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.shape[-1] == 4:
        if (pixels[..., 3] != 1).any():
            raise DataError(f"{path} is transparent in places; flatten it on a background first.")
        pixels = pixels[..., :3]
    x, changed = admit(pixels.transpose(2, 0, 1), str(path))
    facts: dict[str, Any] = {"kind": "picture", "format": "exr"} | changed
    if "chromaticities" in header:
        facts["chromaticities"] = [float(number) for number in header["chromaticities"]]
    white = float(header.get("whiteLuminance", WHITE))
    return _through_pq(x.numpy(), facts, white if white > 0 else WHITE, path)


def _write_exr(path: Path, samples: np.ndarray, facts: Mapping[str, Any]) -> None:
    package = load_package("OpenEXR", "EXR pictures")
    header: dict[str, Any] = {"compression": package.ZIP_COMPRESSION, "type": package.scanlineimage}
    if "chromaticities" in facts:
        header["chromaticities"] = tuple(facts["chromaticities"])
    samples = samples if samples.dtype == np.float16 else samples.astype(np.float32)
    channels = {"RGB": _last(samples)} if len(samples) == 3 else {"Y": np.ascontiguousarray(samples[0])}
    try:
        with replacing(path) as written:
            package.File(header, channels).write(str(written))
    except RuntimeError as error:
        raise DataError(f"Cannot write {path}: {error}.") from error


def _last(samples: np.ndarray) -> np.ndarray:
    """(C, y, x) with the channels last, or (y, x) of one."""
    return np.ascontiguousarray(samples[0] if len(samples) == 1 else samples.transpose(1, 2, 0))
