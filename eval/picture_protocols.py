"""The views of pictures: how each turns a data set into what a model reads. See `protocols` for what they are."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from cml.eval.metrics import psnr
from cml.eval.prepared import Prepared
from cml.tasks.base import Task
from torch import Tensor

from cml.codecs.base import Codec, Latent, to_uint8
from cml.codecs.resample import Identity, Resize, resize_image
from cml.data.latents import FLIPS, ModelInputs, Space, map_items, stack
from cml.errors import CmlError
from cml.models.adapters import stem_shape
from cml.models.backbones import StemShape

# Raised whenever what a view hands to a model changes; results of different versions are never mixed.
VERSION = 1
_DECODED = ("reconstruction", "retrained")
_FINER = 2  # the patch of `pixels` is this many times finer, so it has 4 times the tokens


def views_of(codec: Codec) -> tuple[str, ...]:
    """The views that make sense for a codec."""
    if isinstance(codec, Identity):
        return ("pixels", "bigpatch")
    if isinstance(codec, Resize):
        return ("resize", *_DECODED)
    return ("latent", *_DECODED) if codec.spec.latent_channels is not None else _DECODED


def view_stem(view: str, codec: Codec, task: Task, patch: int) -> StemShape:
    """The stem of a view: one token for `patch` pixels, for half as many in `pixels`; a trained model has its own."""
    if task.frozen:
        return stem_shape(task.channels, 1, task.size, 1)
    if any(n % patch for n in task.size):
        raise CmlError(
            f"Pictures of {task.size[0]}x{task.size[1]} are not a whole number of patches of {patch}, so the views "
            f"would differ in tokens; take a size of {max(1, round(task.size[0] / patch)) * patch}."
        )
    if view == "pixels":
        if patch % _FINER:
            raise CmlError(f"The patch must be even, since the view pixels halves it; {patch} is not.")
        return stem_shape(task.channels, 1, task.size, patch // _FINER)
    if view in ("bigpatch", *_DECODED):
        return stem_shape(task.channels, 1, task.size, patch)
    if view == "resize" and isinstance(codec, Resize):
        if codec.factor != int(codec.factor) or any(n % codec.factor for n in task.size):
            raise CmlError(
                f"The view resize needs a whole factor that divides the picture's side; {codec.factor:g} does not "
                f"divide {task.size[0]}."
            )
        return stem_shape(task.channels, int(codec.factor), task.size, patch)
    if view == "latent" and codec.spec.latent_channels is not None and codec.spec.patch is not None:
        return stem_shape(codec.spec.latent_channels, codec.spec.patch, task.size, patch)
    raise CmlError(f"{codec.spec.name} has no view {view!r}; it has {', '.join(views_of(codec))}.")


def prepare(view: str, codec: Codec, task: Task, patch: int, on_item: Callable[[], None]) -> Prepared:
    """Encode a task's data for one view of one codec; `on_item` is called after each picture."""
    stem = view_stem(view, codec, task, patch)
    if view == "latent":
        return _prepare_latent(codec, task, stem, on_item)
    decodes = view in _DECODED

    def see(x: Tensor, blob: Callable[[], bytes]) -> Tensor:
        if decodes:
            return to_uint8(codec.decompress(blob()))
        return (
            to_uint8(codec.downsample(x.float() / 127.5 - 1)) if view == "resize" and isinstance(codec, Resize) else x
        )

    def train_item(index: int) -> Tensor:
        x = task.signal("train", index)
        return see(x, lambda: codec.compress(x))

    def test_item(index: int) -> tuple[Tensor, int, float, Tensor]:
        x = task.signal("test", index)
        blob = codec.compress(x)
        seen = see(x, lambda: blob)
        quality = psnr(x.float(), seen.float(), data_range=255) if decodes else 0.0
        return seen, 8 * len(blob), quality, x

    items = map_items(test_item, task.count("test"), on_item)
    space = view_space(view, codec, task)
    test = _pixel_inputs([item[0] for item in items], task, "test", space)
    trains = view != "reconstruction" and not task.frozen
    train = _pixel_inputs(map_items(train_item, task.count("train"), on_item), task, "train", space) if trains else None
    return Prepared(
        stem=stem,
        shift=patch * stem.grid[0] // task.size[0],
        train=train,
        test=test,
        bits=np.array([item[1] for item in items]),
        dimensions=test.values[0, 0].numel(),
        quality={"psnr": np.array([item[2] for item in items])} if decodes else {},
        originals=_pixel_inputs([item[3] for item in items], task, "test", space) if view == "retrained" else None,
    )


def blank_inputs(view: str, codec: Codec, task: Task, patch: int, split: str, count: int) -> ModelInputs:
    """A few inputs of a view that hold nothing, with the labels of a split, to time a model with."""
    stem = view_stem(view, codec, task, patch)
    labels = task.labels(split)[:count]
    values = torch.zeros(1, len(labels), stem.channels, *stem.grid, dtype=torch.uint8)
    ones = torch.ones(stem.channels)
    return ModelInputs(values, ones, 0 * ones, labels, space=view_space(view, codec, task))


def view_space(view: str, codec: Codec, task: Task) -> Space:
    """How a view represents pictures, and how to come back from what it represents."""
    if view == "latent":
        return _latent_space(codec, task)
    scale, offset = (values.view(-1, 1, 1) for values in task.normalization())
    height, width = task.size

    def represent(x: Tensor) -> Tensor:
        if view == "resize" and isinstance(codec, Resize):
            x = to_uint8(codec.downsample(x.float() / 127.5 - 1))
        return x * scale + offset

    def picture(z: Tensor) -> Tensor:
        x = ((z - offset) / scale).clamp(0, 255)
        if view == "resize" and isinstance(codec, Resize):
            return to_uint8(resize_image(x / 127.5 - 1, (height, width), codec.filter))
        return x.round().to(torch.uint8)

    return Space(represent, picture)


def _latent_space(codec: Codec, task: Task) -> Space:
    like = codec.encode(torch.zeros(task.channels, *task.size, dtype=torch.uint8))
    mean = like.mean.view(-1, 1, 1)

    def picture(z: Tensor) -> Tensor:
        # Rounded, so that it could be stored and sent as any latent.
        symbols = ((z * like.scale + mean) / like.step).round().clamp(-(2**15), 2**15 - 1).to(torch.int16)
        return to_uint8(codec.decode(replace(like, symbols=symbols)))

    return Space(lambda x: codec.encode(x).to_float(), picture)


def _pixel_inputs(values: list[Tensor], task: Task, split: str, space: Space) -> ModelInputs:
    scale, offset = task.normalization()
    return ModelInputs(stack(values)[None], scale, offset, task.labels(split), task.flips, blank=128, space=space)


def _prepare_latent(codec: Codec, task: Task, stem: StemShape, on_item: Callable[[], None]) -> Prepared:
    flips, count = task.flips, task.count("train")

    def train_item(number: int) -> Tensor:
        flip, index = divmod(number, count)
        return codec.encode(task.signal("train", index).flip(FLIPS[flips[flip]])).symbols

    def test_item(index: int) -> tuple[Latent, int]:
        latent = codec.encode(task.signal("test", index))
        return latent, 8 * len(codec.pack(latent))

    items = map_items(test_item, task.count("test"), on_item)
    train = stack(map_items(train_item, count * len(flips), on_item)).unflatten(0, (len(flips), count))
    first = items[0][0]
    scale, offset = torch.full_like(first.std, first.step / first.scale), -first.mean / first.scale
    test, space = stack([latent.symbols for latent, _ in items])[None], view_space("latent", codec, task)
    return Prepared(
        stem=stem,
        shift=stem.patch,
        train=ModelInputs(train, scale, offset, task.labels("train"), flips, space=space),
        test=ModelInputs(test, scale, offset, task.labels("test"), space=space),
        bits=np.array([item[1] for item in items]),
        dimensions=test[0, 0].numel(),
    )
