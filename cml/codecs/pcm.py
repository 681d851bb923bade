"""Sound as 16-bit integers, and their bytes without loss: FLAC, or raw where that is shorter."""

import hashlib

import numpy as np
import torch
from torch import Tensor

from cml.codecs import av_files
from cml.errors import BitstreamError

RAW, FLAC = 0, 1
"""The kinds of payload, kept as the back-end of a container."""
FLAC_CHANNELS = 8
_FULL = 1 << 15
_FORMAT = av_files.AvFormat("flac", "flac", "s16", {}, {"metadata_header_padding": "0"})
_MD5, _HEADER = slice(26, 42), 42  # of the samples, in the block that begins every FLAC file


def to_int16(x: Tensor) -> np.ndarray:
    """(C, T) float to the nearest of 65,536 levels, as files have them: 1 is 2^15, and the largest is one less."""
    return (x * _FULL).round().clamp(-_FULL, _FULL - 1).to(torch.int16).numpy()


def from_int16(samples: np.ndarray) -> Tensor:
    """The way back, float32 in [-1, 1)."""
    return torch.from_numpy(samples.astype(np.float32)) / _FULL


def flac_encode(samples: np.ndarray, rate: int) -> bytes:
    """int16 (C, T) to a FLAC file; up to 8 channels."""
    return av_files.encode(samples, rate, _FORMAT)


def flac_decode(blob: bytes) -> tuple[np.ndarray, int]:
    """A 16-bit FLAC file to int16 (C, T) and its samples a second; its checksum of all samples must hold."""
    samples, rate, _ = av_files.decode(blob, "flac")
    if samples.dtype != np.int16:
        raise BitstreamError("This FLAC file has other than 16 bits a sample: read it as a file, not as bytes of flac.")
    told, found = blob[_MD5], hashlib.md5(samples.T.astype("<i2").tobytes(), usedforsecurity=False).digest()
    if told not in (found, bytes(16)):
        raise BitstreamError("The FLAC file is damaged or cut off: its samples do not match their checksum.")
    return samples, rate


def pack_pcm(samples: np.ndarray) -> tuple[int, bytes]:
    """int16 (C, T) to the kind of payload and the payload, the shorter one."""
    raw = samples.astype("<i2").tobytes()
    if len(samples) <= FLAC_CHANNELS and len(raw) > _HEADER:
        flac = flac_encode(samples, 44100)  # FLAC wants a rate, and nobody reads it here
        if len(flac) < len(raw):
            return FLAC, flac
    return RAW, raw


def unpack_pcm(payload: bytes, kind: int, channels: int) -> np.ndarray:
    """The way back."""
    if kind == FLAC:
        return flac_decode(payload)[0]
    if kind != RAW or len(payload) % (2 * channels):
        raise BitstreamError("The payload holds no whole 16-bit samples of so many channels.")
    return np.frombuffer(payload, "<i2").reshape(channels, -1).astype(np.int16)


def check_payload(samples: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise BitstreamError unless samples are of the shape that a header promises."""
    if samples.shape != shape:
        raise BitstreamError(f"The payload holds {samples.shape} samples, and the header promises {shape}.")


def pcm_settings() -> dict[str, str]:
    """What writes FLAC, for a result's settings."""
    return {"container": "16-bit FLAC, or raw where that is shorter", "av": av_files.load_av().__version__}
