"""The picture of a speed benchmark: throughput against size, and both directions side by side at one size."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
from cml.eval.bench_report import Size, sizes_of, speeds
from cml.eval.bench_rivals import RIVALS
from cml.eval.figures import save
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

_WAYS = ("encode", "decode")


def draw(table: pd.DataFrame, reference: Size, threads: int, path: Path) -> None:
    """Write the figure; speeds and sizes are logarithmic. Ours are solid lines, the others dashed."""
    names = [str(name) for name in dict.fromkeys(table["codec"])]
    palette = colormaps["tab20"]
    colours = {name: to_hex(palette(index % palette.N)) for index, name in enumerate(names)}
    figure = Figure(figsize=(16, 5.5), dpi=120, layout="constrained")
    encode, decode, bars = figure.subplots(1, 3)
    for axes, way in ((encode, "encode"), (decode, "decode")):
        _lines(axes, table, way, threads, colours)
    _bars(bars, table, reference, threads, colours)
    figure.legend(*encode.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)


def _lines(axes: Axes, table: pd.DataFrame, way: str, threads: int, colours: dict[str, str]) -> None:
    sizes = sizes_of(table)
    columns = [speeds(table, way, size, threads) for size in sizes]
    for name, colour in colours.items():
        points = [(math.prod(s) / 1e6, v[name]) for s, v in zip(sizes, columns, strict=True) if name in v]
        if points:
            axes.plot(
                *zip(*points, strict=True), color=colour, label=name, marker="s" if name in RIVALS else "o",
                markersize=4, linestyle="--" if name in RIVALS else "-", linewidth=1.1 if name in RIVALS else 2,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("picture, megapixels")
    axes.set_ylabel(f"{way}, megapixels a second")
    axes.grid(alpha=0.25)


def _bars(axes: Axes, table: pd.DataFrame, size: Size, threads: int, colours: dict[str, str]) -> None:
    columns = [speeds(table, way, size, threads) for way in _WAYS]
    names = sorted((name for name in colours if name in columns[0]), key=lambda name: columns[0][name])
    for column, offset, alpha in zip(columns, (0.2, -0.2), (1, 0.5), strict=True):
        values = [column[name] for name in names]
        axes.barh(np.arange(len(names)) + offset, values, 0.38, color=[colours[name] for name in names], alpha=alpha)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel(f"megapixels a second, {size[0]}x{size[1]}: encode, decode pale")
    axes.grid(alpha=0.25, axis="x")
