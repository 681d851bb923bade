"""Segmentation of signals of three axes: a class at every place of a volume, and, in `video`, of every frame."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Pictures, Score
from cml.tasks.confusion import class_iou, confusion_matrix, mean_iou
from cml.tasks.segmentation import coloured
from torch import Tensor, nn
from torch.nn import functional as F

from cml.data.labelled_volumes import VOID, LabelledSignals, load_labelled
from cml.data.latents import ModelInputs
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.models.volumes import VolumeNet, VolumeStem, build_volume
from cml.train.loop import Recipe, TrainingTime, fit

_SHOWN = 3


class VolumeSegmentation:
    """Which region is at each place?

        signal --codec and view--> tokens of `patch` samples --VolumeNet--> classes at every `spacing` samples
          --trilinear--> a class a place

    What augments the training signals holds for samples and for latents alike: shifts by up to `reach` tokens along
    each axis, for latents exact away from the border. A mirrored signal has other latents. Classes weigh by the inverse
    square root of their frequency.

    One head has labels: its left half is the training split, its right half, mirrored, the test split; see
    `cml.data.labelled_volumes.mricron` for what that means. Intervals are over blocks of 32 voxels a side.

    Args:
        data: "mricron:PATH", or "scans:PATH" of own ones.
        backbone: "cml:volume"; None for that.
        size: not to be given; signals are as large as they are.
        epochs: of training; None for 60.
    """

    name = "volumes"
    version = 1
    main_score = "miou"
    flips: tuple[str, ...] = ("none",)
    patch = 8
    frozen = False
    quick_size: int | None = None
    views: tuple[str, ...] = ("pixels", "bigpatch", "resize", "latent", "reconstruction", "retrained")
    shared = False
    folded = False
    spacing = (2, 2, 2)
    """Samples along each axis for which a model computes one answer."""
    reach = (2, 2, 2)
    """Tokens that a training signal moves at most along each axis."""
    repeats = 8
    """Passes over the training signals in an epoch."""
    block: tuple[int, int, int] | None = (32, 32, 32)
    """What is drawn again and again for intervals; None for whole signals."""
    background: int | None = 0
    """The class that the Dice score leaves out."""
    usual_epochs = 60
    batch_size, lr = 1, 4e-3
    needs = "mricron:PATH, a folder of MRIcron's ch2 and AAL, or scans:PATH, of own scans and labels"

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        if data.partition(":")[0] == "elpv":
            raise CmlError(f"The task {self.name} needs --data {self.needs}.")
        self.data: LabelledSignals = load_labelled(data)
        self.backbone = backbone or "cml:volume"
        if size is not None:
            raise CmlError(f"The signals of the task {self.name} are taken as they are: leave out the size.")
        if epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        self.epochs = epochs or self.usual_epochs
        self.recipe = Recipe(epochs=self.epochs, batch_size=self.batch_size, lr=self.lr)
        self.size, self.channels = self.data.size, self.data.channels
        self.forms = {3: self.channels}
        self.positions = int(np.prod(self.size))
        self.description = self.data.description

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "size": self.size,
            "backbone": self.backbone,
            "recipe": asdict(self.recipe),
            "augmentation": {"shift": self.reach},
            "repeats": self.repeats,
            "spacing": self.spacing,
        }

    @property
    def chance(self) -> float:
        """Of a model that sees no test signal: see `LabelledSignals.blind`."""
        truth = self.labels("test")
        if self.data.blind is None:
            answer = torch.full_like(truth, int(self.data.frequencies.argmax()))
        else:
            answer = torch.stack([self.data.blind(index) for index in range(len(truth))])
        return float(mean_iou(confusion_matrix(truth, answer, len(self.data.classes))))

    def count(self, split: str) -> int:
        return len(getattr(self.data, split))

    def load(self, on_item: Callable[[], None]) -> None:
        """Signals are read when they are encoded."""

    def signal(self, split: str, index: int) -> Tensor:
        return getattr(self.data, split).signal(index)

    def picture(self, index: int) -> Tensor:
        """The middle of the first axis of a test signal, uint8 (C, y, x)."""
        x = self.signal("test", index)[:, self.size[0] // 2]
        if x.dtype == torch.uint8:
            return x
        x = x.to(torch.int32).float()
        low, high = x.aminmax()
        return ((x - low) / (high - low).clamp(min=1) * 255).round().to(torch.uint8)

    def labels(self, split: str) -> Tensor:
        """uint8 (N, *size)."""
        half = getattr(self.data, split)
        return torch.stack([half.labels(index) for index in range(len(half))])

    def normalization(self) -> tuple[Tensor, Tensor]:
        # 8-bit samples to about [-2, 2]; 16-bit ones, which are stored around zero, likewise.
        wide = self.signal("test", 0).dtype == torch.uint16
        scale, offset = (2 / 2**15, 0.0) if wide else (2 / 127.5, -2.0)
        return torch.full((self.channels,), scale), torch.full((self.channels,), offset)

    def spectra(self) -> Tensor:
        raise CmlError(f"The task {self.name} has no spectra.")

    def token(self, patch: int) -> tuple[int, int, int]:
        return patch, patch, patch

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        if not isinstance(stem, VolumeStem):
            raise CmlError(f"The task {self.name} has models of signals of three axes.")
        tokens = [n // k for n, k in zip(stem.grid, stem.kernel, strict=True)]
        factor = tuple(max(1, n // t // s) for n, t, s in zip(self.size, tokens, self.spacing, strict=True))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_volume(self.backbone, stem, len(self.data.classes), factor)

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        assert isinstance(model, VolumeNet)
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.from_numpy(self.data.frequencies).clamp(min=1).float()
        weights = (frequencies.sum() / (len(frequencies) * frequencies)).sqrt()
        batch_size = min(self.recipe.batch_size, len(inputs))
        grid = inputs.values.shape[3:]
        answers = [n * f // k for n, f, k in zip(grid, model.factor, model.kernel, strict=True)]
        every = [n // a for n, a in zip(self.size, answers, strict=True)]
        # Whole tokens of every view: those of the ceiling are halves.
        tokens = [n // step for n, step in zip(self.size, self.token(self.patch), strict=True)]
        reach = torch.tensor([min(far, n // 4) for far, n in zip(self.reach, tokens, strict=True)])

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            for _ in range(self.repeats):
                order = torch.randperm(len(inputs), generator=generator)
                for indices in order[: len(inputs) // batch_size * batch_size].split(batch_size):
                    moves = (torch.rand(3, generator=generator) * (2 * reach + 1)).long() - reach
                    here, there = (
                        tuple(int(move) * n // whole for move, n, whole in zip(moves, sides, tokens, strict=True))
                        for sides in (grid, answers)
                    )
                    # One of the places that an answer stands for, another one each time: none of them is its middle.
                    at = [int(torch.randint(step, (), generator=generator)) for step in every]
                    labels = inputs.labels[indices, at[0] :: every[0], at[1] :: every[1], at[2] :: every[2]]
                    pads = [side for move in reversed(there) for side in (move, -move)]
                    yield inputs.batch(indices, shift=here), F.pad(labels, pads, value=VOID).long()

        def loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(model(x), labels, weights, ignore_index=VOID)

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            steps = self.repeats * (len(inputs) // batch_size)
            time = fit(model, batches, steps, loss, self.recipe, on_epoch)
        # In signals, of which an epoch has as many as there are.
        return TrainingTime(len(inputs) * max(1, self.recipe.epochs - 1), time.seconds)

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        model.eval()
        count, confusion, answers = len(self.data.classes), [], []
        shown = torch.linspace(0, len(inputs) - 1, min(_SHOWN, len(inputs))).round().long().tolist()
        for index in range(len(inputs)):
            logits = model(inputs.batch(torch.tensor([index])))
            answer = F.interpolate(logits, self.size, mode="trilinear", align_corners=False)[0].argmax(0)
            answer, truth = answer.to(torch.uint8), inputs.labels[index]
            pairs = zip(self._parts(truth), self._parts(answer), strict=True)
            confusion += [confusion_matrix(a, b, count) for a, b in pairs]
            if index in shown:
                answers.append(answer[self.size[0] // 2])
        matrices = np.stack(confusion)
        total = matrices.sum(0)
        dice = 2 * np.diag(total) / np.maximum(1, total.sum(0) + total.sum(1))
        there = [k for k in range(count) if k != self.background and total[k].sum()]
        return Score(
            metrics={
                "miou": float(mean_iou(total)),
                "dice": float(dice[there].mean()),
                "pixel_accuracy": float(np.trace(total) / max(1, total.sum())),
                **{f"iou_{name}": float(v) for name, v in zip(self.data.classes, class_iou(total), strict=True)},
            },
            items={"confusion": matrices.astype(np.int32)},
            pictures=Pictures(
                truth=coloured(inputs.labels[shown, self.size[0] // 2], count),
                answer=coloured(torch.stack(answers), count),
                indices=shown,
            ),
        )

    def _parts(self, labels: Tensor) -> list[Tensor]:
        """What counts as an item of a signal's labels (*size)."""
        parts = [labels]
        for axis, side in enumerate(self.block or ()):
            parts = [piece for part in parts for piece in part.split(side, axis)]
        return parts
