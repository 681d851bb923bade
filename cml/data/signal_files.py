"""Volumes, cubes, videos and deep pictures from files and back, by suffix: the one door to their readers.

read_signal(path) -> SignalFile(samples (C, *axes), facts) -> codec -> x_hat -> write_signal(path, x_hat, facts)
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from cml.data.cubes import envi_header, read_cube, write_cube
from cml.data.samples import SignalBlocks, SignalFile
from cml.data.video import VIDEO_SUFFIXES, open_video, read_video, write_video
from cml.data.volumes import ARRAY_SUFFIXES, NIFTI_SUFFIXES, open_volume, read_volume, write_volume
from cml.errors import DataError

__all__ = ["SignalFile", "find_signals", "is_signal", "kind_of", "open_signal", "read_signal", "write_signal"]

_VOLUMES = (*NIFTI_SUFFIXES, *ARRAY_SUFFIXES)


def read_signal(path: str | Path, index: int | None = None) -> SignalFile:
    """A file (or a folder of DICOM slices) as samples and facts.

    Args:
        path: .nii, .nii.gz, .npy, .npz, .dcm or a folder of DICOM files (volume); .mat, ENVI or a raster of other than
            1 or 3 bands (cube); .mp4, .mkv, .webm, .y4m and what else FFmpeg knows (video); 16-bit or float .tif, .exr
            and Radiance .hdr (picture).
        index: which volume of a file that holds several.

    Raises:
        DataError: it cannot be read, or holds what no codec takes.
    """
    path = Path(path)
    what = kind_of(path)
    if index is not None and what != "volume":
        raise DataError(f"{path} is one {what or 'file'}: an index chooses among the volumes of a scan.")
    if what == "volume":
        return read_volume(path, index)
    if what == "cube":
        return read_cube(path)
    if what == "video":
        return read_video(path)
    if what == "picture":
        from cml.data.hdr import read_hdr

        return read_hdr(path)
    raise DataError(
        f"{path} is no volume, cube, video or deep picture (cml.read_image reads plain ones), or is damaged."
    )


def open_signal(path: str | Path, index: int | None = None) -> SignalBlocks:
    """The same block by block of the first axis, where the format allows it; else as one block."""
    path = Path(path)
    what = kind_of(path)
    if what == "video":
        return open_video(path)
    if what == "volume" and path.is_file() and path.name.lower().endswith(_VOLUMES):
        return open_volume(path, index)
    signal = read_signal(path, index)
    return SignalBlocks(signal.facts, iter([signal.samples]))


def write_signal(
    path: str | Path,
    x: Tensor | Iterable[Tensor],
    facts: Mapping[str, Any],
    shape: tuple[int, ...] | None = None,
) -> None:
    """Write a signal as the file that its facts describe, without loss but for rounding to the dtype of the file.

    Args:
        path: .nii, .nii.gz, .npy, .npz (volumes, and arrays of anything); .mat, .hdr, .tif (cubes); .mkv, .y4m, .mp4
            (videos); .png, .tif, .exr, .hdr, .npy (pictures).
        x: decoded, or as read; or its blocks in order.
        facts: of the reader, such as `cml.codecs.bitstream.facts` gives them back.
        shape: of the whole, where `x` is blocks of a volume.

    Raises:
        DataError: the format does not hold such a signal.
    """
    path, kind = Path(path), facts.get("kind", "volume")
    name = path.name.lower()
    if kind == "video" and not name.endswith(ARRAY_SUFFIXES):
        write_video(path, x, facts)
    elif kind == "cube" and not name.endswith(_VOLUMES):
        write_cube(path, _whole(x), facts)
    elif kind == "picture":
        from cml.data.hdr import write_hdr

        write_hdr(path, _whole(x), facts)
    else:
        write_volume(path, x, facts, shape)


def is_signal(path: str | Path) -> bool:
    """Whether a file is one for `read_signal`, rather than a plain picture or a sound."""
    return kind_of(Path(path)) is not None


def find_signals(folder: str | Path) -> list[Path]:
    """Every file below a folder that `read_signal` takes, in a fixed order, hidden ones left out."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and is_signal(path)
    )


def kind_of(path: str | Path) -> str | None:
    """volume, cube, video or picture, by suffix, and in doubt by the first bytes; None for any other file."""
    path = Path(path)
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith((*_VOLUMES, ".dcm")) or path.is_dir():
        return "volume"
    if suffix in VIDEO_SUFFIXES and not (suffix == ".mp4" and _only_sound(path)):
        return "video"
    if suffix in (".hdr", ".exr"):
        return "cube" if envi_header(path) else "picture"
    if suffix in (".tif", ".tiff", ".png"):
        from cml.data.hdr import deep_picture

        return deep_picture(path)
    samples = suffix in (".img", ".dat", ".raw", ".bsq", ".bil", ".bip")
    return "cube" if suffix == ".mat" or (samples and envi_header(path)) else None


def _only_sound(path: Path) -> bool:
    """Whether an .mp4 holds sound and no pictures."""
    from cml.data.video import has_pictures

    return path.is_file() and not has_pictures(path)


def _whole(x: Tensor | Iterable[Tensor]) -> Tensor:
    import torch

    return x if isinstance(x, Tensor) else torch.cat(list(x), 1)
