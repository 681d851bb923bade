"""Scores rendered into stems: who plays what, in which metre, and folders that are whole, exact and the same again."""

import hashlib
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cml.cli.data import data as commands
from cml.data.arrange import FAMILIES, PROGRAMS, Arrangement, arrange
from cml.data.render import PEAK, SOUNDFONTS, FluidSynth, balance, midi_file
from cml.data.scores import Bar, Corpus, Note, Score, in_turn
from cml.data.slakh import build_slakh
from cml.data.stems import load_stems
from cml.errors import DataError

pytest.importorskip("soundfile")


def score(parts: int = 4, bars: int = 40, beats: int = 4) -> Score:
    """Parts an octave apart, the first the highest; each plays a third on every beat."""
    notes = []
    for part in range(parts):
        root = 84 - 12 * part
        notes.append(
            tuple(Note(float(beat), 1.0, root + step + beat % 5) for beat in range(beats * bars) for step in (0, 4))
        )
    return Score(tuple(notes), tuple(Bar(float(beats * bar), float(beats), 1.0, 2) for bar in range(bars)))


def arranged(parts: int = 4, seed: int = 0, seconds: float = 6.0, beats: int = 4) -> Arrangement:
    done = arrange(score(parts, beats=beats), seconds, np.random.default_rng(seed))
    assert done is not None
    return done


class Library:
    """Scores for tests; those named `short` are unfit."""

    version = "tests 1"

    def __init__(self, names: list[str]):
        self._names = names

    def names(self, seed: int) -> list[str]:
        return [self._names[index] for index in np.random.default_rng(seed).permutation(len(self._names))]

    def read(self, name: str) -> Score | None:
        return None if name.startswith("broken") else score(bars=1 if name.startswith("short") else 40)


class Sines:
    """A renderer for tests: every note a sine."""

    def __init__(self, fails_after: int | None = None):
        self.versions = {"sines": "1"}
        self.calls, self._fails_after = 0, fails_after

    def render(self, lines, rate: int, samples: int) -> torch.Tensor:
        if self.calls == self._fails_after:
            raise KeyboardInterrupt
        self.calls += 1
        x = torch.zeros(2, samples)
        time = torch.arange(samples) / rate
        for line in lines:
            for event in line.events:
                inside = (time >= event.onset) & (time < event.onset + event.length)
                x += inside * torch.sin(2 * math.pi * 440 * 2 ** ((event.pitch - 69) / 12) * time) * event.velocity
        return x / 500 * torch.tensor([[1.0], [0.5]])


def build(root: Path, pieces: int = 3, renderer: Sines | None = None, names: list[str] | None = None, **options):
    library = Library(names or [f"score{n}" for n in range(8)])
    options = {"rate": 8000, "channels": 2, **options}
    return build_slakh(root, pieces, options.pop("seconds", 1.0), library, renderer or Sines(), **options)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_every_family_plays_within_its_range_and_time(parts, seed):
    done = arranged(parts, seed)
    assert {line.family for line in done.lines} == set(FAMILIES)
    assert done == arranged(parts, seed), "seeded"
    played = {line.source.split()[-1] for line in done.lines if line.family != "drums"}
    assert played == {str(number) for number in range(1, parts + 1)}, "no part is left out"
    for line in done.lines:
        assert all(0 <= event.onset < 6.05 and 0 < event.length <= 6 for event in line.events)
        assert all(20 <= event.velocity <= 124 for event in line.events)
        if line.family != "drums":
            name, low, high = PROGRAMS[line.family][line.program]
            assert line.instrument == name and all(low <= event.pitch <= high for event in line.events)


def test_the_bass_is_the_lowest_part_and_doubled_where_parts_are_few():
    for parts, source in ((4, "part 4"), (3, "lowest notes of part 3")):
        done = arranged(parts)
        (bass,) = [line for line in done.lines if line.family == "bass"]
        assert bass.source == source
        onsets = [event.onset for event in bass.events]
        assert min(np.diff(onsets)) > 0.1, "one note at a time, though the part has thirds"
        others = [line.source for line in done.lines if line.family in FAMILIES[2:]]
        assert sorted(others) == ["part 1", "part 2", "part 3"], "the bass of four is not played twice"
    sources = [line.source for line in arranged(2).lines]
    assert "lowest notes of part 2" in sources and "highest notes of part 1" in sources


@pytest.mark.parametrize("beats", [2, 3, 4])
def test_drums_keep_the_metre(beats):
    done = arranged(beats=beats, seconds=10)
    drums = done.lines[0]
    bar = 60 / done.tempo * beats
    kicks = np.array([event.onset for event in drums.events if event.pitch == 36])
    for start in np.arange(0, 10 - 0.01, bar):
        assert np.abs(kicks - start).min() < 0.03, "one on the first beat of every bar"
    assert any(event.pitch == 38 for event in drums.events), "and the snare"
    assert drums.events[0].pitch in (36, 42, 49, 51) and len(drums.events) > 10 / bar * beats


def test_the_busiest_part_sets_the_tempo():
    for seed in range(5):
        done = arranged(seed=seed)
        assert 120 <= done.tempo <= 240, "one onset a quarter note, at 2 to 4.5 a second, at most 240 a minute"


def test_too_little_music():
    rng = np.random.default_rng(0)
    assert arrange(score(bars=1), 30.0, rng) is None
    assert arrange(score(parts=1), 5.0, rng) is None
    assert arrange(Score((), ()), 5.0, rng) is None
    silent = score(2)
    assert arrange(Score((silent.parts[0], silent.parts[1][:3]), silent.bars), 5.0, rng) is None


def test_an_excerpt_is_where_most_parts_play():
    whole = score(4)
    late = Score(tuple(part if n else part[160:] for n, part in enumerate(whole.parts)), whole.bars)
    for seed in range(5):
        done = arrange(late, 5.0, np.random.default_rng(seed))
        assert done is not None and sum(line.family != "drums" for line in done.lines) == 4
        assert done.start >= 12


def test_a_midi_file_says_what_the_lines_say():
    music21 = pytest.importorskip("music21")
    lines = arranged(7).lines
    for family in FAMILIES:
        mine = [line for line in lines if line.family == family]
        file = music21.midi.MidiFile()
        file.readstr(midi_file(mine, 6.0))
        assert (file.ticksPerQuarterNote, len(file.tracks)) == (500, 1)
        now, programs, played = 0, {}, {}
        for event in file.tracks[0].events:
            if event.isDeltaTime():
                now += event.time
            elif event.type == music21.midi.ChannelVoiceMessages.PROGRAM_CHANGE:
                programs[event.channel] = event.data
            elif event.isNoteOn():
                played.setdefault(event.channel, []).append((now, event.pitch, event.velocity))
        assert now >= 6000 and sorted(programs.values()) == sorted(line.program for line in mine)
        assert (10 in programs) == (family == "drums")
        for channel, line in zip(sorted(played), mine, strict=True):
            notes = played[channel]
            expected = [(round(1000 * event.onset), event.pitch, event.velocity) for event in line.events]
            assert sorted(notes) == sorted(expected)


def test_balance():
    rng = np.random.default_rng(1)
    stems = torch.randn(5, 2, 4000) * torch.tensor([1e-3, 0.1, 1.0, 5.0, 0.0])[:, None, None]
    out, gains = balance(stems, rng)
    assert 0.8999 < out.sum(0).abs().max() <= PEAK and torch.equal((out * 32768).round(), out * 32768)
    levels = 20 * torch.log10(out[:4].pow(2).mean((1, 2)).sqrt())
    assert levels.max() - levels.min() <= 8.1, "alike, up to the seeded gains"
    assert not out[4].any() and all(map(math.isfinite, gains))
    assert torch.allclose(out[1], stems[1] * 10 ** (gains[1] / 20), rtol=5e-3, atol=1e-4)
    assert not balance(torch.zeros(2, 1, 10), rng)[0].any()


def test_a_folder_of_pieces(tmp_path):
    index = build(tmp_path, 7)
    assert json.loads((tmp_path / "index.json").read_text()) == index
    assert [piece["split"] for piece in index["pieces"]] == ["train", "test", *["train"] * 4, "test"]
    assert len({piece["score"] for piece in index["pieces"]}) == 7, "no score is in two pieces"
    for piece in index["pieces"]:
        for family in FAMILIES:
            file = tmp_path / piece["name"] / f"{family}.flac"
            assert hashlib.sha256(file.read_bytes()).hexdigest() == piece["sha256"][family]
        assert set(piece["gains_db"]) == set(FAMILIES) == {line["stem"] for line in piece["lines"]}
    data = load_stems(f"slakh:{tmp_path}")
    assert (data.stems, data.rate, data.channels, len(data.train), len(data.test)) == (FAMILIES, 8000, 2, 5, 2)
    stems = data.train.stems(0)
    assert stems.shape == (5, 2, 8000) and 0.89 < stems.sum(0).abs().max() <= PEAK
    whole = stems.sum(0) * 32768
    assert torch.equal(whole, whole.round()), "the mixture is an exact sum of 16-bit stems"


def test_the_same_seed_gives_the_same_files(tmp_path):
    build(tmp_path / "a", 2)
    build(tmp_path / "b", 2)
    build(tmp_path / "c", 2, seed=1)
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")


def test_an_interrupted_build_goes_on(tmp_path):
    build(tmp_path / "whole", 3)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "cut", 3, Sines(fails_after=8))
    assert sorted(path.name for path in (tmp_path / "cut").iterdir()) == ["piece-0000"]
    with pytest.raises(DataError, match=r"has no index\.json: write it with `cml data slakh"):
        load_stems(f"slakh:{tmp_path / 'cut'}")
    (tmp_path / "cut" / ".piece-0001").mkdir()  # as a killed process leaves it
    (tmp_path / "cut" / ".piece-0001" / "odd.flac").touch()
    renderer, seen = Sines(), []
    build(tmp_path / "cut", 3, renderer, on_piece=seen.append)
    assert renderer.calls == 2 * len(FAMILIES) and seen == [1, 2, 3]
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_a_folder_grows_and_keeps_what_it_has(tmp_path):
    build(tmp_path, 2)
    before = contents(tmp_path)
    renderer = Sines()
    assert len(build(tmp_path, 4, renderer)["pieces"]) == 4 and renderer.calls == 2 * len(FAMILIES)
    assert all(contents(tmp_path)[name] == data for name, data in before.items() if name != "index.json")


def test_unfit_scores_are_passed_over(tmp_path):
    names = ["broken1", "short1", "good1", "short2", "good2"]
    index = build(tmp_path, 2, names=names, seconds=3.0)
    assert {piece["score"] for piece in index["pieces"]} == {"good1", "good2"}
    again = Sines()
    assert build(tmp_path, 2, again, names=names, seconds=3.0) == index and again.calls == 0
    with pytest.raises(DataError, match="The scores give 2 pieces of 3 s, not 3: ask for fewer or shorter ones"):
        build(tmp_path, 3, names=names, seconds=3.0)


def test_mono_is_the_mean(tmp_path):
    build(tmp_path, 2, channels=1)
    data = load_stems(f"slakh:{tmp_path}")
    assert data.channels == 1 and data.test.stems(0).shape == (5, 1, 8000)


def test_builds_that_are_refused(tmp_path):
    build(tmp_path, 2)
    refused: list[tuple[dict[str, Any], str]] = [
        ({"seconds": 2.0}, r"piece-0000 was rendered with seconds 1\.0, not 2\.0: take another folder"),
        ({"rate": 16000}, "rendered with rate 8000, not 16000"),
        ({"channels": 3}, "1 or 2 channels"),
        ({"pieces": 1}, "2 pieces or more"),
    ]
    for options, message in refused:
        with pytest.raises(DataError, match=message):
            build(tmp_path, **options)
    other = Sines()
    other.versions = {"sines": "2"}
    with pytest.raises(DataError, match="rendered with versions tests 1, 1, not tests 1, 2"):
        build(tmp_path, 2, other)
    (tmp_path / "piece-0001" / "piece.json").unlink()
    with pytest.raises(DataError, match="piece-0001 is no finished piece"):
        build(tmp_path, 2)
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(DataError, match=r"index\.json is not what `cml data slakh` writes"):
        load_stems(f"slakh:{tmp_path}")


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    run = CliRunner().invoke(commands, ["slakh", str(tmp_path / "out"), "--soundfont", str(tmp_path / "no.sf3")])
    assert isinstance(run.exception, DataError)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        with pytest.raises(DataError, match="needs the program fluidsynth: apt-get install fluidsynth"):
            FluidSynth()
    program = tmp_path / "fluidsynth"
    program.write_text("#!/bin/sh\necho FluidSynth runtime version 9.9\necho it is broken >&2\ntest $1 = --version\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(DataError, match=r"There is no soundfont .*no\.sf3: give the path"):
        FluidSynth(tmp_path / "no.sf3")
    with monkeypatch.context() as patch:
        patch.setattr("cml.data.render.SOUNDFONTS", ())
        with pytest.raises(DataError, match="apt-get install musescore-general-soundfont-small, or give --soundfont"):
            FluidSynth()
    (tmp_path / "a.sf2").write_bytes(b"font")
    renderer = FluidSynth(tmp_path / "a.sf2")
    assert renderer.versions["fluidsynth"] == "9.9" and renderer.versions["soundfont"] == "a.sf2"
    with pytest.raises(DataError, match="fluidsynth has failed: it is broken"):
        renderer.render(arranged().lines[:1], 8000, 800)
    monkeypatch.setitem(sys.modules, "music21", None)
    with pytest.raises(DataError, match="The scores come with the package music21: pip install music21"):
        Corpus()


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr("cml.data.render.FluidSynth", lambda soundfont: Sines())
    monkeypatch.setattr("cml.data.scores.Corpus", lambda: Library([f"score{n}" for n in range(8)]))
    options = ["--pieces", "7", "--seconds", "0.5", "--seed", "3", "--rate", "8000", "--channels", "1"]
    run = CliRunner().invoke(commands, ["slakh", str(tmp_path / "out"), *options])
    assert run.exit_code == 0, run.output
    said = " ".join(run.output.split())
    assert "5 pieces to train on and 2 to test, 0.5 s each" in said and "corpus has no drums" in said
    data = load_stems(f"slakh:{tmp_path / 'out'}")
    assert (data.rate, data.channels, data.train.stems(4).shape) == (8000, 1, (5, 1, 4000))


def test_scores_in_turn():
    names = [f"{group}/{n}" for group, count in (("a", 9), ("b", 2), ("c", 1)) for n in range(count)]
    order = in_turn(names, 0)
    assert sorted(order) == sorted(names) and order != names and order == in_turn(names, 0) != in_turn(names, 1)
    assert {name[0] for name in order[:3]} == set("abc") and {name[0] for name in order[3:5]} == set("ab")


def test_the_corpus():
    pytest.importorskip("music21")
    corpus = Corpus()
    names = corpus.names(0)
    assert len(names) > 1000 and not any(name.startswith(("demos", "leadSheet")) for name in names)
    chorale = corpus.read("bach/bwv66.6.mxl")
    assert chorale is not None and [len(part) for part in chorale.parts] == [36, 42, 44, 41]
    assert chorale.bars[0] == Bar(0.0, 1.0, 1.0, 2), "a pick-up of one beat"
    assert chorale.bars[1] == Bar(1.0, 4.0, 1.0, 2) and chorale.parts[0][0] == Note(0.0, 0.5, 73)
    assert corpus.read("bach/no_such_score.mxl") is None


def test_real_sound(tmp_path):
    pytest.importorskip("music21")
    if shutil.which("fluidsynth") is None or not any(Path(path).is_file() for path in SOUNDFONTS):
        pytest.skip("needs the program fluidsynth and the soundfont MuseScore General")
    chorale = Corpus().read("bach/bwv66.6.mxl")
    assert chorale is not None
    done = arrange(chorale, 2.0, np.random.default_rng(0))
    assert done is not None
    renderer = FluidSynth()
    sound = {
        family: renderer.render([line for line in done.lines if line.family == family], 22050, 44100)
        for family in ("drums", "bass")
    }
    shares = {}
    for family, stem in sound.items():
        assert stem.shape == (2, 44100) and stem.pow(2).mean().sqrt() > 1e-3
        spectrum = torch.fft.rfft(stem[0]).abs().pow(2)
        shares[family] = float(spectrum[: 2 * 400].sum() / spectrum.sum())  # below 400 Hz
    assert shares["bass"] > 0.7 and shares["drums"] < shares["bass"]
