"""The views of tasks that take sound apart: mixtures, and stems in the same representation, both ways.

    train: stems --what is linear of the view--> (S c, n) integers, much finer than the codec's step
    test:  mixture --codec--> container --> (c, n) integers: symbols, or samples

A mixture of stems has the sum of their representations, so the task makes new ones from stems of different pieces; of
latents that sum is rounded, by the codec's own quantizer, before a model reads it. What is stored of the stems is fine
enough for that: of a step, hundredths at most.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from cml.eval.metrics import psnr
from cml.eval.prepared import Prepared
from cml.eval.sound_protocols import DECODED, SeparationTask, charge, see, view_stem
from torch import Tensor
from torch.nn import functional as F

from cml.codecs.base import Codec
from cml.codecs.neural import WaveletCodec
from cml.codecs.pcm import from_int16
from cml.codecs.resample_sound import Resample, resample
from cml.data.latents import ModelInputs, SoundSpace, map_items
from cml.errors import CmlError

_LARGEST = 2**15 - 1
_LOUDEST = 2.0  # sample of a stem: they may cancel out in a mixture whose peak is 1


@dataclass(frozen=True)
class _Reading:
    """What a view reads of sound, and the way back.

    Attributes:
        values: (C, T) to float (c, n), linear.
        unit: about the root mean square of the values; a model reads values / unit.
        largest: of the values of stems, where it is known.
        space: of what a model reads.
    """

    values: Callable[[Tensor], Tensor]
    unit: float
    largest: float | None
    space: SoundSpace


def prepare(view: str, codec: Codec, task: SeparationTask, patch: int, on_item: Callable[[], None]) -> Prepared:
    """Encode a task's data for one view of one codec; `on_item` is called after each mixture."""
    stem = view_stem(view, codec, task, patch)
    reading = _reading(view, codec, task)

    @torch.no_grad()
    def train_item(index: int) -> Tensor:
        values = torch.cat([reading.values(part) for part in task.parts(index)])
        return values if reading.largest is None else _whole(values, reading.largest)

    def test_item(index: int) -> tuple[Tensor, int, int, float]:
        x = task.signal("test", index)
        bits, blob = charge(codec, x)
        values = see(view, codec, task, patch, x, blob).values
        quality = psnr(x, from_int16(values.numpy()), data_range=1) if view in DECODED else 0.0
        return values, bits, x.shape[-1], quality

    items = map_items(test_item, task.count("test"), on_item)
    trains = view != "reconstruction" and not task.frozen
    train = _fine(torch.stack(map_items(train_item, task.count("train"), on_item)), reading) if trains else None
    longest = max(item[0].shape[1] for item in items)
    values = torch.zeros(1, len(items), stem.channels, longest, dtype=torch.int16)
    for row, item in zip(values[0], items, strict=True):
        row[:, : item[0].shape[1]] = item[0]
    lengths = torch.tensor([item[2] for item in items])
    return Prepared(
        stem=stem,
        shift=patch * stem.grid[0] // task.size[0],
        train=train,
        test=ModelInputs(values, *_of_test(view, codec, task), lengths, sounds=reading.space),
        bits=np.array([item[1] for item in items]),
        dimensions=stem.channels * stem.grid[0],
        quality={"psnr": np.array([item[3] for item in items])} if view in DECODED else {},
        positions=lengths.numpy(),
    )


def blank_inputs(view: str, codec: Codec, task: SeparationTask, patch: int, split: str, count: int) -> ModelInputs:
    """A few inputs of a view that hold nothing, of the size that a model is trained on, to time it with."""
    stem = view_stem(view, codec, task, patch)
    rows, space = min(count, task.count(split)), _reading(view, codec, task).space
    channels = stem.channels * (len(task.stems) if split == "train" else 1)
    values, ones = torch.zeros(1, rows, channels, *stem.grid, dtype=torch.int16), torch.ones(channels)
    return ModelInputs(values, ones, 0 * ones, torch.full((rows,), task.size[0]), sounds=space)


def _reading(view: str, codec: Codec, task: SeparationTask) -> _Reading:
    if view == "latent":
        return _latents(codec)
    scale, _ = task.normalization()
    unit = 1 / float(scale[0]) / (_LARGEST + 1)
    if view == "resample" and isinstance(codec, Resample):
        factor = int(codec.factor)

        def sound(z: Tensor, length: int) -> Tensor:
            return resample(z.flatten(0, 1) * unit, 1, factor)[:, :length].unflatten(0, z.shape[:2])

        return _Reading(lambda x: resample(x, factor, 1), unit, _LOUDEST, SoundSpace(lambda z: z, sound))
    return _Reading(lambda x: x, unit, _LOUDEST, SoundSpace(lambda z: z, lambda z, length: z[..., :length] * unit))


def _latents(codec: Codec) -> _Reading:
    codec = _linear(codec)
    bias, unit, count = _bias(codec), _unit(codec), codec.channels

    def stored(z: Tensor) -> Tensor:
        return (codec.quantize(z * unit + bias) * codec.step - bias) / unit

    def sound(z: Tensor, length: int) -> Tensor:
        unsent = codec.config.latent_channels - count
        return codec.synthesis(F.pad(z * unit + bias, (0, 0, 0, unsent)), (length,))

    return _Reading(lambda x: codec.analysis(x[None])[0, :count] - bias, unit, None, SoundSpace(stored, sound))


def _of_test(view: str, codec: Codec, task: SeparationTask) -> tuple[Tensor, Tensor]:
    """(scale, offset) of what the containers hold."""
    if view != "latent":
        return task.normalization()
    codec = _linear(codec)
    bias, unit = _bias(codec)[:, 0], _unit(codec)
    return torch.full_like(bias, codec.step / unit), -bias / unit


def _linear(codec: Codec) -> WaveletCodec:
    if isinstance(codec, WaveletCodec) and codec.config.encoder == "linear" and codec.config.quantizer == "uniform":
        return codec
    raise CmlError(
        f"The latents of {codec.spec.name} do not add up as sounds do, so mixtures cannot be made of them: the view "
        "latent of the task separation takes codecs with a linear encoder and a uniform step."
    )


@torch.no_grad()
def _bias(codec: WaveletCodec) -> Tensor:
    """(c, 1), the latents of silence."""
    return codec.analysis(torch.zeros(1, codec.config.channels, codec.config.cell[0]))[0, : codec.channels]


def _unit(codec: WaveletCodec) -> float:
    return float(torch.tensor(codec.config.latent_std)[: codec.channels].square().mean().sqrt())


def _fine(values: Tensor, reading: _Reading) -> ModelInputs:
    """(N, S c, n) as 16-bit integers, if they are none yet, of the finest step that holds them all."""
    largest = reading.largest or max(float(values.abs().max()), 1e-9)
    whole = values if values.dtype == torch.int16 else _whole(values, largest)
    scale = torch.full((values.shape[1],), largest / _LARGEST / reading.unit)
    return ModelInputs(whole[None], scale, 0 * scale, torch.zeros(len(values), dtype=torch.int64), sounds=reading.space)


def _whole(values: Tensor, largest: float) -> Tensor:
    return (values / largest * _LARGEST).round().clamp(-_LARGEST, _LARGEST).to(torch.int16)
