"""The level of a signal: its peak and its offsets, taken out before it is encoded and put back when it is decoded.

A step that suits loud sound leaves nothing of a quiet one. The published sound codecs divide by the peak and forget it;
here it travels in the container.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from cml.codecs.base import to_unit
from cml.errors import CodecError

LEVELS = ("absolute", "peak")
_PART = 1 << 20  # samples of a channel at a time, where memory is to stay flat
_SILENT = 1e-20  # a peak below this is none: a constant signal, whose offsets say it all


def measure(x: Tensor, peak: float | None = None) -> tuple[float, ...]:
    """(peak, *offsets) of a signal (C, *spatial), as float32 holds them: the mean of each channel, and what is left.

    Args:
        x: uint8, uint16 or float.
        peak: a known one, as of samples that are still to come; the offsets are then zero.
    """
    if peak is not None:
        return (float(np.float32(peak)), *[0.0] * len(x))
    sums = sum(part.double().sum(1) for part in _parts(x))
    offsets = (torch.as_tensor(sums) / x[0].numel()).float()
    largest = max(float((part - offsets[:, None]).abs().max()) for part in _parts(x))
    return (largest if largest > _SILENT else 0.0, *offsets.tolist())


def remove(x: Tensor, level: tuple[float, ...]) -> Tensor:
    """(x - offset) / peak, float32; zero where there is no peak."""
    if not level[0]:
        return torch.zeros(x.shape)
    # In place, since a long signal is large: the copy that is returned is the only one.
    unit = torch.empty(x.shape, device=x.device)
    for source, target in zip(_parts(x), unit.flatten(1).split(_PART, 1), strict=True):
        torch.sub(source, _offsets(source, level), out=target).div_(level[0])
    return unit


def restore(x: Tensor, level: tuple[float, ...]) -> Tensor:
    """x * peak + offset, in the memory of x."""
    return x.mul_(level[0]).add_(_offsets(x, level))


def _parts(x: Tensor) -> Iterator[Tensor]:
    """A signal as float32 (C, samples), some samples at a time."""
    return (to_unit(part) for part in x.flatten(1).split(_PART, 1))


def check_peak(peak: float | None, level: str) -> float | None:
    """The option `peak` of a codec, or a sentence on what is wrong with it."""
    if peak is not None and level != "peak":
        raise CodecError("This codec keeps signals at their level and has no option peak.")
    if peak is not None and not (isinstance(peak, (int, float)) and _SILENT < peak < 1 / _SILENT):
        raise CodecError(f"peak, the largest sample that is to come, must be a positive number, not {peak!r}.")
    return None if peak is None else float(peak)


def _offsets(x: Tensor, level: tuple[float, ...]) -> Tensor:
    return torch.tensor(level[1:], dtype=torch.float32, device=x.device).view(-1, *[1] * (x.dim() - 1))
