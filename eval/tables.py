"""Conditions compared on equal terms: at equal rate, at equal tokens, and over whole curves; one CSV file each.

A file of `RUN/tables/` begins with its title and its notes, on lines that begin with #. A difference X has its 95 %
interval in X_low and X_high, and a star in X_mark only where that interval excludes zero.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from cml.eval.curves import bd_rate
from cml.eval.protocols import REUSED
from cml.eval.rd import curve_of
from cml.eval.results import Result, Run
from cml.eval.statistics import (
    Interval,
    ScoredCurve,
    bd_accuracy,
    bd_rate_of_score,
    outcome_of,
    score_difference,
)

from cml.errors import CmlError
from cml.files import read_bytes, write_atomic
from cml.hub import bundled_names

FOLDER = "tables"
RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
"""Bits a pixel, a voxel, or a sample of sound, at which curves are compared."""
ANCHORS = (("reconstruction", "jpeg"), ("reconstruction", "opus"))
"""View and codec that curves are compared with, where a run has it."""
SINGLE_RATE = (*REUSED, "spectrogram", "pca")  # views of the originals
PER_COMPARISON = (
    "*: the 95 % paired bootstrap interval over the test items excludes zero. Intervals are per comparison: of twenty "
    "codecs that are equal, one gets a star by chance."
)


@dataclass(frozen=True)
class NamedTable:
    """A table with what explains it.

    Attributes:
        name: of its file.
        title: one line.
        notes: one line each.
        frame: numbers, not rounded.
    """

    name: str
    title: str
    notes: tuple[str, ...]
    frame: pd.DataFrame


@dataclass(frozen=True, eq=False)
class RunCurve:
    """The operating points of a codec in one view: what its options other than the one that steers the rate say.

    Attributes:
        view, codec: "reconstruction", "jpeg".
        scored: rates and scores, for intervals.
        rates, psnr: of every operating point; NaN where nothing is reconstructed.
    """

    view: str
    codec: str
    scored: ScoredCurve
    rates: list[float]
    psnr: list[float]


def curves_of(run: Run, results: Sequence[Result]) -> list[RunCurve]:
    """The curves of a run, from the items of its good cells; views of the originals are single points and not here."""
    cells: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for result in results:
        if result.status == "ok" and result.view not in SINGLE_RATE:
            points = cells.setdefault((result.view, _curve_name(result.codec)), {})
            points.setdefault(result.codec, []).append(result)
    curves = []
    for (view, codec), points in cells.items():
        firsts = [seeds[0] for seeds in points.values()]
        outcomes = [np.stack([outcome_of(run.items(r.key)) for r in seeds]) for seeds in points.values()]
        rates = [first.bpp for first in firsts]
        psnr = [math.nan if first.psnr is None else first.psnr for first in firsts]
        curves.append(RunCurve(view, codec, ScoredCurve.of(rates, outcomes), rates, psnr))
    return curves


def _curve_name(codec: str) -> str:
    try:
        return curve_of(codec)
    except CmlError:  # a run of another machine: the codec, or its package, is not here
        return codec.partition(":")[0]


def anchor_of(curves: Sequence[RunCurve]) -> RunCurve | None:
    """JPEG, or Opus, decoded; the first curve where there is none."""
    return next((c for c in curves if (c.view, c.codec) in ANCHORS), curves[0] if curves else None)


def rate_matched(curves: Sequence[RunCurve], anchor: RunCurve) -> NamedTable:
    """The score of every curve at a few rates inside what was measured, and its difference from the anchor."""
    rows = []
    for rate in RATES:
        scores = [float(curve.scored.score_at(rate)[0]) for curve in curves]
        if sum(map(math.isfinite, scores)) < 2:
            continue
        for curve, score in zip(curves, scores, strict=True):
            if math.isfinite(score):
                row = {"bpp": rate, "view": curve.view, "codec": curve.codec, "score": score}
                gain = None if curve is anchor else score_difference(anchor.scored, curve.scored, rate)
                rows.append(row | _interval("difference", gain))
    notes = (
        "score: on the whole test split, interpolated over log rate (PCHIP) between operating points that no "
        "other point of the curve beats; never beyond what was measured.",
        f"difference: from {_title(anchor)} at the same rate. {PER_COMPARISON}",
    )
    return NamedTable("rate_matched", "At equal rate", notes, pd.DataFrame(rows))


def token_matched(table: pd.DataFrame, score: str) -> NamedTable:
    """The conditions of a summary by the tokens that the model reads, each with its cost."""
    columns = ["tokens", "view", "codec", score, f"{score}_sd", "bpp", "dimensions", "stem_macs", "backbone_macs"]
    frame = table.loc[:, columns].copy()
    notes = [f"{score}_sd: standard deviation over seeds. Equal tokens are equal cost of the backbone."]
    control = table.attrs.get("control")
    if control is not None:
        gains = zip(table["view"], table["gain"], table["gain_low"], table["gain_high"], strict=True)
        against = [_interval("gain", None if v == control else Interval(g, a, b)) for v, g, a, b in gains]
        frame = pd.concat([frame, pd.DataFrame(against, index=frame.index)], axis=1)
        notes.append(f"gain: from {control}, on the same test items. {PER_COMPARISON}")
    frame = frame.sort_values("tokens", kind="stable").reset_index(drop=True)
    return NamedTable("token_matched", "At equal tokens", tuple(notes), frame)


def bjontegaard(curves: Sequence[RunCurve], anchor: RunCurve) -> NamedTable:
    """BD-accuracy and BD-rate of every curve against the anchor."""
    rows = []
    for curve in curves:
        if curve is anchor:
            continue
        gain, refusal = _or_why(bd_accuracy, anchor, curve)
        rate, refused = _or_why(bd_rate_of_score, anchor, curve)
        row: dict[str, object] = {"view": curve.view, "codec": curve.codec}
        row |= _interval("bd_accuracy", gain) | _interval("bd_rate", rate)
        row |= {"bd_rate_psnr": _bd_rate_psnr(anchor, curve), "why_not": refusal or refused}
        rows.append(row)
    notes = (
        f"Against {_title(anchor)}. bd_accuracy: mean difference in score at equal rate; bd_rate: mean difference in "
        "rate at equal score, %, and bd_rate_psnr at equal PSNR; over what both curves reach.",
        "An interval is left out where more than 5 % of the resampled curves have no common range. " + PER_COMPARISON,
    )
    return NamedTable("bd", f"Whole curves, against {_title(anchor)}", notes, pd.DataFrame(rows))


def bjontegaard_pairs(curves: Sequence[RunCurve]) -> NamedTable:
    """BD-accuracy of every curve against every other one: a row against a column."""
    able = {_title(curve): curve for curve in curves if len(curve.scored.rates) >= 2}
    rows = []
    for name, curve in able.items():
        gains = {other: _or_why(bd_accuracy, against, curve)[0] for other, against in able.items() if other != name}
        rows.append({"curve": name} | {other: _starred(gains.get(other)) for other in able})
    notes = (
        "Mean difference in score at equal rate, of the row against the column: above zero, the row is better. "
        "Empty: fewer than 4 operating points that no other one beats, or no common rates.",
        PER_COMPARISON,
    )
    return NamedTable("bd_pairs", "Whole curves, each against each other", notes, pd.DataFrame(rows))


def bundled_against_others(curves: Sequence[RunCurve]) -> NamedTable:
    """BD-accuracy and BD-rate of each bundled codec against each other codec, decoded for the same model."""
    decoded = [curve for curve in curves if curve.view == "reconstruction"]
    ours = [curve for curve in decoded if curve.codec.partition(":")[0] in bundled_names()]
    rows = []
    for curve in ours:
        for other in (other for other in decoded if other not in ours):
            gain, rate = _or_why(bd_accuracy, other, curve)[0], _or_why(bd_rate_of_score, other, curve)[0]
            if gain or rate:
                row: dict[str, object] = {"codec": curve.codec, "against": other.codec}
                rows.append(row | _interval("bd_accuracy", gain) | _interval("bd_rate", rate))
    notes = (
        "bd_accuracy: mean difference in score at equal rate, above zero: the bundled codec is better; bd_rate: mean "
        f"difference in rate at equal score, %, below zero: it is better. {PER_COMPARISON}",
    )
    return NamedTable("bd_bundled", "The bundled codecs against each other codec", notes, pd.DataFrame(rows))


def trained_on(table: pd.DataFrame, score: str) -> NamedTable:
    """What training on decoded pictures changes: a model trained on originals and one trained on what the codec makes.

    Args:
        table: of `summarize`, with conditions of the view `retrained`; without them the table is empty.
        score: its main score.
    """
    rows = []
    originals = table.loc[table["view"] == "bigpatch"]
    for _, again in table.loc[table["view"] == "retrained"].iterrows():
        before = table.loc[(table["view"] == "reconstruction") & (table["codec"] == again["codec"])]
        row: dict[str, object] = {"codec": again["codec"], "bpp": again["bpp"]}
        row["originals_on_originals"] = originals[score].mean()
        row["originals_on_decoded"] = before[score].mean()
        row["decoded_on_decoded"] = again[score]
        row["decoded_on_originals"] = again["on_originals"]
        for name, source in (("loss", before), ("loss_retrained", again.to_frame().T)):
            here = [float(source[part].iloc[0]) for part in ("gain", "gain_low", "gain_high")] if len(source) else None
            row |= _interval(name, Interval(*here) if here else None)
        rows.append(row)
    notes = (
        "originals_on_decoded: trained on originals, tested on decoded pictures, and so on. loss and loss_retrained: "
        "difference in share of right answers on decoded pictures from the model of originals on originals, by the "
        f"model trained on originals and by the one trained on decoded pictures. {PER_COMPARISON}",
    )
    return NamedTable("trained_on", "Trained on originals, or on decoded pictures", notes, pd.DataFrame(rows))


def write(run: Run, table: pd.DataFrame, results: Sequence[Result], score: str) -> None:
    """Write every table that the run has data for.

    Args:
        run: where the items are, and where the files go.
        table: of `summarize`.
        results: the cells of the table.
        score: its main score.
    """
    made = [trained_on(table, score)] if len(table) else []
    if len(table) and np.any(table["train_ips"]):  # else one model read everything
        made.append(token_matched(table, score))
    curves = curves_of(run, results)
    anchor = anchor_of(curves)
    if anchor is not None:
        made += [rate_matched(curves, anchor), bjontegaard(curves, anchor), bjontegaard_pairs(curves)]
        made += [bundled_against_others(curves)]
    kbps = float(table["kbps"].iloc[0] / table["bpp"].iloc[0]) if "kbps" in table else None
    for one in made if kbps is None else [_of_sound(one, kbps) for one in made]:
        path = run.folder / FOLDER / f"{one.name}.csv"
        numbers = one.frame.drop(columns=["view", "codec", "curve", "why_not"], errors="ignore")
        if (numbers.notna() & (numbers != "")).to_numpy().any():  # else every comparison was refused
            head = "".join(f"# {line}\n" for line in (one.title, *one.notes))
            write_atomic(path, head + one.frame.to_csv(index=False, float_format="%.6g"))
        else:
            path.unlink(missing_ok=True)


def _of_sound(table: NamedTable, kbps: float) -> NamedTable:
    """A table with kilobits a second where it has bits a sample, and the words that suit."""
    title, *notes = (text.replace("picture", "sound") for text in (table.title, *table.notes))
    frame = table.frame
    if "bpp" in frame:
        frame = frame.assign(bpp=frame["bpp"] * kbps).rename(columns={"bpp": "kbps"})
    return NamedTable(table.name, title, tuple(notes), frame)


def markdown(folder: Path) -> list[str]:
    """The tables of a run's folder as lines of a report: each difference with its interval in one cell."""
    lines: list[str] = []
    for name in ("trained_on", "rate_matched", "bd", "bd_bundled", "bd_pairs", "token_matched"):
        path = folder / FOLDER / f"{name}.csv"
        if not path.exists():
            continue
        text = read_bytes(path).decode().splitlines()
        title, *notes = [line.removeprefix("# ") for line in text if line.startswith("#")]
        rows = list(csv.DictReader(io.StringIO("\n".join(line for line in text if not line.startswith("#")))))
        shown = [_readable(row) for row in rows]
        lines += [f"## {title}", "", "| " + " | ".join(shown[0]) + " |", "|---" * len(shown[0]) + "|"]
        lines += ["| " + " | ".join(row.values()) + " |" for row in shown]
        lines += ["", *(part for note in notes for part in (note, ""))]
    return lines


def _readable(row: Mapping[str, str]) -> dict[str, str]:
    parts = ("_low", "_high", "_mark")
    single = {k: v for k, v in row.items() if not (k.endswith(parts) and k.rpartition("_")[0] in row)}
    for name, value in single.items():
        low, high, mark = (row.get(name + part, "") for part in parts)
        if value and low:
            single[name] = f"{float(value):+.4g} [{float(low):+.4g}, {float(high):+.4g}]{mark}"
    # not in the names of curves
    return {name.replace("_", " ") if name.isidentifier() else name: value for name, value in single.items()}


def _interval(name: str, value: Interval | None) -> dict[str, object]:
    """The four columns of a difference."""
    if value is None:
        return {name: math.nan, f"{name}_low": math.nan, f"{name}_high": math.nan, f"{name}_mark": ""}
    mark = "*" if value.excludes_zero else ""
    return {name: value.difference, f"{name}_low": value.low, f"{name}_high": value.high, f"{name}_mark": mark}


def _starred(value: Interval | None) -> str:
    return "" if value is None else f"{value.difference:+.4f}" + ("*" if value.excludes_zero else "")


def _or_why(measure, anchor: RunCurve, curve: RunCurve) -> tuple[Interval | None, str]:
    try:
        return measure(anchor.scored, curve.scored), ""
    except CmlError as error:
        return None, str(error)


def _bd_rate_psnr(anchor: RunCurve, curve: RunCurve) -> float:
    try:
        return bd_rate(anchor.rates, anchor.psnr, curve.rates, curve.psnr)
    except CmlError:  # nothing reconstructed, too few points, or no common range
        return math.nan


def _title(curve: RunCurve) -> str:
    return f"{curve.codec} ({curve.view})"
