"""Image classification, with one training recipe for every view."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Score
from cml.tasks.calibration import calibration_error
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from cml.codecs.base import to_uint8
from cml.codecs.resample import resize_image
from cml.data.datasets import ImageDataset, load_dataset
from cml.data.latents import ModelInputs, map_items
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape, build
from cml.train.loop import Recipe, TrainingTime, fit


class Classification:
    """Which class is it?

        picture --whole, antialiased resize to `size`--> codec and view --> model --> class

    Pictures are never cropped. What augments the training samples holds for pixels and for latents alike:

    - flips: exact, since every flipped picture is encoded by itself (reversing their grid flips no wavelet latents: a
      two-channel filter bank samples even positions, which a flip of an even length exchanges for odd ones);
    - shifts by one patch, the same number of pixels in every view: exact for pixels; for latents exact away from the
      border, where the transform's mirror meets other samples;
    - mixup: exact for linear encoders up to the rounding of symbols, since the latent of a mixture is the mixture of
      the latents.

    Label smoothing and class weights (inverse square root of the frequency) complete the recipe.

    Args:
        data: "elpv", or "folder:PATH".
        backbone: "cml:small" or "timm:NAME"; None for the first.
        size: side in pixels; None for the data set's own.
        epochs: of training; None for 8.
    """

    name = "classification"
    version = 1
    main_score = "accuracy"
    flips: tuple[str, ...] = ("none", "h")
    patch = 16
    frozen = False
    quick_size: int | None = 128
    views: tuple[str, ...] = ("pixels", "bigpatch", "resize", "latent", "reconstruction", "retrained")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        self.data: ImageDataset = load_dataset(data)
        self.backbone = backbone or "cml:small"
        side = self.data.size if size is None else size
        if side < 8:
            raise CmlError(f"A task needs pictures of 8 pixels a side or more, not {side}.")
        if epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        self.size = (side, side)
        self.channels = self.data.channels
        self.description = self.data.description
        self.epochs = epochs or 8
        self.recipe = Recipe(epochs=self.epochs)
        self._loaded: dict[str, Tensor] = {}
        self.smoothing, self.mixup = 0.1, 0.2

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            # the content, not the path: a data set that moves keeps its results
            "data_revision": self.data.revision,
            "size": self.size,
            "backbone": self.backbone,
            "recipe": asdict(self.recipe),
            "augmentation": {
                "flips": self.flips,
                "shift": "one patch",
                "mixup": self.mixup,
                "smoothing": self.smoothing,
            },
        }

    @property
    def chance(self) -> float:
        """The share of the most frequent class in the test split."""
        return float(np.bincount(self.data.test.labels).max() / len(self.data.test))

    def count(self, split: str) -> int:
        return len(getattr(self.data, split))

    def labels(self, split: str) -> Tensor:
        return torch.from_numpy(getattr(self.data, split).labels)

    def load(self, on_item: Callable[[], None]) -> None:
        """Read every picture once, if the data set fits in two gigabytes; `signal` then only looks it up."""
        for split in ("train", "test"):
            count = self.count(split)
            if count * self.channels * self.size[0] * self.size[1] <= 2**31 and split not in self._loaded:
                self._loaded[split] = torch.stack(map_items(partial(self.signal, split), count, on_item))

    def signal(self, split: str, index: int) -> Tensor:
        if split in self._loaded:
            return self._loaded[split][index]
        image = getattr(self.data, split).image(index)
        if image.dtype == torch.uint16:
            raise DataError(
                f"{getattr(self.data, split).paths[index]} has 16 bits a sample; tasks take 8-bit pictures."
            )
        if tuple(image.shape[1:]) == self.size:
            return image
        return to_uint8(resize_image(image.float() / 127.5 - 1, self.size))

    def normalization(self) -> tuple[Tensor, Tensor]:
        # 8-bit samples to about unit variance: [-1, 1] times two.
        return torch.full((self.channels,), 2 / 127.5), torch.full((self.channels,), -2.0)

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model, path = build(self.backbone, stem, len(self.data.classes))
        return model.to(memory_format=torch.channels_last), path  # pyright: ignore[reportCallIssue]

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        generator = torch.Generator().manual_seed(seed)
        counts = torch.bincount(inputs.labels, minlength=len(self.data.classes)).clamp(min=1)
        weights = (len(inputs) / (len(counts) * counts)).sqrt()
        batch_size = min(self.recipe.batch_size, len(inputs))
        steps = len(inputs) // batch_size

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            order = torch.randperm(len(inputs), generator=generator)
            for indices in order[: steps * batch_size].split(batch_size):
                flips = torch.randint(len(inputs.flips), indices.shape, generator=generator)
                down, right = (shift * (torch.randint(3, (2,), generator=generator) - 1)).tolist()
                yield inputs.batch(indices, flips, (down, right)), inputs.labels[indices]

        def loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
            # Beta(a, a) by two gamma draws; torch's own sampler takes no generator.
            share = float(
                np.random.default_rng(int(torch.randint(2**31, (), generator=generator))).beta(self.mixup, self.mixup)
            )
            share = max(share, 1 - share)
            other = torch.randperm(len(x), generator=generator)
            logits = model(x.lerp(x[other], 1 - share))
            first = F.cross_entropy(logits, labels, weights, label_smoothing=self.smoothing)
            second = F.cross_entropy(logits, labels[other], weights, label_smoothing=self.smoothing)
            return share * first + (1 - share) * second

        with torch.random.fork_rng():
            torch.manual_seed(seed)  # dropout inside the model
            return fit(model, batches, steps, loss, self.recipe, on_epoch)

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        model.eval()
        indices = torch.arange(len(inputs))
        logits = torch.cat([model(inputs.batch(part)) for part in indices.split(64)])
        probabilities = logits.softmax(1).double().numpy()
        labels = inputs.labels.numpy()
        predicted = probabilities.argmax(1)
        correct = predicted == labels
        present = np.unique(labels)
        auc = math.nan
        if len(self.data.classes) == 2 and len(present) == 2:
            auc = float(roc_auc_score(labels, probabilities[:, 1]))
        elif len(present) == len(self.data.classes):
            auc = float(roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"))
        return Score(
            metrics={
                "accuracy": float(correct.mean()),
                "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
                "macro_f1": float(f1_score(labels, predicted, average="macro")),
                "roc_auc": auc,
                "calibration_error": calibration_error(probabilities.max(1), correct),
            },
            items={"correct": correct, "predicted": predicted.astype(np.int32), "probability": probabilities.max(1)},
        )
