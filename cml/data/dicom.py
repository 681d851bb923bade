"""DICOM: a folder of slices, or a file of frames, as one volume (1, z, y, x), with its geometry and nobody's name.

    slices --sorted along the normal of their plane--> samples as stored, slope and intercept as facts

Of all that the files tell only what this module names becomes a fact: modality, spacing, orientation, positions,
rescaling, window. No names, dates, numbers or institutions are read into a container.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cml.data.samples import SignalFile, admit, load_package
from cml.errors import DataError

_MAGIC = b"DICM"  # at byte 128
_LOOKED_AT = 8  # files of a folder


def is_series(folder: str | Path) -> bool:
    """Whether a folder holds slices of DICOM and nothing else, as far as its first files tell."""
    files = _files(Path(folder))[:_LOOKED_AT]
    return bool(files) and all(_is_dicom(file) for file in files)


def read_dicom(path: str | Path, index: int | None = None) -> SignalFile:
    """A volume from a folder of slices (of one series) or from one file; `read_volume` describes what comes out.

    Args:
        path: the folder or the file.
        index: which series of a folder that holds several, in the order of their numbers, from 0.

    Raises:
        DataError: no DICOM, several series, slices that differ, colour, or a compression that is not installed.
    """
    path = Path(path)
    pydicom = load_package("pydicom", "DICOM files")
    files = [file for file in _files(path) if _is_dicom(file)] if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path} holds no DICOM files.")
    slices = []
    for file in files:
        try:
            data = pydicom.dcmread(file)
        except (pydicom.errors.InvalidDicomError, OSError, ValueError, EOFError) as error:
            raise DataError(f"Cannot read {file} as DICOM: {_plain(error)}.") from error
        if "PixelData" in data:
            slices.append(data)
    slices = _one_series(slices, path, index)
    geometry = _in_order(slices, path)
    samples = [_pixels(data, path) for data in slices]
    if len({array.shape[1:] for array in samples}) > 1:
        raise DataError(f"The slices of {path} differ in size; make them one, or part the series.")
    facts: dict[str, Any] = {"kind": "volume", "format": "dicom", "dtype": ""}
    facts |= {"modality": str(slices[0].get("Modality", "")), "unit": "mm"} | geometry
    facts |= _window(slices[0])
    rescales = {_rescale(data) for data in slices}
    if len(rescales) > 1:  # of each slice its own, as in PET: only the values themselves compare
        samples = [
            (array * slope + intercept).astype(np.float32)
            for array, (slope, intercept) in zip(samples, map(_rescale, slices), strict=True)
        ]
        facts["rescaled"] = True
    else:
        slope, intercept = rescales.pop()
        if (slope, intercept) != (1.0, 0.0):
            facts |= {"slope": slope, "intercept": intercept}
    x, changed = admit(np.concatenate(samples)[None], str(path))
    return SignalFile(x, facts | changed)


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(128)
        return file.read(4) == _MAGIC


def _one_series(slices: list[Any], path: Path, index: int | None) -> list[Any]:
    series: dict[str, list[Any]] = {}
    for data in slices:
        series.setdefault(str(data.get("SeriesInstanceUID", "")), []).append(data)
    if not series:
        raise DataError(f"{path} holds no pictures: none of its DICOM files has pixels.")
    if index is None and len(series) > 1:
        raise DataError(f"{path} holds {len(series)} series: choose one by index, 0 to {len(series) - 1}.")
    if not 0 <= (index or 0) < len(series):
        raise DataError(f"{path} holds {len(series)} series; there is no index {index}.")
    ordered = sorted(series.values(), key=lambda group: (int(group[0].get("SeriesNumber") or 0), _uid(group[0])))
    return ordered[index or 0]


def _uid(data: Any) -> str:
    return str(data.get("SeriesInstanceUID", ""))


def _in_order(slices: list[Any], path: Path) -> dict[str, Any]:
    """Sort slices along the normal of their plane, else by number; their geometry as facts."""
    first = slices[0]
    plane = [_number(step) for step in first.get("PixelSpacing", None) or first.get("ImagerPixelSpacing", None) or []]
    orientation = [_number(part) for part in first.get("ImageOrientationPatient", None) or []]
    if len(orientation) != 6 or any(not data.get("ImagePositionPatient") for data in slices):
        slices.sort(key=lambda data: int(data.get("InstanceNumber") or 0))
        between = _number(first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1)
        return {"spacing": [between, *plane]} if plane else {}
    if any([_number(part) for part in data.ImageOrientationPatient] != orientation for data in slices):
        raise DataError(f"The slices of {path} do not lie in one direction: part the series.")
    right, down = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(right, down)
    slices.sort(key=lambda data: float(np.dot(normal, [_number(part) for part in data.ImagePositionPatient])))
    positions = [[_number(part) for part in data.ImagePositionPatient] for data in slices]
    along = np.array(positions) @ normal
    if len(slices) > 1 and np.diff(along).min() < 1e-4:
        raise DataError(f"{path} has several slices at one place, as a series in time has: part them.")
    step = (np.array(positions[-1]) - positions[0]) / (len(slices) - 1) if len(slices) > 1 else None
    between = float(np.linalg.norm(step)) if step is not None else _number(first.get("SliceThickness") or 1)
    facts: dict[str, Any] = {"orientation": orientation, "positions": positions}
    if plane:
        facts["spacing"] = [between, *plane]
        columns = (
            right * plane[1],
            down * plane[0],
            normal * between if step is None else step,
            np.array(positions[0]),
        )
        affine = np.vstack((np.stack(columns, 1), [0, 0, 0, 1]))
        affine[:2] *= -1  # DICOM counts to the left and to the back
        facts["affine"] = affine.tolist()
    return facts


def _pixels(data: Any, path: Path) -> np.ndarray:
    """(frames, y, x), the integers that are stored."""
    if int(data.get("SamplesPerPixel", 1)) != 1:
        raise DataError(f"{path} is in colour; a volume has one channel: convert it to grey.")
    try:
        pixels = data.pixel_array
    except Exception as error:  # each decoder of pydicom has errors of its own
        raise DataError(f"Cannot read the pixels of {path}: {_plain(error)}.") from error
    return pixels[None] if pixels.ndim == 2 else pixels


def _rescale(data: Any) -> tuple[float, float]:
    return _number(data.get("RescaleSlope", 1)), _number(data.get("RescaleIntercept", 0))


def _window(data: Any) -> dict[str, Any]:
    """How it is to be looked at: [centre, width], the first where there are several."""
    pair = [data.get(name) for name in ("WindowCenter", "WindowWidth")]
    if any(value is None for value in pair):
        return {}
    return {"window": [_number(value[0] if isinstance(value, Sequence) else value) for value in pair]}


def _number(value: Any) -> float:
    return float(value)


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
