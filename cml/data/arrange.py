"""A score arranged for a band: every part gets an instrument, and a drum pattern is added in the score's metre."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cml.data.scores import Bar, Note, Score

FAMILIES = ("drums", "bass", "keys", "strings", "winds")
# Programs of General MIDI, counted from 0: name, and the lowest and highest note that sounds well.
PROGRAMS = {
    "bass": {
        32: ("acoustic bass", 28, 55), 33: ("fingered bass", 28, 55), 34: ("picked bass", 28, 55),
        35: ("fretless bass", 28, 55),
    },
    "keys": {
        0: ("grand piano", 36, 96), 1: ("bright piano", 36, 96), 4: ("electric piano", 40, 88),
        6: ("harpsichord", 41, 86), 16: ("drawbar organ", 41, 84), 19: ("church organ", 41, 84),
    },
    "strings": {
        40: ("violin", 55, 93), 41: ("viola", 48, 81), 42: ("cello", 38, 72), 45: ("pizzicato strings", 43, 84),
        48: ("string ensemble", 43, 88),
    },
    "winds": {
        56: ("trumpet", 55, 82), 57: ("trombone", 41, 70), 60: ("horn", 43, 74), 65: ("alto saxophone", 50, 80),
        68: ("oboe", 58, 87), 70: ("bassoon", 36, 68), 71: ("clarinet", 50, 86), 73: ("flute", 60, 93),
    },
}  # fmt: skip
_KITS = {0: "standard kit", 8: "room kit", 16: "power kit", 32: "jazz kit"}
_KICK, _SNARE, _CLOSED, _OPEN, _RIDE, _CRASH, _TOMS = 36, 38, 42, 46, 51, 49, (50, 47, 43)
_MELODIC = FAMILIES[2:]
_SLOWEST, _FASTEST = 40.0, 240.0  # quarter notes a minute
_FEWEST_NOTES = 4  # of a part in an excerpt; one with fewer is left out


class Event(NamedTuple):
    """A note that is played; in seconds from the start of the piece."""

    onset: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Line:
    """What one instrument plays.

    Attributes:
        family: the stem it belongs to, one of `FAMILIES`.
        program: of General MIDI, from 0; of `drums` the kit.
        instrument: its name.
        source: what of the score it plays.
        pan: 0 left to 127 right.
        events: its notes.
    """

    family: str
    program: int
    instrument: str
    source: str
    pan: int
    events: tuple[Event, ...]


@dataclass(frozen=True)
class Arrangement:
    """An excerpt of a score for a band.

    Attributes:
        start: bar in which it begins, from 0.
        tempo: quarter notes a minute.
        lines: at least one a family.
    """

    start: int
    tempo: float
    lines: tuple[Line, ...]


def arrange(score: Score, seconds: float, rng: np.random.Generator) -> Arrangement | None:
    """An excerpt of a score, every family of `FAMILIES` with something to play; None where there is too little music.

    With four parts or more the lowest is the bass, the others are dealt to keys, strings and winds. With two or three
    parts these play those, the bass doubles the lowest notes, and with two the family left over doubles the highest.
    Parts move by octaves into the range of their instrument. The tempo gives the busiest part 2 to 4.5 onsets a second.

    Args:
        score: what is played.
        seconds: how long.
        rng: what is left to chance; the same state gives the same arrangement.
    """
    quarters = max((part[-1].onset + part[-1].length for part in score.parts), default=0.0)
    density = max((len({note.onset for note in part}) for part in score.parts), default=0) / max(quarters, 1.0)
    pace = rng.uniform(2.0, 4.5) / max(density, 1e-6)
    tempo = float(np.clip(60 * pace, _SLOWEST, _FASTEST))
    window = seconds * tempo / 60
    chosen = _choose_bar(score, window, quarters, rng)
    if chosen is None:
        return None
    begin = score.bars[chosen].start
    parts = [
        (number, [note for note in part if begin <= note.onset < begin + window])
        for number, part in enumerate(score.parts, 1)
    ]
    parts = [(number, notes) for number, notes in parts if len(notes) >= _FEWEST_NOTES]
    if len(parts) < 2:
        return None
    bars = [bar for bar in score.bars if begin <= bar.start < begin + window]
    lines = [_drums(bars, begin, tempo, seconds, rng)]
    for family, source, notes in _deal(parts, rng):
        lines.append(_line(family, source, notes, begin, tempo, seconds, rng))
    return Arrangement(chosen, round(tempo, 3), tuple(lines))


def _choose_bar(score: Score, window: float, quarters: float, rng: np.random.Generator) -> int | None:
    """A bar from which most parts play, drawn among those that are as good."""
    fits = [index for index, bar in enumerate(score.bars) if bar.start + window <= quarters]
    if not fits:
        return None
    onsets = [np.array([note.onset for note in part]) for part in score.parts]
    starts = np.array([score.bars[index].start for index in fits])
    heard = [np.searchsorted(times, starts + window) - np.searchsorted(times, starts) for times in onsets]
    active = sum((count >= _FEWEST_NOTES).astype(int) for count in heard)
    best = np.flatnonzero(active == np.max(active))
    return fits[int(rng.choice(best))]


def _deal(parts: list[tuple[int, list[Note]]], rng: np.random.Generator) -> list[tuple[str, str, list[Note]]]:
    """(family, what it plays, notes) for every part, and for the lines that double one."""
    low = min(parts, key=lambda part: np.mean([note.pitch for note in part[1]]))
    high = max(parts, key=lambda part: np.mean([note.pitch for note in part[1]]))
    rest = [part for part in parts if part is not low] if len(parts) > 3 else parts
    bass = (
        "bass",
        f"part {low[0]}" if len(parts) > 3 else f"lowest notes of part {low[0]}",
        _outer(low[1], lowest=True),
    )
    families = [_MELODIC[index] for index in rng.permutation(3)]
    families += [str(rng.choice(_MELODIC)) for _ in rest[3:]]
    dealt = [
        (family, f"part {number}", notes) for family, (number, notes) in zip(families[: len(rest)], rest, strict=True)
    ]
    for family in families[len(rest) :]:
        dealt.append((family, f"highest notes of part {high[0]}", _outer(high[1], lowest=False)))
    return [bass, *dealt]


def _outer(notes: list[Note], lowest: bool) -> list[Note]:
    """One voice: the lowest or the highest note of each onset, until the next one."""
    by_onset: dict[float, list[Note]] = {}
    for note in notes:
        by_onset.setdefault(note.onset, []).append(note)
    choose = min if lowest else max
    voice = [choose(chord, key=lambda note: note.pitch) for _, chord in sorted(by_onset.items())]
    ends = [note.onset for note in voice[1:]] + [float("inf")]
    return [note._replace(length=min(note.length, end - note.onset)) for note, end in zip(voice, ends, strict=True)]


def _line(
    family: str, source: str, notes: list[Note], begin: float, tempo: float, seconds: float, rng: np.random.Generator
) -> Line:
    programs = PROGRAMS[family]
    program = int(rng.choice(sorted(programs)))
    name, low, high = programs[program]
    pan = 64 if family == "bass" else int(rng.integers(24, 105))
    period, phase = rng.uniform(4, 9), rng.uniform(0, 2 * np.pi)
    shift = 12 * round(((low + high) / 2 - float(np.median([note.pitch for note in notes]))) / 12)
    events = []
    for note in notes:
        onset = (note.onset - begin) * 60 / tempo
        louder = 10 * np.sin(2 * np.pi * onset / period + phase)  # phrases swell and fade
        velocity = int(np.clip(82 + louder + rng.normal(0, 6), 35, 118))
        late = abs(rng.normal(0, 0.006))  # nobody is exactly on time
        length = min(note.length * 60 / tempo * 0.94, seconds - onset)
        events.append(Event(onset + late, max(length, 0.05), _into(note.pitch + shift, low, high), velocity))
    return Line(family, program, name, source, pan, tuple(events))


def _into(pitch: int, low: int, high: int) -> int:
    """By octaves into a range of at least one."""
    while pitch < low:
        pitch += 12
    while pitch > high:
        pitch -= 12
    return pitch


def _drums(bars: Sequence[Bar], begin: float, tempo: float, seconds: float, rng: np.random.Generator) -> Line:
    """A pattern that each metre of the excerpt keeps, with a crash at the start and a fill in every fourth bar."""
    kit = int(rng.choice(sorted(_KITS)))
    cymbal = _RIDE if rng.random() < 0.3 else _CLOSED
    patterns: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    events = []
    for count, bar in enumerate(bars):
        beats = max(1, round(bar.length / bar.beat))
        slot = bar.beat / bar.division
        metre = beats, bar.division
        if metre not in patterns:
            patterns[metre] = _pattern(beats, bar.division, cymbal, rng)
        hits = list(patterns[metre])
        if count == 0:
            hits.append((0, _CRASH, 92))
        if count % 4 == 3:
            last = (beats - 1) * bar.division
            hits = [hit for hit in hits if hit[0] < last]
            hits += [(last + number, _TOMS[number % 3], 84 + 6 * number) for number in range(bar.division)]
        for position, drum, velocity in hits:
            onset = (bar.start - begin + position * slot) * 60 / tempo + abs(rng.normal(0, 0.004))
            if position * slot < bar.length and onset < seconds:
                events.append(Event(onset, 0.1, drum, int(np.clip(velocity + rng.normal(0, 5), 20, 124))))
    return Line("drums", kit, _KITS[kit], "a seeded pattern in the score's metre", 64, tuple(sorted(events)))


def _pattern(beats: int, division: int, cymbal: int, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """(slot, drum, velocity) of one bar of `beats` times `division` slots."""
    backbeats = {beat for beat in range(beats) if beat % 2} if beats != 3 else {2} if rng.random() < 0.5 else {1, 2}
    hits = [(0, _KICK, 104)]
    for slot in range(beats * division):
        beat, on_beat = slot // division, slot % division == 0
        chance = rng.random(3)
        if slot and chance[0] < (0.35 if on_beat and beat not in backbeats else 0.12):
            hits.append((slot, _KICK, 92))
        if on_beat and beat in backbeats:
            hits.append((slot, _SNARE, 98))
        elif chance[1] < 0.06:
            hits.append((slot, _SNARE, 40))
        if on_beat or chance[2] < 0.85:
            open_hat = cymbal == _CLOSED and not on_beat and chance[2] < 0.08
            hits.append((slot, _OPEN if open_hat else cymbal, 78 if on_beat else 60))
    return hits
