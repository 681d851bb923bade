"""Sound classification, with one training recipe for every view."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Score
from cml.tasks.calibration import calibration_error
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional as F

from cml.data.latents import ModelInputs, map_items
from cml.data.sound_sets import SoundDataset, load_sounds
from cml.errors import CmlError
from cml.models.backbones import StemShape, build
from cml.train.loop import Recipe, TrainingTime, fit

_PATCH = 1024
_REACH = 60  # patches that a clip moves at most


class SoundClassification:
    """What is to be heard?

        clip --mean removed, to a peak of 1--> codec and view --> model --> class

    Recordings have any volume, which tells nothing about their class, so every clip is brought to a peak of 1 before
    any codec: models and rates are of sound that is equally loud in every view. A clip is cut to whole patches, by less
    than one.

    What augments the training clips holds for waveforms and for latents alike: shifts by whole patches, exact for
    latents away from the ends; the sign, exact for linear encoders up to rounding, of no meaning to a spectrogram;
    mixup, exact likewise, of a spectrogram in its logarithms. Nothing is turned round in time: reversing their grid
    reverses no wavelet latents.

    Args:
        data: "esc10:PATH", with ",fold=N" for the test fold, or "folder:PATH".
        backbone: "cml:sound", or a plug-in's; None for the first.
        size: samples of a clip that are kept; None for all.
        epochs: of training; None for 60.
    """

    name = "sound"
    version = 1
    main_score = "accuracy"
    flips: tuple[str, ...] = ("none", "sign")
    patch = _PATCH
    frozen = False
    quick_size: int | None = 2**16
    views: tuple[str, ...] = (
        "waveform", "bigpatch", "spectrogram", "resample", "latent", "reconstruction", "retrained",
    )  # fmt: skip

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        self.data: SoundDataset = load_sounds(data)
        self.backbone = backbone or "cml:sound"
        whole = self.data.train.samples
        if size is not None and not 2 <= size <= whole:
            raise CmlError(f"The clips have {whole} samples, so 2 to {whole} of them can be kept, not {size}.")
        if epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        # Clips that are shorter than a patch are for smaller patches (--patch).
        self.size = (size or (whole // _PATCH * _PATCH if whole >= _PATCH else whole),)
        self.rate, self.channels = self.data.rate, self.data.channels
        self.description = f"{self.data.description}; {self.data.seconds:g} s at {self.rate} Hz"
        self.epochs = epochs or 60
        self.recipe = Recipe(epochs=self.epochs, batch_size=32)
        self._loaded: dict[str, Tensor] = {}
        self.smoothing, self.mixup = 0.1, 0.2

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "size": self.size,
            "backbone": self.backbone,
            "recipe": asdict(self.recipe),
            "augmentation": {
                "flips": self.flips,
                "shift": f"{_REACH} patches",
                "mixup": self.mixup,
                "smoothing": self.smoothing,
            },
            "sampling_rate": self.rate,
            "libraries": {name: version(name) for name in ("torchaudio", "soundfile")},
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
        """Read every clip once, if the data set fits in two gigabytes; `signal` then only looks it up."""
        for split in ("train", "test"):
            count = self.count(split)
            if 4 * count * self.channels * self.size[0] <= 2**31 and split not in self._loaded:
                self._loaded[split] = torch.stack(map_items(partial(self.signal, split), count, on_item))

    def signal(self, split: str, index: int) -> Tensor:
        if split in self._loaded:
            return self._loaded[split][index]
        x = getattr(self.data, split).sound(index)[:, : self.size[0]]
        x = x - x.mean(1, keepdim=True)
        peak = float(x.abs().max())
        return x / peak if peak > 0 else x

    def normalization(self) -> tuple[Tensor, Tensor]:
        # 16-bit samples of clips with a peak of 1 to about unit variance.
        return torch.full((self.channels,), 8 / 2**15), torch.zeros(self.channels)

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build(self.backbone, stem, len(self.data.classes))

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        generator = torch.Generator().manual_seed(seed)
        counts = torch.bincount(inputs.labels, minlength=len(self.data.classes)).clamp(min=1)
        weights = (len(inputs) / (len(counts) * counts)).sqrt()
        batch_size = min(self.recipe.batch_size, len(inputs))
        steps = len(inputs) // batch_size
        reach = min(_REACH, inputs.values.shape[-1] // max(1, 2 * shift))

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            order = torch.randperm(len(inputs), generator=generator)
            for indices in order[: steps * batch_size].split(batch_size):
                flips = torch.randint(len(inputs.flips), indices.shape, generator=generator)
                patches = int(torch.randint(2 * reach + 1, (), generator=generator)) - reach
                yield inputs.batch(indices, flips, (shift * patches,)), inputs.labels[indices]

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
        logits = torch.cat([model(inputs.batch(part)) for part in torch.arange(len(inputs)).split(32)])
        probabilities = logits.softmax(1).double().numpy()
        labels = inputs.labels.numpy()
        predicted = probabilities.argmax(1)
        correct = predicted == labels
        return Score(
            metrics={
                "accuracy": float(correct.mean()),
                "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
                "macro_f1": float(f1_score(labels, predicted, average="macro")),
                "calibration_error": calibration_error(probabilities.max(1), correct),
            },
            items={"correct": correct, "predicted": predicted.astype(np.int32), "probability": probabilities.max(1)},
        )
