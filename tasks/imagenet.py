"""ImageNet classification by a model that is trained already: what codecs do to the models people have."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Score
from cml.tasks.calibration import calibration_error
from torch import Tensor, nn

from cml.data.datasets import fingerprint_files
from cml.data.latents import ModelInputs, map_items
from cml.data.signals import find_images, read_image
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.pretrained import load_pretrained
from cml.train.loop import TrainingTime


class ImageNet:
    """Which of the 1000 classes is it? Nothing is trained, so nothing adapts to a codec.

        picture --the model's own resize and crop--> codec --the model's own normalisation--> trained model --> class

    The folder holds pictures named WNID_anything ("n01440764_tench.jpg", as ILSVRC names its training pictures) or
    lying in folders named by WNID; the class is the place of the WNID among the 1000 sorted ones.

    Args:
        data: "folder:PATH".
        backbone: of `load_pretrained`; None for "efficientnet-lite0".
        size, epochs: must be None: the model's own size, and no training.
    """

    name = "imagenet"
    version = 1
    main_score = "top1"
    flips: tuple[str, ...] = ("none",)
    channels = 3
    epochs = 0
    patch = 16  # says nothing here, but keys hold it
    frozen = True
    quick_size: int | None = None
    views: tuple[str, ...] = ("pixels", "reconstruction")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        if size is not None or epochs is not None:
            raise CmlError("The task imagenet takes no size and no epochs: its model is trained, for its own size.")
        kind, _, path = data.partition(":")
        root = Path(path).expanduser()
        if kind != "folder" or not root.is_dir():
            raise DataError(f"The task imagenet needs --data folder:PATH, a folder of ILSVRC pictures, not {data!r}.")
        self._paths = find_images(root)
        classes = {wnid: number for number, wnid in enumerate(_wnids())}
        named = [(file.name.partition("_")[0], file.parent.name) for file in self._paths]
        found = [next((classes[n] for n in names if n in classes), -1) for names in named]
        if -1 in found:
            odd = self._paths[found.index(-1)]
            raise DataError(
                f"{odd} does not begin with the WNID of an ILSVRC class (n01440764_tench.jpg), nor does its folder."
            )
        self._labels = np.array(found)
        self._revision = fingerprint_files(self._paths, found)
        self.backbone = backbone or "efficientnet-lite0"
        self._model = load_pretrained(self.backbone)
        self.size = self._model.size
        self.description = f"{root.name}, {len(found)} pictures of {len(set(found))} ILSVRC classes, {self.backbone}"
        self._loaded: Tensor | None = None

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self._revision,
            "backbone": self.backbone,
            "weights": self._model.revision,
            "preprocessing": self._model.preprocessing,
        }

    @property
    def chance(self) -> float:
        """Of a guess among 1000 classes."""
        return 1 / 1000

    def count(self, split: str) -> int:
        return len(self._paths) if split == "test" else 0

    def load(self, on_item: Callable[[], None]) -> None:
        if self.count("test") * 3 * self.size[0] * self.size[1] <= 2**31 and self._loaded is None:
            self._loaded = torch.stack(map_items(partial(self.signal, "test"), self.count("test"), on_item))

    def signal(self, split: str, index: int) -> Tensor:
        if self._loaded is not None:
            return self._loaded[index]
        return self._model.prepare(read_image(self._paths[index], 3))

    def labels(self, split: str) -> Tensor:
        return torch.from_numpy(self._labels if split == "test" else self._labels[:0])

    def normalization(self) -> tuple[Tensor, Tensor]:
        return self._model.normalization()

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        return self._model.model, self._model.stem

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        raise CmlError("The model of the task imagenet is trained already.")

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        logits = torch.cat([model(inputs.batch(part)) for part in torch.arange(len(inputs)).split(32)])
        if logits.shape[1] != 1000:
            raise CmlError(f"{self.backbone} tells {logits.shape[1]} classes apart, not the 1000 of ILSVRC.")
        confidence, predicted = logits.softmax(1).max(1)
        correct = predicted == inputs.labels
        in_five = (logits.topk(5).indices == inputs.labels[:, None]).any(1)
        return Score(
            metrics={
                "top1": float(correct.double().mean()),
                "top5": float(in_five.double().mean()),
                "calibration_error": calibration_error(confidence.double().numpy(), correct.numpy()),
            },
            items={
                "correct": correct.numpy(),
                "in_five": in_five.numpy(),
                "predicted": predicted.int().numpy(),
                "probability": confidence.numpy(),
            },
        )


def _wnids() -> list[str]:
    from timm.data import ImageNetInfo  # pyright: ignore[reportPrivateImportUsage]

    return sorted(ImageNetInfo("imagenet-1k").label_names())
