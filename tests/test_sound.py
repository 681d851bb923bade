"""Sound files become samples and a rate, and samples become files, without a bit of difference."""

import io
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cml.data.sound import find_sounds, read_sound, resample, sound_bytes, sound_header, write_sound
from cml.errors import DataError

soundfile = pytest.importorskip("soundfile")


def tone(rate: int, hertz: float, seconds: float = 0.5, channels: int = 1) -> Tensor:
    time = torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    return torch.stack([0.5 * torch.sin(2 * math.pi * hertz * time + channel) for channel in range(channels)]).float()


def level(x: Tensor) -> float:
    """In dB, of the middle half."""
    middle = x[..., x.shape[-1] // 4 : -x.shape[-1] // 4]
    return 10 * math.log10(float(middle.double().pow(2).mean()) + 1e-30)


@pytest.mark.parametrize(("suffix", "depth"), [(".wav", 16), (".wav", 24), (".wav", 32), (".flac", 16), (".flac", 24)])
def test_what_is_written_is_read_back(tmp_path, suffix, depth):
    x = torch.rand(2, 501, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[:, :2] = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    path = tmp_path / "new" / f"a{suffix}"
    write_sound(path, x, 96000, depth)
    sound = read_sound(path)
    assert (sound.samples.shape, sound.samples.dtype) == (x.shape, torch.float32)
    assert (sound.rate, sound.bit_depth, sound.seconds) == (96000, depth, 501 / 96000)
    error = (sound.samples - x).abs().max()
    assert error == 0 if depth == 32 else error <= 2.0 ** -(depth - 1)
    write_sound(path, sound.samples, sound.rate, sound.bit_depth)
    assert torch.equal(read_sound(path).samples, sound.samples), "a second time loses nothing"
    assert sound_header(path) == (96000, 2, 501 / 96000)
    assert torch.equal(read_sound(path.read_bytes()).samples, sound.samples)


@pytest.mark.parametrize("channels", [1, 4, 17])
@pytest.mark.parametrize("length", [1, 777])
def test_any_number_of_channels_and_samples(tmp_path, channels, length):
    x = tone(8000, 440, length / 8000, channels)
    write_sound(tmp_path / "a.wav", x, 8000, 24)
    assert (read_sound(tmp_path / "a.wav").samples - x).abs().max() <= 2.0**-23
    mono = read_sound(tmp_path / "a.wav", channels=1).samples
    assert torch.allclose(mono, x.mean(0, keepdim=True), atol=1e-6)


def test_a_single_channel_is_repeated_and_several_are_not_chosen_from(tmp_path):
    write_sound(tmp_path / "a.wav", tone(8000, 300), 8000)
    sound = read_sound(tmp_path / "a.wav", channels=2).samples
    assert len(sound) == 2 and torch.equal(sound[0], sound[1])
    write_sound(tmp_path / "b.wav", tone(8000, 300, channels=4), 8000)
    with pytest.raises(DataError, match=r"b\.wav has 4 channels, and 2 are wanted"):
        read_sound(tmp_path / "b.wav", channels=2)


def test_silence_stays_silence(tmp_path):
    write_sound(tmp_path / "a.flac", torch.zeros(1, 5000), 44100)
    assert not read_sound(tmp_path / "a.flac", rate=16000).samples.any()


@pytest.mark.parametrize(("before", "after"), [(44100, 16000), (16000, 44100), (48000, 44100), (44100, 22050)])
def test_resampling_keeps_what_both_rates_can_hold(before, after):
    x = tone(before, 1000)
    y = resample(x, before, after)
    assert y.shape == (1, math.ceil(x.shape[1] * after / before))
    inside = slice(after // 20, -after // 20)
    assert torch.allclose(y[:, inside], tone(after, 1000)[:, : y.shape[1]][:, inside], atol=1e-3)
    lower = min(before, after) / 2
    assert abs(level(resample(tone(before, 0.9 * lower), before, after)) - level(tone(before, 0.9 * lower))) < 0.1
    if after < before:
        assert level(resample(tone(before, 1.05 * lower), before, after)) < level(x) - 55, "above is aliasing"


def test_resampling_lengths_and_rates():
    for length in (1, 2, 3, 441, 1000):
        assert resample(torch.rand(3, length), 44100, 16000).shape == (3, math.ceil(length * 16000 / 44100))
    x = torch.rand(2, 9)
    assert resample(x, 8000, 8000) is x
    with pytest.raises(DataError, match="44101 to 16000, too long"):
        resample(x, 44101, 16000)
    with pytest.raises(DataError, match="positive number of samples a second, not 0"):
        resample(x, 44100, 0)


def test_resampling_while_reading(tmp_path):
    write_sound(tmp_path / "a.wav", tone(44100, 500), 44100)
    sound = read_sound(tmp_path / "a.wav", 16000)
    assert (sound.rate, sound.samples.shape) == (16000, (1, 8000))
    assert torch.equal(sound.samples, resample(read_sound(tmp_path / "a.wav").samples, 44100, 16000))


@pytest.mark.parametrize(("format", "subtype", "depth"), [("OGG", "VORBIS", 16), ("MP3", "MPEG_LAYER_III", 16)])
def test_lossy_files(tmp_path, format, subtype, depth):
    x = tone(44100, 440, channels=2) * 1.99
    soundfile.write(tmp_path / "a.ogg", x.T.numpy(), 44100, format=format, subtype=subtype)
    sound = read_sound(tmp_path / "a.ogg")
    assert (sound.rate, sound.bit_depth, len(sound.samples)) == (44100, depth, 2)
    assert sound.samples.abs().max() <= 1 and abs(level(sound.samples) - level(x)) < 0.5


def test_aac_is_read_by_pyav(tmp_path):
    av = pytest.importorskip("av")
    x = tone(44100, 440, 1.0, channels=2)
    with av.open(str(tmp_path / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=44100, layout="stereo", bit_rate=128000)
        frame = av.AudioFrame.from_ndarray(x.numpy(), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = 44100, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)
    for source in (tmp_path / "a.m4a", (tmp_path / "a.m4a").read_bytes()):
        sound = read_sound(source)
        assert (sound.rate, sound.samples.dtype) == (44100, torch.float32)
        assert sound.samples.shape == x.shape
        assert torch.allclose(sound.samples[:, 4096:40000], x[:, 4096:40000], atol=0.05), "in step"
    assert sound_header(tmp_path / "a.m4a")[:2] == (44100, 2)
    with pytest.raises(DataError, match="holds 1 sounds; there is no number 1"):
        read_sound(tmp_path / "a.m4a", stream=1)


def test_files_that_are_refused(tmp_path):
    def write(name: str, samples: np.ndarray) -> Path:
        soundfile.write(tmp_path / name, samples, 8000, subtype="FLOAT")
        return tmp_path / name

    with pytest.raises(DataError, match=r"There is no file .*nowhere\.wav"):
        read_sound(tmp_path / "nowhere.wav")
    for bad in (np.nan, np.inf):
        with pytest.raises(DataError, match=r"bad\.wav holds NaN or infinity"):
            read_sound(write("bad.wav", np.array([0.0, bad])))
    with pytest.raises(DataError, match=r"empty\.wav holds no samples"):
        read_sound(write("empty.wav", np.zeros(0)))
    with pytest.raises(DataError, match=r"has samples up to 3.277e\+04; sound is in \[-1, 1\]"):
        read_sound(write("loud.wav", np.array([0.0, 32768.0])))
    assert read_sound(write("over.wav", np.array([0.5, -1.2]))).samples.tolist() == [[0.5, -1.0]]
    (tmp_path / "text.wav").write_text("no sound")
    for read in (read_sound, sound_header):
        with pytest.raises(DataError, match=r"Cannot read .*text\.wav as sound: "):
            read(tmp_path / "text.wav")
    with pytest.raises(DataError, match="Cannot read the clip as sound: "):
        read_sound(b"no sound", name="the clip")


def test_what_is_not_written(tmp_path):
    x = tone(8000, 300)
    for name, sound, rate, depth, message in (
        ("a.mp3", x, 8000, 16, r"name the output \.wav or \.flac, not a\.mp3"),
        ("a.flac", x, 8000, 32, r"A \.flac file has 16, 24 bits a sample, not 32"),
        ("a.flac", x.repeat(9, 1), 8000, 16, "FLAC holds at most 8 channels, this sound has 9"),
        ("a.wav", x[0], 8000, 16, r"float \(channels, samples\), not torch\.float32 of shape \(4000,\)"),
        ("a.wav", x * math.nan, 8000, 16, "holds NaN or infinity"),
        ("a.flac", x, 0, 16, r"Cannot write 1 channels at 0 Hz as \.flac"),
    ):
        with pytest.raises(DataError, match=message):
            write_sound(tmp_path / name, sound, rate, depth)
    assert not list(tmp_path.iterdir())


def test_without_soundfile(monkeypatch, tmp_path):
    (tmp_path / "a.wav").write_bytes(sound_bytes(tone(8000, 300), 8000, ".wav"))
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(DataError, match="Sound needs the package soundfile: pip install"):
        read_sound(tmp_path / "a.wav")


def test_without_pyav(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"PyAV reads more formats \(pip install av\)"):
        read_sound(b"no sound")


def test_finding_sounds(tmp_path):
    for name in ("b/x.WAV", "a.flac", "b/y.txt", ".hidden/z.wav", "b/.w.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.relative_to(tmp_path).as_posix() for path in find_sounds(tmp_path)] == ["a.flac", "b/x.WAV"]
    with pytest.raises(DataError, match="There is no folder"):
        find_sounds(tmp_path / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"holds no sound \(\.aac"):
        find_sounds(tmp_path / "none")


def test_bytes_are_those_of_the_file(tmp_path):
    write_sound(tmp_path / "a.flac", tone(8000, 300), 8000)
    assert sound_bytes(tone(8000, 300), 8000) == (tmp_path / "a.flac").read_bytes()
    assert soundfile.info(io.BytesIO(sound_bytes(tone(8000, 300), 8000))).frames == 4000
