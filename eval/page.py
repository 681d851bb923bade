"""The page of a run: everything of it in one file that needs no network, for a browser.

    results.jsonl, run.json, items/, tables/, gallery/, answers --payload--> one dict --render--> report.html

Only what lies in the run's folder is read, so a page can be made where codecs and data are gone.
"""

import base64
import csv
import datetime
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from cml.eval import gallery, page_sounds
from cml.eval.answers import FOLDER
from cml.eval.figures import family
from cml.eval.page_columns import DISTORTIONS, columns_of
from cml.eval.page_findings import findings
from cml.eval.protocols import CEILINGS, VIEWS
from cml.eval.report import PICTURES, command, control_of, main_score, summarize
from cml.eval.results import Result, Run
from cml.eval.statistics import outcome_of, score_interval
from cml.tasks.base import TASKS

from cml.errors import DataError
from cml.files import write_atomic

ASSETS = Path(__file__).parent / "page_assets"
# In the order in which they need each other.
SCRIPTS = (
    "dom.js", "format.js", "scale.js", "marks.js", "labels.js", "chart.js", "tooltip.js", "charts.js", "table.js",
    "download.js", "gallery.js", "sounds.js", "answers.js", "details.js", "main.js",
)  # fmt: skip
_ANSWERS = "answers.png"
_TYPES = {".webp": "image/webp", ".png": "image/png", ".flac": "audio/flac"}


def write(folder: str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        folder: of the run, as `compare` leaves it, finished or not.
        path: of the page; None for `report.html` in the folder.

    Returns:
        Where the page is.

    Raises:
        DataError: the folder holds no results, or not all of them, or the page cannot be written.
    """
    target = Path(path) if path is not None else Path(folder) / "report.html"
    try:
        content = payload(Run(folder))
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; a page needs the whole folder of the run.") from error
    write_atomic(target, render(content))
    return target


def render(content: Mapping[str, Any]) -> str:
    """The page as HTML, with styles, scripts and data inside."""
    parts = {
        "title": content["title"].replace("&", "&amp;").replace("<", "&lt;"),
        "style": (ASSETS / "page.css").read_text(),
        "script": "\n".join((ASSETS / name).read_text() for name in SCRIPTS),
        # "<" may not occur: a name like "</script>" would end the element.
        "data": json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
    }
    return re.sub(r"{{(\w+)}}", lambda match: parts[match[1]], (ASSETS / "page.html").read_text())


def payload(run: Run) -> dict[str, Any]:
    """Everything that the page shows, as JSON takes it: no NaN, no infinity.

    Raises:
        DataError: there are no results.
    """
    stored = _read_json(run.folder / "run.json")
    results = _results(run, stored)
    if not results:
        raise DataError(
            f"{run.folder} holds no results: results.jsonl is missing or empty; give the folder of a `cml compare` run."
        )
    good = [result for result in results if result.status == "ok"]
    failed = [result for result in results if result.status != "ok"]
    about, request = stored.get("about", {}), stored.get("request", {})
    score = about.get("score") or _main_score(good)
    table = summarize(results, run, score if good and score in good[0].metrics else None)
    control = control_of(table)
    ceiling = next((view for view in CEILINGS if good and view in set(table["view"])), CEILINGS[0])
    sound = page_sounds.sampling_rate(about, results[0].context)
    rate = "kbps" if sound else "bpp"
    finished = datetime.datetime.fromtimestamp(run.file.stat().st_mtime)
    context = results[0].context
    names = list(table.columns)
    return {
        "title": _capital(
            f"{about.get('name') or context.get('task', 'comparison')} on {_data_name(request, context)}"
        ),
        "facts": _facts(about, context, table, results, finished),
        "command": command(request) if request else "",
        "findings": findings(table, score, control, len(failed), len(results), rate) if good else [],
        "score": score,
        "chance": _number(table["chance"].iloc[0]) if good else None,
        "control": control,
        "ceiling": ceiling,
        "rate": rate,
        "things": "clips" if sound else "pictures",
        "sound": page_sounds.scales(sound) if sound else None,
        "views": [view for view in VIEWS if good and view in set(table["view"])],
        "distortions": [name for name in DISTORTIONS if name in names and _any(table[name])],
        "columns": columns_of(names, score, control, ceiling, bool(sound)) if good else [],
        "rows": _rows(table, score, good, run),
        "failed": [{"view": r.view, "codec": r.codec, "seed": r.seed, "error": r.error} for r in failed],
        "tables": _tables(run.folder / "tables"),
        "gallery": _gallery(run, good),
        "answers": _answers(run.folder, bool(sound)),
        "settings": _settings(good or failed),
    }


def _results(run: Run, stored: Mapping[str, Any]) -> list[Result]:
    """Those of the last finished comparison; where none has finished, the latest of each cell."""
    done = run.results()
    if stored.get("keys"):
        return [done[key] for key in stored["keys"] if key in done]
    return list({(result.view, result.codec, result.seed): result for result in done.values()}.values())


def _any(values: Any) -> bool:
    return bool(values.notna().any())


def _main_score(good: Sequence[Result]) -> str:
    """Of a run that has not finished, and so has not said it: that of its task."""
    task = str(good[0].context.get("task")) if good else ""
    if task in TASKS:
        return TASKS.get(task).main_score
    return main_score(good) if good else "score"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _data_name(request: Mapping[str, Any], context: Mapping[str, Any]) -> str:
    """The data set by its name; the path to it is in the command."""
    name = str(request.get("data") or context.get("data_revision", "?"))
    return Path(name.partition(":")[2]).name or name


def _facts(
    about: Mapping[str, Any],
    context: Mapping[str, Any],
    table: pd.DataFrame,
    results: Sequence[Result],
    finished: datetime.datetime,
) -> list[list[str]]:
    """Names and values under the title."""
    facts = [["data", about["description"]]] if about.get("description") else []
    counts = [f"{about[split]} to {split}" for split in ("train", "test") if about.get(split)]
    rate = page_sounds.sampling_rate(about, context)
    facts += [["clips" if rate else "pictures", ", ".join(counts)]] if counts else []
    size = about.get("size") or context.get("size")
    if size:
        whole = "x".join(str(n) for n in reversed(size)) + " before any codec"
        facts.append(["size", page_sounds.size_of(size[0], rate) if rate else whole])
    facts += [["model", str(context["backbone"])]] if "backbone" in context else []
    if len(table):
        codecs = table.loc[table["codec"].map(family) != "identity", "codec"].nunique()
        facts.append(["compared", f"{codecs} operating points, {table['view'].nunique()} views"])
        low, high = min(table["seeds"].tolist()), max(table["seeds"].tolist())
        facts.append(["seeds", str(low) if low == high else f"{low} to {high}"])
    versions = context.get("versions", {})
    facts.append(["made with", f"cml {versions.get('cml', results[0].environment.get('cml', '?'))}"])
    facts.append(["finished", f"{finished:%d %B %Y, %H:%M}".lstrip("0")])
    return facts


def _rows(table: pd.DataFrame, score: str, good: Sequence[Result], run: Run) -> list[dict[str, Any]]:
    """The rows of the summary, each with the interval of its score and the family that gives it a colour.

    The interval is the standard deviation over seeds; with one seed the 95 % bootstrap interval over the test items,
    where the score is one of their outcomes.
    """
    rows = []
    for record in table.to_dict("records"):
        row: dict[str, Any] = {
            str(key): value if isinstance(value, str) else _number(value) for key, value in record.items()
        }
        row["family"] = family(row["codec"])
        sd = row.get(f"{score}_sd")
        if sd is not None:
            row |= {"low": row[score] - sd, "high": row[score] + sd, "interval": "sd over seeds"}
        else:
            key = next(r.key for r in good if (r.view, r.codec) == (row["view"], row["codec"]))
            spread = score_interval(outcome_of(run.items(key))[None])
            if math.isclose(spread.difference, record[score], abs_tol=1e-6):
                row |= {"low": spread.low, "high": spread.high, "interval": "95 % bootstrap"}
        if row.get("gain_low") is not None:
            row["mark"] = 1 if row["gain_low"] > 0 else -1 if row["gain_high"] < 0 else 0
        rows.append(row)
    return rows


def _tables(folder: Path) -> list[dict[str, Any]]:
    """Every CSV file of a folder; first lines that begin with # are its title and notes."""
    out = []
    for path in sorted(folder.glob("*.csv")):
        lines = path.read_text().splitlines()
        notes = [line.lstrip("# ").rstrip() for line in lines if line.startswith("#")]
        records = list(csv.reader(line for line in lines if line and not line.startswith("#")))
        if records:
            title, *rest = notes or [path.stem.replace("_", " ")]
            out.append({"name": path.stem, "title": title, "notes": rest, "columns": records[0], "rows": records[1:]})
    return out


def _gallery(run: Run, good: Sequence[Result]) -> list[dict[str, Any]]:
    """The stored pictures or clips as data URIs; beside each how many seeds read that item right."""
    folder = run.folder / "gallery"
    stored = _read_json(folder / gallery.INDEX)
    items = stored.get("pictures") or stored.get("clips") or []
    for item in items:
        item["right"] = _right(run, good, lambda r: r.view == "bigpatch", item["index"]) or _right(
            run, good, lambda r: r.view in CEILINGS, item["index"]
        )
        item["channels"] = stored.get("channels", 0)
        for entry in item["codecs"]:
            name = entry["codec"]
            entry["right"] = _right(
                run, good, lambda r, name=name: r.view == "reconstruction" and r.codec == name, item["index"]
            )
            entry["family"] = family(name)
        for part in (item, *item["codecs"]):
            page_sounds.embed(part, folder, _data_uri)
    return [item for item in items if item["file"]]


def _right(run: Run, good: Sequence[Result], wanted, index: int) -> list[int] | None:
    """[seeds that read an item right, seeds], or None where outcomes are not right or wrong."""
    outcomes = [outcome_of(run.items(result.key)) for result in good if wanted(result)]
    values = [float(outcome[index]) for outcome in outcomes if outcome.ndim == 1 and index < len(outcome)]
    return [round(sum(values)), len(values)] if values and set(values) <= {0.0, 1.0} else None


def _answers(folder: Path, sound: bool) -> dict[str, Any] | None:
    """The picture of answers with its caption, or sounds, of tasks that have one."""
    if sound:
        sounds = page_sounds.answers(folder / FOLDER, _data_uri, _read_json)
        return {"sounds": sounds} if sounds else None
    file = _data_uri(folder / _ANSWERS)
    return {"file": file, "caption": PICTURES[_ANSWERS]} if file else None


def _data_uri(path: Path) -> str | None:
    if not path.exists():
        return None
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _settings(results: Sequence[Result]) -> dict[str, Any]:
    """What all cells have in common, and then what is particular to each condition."""
    first = results[0]
    context = {k: v for k, v in first.context.items() if all(r.context.get(k) == v for r in results)}
    machine = {k: v for k, v in first.environment.items() if all(r.environment.get(k) == v for r in results)}
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(f"{result.view} {result.codec}", []).append(result)
    conditions = []
    for name, members in groups.items():
        head = members[0]
        own = {k: v for k, v in head.context.items() if k not in {*context, "view", "codec", "seed"}}
        own.pop("codec_settings", None)
        parts = {
            "settings": dict(head.settings),
            "cost of the codec": {k: _number(v) for k, v in head.codec_cost.items()},
            "context": own,
            "environment": {k: v for k, v in head.environment.items() if k not in machine},
            "keys": {f"seed {member.seed}": member.key for member in members},
        }
        conditions.append({"name": name, "parts": {k: v for k, v in parts.items() if v}})
    return {"context": context, "environment": machine, "conditions": conditions}


def _number(value: Any) -> float | int | None:
    """Six significant digits; None for what JSON has no word for."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{float(value):.6g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 2**53 else rounded


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}); remove it, or run `cml compare` again.") from error
