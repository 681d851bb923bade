"""The views of sound: how each turns a data set into what a model reads. See `protocols` for what they are.

Tasks that answer with sound, such as `separation`, have an own way to prepare: `separation_protocols`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from cml.eval.metrics import psnr
from cml.eval.prepared import Prepared
from cml.tasks.base import Task
from torch import Tensor

from cml.codecs.base import Codec
from cml.codecs.pcm import from_int16, to_int16
from cml.codecs.resample import Identity
from cml.codecs.resample_sound import Resample
from cml.data.latents import ModelInputs, map_items, stack
from cml.data.mel import LEAST, log_mel
from cml.errors import CmlError
from cml.models.adapters import stem_shape
from cml.models.backbones import StemShape

# Raised whenever what a view hands to a model changes; results of different versions are never mixed.
VERSION = 1
BANDS = 64
"""Of the view `spectrogram`, a channel."""
DECODED = ("reconstruction", "retrained")
_FINER = 2  # the patch of `waveform` is this many times finer, so it has twice the tokens
_MEL_STEP, _MEL_UNIT = 1 / 256, 4.0  # of logarithms of energies, above silence: as integers, and to a model


class SoundTask(Task, Protocol):
    """A task on sound: its size is (samples,), and its signals float32 (C, T) in [-1, 1]."""

    rate: int
    """Samples a second."""


@runtime_checkable
class SeparationTask(SoundTask, Protocol):
    """A task that takes sound apart: its signals are mixtures, those to test of any length."""

    stems: tuple[str, ...]
    """Their names, in order."""

    def parts(self, index: int) -> Tensor:
        """The stems of one to train on, float32 (S, C, T), of one T."""
        ...


def views_of(codec: Codec) -> tuple[str, ...]:
    """The views that make sense for a codec."""
    if isinstance(codec, Identity):
        return ("waveform", "bigpatch", "spectrogram")
    if isinstance(codec, Resample):
        return ("resample", *DECODED)
    return ("latent", *DECODED) if codec.spec.latent_channels is not None else DECODED


def view_stem(view: str, codec: Codec, task: SoundTask, patch: int) -> StemShape:
    """The stem of a view: one token for `patch` samples, half as many in `waveform`; a trained model has its own."""
    (length,) = task.size
    if task.frozen:
        return stem_shape(task.channels, 1, task.size, 1)
    if length % patch:
        raise CmlError(
            f"A sound of {length} samples is not a whole number of patches of {patch}, so the views would differ in "
            f"tokens; take a size of {max(1, length // patch) * patch}."
        )
    if view == "waveform":
        if patch % _FINER:
            raise CmlError(f"The patch must be even, since the view waveform halves it; {patch} is not.")
        return stem_shape(task.channels, 1, task.size, patch // _FINER)
    if view in ("bigpatch", *DECODED):
        return stem_shape(task.channels, 1, task.size, patch)
    if view == "spectrogram":
        return stem_shape(BANDS * task.channels, patch, task.size, patch)
    if view == "resample" and isinstance(codec, Resample):
        if codec.factor != int(codec.factor):
            raise CmlError(f"The view resample needs a whole factor, not {codec.factor:g}.")
        return stem_shape(task.channels, int(codec.factor), task.size, patch)
    if view == "latent" and codec.spec.latent_channels is not None and codec.spec.patch is not None:
        return stem_shape(codec.spec.latent_channels, codec.spec.patch, task.size, patch)
    raise CmlError(f"{codec.spec.name} has no view {view!r}; it has {', '.join(views_of(codec))}.")


def prepare(view: str, codec: Codec, task: SoundTask, patch: int, on_item: Callable[[], None]) -> Prepared:
    """Encode a task's data for one view of one codec; `on_item` is called after each clip."""
    if isinstance(task, SeparationTask):
        from cml.eval import separation_protocols

        return separation_protocols.prepare(view, codec, task, patch, on_item)
    stem = view_stem(view, codec, task, patch)

    def train_item(index: int) -> Tensor:
        return see(view, codec, task, patch, task.signal("train", index)).values

    def test_item(index: int) -> tuple[Seen, int, float, Tensor]:
        x = task.signal("test", index)
        bits, blob = charge(codec, x)
        seen = see(view, codec, task, patch, x, blob)
        quality = psnr(x, from_int16(seen.values.numpy()), data_range=1) if decodes else 0.0
        return seen, bits, quality, x

    decodes = view in DECODED
    items = map_items(test_item, task.count("test"), on_item)
    trains = view != "reconstruction" and not task.frozen
    train = stack(map_items(train_item, task.count("train"), on_item)) if trains else None
    first = items[0][0]

    def inputs(values: Tensor, split: str) -> ModelInputs:
        flips = task.flips if first.linear else ("none",)
        return ModelInputs(values[None], first.scale, first.offset, task.labels(split), flips)

    test = stack([item[0].values for item in items])
    return Prepared(
        stem=stem,
        shift=patch * stem.grid[0] // task.size[0],
        train=None if train is None else inputs(train, "train"),
        test=inputs(test, "test"),
        bits=np.array([item[1] for item in items]),
        dimensions=test[0].numel(),
        quality={"psnr": np.array([item[2] for item in items])} if decodes else {},
        originals=inputs(stack([samples_of(item[3]) for item in items]), "test") if view == "retrained" else None,
    )


def blank_inputs(view: str, codec: Codec, task: SoundTask, patch: int, split: str, count: int) -> ModelInputs:
    """A few inputs of a view that hold nothing, with the labels of a split, to time a model with."""
    if isinstance(task, SeparationTask):
        from cml.eval import separation_protocols

        return separation_protocols.blank_inputs(view, codec, task, patch, split, count)
    stem = view_stem(view, codec, task, patch)
    labels = task.labels(split)[:count]
    values, ones = torch.zeros(1, len(labels), stem.channels, *stem.grid, dtype=torch.int16), torch.ones(stem.channels)
    return ModelInputs(values, ones, 0 * ones, labels)


@dataclass(frozen=True)
class Seen:
    """A clip as one view has it.

    Attributes:
        values: (c, n) integers; what a model reads is values * scale + offset.
        scale, offset: (c,).
        linear: whether turning the sign of the clip turns that of the values.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor
    linear: bool = True


def see(
    view: str, codec: Codec, task: SoundTask, patch: int, x: Tensor, blob: Callable[[], bytes] | None = None
) -> Seen:
    """What a view shows of a clip.

    Args:
        view, codec, task, patch: what is to be seen.
        x: (C, T) float in [-1, 1].
        blob: its container, where it is there already.
    """
    if view == "latent":
        latent = codec.unpack(blob()) if blob else codec.encode(x)
        scale = torch.full_like(latent.std, latent.step / latent.scale)
        return Seen(latent.symbols, scale, -latent.mean / latent.scale)
    if view == "spectrogram":
        # Silence is zero, as in every view: models take the energy of what they read.
        above = log_mel(x, task.rate, patch, BANDS).flatten(0, 1) - math.log(LEAST)
        scale = torch.full((len(above),), _MEL_STEP / _MEL_UNIT)
        return Seen((above / _MEL_STEP).round().to(torch.int16), scale, 0 * scale, linear=False)
    if view in DECODED:
        x = codec.decompress(blob() if blob else codec.compress(x))
    elif view == "resample" and isinstance(codec, Resample):
        x = codec.downsample(x)
    return Seen(samples_of(x), *task.normalization())


def charge(codec: Codec, x: Tensor) -> tuple[int, Callable[[], bytes]]:
    """8 x the bytes of a clip's whole container, and the container.

    Samples as they are count with 16 bits, as files have them, not with the 32 of our floats.
    """
    blob = codec.compress(((x + 1) * 32767.5).round().to(torch.uint16) if isinstance(codec, Identity) else x)
    return 8 * len(blob), lambda: blob


def samples_of(x: Tensor) -> Tensor:
    """(C, T) float in [-1, 1] as int16."""
    return torch.from_numpy(to_int16(x))
