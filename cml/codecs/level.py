"""The level of a signal: its peak and its offsets, taken out before it is encoded and put back when it is decoded.

A step that suits loud sound leaves nothing of a quiet one. The published sound codecs divide by the peak and forget it;
here it travels in the container.
"""

import numpy as np
import torch
from torch import Tensor

from cml.codecs.base import to_unit
from cml.errors import CodecError

LEVELS = ("absolute", "peak")
_SILENT = 1e-20  # a peak below this is none: a constant signal, whose offsets say it all


def measure(x: Tensor, peak: float | None = None) -> tuple[float, ...]:
    """(peak, *offsets) of a signal (C, *spatial), as float32 holds them: the mean of each channel, and what is left.

    Args:
        x: uint8, uint16 or float.
        peak: a known one, as of samples that are still to come; the offsets are then zero.
    """
    if peak is not None:
        return (float(np.float32(peak)), *[0.0] * len(x))
    x = to_unit(x)
    offsets = x.flatten(1).double().mean(1).float()
    largest = max(float((channel - offset).abs().max()) for channel, offset in zip(x, offsets, strict=True))
    return (largest if largest > _SILENT else 0.0, *offsets.tolist())


def remove(x: Tensor, level: tuple[float, ...]) -> Tensor:
    """(x - offset) / peak, float32; zero where there is no peak."""
    return (to_unit(x) - _offsets(x, level)) / level[0] if level[0] else torch.zeros(x.shape)


def restore(x: Tensor, level: tuple[float, ...]) -> Tensor:
    """x * peak + offset."""
    return x * level[0] + _offsets(x, level)


def check_peak(peak: float | None, level: str) -> float | None:
    """The option `peak` of a codec, or a sentence on what is wrong with it."""
    if peak is not None and level != "peak":
        raise CodecError("This codec keeps signals at their level and has no option peak.")
    if peak is not None and not (isinstance(peak, (int, float)) and _SILENT < peak < 1 / _SILENT):
        raise CodecError(f"peak, the largest sample that is to come, must be a positive number, not {peak!r}.")
    return None if peak is None else float(peak)


def _offsets(x: Tensor, level: tuple[float, ...]) -> Tensor:
    return torch.tensor(level[1:], dtype=torch.float32, device=x.device).view(-1, *[1] * (x.dim() - 1))
