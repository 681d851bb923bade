"""Data sets of sound: classes with folds, stems whose sum is the mixture, and clips of any kind."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from cml.data.sound import read_sound, write_sound
from cml.data.sound_sets import load_clips, load_sounds
from cml.data.stems import load_stems
from cml.errors import DataError

pytest.importorskip("soundfile")


def noise(path: Path, seed: int, samples: int = 400, rate: int = 8000, channels: int = 1) -> torch.Tensor:
    x = torch.rand(channels, samples, generator=torch.Generator().manual_seed(seed)) - 0.5
    x = (x * 32768).round() / 32768
    write_sound(path, x, rate)
    return x


@pytest.fixture
def esc(tmp_path) -> Path:
    """Two classes, two clips a fold; of the second class they are short."""
    for label, folder in enumerate(("001 - Dog bark", "002 - Rain")):
        for fold in range(1, 6):
            for take in "AB":
                seed = label * 100 + fold * 10 + ord(take)
                noise(tmp_path / folder / f"{fold}-77-{take}.flac", seed, 230000 if label == 0 else 44100, 44100)
    (tmp_path / "README.md").write_text("ESC-10")
    return tmp_path


def test_folds(esc):
    data = load_sounds(f"esc10:{esc}")
    assert data.classes == ("dog bark", "rain") and (data.rate, data.channels, data.seconds) == (44100, 1, 5.0)
    assert (len(data.train), len(data.test)) == (16, 4)
    assert {path.name[0] for path in data.train.paths} == set("1234") and data.train.labels.dtype == np.int64
    assert [path.name[0] for path in data.test.paths] == ["5"] * 4 and data.test.labels.tolist() == [0, 0, 1, 1]
    third = load_sounds(f"esc10:{esc},fold=3")
    assert {path.name[0] for path in third.train.paths} == set("1245")
    choosing = load_sounds(f"esc10:{esc},fold=4,without=5")
    assert {path.name[0] for path in choosing.train.paths} == set("123")
    assert {path.name[0] for path in choosing.test.paths} == {"4"}
    assert len({data.revision, third.revision, choosing.revision}) == 3
    assert load_sounds(f"esc10:{esc},fold=5").revision == data.revision
    noise(data.test.paths[0], 999, 230000, 44100)
    assert load_sounds(f"esc10:{esc}").revision != data.revision


def test_every_clip_has_the_same_length(esc):
    data = load_sounds(f"esc10:{esc}")
    long, short = data.test.sound(0), data.test.sound(2)
    assert long.shape == short.shape == (1, 220500) and data.test.samples == 220500
    assert torch.equal(long, noise(data.test.paths[0], 50 + ord("A"), 230000, 44100)[:, :220500])
    assert torch.equal(short[:, 44100:88200], short[:, :44100]), "repeated from its start"


def test_esc_that_is_refused(esc):
    for argument in ("fold=6", "fold=0", "fold=4,without=4"):
        with pytest.raises(DataError, match="ESC-10 has the folds 1 to 5"):
            load_sounds(f"esc10:{esc},{argument}")
    with pytest.raises(DataError, match="year=3 is no option here"):
        load_sounds(f"esc10:{esc},year=3")
    with pytest.raises(DataError, match="fold=x is no option here"):
        load_sounds(f"esc10:{esc},fold=x")
    with pytest.raises(DataError, match="there is none at 'nowhere'"):
        load_sounds("esc10:nowhere")
    noise(esc / "002 - Rain" / "odd.flac", 1)
    with pytest.raises(DataError, match=r"odd\.flac is not named as ESC-10"):
        load_sounds(f"esc10:{esc}")


def test_esc_without_its_folders(tmp_path):
    noise(tmp_path / "dog" / "1-77-A.wav", 1)
    with pytest.raises(DataError, match="is not ESC-10: it has class folders"):
        load_sounds(f"esc10:{tmp_path}")


def test_a_folder_of_classes(tmp_path):
    for number in range(8):
        noise(tmp_path / "low" / f"{number}.wav", number, 400)
        noise(tmp_path / "high" / f"{number}.flac", number, 400 if number < 7 else 900, channels=2)
    data = load_sounds(f"folder:{tmp_path}")
    assert data.classes == ("high", "low") and sorted(data.test.labels) == [0, 0, 1, 1] and len(data.train) == 12
    assert (data.rate, data.channels, data.seconds) == (8000, 1, 0.05)
    assert data.train.sound(0).shape == (1, 400)
    clips = load_clips(f"folder:{tmp_path}")
    for clip, part in ((clips.train, data.train), (clips.test, data.test)):
        assert clip.paths == part.paths, "both hold the same out"


def test_folders_of_splits(tmp_path):
    for name in ("train/a/1.wav", "train/b/1.wav", "test/a/2.wav", "test/b/3.wav"):
        noise(tmp_path / name, len(name), channels=3)
    data = load_sounds(f"folder:{tmp_path}")
    assert [path.name for path in data.test.paths] == ["2.wav", "3.wav"] and data.channels == 3
    noise(tmp_path / "test" / "c" / "4.wav", 4)
    with pytest.raises(DataError, match="must hold the same classes; they differ in c"):
        load_sounds(f"folder:{tmp_path}")


def test_folders_without_classes(tmp_path):
    for number in range(6):
        noise(tmp_path / f"{number}.wav", number, 300 + number, rate=16000 if number else 8000)
    for text, message in ((f"folder:{tmp_path}", "must lie in one folder a class"), ("folder:", "none at ''")):
        with pytest.raises(DataError, match=message):
            load_sounds(text)
    clips = load_clips(f"folder:{tmp_path}")
    assert (clips.rate, clips.channels, len(clips.train), len(clips.test)) == (16000, 1, 4, 2)
    lengths = {name: clips.train.sound(index).shape for index, name in enumerate(clips.train.names)}
    lengths |= {name: clips.test.sound(index).shape for index, name in enumerate(clips.test.names)}
    assert lengths == {str(n): (1, 300 + n if n else 600) for n in range(6)}, "whole, at one rate"


def test_one_sound_is_a_test(tmp_path):
    noise(tmp_path / "a.wav", 0)
    clips = load_clips(f"folder:{tmp_path}")
    assert (len(clips.train), len(clips.test), clips.rate) == (0, 1, 8000)


def playlist(root: Path, loudness: float = 0.4) -> list[torch.Tensor]:
    time = torch.arange(8000 * 26) / 8000
    stems = []
    for number, name in enumerate(("Vocals", "Guitar", "PianoSynth", "BassDrums")):
        stems.append(loudness * torch.sin(2 * torch.pi * (100 + 50 * number) * time).repeat(2, 1))
        write_sound(root / "deep" / f"{name}30.wav", stems[-1], 8000)
    return stems


def test_a_song_in_stems(tmp_path):
    wave = torch.stack(playlist(tmp_path, 0.2))
    data = load_stems(f"stems:{tmp_path}")
    assert data.stems == ("vocals", "guitar", "piano_synth", "bass_drums")
    assert (data.rate, data.channels, len(data.train), len(data.test)) == (8000, 2, 1, 1)
    train, test = data.train.stems(0), data.test.stems(0)
    assert train.shape == (4, 2, 24 * 8000) and test.shape == (4, 2, 2 * 8000) and train.dtype == torch.float32
    assert torch.allclose(torch.cat([train, test], -1), wave, atol=2**-15), "in step, and nothing in both"


def test_a_mixture_past_1_scales_its_stems(tmp_path):
    wave = torch.stack(playlist(tmp_path, 0.5))
    stems = load_stems(f"stems:{tmp_path}").train.stems(0)
    assert 0.9999 < stems.sum(0).abs().max() <= 1
    gain = wave[..., : stems.shape[-1]].sum(0).abs().max()
    assert torch.allclose(stems * gain, wave[..., : stems.shape[-1]], atol=1e-3)


def test_stems_that_are_refused(tmp_path):
    with pytest.raises(DataError, match="stems:PATH needs the folder of Vocals30"):
        load_stems("stems:nowhere")
    noise(tmp_path / "Vocals30.wav", 1)
    with pytest.raises(DataError, match="lacks the stem Guitar30"):
        load_stems(f"stems:{tmp_path}")
    for number, name in enumerate(("Guitar", "PianoSynth", "BassDrums")):
        noise(tmp_path / f"{name}30.wav", number, 401)
    with pytest.raises(DataError, match="differ in length, 400, 401, 401, 401 samples"):
        load_stems(f"stems:{tmp_path}").train.stems(0)
    noise(tmp_path / "Vocals30.wav", 1, 401)
    with pytest.raises(DataError, match="song-test is too short"):
        load_stems(f"stems:{tmp_path}").test.stems(0)


def test_clips_of_stems(tmp_path):
    playlist(tmp_path)
    data, clips = load_stems(f"stems:{tmp_path}"), load_clips(f"stems:{tmp_path}")
    assert list(clips.test.names) == [
        f"song-test/{name}" for name in ("mixture", "vocals", "guitar", "piano_synth", "bass_drums")
    ]
    stems = data.test.stems(0)
    assert torch.equal(clips.test.sound(0), stems.sum(0)) and torch.equal(clips.test.sound(3), stems[2])
    assert (clips.rate, clips.channels, clips.revision) == (8000, 2, data.revision)


def test_musdb(tmp_path):
    """The one track of MUSDB18 that comes with stempeg; read here as if it were in both splits, never trained on."""
    pytest.importorskip("av")
    found = importlib.util.find_spec("stempeg")
    if found is None or found.origin is None:
        pytest.skip("needs the track of the package stempeg")
    track = next((Path(found.origin).parent / "data").glob("*.stem.mp4"))
    with pytest.raises(DataError, match=r"train holds no \.stem\.mp4"):
        load_stems(f"musdb:{tmp_path}")
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / track.name).symlink_to(track)
    data = load_stems(f"musdb:{tmp_path}")
    assert data.stems == ("drums", "bass", "other", "vocals") and data.test.names == (track.name[:-9],)
    stems = data.test.stems(0)
    assert stems.shape[:2] == (4, 2) and 5.5 < stems.shape[2] / data.rate < 7
    assert all(stem.abs().max() > 0.01 for stem in stems)
    mixture, total = read_sound(track).samples.flatten(), stems.sum(0).flatten()
    alike = torch.nn.functional.cosine_similarity(mixture, total, 0)
    assert alike > 0.98, "the stems are those of the mixture and in step with it, apart from its limiter"
    assert stems.sum(0).abs().max() <= 1


def test_names_that_nobody_knows():
    with pytest.raises(DataError, match=r"There is no set of sounds 'nothing:x'.*ambisonic:PATH.*slakh:PATH"):
        load_clips("nothing:x")


def test_the_real_sets(data):
    esc = load_sounds(f"esc10:{data / 'esc10'}")
    assert (len(esc.classes), len(esc.train), len(esc.test)) == (10, 320, 80)
    assert np.bincount(esc.test.labels).tolist() == [8] * 10
    song = load_stems(f"stems:{data / 'stems'}")
    assert (song.rate, song.test.stems(0).shape) == (48000, (4, 2, 288047))
    rooms = load_clips(f"ambisonic:{data / 'ambisonic'}")
    assert (rooms.rate, rooms.channels, list(rooms.train.names), list(rooms.test.names)) == (
        44100, 4, ["BF_rec1", "BF_rec3"], ["BF_rec5"],
    )  # fmt: skip
    assert rooms.test.sound(0).shape == (4, 787971)
    assert load_clips(f"esc10:{data / 'esc10'}").test.sound(0).shape == (1, 220544)
