"""A slice, a band or a frame through each codec at about one rate: the picture beside the report of `rd`."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cml.eval.figures import save
from cml.eval.volume_metrics import shown
from cml.eval.volume_rd import compress, decompress
from cml.eval.volume_rows import VolumeRow, nearest
from matplotlib.figure import Figure
from torch import Tensor

from cml.codecs.base import CodecSpec
from cml.codecs.factory import create_codec
from cml.data.samples import SignalFile, restore

_SIDE = 256  # pixels of the middle that is shown, so that a pixel is one of the picture
_COLUMNS = 5


def draw(rows: Sequence[VolumeRow], shipped: Sequence[CodecSpec], signal: SignalFile, path: Path) -> None:
    """Draw the middle slice of a signal as it is, and as each codec leaves it.

    Each at that of its measured operating points that is nearest to the lowest rate at which ours are shipped, or to
    the middle of all rates where none of ours is among them.

    Args:
        rows: the measurements of this signal.
        shipped: operating points of ours.
        signal: it.
        path: of the PNG.
    """
    names = {spec.name for spec in shipped}
    rates = [row.bpv for row in rows if row.point in names]
    target = min(rates) if rates else statistics.median(row.bpv for row in rows)
    chosen = set(nearest(rows, target).values())
    # Ours stand next to the original.
    ordered = sorted(
        (row for row in rows if row.point in chosen), key=lambda row: row.point not in _latent(rows, shipped)
    )
    original = restore(signal.samples, signal.facts)
    place = original.shape[1] // 2
    low, span = (0.0, 255.0) if signal.kind == "video" else _window(original[:, place])
    panels: list[tuple[str, Tensor | None]] = [("original", shown(original, place, low, span))]
    for row in ordered:
        codec = create_codec(row.point)
        try:
            x_hat = restore(decompress(codec, compress(codec, signal.samples)), signal.facts)
        except Exception as error:  # one codec must not stop the report
            panels.append((f"{row.point}\nfailed: {error}", None))
            continue
        title = f"{row.point}\n{row.bpv:.4g} bits, {row.stored / row.bpv:.0f}:1, {row.psnr:.1f} dB"
        panels.append((title, shown(x_hat, place, low, span)))
    _save(panels, path)


def _latent(rows: Sequence[VolumeRow], shipped: Sequence[CodecSpec]) -> set[str]:
    """The operating points of the curves that ours are on."""
    names = {spec.name for spec in shipped}
    curves = {row.curve for row in rows if row.point in names}
    return {row.point for row in rows if row.curve in curves}


def _window(part: np.ndarray) -> tuple[float, float]:
    """The value shown black, and by how much white lies above it: the hundredths at both ends are cut off."""
    low, high = (float(value) for value in np.percentile(part, (0.5, 99.5)))
    return low, (high - low) or 1.0


def _save(panels: Sequence[tuple[str, Tensor | None]], path: Path) -> None:
    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    original = next(_middle(image) for _, image in panels if image is not None)
    height = 2.6 * original.shape[1] / original.shape[2] + 0.4
    figure = Figure(figsize=(2.6 * columns, height * rows), dpi=110, layout="constrained")
    for number, (title, image) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.set_title(title, fontsize=6.5)
        axes.axis("off")
        if image is not None:
            picture = _middle(image)
            array = picture[0].numpy() if len(picture) == 1 else picture.permute(1, 2, 0).numpy()
            axes.imshow(array, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    save(figure, path)


def _middle(image: Tensor) -> Tensor:
    top, left = (max(0, size - _SIDE) // 2 for size in image.shape[1:])
    return image[:, top : top + _SIDE, left : left + _SIDE]
