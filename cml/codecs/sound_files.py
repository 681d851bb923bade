"""The sound codecs that people use: MP3, AAC, FLAC, and what they have in common with those in Ogg.

Their bytes are ordinary files of the format, so that the rate is what a file costs. What an encoder puts before the
first sample and behind the last is left out when they are read: sample n of the output belongs to sample n of the
input, and there are as many.

A file may have another sampling rate inside than the signal: Opus has 48 kHz always, and MP3 and AAC sound better with
fewer samples where bits are few. The signal is then resampled to it and back (`cml.codecs.resample_sound`), and 13
bytes behind the file, which readers skip, say the rate of the signal and how many of its samples the last one of the
file stands for. Opus needs none: its header has a field for the rate, and one of 48 kHz or less tells the length too.
"""

import struct
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cml.codecs import av_files
from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.conventional import check_option
from cml.codecs.pcm import FLAC_CHANNELS, flac_decode, flac_encode, from_int16, to_int16
from cml.codecs.resample_sound import resample
from cml.errors import BitstreamError, CodecError

RATE = 44100
"""Samples a second of a signal where the option `rate` is not given."""
MPEG_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
_HIGHEST_RATE = 1_000_000
# Formed as a box, the unit of MP4 files, so that it is a part of theirs: its size, its name, the rate, more samples.
_TAIL = struct.Struct(">I4sIB")
_TAIL_NAME = b"cml "
# Samples a second inside for each kbit/s of mono and of stereo. Measured on training folds of ESC-10 and on stereo
# music: close to the best SI-SDR at every bit rate. LAME's own choice is some 30 % higher.
_PER_KBPS = {1: 500, 2: 375}


def check_rate(codec: str, rate: int) -> None:
    """The option `rate` of a codec of sound, or a sentence on what is wrong with it."""
    check_option(codec, "rate", rate, 1, _HIGHEST_RATE)


def fewest_samples(length: int, inside: int, rate: int) -> int:
    """The least T whose resampling has `length` samples; if the rate inside is no lower, the only one."""
    return (length - 1) * rate // inside + 1


def point_name(base: str, options: Mapping[str, Any], mark: str = ":") -> str:
    """An operating point, "opus:kbps=12,rate=16000"."""
    parts = [f"{key}={value:.12g}" if isinstance(value, float) else f"{key}={value}" for key, value in options.items()]
    return base + mark * bool(parts) + ",".join(parts)


class SoundFile(Codec):
    """A signal resampled to the rate inside, encoded, and back.

        x (C, T) --resample--> rate inside --encoder--> file --decoder, trimmed--> rate inside --resample--> x_hat

    Args:
        channels: how many the format takes at most.
        rate: samples a second of the signals.
        inside: samples a second in the file; None for what suits.
        options: those of the operating point, beside these two.
        settings: what else belongs with a result.
    """

    format: str
    lossless = False

    def __init__(
        self, channels: int, rate: int, inside: int | None, options: Mapping[str, Any], settings: Mapping[str, Any]
    ):
        check_rate(self.format, rate)
        self.rate, self.inside = rate, inside
        rates = ({} if inside is None else {"inside": inside}) | ({} if rate == RATE else {"rate": rate})
        self._spec = CodecSpec(
            name=point_name(self.format, {**options, **rates}),
            ndim=1,
            channels=tuple(range(1, channels + 1)),
            lossless=self.lossless,
            codec_id=fingerprint({"codec": self.format, "version": 1}),
            settings={"rate": rate, "inside": inside, **options, **settings},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def rate_inside(self, channels: int) -> int:
        """Samples a second in the file of a signal of so many channels."""
        return self.inside or self.rate

    @abstractmethod
    def _write(self, x: Tensor, rate: int) -> bytes:
        """(C, T) at the rate inside to a file."""

    @abstractmethod
    def _read(self, blob: bytes) -> tuple[Tensor, int]:
        """A file to (C, T), as many samples as were written, and the rate inside."""

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        inside = self.rate_inside(len(x))
        samples = resample(x, self.rate, inside)
        blob = self._write(samples, inside)
        more = x.shape[1] - fewest_samples(samples.shape[1], inside, self.rate)
        return self._sign(blob, inside, more)

    def _decompress(self, blob: bytes) -> Tensor:
        if not self.matches(blob):
            raise BitstreamError(f"These bytes are no {self.format} file.")
        blob, rate, more = self._signature(blob)
        samples, inside = self._read(blob)
        if rate not in (None, inside):
            length = fewest_samples(samples.shape[1], inside, rate) + more
            samples = resample(samples, inside, rate)[:, :length]
            if samples.shape[1] < length:
                raise BitstreamError("The bytes behind the file promise more samples than it holds.")
        return samples.clamp(-1, 1)

    def _sign(self, blob: bytes, inside: int, more: int) -> bytes:
        """A file that says of which rate the signal is, and how many samples more than the fewest it has."""
        return blob if inside == self.rate else blob + _TAIL.pack(_TAIL.size, _TAIL_NAME, self.rate, more)

    @classmethod
    def _signature(cls, blob: bytes) -> tuple[bytes, int | None, int]:
        """A file as its format knows it, and what `_sign` wrote: None where the rate is that inside."""
        if len(blob) > _TAIL.size:
            size, name, rate, more = _TAIL.unpack(blob[-_TAIL.size :])
            if (size, name) == (_TAIL.size, _TAIL_NAME) and 1 <= rate <= _HIGHEST_RATE:
                return blob[: -_TAIL.size], rate, more
        return blob, None, 0

    @classmethod
    @abstractmethod
    def matches(cls, blob: bytes) -> bool:
        """Whether bytes start as a file of this format does."""

    @classmethod
    @abstractmethod
    def _rate_of(cls, blob: bytes) -> int:
        """Samples a second inside a file, without decoding it."""

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        if not cls.matches(blob):
            return None
        file, rate, _ = cls._signature(blob)
        return cls(rate=rate or cls._rate_of(file))  # pyright: ignore[reportCallIssue]


class Mp3(SoundFile):
    """MP3 by LAME, constant bit rate: mono, or joint stereo. Its "Info" frame tells the delay and the length.

    Args:
        kbps: of all channels together, as the format has them: 32 to 320 from 32 kHz on, 8 to 160 below, 8 to 64 up to
            12 kHz.
        inside: samples a second in the file; None for 500 for each kbit/s in mono and 375 in stereo, or the next that
            the format has with this bit rate, and not more than the signal has.
        rate: samples a second of the signals.
    """

    format = "mp3"
    _HIGH = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
    _LOW = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
    BIT_RATES = tuple(sorted({*_HIGH, *_LOW}))
    _FORMAT = av_files.AvFormat("mp3", "libmp3lame", "fltp", {}, {"id3v2_version": "0"})

    def __init__(self, kbps: int = 128, inside: int | None = None, rate: int = RATE):
        if isinstance(kbps, bool) or kbps not in self.BIT_RATES:
            raise CodecError(f"mp3 has the bit rates {', '.join(map(str, self.BIT_RATES))} as kbps, not {kbps!r}.")
        self._rates = [at for at in MPEG_RATES if kbps in self._bit_rates(at)]
        check_inside("mp3", inside, self._rates)
        self._kbps = kbps
        super().__init__(2, rate, inside, {"kbps": kbps}, av_settings("libmp3lame"))

    @classmethod
    def _bit_rates(cls, rate: int) -> tuple[int, ...]:
        return cls._HIGH if rate >= 32000 else cls._LOW if rate >= 16000 else cls._LOW[:8]

    def rate_inside(self, channels: int) -> int:
        return self.inside or suitable_rate(self._kbps, channels, self.rate, self._rates)

    def _write(self, x: Tensor, rate: int) -> bytes:
        blob = av_files.encode(x.numpy(), rate, self._FORMAT, 1000 * self._kbps)
        tag = _Mp3Tag.find(blob)
        return blob if tag is None else tag.with_length(blob, x.shape[1])

    def _read(self, blob: bytes) -> tuple[Tensor, int]:
        tag = _Mp3Tag.find(blob)
        if tag is not None and tag.size != len(blob):
            raise BitstreamError(f"The MP3 file is cut off or damaged: {len(blob)} of its {tag.size} bytes are there.")
        samples, rate, _ = av_files.decode(blob, "mp3")
        if tag is not None and not 0 < tag.length <= samples.shape[1]:
            raise BitstreamError("The MP3 file is damaged: it does not hold the samples that it tells.")
        return torch.from_numpy(samples[:, : tag.length] if tag else samples), rate

    @classmethod
    def _rate_of(cls, blob: bytes) -> int:
        return av_files.rate_of(blob, "mp3")

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[:3] == b"ID3" or (blob[:1] == b"\xff" and len(blob) > 3 and blob[1] & 0xE6 == 0xE2)


@dataclass(frozen=True)
class _Mp3Tag:
    """What the silent first frame of a file says of it: "Info" or "Xing", flags, frames, bytes, ..., delays.

    Attributes:
        at: where it begins.
        size: bytes of the file.
        samples: that its frames hold, with those before the first and behind the last of the signal.
        before, behind: how many those are.
    """

    at: int
    size: int
    samples: int
    before: int
    behind: int

    @classmethod
    def find(cls, blob: bytes) -> "_Mp3Tag | None":
        at = max(blob.find(b"Xing", 0, 64), blob.find(b"Info", 0, 64))
        if at < 0 or len(blob) < at + 144 or blob[at + 7] != 15:
            return None
        frames, size = (int.from_bytes(blob[at + start : at + start + 4], "big") for start in (8, 12))
        delays = int.from_bytes(blob[at + 141 : at + 144], "big")
        return cls(at, size, frames * (1152 if blob[1] & 8 else 576), delays >> 12, delays & 0xFFF)

    @property
    def length(self) -> int:
        return self.samples - self.before - self.behind

    def with_length(self, blob: bytes, length: int) -> bytes:
        """The file with the length of its signal; FFmpeg says 47 samples where the last frame has fewer."""
        delays = self.before << 12 | self.samples - self.before - length
        return blob[: self.at + 141] + delays.to_bytes(3, "big") + blob[self.at + 144 :]


class Aac(SoundFile):
    """AAC, the low-complexity profile by FFmpeg's own encoder, as .m4a: mono and stereo.

    Args:
        kbps: kbit/s to aim at, of all channels together; at most about 6 bits a sample come of it.
        inside: samples a second in the file; None as for `mp3`.
        rate: samples a second of the signals.
    """

    format = "aac"
    _RATES = (*MPEG_RATES, 64000, 88200, 96000)
    _BRANDS = frozenset({b"M4A ", b"M4B ", b"mp42", b"isom"})

    def __init__(self, kbps: float = 128, inside: int | None = None, rate: int = RATE):
        check_option("aac", "kbps", kbps, 4, 1024, whole=False)
        check_inside("aac", inside, self._RATES)
        self._kbps = kbps
        super().__init__(2, rate, inside, {"kbps": kbps}, av_settings("aac"))

    def rate_inside(self, channels: int) -> int:
        return self.inside or suitable_rate(self._kbps, channels, self.rate, self._RATES)

    def _write(self, x: Tensor, rate: int) -> bytes:
        # The length is counted in samples, not in milliseconds.
        format = av_files.AvFormat("ipod", "aac", "fltp", {}, {"movie_timescale": str(rate)})
        return av_files.encode(x.numpy(), rate, format, round(1000 * self._kbps))

    def _read(self, blob: bytes) -> tuple[Tensor, int]:
        _check_boxes(blob)
        samples, rate, length = av_files.decode(blob, "mp4")
        if length is not None and length > samples.shape[1]:
            raise BitstreamError("The AAC file is cut off or damaged: it holds fewer samples than it tells.")
        return torch.from_numpy(samples[:, :length]), rate

    @classmethod
    def _rate_of(cls, blob: bytes) -> int:
        return av_files.rate_of(blob, "mp4")

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[4:8] == b"ftyp" and blob[8:12] in cls._BRANDS


def _check_boxes(blob: bytes) -> None:
    """Raise BitstreamError unless the boxes of an MP4 file, which begin with their sizes, fill it; FFmpeg does not."""
    at = 0
    while at < len(blob):
        size = int.from_bytes(blob[at : at + 4], "big")
        size = int.from_bytes(blob[at + 8 : at + 16], "big") if size == 1 else size or len(blob) - at
        at += max(size, 8)
    if at != len(blob):
        raise BitstreamError("The AAC file is cut off or damaged: its parts are not as long as they tell.")


class Flac(SoundFile):
    """FLAC, 16 bits a sample: what came from a file of 16 bits comes back as it was. Up to 8 channels.

    Args:
        rate: samples a second of the signals.
    """

    format = "flac"
    lossless = True

    def __init__(self, rate: int = RATE):
        super().__init__(FLAC_CHANNELS, rate, None, {}, av_settings("flac"))

    def _write(self, x: Tensor, rate: int) -> bytes:
        return flac_encode(to_int16(x), rate)

    def _read(self, blob: bytes) -> tuple[Tensor, int]:
        samples, rate = flac_decode(blob)
        return from_int16(samples), rate

    @classmethod
    def _rate_of(cls, blob: bytes) -> int:
        return av_files.rate_of(blob, "flac")

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[:4] == b"fLaC"


def suitable_rate(kbps: float, channels: int, rate: int, known: Sequence[int]) -> int:
    """The samples a second inside that suit a bit rate, not more than the signal has, or the next that there is."""
    wanted = min(rate, kbps * _PER_KBPS[channels])
    return min((at for at in known if at >= wanted), default=max(known))


def check_inside(codec: str, inside: int | None, known: Sequence[int]) -> None:
    """The option `inside` of a codec, or a sentence on what is wrong with it."""
    if inside is not None and inside not in known:
        rates = ", ".join(map(str, known))
        raise CodecError(f"{codec} has {rates} Hz inside at this bit rate, not {inside!r}: take one, or leave it out.")


def av_settings(library: str) -> dict[str, Any]:
    """What encodes, for a result's settings."""
    av = av_files.load_av()
    codecs = ".".join(map(str, av.library_versions["libavcodec"]))
    return {"encoder": library, "av": av.__version__, "libavcodec": codecs}
