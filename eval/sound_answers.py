"""Answers that can be listened to, stems of a mixture: a short excerpt kept with the run, for the report and its page.

keep    the answers of a cell --> answers/KEY.npz
draw    those of some cells   --> answers.png, and answers/answers.json with its sounds and pictures, for the page
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from cml.eval import gallery, spectrogram
from cml.eval.figures import save
from cml.eval.results import Result
from cml.eval.sound_gallery import BESIDE_ANSWERS, BUDGET, LONGEST, SHORTEST, add_sound, fit, size_of
from cml.tasks.base import Sounds
from cml.tasks.sound_measures import si_sdr
from matplotlib.figure import Figure
from torch import Tensor

from cml.data.sound import read_sound, sound_bytes
from cml.files import write_atomic

INDEX = "answers.json"
_MOST = 3  # conditions
_LEAST = 1.5  # seconds, before there are fewer conditions
_STEP = 0.5  # seconds between the excerpts that are tried


class _Excerpt(NamedTuple):
    """A part of one test item: float (S, C, T) as it was, and as a model has it."""

    truth: Tensor
    answer: Tensor


def keep(path: Path, sounds: Sounds) -> None:
    """Store an excerpt of the first of a cell's answers, with the truth: where every stem has something to be heard.

    It has one channel, the mean of two, or the first of more: a page has room for few seconds.
    """
    length = min(round(LONGEST * sounds.rate), sounds.truth.shape[-1])
    start = _best_start(sounds.truth[0], length, max(1, round(_STEP * sounds.rate)))
    parts = [_mono(x[0])[..., start : start + length] for x in (sounds.truth, sounds.answer)]
    loudest = max(1.0, float(parts[0].abs().max()), float(parts[0].sum(0).abs().max()))
    about = {
        "rate": sounds.rate, "names": sounds.names, "index": int(sounds.indices[0]), "start": start / sounds.rate,
    }  # fmt: skip
    # FLAC, stem after stem: numpy's own compression does little for sound.
    truth, answer = (sound_bytes(torch.cat([*(x / loudest).clamp(-1, 1)], -1), sounds.rate) for x in parts)
    buffer = io.BytesIO()
    np.savez(
        buffer, about=json.dumps(about), truth=np.frombuffer(truth, np.uint8), answer=np.frombuffer(answer, np.uint8)
    )
    write_atomic(path, buffer.getvalue())


def draw(
    files: Mapping[str, Path],
    cells: Sequence[Result],
    table: pd.DataFrame,
    score: str,
    picture: Path,
    folder: Path,
) -> None:
    """Draw the true stems and those of some conditions, and store them with what a page says of them.

    Args:
        files: key of a cell -> what `keep` stored.
        cells: one a condition. The best of each view comes first; a page has no room for all.
        table: of `report.summarize`, for rates.
        score: the main metric.
        picture: to draw.
        folder: for the sounds of a page.
    """
    kept = _in_order(cells, score)[:_MOST]
    about, first = _read(files[kept[0].key])
    rate = int(about["rate"])
    excerpts = {cell.key: _read(files[cell.key])[1].answer for cell in kept}
    _figure(about, first.truth, [(cell, excerpts[cell.key]) for cell in kept], score, picture)
    rates = {(row["view"], row["codec"]): row["bpp"] * rate / 1000 for row in table.to_dict("records")}

    def pack(count: int, seconds: float) -> dict[str, bytes]:
        parts: dict[str, bytes] = {}
        length = max(1, round(seconds * rate))
        truth = first.truth[..., :length]
        mixture = truth.sum(0)
        said: dict[str, Any] = {
            **about, "shown": truth.shape[-1] / rate, "mixture": add_sound(parts, "mixture", mixture, rate),
            "stems": [], "conditions": [],
        }  # fmt: skip
        for number, (name, stem) in enumerate(zip(about["names"], truth, strict=True)):
            sound = add_sound(parts, f"true-{number}", stem, rate)
            said["stems"].append({"name": name, **sound, "si_sdr": _ratio(stem, mixture)})
        for place, cell in enumerate(kept[:count]):
            answer = excerpts[cell.key][..., :length]
            stems = [
                {**add_sound(parts, f"{place}-{number}", stem, rate), "si_sdr": _ratio(true, stem)}
                for number, (true, stem) in enumerate(zip(truth, answer, strict=True))
            ]
            kbps, value = rates[cell.view, cell.codec], cell.metrics[score]
            said["conditions"].append(
                {"view": cell.view, "codec": cell.codec, "kbps": kbps, "score": value, "stems": stems}
            )
        parts[INDEX] = (json.dumps(said, indent=1) + "\n").encode()
        return parts

    budget = round(BUDGET * (1 - BESIDE_ANSWERS))
    count = len(kept)
    while size_of(chosen := fit(partial(pack, count), budget, _LEAST)) > budget and count > 1:
        count -= 1
    if size_of(chosen) > budget:
        chosen = fit(partial(pack, 1), budget, SHORTEST)
    gallery.store(chosen, folder)


def _in_order(cells: Sequence[Result], score: str) -> list[Result]:
    """The best of each view, in the order in which the views come, then the second of each, and so on."""
    views = list(dict.fromkeys(cell.view for cell in cells))
    ranked = {view: sorted((c for c in cells if c.view == view), key=lambda c: -c.metrics[score]) for view in views}
    return sorted(cells, key=lambda cell: (ranked[cell.view].index(cell), views.index(cell.view)))


def _figure(
    about: Mapping[str, Any], truth: Tensor, answers: list[tuple[Result, Tensor]], score: str, path: Path
) -> None:
    rate = int(about["rate"])
    columns = [("mixture", truth.sum(0, keepdim=True)), ("truth", truth)]
    for cell, stems in answers:
        columns.append((f"{cell.view}\n{cell.codec}\n{score.replace('_', ' ')} {cell.metrics[score]:.3g}", stems))
    figure = Figure(figsize=(2.8 * len(columns), 1.6 * len(truth) + 0.7), dpi=110, layout="constrained")
    image = None
    for place, (title, stems) in enumerate(columns):
        for row, stem in enumerate(stems):
            axes = figure.add_subplot(len(truth), len(columns), row * len(columns) + place + 1)
            image = spectrogram.plot(axes, stem, rate)
            heading = title if place == 0 or row else f"{title}\n{about['names'][0]}"
            axes.set_title(about["names"][row] if row else heading, fontsize=7)
    if image is not None:
        spectrogram.colour_bar(figure, image)
    save(figure, path)


def _read(path: Path) -> tuple[dict[str, Any], _Excerpt]:
    with np.load(path) as file:
        about = json.loads(str(file["about"]))
        count = len(about["names"])
        sounds = [read_sound(file[name].tobytes()).samples for name in ("truth", "answer")]
    return about, _Excerpt(*(x.unflatten(-1, (count, -1)).transpose(0, 1) for x in sounds))


def _mono(x: Tensor) -> Tensor:
    """(S, 1, T) of (S, C, T)."""
    return (x.mean(1, keepdim=True) if x.shape[1] <= 2 else x[:, :1]).float()


def _best_start(truth: Tensor, length: int, step: int) -> int:
    """The first sample of the excerpt whose quietest stem, beside its own loudest excerpt, is the loudest."""
    energy = truth.square().mean(1).unfold(-1, length, step).mean(-1)
    heard = energy[energy.amax(1) > 0]
    return step * int((heard / heard.amax(1, keepdim=True)).amin(0).argmax()) if len(heard) else 0


def _ratio(truth: Tensor, answer: Tensor) -> float | None:
    ratio = si_sdr(truth, answer)
    return ratio if math.isfinite(ratio) else None
