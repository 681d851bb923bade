"""Views: what the downstream model sees of a codec. Named in every result, never implied.

pixels          full resolution, a patch half as large: the ceiling, at four times the tokens
bigpatch        full resolution, the patch that the latents have: the control at equal tokens
resize          a true antialiased downsample of the whole picture, at equal tokens
latent          rounded symbols, exactly what a bitstream holds, normalized; no decoder runs
reconstruction  decode, then a model trained on original pixels: that of `bigpatch`, at equal tokens; how the model of
                `pixels` does on the same pictures is kept beside it
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from cml.eval.metrics import psnr
from cml.tasks.base import Task
from torch import Tensor

from cml.codecs.base import Codec, Latent, to_uint8
from cml.codecs.resample import Identity, Resize
from cml.data.latents import FLIPS, ModelInputs, map_items, stack
from cml.errors import CmlError
from cml.models.adapters import stem_shape
from cml.models.backbones import StemShape

VIEWS = ("pixels", "bigpatch", "resize", "latent", "reconstruction")
# Raised whenever what a view hands to a model changes; results of different versions are never mixed.
PROTOCOL_VERSION = 1
_FINER = 2  # the patch of `pixels` is this many times finer, so it has 4 times the tokens


def views_of(codec: Codec) -> tuple[str, ...]:
    """The views that make sense for a codec."""
    if isinstance(codec, Identity):
        return ("pixels", "bigpatch")
    if isinstance(codec, Resize):
        return ("resize", "reconstruction")
    return ("latent", "reconstruction") if codec.spec.latent_channels is not None else ("reconstruction",)


@dataclass(frozen=True)
class Prepared:
    """One view of one codec on a task's data, ready for training and scoring.

    Attributes:
        stem: what the model's stem reads.
        shift: positions of the input behind `patch` pixels: how far training samples move, the same in every view.
        train: None for `reconstruction`, which trains nothing.
        test: the test split.
        bits: (N_test,) 8 x the bytes of the whole container of each test item.
        quality: per-item measures of the reconstruction, where there is one.
        dimensions: values a sample that the model reads.
    """

    stem: StemShape
    shift: int
    train: ModelInputs | None
    test: ModelInputs
    bits: np.ndarray
    dimensions: int
    quality: dict[str, np.ndarray] = field(default_factory=dict)


def view_stem(view: str, codec: Codec, task: Task, patch: int) -> StemShape:
    """The stem of a view: one token for `patch` pixels, for half as many in `pixels`."""
    if any(n % patch for n in task.size):
        raise CmlError(
            f"Pictures of {task.size[0]}x{task.size[1]} are not a whole number of patches of {patch}, so the views "
            f"would differ in tokens; take a size of {max(1, round(task.size[0] / patch)) * patch}."
        )
    if view == "pixels":
        if patch % _FINER:
            raise CmlError(f"The patch must be even, since the view pixels halves it; {patch} is not.")
        return stem_shape(task.channels, 1, task.size, patch // _FINER)
    if view in ("bigpatch", "reconstruction"):
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


def prepare(view: str, codec: Codec, task: Task, patch: int, on_item: Callable[[], None] = lambda: None) -> Prepared:
    """Encode a task's data for one view of one codec; `on_item` is called after each picture."""
    stem = view_stem(view, codec, task, patch)
    if view == "latent":
        return _prepare_latent(codec, task, stem, on_item)
    see = codec.downsample if view == "resize" and isinstance(codec, Resize) else lambda x: x

    def train_item(index: int) -> Tensor:
        x = task.signal("train", index).float() / 127.5 - 1
        return to_uint8(see(x))

    def test_item(index: int) -> tuple[Tensor, int, float]:
        original = task.signal("test", index)
        blob = codec.compress(original)
        x = original.float() / 127.5 - 1
        if view != "reconstruction":
            return to_uint8(see(x)), 8 * len(blob), 0.0
        decoded = to_uint8(codec.decompress(blob))
        return decoded, 8 * len(blob), psnr(original.float(), decoded.float(), data_range=255)

    items = map_items(test_item, task.count("test"), on_item)
    test = _pixel_inputs([item[0] for item in items], task, "test")
    trains = view != "reconstruction"
    train = _pixel_inputs(map_items(train_item, task.count("train"), on_item), task, "train") if trains else None
    return Prepared(
        stem=stem,
        shift=patch * stem.grid[0] // task.size[0],
        train=train,
        test=test,
        bits=np.array([item[1] for item in items]),
        dimensions=test.values[0, 0].numel(),
        quality={} if trains else {"psnr": np.array([item[2] for item in items])},
    )


def prepared_items(view: str, task: Task) -> int:
    """How many pictures `prepare` encodes, for a progress bar."""
    train = {"latent": len(task.flips), "reconstruction": 0}.get(view, 1)
    return task.count("test") + train * task.count("train")


def _pixel_inputs(values: list[Tensor], task: Task, split: str) -> ModelInputs:
    channels = task.channels
    # 8-bit samples to about unit variance: [-1, 1] times two.
    scale, offset = torch.full((channels,), 2 / 127.5), torch.full((channels,), -2.0)
    return ModelInputs(stack(values)[None], scale, offset, task.labels(split), task.flips, blank=128)


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
    test = stack([latent.symbols for latent, _ in items])[None]
    return Prepared(
        stem=stem,
        shift=stem.patch,
        train=ModelInputs(train, scale, offset, task.labels("train"), flips),
        test=ModelInputs(test, scale, offset, task.labels("test")),
        bits=np.array([item[1] for item in items]),
        dimensions=test[0, 0].numel(),
    )
