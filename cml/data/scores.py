"""The scores of music21's corpus as plain notes: quartets, chorales, madrigals, masses, songs and piano music."""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from cml.errors import DataError

_SUFFIXES = (".mxl", ".xml", ".musicxml", ".krn")
_NO_MUSIC = ("demos", "leadSheet", "theoryExercises")


class Note(NamedTuple):
    """A note, tied ones as one; times in quarter notes from the start of the score, the pitch as in MIDI."""

    onset: float
    length: float
    pitch: int


class Bar(NamedTuple):
    """A bar, in quarter notes.

    A beat of the metre is `beat` long and has `division` parts, two or three; a pick-up bar holds fewer beats.
    """

    start: float
    length: float
    beat: float
    division: int


@dataclass(frozen=True)
class Score:
    """What a score holds, part by part.

    Attributes:
        parts: the notes of each part that has some, in the order of their onsets.
        bars: of the first part, in order.
    """

    parts: tuple[tuple[Note, ...], ...]
    bars: tuple[Bar, ...]


class Corpus:
    """music21's corpus.

    Raises:
        DataError: music21 is missing.
    """

    def __init__(self):
        with _quiet():
            self._corpus = _music21().corpus
        self._root = Path(self._corpus.__file__).parent

    @property
    def version(self) -> str:
        """Of music21."""
        return f"music21 {_music21().__version__}"

    def names(self, seed: int) -> list[str]:
        """Every score, seeded: one of each composer in turn, so that the first are the most diverse."""
        found = sorted(
            path.relative_to(self._root).as_posix()
            for path in map(Path, self._corpus.getCorePaths())
            if path.suffix in _SUFFIXES
        )
        return in_turn([name for name in found if name.split("/")[0] not in _NO_MUSIC], seed)

    def read(self, name: str) -> Score | None:
        """The notes of a score; None for one that music21 cannot read, or that has no bars."""
        # music21 raises whatever a malformed file leads to, down to IndexError.
        with _quiet(), contextlib.suppress(Exception):
            return _plain(self._corpus.parse(name))
        return None


def in_turn(names: list[str], seed: int) -> list[str]:
    """Names in a seeded order: rounds that take one of each first folder, until all are taken."""
    rng = np.random.default_rng(seed)
    groups: dict[str, list[str]] = {}
    for index in rng.permutation(len(names)):
        groups.setdefault(names[index].split("/")[0], []).append(names[index])
    order: list[str] = []
    while groups:
        # Shuffled each time: else what falls on every fifth place would always be of the same folders.
        order += [groups[group].pop() for group in rng.permutation(sorted(groups))]
        groups = {group: rest for group, rest in groups.items() if rest}
    return order


def _plain(score: Any) -> Score | None:
    parts, bars = [], ()
    for part in score.parts:
        bars = bars or tuple(_bars(part))
        notes = sorted(_notes(part.stripTies()))
        if notes:
            parts.append(tuple(notes))
    return Score(tuple(parts), bars) if bars else None


def _notes(part: Any) -> Iterator[Note]:
    for element in part.flatten().notes:
        # Grace notes have no length, and chord symbols are written above the music, not played.
        if element.quarterLength > 0 and "ChordSymbol" not in element.classes:
            for pitch in element.pitches:
                yield Note(float(element.offset), float(element.quarterLength), int(pitch.midi))


def _bars(part: Any) -> Iterator[Bar]:
    metre = None
    for measure in part.getElementsByClass("Measure"):
        metre = measure.timeSignature or metre
        length = float(measure.duration.quarterLength)
        if length > 0:
            beat = float(metre.beatDuration.quarterLength) if metre else 1.0
            yield Bar(float(measure.offset), length, beat, 3 if metre and metre.beatDivisionCount == 3 else 2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """music21 warns of every oddity of a file, some of it on the error stream."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def _music21() -> ModuleType:
    try:
        import music21
    except ImportError as error:
        raise DataError("The scores come with the package music21: pip install music21.") from error
    return music21
