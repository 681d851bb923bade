"""The curves of a report."""

import io
import re
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cml.files import write_atomic

MARKERS = {
    "pixels": "*", "waveform": "*", "bigpatch": "P", "spectrogram": "D", "pca": "D", "resize": "s", "resample": "s",
    "latent": "o", "reconstruction": "x", "retrained": "^",
}  # fmt: skip
LINES: dict[str, Any] = {"latent": "-", "resize": "-", "resample": "-", "reconstruction": ":", "retrained": "--"}


def family(codec: str) -> str:
    """What the points of one curve have in common: the codec and those of its options that are words.

    "jpeg:quality=10" to "jpeg", "rgb_f8c12:decoder=linear,step=0.5" to "rgb_f8c12:decoder=linear", and paths to their
    last part.
    """
    base, *options = re.split(r"[:,](?=\w+=)", codec)
    kind, colon, place = base.rpartition(":")
    words = [option for option in options if not re.fullmatch(r"\w+=[-+.\de]+", option)]
    return kind + colon + Path(place).name + (":" + ",".join(words) if words else "")


def colours(codecs: list[str]) -> dict[str, str]:
    """One colour a codec family, the same in every picture."""
    names = list(dict.fromkeys(map(family, codecs)))
    return {name: f"C{i % 10}" for i, name in enumerate(names)}


def rate(table: pd.DataFrame, score: str, path: Path) -> None:
    """Rate against score."""
    if "kbps" in table:
        _curves(table, "kbps", "kbit/s, whole container", score, path)
    else:
        _curves(table, "bpp", "bits per pixel, whole container", score, path)


def dimension(table: pd.DataFrame, score: str, path: Path) -> None:
    """Values that the model reads against score, without `reconstruction`, whose dimension is that of pixels."""
    _curves(table.query("view != 'reconstruction'"), "dimensions", "values a sample that the model reads", score, path)


def _curves(table: pd.DataFrame, x: str, label: str, score: str, path: Path) -> None:
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    axes: Axes = figure.subplots()
    colour = colours(list(table["codec"]))
    families = table["codec"].map(family)
    groups: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(table["view"], families, strict=True)):
        groups.setdefault(key, []).append(row)
    for (view, name), members in groups.items():
        rows = table.iloc[members].sort_values(x)
        axes.errorbar(
            rows[x], rows[score], yerr=rows[f"{score}_sd"].fillna(0), marker=MARKERS[view], markersize=8,
            linestyle=LINES.get(view, "none"), color=colour[name], capsize=3, linewidth=1.4,
        )  # fmt: skip
    chance = float(table["chance"].iloc[0])
    axes.axhline(chance, color="grey", linewidth=0.8, linestyle="--")
    axes.annotate(
        "chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey", fontsize=8
    )
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel(score.replace("_", " "))
    axes.grid(alpha=0.25)
    handles = [Line2D([], [], color=c, linewidth=3, label=name) for name, c in colour.items()]
    views = list(dict.fromkeys(table["view"]))
    handles += [
        Line2D([], [], color="black", marker=MARKERS[v], linestyle=LINES.get(v, "none"), label=v) for v in views
    ]
    axes.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
