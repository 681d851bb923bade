"""The report of a run: a table for the terminal, `summary.csv`, `report.md`, pictures, and the page."""

import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from cml.eval import answers, figures, gallery, report_words, tables
from cml.eval.cells import kbps_of
from cml.eval.metrics import retention
from cml.eval.protocols import CEILINGS, USUAL_HYPER_VIEWS, USUAL_SOUND_VIEWS, USUAL_VIEWS, VIEWS
from cml.eval.results import Result, Run
from cml.eval.statistics import outcome_of, paired_bootstrap
from cml.tasks.base import Task
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cml.codecs.base import Codec
from cml.codecs.cost import COST_COLUMNS, cost_cells
from cml.files import write_atomic

_SINGLE = (
    "bpp", "dimensions", "tokens", "stem_macs", "backbone_macs", "parameters", "psnr",
    "encode_mps", "load_ips", "train_ips", "chance",
)  # fmt: skip
_SECOND = {
    "balanced_accuracy": "balanced", "macro_f1": "F1", "roc_auc": "AUC", "pixel_accuracy": "pixel accuracy",
    "boundary_f1": "boundary F1", "colour_psnr": "colour PSNR", "ssim": "SSIM", "lpips": "LPIPS",
    "colourfulness": "colourfulness", "cer": "CER", "line_accuracy": "lines right", "lines_found": "lines found",
    "anls": "ANLS", "fields": "fields", "exact_match": "exact", "si_sdr": "SI-SDR", "sdr": "SDR",
    "average_accuracy": "average", "kappa": "kappa", "dice": "Dice",
}  # fmt: skip
"""Metrics beside the main score that a person reads in the table."""
PICTURES = {
    "rate.png": "Rate against {score}: 8 x the bytes of the whole container, mean over the test pictures.",
    "dimension.png": "Dimension against {score}: values that the model reads.",
    "answers.png": "Answers to some test pictures, each condition's with the first seed.",
    "gallery.png": "One test picture through each codec, each at the operating point nearest to one rate.",
}


def summarize(results: Sequence[Result], run: Run, score: str | None = None) -> pd.DataFrame:
    """One row a condition: mean and standard deviation of each metric over seeds, rate, cost, and retention.

    Retention is (score - chance) / (ceiling - chance) of the main metric, with `pixels` or `waveform` as the ceiling.
    `gain` is the difference in score from `bigpatch`, with its paired bootstrap interval; where items are right or
    wrong, that is the share that a condition gets right and `bigpatch` does not, less the reverse. The ceiling is in
    its place where a task has no `bigpatch`. Of sound there is `kbps`, kilobits a second. The attribute `failed` of the
    frame holds the failed cells, `control` the view that `gain` is against.

    Args:
        results: cells, good and failed.
        run: where their items are.
        score: the main metric; None for the first.
    """
    good = [result for result in results if result.status == "ok"]
    score = score or (main_score(good) if good else None)
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in good:
        groups.setdefault((result.view, result.codec), []).append(result)
    outcomes = {name: np.stack([outcome_of(run.items(m.key)) for m in members]) for name, members in groups.items()}
    against = next((view for view in ("bigpatch", *CEILINGS) if any(view == v for v, _ in groups)), None)
    control = next((outcome for (view, _), outcome in outcomes.items() if view == against), None)
    rows = []
    for (view, codec), members in groups.items():
        row: dict[str, Any] = {"view": view, "codec": codec, "seeds": len(members)}
        for name in sorted(members[0].metrics, key=lambda name: name != score):
            values = pd.Series([member.metrics[name] for member in members])
            row[name], row[f"{name}_sd"] = values.mean(), values.std(ddof=1)
        for name in _SINGLE:
            values = pd.Series([getattr(member, name) for member in members], dtype=float)
            row[name] = values.mean()
        kbps = [kbps_of(member) for member in members]
        if None not in kbps:
            row["kbps"] = float(np.mean([value for value in kbps if value is not None]))
        row |= {f"codec_{name}": value for name, value in members[0].codec_cost.items()}
        if control is not None:
            gain = paired_bootstrap(outcomes[view, codec], control)
            row |= {"gain": gain.difference, "gain_low": gain.low, "gain_high": gain.high}
        rows.append(row)
    table = pd.DataFrame(rows)
    table.attrs["failed"] = [result for result in results if result.status != "ok"]
    table.attrs["control"] = against
    if rows:
        ceiling = table.loc[table["view"].isin(CEILINGS), score]
        top = float(ceiling.iloc[0]) if len(ceiling) else float("nan")
        table["retention"] = [
            retention(value, top, chance) for value, chance in zip(table[score], table["chance"], strict=True)
        ]
        table["order"] = table["view"].map(VIEWS.index)
        table = table.sort_values(["order", "codec"], kind="stable").drop(columns="order").reset_index(drop=True)
    return table


def control_of(table: pd.DataFrame) -> str | None:
    """The view that `gain` is against; None where there is none."""
    return table.attrs.get("control")


def main_score(results: Sequence[Result]) -> str:
    """The first metric: a task lists its main score first."""
    return next(iter(results[0].metrics))


def columns(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """The table as a person reads it: few columns, rounded, mean ± standard deviation."""

    def spread(name: str) -> list[str]:
        pairs = zip(table[name], table[f"{name}_sd"], strict=True)
        return [f"{mean:.3f}" + ("" if pd.isna(sd) else f" ±{sd:.3f}") for mean, sd in pairs]

    out = {"view": table["view"], "codec": table["codec"], **_rate(table)}
    out |= {"values": [f"{v:.0f}" for v in table["dimensions"]], "tokens": [f"{v:.0f}" for v in table["tokens"]]}
    out |= {score: spread(score), "kept": [f"{v:.0%}" if pd.notna(v) else "" for v in table["retention"]]}
    if "gain" in table:
        gains = zip(table["view"], table["gain"], table["gain_low"], table["gain_high"], strict=True)
        control = control_of(table)
        out[f"against {control}"] = ["" if v == control else f"{g:+.3f} [{a:+.3f}, {b:+.3f}]" for v, g, a, b in gains]
    for name, label in _SECOND.items():
        if name in table and name != score:
            out[label] = spread(name)
    for ceiling in CEILINGS:
        if f"by_{ceiling}_model" in table:
            scores = table[f"by_{ceiling}_model"]
            out[report_words.by_model(ceiling)] = ["" if pd.isna(v) else f"{v:.3f}" for v in scores]
    out["PSNR"] = ["" if pd.isna(v) else f"{v:.1f}" for v in table["psnr"]]
    out["stem MMAC"] = [f"{v / 1e6:.2f}" for v in table["stem_macs"]]
    out["body MMAC"] = [f"{v / 1e6:.1f}" for v in table["backbone_macs"]]
    for name, label in (("encode_mps", f"encode {_pace(table)}"), ("load_ips", "load /s"), ("train_ips", "train /s")):
        out[label] = [f"{v:.3g}" if v < 1000 else f"{v:.0f}" for v in table[name]]
    return pd.DataFrame(out)


def _rate(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of the rate: bits a sample, and kilobits a second where there are any."""
    if "kbps" not in table:
        return {"bpp": [f"{v:.3f}" for v in table["bpp"]]}
    return {"kbit/s": [f"{v:.1f}" for v in table["kbps"]], "bits a sample": [f"{v:.3f}" for v in table["bpp"]]}


def _pace(table: pd.DataFrame) -> str:
    """Millions of pixels, or of samples, a second."""
    return "MS/s" if "kbps" in table else "MP/s"


def print_table(table: pd.DataFrame, console: Console) -> None:
    """The table in the terminal; on a narrow one the columns of cost are left to `report.md`."""
    if not len(table):
        console.print("No cell has a result.")
        return
    shown = columns(table, _score_column(table))
    if console.width < 150:
        rate, pace = next(iter(_rate(table))), _pace(table)
        shown = shown.loc[:, ["view", "codec", rate, "values", _score_column(table), "kept", f"encode {pace}"]]
        shown.columns = [*shown.columns[:-1], pace]
    view = Table(
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title=f"{_score_column(table)} of a machine, by what it sees",
        caption=_caption(table),
    )
    for name in shown:
        view.add_column(str(name), justify="left" if name in ("view", "codec") else "right", no_wrap=name != "codec")
    previous = None
    for row in shown.itertuples(index=False):
        if previous not in (None, row[0]):
            view.add_section()
        previous = row[0]
        view.add_row(*map(str, row))
    console.print(view)


def _score_column(table: pd.DataFrame) -> str:
    return str(table.columns[list(table.columns).index("seeds") + 1])


def _caption(table: pd.DataFrame) -> str:
    seeds = min(table["seeds"].tolist())
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed: no spread, use --seeds 3"
    if not np.any(table["train_ips"]):
        spread = "The model comes trained: no seeds"
    chance = f"{table['chance'].iloc[0]:.3f}"
    rate, ceiling = ("kbit/s", "waveform") if "kbps" in table else ("bpp", "pixels")
    return f"{rate}: whole container. kept: (score - chance) / ({ceiling} - chance), chance {chance}. {spread}."


def write(
    run: Run,
    table: pd.DataFrame,
    results: Sequence[Result],
    task: Task,
    codecs: Sequence[Codec],
    request: Mapping[str, Any],
    fresh: bool,
) -> None:
    """Write the report's files; pictures again only when a cell is new or one is missing."""
    about = {
        "name": task.name, "description": task.description, "score": task.main_score, "size": list(task.size),
        "train": task.count("train"), "test": task.count("test"),
    }  # fmt: skip
    stored = {"request": request, "task": task.key, "about": about, "keys": [result.key for result in results]}
    write_atomic(run.folder / "run.json", json.dumps(stored, indent=1) + "\n")
    if len(table):
        _write_tables(run, table, results, task, codecs, request, fresh)
    from cml.eval import page  # it reads what this module writes

    page.write(run.folder)


def _write_tables(
    run: Run,
    table: pd.DataFrame,
    results: Sequence[Result],
    task: Task,
    codecs: Sequence[Codec],
    request: Mapping[str, Any],
    fresh: bool,
) -> None:
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, float_format="%.6g")
    changed = not _same(run, buffer.getvalue())
    write_atomic(run.folder / "summary.csv", buffer.getvalue())
    score = _score_column(table)
    if fresh or changed or not (run.folder / "rate.png").exists():
        figures.rate(table, score, run.folder / "rate.png")
        figures.dimension(table, score, run.folder / "dimension.png")
        gallery.draw(task, codecs, table, run.folder / "gallery.png")
        answers.draw(run, task, table, results, run.folder / "answers.png")
    if fresh or changed or not (run.folder / "gallery" / gallery.INDEX).exists():
        gallery.keep(task, codecs, run.folder / "gallery")
    write_atomic(run.folder / "report.md", markdown(table, results, task, codecs, request, run.folder))


def _same(run: Run, text: str) -> bool:
    path = run.folder / "summary.csv"
    return path.exists() and path.read_text() == text


def command(request: Mapping[str, Any]) -> str:
    """The command line that makes this run again."""
    # a model that comes trained has no epochs, no seeds to choose, and mostly no size
    trained = ["size", "patch", "epochs", "seeds"] if request["epochs"] else ["size"] if request["size"] else []
    options = ["task", "data", "backbone", *trained]
    parts = ["cml", "compare"]
    for name in (option for option in options if request[option] is not None):
        parts += [f"--{name}", str(request[name])]
    parts += ["--codecs", " ".join(request["codecs"])]
    if tuple(request["views"]) not in (USUAL_VIEWS, USUAL_SOUND_VIEWS, USUAL_HYPER_VIEWS):
        parts += ["--views", " ".join(request["views"])]
    return shlex.join(parts)


def markdown(
    table: pd.DataFrame,
    results: Sequence[Result],
    task: Task,
    codecs: Sequence[Codec],
    request: Mapping[str, Any],
    folder: Path,
) -> str:
    """`report.md`: table, pictures, command, settings."""
    score = _score_column(table)
    good = [result for result in results if result.status == "ok"]
    seen: dict[str, Mapping[str, Any]] = {result.codec: result.settings for result in good}
    lines = [
        f"# {task.name} on {request['data']}",
        "",
        _caption(table),
        "",
        _markdown_table(columns(table, score)),
        "",
        report_words.views(task),
        "",
        report_words.data(task),
        "",
    ]
    for name, title in PICTURES.items():
        if not (folder / name).exists():
            continue
        lines += [f"![{report_words.caption(title.format(score=score), task)}]({name})", ""]
    lines += tables.markdown(folder)
    failed = table.attrs.get("failed", [])
    if failed:
        lines += ["## Failed cells", ""]
        lines += [f"- {result.view} {result.codec}, seed {result.seed}: {result.error}" for result in failed] + [""]
    lines += ["## Made by", "", "```", command(request), "```", ""]
    lines += ["```json", json.dumps({"task": task.key, "environment": good[0].environment}, indent=1), "```", ""]
    costs = {codec.spec.name: cost_cells(codec) for codec in codecs}
    lines += ["## Codec settings", "", "| " + " | ".join(("operating point", *COST_COLUMNS, "settings")) + " |"]
    lines += ["|---" + "|--:" * len(COST_COLUMNS) + "|---|"]
    for name, settings in seen.items():
        lines += ["| " + " | ".join((name, *costs[name], f"`{json.dumps(dict(settings))}`")) + " |"]
    return "\n".join(lines) + "\n"


def _markdown_table(frame: pd.DataFrame) -> str:
    head = "| " + " | ".join(map(str, frame.columns)) + " |"
    rule = "|" + "|".join("---" if name in ("view", "codec") else "--:" for name in frame.columns) + "|"
    rows = ["| " + " | ".join(map(str, row)) + " |" for row in frame.itertuples(index=False)]
    return "\n".join([head, rule, *rows])
