"""Semantic segmentation, with one training recipe for every view."""

import colorsys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Pictures, Score
from cml.tasks.confusion import boundary_f1, class_iou, confusion_matrix, mean_iou
from torch import Tensor, nn
from torch.nn import functional as F

from cml.codecs.base import to_uint8
from cml.codecs.resample import resize_image
from cml.data.latents import ModelInputs, map_items
from cml.data.segmentation import VOID, SegmentationSet, load_segmentation
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.heads import build_dense
from cml.train.loop import Recipe, TrainingTime, fit

_PATCH = 8
_SHOWN = 3
_TOLERANCE = 0.0075  # of the diagonal, as Csurka et al.


class Segmentation:
    """Which class is each pixel?

        picture --whole, antialiased resize to `size`--> codec and view --> pyramid, light decoder --> class a pixel

    Every view answers at the same places: logits for each 2 pixels, resized to the picture; classes are compared with
    the labels pixel by pixel. What augments the training samples holds for pixels and for latents alike, and the label
    maps go with it: flips, for which every flipped picture is encoded by itself, and shifts by up to three patches,
    which for latents are exact away from the border. Classes weigh by the inverse square root of their frequency.

    Args:
        data: "folder-seg:PATH", or "hf:NAME_OR_FOLDER[,CONFIGURATION]".
        backbone: as for `build_features`: "cml:small", "timm:NAME", "hf:NAME" (SegFormer among them); None for the
            first.
        size: height in pixels, to which the width follows in multiples of 8; None for the data set's own.
        epochs: of training; None for 40.
    """

    name = "segmentation"
    version = 1
    main_score = "miou"
    flips: tuple[str, ...] = ("none", "h")
    patch = _PATCH
    frozen = False
    quick_size: int | None = 120
    views: tuple[str, ...] = ("pixels", "bigpatch", "resize", "latent", "reconstruction", "retrained")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        if data.partition(":")[0] == "elpv":
            raise DataError("The task segmentation needs --data folder-seg:PATH or hf:NAME, pictures with label maps.")
        self.data: SegmentationSet = load_segmentation(data)
        self.backbone = backbone or "cml:small"
        if size is not None and size < _PATCH:
            raise CmlError(f"A segmentation needs pictures of {_PATCH} pixels a side or more, not {size}.")
        if epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        self.size = _scaled(self.data.size, size)
        self.channels = self.data.train.channels
        self.description = self.data.description
        self.epochs = epochs or 40
        self.recipe = Recipe(epochs=self.epochs, batch_size=8)
        self.tolerance = max(1, round(_TOLERANCE * float(np.hypot(*self.size))))
        self.reach = 3
        self._signals: dict[str, Tensor] = {}
        self._labels: dict[str, Tensor] = {}

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "size": self.size,
            "backbone": self.backbone,
            "recipe": asdict(self.recipe),
            "augmentation": {"flips": self.flips, "shift": f"{self.reach} patches"},
            "boundary_tolerance": self.tolerance,
        }

    @property
    def chance(self) -> float:
        """Of calling every pixel by the most frequent class of the training split."""
        labels = self.labels("test")
        answer = torch.full_like(labels, int(self.data.frequencies.argmax()))
        return float(mean_iou(confusion_matrix(labels, answer, len(self.data.classes))))

    def count(self, split: str) -> int:
        return len(getattr(self.data, split))

    def labels(self, split: str) -> Tensor:
        """uint8 (N, *size), `VOID` where nothing counts."""
        if split not in self._labels:
            read = partial(getattr(self.data, split).labels, size=self.size)
            self._labels[split] = torch.stack(map_items(read, self.count(split)))
        return self._labels[split]

    def load(self, on_item: Callable[[], None]) -> None:
        """Read every picture once, if the data set fits in two gigabytes; `signal` then only looks it up."""
        for split in ("train", "test"):
            count = self.count(split)
            if count * self.channels * self.size[0] * self.size[1] <= 2**31 and split not in self._signals:
                self._signals[split] = torch.stack(map_items(partial(self.signal, split), count, on_item))

    def signal(self, split: str, index: int) -> Tensor:
        if split in self._signals:
            return self._signals[split][index]
        image = getattr(self.data, split).image(index)
        if image.dtype == torch.uint16:
            raise DataError(
                f"{getattr(self.data, split).paths[index]} has 16 bits a sample; tasks take 8-bit pictures."
            )
        if tuple(image.shape[1:]) == self.size:
            return image
        return to_uint8(resize_image(image.float() / 127.5 - 1, self.size))

    def normalization(self) -> tuple[Tensor, Tensor]:
        return torch.full((self.channels,), 2 / 127.5), torch.full((self.channels,), -2.0)

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, path = build_dense(self.backbone, stem, len(self.data.classes), self.size, spacing=2)
        return model.to(memory_format=torch.channels_last), path  # pyright: ignore[reportCallIssue]

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.from_numpy(self.data.frequencies).clamp(min=1).float()
        weights = (frequencies.sum() / (len(frequencies) * frequencies)).sqrt()
        batch_size = min(self.recipe.batch_size, len(inputs))
        steps = len(inputs) // batch_size

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            order = torch.randperm(len(inputs), generator=generator)
            for indices in order[: steps * batch_size].split(batch_size):
                flips = torch.randint(len(inputs.flips), indices.shape, generator=generator)
                patches = torch.randint(2 * self.reach + 1, (2,), generator=generator) - self.reach
                down, right = (shift * patches).tolist()
                moved = (indices, flips, (down, right))
                yield inputs.batch(*moved), inputs.targets(*moved).long()

        def loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(model(x), labels, weights, ignore_index=VOID)

        with torch.random.fork_rng():
            torch.manual_seed(seed)  # dropout inside the model
            return fit(model, batches, steps, loss, self.recipe, on_epoch)

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        model.eval()
        parts = torch.arange(len(inputs)).split(16)
        answers = torch.cat([model(inputs.batch(part)).argmax(1).to(torch.uint8) for part in parts])
        count = len(self.data.classes)
        pairs = list(zip(inputs.labels, answers, strict=True))
        confusion = np.stack([confusion_matrix(truth, answer, count) for truth, answer in pairs])
        edges = np.array([boundary_f1(truth, answer, count, self.tolerance) for truth, answer in pairs])
        total = confusion.sum(0)
        shown = torch.linspace(0, len(inputs) - 1, min(_SHOWN, len(inputs))).round().long()
        return Score(
            metrics={
                "miou": float(mean_iou(total)),
                "pixel_accuracy": float(np.trace(total) / max(1, total.sum())),
                "boundary_f1": float(edges[np.isfinite(edges)].mean()) if np.isfinite(edges).any() else float("nan"),
                **{f"iou_{name}": float(v) for name, v in zip(self.data.classes, class_iou(total), strict=True)},
            },
            items={"confusion": confusion.astype(np.int32), "outcome": mean_iou(confusion), "boundary_f1": edges},
            pictures=Pictures(
                truth=coloured(inputs.labels[shown], count),
                answer=coloured(answers[shown], count),
                indices=shown.tolist(),
            ),
        )


def _scaled(size: tuple[int, int], height: int | None) -> tuple[int, int]:
    """A size of a given height and about the same shape; as it is, where it is a whole number of patches."""
    if height is None and not any(n % _PATCH for n in size):
        return size
    height = height or max(1, round(size[0] / _PATCH)) * _PATCH
    return height, max(1, round(size[1] * height / size[0] / _PATCH)) * _PATCH


def coloured(labels: Tensor, classes: int) -> Tensor:
    """uint8 (N, H, W) to (N, 3, H, W); void is black."""
    palette = torch.zeros(256, 3, dtype=torch.uint8)
    for label in range(classes):
        # Steps of the golden angle, so that neighbours in number differ.
        shade = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.75 - 0.25 * (label % 2), 0.95 - 0.3 * (label % 3) / 2)
        palette[label] = torch.tensor([round(255 * value) for value in shade], dtype=torch.uint8)
    return palette[labels.long()].permute(0, 3, 1, 2)
