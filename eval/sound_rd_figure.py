"""The picture of a rate-distortion benchmark of sound: what was measured against the rate."""

from pathlib import Path

import pandas as pd
from cml.eval.curves import Curve
from cml.eval.figures import save
from cml.eval.rd_figure import log_rates
from cml.eval.rd_report import curves_of
from cml.eval.sound_rd_report import measured, quality
from matplotlib.figure import Figure

_PANELS = {
    "si_sdr": "SI-SDR, dB", "psnr": "PSNR, dB", "lsd": "log-spectral distance, dB (less is better)",
    "dnsmos": "DNSMOS, 1 to 5",
}  # fmt: skip


def draw(table: pd.DataFrame, path: Path) -> None:
    """Write the figure; the rate is logarithmic, as the gains of codecs are ratios."""
    panels = [name for name in _PANELS if name in measured(table)]
    figure = Figure(figsize=(4.4 * len(panels) + 2, 4.6), dpi=120, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)[0]
    for name, axes in zip(panels, grid, strict=True):
        for index, (label, group) in enumerate(curves_of(table).items()):
            curve = Curve.of(list(group["kbps"]), quality(group, name))
            values = [-value for value in curve.quality] if name == "lsd" else curve.quality
            axes.plot(curve.rates, values, marker=".", color=f"C{index % 10}", linewidth=1.5, label=label)
        log_rates(axes, "kbit/s, whole file")
        axes.set_ylabel(_PANELS[name])
        axes.grid(alpha=0.25)
        if name == "lsd":
            axes.invert_yaxis()  # better is up, as in the others
    figure.legend(*grid[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False)
    save(figure, path)
