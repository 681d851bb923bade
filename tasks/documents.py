"""Reading: what stands in the lines of scanned receipts, and what the receipts say."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, lru_cache, partial
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Score
from cml.tasks.fields import FieldExtractor, field_scores
from cml.tasks.text import anls, edit_distance
from torch import Tensor, nn
from torch.nn import functional as F

from cml.data.documents import Receipt, TextLine, line_columns, line_image, load_documents
from cml.data.latents import ModelInputs, map_items
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.models.reader import Reader, best_path
from cml.train.loop import Recipe, TrainingTime, fit

_HEIGHT = 32
_ASPECT = 16  # of the 17,106 lines of SROIE 674 are longer
_STEP = 4  # pixels; a letter is 16 wide in the middle, and a step holds one at most
_CHUNK = 16  # batches whose lines are sorted by length together


class Documents:
    """What does the line say?

        line, cut from its page --to `size`: height as given, width padded--> codec and view --> Reader --> text
        all lines of a receipt, and where they stand --FieldExtractor--> company, date, address, total

    Every view trains the same reader from scratch, with CTC, the likeliest path read out, and no language model. Lines
    come in batches of about one length, and columns beyond the longest of a batch are cut off. The extractor learns
    once, from true lines.

    Args:
        data: "sroie:PATH".
        backbone: "cml:reader"; None for it.
        size: height of the lines in pixels; None for 32. They are 16 times as wide; longer ones are squeezed.
        epochs: of training; None for 8.
    """

    name = "documents"
    version = 1
    main_score = "character_accuracy"
    channels = 1
    flips: tuple[str, ...] = ("none",)
    patch = 8
    frozen = False
    quick_size: int | None = None
    views: tuple[str, ...] = ("pixels", "bigpatch", "resize", "latent", "reconstruction", "retrained")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        if backbone not in (None, "cml:reader"):
            raise CmlError(f"The task documents has the reader cml:reader, not {backbone!r}.")
        height = _HEIGHT if size is None else size
        if height < 8:
            raise CmlError(f"Lines need a height of 8 pixels or more, not {height}.")
        if epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        self.data = load_documents(data)
        self.backbone = "cml:reader"
        self.size = (height, height * _ASPECT)
        self.alphabet = self.data.alphabet
        self.epochs = epochs or 8
        self.recipe = Recipe(epochs=self.epochs, batch_size=32)
        self._lines = {split: _lines_of(getattr(self.data, split)) for split in ("train", "test")}
        everything = [line for lines in self._lines.values() for _, line in lines]
        squeezed = sum(line_columns(line, height) > self.size[1] for line in everything)
        self.description = f"{self.data.description}, {len(everything)} lines, {squeezed} of them squeezed"
        self._loaded: dict[str, Tensor] = {}
        self._page = lru_cache(maxsize=4)(lambda receipt: receipt.page())

    @property
    def key(self) -> Mapping[str, Any]:
        return {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "size": self.size,
            "backbone": self.backbone,
            "recipe": asdict(self.recipe),
        }

    @property
    def chance(self) -> float:
        """Of reading nothing."""
        return 0.0

    def count(self, split: str) -> int:
        return len(self._lines[split])

    def load(self, on_item: Callable[[], None]) -> None:
        for split in self._lines:
            if split not in self._loaded:
                self._loaded[split] = torch.stack(map_items(partial(self.signal, split), self.count(split), on_item))

    def signal(self, split: str, index: int) -> Tensor:
        if split in self._loaded:
            return self._loaded[split][index]
        receipt, line = self._lines[split][index]
        return line_image(self._page(receipt), line, self.size)[0]

    def labels(self, split: str) -> Tensor:
        """int64 (N, 1 + L): the columns that the line takes up, then its text in Unicode, padded with zeros."""
        lines = [line for _, line in self._lines[split]]
        labels = torch.zeros(len(lines), 1 + max(len(line.text) for line in lines), dtype=torch.int64)
        for row, line in zip(labels, lines, strict=True):
            row[0] = min(self.size[1], line_columns(line, self.size[0]))
            row[1 : 1 + len(line.text)] = torch.tensor([ord(letter) for letter in line.text])
        return labels

    def normalization(self) -> tuple[Tensor, Tensor]:
        return torch.full((1,), 2 / 127.5), torch.full((1,), -2.0)  # [-1, 1] times two, as in classification

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        token = stem.patch * self.size[1] // stem.grid[1]
        if token % _STEP:
            raise CmlError(f"A token of {token} pixels is not a whole number of steps of {_STEP}; take a patch of 8.")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return Reader(stem, 1 + len(self.alphabet), token // _STEP), "stem"

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        generator = torch.Generator().manual_seed(seed)
        batch_size = min(self.recipe.batch_size, len(inputs))
        steps = len(inputs) // batch_size
        widths = inputs.labels[:, 0]
        classes = torch.tensor([0, *map(ord, self.alphabet)])

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            order = torch.randperm(len(inputs), generator=generator)[: steps * batch_size]
            chunks = [chunk[widths[chunk].argsort()] for chunk in order.split(_CHUNK * batch_size)]
            together = [part for chunk in chunks for part in chunk.split(batch_size)]
            for number in torch.randperm(len(together), generator=generator).tolist():
                indices = together[number]
                texts = inputs.labels[indices, 1:]
                yield self._batch(model, inputs, indices), torch.searchsorted(classes, texts), (texts > 0).sum(1)

        def loss(model: nn.Module, x: Tensor, targets: Tensor, lengths: Tensor) -> Tensor:
            scores = model(x).log_softmax(2).transpose(0, 1)
            given = torch.full_like(lengths, len(scores))
            # A line of more letters than steps cannot be read; it must not spoil the batch.
            return F.ctc_loss(scores, targets, given, lengths, zero_infinity=True)

        with torch.random.fork_rng():
            torch.manual_seed(seed)  # dropout inside the model
            return fit(model, batches, steps, loss, self.recipe, on_epoch)

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        model.eval()
        read = [""] * len(inputs)
        for part in inputs.labels[:, 0].argsort(stable=True).split(64):
            texts = best_path(model(self._batch(model, inputs, part)), self.alphabet)
            for index, text in zip(part.tolist(), texts, strict=True):
                read[index] = text
        true = ["".join(chr(code) for code in row if code) for row in inputs.labels[:, 1:].tolist()]
        score = reading_score(read, true)
        return replace(score, metrics={**score.metrics, **self.fields(read)})

    def fields(self, read: Sequence[str]) -> dict[str, float]:
        """How well the fields of the test receipts are found in their lines as read; true lines give the ceiling."""
        texts = iter(read)
        found = [
            self._extractor([replace(line, text=next(texts)) for line in receipt.lines]) for receipt in self.data.test
        ]
        return field_scores(found, self.data.test)

    @cached_property
    def _extractor(self) -> FieldExtractor:
        return FieldExtractor(self.data.train)

    def _batch(self, model: nn.Module, inputs: ModelInputs, indices: Tensor) -> Tensor:
        """Samples without the columns beyond the longest of them."""
        stride: int = model.stem.stride[1]  # pyright: ignore
        x = inputs.batch(indices)
        cell = self.size[1] // x.shape[-1]
        tokens = -(-int(inputs.labels[indices, 0].max()) // (cell * stride))
        return x[..., : tokens * stride]


def reading_score(read: Sequence[str], true: Sequence[str]) -> Score:
    """How well lines are read; spaces and case count, except in ANLS, where case does not.

    `character_accuracy` is 1 - CER, the character error rate: edits over characters, of all lines together. A line's
    `outcome` is its share of that, so that the mean over lines is the score.
    """
    edits = np.array([edit_distance(a, b) for a, b in zip(read, true, strict=True)])
    lengths = np.array([len(text) for text in true])
    correct = edits == 0
    rate = float(edits.sum() / lengths.sum())
    return Score(
        metrics={
            "character_accuracy": 1 - rate,
            "cer": rate,
            "line_accuracy": float(correct.mean()),
            "anls": float(np.mean([anls(a, b) for a, b in zip(read, true, strict=True)])),
        },
        items={"outcome": (lengths - edits) / lengths.mean(), "correct": correct, "predicted": np.array(read)},
    )


def _lines_of(receipts: Sequence[Receipt]) -> list[tuple[Receipt, TextLine]]:
    return [(receipt, line) for receipt in receipts for line in receipt.lines]
