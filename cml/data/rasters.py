"""Rasters that GDAL reads, by the package rasterio: GeoTIFF above all, as cubes (1, bands, y, x) or pictures.

    scene.tif --rasterio--> samples, and facts: crs, transform, nodata, descriptions, wavelengths --> scene.tif again

Ground control points, RPCs, colour tables and other metadata stay behind.
"""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from cml.data.samples import SignalFile, admit, load_package, replacing, restore
from cml.errors import DataError

_MICROMETRES = "Micrometers"  # as GDAL's readers call them


def read_raster(path: str | Path) -> SignalFile:
    """A raster as a picture (bands, y, x) if it has 1 or 3 bands, of integers or of no place on Earth; else as a cube.

    Returns:
        Samples, and as facts what the file has of `crs` (EPSG:number, or WKT), `transform` (six numbers: x = a column +
        b row + c, y = d column + e row + f), `nodata`, `descriptions` and `wavelengths` in `wavelength_unit`.

    Raises:
        DataError: it cannot be read, or has samples that no codec takes.
    """
    path = Path(path)
    rasterio = load_package("rasterio", "GeoTIFF and other rasters")
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                samples = file.read()
                facts = {"format": "geotiff", "dtype": "", **_facts(file)}
                masks = [int(kind) for kind in file.colorinterp]
    except (rasterio.errors.RasterioError, OSError, ValueError) as error:
        raise DataError(f"Cannot read {path}: {' '.join(str(error).split()).rstrip('.')}.") from error
    on_earth = "crs" in facts or "transform" in facts
    if not on_earth and len(samples) in (2, 4) and masks[-1] == rasterio.enums.ColorInterp.alpha:
        full = np.iinfo(samples.dtype).max if samples.dtype.kind == "u" else 1
        if (samples[-1] != full).any():
            raise DataError(f"{path} is transparent in places; flatten it on a background first.")
        samples = samples[:-1]
    picture = len(samples) in (1, 3) and (samples.dtype.kind != "f" or not on_earth)
    x, changed = admit(samples if picture else samples[None], str(path))
    return SignalFile(x, {"kind": "picture" if picture else "cube"} | facts | changed)


def write_raster(path: str | Path, x: Tensor, facts: Mapping[str, Any]) -> None:
    """Write (bands, y, x), decoded or as read, as a GeoTIFF with the facts of `read_raster`, deflated."""
    path = Path(path)
    rasterio = load_package("rasterio", "GeoTIFF and other rasters")
    if path.suffix.lower() not in (".tif", ".tiff"):
        raise DataError(f"Cubes are written as .mat, .hdr (ENVI), .tif or .npy, not {path.name}.")
    samples = restore(x, facts)
    samples = samples.astype(np.float32) if samples.dtype == np.float16 else samples
    samples = samples.astype(np.uint8) if samples.dtype == bool else samples
    nodata = facts.get("nodata")
    profile: dict[str, Any] = {
        "driver": "GTiff", "count": len(samples), "height": samples.shape[1], "width": samples.shape[2],
        "dtype": samples.dtype.name, "compress": "deflate", "nodata": float(nodata) if nodata is not None else None,
        "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    if len(samples) == 3 and samples.dtype.itemsize < 4:
        profile["photometric"] = "RGB"
    if "crs" in facts:
        profile["crs"] = rasterio.crs.CRS.from_string(facts["crs"])
    if "transform" in facts:
        profile["transform"] = rasterio.Affine(*facts["transform"])
    try:
        with warnings.catch_warnings(), replacing(path) as written:
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(written, "w", **profile) as file:
                file.write(samples)
                for band, text in enumerate(facts.get("descriptions", ()), start=1):
                    file.set_band_description(band, text)
                for band, number in enumerate(facts.get("wavelengths", ()), start=1):
                    file.update_tags(band, wavelength=repr(number), wavelength_units=facts.get("wavelength_unit", ""))
    except (rasterio.errors.RasterioError, rasterio.errors.CRSError, ValueError) as error:
        raise DataError(f"Cannot write {path}: {' '.join(str(error).split()).rstrip('.')}.") from error


def _facts(file: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if file.crs:
        number = file.crs.to_epsg()
        same = number is not None and type(file.crs).from_epsg(number) == file.crs
        facts["crs"] = f"EPSG:{number}" if same else file.crs.to_wkt()
    if not file.transform.is_identity:
        facts["transform"] = list(file.transform)[:6]
    if file.nodata is not None:
        facts["nodata"] = file.nodata if math.isfinite(file.nodata) else str(file.nodata)
    if any(file.descriptions):
        facts["descriptions"] = [text or "" for text in file.descriptions]
    return facts | _wavelengths(file)


def _wavelengths(file: Any) -> dict[str, Any]:
    """As GDAL's reader of ENVI names them, or its own domain of imagery."""
    tags = [file.tags(band) for band in file.indexes]
    told, unit = [tag.get("wavelength") for tag in tags], tags[0].get("wavelength_units", "")
    if None in told:
        told = [file.tags(band, ns="IMAGERY").get("CENTRAL_WAVELENGTH_UM") for band in file.indexes]
        unit = _MICROMETRES
    try:
        numbers = [float(text) for text in told]
    except (TypeError, ValueError):
        return {}
    return {"wavelengths": numbers} | ({"wavelength_unit": unit} if unit else {})
