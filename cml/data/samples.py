"""Samples of files as codecs take them, and back: what every reader and writer of signals shares."""

import importlib
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml.errors import DataError


@dataclass(frozen=True, eq=False)
class SignalFile:
    """A signal, and what its file says about it.

    Attributes:
        samples: (C, *axes), uint8, uint16 or float32. A volume is (1, z, y, x), a cube (1, bands, y, x), a video
            (3, t, y, x), a picture (1 or 3, y, x).
        facts: what travels in a container beside the signal, as JSON holds it: `kind` (volume, cube, video, picture),
            `dtype` of the file, and what belongs to its format, such as spacing, affine, wavelengths, frame_rate.
    """

    samples: Tensor
    facts: dict[str, Any]

    @property
    def kind(self) -> str:
        """volume, cube, video or picture."""
        return self.facts["kind"]


@dataclass(frozen=True, eq=False)
class SignalBlocks:
    """A signal that is read block by block of its first axis, each once and in order: iterate over it.

    Attributes:
        facts: as of `SignalFile`.
        parts: the blocks, (C, n, y, x) each.
    """

    facts: dict[str, Any]
    parts: Iterator[Tensor]

    def __iter__(self) -> Iterator[Tensor]:
        return self.parts


def load_package(name: str, what: str) -> Any:
    """A package of the extra `volumes`, or one sentence on how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise DataError(f"{what} need the package {package}: pip install 'cml-toolkit[volumes]'.") from error


def admit(samples: np.ndarray, name: str) -> tuple[Tensor, dict[str, Any]]:
    """Samples of a file as a codec takes them, and the facts by which `restore` undoes it.

    uint8 and uint16 stay; int8 and int16 are lifted by 128 and 32768; wider integers that fit 16 bits become 16-bit;
    float16 and float64 become float32. The facts are `dtype`, and `offset`, which was taken away, where it is not 0.

    Raises:
        DataError: samples of another kind, integers past 16 bits, NaN or infinity, or nothing at all.
    """
    kind = samples.dtype.kind
    if kind not in "buif":
        sort = "complex" if kind == "c" else "structured" if kind == "V" else str(samples.dtype)
        raise DataError(f"{name} has {sort} samples; convert it to integers or real numbers of one channel.")
    if samples.size == 0:
        raise DataError(f"{name} is empty: its shape is {samples.shape}.")
    facts: dict[str, Any] = {"dtype": samples.dtype.newbyteorder("=").name}
    if kind == "f":
        with np.errstate(over="ignore"):
            x = np.ascontiguousarray(samples, np.float32)
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"{name} holds NaN or infinity (or numbers past float32); replace them before encoding.")
        return _tensor(x), facts
    if samples.dtype.itemsize == 1 or samples.dtype.newbyteorder("=") == np.uint16:
        code, offset = (np.uint8 if samples.dtype.itemsize == 1 else np.uint16), (-128 if kind == "i" else 0)
    else:
        code, offset = np.uint16, -32768 if kind == "i" and samples.dtype.itemsize == 2 else _offset(samples, name)
    if offset:
        facts["offset"] = offset
        wide = np.int16 if code is np.uint8 else np.int32
        return _tensor((samples.astype(wide) - offset).astype(code)), facts
    return _tensor(np.ascontiguousarray(samples, code)), facts


def _offset(samples: np.ndarray, name: str) -> int:
    low, high = int(samples.min()), int(samples.max())
    if low >= 0 and high <= 65535:
        return 0
    if low >= -32768 and high <= 32767:
        return -32768
    raise DataError(f"{name} has integers from {low} to {high}, past 16 bits; scale them, or store them as float.")


def _tensor(samples: np.ndarray) -> Tensor:
    samples = np.ascontiguousarray(samples)
    return torch.from_numpy(samples if samples.flags.writeable else samples.copy())


def restore(x: Tensor, facts: Mapping[str, Any]) -> np.ndarray:
    """A decoded signal with the samples of its file: rounded and clipped to an integer dtype, or the floats.

    Args:
        x: uint8, uint16, or float: in [-1, 1] for what was integer, in its own unit for the rest.
        facts: of `admit`; without `dtype`, what the tensor has.
    """
    x = x.detach().cpu()
    dtype = np.dtype(facts.get("dtype", str(x.dtype).removeprefix("torch.")))
    if dtype.kind == "f":
        return x.numpy().astype(dtype)
    if x.is_floating_point():
        full = 255 if dtype.itemsize == 1 else 65535
        x = torch.add(x, 1).mul_(full / 2).round_().clamp_(0, full)
    elif np.dtype(x.numpy().dtype) == dtype and not facts.get("offset"):
        return x.numpy()
    # Integers up to 65535 are exact in float32, and so are those with the offset.
    codes = x.numpy() if x.is_floating_point() else x.numpy().astype(np.int32)
    codes = codes + np.float32(facts["offset"]) if facts.get("offset") else codes
    if dtype.kind == "b":
        return codes > 0.5
    limits = np.iinfo(dtype)
    return np.clip(codes, max(limits.min, -(2**24)), min(limits.max, 2**24)).astype(dtype)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside a file, to write to in parts; it becomes the file when all of it is there."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield (written := Path(folder, path.name))
            os.replace(written, path)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from error
