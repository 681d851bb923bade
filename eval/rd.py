"""`rd`: what codecs cost and give on a folder of pictures, operating point by operating point, resumable."""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch
from cml.eval import rd_report
from cml.eval.complexity import one_thread, timed
from cml.eval.metrics import MS_SSIM_SIDE, SSIM_SIDE, load_piq, ms_ssim, psnr, ssim
from cml.eval.perceptual import perceptual as load_perceptual
from cml.eval.printed import KODAK, is_kodak
from cml.eval.rd_rows import MEASURES, Row, Rows
from cml.eval.results import cell_key
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

import cml
from cml.codecs.base import Codec, to_uint8
from cml.codecs.cost import codec_cost
from cml.codecs.factory import create_codec, list_codecs, parse_operating_point
from cml.codecs.rate import steering
from cml.data.signals import find_images, read_image
from cml.errors import CmlError, DataError
from cml.files import read_bytes

T = TypeVar("T")

LADDERS: Mapping[str, tuple[float, ...]] = {
    "jpeg": (10, 20, 35, 50, 65, 75, 85, 93),
    "jpeg2000": (200, 120, 70, 40, 24, 16, 10, 6),
    "webp": (1, 10, 25, 45, 60, 75, 85, 93),
    "avif": (5, 15, 25, 35, 50, 65, 78, 88),
    "jpegxl": (5, 15, 30, 50, 65, 80, 90, 95),
    "heic": (10, 18, 26, 34, 42, 50, 60, 70),
    "jpegls": (60, 40, 25, 15, 9, 6),
    "bits": (1, 2, 3, 4),
    "resize": (8, 6, 4, 3, 2),
}
"""Values of the steering option for a codec named without one: from about 0.1 to about 3 bits a pixel of a photo."""
STEPS = (4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.48, 0.32, 0.2)
"""The same for codecs that are steered by their quantization step, in units of their default step."""
PAPERS_ANCHOR = "jpeg2000:colour=rgb,wavelet=5/3"
"""The JPEG 2000 that the authors of WaLLoC and LiVeAction compare with: Pillow's defaults, no colour transform."""

_TOGETHER = {"vq": ("patch", "codes")}
"""Options that steer the rate together, so that nothing can be searched along them."""

# Raised whenever a measured number changes its meaning; rows of different versions are never mixed.
RD_VERSION = 1
_LIBRARIES = ("torch", "numpy", "pillow", "piq")
_SECONDS, _PASSES = 0.1, 3

Measure = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Point:
    """One operating point of one curve."""

    curve: str
    codec: Codec


@dataclass
class Plan:
    """What a benchmark will measure, checked before anything runs.

    Attributes:
        images: path below the folder -> file.
        sizes: (height, width) of each.
        channels: with which every picture is read.
        points: the operating points, those of a curve together.
        measures: name -> function of two (C, H, W) uint8 pictures.
        notes: sentences on what is left out.
    """

    images: dict[str, Path]
    sizes: list[tuple[int, int]]
    channels: int
    points: list[Point]
    measures: dict[str, Measure]
    notes: list[str] = field(default_factory=list)


def rd(
    data: str | Path,
    codecs: Sequence[str] | None = None,
    *,
    out: str | Path,
    anchor: str = "jpeg2000",
    printed: bool | None = None,
    perceptual: bool = False,
) -> pd.DataFrame:
    """Measure rate, distortion and speed of codecs on every picture of a folder.

    Each measured picture is appended to OUT.csv at once and never measured again; run it again after an interruption.

    Args:
        data: a folder of pictures, searched with its subfolders.
        codecs: names, each measured at a ladder of operating points, and operating points, measured as given; several
            of one codec form a curve. None for the codecs people use and the bundled ones for RGB.
        out: where the results go, without suffix: OUT.csv, OUT.md and OUT.png.
        anchor: the codec that BD-rates are against; it is measured too.
        printed: whether to show what the authors of WaLLoC and LiVeAction print for Kodak; None where `data` is Kodak.
        perceptual: LPIPS and DISTS too, which takes seconds a picture and weights that are fetched once.

    Returns:
        One row an operating point: means over the pictures, medians of the speeds, and the computed MACs a pixel. The
        attribute `failed` of the frame holds a sentence for each measurement that failed, `notes` those on what is
        left out.

    Raises:
        CmlError: something is wrong with the request; nothing has run then.
    """
    plan = make_plan(data, codecs, anchor, perceptual)
    rows = Rows(f"{out}.csv")
    keys = {point.codec.spec.name: _keys(plan, point) for point in plan.points}
    failed = measure(plan, rows, keys)
    known = rows.read()
    # The rows of an earlier request may carry another spelling of the curve's name.
    wanted = [
        replace(known[key], curve=point.curve)
        for point in plan.points
        for key in keys[point.codec.spec.name].values()
        if key in known
    ]
    costs = {point.codec.spec.name: codec_cost(point.codec) for point in plan.points}
    table = summarize(wanted, len(plan.images))
    for name in ("encode_macs", "decode_macs"):
        table[name] = [costs[point].get(name, math.nan) for point in table["point"]]
    table.attrs.update(failed=failed, notes=plan.notes)
    show = KODAK if (is_kodak(plan.sizes) if printed is None else printed) else ()
    request = rd_report.Request(
        data=str(data), codecs=codecs, out=str(out), anchor=curve_of(anchor), printed=printed, perceptual=perceptual,
        pictures=len(plan.images), versions=_versions(),
        settings={point.codec.spec.name: point.codec.spec.settings for point in plan.points},
    )  # fmt: skip
    rd_report.write(table, request, show)
    return table


def make_plan(data: str | Path, codecs: Sequence[str] | None, anchor: str, perceptual: bool) -> Plan:
    """Check a request: every name, option and picture size."""
    folder = Path(data)
    files = find_images(folder)
    notes: list[str] = []
    names = [*codecs] if codecs is not None else default_codecs(notes)
    points = points_of(names)
    if not any(point.curve == curve_of(anchor) for point in points):
        points = points_of([anchor, *names])
    channels = _common_channels([point.codec for point in points])
    sizes = [_size(file, channels) for file in files]
    measures = _measures(min(map(min, sizes)), channels, perceptual, notes)
    images = {file.relative_to(folder).as_posix(): file for file in files}
    return Plan(images, sizes, channels, points, measures, notes)


def _size(file: Path, channels: int) -> tuple[int, int]:
    x = read_image(file, channels)
    if x.dtype != torch.uint8:
        raise DataError(f"{file} has 16 bits a sample; this benchmark is for pictures of 8.")
    return x.shape[1], x.shape[2]


def default_codecs(notes: list[str]) -> list[str]:
    """The codecs people use and the bundled ones for RGB; a missing package leaves its codec out, with a note."""
    names = []
    for name in ("jpeg2000", PAPERS_ANCHOR, "jpeg", "webp", "avif", "jpegxl"):
        try:
            create_codec(name)
            names.append(name)
        except CmlError as error:
            notes.append(f"{error} It is left out.")
    return [*names, *list_codecs("rgb_*")]


def curve_of(name: str) -> str:
    """The name of a curve: the codec and its options, without the one that steers its rate."""
    base, options = parse_operating_point(name)
    steer = steering(name)
    steers = (steer.option,) if steer else _TOGETHER.get(base, ())
    others = [f"{key}={value}" for key, value in sorted(options.items()) if key not in steers]
    return base + (":" + ",".join(others) if others else "")


def points_of(names: Sequence[str]) -> list[Point]:
    """The operating points that names stand for: a ladder, unless the option that steers the rate is given."""
    points: dict[str, Point] = {}
    for name in names:
        base, options = parse_operating_point(name)
        steer = steering(name)
        values = ladder(base, name) if steer and steer.option not in options else ()
        made = [create_codec(base, **options, **{steer.option: value}) for value in values] if steer else []
        for codec in made or [create_codec(name)]:
            points.setdefault(codec.spec.name, Point(curve_of(name), codec))
    order = list(dict.fromkeys(point.curve for point in points.values()))
    return sorted(points.values(), key=lambda point: order.index(point.curve))


def ladder(base: str, name: str) -> tuple[float, ...]:
    """The values of the steering option that stand for a codec without an operating point."""
    if base in LADDERS:
        return LADDERS[base]
    step = create_codec(name).spec.settings["step"]
    return tuple(float(f"{factor * step:.3g}") for factor in STEPS)


def _common_channels(codecs: Sequence[Codec]) -> int:
    for channels in (3, 1):
        if all(channels in codec.spec.channels for codec in codecs):
            return channels
    one = next(codec for codec in codecs if 3 not in codec.spec.channels)
    other = next((codec for codec in codecs if 1 not in codec.spec.channels), one)
    raise CmlError(
        f"{one.spec.name} and {other.spec.name} do not take pictures of one kind, grey or RGB; measure them apart."
    )


def _measures(side: int, channels: int, perceptual: bool, notes: list[str]) -> dict[str, Measure]:
    """The measures that can be taken of pictures with that shortest side; what cannot is noted."""
    measures: dict[str, Measure] = {"psnr": lambda x, y: psnr(x, y, data_range=255)}
    try:
        load_piq()
    except CmlError as error:
        notes.append(f"{error} They are left out.")
        return measures
    for name, function, least in (("ssim", ssim, SSIM_SIDE), ("ms_ssim", ms_ssim, MS_SSIM_SIDE)):
        if side >= least:
            measures[name] = lambda x, y, function=function: function(x, y, data_range=255)
        else:
            label = name.replace("_", "-").upper()
            notes.append(f"{label} is left out: the shortest side of the pictures is {side}, and it needs {least}.")
    for name in ("LPIPS", "DISTS") if perceptual else ():
        try:
            if channels != 3:
                raise DataError(f"{name} is for RGB pictures.")
            measures[f"{name.lower()}_db"] = load_perceptual(name)
        except CmlError as error:
            notes.append(f"{error} It is left out.")
    return measures


def _versions() -> dict[str, str]:
    found = {"cml": cml.__version__}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _keys(plan: Plan, point: Point) -> dict[str, str]:
    """Picture -> content key of its measurement at a point."""
    spec = point.codec.spec
    context = {
        "rd_version": RD_VERSION, "codec": spec.name, "codec_id": spec.codec_id, "settings": dict(spec.settings),
        "channels": plan.channels, "measures": sorted(plan.measures), "versions": _versions(),
    }  # fmt: skip
    return {
        name: cell_key(context | {"picture": hashlib.sha256(read_bytes(file)).hexdigest()})
        for name, file in plan.images.items()
    }


def measure(plan: Plan, rows: Rows, keys: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Take the measurements that are missing; returns a sentence for each that failed."""
    done, failed = rows.read(), []
    console = Console(stderr=True)
    missing = {
        point.codec.spec.name: [name for name, key in keys[point.codec.spec.name].items() if key not in done]
        for point in plan.points
    }
    todo = sum(map(len, missing.values()))
    total = len(plan.points) * len(plan.images)
    console.print(f"{total} measurements, {total - todo} done before, {todo} to take", highlight=False)
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console, transient=True,
    )  # fmt: skip
    with bars, one_thread():
        bar = bars.add_task("", total=todo)
        for point in plan.points:
            label = point.codec.spec.name
            bars.update(bar, description=label)
            warm, taken = False, []
            for name in missing[label]:
                try:
                    x = read_image(plan.images[name], plan.channels)
                    if not warm:
                        point.codec.decompress(point.codec.compress(x))
                        warm = True
                    row = _measure_one(plan, point, name, keys[label][name], x)
                except Exception as error:  # one picture or codec must not stop the rest
                    kind = "" if isinstance(error, CmlError) else f"{type(error).__name__}: "
                    failed.append(f"{label} on {name}: {kind}{error}")
                else:
                    rows.append(row)
                    taken.append(row)
                bars.advance(bar)
            if taken:
                bpp, quality = (statistics.fmean(getattr(row, name) for row in taken) for name in ("bpp", "psnr"))
                line = f"{label}: {len(taken)} pictures, {bpp:.4f} bpp, {quality:.2f} dB"
                console.print(line, markup=False, highlight=False, soft_wrap=True)
    return failed


def _measure_one(plan: Plan, point: Point, name: str, key: str, x: Tensor) -> Row:
    blob, encode = timed(lambda: point.codec.compress(x), _SECONDS, _PASSES)
    decoded, decode = timed(lambda: point.codec.decompress(blob), _SECONDS, _PASSES)
    x_hat = to_uint8(decoded)
    values = {measure: math.nan for measure in MEASURES} | {m: f(x, x_hat) for m, f in plan.measures.items()}
    pixels = x[0].numel()
    return Row(
        key=key, image=name, curve=point.curve, point=point.codec.spec.name, height=x.shape[1], width=x.shape[2],
        bytes=len(blob), bpp=8 * len(blob) / pixels, **values,
        encode_mps=pixels / encode / 1e6, decode_mps=pixels / decode / 1e6,
    )  # fmt: skip


def summarize(rows: Iterable[Row], pictures: int) -> pd.DataFrame:
    """One row an operating point whose pictures are all measured: means, and medians of the speeds.

    The rate is the mean over pictures of each one's bits a pixel, the PSNR that of each one's dB, as papers do.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.curve, row.point), []).append(row)
    table = []
    for (curve, point), members in groups.items():
        if len(members) < pictures:
            continue
        entry: dict[str, object] = {"curve": curve, "point": point}
        for name in ("bpp", *MEASURES):
            entry[name] = statistics.fmean(getattr(row, name) for row in members)
        for name in ("encode_mps", "decode_mps"):
            entry[name] = statistics.median(getattr(row, name) for row in members)
        table.append(entry)
    return pd.DataFrame(table, columns=["curve", "point", "bpp", *MEASURES, "encode_mps", "decode_mps"])
