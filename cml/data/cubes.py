"""Hyperspectral and multispectral cubes as (1, bands, y, x): MATLAB files, ENVI, and, in `cml.data.rasters`, GeoTIFF.

    .mat    (y, x, bands), or bands x pixels with nRow and nCol beside it, as MATLAB lays pixels out: down, then right
    .hdr    the text header of ENVI, with the samples in a file beside it; the text itself travels as a fact

Wavelengths are facts, `wavelengths` in `wavelength_unit`, and are written back as they were read.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cml.data.samples import SignalFile, admit, replacing, restore
from cml.errors import DataError
from cml.files import read_bytes, write_atomic

_WAVELENGTHS = ("wavelength", "wavelengths", "wl", "lambda")
_BANDS = ("slectbands", "selectbands", "selectedbands")  # the first is how it is spelt in the files
_SIZES = (("nrow", "ncol"), ("rows", "cols"), ("height", "width"), ("lines", "samples"))
_TYPES = {1: "u1", 2: "i2", 3: "i4", 4: "f4", 5: "f8", 6: "c8", 9: "c16", 12: "u2", 13: "u4", 14: "i8", 15: "u8"}
_BESIDE = ("", ".img", ".dat", ".raw", ".bsq", ".bil", ".bip", ".bin")
_LONGEST_TEXT = 1 << 16


def read_cube(path: str | Path) -> SignalFile:
    """A cube (1, bands, y, x) from .mat, ENVI (.hdr, or its file of samples), or a raster that GDAL reads (.tif).

    Raises:
        DataError: it cannot be read, holds no cube or several, or samples that no codec takes.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    if path.suffix.lower() == ".mat":
        return _read_mat(path)
    header = envi_header(path)
    if header is not None:
        return _read_envi(header, None if header == path else path)
    from cml.data.rasters import read_raster

    return read_raster(path)


def write_cube(path: str | Path, x: Tensor, facts: Mapping[str, Any]) -> None:
    """Write a cube with the samples and the facts that it was read with.

    Args:
        path: ends in .mat, .hdr (with the samples beside it, under .img), or .tif.
        x: (1, bands, y, x), decoded or as read.
        facts: of the reader.
    """
    path, suffix = Path(path), Path(path).suffix.lower()
    if x.dim() != 4 or len(x) != 1:
        raise DataError(f"A cube is (1, bands, y, x), not a signal of shape {tuple(x.shape)}.")
    if suffix == ".mat":
        _write_mat(path, restore(x, facts)[0], facts)
    elif suffix == ".hdr":
        _write_envi(path, restore(x, facts)[0], facts)
    else:
        from cml.data.rasters import write_raster

        write_raster(path, x[0], facts)


# MATLAB --------------------------------------------------------------------------------------------------------------


def _read_mat(path: Path) -> SignalFile:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(str(path))
    except NotImplementedError as error:
        raise DataError(f"{path} is a MATLAB file of version 7.3; save it with the option -v7.") from error
    except (OSError, ValueError, TypeError, KeyError, MatReadError) as error:
        raise DataError(f"Cannot read {path} as a MATLAB file: {' '.join(str(error).split()).rstrip('.')}.") from error
    arrays = {
        key: value for key, value in content.items() if isinstance(value, np.ndarray) and value.dtype.kind in "buifc"
    }
    cubes = {name: array for name, array in arrays.items() if array.ndim == 3}
    size = _told_size(arrays)
    flat = {} if size is None else {n: a for n, a in arrays.items() if a.ndim == 2 and math.prod(size) in a.shape}
    if size is not None and len(flat) > 1:
        # Abundances and masks have as many pixels; the cube has most values of each.
        most = max(array.size for array in flat.values())
        flat = {name: array for name, array in flat.items() if array.size == most}
    found = cubes or flat
    if len(found) != 1:
        held = ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"
        raise DataError(
            f"{path} should hold one array (y, x, bands), or bands x pixels with nRow and nCol; it holds {held}."
        )
    ((name, array),) = found.items()
    facts: dict[str, Any] = {"kind": "cube", "format": "matlab", "dtype": "", "variable": name}
    if cubes:
        cube = array.transpose(2, 0, 1)
    else:
        assert size is not None
        rows, columns = size
        by_bands = array.shape[1] == rows * columns
        facts["layout"] = "bands x pixels" if by_bands else "pixels x bands"
        cube = (array if by_bands else array.T).reshape(-1, columns, rows).transpose(0, 2, 1)
    samples, changed = admit(cube[None], str(path))
    return SignalFile(samples, facts | changed | _mat_bands(arrays, len(cube)))


def _told_size(arrays: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
    numbers = {name.lower(): int(a.flat[0]) for name, a in arrays.items() if a.size == 1 and a.dtype.kind in "uif"}
    for rows, columns in _SIZES:
        if rows in numbers and columns in numbers:
            return numbers[rows], numbers[columns]
    return None


def _mat_bands(arrays: Mapping[str, np.ndarray], bands: int) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.size == bands and name.lower() in _WAVELENGTHS and array.dtype.kind in "uif":
            facts["wavelengths"] = array.ravel().tolist()
        if array.size == bands and name.lower() in _BANDS:
            facts["band_numbers"] = array.ravel().tolist()
    return facts


def _write_mat(path: Path, cube: np.ndarray, facts: Mapping[str, Any]) -> None:
    from scipy.io import savemat

    bands, rows, columns = cube.shape
    name, layout = facts.get("variable", "cube"), facts.get("layout")
    content: dict[str, Any] = {name: cube.transpose(1, 2, 0)}
    if layout is not None:
        flat = cube.transpose(0, 2, 1).reshape(bands, -1)
        content = {name: flat if layout == "bands x pixels" else flat.T, "nRow": rows, "nCol": columns, "nBand": bands}
    if "wavelengths" in facts:
        content["wavelengths"] = np.array(facts["wavelengths"])
    if "band_numbers" in facts:
        content["SlectBands"] = np.array(facts["band_numbers"])[:, None]
    with replacing(path) as written:
        savemat(str(written), content, do_compression=True)


# ENVI ----------------------------------------------------------------------------------------------------------------


def envi_header(path: Path) -> Path | None:
    """The ENVI header that a file is, or that lies beside it (scene.hdr, scene.img.hdr); None where there is none."""
    candidates = [path] if path.suffix.lower() == ".hdr" else [path.with_suffix(".hdr"), Path(f"{path}.hdr")]
    for candidate in candidates:
        if candidate.is_file():
            with candidate.open("rb") as file:
                if file.read(4) == b"ENVI":
                    return candidate
    return None


def _read_envi(header: Path, samples: Path | None) -> SignalFile:
    text = read_bytes(header).decode("latin-1")
    fields = parse_envi(text)
    try:
        x, y, bands = (int(fields[key]) for key in ("samples", "lines", "bands"))
        kind = np.dtype(_TYPES[int(fields["data type"])])
        order = ">" if int(fields.get("byte order", "0")) else "<"
        layout = {"bsq": (bands, y, x), "bil": (y, bands, x), "bip": (y, x, bands)}[fields["interleave"].lower()]
        skipped = int(fields.get("header offset", "0"))
    except (KeyError, ValueError) as error:
        raise DataError(f"The ENVI header {header} does not tell, or wrongly tells, {error}.") from error
    samples = samples or _beside(header)
    wanted = math.prod(layout)
    if samples.stat().st_size < skipped + wanted * kind.itemsize:
        raise DataError(f"{samples} is cut off: it should have {skipped + wanted * kind.itemsize} bytes.")
    raw = np.fromfile(samples, kind.newbyteorder(order), wanted, offset=skipped).reshape(layout)
    cube = {"bsq": raw, "bil": raw.swapaxes(0, 1), "bip": raw.transpose(2, 0, 1)}[fields["interleave"].lower()]
    x_, changed = admit(cube[None], str(samples))
    facts: dict[str, Any] = {"kind": "cube", "format": "envi"} | changed
    if len(text) <= _LONGEST_TEXT:
        facts["envi"] = text
    if "wavelength" in fields:
        facts["wavelengths"] = _numbers(fields["wavelength"], header)
    if "wavelength units" in fields:
        facts["wavelength_unit"] = fields["wavelength units"]
    return SignalFile(x_, facts)


def parse_envi(text: str) -> dict[str, str]:
    """The fields of an ENVI header, names in lower case; a value in braces may go over several lines."""
    found = re.findall(r"^[ \t]*([^=\n;{}]+?)[ \t]*=[ \t]*(\{[^}]*\}|[^\n]*)", text, flags=re.MULTILINE)
    return {name.lower(): value.strip().strip("{}").strip() for name, value in found}


def _numbers(value: str, header: Path) -> list[float]:
    try:
        return [float(part) for part in value.split(",")]
    except ValueError as error:
        raise DataError(f"The wavelengths in {header} are no numbers: {error}.") from error


def _beside(header: Path) -> Path:
    bare = header.with_suffix("")
    for suffix in _BESIDE:
        for candidate in (Path(f"{bare}{suffix}"), Path(f"{bare}{suffix.upper()}")):
            if candidate.is_file() and candidate != header:
                return candidate
    raise DataError(f"The samples of {header} are missing: there is no {bare.name} or {bare.name}.img beside it.")


def _write_envi(path: Path, cube: np.ndarray, facts: Mapping[str, Any]) -> None:
    cube = cube.astype(np.float32) if cube.dtype == np.float16 else cube
    code = next((code for code, kind in _TYPES.items() if np.dtype(kind) == cube.dtype), None)
    if code is None:
        cube, code = cube.astype(np.int16), 2  # int8 and truth values, which ENVI has not
    bands, y, x = cube.shape
    text = facts.get("envi") or "ENVI\n"
    if "envi" not in facts and "wavelengths" in facts:
        text += f"wavelength = {{{', '.join(map(repr, facts['wavelengths']))}}}\n"
        text += f"wavelength units = {facts.get('wavelength_unit', 'Unknown')}\n"
    told = {
        "samples": x, "lines": y, "bands": bands, "header offset": 0, "file type": "ENVI Standard",
        "data type": code, "interleave": "bsq", "byte order": 0,
    }  # fmt: skip
    for name, value in told.items():
        line, count = f"{name} = {value}", 0
        text, count = re.subn(rf"^[ \t]*{name}[ \t]*=[^\n]*", line, text, flags=re.MULTILINE | re.IGNORECASE)
        text = text if count else f"{text.rstrip()}\n{line}\n"
    little = np.ascontiguousarray(cube, cube.dtype.newbyteorder("<"))
    with replacing(path.with_suffix(".img")) as written:
        little.tofile(written)
    write_atomic(path, text.encode("latin-1"))
