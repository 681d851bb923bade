"""The few numbers at the head of the page, each a claim that the table below bears out."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

import pandas as pd
from cml.eval.figures import family
from cml.eval.page_columns import label_of
from cml.eval.protocols import CEILINGS

_KEPT = 0.95
_UNITS = {"bpp": ("bpp", ".3f"), "kbps": ("kbit/s", ".3g")}
_Row = Mapping[Any, Any]


def findings(
    table: pd.DataFrame, score: str, control: str | None, failed: int, cells: int, rate: str = "bpp"
) -> list[dict[str, str]]:
    """Tiles with `value`, `label` and `detail`, in the order of the page.

    Args:
        table: of `report.summarize`.
        score: the main metric, a column of the table.
        control: the view that the column `gain` is against; None where there is no such column.
        failed, cells: failed cells, and all of them.
        rate: "bpp" or "kbps", a column of the table.
    """
    rows: list[_Row] = [*table.to_dict("records")]
    ceiling = next((row for row in rows if row["view"] in CEILINGS), None)
    coded = [row for row in rows if family(row["codec"]) != "identity"]
    tiles = []
    if ceiling is not None:
        detail = f"{label_of(score)} on {ceiling['view']}, never compressed, {ceiling[rate]:.3g} {_UNITS[rate][0]}"
        tiles.append(_tile(_spread(ceiling, score), "the ceiling", detail))
    if coded and ceiling is not None:
        tiles.append(_cheapest(coded, ceiling, rate))
    if coded:
        low = statistics.median_low(row[rate] for row in coded)
        best = max((row for row in coded if row[rate] <= low), key=lambda row: row[score])
        label = f"best {label_of(score)} at {low:.3g} {_UNITS[rate][0]} or less"
        tiles.append(_tile(_spread(best, score), label, f"{_condition(best)}, {_bits(best, rate)}"))
    if coded and control is not None:
        better, worse = sum(row["gain_low"] > 0 for row in coded), sum(row["gain_high"] < 0 for row in coded)
        rest = len(coded) - better - worse
        detail = f"of {len(coded)} conditions, paired interval without zero; {rest} show no difference"
        tiles.append(_tile(f"{better} ▲ {worse} ▼", f"better and worse than {control}", detail))
    detail = f"of {cells} cells; their sentences are below" if failed else f"of {cells} cells: all have a result"
    tiles.append(_tile(str(failed), "failed", detail))
    return tiles


def _cheapest(coded: list[_Row], ceiling: _Row, rate: str) -> dict[str, str]:
    """The lowest rate at which nearly everything is kept."""
    keeping = [row for row in coded if row["retention"] >= _KEPT]
    if not keeping:
        return _tile("none", f"keeps {_KEPT:.0%} of the ceiling", f"of {len(coded)} conditions")
    row = min(keeping, key=lambda row: row[rate])
    detail = f"{_condition(row)}, {ceiling[rate] / row[rate]:.0f} times fewer than raw"
    return _tile(_bits(row, rate), f"keep {_KEPT:.0%} of the ceiling", detail)


def _tile(value: str, label: str, detail: str) -> dict[str, str]:
    return {"value": value, "label": label, "detail": detail}


def _condition(row: _Row) -> str:
    return f"{row['view']} {row['codec']}"


def _bits(row: _Row, rate: str) -> str:
    unit, form = _UNITS[rate]
    return f"{row[rate]:{form}} {unit}"


def _spread(row: _Row, score: str) -> str:
    sd = row.get(f"{score}_sd", math.nan)
    return f"{row[score]:.3f}" + ("" if math.isnan(sd) else f" ±{sd:.3f}")
