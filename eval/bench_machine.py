"""What speeds depend on: the machine, measured, and the memory that a piece of work takes."""

import ctypes
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from cml.eval.bench_subjects import using_threads
from PIL import features

import cml

T = TypeVar("T")

_COPY, _SIDE = 2**28, 768  # bytes, far past the caches; side of a matrix product
_PASSES = 9
_LIBRARIES = ("torch", "numpy", "numba", "pillow", "walloc", "livecodec", "compressai")
_FORMATS = {"libjpeg-turbo": "libjpeg_turbo", "libwebp": "webp", "libavif": "avif", "openjpeg": "jpg_2000"}


@dataclass(frozen=True)
class Machine:
    """Where a benchmark ran.

    Attributes:
        cpu: its model; cores: how many this process may use.
        bandwidth: bytes a second that a copy of arrays past the caches reads and writes, the best of some passes.
        arithmetic: multiply-accumulates a second of float32 matrix products, likewise.
        versions: of cml, the libraries, and what Pillow was built with.
    """

    cpu: str
    cores: int
    bandwidth: float
    arithmetic: float
    versions: dict[str, str]


def machine_of(threads: int) -> Machine:
    """Measure this machine with some number of threads, in about a second."""
    found = {"python": platform.python_version(), "cml": cml.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found |= {label: str(features.version(name)) for label, name in _FORMATS.items()}
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return Machine(_cpu(), cores, _bandwidth(threads), _arithmetic(threads), found)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _bandwidth(threads: int) -> float:
    pairs = [(np.ones(_COPY, np.uint8), np.zeros(_COPY, np.uint8)) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda pair: np.copyto(*pair), pairs)))
    return 2 * _COPY * threads / seconds


def _arithmetic(threads: int) -> float:
    a = torch.ones(_SIDE, _SIDE)
    with using_threads(threads):
        return _SIDE**3 / _best(lambda: a @ a)


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_PASSES):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def peak_of(work: Callable[[], T]) -> tuple[T, float]:
    """What some work returns, and the megabytes by which the memory of this process peaked over what it was before.

    Linux forgets an old peak when asked to. Elsewhere, or where that is not allowed, work that stays below an earlier
    peak seems to take less than it does; ask in a fresh process.
    """
    with suppress(OSError, AttributeError):
        # Memory that is free but still held would hide what the work takes.
        ctypes.CDLL(None).malloc_trim(0)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    result = work()
    return result, max(0.0, _resident("VmHWM") - before)


def _resident(field: str) -> float:
    """Megabytes of a field of /proc/self/status, or the largest resident size so far where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
