"""`rd` for signals of three axes: what codecs cost and give on volumes, cubes of bands, and video, resumable."""

import hashlib
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from cml.eval import volume_metrics, volume_rd_report
from cml.eval.metrics import SSIM_SIDE
from cml.eval.rd_loop import cpu_timed, kept, library_versions, take
from cml.eval.rd_points import Point, curve_of, points_with, usable
from cml.eval.rd_report import Request
from cml.eval.rd_rows import Rows, summarize
from cml.eval.results import cell_key
from cml.eval.volume_rows import MEASURES, SPEEDS, VolumeRow, defaults
from torch import Tensor

from cml import hub
from cml.codecs.base import Codec, CodecSpec
from cml.codecs.factory import create_codec
from cml.data.samples import SignalFile, restore
from cml.data.signal_sets import load_signals
from cml.errors import CmlError

_SLICES = "slices-jpeg2000"
ANCHORS: Mapping[str, str] = {"volume": _SLICES, "cube": _SLICES, "video": "x264"}
"""What BD-rates are against, by the kind of the signals."""
_OF_ARRAYS = (
    _SLICES, *(f"{_SLICES}:psnr={psnr}" for psnr in (20, 24, 28, 32, 36, 42, 48)), "slices-jpegxl", "slices-hevc",
    "zfp", "sz3", "sperr", "downsample",
)  # fmt: skip
_OF_VIDEO = (
    "x264", "x265", "vp9", "av1", "frames-jpeg", "frames-avif",
    *(f"decimate:space={space},time={time}" for space, time in ((8, 2), (6, 2), (4, 2), (3, 1), (2, 2), (2, 1))),
)  # fmt: skip
RIVALS: Mapping[str, tuple[str, ...]] = {
    "volume": _OF_ARRAYS,
    "cube": (*_OF_ARRAYS, "downsample:axes=2"),
    "video": _OF_VIDEO,
}
_OURS = {"volume": ("volume_",), "cube": ("hyper_", "aviris_"), "video": ("video_",)}
_PEAK = 255  # of 8-bit video

# Raised whenever a measured number changes its meaning; rows of different versions are never mixed.
VOLUME_RD_VERSION = 1
_LIBRARIES = ("torch", "numpy", "numba", "pillow", "imagecodecs", "av")

Measure = Callable[[np.ndarray, np.ndarray], float]


@dataclass
class VolumePlan:
    """What a benchmark will measure, checked before anything runs.

    Attributes:
        kind: of all signals: volume, cube or video.
        signals: name -> what reads it.
        contents: name -> fingerprint of the samples.
        points: the operating points, those of a curve together.
        measures: name -> function of two signals as their file holds them.
        notes: sentences on what is left out.
    """

    kind: str
    signals: dict[str, Callable[[], SignalFile]]
    contents: dict[str, str]
    points: list[Point]
    measures: dict[str, Measure]
    notes: list[str] = field(default_factory=list)


def volume_rd(
    data: str, codecs: Sequence[str] | None = None, *, out: str | Path, anchor: str | None = None
) -> pd.DataFrame:
    """Measure rate, distortion and speed of codecs on every signal of three axes of a set.

    Each measured signal is appended to OUT.csv at once and never measured again; run it again after an interruption.

    Args:
        data: a folder of scans, cubes or videos, or a set whose test split is taken, "volumes:PATH", "jasper:PATH",
            "frames:PATH", "video:PATH" (`cml.data.signal_sets.load_signals`).
        codecs: names, each measured at a ladder of operating points, and operating points, measured as given; several
            of one codec form a curve. None for the codecs people use on such signals and the bundled ones for them,
            those that decode by a light network also with decoder=linear. Of cubes, codecs of two axes are given the
            bands as channels.
        out: where the results go, without suffix: OUT.csv, OUT.md, OUT.png and OUT-slices.png.
        anchor: the codec that BD-rates are against; it is measured too. None for that of `ANCHORS`.

    Returns:
        One row an operating point: means over the signals, medians of the speeds. The attribute `failed` of the frame
        holds a sentence for each measurement that failed, `notes` those on what is left out, `kind` what was measured,
        `anchor` the curve compared with.

    Raises:
        CmlError: something is wrong with the request; nothing has run then.
    """
    plan = make_plan(data, codecs, anchor)
    anchor = curve_of(anchor or ANCHORS[plan.kind])
    rows = Rows(f"{out}.csv", VolumeRow)
    keys = {point.codec.spec.name: _keys(plan, point) for point in plan.points}
    before = len(rows.read())
    failed = take(
        plan.points, list(plan.signals), keys, rows, read=lambda name: plan.signals[name](),
        one=lambda point, name, key, signal: _measure_one(plan, point, name, key, signal), told=_told,
        warm=lambda point, signal: _warm_up(point.codec, signal.samples),
    )  # fmt: skip
    wanted = kept(plan.points, keys, rows)
    table = summarize(wanted, len(plan.signals), ("bpv", "stored", *MEASURES), SPEEDS)
    table.attrs.update(failed=failed, notes=plan.notes, kind=plan.kind, anchor=anchor)
    request = Request(
        data=data, codecs=codecs, out=str(out), anchor=anchor, printed=None, perceptual=False,
        pictures=len(plan.signals), versions=library_versions(_LIBRARIES),
        settings={point.codec.spec.name: point.codec.spec.settings for point in plan.points},
    )  # fmt: skip
    shipped = defaults(plan.points)
    volume_rd_report.write(table, wanted, shipped, request)
    picture = Path(f"{out}-slices.png")
    if len(table) and (len(rows.read()) > before or not picture.exists()):
        from cml.eval import volume_gallery

        name, read = next(iter(plan.signals.items()))
        volume_gallery.draw([row for row in wanted if row.signal == name], shipped, read(), picture)
    return table


def make_plan(data: str, codecs: Sequence[str] | None, anchor: str | None) -> VolumePlan:
    """Check a request: the signals, and every name and option."""
    found = load_signals(data)
    if found.kind not in ANCHORS:
        raise CmlError(f"{data} holds signals of the kind {found.kind}; this benchmark is for those of three axes.")
    signals = {reader.name: reader.read for reader in found.test}
    if not signals:
        raise CmlError(f"{data} has no test signals.")
    contents, shapes = {}, {}
    for name, read in signals.items():
        samples = read().samples
        contents[name] = hashlib.sha256(str(tuple(samples.shape)).encode() + samples.numpy().tobytes()).hexdigest()
        shapes[name] = tuple(samples.shape)
    notes: list[str] = []
    names = [*codecs] if codecs is not None else default_codecs(found.kind, list(shapes.values()), notes)
    points = points_with(anchor or ANCHORS[found.kind], names)
    for point in points:
        if not all(_takes(point.codec.spec, shape, found.kind) for shape in shapes.values()):
            sizes = ", ".join(sorted({"x".join(map(str, shape)) for shape in shapes.values()}))
            raise CmlError(f"{point.codec.spec.name} does not take the signals of {data} ({sizes}); leave it out.")
    return VolumePlan(found.kind, signals, contents, points, _measures(found.kind, list(shapes.values()), notes), notes)


def default_codecs(kind: str, shapes: Sequence[tuple[int, ...]], notes: list[str]) -> list[str]:
    """The codecs people use on such signals and the bundled ones; what cannot be used is noted."""
    rivals = [name for name, spec in usable(RIVALS[kind], notes) if all(_takes(spec, shape, kind) for shape in shapes)]
    ours = []
    for name in hub.bundled_names():
        if not name.startswith(_OURS[kind]):
            continue
        codec = create_codec(name)
        if all(_takes(codec.spec, shape, kind) for shape in shapes):
            ours += [name, *_linear(name, codec)]
    return [*rivals, *ours]


def _linear(name: str, codec: Codec) -> list[str]:
    """The same codec without its network, where it decodes by a light one."""
    try:
        other = create_codec(name, decoder="linear")
    except CmlError:
        return []
    return [f"{name}:decoder=linear"] if other.spec.name != codec.spec.name else []


def _takes(spec: CodecSpec, shape: tuple[int, ...], kind: str) -> bool:
    """Whether a codec takes a signal (C, *three axes), or a cube with its bands as channels."""
    if spec.ndim == 2 and kind == "cube":
        return shape[0] == 1 and shape[1] in spec.channels
    return spec.ndim == 3 and shape[0] in spec.channels


def _measures(kind: str, shapes: Sequence[tuple[int, ...]], notes: list[str]) -> dict[str, Measure]:
    def span(x: np.ndarray) -> tuple[float, float]:
        return (0, _PEAK) if kind == "video" else (float(x.min()), float(x.max()) - float(x.min()))

    measures: dict[str, Measure] = {"psnr": lambda x, y: volume_metrics.psnr(x, y, span(x)[1])}
    side = min(min(shape[2:]) for shape in shapes)
    if side < SSIM_SIDE:
        notes.append(f"SSIM is left out: the shortest side of the slices is {side}, and it needs {SSIM_SIDE}.")
    else:
        measures["ssim"] = lambda x, y: volume_metrics.ssim(x, y, *span(x))
    if kind == "cube":
        measures["sam"] = volume_metrics.spectral_angle
    return measures


def _keys(plan: VolumePlan, point: Point) -> dict[str, str]:
    """Signal -> content key of its measurement at a point."""
    spec = point.codec.spec
    context = {
        "volume_rd_version": VOLUME_RD_VERSION, "codec": spec.name, "codec_id": spec.codec_id,
        "settings": dict(spec.settings), "kind": plan.kind, "measures": sorted(plan.measures),
        "versions": library_versions(_LIBRARIES),
    }  # fmt: skip
    return {name: cell_key(context | {"signal": content}) for name, content in plan.contents.items()}


def compress(codec: Codec, x: Tensor) -> bytes:
    """A signal (C, *three axes) to bytes; a codec of two axes gets its bands as channels."""
    return codec.compress(x[0] if codec.spec.ndim == 2 else x)


def decompress(codec: Codec, blob: bytes) -> Tensor:
    """The way back, to (C, *three axes)."""
    x_hat = codec.decompress(blob)
    return x_hat[None] if codec.spec.ndim == 2 else x_hat


def _warm_up(codec: Codec, x: Tensor) -> None:
    """A corner goes there and back: a whole scan or clip would take as long as its measurement."""
    first = x.shape[1] if codec.spec.ndim == 2 else 16
    decompress(codec, compress(codec, x[:, :first, :128, :128].contiguous()))


def _measure_one(plan: VolumePlan, point: Point, name: str, key: str, signal: SignalFile) -> VolumeRow:
    codec, x = point.codec, signal.samples
    blob, encode = cpu_timed(lambda: compress(codec, x))
    x_hat, decode = cpu_timed(lambda: decompress(codec, blob))
    before, after = (restore(samples, signal.facts) for samples in (x, x_hat))
    values = dict.fromkeys(MEASURES, math.nan) | {name: f(before, after) for name, f in plan.measures.items()}
    channels, slices, height, width = x.shape
    voxels = slices * height * width
    return VolumeRow(
        key=key, signal=name, curve=point.curve, point=codec.spec.name, channels=channels, slices=slices, height=height,
        width=width, bit_depth=8 * x.element_size(), bytes=len(blob), bpv=8 * len(blob) / voxels, **values,
        encode_mvps=voxels / encode / 1e6, decode_mvps=voxels / decode / 1e6,
    )  # fmt: skip


def _told(taken: Sequence[VolumeRow]) -> str:
    bits, quality = (statistics.fmean(getattr(row, name) for row in taken) for name in ("bpv", "psnr"))
    return f"{len(taken)} signals, {bits:.4f} bits a voxel, {quality:.2f} dB"
