"""A signal's own range of values as the integers that codecs of pictures and video code.

Scans do not fill their type: a CT has 12 of the 16 bits of its file, a map in floats has any range. Codecs of pictures
take a range that their format fixes, and so the signal's is brought to it, and what was done is written down.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cml.errors import BitstreamError, CodecError


@dataclass(frozen=True)
class Levels:
    """Integers that stand for the samples of a signal: sample = low + unit * integer.

    Attributes:
        samples: uint8 or uint16 (C, *spatial).
        level: (unit, *lows), one low a channel, float32; in the signal's own numbers, as a container keeps it.
    """

    samples: np.ndarray
    level: tuple[float, ...]


def to_levels(x: Tensor, bits: int | None = None) -> Levels:
    """A signal to integers from zero on.

    Args:
        x: uint8, uint16 or float32 (C, *spatial), as `admit_signal` gives it.
        bits: stretch the range, that of the widest channel, over so many bits, rounding to the nearest. None to shift
            it alone, which loses nothing of integers, to the 8 or 16 bits that it then needs; floats have no such
            integers, and are stretched over 16 bits.
    """
    flat = x.flatten(1).numpy()
    lows, highs = flat.min(1).astype(np.float64), flat.max(1).astype(np.float64)
    span = float((highs - lows).max())
    if span > float(np.finfo(np.float32).max):
        raise CodecError("The values of this signal lie further apart than float32 counts; scale it.")
    per_channel = (-1, *[1] * (x.dim() - 1))
    if bits is None and not x.is_floating_point():
        shifted = x.numpy() - lows.astype(x.numpy().dtype).reshape(per_channel)
        return Levels(shifted.astype(np.uint8 if span < 256 else np.uint16), (1.0, *lows.tolist()))
    bits = bits or 16
    top = 2**bits - 1
    unit = float(np.float32(span / top))
    samples = np.empty(x.shape, np.uint8 if bits <= 8 else np.uint16)
    for channel, low, out in zip(x.numpy(), lows, samples, strict=True):
        # float64, in which the integers of 16 bits and floats of any range have room.
        out[...] = np.rint((channel - low) / unit).clip(0, top) if unit else 0
    return Levels(samples, (unit, *lows.tolist()))


def from_levels(samples: np.ndarray, level: tuple[float, ...], bit_depth: int) -> Tensor:
    """The way back: integers (C, *spatial) to float32, in [-1, 1] where the signal came as integers.

    Raises:
        BitstreamError: the level is not one of so many channels.
    """
    if len(level) != len(samples) + 1:
        raise BitstreamError("The container does not say which range its integers stand for.")
    lows = np.array(level[1:], np.float64).reshape(-1, *[1] * (samples.ndim - 1))
    values = samples.astype(np.float64)
    values *= level[0]
    values += lows
    if bit_depth == 32:
        return torch.from_numpy(values.astype(np.float32))
    half = 2 ** (bit_depth - 1) - 0.5
    return torch.from_numpy((values / half - 1).clip(-1, 1).astype(np.float32))
