"""The same picture through each codec at one rate."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from cml.eval.figures import save
from cml.eval.metrics import psnr
from cml.tasks.base import Task
from matplotlib.figure import Figure
from torch import Tensor

from cml.codecs.base import Codec, to_uint8
from cml.codecs.factory import parse_operating_point
from cml.codecs.rate import match_rate
from cml.codecs.resample import Identity


def draw(task: Task, codecs: Sequence[Codec], table: pd.DataFrame, path: Path) -> None:
    """Draw a test picture through every lossy codec, each at the operating point nearest to the median rate."""
    lossy = table[table["view"] == "reconstruction"]
    names = list(dict.fromkeys(parse_operating_point(c.spec.name)[0] for c in codecs if not isinstance(c, Identity)))
    if not names or not len(lossy):
        return
    target = statistics.median(lossy["bpp"].tolist())
    x = task.signal("test", _interesting(task))
    panels = [("original", x)]
    for name in names:
        try:
            codec, blob = match_rate(name, x, target)
            x_hat = to_uint8(codec.decompress(blob))
        except Exception as error:  # one codec must not stop the report
            panels.append((f"{name}\nfailed: {error}", torch.zeros_like(x)))
            continue
        bpp = 8 * len(blob) / x[0].numel()
        quality = psnr(x.float(), x_hat.float(), data_range=255)
        panels.append((f"{codec.spec.name}\n{bpp:.3f} bpp, {quality:.1f} dB", x_hat))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3 * columns, 3.4 * rows), dpi=110, layout="constrained")
    for number, (title, image) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(_array(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    save(figure, path)


def _interesting(task: Task) -> int:
    """The first test item of the last class: a defective cell, where there are defects."""
    labels = task.labels("test")
    return int((labels == labels.max()).nonzero()[0])


def _array(image: Tensor):
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
