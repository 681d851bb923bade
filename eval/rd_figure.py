"""The picture of a rate-distortion benchmark: PSNR and MS-SSIM against rate, printed numbers as loose markers."""

from collections.abc import Callable, Container, Mapping, Sequence
from itertools import cycle
from pathlib import Path

import pandas as pd
from cml.eval.curves import Curve
from cml.eval.figures import save
from cml.eval.printed import Printed
from cml.eval.rd_report import curves_of, measured, quality
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

_PANELS = {"psnr": "PSNR, dB", "ms_ssim": "MS-SSIM, dB: -10 log10(1 - MS-SSIM)"}
_COLOURS = 10
_MARKERS = "osD^vP*X<>"


def draw(table: pd.DataFrame, printed: Sequence[Printed], path: Path) -> None:
    """Write the figure; the rate is logarithmic, as the gains of codecs are ratios."""
    panels = {name: label for name, label in _PANELS.items() if name in measured(table)}
    figure, axes = curves_figure(table, panels, "bpp", "bits per pixel, whole file", quality)
    if "psnr" in axes:
        _printed(axes["psnr"], table, printed)
    finish(figure, axes, path)


def curves_figure(
    table: pd.DataFrame,
    panels: Mapping[str, str],
    rate: str,
    label: str,
    values: Callable[[pd.DataFrame, str], list[float]],
    less_is_better: Container[str] = (),
) -> tuple[Figure, dict[str, Axes]]:
    """The curves of a table, a panel a measure, over a logarithmic axis of rates; better is up.

    Args:
        panels: measure -> what stands at its axis.
        rate: the column of rates.
        label: what stands at the axis of rates.
        values: a measure of a part of the table, so that more is better.
        less_is_better: measures that are drawn as they are, with their axis upside down.
    """
    figure = Figure(figsize=(4.8 * len(panels) + 2, 4.8), dpi=120, layout="constrained")
    grid = dict(zip(panels, figure.subplots(1, len(panels), squeeze=False)[0], strict=True))
    for name, axes in grid.items():
        for index, (codec, group) in enumerate(curves_of(table).items()):
            curve = Curve.of(list(group[rate]), values(group, name))
            shown = [-value for value in curve.quality] if name in less_is_better else curve.quality
            line = "-" if index < _COLOURS else "--"
            colour = f"C{index % _COLOURS}"
            axes.plot(curve.rates, shown, marker=".", color=colour, linestyle=line, linewidth=1.5, label=codec)
        log_rates(axes, label)
        axes.set_ylabel(panels[name])
        axes.grid(alpha=0.25)
        if name in less_is_better:
            axes.invert_yaxis()
    return figure, grid


def finish(figure: Figure, axes: Mapping[str, Axes], path: Path) -> None:
    """Name the curves beside the panels, and write the figure."""
    handles, labels = next(iter(axes.values())).get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=8, loc="outside right upper", frameon=False)
    save(figure, path)


def log_rates(axes: Axes, label: str) -> None:
    """A logarithmic axis of rates, marked in plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(label)


def _printed(axes: Axes, table: pd.DataFrame, printed: Sequence[Printed]) -> None:
    """Markers only: the rows of a model are different networks, not points of one curve."""
    models = dict.fromkeys(row.model for row in printed)
    for model, marker in zip(models, cycle(_MARKERS), strict=False):
        rows = [row for row in printed if row.model == model]
        axes.plot(
            [row.bpp for row in rows], [row.psnr for row in rows], linestyle="none", marker=marker, markersize=6,
            markerfacecolor="none", color="black" if model in ("WaLLoC", "LiVeAction") else "grey",
            label=f"{model} (printed)",
        )  # fmt: skip
