"""Pieces of music as their stems, whose sum is the mixture: `stems:`, `slakh:` and `musdb:`."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cml.data.sound import common_format, find_sounds, read_sound, sound_header
from cml.errors import DataError
from cml.files import read_bytes
from cml.registry import Registry

STEM_SETS = Registry(
    "stem_set",
    {"stems": "cml.data.stems:playlist", "slakh": "cml.data.stems:slakh", "musdb": "cml.data.stems:musdb"},
)
INDEX = "index.json"
_PLAYLIST = {"vocals": "Vocals", "guitar": "Guitar", "piano_synth": "PianoSynth", "bass_drums": "BassDrums"}
_TRAIN_SECONDS = 24
_MUSDB = ("drums", "bass", "other", "vocals")  # streams 1 to 4 of a file; stream 0 is the mixture


@dataclass(frozen=True)
class Piece:
    """Where the stems of a piece lie.

    Attributes:
        name: of the piece.
        files: one a stem, with the number of its stream; in the order of the data set's stems.
        start, stop: the part that is taken, in samples at the data set's rate; None is the end.
    """

    name: str
    files: tuple[tuple[Path, int], ...]
    start: int = 0
    stop: int | None = None


@dataclass(frozen=True)
class StemSplit:
    """Pieces, read one at a time.

    Attributes:
        pieces: where they lie.
        rate, channels: of every stem, whatever its file has.
    """

    pieces: Sequence[Piece]
    rate: int
    channels: int

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the pieces."""
        return tuple(piece.name for piece in self.pieces)

    def stems(self, index: int) -> Tensor:
        """One piece, float32 (S, C, T); the mixture is the sum over S and lies in [-1, 1].

        Where the sum of the files passes 1, all stems of the piece are divided by its peak.
        """
        piece = self.pieces[index]
        parts = [read_sound(path, self.rate, self.channels, stream).samples for path, stream in piece.files]
        if len({part.shape[-1] for part in parts}) > 1:
            lengths = ", ".join(str(part.shape[-1]) for part in parts)
            raise DataError(f"The stems of {piece.name} differ in length, {lengths} samples: make them alike.")
        stems = torch.stack(parts)[..., piece.start : piece.stop]
        if stems.shape[-1] == 0:
            raise DataError(f"{piece.name} is too short: nothing is left from sample {piece.start} on.")
        peak = float(stems.sum(0).abs().max())
        return stems / (peak * (1 + 1e-6)) if peak > 1 else stems  # a hair more, since sums round


@dataclass(frozen=True)
class StemDataset:
    """Music with its parts, with a fixed split.

    Attributes:
        name: what the user typed.
        stems: S names.
        train, test: the two splits, no piece in both; nothing is ever chosen on `test`.
        revision: fingerprint of every file's content, and of the split.
        description: one line for the report.
    """

    name: str
    stems: tuple[str, ...]
    train: StemSplit
    test: StemSplit
    revision: str
    description: str

    @property
    def rate(self) -> int:
        """Samples a second of every stem."""
        return self.train.rate

    @property
    def channels(self) -> int:
        """Of every stem."""
        return self.train.channels


def load_stems(text: str) -> StemDataset:
    """Music with stems by name: "stems:PATH", "slakh:PATH" or "musdb:PATH"."""
    kind, _, argument = text.partition(":")
    return STEM_SETS.get(kind)(argument)


def playlist(path: str) -> StemDataset:
    """One song of 30 s in four stereo stems, 48 kHz (the demo of waveform-playlist): 24 s train, the rest is test."""
    root = existing_folder(path, "stems:PATH needs the folder of Vocals30.mp3, Guitar30.mp3 and so on")
    found = {file.stem.removesuffix("30"): (file, 0) for file in find_sounds(root)}
    if missing := [name for name in _PLAYLIST.values() if name not in found]:
        raise DataError(f"{root} lacks the stem {missing[0]}30.")
    files = tuple(found[name] for name in _PLAYLIST.values())
    rate, channels = common_format([sound_header(file) for file, _ in files])
    cut = _TRAIN_SECONDS * rate
    train, test = Piece("song-train", files, stop=cut), Piece("song-test", files, start=cut)
    return _dataset(
        f"stems:{path}", tuple(_PLAYLIST), [train], [test], (rate, channels),
        f"one song of four stems, its first {_TRAIN_SECONDS} s train, the rest test",
    )  # fmt: skip


def slakh(path: str) -> StemDataset:
    """What `cml data slakh` has rendered: a folder a piece, and index.json."""
    root = existing_folder(path, "slakh:PATH needs a folder that `cml data slakh` has written")
    if not (root / INDEX).is_file():
        raise DataError(f"{root} has no {INDEX}: write it with `cml data slakh {root}`, or run that again to its end.")
    try:
        index = json.loads(read_bytes(root / INDEX))
        stems, rate, channels = tuple(index["stems"]), int(index["rate"]), int(index["channels"])
        parts: dict[str, list[Piece]] = {"train": [], "test": []}
        for piece in index["pieces"]:
            files = tuple((root / piece["name"] / f"{stem}.flac", 0) for stem in stems)
            parts[piece["split"]].append(Piece(piece["name"], files))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{root / INDEX} is not what `cml data slakh` writes: write the folder anew.") from error
    seconds = index.get("seconds", 0)
    return _dataset(
        f"slakh:{path}", stems, parts["train"], parts["test"], (rate, channels),
        f"{len(index['pieces'])} rendered scores of {seconds:g} s, split by score",
    )  # fmt: skip


def musdb(path: str) -> StemDataset:
    """MUSDB18 as its owner has it: NAME.stem.mp4 in the folders `train` and `test`, five stereo streams a file.

    The mixture is the sum of the four stems, which differs a little from the file's own, since each is coded by itself.
    """
    root = existing_folder(path, "musdb:PATH needs the folder of MUSDB18, with train and test")
    parts = []
    for split in ("train", "test"):
        files = sorted((root / split).glob("*.stem.mp4"))
        if not files:
            raise DataError(f"{root / split} holds no .stem.mp4 files, as MUSDB18 has them.")
        parts.append(
            [Piece(file.name.removesuffix(".stem.mp4"), tuple((file, 1 + n) for n in range(4))) for file in files]
        )
    train, test = parts
    return _dataset(f"musdb:{path}", _MUSDB, train, test, (44100, 2), "MUSDB18")


def _dataset(
    name: str,
    stems: tuple[str, ...],
    train: list[Piece],
    test: list[Piece],
    form: tuple[int, int],
    description: str,
) -> StemDataset:
    if not train or not test:
        raise DataError(f"{name} needs pieces in train and in test; it has {len(train)} and {len(test)}.")
    digest, contents = hashlib.sha256(), {}
    for split, pieces in (("train", train), ("test", test)):
        for piece in pieces:
            digest.update(repr((split, piece.name, piece.start, piece.stop)).encode())
            for file, stream in piece.files:
                if file not in contents:
                    contents[file] = hashlib.sha256(read_bytes(file)).digest()
                digest.update(f"{file.name}:{stream}".encode() + contents[file])
    return StemDataset(
        name, stems, StemSplit(train, *form), StemSplit(test, *form), digest.hexdigest()[:12], description
    )  # fmt: skip


def existing_folder(path: str, wanted: str) -> Path:
    """The folder that an argument names; else an error that starts with what is wanted."""
    root = Path(os.path.expanduser(path))
    if not path or not root.is_dir():
        raise DataError(f"{wanted}; there is none at {path!r}.")
    return root
