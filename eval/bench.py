"""`bench`: how fast codecs are, in one run: ours against others, round by round, from small pictures to large ones."""

import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from cml.eval import bench_report
from cml.eval.bench_machine import machine_of
from cml.eval.bench_memory import memory_of
from cml.eval.bench_pictures import parse_size, picture, read_photos
from cml.eval.bench_rivals import RIVALS, make_subject
from cml.eval.bench_subjects import Ours, Subject, using_threads
from cml.eval.complexity import timed
from cml.eval.metrics import psnr
from rich.console import Console
from torch import Tensor

from cml.errors import CmlError

T = TypeVar("T")
Size = tuple[int, int]

# The fastest, the fewest bytes at that decoder, and one as it is without options.
DEFAULT_CODECS = (
    *(f"{name}:decoder=linear,entropy={coder}" for name in ("rgb_f8c12", "rgb_f8c48") for coder in ("order0", "ctx")),
    "rgb_f8c12",
)
DEFAULT_SIZES = ("256x256", "512x512", "1024x1024", "2048x2048", "4096x4096", "10000x10000")
DEFAULT_ROUNDS = 25
QUICK_SIZES, QUICK_ROUNDS = ("256x256", "512x512"), 5
REFERENCE: Size = (1024, 1024)
"""The size of the first table, or the largest measured below it, or the smallest of all."""

# Seconds for all rounds together, roughly: a codec whose share of a size is used up takes part in fewer rounds.
_SECONDS, _QUICK_SECONDS = 240, 10
_LEAST_ROUNDS = 3  # of every codec at the reference size, to have a spread; one is enough in haste
_MOMENT = 0.02  # seconds that short work is repeated for, within a round, after as many to warm up
_FIRST = 256  # side of the picture that everything is warmed up on


@dataclass(frozen=True)
class Measurement:
    """One number.

    Attributes:
        codec: operating point.
        threads: with which it ran.
        height, width: of the picture.
        round: paired with the measurements of other codecs in the same round; -1 for what is no timing.
        quantity: `encode` or `decode` (seconds), a stage of them as `encode.transform` (seconds), `bytes`, `psnr` (dB),
            `encode_memory` or `decode_memory` (megabytes beyond input and output).
        value: the number.
    """

    codec: str
    threads: int
    height: int
    width: int
    round: int
    quantity: str
    value: float


@dataclass
class Plan:
    """What a benchmark will measure, checked before anything runs.

    Attributes:
        subjects: with the first number of threads, those of cml first; measured at all sizes.
        threaded: ours with the other numbers of threads; measured at the reference size.
        sizes: from small to large.
        rounds: the most, for codecs that are fast enough.
        least: the fewest at the reference size.
        seconds: a codec may take at one size.
        photos: what pictures are made of.
        notes: sentences on what is left out.
    """

    subjects: list[Subject]
    threaded: list[Subject]
    sizes: list[Size]
    rounds: int
    least: int
    seconds: float
    photos: list[Tensor]
    notes: list[str] = field(default_factory=list)

    @property
    def reference(self) -> Size:
        """The size of the first table."""
        small = [size for size in self.sizes if math.prod(size) <= math.prod(REFERENCE)]
        return small[-1] if small else self.sizes[0]


def bench(
    data: str | Path | None = None,
    codecs: Sequence[str] | None = None,
    *,
    out: str | Path,
    sizes: Sequence[str] | None = None,
    rounds: int | None = None,
    threads: Sequence[int] = (1,),
    memory: bool = True,
    quick: bool = False,
) -> pd.DataFrame:
    """Measure how fast codecs encode and decode, what that costs, and against each other.

    Every round measures each codec once, in an order that rotates, so that ratios are of the same moment.

    Args:
        data: a folder of photos; None for synthetic pictures.
        codecs: operating points of neural codecs for RGB; None for `DEFAULT_CODECS`. The rivals are known.
        out: where the results go, without suffix: OUT.csv, OUT.md and OUT.png.
        sizes: of the pictures, "HEIGHTxWIDTH" or megapixels; None for 0.07 to 100 megapixels.
        rounds: the most at each size; slow codecs take part in fewer. None for 25.
        threads: of everything; ours are measured with each further number, too, at the reference size.
        memory: whether to measure the peak memory as well, in fresh processes: seconds a codec.
        quick: small pictures, few rounds and no memory: the whole in a minute.

    Returns:
        A row for each number, with the columns of `Measurement`. The attribute `notes` of the frame holds sentences on
        what is left out or failed, `machine` where it ran, `request` what was asked for.

    Raises:
        CmlError: something is wrong with the request; nothing has run then.
    """
    plan = make_plan(data, codecs, sizes, rounds, threads, quick)
    console = Console(stderr=True)
    machine = machine_of(plan.subjects[0].threads)
    found = list(_all_sizes(plan, console))
    if memory and not quick:
        found += _all_memory(plan, found, console)
    table = pd.DataFrame([asdict(one) for one in found])
    request = bench_report.Request(
        data=None if data is None else str(data), codecs=codecs, out=str(out), sizes=sizes, rounds=rounds,
        threads=tuple(threads), memory=memory, quick=quick,
    )  # fmt: skip
    table.attrs.update(notes=plan.notes, machine=machine, request=request, reference=plan.reference)
    bench_report.write(table, request, machine)
    return table


def make_plan(
    data: str | Path | None,
    codecs: Sequence[str] | None,
    sizes: Sequence[str] | None,
    rounds: int | None,
    threads: Sequence[int],
    quick: bool,
) -> Plan:
    """Check a request: every codec, size, number and the folder."""
    if not threads or min(threads) < 1:
        raise CmlError(f"The threads of a benchmark are whole numbers of 1 or more, not {list(threads)}.")
    rounds = (QUICK_ROUNDS if quick else DEFAULT_ROUNDS) if rounds is None else rounds
    if rounds < 1:
        raise CmlError(f"A benchmark needs 1 round or more, not {rounds}.")
    parsed = sorted({parse_size(size) for size in sizes or (QUICK_SIZES if quick else DEFAULT_SIZES)}, key=math.prod)
    notes: list[str] = []
    names = list(dict.fromkeys(codecs if codecs is not None else DEFAULT_CODECS))
    ours: list[Subject] = [Ours(name, threads[0]) for name in names]
    threaded: list[Subject] = [
        Ours(name, count) for count in dict.fromkeys(threads) if count != threads[0] for name in names
    ]
    photos = read_photos(data)
    rivals: list[Subject] = []
    for name in RIVALS:
        try:
            rivals.append(make_subject(name, threads[0]))
        except CmlError as error:
            notes.append(f"{str(error).rstrip('.')}; it is left out.")
    seconds = (_QUICK_SECONDS if quick else _SECONDS) / len(parsed) / len(ours + rivals)
    least = 1 if quick else _LEAST_ROUNDS
    return Plan([*ours, *rivals], threaded, parsed, rounds, least, seconds, photos, notes)


def _all_sizes(plan: Plan, console: Console) -> Iterator[Measurement]:
    """The timings of every size; what a codec took on a small picture tells how it will fare on a large one."""
    pace: dict[Subject, float] = {}
    first = picture(plan.photos, *(min(_FIRST, side) for side in plan.sizes[0]))
    for subject in [*plan.subjects, *plan.threaded]:
        try:
            with using_threads(subject.threads):
                source = subject.take(first)
                subject.decode(subject.encode(source))
                pace[subject] = sum(_times(subject, source)[0].values()) / first[0].numel()
        except Exception as error:  # one codec must not stop the rest
            plan.notes.append(_failure(subject, error))
    for size in plan.sizes:
        start = time.perf_counter()
        rounds = {subject: n for subject in pace if (n := _rounds(plan, subject, size, pace[subject]))}
        yield from _one_size(plan, size, rounds, pace)
        took = time.perf_counter() - start
        console.print(f"{size[0]}x{size[1]}: {len(rounds)} codecs, {took:.0f} s", highlight=False)


def _rounds(plan: Plan, subject: Subject, size: Size, pace: float) -> int:
    """How many rounds of a size a codec takes part in."""
    pixels = math.prod(size)
    if subject in plan.threaded and size != plan.reference:
        return 0
    if pixels > subject.largest:
        plan.notes.append(f"{subject.name} is left out at {size[0]}x{size[1]}: its network would take too long.")
        return 0
    # Three of ours anywhere, so that the median leaves out the first, which may pay for pages new from the host.
    least = min(plan.rounds, plan.least if size == plan.reference else 3 * subject.ours)
    count = min(plan.rounds, max(least, int(plan.seconds / (pace * pixels))))
    if not count:
        plan.notes.append(
            f"{subject.name} is left out at {size[0]}x{size[1]}: it would take {pace * pixels:.2g} seconds a round."
        )
    return count


def _one_size(plan: Plan, size: Size, rounds: dict[Subject, int], pace: dict[Subject, float]) -> Iterator[Measurement]:
    """The timings of one size, round by round."""
    x = picture(plan.photos, *size)
    # The first use of a page costs the host of a virtual machine more than a codec takes for what is on it.
    np.ones(3 * x.numel(), np.float32)
    sources: dict[Subject, Any] = {}
    # The round before the first warms up, where there is time for it.
    warm = [subject for subject in rounds if pace[subject] * x[0].numel() < plan.seconds / 2]
    for number in range(-1, max(rounds.values(), default=0)):
        turn = max(number, 0) % max(len(rounds), 1)
        for subject in [*list(rounds)[turn:], *list(rounds)[:turn]]:
            if number >= rounds[subject] or (number < 0 and subject not in warm):
                continue
            try:
                with using_threads(subject.threads):
                    if subject not in sources:
                        sources[subject] = subject.take(x)
                    values, blob, decoded = _times(subject, sources[subject])
                pace[subject] = sum(values.values()) / x[0].numel()
                if number == 0 and "bytes" in subject.meaningful:
                    values["bytes"] = len(blob)
                if number == 0 and size == plan.reference:
                    shown = subject.show(decoded)
                    if shown.shape != x.shape:
                        raise CmlError(f"it gave back {tuple(shown.shape)}.")
                    if "psnr" in subject.meaningful:
                        values["psnr"] = psnr(x, shown, data_range=255)
            except Exception as error:  # one codec must not stop the rest
                plan.notes.append(_failure(subject, error, size))
                rounds[subject] = -1
                continue
            if number >= 0:
                for quantity, value in values.items():
                    yield Measurement(subject.name, subject.threads, *size, number, quantity, float(value))
            del decoded


def _times(subject: Subject, source: Any) -> tuple[dict[str, float], bytes, Any]:
    """Seconds of one encoding, one decoding and each stage; the bytes, and what was decoded."""
    blob, encode = _warmed(lambda: subject.encode(source))
    decoded, decode = _warmed(lambda: subject.decode(blob))
    values = {"encode": encode, "decode": decode}
    for name, work in subject.stages(source, blob).items():
        values[name] = _warmed(work)[1]
    return values, blob, decoded


def _warmed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work returns, and its median seconds after as long a warm-up: caches and cores are others' before."""
    result, seconds = timed(work, _MOMENT)
    return (result, seconds) if seconds > _MOMENT else timed(work, _MOMENT)


def _failure(subject: Subject, error: Exception, size: Size | None = None) -> str:
    kind = "" if isinstance(error, CmlError) else f"{type(error).__name__}: "
    reason = str(error).partition("\n")[0]
    where = "" if size is None else f" at {size[0]}x{size[1]}"
    return f"{subject.name} failed{where}: {kind}{reason}"


def _all_memory(plan: Plan, found: Sequence[Measurement], console: Console) -> Iterator[Measurement]:
    """The peak memory of every codec at the reference size and at the largest size that it was measured at."""
    start = time.perf_counter()
    sizes: dict[str, list[Size]] = {subject.name: [] for subject in plan.subjects}
    for one in found:
        if one.threads == plan.subjects[0].threads:
            sizes[one.codec].append((one.height, one.width))
    with tempfile.TemporaryDirectory() as folder:
        for size in plan.sizes:
            wanted = [
                subject
                for subject in plan.subjects
                if size in sizes[subject.name] and size in (plan.reference, sizes[subject.name][-1])
            ]
            file = Path(folder) / "picture.npy"
            if wanted:
                np.save(file, picture(plan.photos, *size).numpy())
            for subject in wanted:
                try:
                    peaks = memory_of(subject.name, subject.threads, file)
                except CmlError as error:
                    plan.notes.append(str(error))
                    continue
                for way, value in peaks.items():
                    yield Measurement(subject.name, subject.threads, *size, -1, f"{way}_memory", value)
    console.print(f"memory: {time.perf_counter() - start:.0f} s", highlight=False)
