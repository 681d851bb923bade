"""What a task is to the harness."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

from cml.data.latents import ModelInputs
from cml.models.backbones import StemShape
from cml.registry import Registry
from cml.train.loop import TrainingTime

TASKS = Registry(
    "task",
    {
        "classification": "cml.tasks.classification:Classification",
        "colorization": "cml.tasks.colorization:Colorization",
        "docvqa": "cml.tasks.docvqa:DocVqa",
        "documents": "cml.tasks.documents:Documents",
        "hyperspectral": "cml.tasks.hyperspectral:Hyperspectral",
        "imagenet": "cml.tasks.imagenet:ImageNet",
        "receipts": "cml.tasks.receipts:Receipts",
        "segmentation": "cml.tasks.segmentation:Segmentation",
        "separation": "cml.tasks.separation:Separation",
        "sound": "cml.tasks.sound:SoundClassification",
        "video": "cml.tasks.video:VideoSegmentation",
        "volumes": "cml.tasks.volumes:VolumeSegmentation",
    },
)


@dataclass(frozen=True)
class Pictures:
    """What a model answers, where that can be looked at.

    Attributes:
        truth, answer: uint8 (N, 3, H, W), of all test items or of those in `indices`.
        indices: of the test items, in the same order.
        measures: of `cml.eval.answers.MEASURES`, between the two; they need all items.
    """

    truth: Tensor
    answer: Tensor
    indices: Sequence[int]
    measures: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sounds:
    """What a model answers, where that is several sounds at once: the stems of a mixture.

    Attributes:
        truth, answer: float (N, S, C, T) in about [-1, 1], of all test items or of those in `indices`; the sum of the
            true ones is what the model was given.
        indices: of the test items, in the same order.
        names: of the S sounds.
        rate: samples a second.
    """

    truth: Tensor
    answer: Tensor
    indices: Sequence[int]
    names: tuple[str, ...]
    rate: int


@dataclass(frozen=True)
class Score:
    """How a model did on the test split.

    Attributes:
        metrics: name -> value; the task's main score is among them.
        items: name -> (N, ...) of each test item, for paired comparisons. One of these says how well it went:
            `confusion` (N, K, K) of integers, where the main score is the mean intersection over union of its sum;
            `outcome` (N,), of which the main score is the mean; `correct` (N,), the same for right and wrong.
        pictures: some answers to look at.
        sounds: some answers to listen to.
    """

    metrics: Mapping[str, float]
    items: Mapping[str, np.ndarray] = field(default_factory=dict)
    pictures: Pictures | None = None
    sounds: Sounds | None = None


class Task(Protocol):
    """A downstream task on one data set: its signals, its models, its training and its score."""

    name: str
    version: int
    """Raised whenever a change could change a number; results of different versions are never mixed."""
    main_score: str
    channels: int
    flips: tuple[str, ...]
    """Label-preserving flips, of `cml.data.latents.FLIPS`."""
    epochs: int
    """Of one training."""
    patch: int
    """Samples a token along each axis, for all views but the ceiling, where a comparison names none."""
    frozen: bool
    """Whether its model comes trained: one seed, no training split, and one model for every view."""
    quick_size: int | None
    """`size` of the smallest comparison that still shows something; None for its own."""
    views: tuple[str, ...]
    """Those that it has, of `cml.eval.protocols`; the first is the ceiling."""
    backbone: str
    """Name of the model."""
    description: str
    """Of the data, for the report."""

    @property
    def size(self) -> tuple[int, ...]:
        """(height, width) to which whole pictures are resized before the codec; (samples,) of a sound."""
        ...

    @property
    def key(self) -> Mapping[str, Any]:
        """Everything of the task that a result depends on."""
        ...

    @property
    def chance(self) -> float:
        """The main score of a model that has seen nothing."""
        ...

    def count(self, split: str) -> int:
        """Samples in "train" or "test"."""
        ...

    def load(self, on_item: Callable[[], None]) -> None:
        """Read what is needed more than once; `on_item` is called after each sample."""
        ...

    def signal(self, split: str, index: int) -> Tensor:
        """One original: a picture, uint8 (C, *size), or a sound, float32 (C, samples) in [-1, 1]."""
        ...

    def labels(self, split: str) -> Tensor:
        """int64 (N,), or what `ModelInputs.labels` may be besides."""
        ...

    def normalization(self) -> tuple[Tensor, Tensor]:
        """(scale, offset), (C,) each: a sample x, of 8 bits in pictures and 16 in sound, becomes x * scale + offset."""
        ...

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        """An untrained model, and the path of its stem."""
        ...

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        """Train in place; samples move by -shift, 0 or shift positions along each axis."""
        ...

    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        """Evaluate on the test split."""
        ...
