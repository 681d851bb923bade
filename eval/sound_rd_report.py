"""The report of `rd` for sound: BD-rates, equal rates, a table of operating points, and the curves drawn."""

from pathlib import Path

import pandas as pd
from cml.eval.curves import Curve
from cml.eval.rd_report import (
    BD_MEANING,
    Request,
    as_markdown,
    closing,
    compare_curves,
    curves_of,
    percent,
    print_points,
    settings_table,
)
from rich.console import Console

from cml.files import write_atomic

LABELS = {
    "si_sdr": "SI-SDR", "psnr": "PSNR", "lsd": "LSD", "dnsmos": "DNSMOS", "level_error": "level",
    "covariance_error": "cov.",
}  # fmt: skip
_DIGITS = {"covariance_error": 3}
COMPARED = ("si_sdr", "psnr", "lsd", "dnsmos")
"""The measures of which curves are compared."""
LESS_IS_BETTER = frozenset({"lsd"})
RATES = (6, 12, 24, 48, 96)
"""kbit/s at which codecs are compared."""


def measured(table: pd.DataFrame) -> list[str]:
    """The measures that the table holds."""
    return [name for name in LABELS if any(pd.notna(value) for value in table[name])]


def quality(table: pd.DataFrame, name: str) -> list[float]:
    """A measure so that more is better."""
    sign = -1 if name in LESS_IS_BETTER else 1
    return [sign * float(value) for value in table[name]]


def bd_rates(table: pd.DataFrame, anchor: str) -> pd.DataFrame:
    """BD-rate of every curve against the anchor, a column a measure, in percent; NaN where there is none."""
    labels = {name: LABELS[name] for name in measured(table) if name in COMPARED}
    return compare_curves(table, anchor, "kbps", labels, quality)


def at_rates(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """A measure of every curve at `RATES`, interpolated over log rate; NaN outside the measured rates."""
    sign = -1 if name in LESS_IS_BETTER else 1
    rows = []
    for label, group in curves_of(table).items():
        curve = Curve.of(list(group["kbps"]), quality(group, name))
        rows.append({"codec": label} | {f"{rate} kbit/s": sign * curve.quality_at(rate) for rate in RATES})
    return pd.DataFrame(rows)


def points(table: pd.DataFrame, narrow: bool = False) -> pd.DataFrame:
    """The operating points as a person reads them: rounded, without measures that were not taken.

    Narrow, for a terminal, it is without the speeds in samples.
    """
    samples = table.attrs["rate"] * table.attrs["channels"] / 1e6  # millions a second of sound
    shown = {"operating point": list(table["point"]), "kbit/s": [f"{v:.2f}" for v in table["kbps"]]}
    for name in measured(table):
        shown[LABELS[name]] = ["" if pd.isna(v) else f"{v:.{_DIGITS.get(name, 2)}f}" for v in table[name]]
    for verb in ("encode", "decode"):
        shown[f"{verb} x" if narrow else f"{verb}, x real time"] = [f"{v:.3g}" for v in table[f"{verb}_x"]]
        if not narrow:
            shown[f"{verb}, M samples/s"] = [f"{v * samples:.3g}" for v in table[f"{verb}_x"]]
    return pd.DataFrame(shown)


def print_tables(table: pd.DataFrame, anchor: str, console: Console) -> None:
    """The operating points, and the BD-rates, in the terminal."""
    if len(table):
        shown = points(table, narrow=True)
        print_points(shown, list(table["curve"]), bd_rates(table, anchor), anchor, console)
    else:
        console.print("No operating point has all of its clips.")


def write(table: pd.DataFrame, request: Request) -> None:
    """Write OUT.md and OUT.png; nothing while no operating point is complete."""
    if not len(table):
        return
    from cml.eval import sound_rd_figure

    sound_rd_figure.draw(table, Path(f"{request.out}.png"))
    write_atomic(f"{request.out}.md", markdown(table, request))


def markdown(table: pd.DataFrame, request: Request) -> str:
    """The report."""
    name = Path(request.out).name
    lines = [
        f"# Rate and distortion of sound on {request.data}, {request.pictures} clips",
        "",
        _conventions(table.attrs["rate"], table.attrs["channels"], "dnsmos" in measured(table)),
        "",
        f"![Curves]({name}.png)",
        "",
        f"## BD-rate against {request.anchor}, %",
        "",
        BD_MEANING,
        "",
        as_markdown(percent(bd_rates(table, request.anchor))),
        "",
        "## At equal rates",
        "",
        "Interpolated over log rate; empty outside what was measured.",
        "",
    ]
    for column in (name for name in measured(table) if name in COMPARED and name != "psnr"):
        at = at_rates(table, column)
        shown = at.map(lambda v: v if isinstance(v, str) else "" if pd.isna(v) else f"{v:.2f}")
        lines += [as_markdown(shown.rename(columns={"codec": LABELS[column]})), ""]
    lines += ["## Operating points", "", as_markdown(points(table)), ""]
    lines += [*closing(table, request, "Notes"), *settings_table(request)]
    return "\n".join(lines) + "\n"


def _conventions(rate: int, channels: int, speech: bool) -> str:
    """How the numbers are meant."""
    parts = [
        f"{rate} Hz, {channels} channel(s). Rate: 8 x the bytes of the whole file or container / seconds, mean over "
        "the clips.",
        "SI-SDR: one scale for all channels of a clip, no mean removed, from -30 to 100 dB, mean of the dB.",
        "PSNR: against full scale, 1.",
        "LSD: log-spectral distance, frames of about 40 ms, powers below -80 dB of a full-scale sine taken as that; "
        "less is better.",
    ]
    if speech:
        parts.append("DNSMOS: P.835, overall, without a reference.")
    if channels > 1:
        parts.append(
            "Level: the error of the channels' levels, mean of |dB|. Cov.: the relative error of their covariances, in "
            "frames of about 40 ms."
        )
    parts.append(
        "Speeds: CPU time of one thread, whole clips, median over the clips of the median of up to three passes after "
        "a warm-up; resampling to the rate inside a file belongs to them."
    )
    return " ".join(parts)
