"""The report of `rd`: BD-rates, a table of operating points, the printed numbers beside ours, and the curves drawn."""

import io
import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
from cml.eval.curves import Curve, bd_rate
from cml.eval.printed import KODAK_PICTURES, PRINTED_ANCHOR, PRINTED_BD_RATE, Printed
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cml.codecs.cost import COST_COLUMNS, cost_cells
from cml.codecs.factory import create_codec
from cml.errors import CmlError
from cml.files import write_atomic

BD_MEANING = (
    "Mean difference in rate at equal quality (PCHIP in log rate, over the common range of quality; points that "
    "another point of the codec beats are left out): below zero is fewer bits. Empty: fewer than four points, or no "
    "common range."
)
LABELS = {"psnr": "PSNR", "ssim": "SSIM", "ms_ssim": "MS-SSIM", "lpips_db": "LPIPS dB", "dists_db": "DISTS dB"}


@dataclass(frozen=True)
class Request:
    """What was asked for, and with what it was done."""

    data: str
    codecs: Sequence[str] | None
    out: str
    anchor: str
    printed: bool | None
    perceptual: bool
    pictures: int
    versions: Mapping[str, str]
    settings: Mapping[str, Mapping[str, Any]]

    @property
    def command(self) -> str:
        """The command line that makes this benchmark again."""
        parts = ["cml", "rd", self.data]
        for codec in self.codecs or ():
            parts += ["-c", codec]
        parts += ["-o", self.out] + (["--anchor", self.anchor] if self.anchor != "jpeg2000" else [])
        if self.printed is not None:
            parts.append("--printed" if self.printed else "--no-printed")
        return shlex.join(parts + (["--perceptual"] if self.perceptual else []))


def similarity_db(value: float) -> float:
    """-10 log10(1 - value), which tells values near 1 apart; infinite at 1."""
    return -10 * math.log10(1 - value) if value < 1 else math.inf


def measured(table: pd.DataFrame) -> list[str]:
    """The measures that the table holds."""
    return [name for name in LABELS if any(pd.notna(value) for value in table[name])]


def curves_of(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each curve, in the order of the table."""
    return {str(name): pd.DataFrame(table.loc[table["curve"] == name]) for name in dict.fromkeys(table["curve"])}


def quality(table: pd.DataFrame, name: str) -> list[float]:
    """A measure on the scale on which curves are compared: MS-SSIM in dB, the others as they are."""
    values = [float(value) for value in table[name]]
    return [similarity_db(value) for value in values] if name == "ms_ssim" else values


def bd_rates(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """BD-rate of every curve against the anchor, a column a measure, in percent; NaN where there is none."""
    return compare_curves(table, anchor, "bpp", {name: LABELS[name] for name in measured(table)}, quality)


def compare_curves(
    table: pd.DataFrame,
    anchor: str,
    rate: str,
    labels: Mapping[str, str],
    values: Callable[[pd.DataFrame, str], list[float]],
) -> pd.DataFrame:
    """BD-rate of every curve against the anchor.

    Args:
        table: with the column `curve`.
        anchor: one of its curves.
        rate: the column of rates.
        labels: measure -> heading.
        values: a measure of a part of the table, so that more is better.
    """
    curves = curves_of(table)
    base = curves.get(anchor, table.head(0))
    rows = []
    for name, group in curves.items():
        row: dict[str, object] = {"codec": name}
        for column, label in labels.items():
            row[label] = bd_or_nan(list(base[rate]), values(base, column), list(group[rate]), values(group, column))
        rows.append(row)
    return pd.DataFrame(rows)


def bd_or_nan(anchor_rates: list[float], anchor_quality: list[float], rates: list[float], values: list[float]) -> float:
    """The BD-rate, or NaN where there is none."""
    try:
        return bd_rate(anchor_rates, anchor_quality, rates, values)
    except CmlError:  # too few points, or no common range of quality
        return math.nan


def against_printed(table: pd.DataFrame, printed: Sequence[Printed]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """For each printed row our PSNR at its rate, and our rate at its PSNR, a column a curve; NaN out of range."""
    curves = {name: Curve.of(list(group["bpp"]), list(group["psnr"])) for name, group in curves_of(table).items()}
    head = [{"printed": f"{p.model} {p.point}".strip(), "bpp": p.bpp, "PSNR": p.psnr} for p in printed]
    at_rate = [{name: curve.quality_at(p.bpp) for name, curve in curves.items()} for p in printed]
    at_quality = [{name: curve.rate_at(p.psnr) for name, curve in curves.items()} for p in printed]
    return _beside(head, at_rate), _beside(head, at_quality)


def _beside(head: list[dict[str, Any]], cells: list[dict[str, float]]) -> pd.DataFrame:
    return pd.DataFrame([first | second for first, second in zip(head, cells, strict=True)])


def against_printed_anchor(table: pd.DataFrame, printed: Sequence[Printed]) -> pd.DataFrame:
    """BD-rate of PSNR against the authors' own JPEG 2000 rows: ours, and those that they print."""
    base = [p for p in printed if p.model == PRINTED_ANCHOR]
    rates, values = [p.bpp for p in base], [p.psnr for p in base]
    rows: list[dict[str, object]] = [
        {"codec": name, "PSNR": bd_or_nan(rates, values, list(group["bpp"]), list(group["psnr"]))}
        for name, group in curves_of(table).items()
    ]
    rows += [{"codec": f"{name} (printed)", "PSNR": value} for name, value in PRINTED_BD_RATE.items()]
    return pd.DataFrame(rows)


def points(table: pd.DataFrame) -> pd.DataFrame:
    """The operating points as a person reads them: rounded, without measures that were not taken."""
    digits = {"psnr": 2, "ssim": 4, "ms_ssim": 4, "lpips_db": 2, "dists_db": 2}
    shown = {"operating point": list(table["point"]), "bpp": [f"{v:.4f}" for v in table["bpp"]]}
    shown |= {LABELS[name]: [f"{v:.{digits[name]}f}" for v in table[name]] for name in measured(table)}
    shown |= {label: [f"{v:.3g}" for v in table[name]] for name, label in _SPEEDS.items()}
    return pd.DataFrame(shown)


_SPEEDS = {"encode_mps": "encode MP/s", "decode_mps": "decode MP/s"}


def print_tables(table: pd.DataFrame, anchor: str, console: Console) -> None:
    """The operating points, and the BD-rates, in the terminal."""
    if len(table):
        print_points(points(table), list(table["curve"]), bd_rates(table, anchor), anchor, console)
    else:
        console.print("No operating point has all of its pictures.")


def print_points(shown: pd.DataFrame, curves: list[str], rates: pd.DataFrame, anchor: str, console: Console) -> None:
    """Operating points, with a line between the curves they are of, and BD-rates."""
    view = as_rich(shown, None)
    for index, (first, second) in enumerate(pairwise(curves)):
        if first != second:
            view.rows[index].end_section = True
    console.print(view)
    console.print(as_rich(percent(rates), f"BD-rate against {anchor}, %"))


def as_rich(frame: pd.DataFrame, title: str | None) -> Table:
    view = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), title=title)
    for index, name in enumerate(frame):
        view.add_column(str(name), justify="right" if index else "left", no_wrap=True)
    for row in frame.itertuples(index=False):
        view.add_row(*map(str, row))
    return view


def percent(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers as text with their sign."""
    return frame.map(lambda v: v if isinstance(v, str) else "" if pd.isna(v) else f"{v:+.1f}")


def write(table: pd.DataFrame, request: Request, printed: Sequence[Printed]) -> None:
    """Write OUT.md and OUT.png; nothing while no operating point is complete."""
    if not len(table):
        return
    from cml.eval import rd_figure

    rd_figure.draw(table, printed, Path(f"{request.out}.png"))
    write_atomic(f"{request.out}.md", markdown(table, request, printed))


def markdown(table: pd.DataFrame, request: Request, printed: Sequence[Printed]) -> str:
    """The report."""
    name = Path(request.out).name
    lines = [
        f"# Rate and distortion on {Path(request.data).name}, {request.pictures} pictures",
        "",
        "Rate: 8 x the bytes of the whole file or container / pixels, mean over the pictures. PSNR: over all channels "
        "of each picture rounded to 8 bits, mean of the dB. SSIM and MS-SSIM: piq (SSIM averages pictures down by "
        "round(shorter side / 256) first). Speeds: one thread, whole pictures, median over the pictures of the median "
        "of up to three passes after a warm-up; they depend on what else the machine does.",
        "",
        f"![Curves]({name}.png)",
        "",
        f"## BD-rate against {request.anchor}, %",
        "",
        "Mean difference in rate at equal quality (PCHIP in log rate, over the common range of quality; points that "
        "another point of the codec beats are left out; MS-SSIM as -10 log10(1 - MS-SSIM)): below zero is fewer bits. "
        "Empty: fewer than four points, or no common range.",
        "",
        as_markdown(percent(bd_rates(table, request.anchor))),
        "",
    ]
    if printed:
        lines += _printed_section(table, printed, request.pictures)
    lines += ["## Operating points", "", as_markdown(points(table)), ""]
    lines += closing(table, request, "Left out")
    lines += ["| " + " | ".join(("operating point", *COST_COLUMNS, "settings")) + " |"]
    lines += ["|---" + "|--:" * len(COST_COLUMNS) + "|---|"]
    for point, settings in request.settings.items():
        lines += [
            "| " + " | ".join((point, *cost_cells(create_codec(point)), f"`{json.dumps(dict(settings))}`")) + " |"
        ]
    return "\n".join(lines) + "\n"


def closing(table: pd.DataFrame, request: Request, notes: str) -> list[str]:
    """How a report ends: what is to be noted, under that heading, what failed, and how it was made."""
    lines = []
    if table.attrs.get("notes"):
        lines += [f"## {notes}", "", *(f"- {note}" for note in table.attrs["notes"]), ""]
    if table.attrs.get("failed"):
        lines += ["## Failed", "", *(f"- {sentence}" for sentence in table.attrs["failed"]), ""]
    made = ["## Made by", "", "```", request.command, "```", "", f"`{json.dumps(dict(request.versions))}`", ""]
    return [*lines, *made]


def settings_table(request: Request) -> list[str]:
    """The options in force at each operating point."""
    rows = [f"| {point} | `{json.dumps(dict(settings))}` |" for point, settings in request.settings.items()]
    return ["| operating point | settings |", "|---|---|", *rows]


def _printed_section(table: pd.DataFrame, printed: Sequence[Printed], pictures: int) -> list[str]:
    at_rate, at_quality = against_printed(table, [row for row in printed if row.model != PRINTED_ANCHOR])
    warning = "**These are not the 24 pictures of Kodak: nothing here compares with the printed numbers.**"
    return [
        "## Beside the printed numbers",
        "",
        "What the authors of WaLLoC and LiVeAction print for Kodak (`eval/printed.py` says from where, and what is "
        "wrong with it). Their JPEG 2000 is one without colour transform, four decibels and more below what JPEG 2000 "
        "does, and it is what their BD-rates are against; the first table is against it too.",
        *(() if pictures == KODAK_PICTURES else ("", warning)),
        "",
        f"BD-rate of PSNR against the printed {PRINTED_ANCHOR}, %:",
        "",
        as_markdown(percent(against_printed_anchor(table, printed))),
        "",
        "Our PSNR in dB at each printed rate (interpolated; empty outside what was measured):",
        "",
        as_markdown(_numbers(at_rate, 2)),
        "",
        "Our rate in bpp at each printed PSNR:",
        "",
        as_markdown(_numbers(at_quality, 3)),
        "",
    ]


def _numbers(frame: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Our columns with some digits, the printed ones as they were printed."""
    out = frame.astype(object)
    for index, name in enumerate(frame.columns[1:]):
        form = ("g", ".2f")[index] if index < 2 else f".{digits}f"
        out[name] = ["" if pd.isna(v) else f"{v:{form}}" for v in frame[name]]
    return out


def as_markdown(frame: pd.DataFrame) -> str:
    text = io.StringIO()
    text.write("| " + " | ".join(map(str, frame.columns)) + " |\n")
    text.write("|---" + "|--:" * (len(frame.columns) - 1) + "|")
    for row in frame.itertuples(index=False):
        text.write("\n| " + " | ".join(map(str, row)) + " |")
    return text.getvalue()
