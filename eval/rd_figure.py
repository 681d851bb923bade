"""The picture of a rate-distortion benchmark: PSNR and MS-SSIM against rate, printed numbers as loose markers."""

from collections.abc import Sequence
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
_MARKERS = "osD^vP*X<>"


def draw(table: pd.DataFrame, printed: Sequence[Printed], path: Path) -> None:
    """Write the figure; the rate is logarithmic, as the gains of codecs are ratios."""
    panels = [name for name in _PANELS if name in measured(table)]
    figure = Figure(figsize=(5.2 * len(panels) + 2, 4.8), dpi=120, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for name, axes in zip(panels, grid, strict=True):
        _curves(axes, table, name)
        if name == "psnr":
            _printed(axes, table, printed)
        log_rates(axes, "bits per pixel, whole file")
        axes.set_ylabel(_PANELS[name])
        axes.grid(alpha=0.25)
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False)
    save(figure, path)


def log_rates(axes: Axes, label: str) -> None:
    """A logarithmic axis of rates, marked in plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel(label)


def _curves(axes: Axes, table: pd.DataFrame, name: str) -> None:
    for index, (label, group) in enumerate(curves_of(table).items()):
        curve = Curve.of(list(group["bpp"]), quality(group, name))
        colour = f"C{index % 10}"
        axes.plot(curve.rates, curve.quality, marker=".", color=colour, linewidth=1.5, label=label)


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
