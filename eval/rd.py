"""`rd`: what codecs cost and give on a folder of pictures, operating point by operating point, resumable."""

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pandas as pd
import torch
from cml.eval import rd_report
from cml.eval.complexity import timed
from cml.eval.metrics import MS_SSIM_SIDE, SSIM_SIDE, load_piq, ms_ssim, psnr, ssim
from cml.eval.perceptual import perceptual as load_perceptual
from cml.eval.printed import KODAK, is_kodak
from cml.eval.rd_loop import PASSES, SECONDS, kept, library_versions, round_trip, take
from cml.eval.rd_points import Point, curve_of, points_with, usable
from cml.eval.rd_rows import MEASURES, Row, Rows, summarize
from cml.eval.results import cell_key
from torch import Tensor

from cml.codecs.base import Codec, to_uint8
from cml.codecs.cost import codec_cost
from cml.codecs.factory import list_codecs
from cml.data.signals import find_images, read_image
from cml.errors import CmlError, DataError
from cml.files import read_bytes

T = TypeVar("T")

PAPERS_ANCHOR = "jpeg2000:colour=rgb,wavelet=5/3"
"""The JPEG 2000 that the authors of WaLLoC and LiVeAction compare with: Pillow's defaults, no colour transform."""

# Raised whenever a measured number changes its meaning; rows of different versions are never mixed.
RD_VERSION = 1
_LIBRARIES = ("torch", "numpy", "pillow", "piq")

Measure = Callable[[Tensor, Tensor], float]


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
    rows = Rows(f"{out}.csv", Row)
    keys = {point.codec.spec.name: _keys(plan, point) for point in plan.points}
    failed = measure(plan, rows, keys)
    costs = {point.codec.spec.name: codec_cost(point.codec) for point in plan.points}
    # The rate is the mean over pictures of each one's bits a pixel, the PSNR that of each one's dB, as papers do.
    table = summarize(kept(plan.points, keys, rows), len(plan.images), ("bpp", *MEASURES), ("encode_mps", "decode_mps"))
    for name in ("encode_macs", "decode_macs"):
        table[name] = [costs[point].get(name, math.nan) for point in table["point"]]
    table.attrs.update(failed=failed, notes=plan.notes)
    show = KODAK if (is_kodak(plan.sizes) if printed is None else printed) else ()
    request = rd_report.Request(
        data=str(data), codecs=codecs, out=str(out), anchor=curve_of(anchor), printed=printed, perceptual=perceptual,
        pictures=len(plan.images), versions=library_versions(_LIBRARIES),
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
    points = points_with(anchor, names)
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
    rivals = usable(("jpeg2000", PAPERS_ANCHOR, "jpeg", "webp", "avif", "jpegxl"), notes)
    return [*(name for name, _ in rivals), *list_codecs("rgb_*")]


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


def _keys(plan: Plan, point: Point) -> dict[str, str]:
    """Picture -> content key of its measurement at a point."""
    spec = point.codec.spec
    context = {
        "rd_version": RD_VERSION, "codec": spec.name, "codec_id": spec.codec_id, "settings": dict(spec.settings),
        "channels": plan.channels, "measures": sorted(plan.measures), "versions": library_versions(_LIBRARIES),
    }  # fmt: skip
    return {
        name: cell_key(context | {"picture": hashlib.sha256(read_bytes(file)).hexdigest()})
        for name, file in plan.images.items()
    }


def measure(plan: Plan, rows: Rows[Row], keys: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Take the measurements that are missing; returns a sentence for each that failed."""

    def told(taken: Sequence[Row]) -> str:
        bpp, quality = (statistics.fmean(getattr(row, name) for row in taken) for name in ("bpp", "psnr"))
        return f"{len(taken)} pictures, {bpp:.4f} bpp, {quality:.2f} dB"

    return take(
        plan.points, list(plan.images), keys, rows,
        read=lambda name: read_image(plan.images[name], plan.channels), warm=round_trip,
        one=lambda point, name, key, x: _measure_one(plan, point, name, key, x), told=told,
    )  # fmt: skip


def _measure_one(plan: Plan, point: Point, name: str, key: str, x: Tensor) -> Row:
    blob, encode = timed(lambda: point.codec.compress(x), SECONDS, PASSES)
    decoded, decode = timed(lambda: point.codec.decompress(blob), SECONDS, PASSES)
    x_hat = to_uint8(decoded)
    values = {measure: math.nan for measure in MEASURES} | {m: f(x, x_hat) for m, f in plan.measures.items()}
    pixels = x[0].numel()
    return Row(
        key=key, image=name, curve=point.curve, point=point.codec.spec.name, height=x.shape[1], width=x.shape[2],
        bytes=len(blob), bpp=8 * len(blob) / pixels, **values,
        encode_mps=pixels / encode / 1e6, decode_mps=pixels / decode / 1e6,
    )  # fmt: skip
