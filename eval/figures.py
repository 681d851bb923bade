"""The curves of a report."""

import io
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from cml.files import write_atomic

MARKERS = {"pixels": "*", "bigpatch": "P", "resize": "s", "latent": "o", "reconstruction": "x"}
LINES = {"latent": "-", "resize": "-", "reconstruction": ":"}


def family(codec: str) -> str:
    """ "jpeg:quality=10" to "jpeg"."""
    return codec.partition(":")[0] if not codec.startswith(("/", ".", "hf:")) else Path(codec.rpartition(":")[0] or codec).name


def colours(codecs: list[str]) -> dict[str, tuple[float, ...]]:
    """One colour a codec family, the same in every picture."""
    from matplotlib import colormaps

    names = list(dict.fromkeys(map(family, codecs)))
    return {name: colormaps["tab10"](i % 10) for i, name in enumerate(names)}


def rate(table: pd.DataFrame, score: str, path: Path) -> None:
    """Rate against score."""
    _curves(table, "bpp", "bits per pixel, whole container", score, path)


def dimension(table: pd.DataFrame, score: str, path: Path) -> None:
    """Values that the model reads against score, without `reconstruction`, whose dimension is that of pixels."""
    _curves(table[table["view"] != "reconstruction"], "dimensions", "values a sample that the model reads", score, path)


def _curves(table: pd.DataFrame, x: str, label: str, score: str, path: Path) -> None:
    figure = Figure(figsize=(8, 4.8), dpi=120, layout="constrained")
    axes: Axes = figure.subplots()
    colour = colours(list(table["codec"]))
    families = table["codec"].map(family)
    for (view, name), rows in table.groupby(["view", families], sort=False):
        rows = rows.sort_values(x)
        axes.errorbar(
            rows[x], rows[score], yerr=rows[f"{score}_sd"].fillna(0), marker=MARKERS[str(view)], markersize=8,
            linestyle=LINES.get(str(view), "none"), color=colour[str(name)], capsize=3, linewidth=1.4,
        )  # fmt: skip
    chance = float(table["chance"].iloc[0])
    axes.axhline(chance, color="grey", linewidth=0.8, linestyle="--")
    axes.annotate("chance", (1, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", color="grey", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel(score.replace("_", " "))
    axes.grid(alpha=0.25)
    handles = [Line2D([], [], color=c, linewidth=3, label=name) for name, c in colour.items()]
    views = list(dict.fromkeys(table["view"]))
    handles += [Line2D([], [], color="black", marker=MARKERS[v], linestyle=LINES.get(v, "none"), label=v) for v in views]
    axes.legend(handles=handles, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomic(path, buffer.getvalue())
