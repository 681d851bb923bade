"""The picture of a rate-distortion benchmark of sound: what was measured against the rate."""

from pathlib import Path

import pandas as pd
from cml.eval.rd_figure import curves_figure, finish
from cml.eval.sound_rd_report import LESS_IS_BETTER, measured, quality

_PANELS = {
    "si_sdr": "SI-SDR, dB", "psnr": "PSNR, dB", "lsd": "log-spectral distance, dB (less is better)",
    "dnsmos": "DNSMOS, 1 to 5",
}  # fmt: skip


def draw(table: pd.DataFrame, path: Path) -> None:
    """Write the figure; the rate is logarithmic, as the gains of codecs are ratios."""
    panels = {name: label for name, label in _PANELS.items() if name in measured(table)}
    finish(*curves_figure(table, panels, "kbps", "kbit/s, whole file", quality, LESS_IS_BETTER), path)
