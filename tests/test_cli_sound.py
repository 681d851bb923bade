"""Sound through the command line, and codecs of sound trained from recipes."""

import numpy as np
import pytest
import torch
from command_line import run
from test_level import sound

import cml
from cml.codecs.bitstream import facts
from cml.codecs.neural import WaveletCodec
from cml.data.sound import read_sound, write_sound
from cml.errors import CmlError, DataError
from cml.train.material import read_signals
from cml.train.recipes import CodecRecipe, dump_recipe, load_recipe


@pytest.mark.parametrize(("channels", "name"), [(1, "mono_f64c64"), (2, "stereo_f64c128"), (4, "foa_f32c48")])
@pytest.mark.parametrize(("bits", "suffix", "rate"), [(16, ".wav", 44100), (24, ".flac", 96000), (32, ".wav", 8000)])
def test_sound_goes_and_comes_back_as_it_was(tmp_path, channels, name, bits, suffix, rate):
    x = sound(channels)
    write_sound(tmp_path / f"in{suffix}", x, rate, bits)
    text = run("encode", tmp_path / f"in{suffix}", "-o", tmp_path / "in.cml")
    assert "kbit/s" in text and name in text
    assert facts((tmp_path / "in.cml").read_bytes()) == {"rate": rate, "bits": bits}
    told = run("info", tmp_path / "in.cml")
    assert "kbit/s" in told and f"fact: rate {rate}" in told and "level peak" in told
    assert f"{rate} Hz" in run("decode", tmp_path / "in.cml", "-o", tmp_path / f"out{suffix}")
    back = read_sound(tmp_path / f"out{suffix}")
    assert (back.rate, back.bit_depth, back.samples.shape) == (rate, bits, x.shape)
    assert (back.samples - x).square().mean() < 0.3 * x.square().mean()


def test_a_rate_is_met_in_kbit_a_second(tmp_path):
    write_sound(tmp_path / "in.wav", sound(length=80_000), 8000)
    run("encode", tmp_path / "in.wav", "-o", tmp_path / "in.cml", "--kbps", "6")
    assert 8 * (tmp_path / "in.cml").stat().st_size / 10 / 1000 == pytest.approx(6, rel=0.05)
    assert "one of them" in run("encode", tmp_path / "in.wav", "-o", tmp_path / "x", "--kbps", 6, "--bpp", 1, expect=2)


def test_folders_of_sounds(tmp_path):
    for n in range(3):
        write_sound(tmp_path / "in" / "deep" / f"{n}.wav", sound(seed=n), 16000)
    assert "3 of 3" in run("encode", tmp_path / "in", "-o", tmp_path / "latents")
    assert "3 of 3" in run("decode", tmp_path / "latents", "-o", tmp_path / "out")
    assert read_sound(tmp_path / "out" / "deep" / "1.wav").samples.shape == (1, 3000)
    cml.write_image(tmp_path / "in" / "x.png", torch.zeros(1, 8, 8))
    assert "both pictures and sounds" in run("encode", tmp_path / "in", "-o", tmp_path / "again", expect=2)


def test_what_cannot_be_encoded_or_written_is_one_sentence(tmp_path):
    write_sound(tmp_path / "17.wav", sound(17), 8000)
    assert "17 channels" in run("encode", tmp_path / "17.wav", "-o", tmp_path / "17.cml", expect=2)
    assert "--bpp" in run("encode", _picture(tmp_path), "-o", tmp_path / "x.cml", "--kbps", "8", expect=2)
    (tmp_path / "bare.cml").write_bytes(cml.create_codec("mono_f64c64").compress(sound()))
    assert "sampling rate" in run("decode", tmp_path / "bare.cml", "-o", tmp_path / "bare.wav", expect=2)
    write_sound(tmp_path / "a.wav", sound(), 8000)
    run("encode", tmp_path / "a.wav", "-o", tmp_path / "a.cml")
    assert ".wav or .flac" in run("decode", tmp_path / "a.cml", "-o", tmp_path / "a.png", expect=2)


def _picture(folder):
    cml.write_image(folder / "p.png", torch.zeros(1, 8, 8))
    return folder / "p.png"


def recipe(folder, **changes):
    codec = {"ndim": 1, "channels": 1, "levels": 3, "latent_channels": 4, "level": "peak"}
    values = {"data": (str(folder),), "codec": codec, "scales": (1.0,), "crop": 512, "batch": 2, "iterations": 0}
    return CodecRecipe(**{**values, **changes})


def test_a_codec_of_sound_trains_from_a_folder(tmp_path):
    """Quiet and loud files weigh the same; the trained codec is used by its path at once."""
    for n in range(4):
        write_sound(tmp_path / "in" / f"{n}.wav", 10.0**-n * sound(length=4000, seed=n), 8000, 24)
    text = dump_recipe(recipe(tmp_path / "in", iterations=3, every=2, validation=2))
    (tmp_path / "toy.yaml").write_text(text)
    assert load_recipe(tmp_path / "toy.yaml").sampling_rate == 0
    assert "3/3 held out" in run("train", "codec", tmp_path / "toy.yaml", "-o", tmp_path / "toy")
    assert (tmp_path / "toy" / "validation.png").exists()
    codec = cml.create_codec(str(tmp_path / "toy"))
    assert isinstance(codec, WaveletCodec) and codec.config.level == "peak"
    assert "kbit/s" in run("encode", tmp_path / "in" / "0.wav", "-o", tmp_path / "0.cml", "-c", tmp_path / "toy")


def test_sounds_of_a_recipe(tmp_path):
    write_sound(tmp_path / "silent.wav", torch.zeros(1, 4000), 16000)
    for n in range(3):
        write_sound(tmp_path / f"{n}.wav", 0.1 * sound(length=4000, seed=n), 16000)
        write_sound(tmp_path / f"copy {n}.wav", 0.1 * sound(length=4000, seed=n), 16000)
    train, held = read_signals(recipe(tmp_path, sampling_rate=8000))
    assert len(train) + len(held) == 3  # neither silence nor copies
    assert all(x.shape == (1, 2000) and float(x.abs().max()) == pytest.approx(1, abs=1e-6) for x in train + held)
    stereo = {"ndim": 1, "channels": 2, "levels": 3, "latent_channels": 4}
    assert all(len(x) == 2 for x in read_signals(recipe(tmp_path, codec=stereo))[0])
    with pytest.raises(DataError, match="one signal"):
        (tmp_path / "one").mkdir()
        write_sound(tmp_path / "one" / "0.wav", sound(), 8000)
        read_signals(recipe(tmp_path / "one"))


def test_mirrored_scenes_leave_no_direction_preferred(tmp_path):
    from cml.train.codec import starting_codec

    for n in range(3):
        x = sound(4, 6000, n)
        write_sound(tmp_path / f"{n}.wav", torch.cat((x[:1], 0.7 * x[:1], -0.5 * x[:1], 0.2 * x[3:])), 8000)
    foa = {"ndim": 1, "channels": 4, "levels": 2, "latent_channels": 8, "level": "peak"}
    mirrored = recipe(tmp_path, codec=foa, mirror=True)
    codec = starting_codec(mirrored, read_signals(mirrored)[0])
    # No latent mixes the channels, each of which comes with both signs.
    weight = np.abs(codec.encoder.weight.detach().numpy()).reshape(8, 4, 4)  # pyright: ignore
    assert (np.sort(weight.max(2), 1)[:, :-1] < 1e-3).all()
    with pytest.raises(CmlError, match="four channels"):
        recipe(tmp_path, mirror=True)


def test_a_codec_is_fitted_to_a_folder_of_sounds(tmp_path):
    for n in range(3):
        write_sound(tmp_path / "in" / f"{n}.wav", 10.0**-n * sound(2, length=40_000, seed=n), 8000, 24)
    text = run("fit", tmp_path / "in", "-o", tmp_path / "mine", "--levels", 4, "--channels", 8)
    assert "4x dimension reduction" in text
    assert "3 sounds" in (tmp_path / "mine" / "README.md").read_text()
    codec = cml.create_codec(str(tmp_path / "mine"))
    assert isinstance(codec, WaveletCodec) and codec.config.level == "peak" and codec.config.channels == 2
    y = codec.decompress(codec.compress(sound(2)))
    assert (y - sound(2)).square().mean() < 0.2 * sound(2).square().mean()
    assert "pictures" in run("fit", tmp_path / "in", "-o", tmp_path / "x", "--gray", expect=2)
