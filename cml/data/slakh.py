"""`cml data slakh`: real scores rendered with sampled instruments into stems, as many as one likes.

    music21's corpus -> arrange: an instrument a part, drums -> fluidsynth, stem by stem -> balance -> 16-bit FLAC

The idea is that of the Slakh corpus (Manilow et al., 2019): synthesis gives stems whose sum is the mixture exactly. The
mixture is no file, it is summed when it is read. music21's corpus has no drums; theirs is a seeded pattern.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

import cml
from cml.data.arrange import FAMILIES, Arrangement, arrange
from cml.data.render import Renderer, balance
from cml.data.scores import Score
from cml.data.sound import sound_bytes
from cml.data.stems import INDEX
from cml.errors import DataError
from cml.files import read_bytes, write_atomic

PIECE = "piece.json"
_TEST_EVERY = 5  # one score in five is test, the second of each five
_DRUMS = "The drums are seeded patterns in the metre of the score: music21's corpus has no drums."


class Scores(Protocol):
    """Where scores come from, as `cml.data.scores.Corpus`."""

    @property
    def version(self) -> str: ...
    def names(self, seed: int) -> Sequence[str]:
        """All of them, in the order in which they are used."""
        ...

    def read(self, name: str) -> Score | None:
        """One of them; None where it is unfit."""
        ...


def build_slakh(
    output: str | Path,
    pieces: int,
    seconds: float,
    scores: Scores,
    renderer: Renderer,
    seed: int = 0,
    rate: int = 44100,
    channels: int = 2,
    on_piece: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Render pieces into a folder each, and index.json beside them; what is there already is not rendered again.

    A score is used once, so that no score is in both splits: every fifth piece is test. The first pieces are the same
    whatever their number, so a folder can grow. A folder appears when all its files are written.

    Args:
        output: the folder.
        pieces: how many, at least 2.
        seconds: the length of each.
        scores, renderer: where notes come from, and what plays them.
        seed: of everything left to chance.
        rate: samples a second.
        channels: 2, or 1 for their mean.
        on_piece: called with the number of finished pieces.

    Returns:
        What index.json holds.

    Raises:
        DataError: the folder holds pieces that were made otherwise, or the scores are too few.
    """
    if pieces < 2 or seconds <= 0 or channels not in (1, 2) or rate < 1:
        raise DataError("Slakh needs 2 pieces or more (one is test), a length above 0 seconds, and 1 or 2 channels.")
    root = Path(output)
    settings = {
        "seconds": seconds, "seed": seed, "rate": rate, "channels": channels,
        "versions": {"scores": scores.version, **renderer.versions},
    }  # fmt: skip
    names = scores.names(seed)
    entries: list[dict[str, Any]] = []
    for number in range(pieces):
        folder = root / f"piece-{number:04d}"
        entry = _finished(folder, settings)
        if entry is None:
            position = entries[-1]["position"] + 1 if entries else 0
            entry = _render(folder, number, _first_fit(names, position, scores, settings), renderer, settings)
        if entry is None:
            raise DataError(
                f"The scores give {number} pieces of {seconds:g} s, not {pieces}: ask for fewer or shorter ones."
            )
        entries.append(entry)
        if on_piece:
            on_piece(len(entries))
    index = {
        "format": 1, "cml": cml.__version__, "stems": list(FAMILIES), **settings, "drums": _DRUMS, "pieces": entries,
    }  # fmt: skip
    write_atomic(root / INDEX, _json(index))
    return index


class _Fit(NamedTuple):
    """A score that gives a piece, and the chance that made it."""

    position: int
    score: str
    arrangement: Arrangement
    rng: np.random.Generator


def _first_fit(names: Sequence[str], position: int, scores: Scores, settings: dict[str, Any]) -> _Fit | None:
    for place in range(position, len(names)):
        rng = np.random.default_rng([settings["seed"], place])
        score = scores.read(names[place])
        arrangement = arrange(score, settings["seconds"], rng) if score else None
        if arrangement is not None:
            return _Fit(place, names[place], arrangement, rng)
    return None


def _finished(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What the folder of a finished piece says of it; None where there is none."""
    if not folder.exists():
        return None
    try:
        entry = json.loads(read_bytes(folder / PIECE))
        before = entry.pop("settings")
    except (DataError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder} is no finished piece of `cml data slakh`: remove it, or move it away.") from error
    if before != settings:
        odd = next(name for name in {**before, **settings} if before.get(name) != settings.get(name))
        raise DataError(
            f"{folder} was rendered with {odd} {_said(before.get(odd))}, not {_said(settings.get(odd))}: take another "
            "folder, or remove this one."
        )
    return entry


def _render(
    folder: Path, number: int, fit: _Fit | None, renderer: Renderer, settings: dict[str, Any]
) -> dict[str, Any] | None:
    if fit is None:
        return None
    rate, channels = settings["rate"], settings["channels"]
    samples = round(settings["seconds"] * rate)
    parts = {family: [line for line in fit.arrangement.lines if line.family == family] for family in FAMILIES}
    stems = torch.stack([renderer.render(lines, rate, samples) for lines in parts.values()])
    stems = stems.mean(1, keepdim=True) if channels == 1 else stems
    stems, gains = balance(stems, fit.rng)
    files = {family: sound_bytes(stem, rate) for family, stem in zip(FAMILIES, stems, strict=True)}
    entry = {
        "name": folder.name,
        "split": "test" if number % _TEST_EVERY == 1 else "train",
        "score": fit.score,
        "position": fit.position,
        "first_bar": fit.arrangement.start,
        "quarters_a_minute": fit.arrangement.tempo,
        "gains_db": dict(zip(FAMILIES, gains, strict=True)),
        "lines": [
            {"stem": line.family, "program": line.program, "instrument": line.instrument, "plays": line.source}
            for line in fit.arrangement.lines
        ],
        "sha256": {family: hashlib.sha256(data).hexdigest() for family, data in files.items()},
    }
    # The folder gets its name when it is whole.
    unfinished = folder.with_name(f".{folder.name}")
    shutil.rmtree(unfinished, ignore_errors=True)
    for family, data in files.items():
        write_atomic(unfinished / f"{family}.flac", data)
    write_atomic(unfinished / PIECE, _json({**entry, "settings": settings}))
    try:
        os.rename(unfinished, folder)
    except OSError as error:
        raise DataError(f"Cannot write {folder}: {error.strerror or error}.") from error
    return entry


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _said(value: Any) -> str:
    return ", ".join(map(str, value.values())) if isinstance(value, dict) else str(value)
