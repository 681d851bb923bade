"""The level of sound, and sound that is encoded while it comes in."""

import numpy as np
import pytest
import torch

import cml
from cml.codecs import bitstream
from cml.codecs.neural import WaveletCodec
from cml.codecs.stream import StreamEncoder
from cml.errors import BitstreamError, CodecError


def sound(channels=1, length=3000, seed=0):
    """A falling chord and noise."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(length) / 8000
    chord = sum(torch.sin(6.28 * f * t) for f in (220, 331, 450)) * torch.exp(-3 * t)
    return 0.2 * chord + 0.02 * torch.randn(channels, length, generator=generator)


def make(name: str) -> WaveletCodec:
    codec = cml.create_codec(name)
    assert isinstance(codec, WaveletCodec)
    return codec


@pytest.mark.parametrize("gain", [1e-6, 0.01, 1.0, 3.0])
def test_the_level_travels(gain):
    codec = make("mono_f64c64")
    x = sound()
    loud, latent = codec.encode(x), codec.encode(gain * x)
    # The same picture of the sound, whatever the volume, but for roundings at a tie.
    assert (loud.symbols.int() - latent.symbols.int()).abs().max() <= 1
    assert (loud.symbols != latent.symbols).float().mean() < 1e-3
    assert latent.level[0] == pytest.approx(gain * float((x - x.mean()).abs().max()), rel=1e-5)
    y = codec.decompress(codec.compress(gain * x))
    assert (y - gain * x).square().mean() < 0.02 * (gain * x).square().mean()
    assert torch.equal(cml.decompress(codec.compress(gain * x)), y)


def test_offsets_come_back():
    codec = make("stereo_f64c128")
    x = sound(2) + torch.tensor([[0.3], [-0.2]])
    y = codec.decompress(codec.compress(x))
    assert (y.mean(1) - x.mean(1)).abs().max() < 1e-3
    assert codec.encode(x).level[1:] == pytest.approx(x.mean(1).tolist(), abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -0.7, 5.0])
@pytest.mark.parametrize("length", [1, 2, 1000])
def test_silence_and_what_is_constant_come_back_exactly(value, length):
    for name in ("mono_f64c64", "speech_f64c64"):
        codec = make(name)
        x = torch.full((1, length), value)
        torch.testing.assert_close(codec.decompress(codec.compress(x)), x, rtol=1e-6, atol=0)


def test_bad_sound_is_one_sentence():
    codec = make("mono_f64c64")
    for bad, words in (
        (torch.full((1, 9), torch.nan), "NaN"),
        (torch.zeros(17, 9), "takes 1 channel"),
        (torch.zeros(1, 0), "empty"),
        (torch.zeros(9), "spatial axes"),
    ):
        with pytest.raises(CodecError, match=words):
            codec.compress(bad)
    with pytest.raises(CodecError, match="peak"):
        cml.create_codec("mono_f64c64", peak=-1)
    with pytest.raises(CodecError, match="option peak"):
        cml.create_codec("rgb_f8c12", peak=1)


def test_a_container_without_its_level_is_refused():
    codec = make("mono_f64c64")
    container = bitstream.Container.unpack(codec.compress(sound()))
    stripped = bitstream.Container(**{**container.__dict__, "level": ()})
    with pytest.raises(BitstreamError, match="level"):
        codec.unpack(stripped.pack())


@pytest.mark.parametrize("name", ["mono_f64c64", "stereo_f256c32", "foa_f32c48"])
@pytest.mark.parametrize("length", [1, 63, 64, 1000, 20_001])
@pytest.mark.parametrize("chunk", [1, 100, 4096, 50_000])
def test_a_stream_has_the_symbols_of_the_whole(name, length, chunk):
    if length // chunk > 2000:
        pytest.skip("as with chunks of 100, only slower")
    codec = cml.create_codec(name, peak=0.8)
    assert isinstance(codec, WaveletCodec)
    x = sound(codec.config.channels, length)
    encoder, late = StreamEncoder(codec), 0
    parts = []
    for start in range(0, length, chunk):
        parts.append(encoder.push(x[:, start : start + chunk]))
        given = sum(part.shape[1] for part in parts)
        late = max(late, min(start + chunk, length) - given * codec.config.cell[0])
    assert late < encoder.latency  # what has come longer ago than that is given
    symbols = torch.cat([*parts, encoder.finish()], 1)
    whole = codec.encode(x)
    assert torch.equal(symbols.int(), whole.symbols.int())
    assert codec.pack(encoder.latent(symbols)) == codec.pack(whole)


def test_a_stream_of_integers_and_before_its_end():
    codec = cml.create_codec("mono_f64c64", peak=1.0)
    assert isinstance(codec, WaveletCodec)
    x = (sound() * 32767.5 + 32767.5).numpy().astype(np.uint16)
    encoder = StreamEncoder(codec)
    symbols = encoder.push(x[:, :2000])
    so_far = codec.decode(encoder.latent(symbols))
    assert so_far.shape == (1, 64 * symbols.shape[1])
    clean = torch.from_numpy(x[:, : so_far.shape[1]].astype(np.float32)) / 32767.5 - 1
    assert (so_far - clean)[:, :-64].square().mean() < 0.1 * clean.square().mean()
    assert encoder.push(x[:, :0]).shape == (64, 0)


def test_misused_streams_are_one_sentence():
    with pytest.raises(CodecError, match="streams"):
        StreamEncoder(make("rgb_f8c12"))
    encoder = StreamEncoder(make("mono_f64c64"))
    with pytest.raises(CodecError, match="Nothing has come"):
        encoder.finish()
    encoder.push(sound())
    encoder.finish()
    with pytest.raises(CodecError, match="ended"):
        encoder.push(sound())
    with pytest.raises(CodecError, match="ended"):
        encoder.finish()
