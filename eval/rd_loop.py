"""The loop of a rate-distortion benchmark: every signal at every operating point, kept as soon as it is measured."""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import TypeVar

from cml.eval.complexity import one_thread
from cml.eval.rd_points import Point
from cml.eval.rd_rows import Rows
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

import cml
from cml.errors import CmlError

R = TypeVar("R")
S = TypeVar("S")
T = TypeVar("T")

SECONDS, PASSES = 0.1, 3
"""How long each direction is timed, and in how many passes at most."""


def take(
    points: Sequence[Point],
    names: Sequence[str],
    keys: Mapping[str, Mapping[str, str]],
    rows: Rows[R],
    *,
    read: Callable[[str], S],
    warm: Callable[[Point, S], object],
    one: Callable[[Point, str, str, S], R],
    told: Callable[[Sequence[R]], str],
) -> list[str]:
    """Take the measurements that are missing, on one thread, each codec warmed up.

    Args:
        points: operating points.
        names: of the signals.
        keys: operating point -> signal -> content key.
        rows: what is known, and where a measurement goes.
        read: a signal by its name.
        warm: what a codec does before it is timed for the first time, with the first signal.
        one: a measurement, of a point, the name of a signal, its key and the signal.
        told: what to say of an operating point's measurements.

    Returns:
        A sentence for each measurement that failed.
    """
    done, failed = rows.read(), []
    console = Console(stderr=True)
    missing = {
        point.codec.spec.name: [name for name in names if keys[point.codec.spec.name][name] not in done]
        for point in points
    }
    todo, total = sum(map(len, missing.values())), len(points) * len(names)
    console.print(f"{total} measurements, {total - todo} done before, {todo} to take", highlight=False)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip
    with bars, one_thread():
        bar = bars.add_task("", total=todo)
        for point in points:
            label = point.codec.spec.name
            bars.update(bar, description=label)
            cold, taken = True, []
            for name in missing[label]:
                try:
                    x = read(name)
                    if cold:
                        warm(point, x)
                        cold = False
                    row = one(point, name, keys[label][name], x)
                except Exception as error:  # one signal or codec must not stop the rest
                    kind = "" if isinstance(error, CmlError) else f"{type(error).__name__}: "
                    failed.append(f"{label} on {name}: {kind}{error}")
                else:
                    rows.append(row)
                    taken.append(row)
                bars.advance(bar)
            if taken:
                console.print(f"{label}: {told(taken)}", markup=False, highlight=False, soft_wrap=True)
    return failed


def round_trip(point: Point, x: Tensor) -> None:
    """There and back, which loads and compiles whatever a codec needs."""
    point.codec.decompress(point.codec.compress(x))


def kept(points: Sequence[Point], keys: Mapping[str, Mapping[str, str]], rows: Rows[R]) -> list[R]:
    """The rows of some operating points, as far as they are measured."""
    known = rows.read()
    # Those of an earlier request may carry another spelling of the curve's name.
    return [
        replace(known[key], curve=point.curve)  # pyright: ignore[reportArgumentType, reportCallIssue]
        for point in points
        for key in keys[point.codec.spec.name].values()
        if key in known
    ]


def library_versions(libraries: Sequence[str]) -> dict[str, str]:
    """The version of cml and of packages, "none" of one that is not installed."""
    found = {"cml": cml.__version__}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def cpu_timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work returns, and the median CPU seconds of up to `PASSES` passes, that of child processes included.

    CPU time, because a benchmark of much sound runs for hours beside other work, which takes wall time away from it.
    """
    times: list[float] = []
    while True:
        start = _cpu_seconds()
        result = work()
        times.append(max(_cpu_seconds() - start, 1e-9))
        if sum(times) >= SECONDS or len(times) == PASSES:
            return result, statistics.median(times)


def _cpu_seconds() -> float:
    children = os.times()
    return time.process_time() + children.children_user + children.children_system
