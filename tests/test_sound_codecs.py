"""The codecs of sound: real files of each format, in step with the signal and as long, at every rate and length."""

import io
import sys

import numpy as np
import pytest
import torch
from helpers import hum

import cml
from cml.codecs import ogg
from cml.codecs.factory import identify
from cml.codecs.pcm import pack_pcm, unpack_pcm
from cml.codecs.rate import fit_bytes, for_sampling_rate, match_rate
from cml.codecs.resample_sound import Resample, resample
from cml.codecs.sound_files import Mp3, suitable_rate
from cml.errors import BitstreamError, CodecError

pytest.importorskip("av")
LOSSY = ["opus:kbps=64", "opus:kbps=10", "mp3:kbps=128", "mp3:kbps=24", "aac:kbps=96", "aac:kbps=20", "vorbis"]
FILES = [*LOSSY, "vorbis:inside=16000", "flac"]


def noise(channels: int, length: int, seed: int = 0) -> torch.Tensor:
    """Band-limited noise, another in each channel."""
    white = torch.randn(channels, length + 64, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool1d(white, 17, 1)[:, :length]
    return 0.8 * smooth / smooth.abs().max()


def lag(x: torch.Tensor, x_hat: torch.Tensor) -> int:
    """By how many samples the second is late: where their cross-correlation peaks."""
    length = 2 * len(x)
    spectra = [np.fft.rfft(signal.numpy(), length) for signal in (x_hat, x)]
    peak = int(np.fft.irfft(spectra[0] * spectra[1].conj(), length).argmax())
    return peak if peak < len(x) else peak - length


@pytest.mark.parametrize("name", FILES)
def test_every_length_comes_back(name):
    codec = cml.create_codec(name)
    for length in (1, 2, 46, 47, 48, 959, 1152, 1153, 1199, 2304):
        x = noise(1, length)
        assert codec.decompress(codec.compress(x)).shape == x.shape, length


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 96000])
def test_every_rate_is_told_by_the_file(name, rate):
    codec = cml.create_codec(name, rate=rate)
    for length in (1, 700, 7001):
        x = noise(2, length)
        blob = codec.compress(x)
        x_hat = cml.create_codec(name).decompress(blob)  # by a codec that was told another rate
        assert x_hat.shape == x.shape
        found = identify(blob)
        assert found.spec.settings["rate"] == rate
        assert torch.equal(found.decompress(blob), x_hat)


@pytest.mark.parametrize("name", FILES)
def test_samples_are_in_step(name):
    codec = cml.create_codec(name)
    for channels in (1, 2):
        x = noise(channels, 30_000)
        x_hat = codec.decompress(codec.compress(x))
        for channel in range(channels):
            assert lag(x[channel], x_hat[channel]) == 0, channel
        click = torch.zeros(channels, 20_000)
        click[:, 9000] = 0.9
        heard = codec.decompress(codec.compress(click)).abs()[0]
        centre = float((heard**2 * torch.arange(20_000)).sum() / heard.square().sum())
        assert abs(centre - 9000) < 100  # an encoder spreads it, but around its place


def test_narrow_band_opus_is_in_step():
    # Below some 9 kbit/s it codes speech at 8 kHz, where FFmpeg's decoder is late by 6 samples of 48 kHz.
    x = noise(1, 60_000)
    codec = cml.create_codec("opus:kbps=6")
    blob = codec.compress(x)
    packet = next(ogg.first_packet(page) for page in ogg.pages(blob) if ogg.granule(page) > 0)
    assert packet[0] >> 3 < 4
    assert abs(lag(x[0], codec.decompress(blob)[0])) <= 1


@pytest.mark.parametrize("name", FILES)
def test_silence_is_silence(name):
    codec = cml.create_codec(name)
    x = torch.zeros(2, 5000)
    assert codec.decompress(codec.compress(x)).abs().max() < 1e-4


@pytest.mark.parametrize("name", FILES)
def test_cut_files_are_refused(name):
    codec = cml.create_codec(name)
    blob = codec.compress(noise(1, 20_000))
    for keep in (len(blob) // 3, len(blob) - 40, len(blob) - 1):
        with pytest.raises(BitstreamError):
            codec.decompress(blob[:keep])


@pytest.mark.parametrize(
    ("name", "magic"), [("opus", b"OggS"), ("vorbis", b"OggS"), ("mp3", b"\xff\xfb"), ("flac", b"fLaC")]
)
def test_soundfile_reads_the_same_samples(name, magic):
    soundfile = pytest.importorskip("soundfile")
    x = noise(2, 12_000)
    codec = cml.create_codec(name, rate=48000)
    blob = codec.compress(x)
    assert blob.startswith(magic)
    samples, rate = soundfile.read(io.BytesIO(blob), dtype="float32")
    assert rate == 48000
    # Another decoder rounds otherwise, and soundfile does not know what comes before the first sample of an MP3.
    late = lag(x[0], torch.from_numpy(samples[:, 0].copy()[: x.shape[1]])) if name == "mp3" else 0
    theirs = torch.from_numpy(samples.T.copy())[:, late : late + 10_000]
    assert (codec.decompress(blob)[:, : theirs.shape[1]] - theirs).abs().max() < 2e-3


@pytest.mark.parametrize("name", LOSSY[:-1])
def test_more_bits_are_nearer(name):
    base = name.partition(":")[0]
    x = noise(1, 40_000)
    sizes, errors = [], []
    for kbps in (24, 64, 128):
        blob = cml.create_codec(base, kbps=kbps).compress(x)
        sizes.append(len(blob))
        errors.append(float((cml.decompress(blob) - x).square().mean()))
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


def test_files_of_one_signal_are_equal_bytes():
    x = noise(2, 8000)
    for name in FILES:
        assert cml.create_codec(name).compress(x) == cml.create_codec(name).compress(x), name


def test_flac_keeps_16_bits_as_they_are():
    samples = torch.randint(-32768, 32768, (3, 5000), generator=torch.Generator().manual_seed(0))
    x = samples / 32768
    blob = cml.create_codec("flac", rate=22050).compress(x)
    assert torch.equal(cml.decompress(blob), x)
    damaged = bytearray(blob)
    damaged[len(blob) // 2] ^= 16
    with pytest.raises(BitstreamError):
        cml.decompress(bytes(damaged))


def test_many_channels_stay_apart():
    x = noise(9, 6000)
    for name in ("opus:kbps=900", "vorbis:quality=8"):
        x_hat = cml.decompress(cml.create_codec(name, rate=48000).compress(x))
        likeness = np.corrcoef(np.concatenate([x.numpy(), x_hat.numpy()]))[:9, 9:]
        assert (likeness.argmax(1) == np.arange(9)).all() and likeness.diagonal().min() > 0.8


@pytest.mark.parametrize(
    ("name", "channels", "sentence"),
    [
        ("opus:kbps=6", 17, "0.5 to 256 kbit/s a channel"), ("mp3", 4, "1 or 2 channel"), ("aac", 17, "1 or 2 channel"),
        ("flac", 17, "has 17"),
    ],
)  # fmt: skip
def test_too_many_channels_get_a_sentence(name, channels, sentence):
    with pytest.raises(CodecError, match=sentence):
        cml.create_codec(name).compress(torch.zeros(channels, 100))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("opus:kbps=0", "0.5 to"), ("opus:application=music", "audio or voip"), ("opus:complexity=11", "0 to 10"),
        ("mp3:kbps=100", "96, 112, 128"), ("mp3:kbps=8,inside=44100", "8000, 11025, 12000, 16000, 22050, 24000 Hz"),
        ("aac:kbps=2", "4 to 1024"), ("aac:inside=1000", "Hz inside"), ("vorbis:quality=11", "0 to 10"),
        ("vorbis:inside=100", "8000 to 192000"), ("flac:rate=0", "as rate"), ("opus:rate=fast", "as rate"),
        ("resample:factor=0.5", "1 to 1024"),
    ],
)  # fmt: skip
def test_bad_options_get_a_sentence(name, sentence):
    with pytest.raises(CodecError, match=sentence):
        cml.create_codec(name)


def test_rates_that_do_not_divide_get_a_sentence():
    with pytest.raises(CodecError, match="too long for a filter"):
        cml.create_codec("opus:rate=44101").compress(torch.zeros(1, 100))


@pytest.mark.parametrize(
    ("name", "package"),
    [("opus", "av"), ("mp3", "av"), ("resample", "av"), ("bits:ndim=1", "av"), ("vorbis", "soundfile")],
)
def test_a_missing_package_is_named(name, package, monkeypatch):
    pytest.importorskip(package)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CodecError, match=rf"package {package}: pip install 'cml-toolkit\[sound\]'"):
        cml.create_codec(name)
    assert cml.decompress(cml.create_codec("identity:ndim=1").compress(torch.zeros(1, 5))).shape == (1, 5)


def test_the_rate_inside_suits_the_bit_rate():
    assert [suitable_rate(kbps, 1, 44100, (8000, 16000, 24000, 44100)) for kbps in (8, 30, 48, 64, 128)] == [
        8000, 16000, 24000, 44100, 44100,
    ]  # fmt: skip
    assert cml.create_codec("mp3:kbps=24").rate_inside(1) == 12000  # pyright: ignore[reportAttributeAccessIssue]
    x = noise(1, 30_000)
    assert len(cml.create_codec("mp3:kbps=8").compress(x)) < len(cml.create_codec("mp3:kbps=32").compress(x)) / 2.5
    assert cml.create_codec("mp3:kbps=64,inside=24000").spec.name == "mp3:kbps=64,inside=24000"


def test_codecs_are_told_the_sampling_rate():
    assert for_sampling_rate("opus:kbps=12", 48000) == "opus:kbps=12,rate=48000"
    for name in ("opus:kbps=12,rate=8000", "resample:factor=4", "jpeg2000", "mono_f64c64"):
        assert for_sampling_rate(name, 48000) == name


@pytest.mark.parametrize("name", ["opus", "mp3", "aac", "vorbis", "resample", "bits:ndim=1"])
def test_rates_are_met_by_search(name):
    x = noise(1, 44100)
    kbps = 110
    codec, blob = match_rate(name, x, 1000 * kbps / 44100)
    assert codec.compress(x) == blob
    assert abs(8 * len(blob) / 1000 - kbps) < (6 if name in ("opus", "aac") else 60)
    assert len(fit_bytes(name, x, len(blob))[1]) <= len(blob)
    assert Mp3.BIT_RATES[0] == 8


# resampling


def test_a_tone_keeps_its_time_and_what_does_not_fit_is_gone():
    n = torch.arange(9000)
    tone = 0.5 * torch.sin(0.05 * n)[None]
    for before, after in ((1, 4), (4, 1), (44100, 48000), (48000, 44100), (160, 147)):
        y = resample(tone, before, after)
        want = 0.5 * torch.sin(0.05 * torch.arange(y.shape[1]) * before / after)
        inner = slice(y.shape[1] // 8, -y.shape[1] // 8)
        assert (y[0] - want)[inner].abs().max() < 2e-3
        assert y.shape[1] == -(-9000 * after // before)
    high = 0.5 * torch.sin(2.9 * n)[None]  # above the half of a half
    assert resample(high, 2, 1)[:, 100:-100].abs().max() < 1e-3
    assert resample(torch.full((2, 1), 0.3), 4, 1).allclose(torch.full((2, 1), 0.3), atol=3e-3)


@pytest.mark.parametrize("factor", [1, 2, 2.5, 16, 44100 / 16000])
def test_resample_is_what_a_model_of_it_reads(factor):
    codec = Resample(factor)
    x = torch.cat([hum(4001), hum(4001, 3)])
    small = codec.downsample(x)
    assert small.shape[1:] == codec.small_size((4001,))
    assert abs(small.shape[1] - 4001 / factor) < 1.01
    blob = codec.compress(x)
    assert torch.equal(codec.load_small(blob), small)
    x_hat = cml.decompress(blob)
    assert x_hat.shape == x.shape
    if factor <= 2.5:
        assert (x - x_hat).square().mean() < 0.02 * x.square().mean()
    with pytest.raises(BitstreamError):
        codec.decompress(cml.create_codec("bits:ndim=1").compress(x))


def test_more_factor_costs_less():
    sizes = [len(Resample(factor).compress(hum(20_000))) for factor in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)
    # Of as many channels as FLAC does not take, and so few samples that its header is more than they are.
    for x in (noise(12, 500), noise(1, 3)):
        assert cml.decompress(Resample(2).compress(x)).shape == x.shape
    kind, payload = pack_pcm(np.array([[1, -2, 3]], np.int16))
    assert len(payload) == 6 and unpack_pcm(payload, kind, 1).tolist() == [[1, -2, 3]]


def test_bits_of_sound_are_centred_on_silence():
    x = torch.linspace(-1, 1, 4001)[None]
    for bits in (1, 3, 8, 16):
        codec = cml.create_codec("bits", bits=bits, ndim=1)
        x_hat = cml.decompress(codec.compress(x))
        cell = 2 / 2**bits
        inside = x <= 1 - cell
        assert ((x_hat - x).abs()[inside] <= cell / 2 + 1e-4).all()
        assert len(x_hat.unique()) <= 2**bits
        assert not codec.decompress(codec.compress(torch.zeros(1, 10))).any()
