"""Reading and writing sound: any common file becomes float samples beside their sampling rate, or one clear sentence.

soundfile reads and writes; what it does not know, AAC in .m4a or .mp4, goes through PyAV.
"""

import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cml.codecs import resample_sound
from cml.errors import CodecError, DataError
from cml.files import write_atomic

SOUND_SUFFIXES = frozenset(
    {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".m4a", ".mp4", ".aac", ".aif", ".aiff", ".aifc", ".caf", ".au"}
)
_BITS = {"PCM_U8": 16, "PCM_S8": 16, "PCM_24": 24, "PCM_32": 32, "FLOAT": 32, "DOUBLE": 32, "ALAC_24": 24}
_SUBTYPES = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}
_FORMATS = {".wav": ("WAV", (16, 24, 32)), ".flac": ("FLAC", (16, 24))}
_FLAC_CHANNELS = 8
_LOUDEST = 4.0  # float files and lossy ones pass 1 by a little; what passes 4 (12 dB) is in another unit


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples and what they are counted in.

    Attributes:
        samples: (C, T), float32 in [-1, 1].
        rate: samples a second.
        bit_depth: 16 or 24 for integers, 32 for float; 16 for lossy files, which have no depth of their own.
    """

    samples: Tensor
    rate: int
    bit_depth: int

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.samples.shape[-1] / self.rate


class Header(NamedTuple):
    """What a file says about itself before its samples are read."""

    rate: int
    channels: int
    seconds: float


def read_sound(
    source: str | Path | bytes,
    rate: int | None = None,
    channels: int | None = None,
    stream: int = 0,
    name: str | None = None,
) -> Sound:
    """A sound file, or its bytes, as float32 samples in [-1, 1]; what passes 1 by a little is cut off there.

    Args:
        source: the file.
        rate: resample to so many samples a second; None keeps what the file has.
        channels: 1 takes the mean of all; more repeats a single one; None keeps what the file has.
        stream: which sound of a container that holds several, as a .stem.mp4 does.
        name: what errors call the bytes.

    Raises:
        DataError: it cannot be read, is empty, holds NaN or infinity, or has too few channels.
    """
    name = name or ("these bytes" if isinstance(source, bytes) else str(source))
    if not isinstance(source, bytes) and not Path(source).is_file():
        raise DataError(f"There is no file {source}.")
    samples, before, bit_depth = _decode(source, stream, name)
    if samples.size == 0 or before < 1:
        raise DataError(f"{name} holds no samples.")
    x = torch.from_numpy(samples)
    peak = float(x.abs().max())
    if not math.isfinite(peak):
        raise DataError(f"{name} holds NaN or infinity: clean it first.")
    if peak > _LOUDEST:
        raise DataError(f"{name} has samples up to {peak:.4g}; sound is in [-1, 1]: divide by what full scale is.")
    x = resample(_with_channels(x, channels, name), before, rate) if rate else _with_channels(x, channels, name)
    return Sound(x.clamp(-1, 1), rate or before, bit_depth)


def write_sound(path: str | Path, x: Tensor, rate: int, bit_depth: int = 16) -> None:
    """Write sound, rounded to its bit depth and then without loss; what was read is written as it was.

    Args:
        path: ends in .wav or .flac.
        x: (C, T), float in [-1, 1]. In B bits, 1 is 2^(B-1), and the largest integer is one less.
        rate: samples a second.
        bit_depth: 16 or 24; 32 writes float, in .wav only.
    """
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise DataError(f"Sound is written without loss: name the output .wav or .flac, not {path.name}.")
    write_atomic(path, sound_bytes(x, rate, path.suffix, bit_depth))


def sound_bytes(x: Tensor, rate: int, suffix: str = ".flac", bit_depth: int = 16) -> bytes:
    """The whole file that `write_sound` writes under that suffix."""
    soundfile = _soundfile()
    format, depths = _FORMATS[suffix.lower()]
    if bit_depth not in depths:
        raise DataError(f"A {suffix} file has {', '.join(map(str, depths))} bits a sample, not {bit_depth}.")
    if x.dim() != 2 or x.numel() == 0 or not x.is_floating_point():
        raise DataError(f"A sound is float (channels, samples), not {x.dtype} of shape {tuple(x.shape)}.")
    if not bool(torch.isfinite(x).all()):
        raise DataError("The sound holds NaN or infinity: clean it before it is written.")
    if format == "FLAC" and len(x) > _FLAC_CHANNELS:
        raise DataError(f"FLAC holds at most {_FLAC_CHANNELS} channels, this sound has {len(x)}: write a .wav file.")
    buffer = io.BytesIO()
    try:
        soundfile.write(buffer, _integers(x, bit_depth), rate, format=format, subtype=_SUBTYPES[bit_depth])
    except (soundfile.SoundFileError, OverflowError, ValueError) as error:
        raise DataError(f"Cannot write {len(x)} channels at {rate} Hz as {suffix}: {_plain(error)}.") from error
    return buffer.getvalue()


def sound_header(path: str | Path) -> Header:
    """Rate, channels and length of a file; none of its samples is read where soundfile knows the format."""
    if not Path(path).is_file():
        raise DataError(f"There is no file {path}.")
    soundfile = _soundfile()
    try:
        info = soundfile.info(str(path))
        return Header(info.samplerate, info.channels, info.frames / info.samplerate)
    except (soundfile.SoundFileError, OSError):
        sound = read_sound(path)
        return Header(sound.rate, len(sound.samples), sound.seconds)


def common_format(headers: Sequence[Header]) -> tuple[int, int]:
    """The rate that most files have, and the channels that all have; 1 where they differ."""
    rates = Counter(header.rate for header in headers)
    channels = {header.channels for header in headers}
    return max(rates, key=lambda rate: (rates[rate], rate)), channels.pop() if len(channels) == 1 else 1


def resample(x: Tensor, before: int, after: int) -> Tensor:
    """Sound at another rate, band-limited by a windowed sinc; nothing is delayed.

    Args:
        x: (C, T) float.
        before, after: samples a second.

    Returns:
        (C, ceil(T * after / before)); `x` itself where the rates agree. It can pass 1 by a little.

    Raises:
        DataError: a rate is not positive, or their ratio is one of too large numbers.
    """
    if before < 1 or after < 1:
        raise DataError(f"A sampling rate is a positive number of samples a second, not {min(before, after)}.")
    try:
        return resample_sound.resample(x, before, after)
    except CodecError as error:
        raise DataError(str(error)) from error


def find_sounds(folder: str | Path) -> list[Path]:
    """Every sound file below a folder, in a fixed order, hidden ones left out; none at all is an error."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SOUND_SUFFIXES and path.is_file() and not _hidden(path.relative_to(folder))
    )
    if not files:
        raise DataError(f"{folder} holds no sound ({', '.join(sorted(SOUND_SUFFIXES))}).")
    return files


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _with_channels(x: Tensor, channels: int | None, name: str) -> Tensor:
    if channels is None or channels == len(x):
        return x
    if channels == 1:
        return x.mean(0, keepdim=True)
    if len(x) > 1:
        raise DataError(f"{name} has {len(x)} channels, and {channels} are wanted: mix it first, or take 1.")
    return x.repeat(channels, 1)


def _integers(x: Tensor, bit_depth: int) -> np.ndarray:
    """(T, C) as the file holds it: int16, int32 with the 24 bits on top, or float32."""
    x = x.detach().cpu().T.contiguous()
    if bit_depth == 32:
        return x.float().numpy()
    full = 1 << (bit_depth - 1)
    whole = (x.double() * full).round().clamp(-full, full - 1)
    return whole.short().numpy() if bit_depth == 16 else (whole.int() << 8).numpy()


def _decode(source: str | Path | bytes, stream: int, name: str) -> tuple[np.ndarray, int, int]:
    """Samples (C, T), the rate, and the bit depth."""
    soundfile = _soundfile()
    if stream:
        return _decode_av(source, stream, name)
    try:
        with soundfile.SoundFile(_opened(source)) as file:
            samples = file.read(dtype="float32", always_2d=True)
            return np.ascontiguousarray(samples.T), file.samplerate, _BITS.get(file.subtype, 16)
    except (soundfile.SoundFileError, OSError) as error:
        try:
            return _decode_av(source, stream, name)
        except ImportError:
            reason = f"{_plain(error)}; PyAV reads more formats (pip install av)"
        except DataError as second:
            raise second from error
        raise DataError(f"Cannot read {name} as sound: {reason}.") from error


def _decode_av(source: str | Path | bytes, stream: int, name: str) -> tuple[np.ndarray, int, int]:
    import av
    from av.error import FFmpegError

    parts: list[np.ndarray] = []
    try:
        with av.open(_opened(source), mode="r") as container:
            if stream >= len(container.streams.audio):
                raise DataError(f"{name} holds {len(container.streams.audio)} sounds; there is no number {stream}.")
            track = container.streams.audio[stream]
            # Side by side: PyAV 18 crashes on frames of eight planes and more.
            floats, count = av.AudioResampler(format="flt"), track.codec_context.channels
            frames = [part for frame in (*container.decode(track), None) for part in floats.resample(frame)]
            parts = [frame.to_ndarray().reshape(-1, count).T for frame in frames]
            rate = track.codec_context.sample_rate
            samples = None
            if "mp4" in container.format.name and track.duration and track.time_base:
                # MP4 knows the length, and AAC fills its last frame; elsewhere a duration is a guess.
                samples = round(track.duration * track.time_base * rate)
    except (FFmpegError, OSError, ValueError) as error:
        raise DataError(f"Cannot read {name} as sound: {_plain(error)}.") from error
    return np.concatenate(parts, 1)[:, :samples] if parts else np.empty((1, 0), np.float32), rate, 16


def _soundfile() -> ModuleType:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise DataError("Sound needs the package soundfile: pip install 'cml-toolkit[data]'.") from error
    return soundfile


def _opened(source: str | Path | bytes) -> io.BytesIO | str:
    return io.BytesIO(source) if isinstance(source, bytes) else str(source)


def _plain(error: Exception) -> str:
    """What a library says, without the object's address and the full stop."""
    text = str(getattr(error, "error_string", "") or getattr(error, "strerror", "") or error)
    return text.strip().rstrip(".")
