"""Answers that can be looked at or listened to: measured against the truth, kept with the run, drawn for the report."""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from cml.eval.figures import family, save
from cml.eval.metrics import ssim
from cml.eval.perceptual import FILES, perceptual
from cml.eval.results import Result, Run
from cml.tasks.base import Pictures, Sounds, Task
from matplotlib.figure import Figure
from torch import Tensor

from cml.errors import CmlError
from cml.files import write_atomic

FOLDER = "answers"
_SHOWN = 3  # test items, evenly over the split
_COLUMNS = 9
_VIEWS = ("pixels", "bigpatch", "resize", "latent")
_SOUND_VIEWS = ("latent", "bigpatch", "resample", "waveform")  # those that matter most come first


def _lpips() -> Callable[[Tensor, Tensor], float]:
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    if not all((folder / file).exists() for file in FILES["LPIPS"]):
        raise CmlError("The weights of LPIPS are not here, and a comparison does not fetch them.")
    decibels = perceptual("LPIPS")
    return lambda x, y: 10 ** (-decibels(x, y) / 10)


MEASURES: dict[str, Callable[[], Callable[[Tensor, Tensor], float]]] = {
    "ssim": lambda: lambda x, y: ssim(x, y, data_range=255),
    "lpips": _lpips,
}
"""Name -> a maker of a function of two pictures (3, H, W) in [0, 255]."""


def measure(pictures: Pictures) -> dict[str, float]:
    """Means over all test items; a measure whose package or weights are missing is left out."""
    means = {}
    for name in pictures.measures:
        try:
            compared = MEASURES[name]()
            values = [compared(x.float(), y.float()) for x, y in zip(pictures.truth, pictures.answer, strict=True)]
        except CmlError:
            continue
        means[name] = float(np.mean(values))
    return means


def keep(run: Run, key: str, shown: Pictures | Sounds) -> None:
    """Store a few of a cell's answers, with the truth."""
    if isinstance(shown, Sounds):
        from cml.eval import sound_answers

        return sound_answers.keep(_path(run, key), shown)
    places = np.linspace(0, len(shown.indices) - 1, min(_SHOWN, len(shown.indices))).round().astype(int)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer, indices=np.array(shown.indices)[places], truth=shown.truth[places].numpy(),
        answer=shown.answer[places].numpy(),
    )  # fmt: skip
    write_atomic(_path(run, key), buffer.getvalue())


def draw(run: Run, task: Task, table: pd.DataFrame, results: Sequence[Result], path: Path) -> None:
    """Input, truth and the answers of some conditions, one each of a view and codec family, with the first seed."""
    score = task.main_score
    sound = len(task.size) == 1
    shown = [
        next(r for r in results if (r.view, r.codec, r.status) == (*condition, "ok"))
        for condition in _conditions(table, _SOUND_VIEWS if sound else _VIEWS)
    ]
    shown = [result for result in shown if _path(run, result.key).exists()]
    if not shown:
        return
    if sound:
        from cml.eval import sound_answers

        files = {result.key: _path(run, result.key) for result in shown}
        return sound_answers.draw(files, shown, table, score, path, run.folder / FOLDER)
    columns: list[tuple[str, np.ndarray]] = []
    kept: dict[str, np.ndarray] = {}
    for result in shown[: _COLUMNS - 2]:
        with np.load(_path(run, result.key)) as file:
            kept = dict(file)
        title = f"{result.view}\n{result.codec}\n{score.replace('_', ' ')} {result.metrics[score]:.3g}"
        columns.append((title, kept["answer"]))
    look = getattr(task, "picture", partial(task.signal, "test"))  # of signals of three axes, a picture
    inputs = np.stack([look(int(index)).numpy() for index in kept["indices"]])
    columns = [("input", inputs), ("truth", kept["truth"]), *columns]
    rows, height = len(inputs), 2.2 * inputs.shape[-2] / inputs.shape[-1]
    figure = Figure(figsize=(2.2 * len(columns), height * rows + 0.7), dpi=110, layout="constrained")
    for row in range(rows):
        for place, (title, pictures) in enumerate(columns):
            axes = figure.add_subplot(rows, len(columns), row * len(columns) + place + 1)
            image = pictures[row].transpose(1, 2, 0)
            axes.imshow(image[..., 0] if image.shape[2] == 1 else image, cmap="gray", vmin=0, vmax=255)
            axes.axis("off")
            if not row:
                axes.set_title(title, fontsize=7)
    save(figure, path)


def _conditions(table: pd.DataFrame, views: Sequence[str]) -> list[tuple[str, str]]:
    """Of each of some views and each codec family the operating point of the most bits; view after view."""
    chosen: dict[tuple[str, str], tuple[float, str]] = {}
    for view, codec, bpp in zip(table["view"], table["codec"], table["bpp"], strict=True):
        if view in views:
            key = (view, family(codec))
            chosen[key] = max(chosen.get(key, (-math.inf, "")), (bpp, codec))
    ordered = sorted(chosen.items(), key=lambda item: views.index(item[0][0]))
    return [(view, codec) for (view, _), (_, codec) in ordered]


def _path(run: Run, key: str) -> Path:
    return run.folder / FOLDER / f"{key}.npz"
