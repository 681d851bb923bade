"""Classes of the pixels of a hyperspectral cube, from what a view has of their spectra."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Pictures, Score
from cml.tasks.segmentation import coloured
from torch import Tensor, nn
from torch.nn import functional as F

from cml.data.hyper_sets import PARTS, VOID, HyperSet, load_hyper
from cml.data.labelled_volumes import to_integers
from cml.data.latents import ModelInputs
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.models.spectral import KernelMachine, SpectralNet, build_spectral
from cml.train.loop import Recipe, TrainingTime, fit

_PATCH = 2
_STEPS = 32  # an epoch, in every view: the smaller cells of the ceiling are more
_WHOLE = 8  # pixels of which a padded side is a multiple, so that every codec's grid divides it


class Hyperspectral:
    """What grows or stands on each pixel?

        cube --padded to whole cells of 8--> codec and view --> cells of `patch` pixels a side --model--> class a pixel

    The cube is encoded once, whole, as it would be stored. A model reads one cell and answers for each of its pixels;
    it never looks at another cell. Training, validation and test pixels lie in different blocks (`spatial_split`), of
    which cells up to 4 pixels are parts; of larger cells those that hold pixels of other parts too are not trained on.
    Codecs see no labels, but the filters of a transform reach beyond a cell, so that latents at the border of a block
    hold a little of the spectra on its other side; of that, the guard of two pixels keeps out the nearest.

    The ceiling `pixels` has cells of half the side: with the patch of 2, each pixel's own spectrum, and no more. The
    view `pca` has as many components a pixel as a codec has latents.

    Args:
        data: "indian-pines", "indian-pines:PATH", or "cube:CUBE,LABELS".
        backbone: "cml:spectral" or "sklearn:svm"; None for the first.
        size: not to be given; the cube is as large as it is.
        epochs: of training; None for 60. The support vector machine has none.
    """

    name = "hyperspectral"
    version = 1
    main_score = "overall_accuracy"
    flips: tuple[str, ...] = ("none",)
    patch = _PATCH
    frozen = False
    quick_size: int | None = None
    views: tuple[str, ...] = ("pixels", "bigpatch", "pca", "resize", "latent", "reconstruction", "retrained")
    channels = 1
    shared = True
    folded = True

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        if data == "elpv":  # what a comparison has where nobody says anything else
            data = "indian-pines"
        self.data: HyperSet = load_hyper(data)
        self.backbone = backbone or "cml:spectral"
        if size is not None:
            raise CmlError("A hyperspectral cube is taken as it is: leave out the size.")
        if epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        self.epochs = epochs or 60
        self.recipe = Recipe(epochs=self.epochs, batch_size=64, lr=1e-3)
        self.smoothing = 0.1
        self.description = self.data.description
        self._cube = _padded(to_integers(self.data.cube))
        self.size = tuple(self._cube.shape[1:])
        self.forms = {3: 1, 2: self.size[0]}
        self.positions = self.data.cube.numel()

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "size": self.size,
            "backbone": self.backbone,
            "recipe": asdict(self.recipe),
            "steps": _STEPS,
            "smoothing": self.smoothing,
        }

    @property
    def chance(self) -> float:
        """Of calling every pixel by the most frequent class of the training split."""
        counts = {part: np.bincount(self._known(part), minlength=len(self.data.classes)) for part in ("train", "test")}
        return float(counts["test"][counts["train"].argmax()] / counts["test"].sum())

    def count(self, split: str) -> int:
        return 1

    def load(self, on_item: Callable[[], None]) -> None:
        """It is there already."""

    def signal(self, split: str, index: int) -> Tensor:
        return self._cube

    def picture(self, index: int) -> Tensor:
        """Three bands of the cube as colours, uint8 (3, y, x)."""
        bands = [int(share * (self.data.cube.shape[1] - 1)) for share in (0.15, 0.1, 0.05)]
        planes = self._cube[0, bands, : self.data.labels.shape[0], : self.data.labels.shape[1]].to(torch.int32).float()
        low, high = planes.flatten(1).quantile(torch.tensor([0.02, 0.98]), 1)[..., None, None]
        return ((planes - low) / (high - low).clamp(min=1) * 255).clamp(0, 255).to(torch.uint8)

    def labels(self, split: str) -> Tensor:
        """uint8 (1, *padded), `VOID` at pixels of other parts."""
        height, width = self.data.labels.shape
        whole = torch.full((1, *self.size[1:]), VOID, dtype=torch.uint8)
        whole[0, :height, :width] = torch.from_numpy(self.data.part(split))
        return whole

    def normalization(self) -> tuple[Tensor, Tensor]:
        # Of samples as stored to about unit variance; models standardize what they read themselves.
        x = self._cube.to(torch.int32).float()
        scale, shift = 1 / float(x.std().clamp(min=1)), 32768.0 if self._cube.dtype == torch.uint16 else 0.0
        return torch.tensor([scale]), torch.tensor([(shift - float(x.mean())) * scale])

    def spectra(self) -> Tensor:
        """float (N, bands) of the training pixels."""
        return self._cube[0].to(torch.int32)[:, self.labels("train")[0] != VOID].T.float()

    def token(self, patch: int) -> tuple[int, int, int]:
        return 1, patch, patch

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        cell = self.size[2] * stem.patch // stem.grid[1]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return build_spectral(self.backbone, stem, len(self.data.classes), cell)

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        whole = inputs.batch(torch.tensor([0]))[0]
        assert isinstance(model, (SpectralNet, KernelMachine))
        x, y = _cells(whole, self._alone(inputs.labels[0], model.cell), model)
        if isinstance(model, KernelMachine):
            return self._learn(model, x, y, whole, on_epoch)
        model.standardize.learn(x)
        generator = torch.Generator().manual_seed(seed)
        frequencies = torch.bincount(y[y != VOID].long(), minlength=len(self.data.classes)).clamp(min=1).float()
        weights = (frequencies.sum() / (len(frequencies) * frequencies)).sqrt()

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            for _ in range(_STEPS):
                indices = torch.randint(len(x), (self.recipe.batch_size,), generator=generator)
                yield x[indices], y[indices].long()

        def loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(model(x), labels, weights, ignore_index=VOID, label_smoothing=self.smoothing)

        with torch.random.fork_rng():
            torch.manual_seed(seed)  # dropout inside the model
            time = fit(model, batches, _STEPS, loss, self.recipe, on_epoch)
        return TrainingTime(max(1, self.recipe.epochs - 1), time.seconds)  # the cube, once an epoch

    def _alone(self, labels: Tensor, cell: int) -> Tensor:
        """Training labels (y, x) without those in cells that hold pixels of other parts."""
        others = torch.stack([self.labels(part)[0] != VOID for part in PARTS[1:]]).any(0)
        held = F.max_pool2d(others.float()[None, None], cell)[0, 0] > 0
        return labels.masked_fill(held.repeat_interleave(cell, 0).repeat_interleave(cell, 1), VOID)

    def _learn(
        self, model: KernelMachine, x: Tensor, y: Tensor, whole: Tensor, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        import time

        start = time.perf_counter()
        accuracy = model.learn(x, y, *_cells(whole, self.labels("validation")[0], model))
        for epoch in range(self.epochs):
            on_epoch(epoch, 1 - accuracy)
        return TrainingTime(self.epochs, time.perf_counter() - start)

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        model.eval()
        logits = model(inputs.batch(torch.tensor([0])))
        height, width = self.data.labels.shape
        answer = logits[0].argmax(0).numpy().astype(np.uint8)[:height, :width]
        truth = inputs.labels[0].numpy()[:height, :width]
        known = truth != VOID
        right = (answer == truth)[known]
        count = len(self.data.classes)
        confusion = np.bincount(truth[known].astype(int) * count + answer[known], minlength=count**2)
        confusion = confusion.reshape(count, count).astype(float)
        # Neighbouring pixels are alike: what is drawn again and again for intervals are blocks.
        numbers, block = np.unique(self.data.blocks[known], return_inverse=True)
        sizes, hits = np.bincount(block), np.bincount(block, right)
        return Score(
            metrics=_measures(confusion)
            | {f"accuracy_{name}": _share(row[i], row.sum()) for i, (name, row) in enumerate(self._rows(confusion))},
            items={
                "outcome": hits / sizes.mean(),
                "pixels": sizes,
                "blocks": numbers,
                "predicted": answer[known].astype(np.int32),
            },
            pictures=Pictures(*self._shown(truth, answer), indices=[0]),
        )

    def _rows(self, confusion: np.ndarray) -> list[tuple[str, np.ndarray]]:
        return list(zip(self.data.classes, confusion, strict=True))

    def _shown(self, truth: np.ndarray, answer: np.ndarray) -> tuple[Tensor, Tensor]:
        shown = (torch.from_numpy(np.where(truth == VOID, VOID, array))[None] for array in (truth, answer))
        first, second = (coloured(array, len(self.data.classes)) for array in shown)
        return first, second

    def _known(self, part: str) -> np.ndarray:
        labels = self.data.part(part)
        return labels[labels != VOID]


def _measures(confusion: np.ndarray) -> dict[str, float]:
    """Overall accuracy, the mean of the classes' (those that there are), and Cohen's kappa."""
    total, rows, columns = confusion.sum(), confusion.sum(1), confusion.sum(0)
    overall = float(np.trace(confusion) / total)
    expected = float((rows * columns).sum() / total**2)
    there = rows > 0
    return {
        "overall_accuracy": overall,
        "average_accuracy": float((np.diag(confusion)[there] / rows[there]).mean()),
        "kappa": (overall - expected) / (1 - expected) if expected < 1 else 1.0,
    }


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _cells(whole: Tensor, labels: Tensor, model: nn.Module) -> tuple[Tensor, Tensor]:
    """The cells that hold labels: values (N, c, k, k) of (c, *grid), and labels (N, cell, cell)."""
    assert isinstance(model, (SpectralNet, KernelMachine))
    cell = model.cell
    tokens = labels.shape[0] // cell, labels.shape[1] // cell
    side = whole.shape[1] // tokens[0]
    x = whole.unflatten(2, (tokens[1], side)).unflatten(1, (tokens[0], side)).permute(1, 3, 0, 2, 4).flatten(0, 1)
    y = labels.unflatten(1, (tokens[1], cell)).unflatten(0, (tokens[0], cell)).permute(0, 2, 1, 3).flatten(0, 1)
    kept = (y != VOID).flatten(1).any(1)
    return x[kept].contiguous(), y[kept].contiguous()


def _padded(x: Tensor) -> Tensor:
    """The last row and column again, up to whole cells."""
    height, width = x.shape[2:]
    down, right = -height % _WHOLE, -width % _WHOLE
    padded = F.pad(x.to(torch.int32).float(), (0, right, 0, down), mode="replicate")
    return padded.to(torch.int32).to(x.dtype)
