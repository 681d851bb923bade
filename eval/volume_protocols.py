"""The views of signals of three axes, volumes, cubes and video: what a model reads of them. See `protocols`.

    signal (C, *three axes) uint8 or uint16 --view--> integers (c, *grid) --scale, offset--> what a model reads

A token stands for so many samples along each axis as the task says; the ceiling has half as many along the last two.
A hyperspectral cube is a map to its models: whatever a view has behind one another along the bands, positions of
samples or of latents, becomes channels. Such a cube may also go through a codec of pictures, with a channel a band.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from cml.eval.metrics import psnr
from cml.eval.prepared import Prepared
from cml.eval.protocols import taken
from cml.tasks.base import Task
from torch import Tensor

from cml.codecs.base import Codec, to_uint8
from cml.codecs.downsample import Decimate, Downsample
from cml.codecs.resample import Identity
from cml.data.latents import ModelInputs, map_items, stack
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.models.volumes import VolumeStem

# Raised whenever what a view hands to a model changes; results of different versions are never mixed.
VERSION = 1
DECODED = ("reconstruction", "retrained")
_FINER = 2  # of the ceiling's patch, along the last two axes


class VolumeTask(Task, Protocol):
    """A task on signals of three axes, (channels, *size), uint8 or uint16."""

    shared: bool
    """Whether one signal holds both splits, as different places of it; it is then encoded once."""
    folded: bool
    """Whether the first axis, of bands, becomes channels."""

    @property
    def forms(self) -> Mapping[int, int]:
        """Channels of a signal to a codec of so many axes."""
        ...

    @property
    def positions(self) -> int:
        """Of a signal, all channels together, without what the task pads it with."""
        ...

    def token(self, patch: int) -> tuple[int, int, int]:
        """Samples along each axis behind a token; the first is not looked at where it is folded."""
        ...

    def spectra(self) -> Tensor:
        """Of a cube, the spectra of its training pixels, float (N, bands)."""
        ...


def views_of(codec: Codec) -> tuple[str, ...]:
    """The views that make sense for a codec, of a task that has them."""
    if isinstance(codec, Identity):
        return ("pixels", "bigpatch")
    if isinstance(codec, (Downsample, Decimate)):
        return ("resize", *DECODED)
    return ("latent", "pca", *DECODED) if codec.spec.latent_channels is not None else DECODED


def view_stem(view: str, codec: Codec, task: VolumeTask, patch: int) -> StemShape:
    """The stem of a view: one token for `patch` samples, for half as many along the last two axes in `pixels`."""
    token, cell = task.token(patch), _cell(view, codec, task)
    if view == "pixels":
        if patch % _FINER:
            raise CmlError(f"The patch must be even, since the view pixels halves it; {patch} is not.")
        token = (token[0], token[1] // _FINER, token[2] // _FINER)
    first = 1 if task.folded else 0
    for axis in range(first, 3):
        if task.size[axis] % token[axis]:
            raise CmlError(
                f"Signals of {_times(task.size)} are not whole tokens of {_times(token)}, so the views would differ in "
                "tokens; take another patch."
            )
        if token[axis] % cell[axis]:
            raise CmlError(
                f"Tokens of {_times(token[first:])} samples are not multiples of the {_times(cell[first:])} behind one "
                f"position of {codec.spec.name} in the view {view}; take a patch of {max(cell[1:])}."
            )
    grid = tuple(math.ceil(n / c) for n, c in zip(task.size, cell, strict=True))
    channels = _channels(view, codec, task)
    if task.folded:
        return StemShape(channels * (1 if view == "pca" else grid[0]), grid[1:], token[2] // cell[2])
    kernel = tuple(t // c for t, c in zip(token, cell, strict=True))
    return VolumeStem(channels, grid, kernel[2], kernel)


def prepare(view: str, codec: Codec, task: VolumeTask, patch: int, on_item: Callable[[], None]) -> Prepared:
    """Encode a task's data for one view of one codec; `on_item` is called after each signal."""
    stem = view_stem(view, codec, task, patch)

    def train_item(index: int) -> Tensor:
        return see(view, codec, task, task.signal("train", index)).values

    def test_item(index: int) -> tuple[Seen, int, float, Tensor]:
        x = task.signal("test", index)
        held = carrier(view, codec)
        blob = held.compress(taken(held, x))
        seen = see(view, codec, task, x, blob if view != "pca" else None)
        quality = psnr(_plain(x), seen.samples, data_range=_range(x)) if seen.samples is not None else 0.0
        return seen, 8 * len(blob), quality, x

    items = map_items(test_item, task.count("test"), on_item)
    first, test = items[0][0], stack([item[0].values for item in items])
    trains = view != "reconstruction" and not task.frozen
    train = None
    if trains and task.shared:
        train = test
        on_item()
    elif trains:
        train = stack(map_items(train_item, task.count("train"), on_item))

    def inputs(values: Tensor, split: str) -> ModelInputs:
        blank = 128 if values.dtype == torch.uint8 else 0
        return ModelInputs(values[None], first.scale, first.offset, task.labels(split), blank=blank)

    originals = [see("bigpatch", codec, task, item[3]).values for item in items] if view == "retrained" else None
    return Prepared(
        stem=stem,
        shift=stem.patch,
        train=None if train is None else inputs(train, "train"),
        test=inputs(test, "test"),
        bits=np.array([item[1] for item in items]),
        dimensions=test[0].numel(),
        quality={"psnr": np.array([item[2] for item in items])} if view in DECODED else {},
        originals=inputs(stack(originals), "test") if originals else None,
        positions=np.full(len(items), task.positions),
    )


def blank_inputs(view: str, codec: Codec, task: VolumeTask, patch: int, split: str, count: int) -> ModelInputs:
    """A few inputs of a view that hold nothing, with the labels of a split, to time a model with."""
    stem = view_stem(view, codec, task, patch)
    labels = task.labels(split)[:count]
    values = torch.zeros(1, len(labels), stem.channels, *stem.grid, dtype=torch.int16)
    ones = torch.ones(stem.channels)
    return ModelInputs(values, ones, 0 * ones, labels)


def carrier(view: str, codec: Codec) -> Codec:
    """The codec whose container a view comes from: `pca` is of originals, whatever codec it is compared with."""
    return Identity(ndim=3) if view == "pca" else codec


@dataclass(frozen=True)
class Seen:
    """A signal as one view has it.

    Attributes:
        values: (c, *grid) integers; what a model reads is values * scale + offset.
        scale, offset: (c,).
        samples: of the decoded signal, as plain numbers; None where nothing is decoded.
    """

    values: Tensor
    scale: Tensor
    offset: Tensor
    samples: Tensor | None = None


def see(view: str, codec: Codec, task: VolumeTask, x: Tensor, blob: bytes | None = None) -> Seen:
    """What a view shows of a signal.

    Args:
        view, codec, task: what is to be seen.
        x: (C, *size), uint8 or uint16.
        blob: its container, where it is there already.
    """
    scale, offset = task.normalization()
    if view == "latent":
        latent = codec.unpack(blob) if blob else codec.encode(taken(codec, x))
        scale = torch.full_like(latent.std, latent.step / latent.scale)
        return _seen(task, latent.symbols, scale, -latent.mean / latent.scale)
    if view == "pca":
        return _principal(codec, task, x)
    if view in DECODED:
        made = codec.decompress(blob if blob else codec.compress(taken(codec, x)))
        x = as_samples(made.reshape(x.shape), x.dtype)
        return _seen(task, _codes(x), scale, offset, _plain(x))
    if view == "resize" and isinstance(codec, (Downsample, Decimate)):
        small = codec.downsample(unit(x) if isinstance(codec, Decimate) else x)
        return _seen(task, _codes(as_samples(small, x.dtype)), scale, offset)
    return _seen(task, _codes(x), scale, offset)


def unit(x: Tensor) -> Tensor:
    """uint8 or uint16 as float32 in [-1, 1]."""
    return x.float() / (127.5 if x.dtype == torch.uint8 else 32767.5) - 1


def as_samples(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What a codec gives, float32 in [-1, 1], with the samples of the original."""
    if x.dtype == dtype:
        return x
    if dtype == torch.uint8:
        return to_uint8(x)
    return ((x + 1) * 32767.5).round().clamp(0, 65535).to(torch.int32).to(torch.uint16)


def _seen(task: VolumeTask, values: Tensor, scale: Tensor, offset: Tensor, samples: Tensor | None = None) -> Seen:
    if not task.folded or values.dim() == 3:
        return Seen(values, scale, offset, samples)
    bands = values.shape[1]
    return Seen(values.flatten(0, 1), scale.repeat_interleave(bands), offset.repeat_interleave(bands), samples)


def _principal(codec: Codec, task: VolumeTask, x: Tensor) -> Seen:
    """The first components of the spectra, by the covariance of the training pixels, as many as latents a pixel."""
    spectra = task.spectra().double()
    mean = spectra.mean(0)
    _, vectors = torch.linalg.eigh((spectra - mean).T @ (spectra - mean))
    basis = vectors.flip(1)[:, : _channels("pca", codec, task)].T.float()
    parts = torch.einsum("db,bhw->dhw", basis, _plain(x)[0] - mean.float().view(-1, 1, 1))
    # Fine integers of one step, and a unit for the model by the energy of all.
    step = float(parts.abs().max().clamp(min=1e-12)) / 32767
    scale = torch.full((len(basis),), step / float(parts.square().mean().sqrt().clamp(min=1e-12)))
    return Seen((parts / step).round().to(torch.int16), scale, 0 * scale)


def _cell(view: str, codec: Codec, task: VolumeTask) -> tuple[int, int, int]:
    """Samples along each axis behind a position of what a view has."""
    if view == "resize" and isinstance(codec, (Downsample, Decimate)):
        small = codec.small_size(task.size)
        factors = [n // m for n, m in zip(task.size, small, strict=True)]
        if any(n != m * f for n, m, f in zip(task.size, small, factors, strict=True)):
            raise CmlError(
                f"The view resize needs whole factors that divide the signal; {codec.spec.name} makes {_times(small)} "
                f"of {_times(task.size)}."
            )
        return factors[0], factors[1], factors[2]
    if view == "latent":
        *first, down, across = codec.spec.cell
        return (first[0] if first else task.size[0]), down, across
    return 1, 1, 1


def _channels(view: str, codec: Codec, task: VolumeTask) -> int:
    """Of what a view has, at each position."""
    if view == "latent" and codec.spec.latent_channels is not None:
        return codec.spec.latent_channels
    if view == "pca" and codec.spec.latent_channels is not None:
        cell = _cell("latent", codec, task)
        values = codec.spec.latent_channels * math.ceil(task.size[0] / cell[0]) / (cell[1] * cell[2])
        return min(max(1, round(values)), task.size[0])
    return task.channels


def _codes(x: Tensor) -> Tensor:
    """uint8 as it is, uint16 as int16 around zero."""
    return x if x.dtype == torch.uint8 else (x.to(torch.int32) - 32768).to(torch.int16)


def _plain(x: Tensor) -> Tensor:
    return x.to(torch.int32).float()


def _range(x: Tensor) -> float:
    """max - min of a signal."""
    low, high = _plain(x).aminmax()
    return max(1.0, float(high - low))


def _times(numbers: tuple[int, ...]) -> str:
    return "x".join(map(str, numbers))
