"""Sound through FFmpeg, by the package PyAV: samples to the bytes of a file in memory, and back."""

import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cml.errors import BitstreamError, CodecError

_BLOCK = 1 << 20  # samples that a frame holds at most: FFmpeg counts the bytes of one in 31 bits
_MOST_PLANES = 7  # PyAV crashes on frames of more planes than that
# No names and versions of programs in the file, and no serial numbers drawn by chance: few bytes, always the same.
_PLAIN = {"fflags": "bitexact"}
_LAYOUTS = {1: "mono", 2: "stereo"}
_TYPES = {"flt": np.float32, "fltp": np.float32, "s16": np.int16}


def load_av(need: str = "Files of sound need", extra: str = "sound") -> Any:
    """The package PyAV, or one sentence on what needs it and which extra of ours brings it."""
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise CodecError(f"{need} the package av: pip install 'cml-toolkit[{extra}]'.") from error


@dataclass(frozen=True)
class AvFormat:
    """What FFmpeg is told.

    Attributes:
        container: its name of the file format.
        encoder: its name of the encoder.
        sample_format: flt or s16 (channels interleaved), fltp (one after the other): what the encoder takes.
        options: of the encoder.
        writing: options of the file format.
    """

    container: str
    encoder: str
    sample_format: str
    options: Mapping[str, str]
    writing: Mapping[str, str]


def encode(samples: np.ndarray, rate: int, format: AvFormat, bit_rate: int | None = None) -> bytes:
    """Samples to a file.

    Args:
        samples: (C, T), float32, or int16 for the sample format s16.
        rate: samples a second.
        format: the file.
        bit_rate: bits a second to aim at.

    Raises:
        CodecError: FFmpeg refuses, or lacks the encoder.
    """
    av, buffer = load_av(), io.BytesIO()
    channels = len(samples)
    layout = _LAYOUTS.get(channels, f"{channels}C")  # "4C": four channels in no particular place
    try:
        with av.open(buffer, "w", format=format.container, options=_PLAIN | dict(format.writing)) as file:
            options = {"flags": "bitexact"} | dict(format.options)
            stream = file.add_stream(
                format.encoder, rate=rate, options=options, layout=layout, format=format.sample_format
            )
            stream.codec_context.thread_count = 1
            if bit_rate is not None:
                stream.bit_rate = bit_rate
            for start in range(0, samples.shape[1], _BLOCK):
                part = samples[:, start : start + _BLOCK].astype(_TYPES[format.sample_format], copy=False)
                part = part if format.sample_format.endswith("p") else part.T.reshape(1, -1)
                frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), format.sample_format, layout)
                frame.sample_rate, frame.pts = rate, start
                file.mux(stream.encode(frame))
            file.mux(stream.encode(None))
    except (av.FFmpegError, ValueError, KeyError, OverflowError) as error:
        raise CodecError(
            f"FFmpeg's {format.encoder} does not encode {channels} channel(s) at {rate} Hz: {reason(error)}."
        ) from error
    return buffer.getvalue()


def decode(blob: bytes, container: str) -> tuple[np.ndarray, int, int | None]:
    """A file to its samples (C, T), float32 or int16, its samples a second, and the length that it tells, if any.

    Raises:
        BitstreamError: it is no whole file of that format.
    """
    av = load_av()
    parts: list[np.ndarray] = []
    try:
        with av.open(io.BytesIO(blob), "r", format=container) as file:
            if not file.streams.audio:
                raise BitstreamError("The file holds no sound.")
            stream = file.streams.audio[0]
            stream.codec_context.thread_count = 1
            packer = None
            for frame in file.decode(stream):
                if frame.format.is_planar and frame.layout.nb_channels > _MOST_PLANES:
                    packer = packer or av.AudioResampler(format=frame.format.packed.name)
                    parts += map(_samples, packer.resample(frame))
                else:
                    parts.append(_samples(frame))
            if packer is not None:
                parts += map(_samples, packer.resample(None))
            rate = stream.codec_context.sample_rate
            told = None if stream.duration is None else round(stream.duration * stream.time_base * rate)
    except (av.FFmpegError, OSError, ValueError, EOFError) as error:
        raise BitstreamError(f"These bytes are not a whole {container} file: {reason(error)}.") from error
    if not parts or not parts[0].size:
        raise BitstreamError(f"These bytes are not a whole {container} file: no sample comes out of them.")
    return np.concatenate(parts, 1), rate, told


def rate_of(blob: bytes, container: str) -> int:
    """Samples a second of a file; nothing is decoded. Errors as of `decode`."""
    av = load_av()
    try:
        with av.open(io.BytesIO(blob), "r", format=container) as file:
            return file.streams.audio[0].codec_context.sample_rate
    except (av.FFmpegError, OSError, ValueError, EOFError, IndexError) as error:
        raise BitstreamError(f"These bytes are not a whole {container} file: {reason(error)}.") from error


def _samples(frame: Any) -> np.ndarray:
    samples = frame.to_ndarray()
    return samples if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels).T


def reason(error: Exception) -> str:
    """What FFmpeg, or Python, says of an error, without a full stop."""
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")
