"""Volumes: NIfTI files and numpy arrays as (C, z, y, x), whole or in slabs, with everything that their headers say.

    scan.nii.gz --header, as it is--> facts["nifti"]          the same bytes stand before the samples when written
                --samples, slices first--> (1, z, y, x)       no turning, no scaling: slope and intercept are facts

DICOM series are in `cml.data.dicom`.
"""

import base64
import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from zipfile import BadZipFile

import numpy as np
from torch import Tensor

from cml.data.samples import SignalBlocks, SignalFile, admit, load_package, replacing, restore
from cml.errors import DataError

NIFTI_SUFFIXES = (".nii", ".nii.gz")
ARRAY_SUFFIXES = (".npy", ".npz")
_LONGEST_HEADER = 4096  # bytes, deflated; a header with longer extensions goes without them
_SLAB = 1 << 26  # voxels, up to which a volume is one block


def read_volume(path: str | Path, index: int | None = None) -> SignalFile:
    """A volume from a NIfTI file, a numpy array, or a folder (or file) of DICOM slices.

    Args:
        path: .nii, .nii.gz, .npy, .npz, .dcm, or a folder of DICOM files.
        index: which volume of a file that holds several, from 0.

    Returns:
        samples (1, z, y, x), or (C, z, y, x) of an array of four axes. Facts of scans: `spacing` of z, y, x in `unit`,
        `affine` (4 x 4, from x, y, z to the scanner's right, anterior, superior), `slope` and `intercept`, which give
        values from samples, and the whole NIfTI header; of DICOM also `orientation`, `positions`, `modality`.

    Raises:
        DataError: it cannot be read, holds several volumes, or samples that no codec takes.
    """
    path = Path(path)
    if path.is_dir() or path.suffix.lower() == ".dcm":
        from cml.data.dicom import read_dicom

        return read_dicom(path, index)
    blocks = open_volume(path, index, voxels=None)
    return SignalFile(next(iter(blocks)), blocks.facts)


def open_volume(
    path: str | Path, index: int | None = None, voxels: int | None = _SLAB, whole: int = 32
) -> SignalBlocks:
    """The same, block by block of slices, so that a large scan is never in memory as a whole.

    Args:
        path: .nii, .nii.gz, .npy or .npz.
        index: as of `read_volume`.
        voxels: a block has no more than so many (but at least `whole` slices); None for one block.
        whole: blocks have a multiple of so many slices, but for the last.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    name = path.name.lower()
    if name.endswith(NIFTI_SUFFIXES):
        return _open_nifti(path, index, voxels, whole)
    if name.endswith(ARRAY_SUFFIXES):
        return _open_array(path, voxels, whole)
    raise DataError(f"{path} is no volume that cml reads: {', '.join((*NIFTI_SUFFIXES, *ARRAY_SUFFIXES))}, DICOM.")


def write_volume(
    path: str | Path,
    x: Tensor | Iterable[Tensor],
    facts: Mapping[str, Any],
    shape: tuple[int, ...] | None = None,
) -> None:
    """Write a volume, with the samples and the header of the file that it was read from.

    Args:
        path: ends in .nii, .nii.gz, .npy or .npz. An array keeps samples only.
        x: (C, z, y, x), decoded or as read; or its blocks in order, with the `shape` of the whole.
        facts: of the reader; without them a plain header is written.
    """
    path, name = Path(path), Path(path).name.lower()
    shape, parts = (tuple(x.shape), [x]) if isinstance(x, Tensor) else (tuple(shape or ()), x)
    if name.endswith(NIFTI_SUFFIXES):
        _write_nifti(path, shape, parts, facts)
    elif name.endswith(ARRAY_SUFFIXES):
        _write_array(path, shape, parts, facts)
    else:
        raise DataError(f"Volumes are written as {', '.join((*NIFTI_SUFFIXES, *ARRAY_SUFFIXES))}, not {path.name}.")


def part_of(facts: Mapping[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The facts of slices `start` to `stop` of a scan: its origin is where its first slice lies."""
    told = dict(facts)
    if "positions" in told:
        told["positions"] = told["positions"][start:stop]
    if "affine" in told:
        affine = np.array(told["affine"])
        affine[:, 3] += start * affine[:, 2]
        told["affine"] = affine.tolist()
    if "nifti" in told and start:
        nibabel = load_package("nibabel", "NIfTI files")
        header, rest = _unpack_header(nibabel, told["nifti"])
        for name in ("srow_x", "srow_y", "srow_z"):
            header[name][3] += start * header[name][2]
        if header["qform_code"]:
            for name, step in zip("xyz", header.get_qform()[:3, 2], strict=True):
                header[f"qoffset_{name}"] += start * step
        told["nifti"] = base64.b64encode(zlib.compress(header.binaryblock + rest, 9)).decode()
    return told


def slabs(size: tuple[int, ...], voxels: int | None, whole: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of the blocks of the first axis; see `open_volume`."""
    per_slice, length = max(1, math.prod(size[1:])), size[0]
    step = length if voxels is None or math.prod(size) <= voxels else max(1, voxels // per_slice // whole) * whole
    yield from ((start, min(start + step, length)) for start in range(0, length, step))


# NIfTI ---------------------------------------------------------------------------------------------------------------


def _open_nifti(path: Path, index: int | None, voxels: int | None, whole: int) -> SignalBlocks:
    nibabel = load_package("nibabel", "NIfTI files")
    try:
        image = nibabel.load(str(path))
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"Cannot read {path} as NIfTI: {_plain(error)}.") from error
    header, shape = image.header, image.shape
    dtype = header.get_data_dtype()
    if dtype.kind not in "buif":
        admit(np.empty(1, dtype), str(path))  # refuses it
    count, size = math.prod(shape[3:]), tuple(reversed((*shape, 1, 1)[:3]))
    if index is None and count > 1:
        raise DataError(f"{path} holds {count} volumes of {size}: choose one by index, 0 to {count - 1}.")
    if not 0 <= (index or 0) < max(count, 1):
        raise DataError(f"{path} holds {count} volume(s); there is no index {index}.")
    if 0 in size:
        raise DataError(f"{path} is empty: its shape is {shape}.")
    offset, skipped = int(image.dataobj.offset), (index or 0) * math.prod(size) * dtype.itemsize
    if dtype.itemsize > 2 and dtype.kind != "f":
        voxels = None  # whether they fit 16 bits shows in all of them
    with _opened(path) as file:
        raw = file.read(offset)
    facts = {"kind": "volume", "format": "nifti", "dtype": "", **_nifti_facts(image, raw, count > 1)}
    parts = _nifti_slabs(path, offset + skipped, dtype, list(slabs(size, voxels, whole)), size[1:])
    return _with_facts(parts, facts, str(path))


def _nifti_facts(image: Any, raw: bytes, one_of_many: bool) -> dict[str, Any]:
    header = image.header
    block = type(header)(raw[: header.sizeof_hdr], check=False)
    if one_of_many:
        block["dim"][0], block["dim"][4:] = 3, 1
    facts: dict[str, Any] = {"spacing": [float(zoom) for zoom in (*header.get_zooms(), 1.0, 1.0)[:3]][::-1]}
    facts["unit"] = header.get_xyzt_units()[0]
    if np.isfinite(image.affine).all():
        facts["affine"] = image.affine.tolist()
    slope, intercept = (float(block[key]) for key in ("scl_slope", "scl_inter"))
    if math.isfinite(slope) and slope and math.isfinite(intercept):
        facts |= {"slope": slope, "intercept": intercept}
    deflated = zlib.compress(block.binaryblock + raw[header.sizeof_hdr :], 9)
    if len(deflated) > _LONGEST_HEADER:
        facts["left_out"] = f"{len(raw) - header.sizeof_hdr} bytes of header extensions"
        block["vox_offset"] = header.sizeof_hdr + 4
        deflated = zlib.compress(block.binaryblock + bytes(4), 9)
    return facts | {"nifti": base64.b64encode(deflated).decode()}


def _nifti_slabs(
    path: Path, offset: int, dtype: np.dtype, bounds: list[tuple[int, int]], plane: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Slices lie one after another in the file, the last axis of ours varying fastest."""
    with _opened(path) as file:
        file.seek(offset)
        for start, stop in bounds:
            wanted = (stop - start) * math.prod(plane) * dtype.itemsize
            try:
                data = file.read(wanted)
            except (OSError, EOFError, zlib.error) as error:
                raise DataError(f"{path} is damaged or cut off: {_plain(error)}.") from error
            if len(data) < wanted:
                raise DataError(f"{path} is cut off: {wanted - len(data)} bytes of samples are missing.")
            yield np.frombuffer(data, dtype).reshape(1, stop - start, *plane)


def _write_nifti(path: Path, shape: tuple[int, ...], parts: Iterable[Tensor], facts: Mapping[str, Any]) -> None:
    nibabel = load_package("nibabel", "NIfTI files")
    if len(shape) != 4 or shape[0] != 1:
        raise DataError(
            f"A NIfTI file holds one volume (1, z, y, x), not a signal of shape {shape}; write a .npy file."
        )
    size = shape[:0:-1]
    if "nifti" in facts:
        header, rest = _unpack_header(nibabel, facts["nifti"])
        if tuple(int(n) for n in header["dim"][1:4]) != size:  # some of its slices
            header["dim"][1:4] = size
        raw = header.binaryblock + rest
    else:
        header = _plain_header(nibabel, size, facts)
        raw = header.binaryblock + bytes(4)
    dtype = header.get_data_dtype()
    with replacing(path) as written, _opened(written, "wb") as file:
        file.write(raw)
        for part in parts:
            file.write(np.ascontiguousarray(restore(part, facts).astype(dtype, copy=False)).tobytes())


def _unpack_header(nibabel: Any, text: str) -> tuple[Any, bytes]:
    """The header that a fact holds, and what stands between it and the samples."""
    try:
        raw = zlib.decompress(base64.b64decode(text))
        kind = nibabel.Nifti2Header if raw[:4] in (b"\x1c\2\0\0", b"\0\0\2\x1c") else nibabel.Nifti1Header
        return kind(raw[: kind.sizeof_hdr], check=False), raw[kind.sizeof_hdr :]
    except (ValueError, TypeError, zlib.error, nibabel.wrapstruct.WrapStructError) as error:
        raise DataError(f"The NIfTI header among the facts cannot be read: {_plain(error)}.") from error


def _plain_header(nibabel: Any, size: tuple[int, ...], facts: Mapping[str, Any]) -> Any:
    header = nibabel.Nifti1Header()
    dtype = np.dtype(facts.get("dtype", "float32"))
    dtype = {"bool": np.dtype(np.uint8), "float16": np.dtype(np.float32)}.get(dtype.name, dtype)
    header.set_data_dtype(dtype)
    header.set_data_shape(size)
    spacing = facts.get("spacing") or [1.0, 1.0, 1.0]
    header.set_zooms([float(step) for step in reversed(spacing)])
    header.set_xyzt_units(facts.get("unit", "unknown"))
    if "affine" in facts:
        header.set_sform(np.array(facts["affine"]), code="scanner")
    header["scl_slope"], header["scl_inter"] = facts.get("slope", 1.0), facts.get("intercept", 0.0)
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header


@contextmanager
def _opened(path: Path, mode: str = "rb") -> Iterator[BinaryIO]:
    """A plain or a gzip file; no name and no time of day is written, so that equal volumes are equal files."""
    with path.open(mode) as file:
        if path.name.lower().endswith(".gz"):
            with gzip.GzipFile("", mode, 6, cast(BinaryIO, file), 0) as packed:
                yield cast(BinaryIO, packed)
        else:
            yield cast(BinaryIO, file)


# Arrays --------------------------------------------------------------------------------------------------------------


def _open_array(path: Path, voxels: int | None, whole: int) -> SignalBlocks:
    try:
        if path.suffix.lower() == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
                loaded = _only_array(archive, path)
        else:
            loaded = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zlib.error, BadZipFile) as error:
        raise DataError(f"Cannot read {path} as an array: {_plain(error)}.") from error
    axes = loaded.ndim
    if axes not in (3, 4):
        raise DataError(f"{path} is no volume: an array of three axes, or of four with the channels first.")
    samples = loaded if axes == 4 else loaded[None]
    if samples.dtype.itemsize > 2 and samples.dtype.kind != "f":
        voxels = None
    facts = {"kind": "volume", "format": "numpy", "dtype": "", "axes": axes}
    bounds = [(0, 0)] if samples.size == 0 else slabs(samples.shape[1:], voxels, whole)
    return _with_facts((samples[:, start:stop] for start, stop in bounds), facts, str(path))


def _only_array(loaded: Any, path: Path) -> np.ndarray:
    arrays = {name: loaded[name] for name in loaded.files}
    volumes = [array for array in arrays.values() if isinstance(array, np.ndarray) and array.ndim in (3, 4)]
    if len(volumes) != 1:
        raise DataError(f"{path} holds {len(volumes)} arrays of three or four axes ({', '.join(arrays)}); give it one.")
    return volumes[0]


def _write_array(path: Path, shape: tuple[int, ...], parts: Iterable[Tensor], facts: Mapping[str, Any]) -> None:
    axes = facts.get("axes", 3 if shape[0] == 1 else 4)
    flat = shape[1:] if axes == 3 and shape[0] == 1 else shape
    with replacing(path) as written:
        out, row = None, 0
        for part in parts:
            samples = restore(part, facts)
            if out is None:
                compressed = path.suffix.lower() == ".npz"
                whole = np.empty(flat, samples.dtype) if compressed else _mapped(written, flat, samples.dtype)
                out = whole.reshape(shape)
            out[:, row : (row := row + samples.shape[1])] = samples
        if out is not None and path.suffix.lower() == ".npz":
            np.savez_compressed(written, volume=out.reshape(flat))
        elif isinstance(out, np.memmap):
            out.flush()


def _mapped(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


# Both ----------------------------------------------------------------------------------------------------------------


def _with_facts(parts: Iterator[np.ndarray], facts: dict[str, Any], name: str) -> SignalBlocks:
    """The first block is read now, since it tells how samples were changed; the rest when they are asked for."""
    first, changed = admit(next(parts), name)
    held = [first]  # let go of when it is given

    def each() -> Iterator[Tensor]:
        yield held.pop()
        for part in parts:
            yield admit(part, name)[0]

    return SignalBlocks(facts | changed, each())


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
