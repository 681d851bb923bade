"""Separation: a mixture in, its stems out, in the representation of each view."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from cml.tasks.base import Score, Sounds
from cml.tasks.sound_measures import frame_sdr, is_silent, si_sdr
from torch import Tensor, nn

from cml.codecs.factory import parse_operating_point
from cml.data.latents import ModelInputs, SoundSpace
from cml.data.sound import sound_header
from cml.data.stems import Piece, StemDataset, load_stems
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.sound import SeparatorNet
from cml.train.loop import Recipe, TrainingTime, fit

_PATCH = 256
_SECONDS = 3.0
_MOST = 2**31  # bytes of stems to train on, with 16 bits a sample
_SOFT = 1e-3  # of the mixture's energy: an error 30 dB below it is good enough
LOSSES = ("latent", "waveform")


class Separation:
    """What does each instrument play?

        mixture --codec and view--> (c, n) --separator--> stems (S c, n) --codec's decoder--> sound (S, C, T)

    The model answers in the representation that it reads, and what it answers becomes sound as everything of that view
    does: latents by the codec's decoder, low-rate samples by resampling. Every mixture is brought to a peak of 1.

    Trained on excerpts of the pieces, a random part of each in every epoch, always beginning with a whole patch. What
    augments holds for every view, since mixtures have the sum of their stems' representations: stems of different
    pieces are mixed anew, each with a gain and a sign of its own; of latents the sum is rounded as the codec rounds.

    The loss is the mean over stems of 10 log10(|error|^2 + |mixture|^2 / 1000), which does without an exception for
    silent stems (after Wisdom et al., 2020): in the representation, or, `loss=waveform`, of the sound behind it,
    through the decoder, whose weights stay as they are.

    Tested on whole pieces. `si_sdr_improvement`, the main score, is the mean over the stems of all pieces, by how much
    the answer's SI-SDR is above that of the mixture. A silent stem has none, and one that plays alone is the mixture:
    both are left out, and counted.

    Args:
        data: "stems:PATH", "slakh:PATH" or "musdb:PATH".
        backbone: "cml:separator", with an option "cml:separator:loss=waveform"; or a model that comes trained,
            "demucs:NAME" or "demucs:FOLDER", whose stems are then those that it shares with the data (see
            `cml.models.demucs.share`), and which reads sound, original or decoded. None for the first.
        size: samples of a part to train on; None for three seconds.
        epochs: of training; None for 60.
    """

    name = "separation"
    version = 1
    main_score = "si_sdr_improvement"
    flips: tuple[str, ...] = ("none",)
    patch = _PATCH
    frozen: bool = False
    quick_size: int | None = 2**15
    views: tuple[str, ...] = ("waveform", "bigpatch", "resample", "latent", "reconstruction")

    def __init__(self, data: str, backbone: str | None = None, size: int | None = None, epochs: int | None = None):
        self.data: StemDataset = load_stems(data)
        self.backbone = backbone or "cml:separator"
        self.rate, self.channels = self.data.rate, self.data.channels
        self.stems, self._groups = self.data.stems, [[number] for number in range(len(self.data.stems))]
        self._trained: nn.Module | None = None
        self.loss, self.epochs = _read_backbone(self.backbone), epochs or 60
        if self.backbone.startswith("demucs:"):
            if size is not None or epochs is not None:
                raise CmlError("Demucs comes trained: it takes no size and no epochs.")
            self.frozen, self.epochs, self.views = True, 0, ("waveform", "reconstruction")
            self._load_demucs()
        elif epochs is not None and epochs < 1:
            raise CmlError(f"A model trains for 1 epoch or more, not {epochs}.")
        lengths = [_length(piece, self.rate) for piece in self.data.train.pieces]
        self.size = (_crop(min(lengths), size, self.rate),)
        self.excerpt = self.size[0] * (2 if min(lengths) >= 2 * self.size[0] else 1)
        self._excerpts = [] if self.frozen else self._choose(lengths)
        self.recipe = Recipe(epochs=self.epochs, batch_size=16, weight_decay=0.0)
        self.gain = 6.0
        self.description = f"{self.data.description}: {', '.join(self.stems)}; {self.rate} Hz, {self.channels} channels"
        self._piece = lru_cache(4)(self._read)  # the excerpts of a piece come one after the other

    def _load_demucs(self) -> None:
        from cml.models.demucs import DemucsStems, load_demucs, share

        demucs = load_demucs(self.backbone.partition(":")[2])
        sources, stems = share(demucs.sources, self.data.stems)
        self.stems, self._groups, self._revision = tuple(stems), list(stems.values()), demucs.revision
        self._trained = DemucsStems(demucs, list(sources.values()), self.rate)

    @property
    def key(self) -> Mapping[str, Any]:
        known = {
            "task": self.name,
            "task_version": self.version,
            "data_revision": self.data.revision,
            "backbone": self.backbone,
            "sampling_rate": self.rate,
            "libraries": {name: version(name) for name in ("torchaudio", "soundfile")},
        }
        if self.frozen:
            return known | {"weights": self._revision, "stems": self.stems}
        return known | {
            "size": self.size,
            "recipe": asdict(self.recipe),
            "loss": self.loss,
            "excerpts": [len(self._excerpts), self.excerpt],
            "augmentation": {"remix": "stems of any excerpts", "gain": self.gain, "sign": True},
        }

    @property
    def chance(self) -> float:
        """Of answering with the mixture."""
        return 0.0

    def count(self, split: str) -> int:
        """Excerpts to train on, pieces to test."""
        return len(self._excerpts) if split == "train" else len(self.data.test)

    def load(self, on_item: Callable[[], None]) -> None:
        """Nothing is kept: stems are large, and each view reads them once."""
        for _ in range(self.count("train") + self.count("test")):
            on_item()

    def parts(self, index: int) -> Tensor:
        """The stems of an excerpt, float32 (S, C, excerpt)."""
        piece, start = self._excerpts[index]
        stems = self._piece("train", piece)[..., start : start + self.excerpt]
        return nn.functional.pad(stems, (0, self.excerpt - stems.shape[-1]))

    def signal(self, split: str, index: int) -> Tensor:
        """A mixture, float32 (C, T): of a whole piece to test, of an excerpt to train on."""
        return (self.parts(index) if split == "train" else self._piece(split, index)).sum(0).clamp(-1, 1)

    def labels(self, split: str) -> Tensor:
        return torch.arange(self.count(split))

    def normalization(self) -> tuple[Tensor, Tensor]:
        # 16-bit samples of a mixture with a peak of 1 to about unit variance.
        return torch.full((self.channels,), 6 / 2**15), torch.zeros(self.channels)

    def build(self, stem: StemShape, seed: int) -> tuple[nn.Module, str]:
        if self._trained is not None:
            return self._trained, "stem"
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return SeparatorNet(stem, len(self.stems), features=self.channels * _PATCH), "stem"

    def train(
        self, model: nn.Module, inputs: ModelInputs, shift: int, seed: int, on_epoch: Callable[[int, float], None]
    ) -> TrainingTime:
        space, generator = _sounds(inputs), torch.Generator().manual_seed(seed)
        batch_size = min(self.recipe.batch_size, len(inputs))
        steps = len(inputs) // batch_size
        length = inputs.values.shape[-1] * self.size[0] // self.excerpt
        last = (inputs.values.shape[-1] - length) // shift if shift else 0

        def batches(epoch: int) -> Iterator[tuple[Tensor, ...]]:
            order = torch.randperm(len(inputs), generator=generator)
            for indices in order[: steps * batch_size].split(batch_size):
                rows = inputs.batch(indices).unflatten(1, (len(self.stems), -1))
                starts = shift * torch.randint(last + 1, indices.shape, generator=generator)
                parts = torch.stack([row[..., a : a + length] for row, a in zip(rows, starts.tolist(), strict=True)])
                yield (self._remix(parts, generator),)

        def loss(model: nn.Module, stems: Tensor) -> Tensor:
            mixture = space.stored(stems.sum(1))
            answers = model(mixture).unflatten(1, stems.shape[1:3])
            if self.loss == "waveform":
                answers, stems = heard(answers), heard(stems)
            return _soft_error(answers, stems)

        def heard(z: Tensor) -> Tensor:
            return space.sound(z.flatten(0, 1), self.size[0]).unflatten(0, z.shape[:2])

        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return fit(model, batches, steps, loss, self.recipe, on_epoch)

    def _remix(self, stems: Tensor, generator: torch.Generator) -> Tensor:
        """(B, S, c, n): half of the mixtures as they are, half of stems of any of them; a gain and a sign each."""
        count, parts = stems.shape[:2]
        order = torch.rand(parts, count, generator=generator).argsort(1)
        kept = torch.rand(count, generator=generator) < 0.5
        order = torch.where(kept, torch.arange(count), order)
        mixed = torch.stack([stems[rows, stem] for stem, rows in enumerate(order)], 1)
        decibels = self.gain * (2 * torch.rand(count, parts, generator=generator) - 1)
        signs = 2.0 * torch.randint(2, (count, parts), generator=generator) - 1
        return mixed * (signs * 10 ** (decibels / 20))[..., None, None]

    @torch.no_grad()
    def score(self, model: nn.Module, inputs: ModelInputs) -> Score:
        model.eval()
        ratios, before, frames, names, left_out, shown = [], [], [], [], 0, None
        for index in range(len(inputs)):
            truth = self._piece("test", index)
            answers = self.separate(model, inputs, index)
            truth = truth[..., : answers.shape[-1]]
            shown = shown or Sounds(truth[None], answers[None], [index], self.stems, self.rate)
            mixture = truth.sum(0)
            heard = [number for number, stem in enumerate(truth) if not is_silent(stem)]
            heard = heard if len(heard) > 1 else []  # else nothing is mixed
            left_out += len(truth) - len(heard)
            ratios += [si_sdr(truth[n], answers[n]) for n in heard]
            before += [si_sdr(truth[n], mixture) for n in heard]
            frames += frame_sdr(truth[heard], answers[heard], self.rate).tolist() if heard else []
            names += heard
        gains = np.array(ratios) - np.array(before)
        which, sdr = np.array(names, int), np.array(frames)
        if not len(gains):
            raise DataError("In every test piece all stems but one are silent: there is nothing to separate.")
        return Score(
            metrics={
                "si_sdr_improvement": float(gains.mean()),
                "si_sdr": float(np.mean(ratios)),
                "sdr": float(np.nanmean(sdr)) if np.isfinite(sdr).any() else math.nan,
                **{
                    f"si_sdr_improvement_{stem}": float(gains[which == number].mean())
                    for number, stem in enumerate(self.stems)
                    if (which == number).any()
                },
                "stems_left_out": float(left_out),
            },
            items={"outcome": gains, "si_sdr": np.array(ratios), "sdr": sdr, "stem": which.astype(np.int32)},
            sounds=shown,
        )

    @torch.no_grad()
    def separate(self, model: nn.Module, inputs: ModelInputs, index: int) -> Tensor:
        """What a model makes of one item, sound float32 (S, C, T)."""
        length, space = int(inputs.labels[index]), _sounds(inputs)
        positions = -(-length * inputs.values.shape[-1] // int(inputs.labels.max()))
        x = inputs.batch(torch.tensor([index]))[..., :positions]
        return space.sound(model(x)[0].unflatten(0, (len(self.stems), -1)), length)

    def _read(self, split: str, index: int) -> Tensor:
        """The stems of a piece, in the unit in which their sum has a peak of 1."""
        every = getattr(self.data, split).stems(index)
        stems = torch.stack([every[numbers].sum(0) for numbers in self._groups])
        peak = float(stems.sum(0).abs().max())
        return stems / peak if peak > 0 else stems

    def _choose(self, lengths: list[int]) -> list[tuple[int, int]]:
        """(piece, first sample) of every excerpt; of very much music evenly chosen ones."""
        found = []
        for piece, length in enumerate(lengths):
            starts = [*range(0, length - self.excerpt + 1, self.excerpt)]
            if starts[-1] + self.excerpt + self.size[0] // 2 <= length:
                starts.append(length - self.excerpt)
            found += [(piece, start) for start in starts]
        most = max(1, _MOST // (2 * len(self.stems) * self.channels * self.excerpt))
        return found if len(found) <= most else [found[number * len(found) // most] for number in range(most)]


def _read_backbone(backbone: str) -> str:
    """The loss that a backbone is given with."""
    model, options = parse_operating_point(backbone)
    loss = str(options.pop("loss", LOSSES[0]))
    if loss not in LOSSES:
        raise CmlError(f"The loss of a separation is {' or '.join(LOSSES)}, not {loss!r}.")
    if options or (model != "cml:separator" and not model.startswith("demucs:")):
        raise CmlError(
            "The task separation has the models cml:separator (with loss=latent or loss=waveform) and demucs:NAME, not "
            f"{backbone!r}."
        )
    return loss


def _soft_error(answers: Tensor, stems: Tensor) -> Tensor:
    """Mean over (B, S, c, n) of the stems' error in dB of the mixture, down to 30 dB below it."""
    error = (answers - stems).square().flatten(2).sum(2)
    mixture = stems.sum(1).square().flatten(1).sum(1, keepdim=True)
    return 10 * (error / mixture.clamp(min=1e-6) + _SOFT).log10().mean()


def _sounds(inputs: ModelInputs) -> SoundSpace:
    if inputs.sounds is None:
        raise CmlError("A separation needs to know how its inputs represent sound (ModelInputs.sounds).")
    return inputs.sounds


def _length(piece: Piece, rate: int) -> int:
    """Samples of a piece at a rate, by its headers."""
    header = sound_header(piece.files[0][0])
    whole = math.floor(header.seconds * rate)
    return (whole if piece.stop is None else min(piece.stop, whole)) - piece.start


def _crop(shortest: int, size: int | None, rate: int) -> int:
    """Samples of a part to train on: whole patches."""
    if size is not None:
        if size < _PATCH or size > shortest:
            raise CmlError(f"A separation trains on parts of {_PATCH} to {shortest} samples, not {size}.")
        return size
    length = min(round(_SECONDS * rate), shortest) // _PATCH * _PATCH
    if length < _PATCH:
        raise DataError(f"A piece to train on has only {shortest} samples; {_PATCH} are needed at least.")
    return length
