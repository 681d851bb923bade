"""The report of `rd` for signals of three axes: BD-rates, what ours and others reach at equal bits, speeds, curves."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from cml.eval.curves import Curve
from cml.eval.rd_report import (
    BD_MEANING,
    Request,
    as_markdown,
    closing,
    compare_curves,
    percent,
    print_points,
    settings_table,
)
from cml.eval.volume_rows import VolumeRow, nearest, rate_of
from rich.console import Console

from cml.codecs.base import CodecSpec
from cml.files import write_atomic

LABELS = {"psnr": "PSNR", "ssim": "SSIM", "sam": "angle"}
_PANELS = {"psnr": "PSNR, dB", "ssim": "SSIM", "sam": "spectral angle, degrees (less is better)"}
_DIGITS = {"psnr": 2, "ssim": 4, "sam": 2}
LESS_IS_BETTER = frozenset({"sam"})
_MOST_SIGNALS = 4  # that have a table of their own
NOUNS: Mapping[str, str] = {"volume": "volumes", "cube": "hyperspectral cubes", "video": "video"}


def measured(table: pd.DataFrame) -> list[str]:
    """The measures that the table holds."""
    return [name for name in LABELS if any(pd.notna(value) for value in table[name])]


def quality(table: pd.DataFrame, name: str) -> list[float]:
    """A measure so that more is better."""
    sign = -1 if name in LESS_IS_BETTER else 1
    return [sign * float(value) for value in table[name]]


def bd_rates(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """BD-rate of every curve against the anchor, a column a measure, in percent; NaN where there is none."""
    return compare_curves(table, anchor, "bpv", {name: LABELS[name] for name in measured(table)}, quality)


@dataclass(frozen=True)
class Reached:
    """A quality at some bits: `sign` is "<" where the codec takes more bits than these for it, ">" where fewer do, and
    "" where they lie among those that were measured."""

    value: float
    sign: str = ""

    def __str__(self) -> str:
        return "" if math.isnan(self.value) else f"{self.sign} {self.value:.2f}".strip()


def reached(rows: Sequence[VolumeRow], bpv: float) -> Reached:
    """PSNR of the points of one curve, of one signal, at a rate: interpolated over log rate, never extrapolated."""
    curve = Curve.of([row.bpv for row in rows], [row.psnr for row in rows])
    if not curve.rates:
        return Reached(math.nan)
    if bpv < curve.rates[0]:
        return Reached(curve.quality[0], "<")
    return Reached(curve.quality[-1], ">") if bpv > curve.rates[-1] else Reached(curve.quality_at(bpv))


def at_equal_bits(rows: Sequence[VolumeRow], shipped: Sequence[CodecSpec], anchor: str) -> pd.DataFrame:
    """PSNR of every curve at the bits that our codecs take as they are shipped, on one signal.

    A cell is `Reached`; the last row is the gain of each of ours on the anchor, a bound where what the anchor reaches
    is one.

    Args:
        rows: of one signal.
        shipped: operating points, a column each; one that takes the bits of another has none of its own.
        anchor: the curve compared with.
    """
    points = {row.point: row for row in rows}
    curves = {name: [row for row in rows if row.curve == name] for name in dict.fromkeys(row.curve for row in rows)}
    frame: dict[str, list[object]] = {"codec": [*curves, f"gain on {anchor}"]}
    seen: set[int] = set()
    for spec in shipped:
        row = points.get(spec.name)
        if row is None or row.bytes in seen:
            continue
        seen.add(row.bytes)
        values = {
            name: Reached(row.psnr) if name == row.curve else reached(group, row.bpv) for name, group in curves.items()
        }
        base = values.get(anchor, Reached(math.nan))
        gain = Reached(row.psnr - base.value, {"<": ">", ">": "<"}.get(base.sign, ""))
        frame[f"{_column(spec)}: {row.bpv:.4g} bits, {_brief(row.stored / row.bpv)}:1"] = [*values.values(), gain]
    return pd.DataFrame(frame)


def _brief(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{float(f'{value:.3g}'):g}"


def _column(spec: CodecSpec) -> str:
    reduction = spec.dimension_reduction
    return spec.name + ("" if reduction is None else f", DR {reduction:g}")


def speeds(rows: Sequence[VolumeRow], bpv: float, kind: str) -> pd.DataFrame:
    """How fast each curve is at that of its points that is nearest to a rate, by the size of slices.

    Args:
        rows: of all signals, each with the same points.
        bpv: bits a voxel, the mean over the signals.
        kind: of video frames a second, else millions of voxels.
    """
    suffix, unit = ("fps", "frames/s") if kind == "video" else ("mvps", "Mvoxel/s")
    chosen = nearest(rows, bpv)
    sizes = sorted({(row.height, row.width) for row in rows})
    several = len(sizes) > 1 and kind == "video"
    table = []
    for point in chosen.values():
        of_point = [row for row in rows if row.point == point]
        entry: dict[str, object] = {"operating point": point, "bits": f"{rate_of(rows, point):.4f}"}
        for size in sizes if several else [None]:
            of_size = [row for row in of_point if size is None or (row.height, row.width) == size]
            label = f"{size[1]}x{size[0]}, {unit}" if size else unit
            for verb in ("encode", "decode"):
                value = statistics.median(getattr(row, f"{verb}_{suffix}") for row in of_size)
                entry[f"{verb} {label}"] = _brief(value)
        table.append(entry)
    return pd.DataFrame(table)


def points(table: pd.DataFrame, narrow: bool = False) -> pd.DataFrame:
    """The operating points as a person reads them: rounded, without measures that were not taken.

    Narrow, for a terminal, it is without the ratio, and the headings of the speeds are short.
    """
    suffix, unit = ("fps", "frames/s") if table.attrs["kind"] == "video" else ("mvps", "Mvoxel/s")
    shown = {"operating point": list(table["point"]), "bits": [f"{v:.4f}" for v in table["bpv"]]}
    if not narrow:
        shown["ratio"] = [
            f"{_brief(stored / bpv)}:1" for stored, bpv in zip(table["stored"], table["bpv"], strict=True)
        ]
    for name in measured(table):
        shown[LABELS[name]] = ["" if pd.isna(v) else f"{v:.{_DIGITS[name]}f}" for v in table[name]]
    for verb in ("encode", "decode"):
        shown[f"{verb[:3]}. /s" if narrow else f"{verb} {unit}"] = [_brief(v) for v in table[f"{verb}_{suffix}"]]
    return pd.DataFrame(shown)


def print_tables(table: pd.DataFrame, console: Console) -> None:
    """The operating points, and the BD-rates, in the terminal."""
    if len(table):
        anchor = table.attrs["anchor"]
        shown = points(table, narrow=True)
        print_points(shown, list(table["curve"]), bd_rates(table, anchor), anchor, console)
        unit = "frames" if table.attrs["kind"] == "video" else "millions of voxels"
        console.print(f"Speeds: {unit} a second, one thread.")
    else:
        console.print("No operating point has all of its signals.")


def write(table: pd.DataFrame, rows: Sequence[VolumeRow], shipped: Sequence[CodecSpec], request: Request) -> None:
    """Write OUT.md and OUT.png; nothing while no operating point is complete."""
    if not len(table):
        return
    from cml.eval.rd_figure import curves_figure, finish

    unit = "bits a pixel" if table.attrs["kind"] == "video" else "bits a voxel"
    panels = {name: label for name, label in _PANELS.items() if name in measured(table)}
    figure = curves_figure(table, panels, "bpv", f"{unit}, whole file", quality, LESS_IS_BETTER)
    finish(*figure, Path(f"{request.out}.png"))
    write_atomic(f"{request.out}.md", markdown(table, rows, shipped, request))


def markdown(table: pd.DataFrame, rows: Sequence[VolumeRow], shipped: Sequence[CodecSpec], request: Request) -> str:
    """The report."""
    name, kind = Path(request.out).name, table.attrs["kind"]
    complete = set(table["point"])
    rows = [row for row in rows if row.point in complete]
    lines = [
        f"# Rate and distortion of {NOUNS[kind]} on {request.data}, {request.pictures} signal(s)",
        "",
        *_signals(rows),
        "",
        _conventions(kind, measured(table)),
        "",
        f"![Curves]({name}.png)",
        "",
        f"## BD-rate against {request.anchor}, %",
        "",
        BD_MEANING,
        "",
        as_markdown(percent(bd_rates(table, request.anchor))),
        "",
        *_equal_bits(rows, shipped, request.anchor),
        "## At about the same rate",
        "",
        f"![Slices]({name}-slices.png)",
        "",
    ]
    rates = [rate_of(rows, spec.name) for spec in shipped if spec.name in complete]
    if rates:
        lines += [
            f"Speeds of the operating points nearest to {min(rates):.4g} bits:",
            "",
            as_markdown(speeds(rows, min(rates), kind)),
            "",
        ]
    lines += ["## Operating points", "", as_markdown(points(table)), ""]
    return "\n".join([*lines, *closing(table, request, "Notes"), *settings_table(request)]) + "\n"


def _signals(rows: Sequence[VolumeRow]) -> list[str]:
    """A table of what was measured on."""
    each = {row.signal: row for row in rows}.values()
    lines = ["| signal | size | bits a sample | channels |", "|---|--:|--:|--:|"]
    return lines + [
        f"| {row.signal} | {row.slices} x {row.height} x {row.width} | {row.bit_depth} | {row.channels} |"
        for row in each
    ]


def _equal_bits(rows: Sequence[VolumeRow], shipped: Sequence[CodecSpec], anchor: str) -> list[str]:
    signals = list(dict.fromkeys(row.signal for row in rows))
    tables = {
        signal: at_equal_bits([row for row in rows if row.signal == signal], shipped, anchor) for signal in signals
    }
    if len(next(iter(tables.values())).columns) < 2:
        return []
    lines = [
        "## At equal bits",
        "",
        "PSNR, dB, of every codec at the bits that each of ours takes as it is shipped, signal by signal: others are "
        "interpolated over log rate. < is a codec's worst point, which takes more bits than these, > its best, which "
        "takes fewer.",
        "",
    ]
    if len(signals) > 1:
        gains = _gains(tables)
        lines += [f"Gain on {anchor}, dB, mean over the signals and least:", "", as_markdown(gains), ""]
    for signal, frame in list(tables.items())[:_MOST_SIGNALS]:
        lines += [f"{signal}:", "", as_markdown(frame), ""]
    return lines


def _gains(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The last rows of the tables of all signals, a codec a row."""
    gains: dict[str, list[Reached]] = {}
    for frame in tables.values():
        for name in frame.columns[1:]:
            gains.setdefault(str(name).partition(": ")[0], []).append(frame[name].iloc[-1])
    table = []
    for name, values in gains.items():
        known = [gain for gain in values if not math.isnan(gain.value)]
        signs = {gain.sign for gain in known if gain.sign}
        if known and len(signs) < 2:
            mean, least = statistics.fmean(gain.value for gain in known), min(known, key=lambda gain: gain.value)
            row: dict[str, object] = {"codec": name, "mean": Reached(mean, "".join(signs)), "least": least}
            table.append(row | {"signals": len(known)})
    return pd.DataFrame(table, columns=["codec", "mean", "least", "signals"])


def _conventions(kind: str, names: Sequence[str]) -> str:
    """How the numbers are meant."""
    noun, unit, part = {
        "volume": ("voxels", "bits a voxel", "slices"),
        "cube": ("voxels (pixels x bands)", "bits a voxel", "bands"),
        "video": ("pixels of all frames", "bits a pixel, three channels together", "frames"),
    }[kind]
    peak = "255" if kind == "video" else "max - min of the original signal"
    parts = [
        f"Rate: {unit}: 8 x the bytes of the whole file or container / {noun}, mean over the signals. Ratio: the bits "
        "that the samples are stored with (8, 16 or 32 each) / the rate.",
        f"PSNR: over all samples of a signal against {peak}, of the reconstruction rounded and clipped to the dtype of "
        "the file; mean of the dB.",
    ]
    if "ssim" in names:
        parts.append(f"SSIM: as piq has it, mean over the {part}, the same range.")
    if "sam" in names:
        parts.append("Angle: between the spectra of a pixel, degrees, mean over pixels; less is better.")
    parts.append(
        "Speeds: CPU time of one thread, whole signals, median over the signals of the median of up to three passes "
        "after a warm-up; where a library starts threads of its own, their time counts."
    )
    return " ".join(parts)
