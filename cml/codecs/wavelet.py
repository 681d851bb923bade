"""The N-dimensional CDF 9/7 wavelet packet transform, by lifting.

    x (B, C, *S) --pad to a multiple of 2^J--> J times: split every axis, low | high, of *every* band
      --> packets (B, C * 2^(D*J), *ceil(S / 2^J))

Axes may have levels of their own, J = (2, 3, 3): the third time only those are split that have three.

Lifting (Daubechies and Sweldens, "Factoring wavelet transforms into lifting steps", 1998) undoes each of its steps
exactly, whatever the extension at the border, so reconstruction is perfect for every length; a filter bank that
folds its border only once is not (it breaks below ten samples).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from cml.codecs.geometry import crop, pad_to_multiple
from cml.errors import CodecError

BOUNDARIES = ("symmetric", "periodic")

# Predict and update steps of the CDF 9/7 pair, and the gain that makes the low-pass sum sqrt(2) ("bior4.4").
LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
GAIN = 1.149604398860241


def _lift(target: Tensor, source: Tensor, weight: float, dim: int, boundary: str, ahead: bool) -> None:
    """target[n] += weight * (source[n] + its neighbour), the next one if `ahead`, else the previous one.

    Past the end the neighbour is the mirror image (symmetric) or the sample at the other end (periodic).
    """
    n = target.shape[dim]
    here, there = (0, 1) if ahead else (1, 0)
    end = n - 1 if ahead else 0
    beyond = end if boundary == "symmetric" else n - 1 - end
    target.add_(source, alpha=weight)
    target.narrow(dim, here, n - 1).add_(source.narrow(dim, there, n - 1), alpha=weight)
    target.narrow(dim, end, 1).add_(source.narrow(dim, beyond, 1), alpha=weight)


def _split(x: Tensor, dim: int, boundary: str) -> tuple[Tensor, Tensor]:
    even, odd = (half.clone() for half in x.unflatten(dim, (-1, 2)).unbind(dim))
    for number, weight in enumerate(LIFTING):
        predict = number % 2 == 0
        _lift(odd if predict else even, even if predict else odd, weight, dim, boundary, ahead=predict)
    return even.mul_(GAIN), odd.mul_(-1 / GAIN)


def merge(low: Tensor, high: Tensor, dim: int, boundary: str) -> Tensor:
    even, odd = low / GAIN, high * -GAIN
    for number, weight in reversed(list(enumerate(LIFTING))):
        predict = number % 2 == 0
        _lift(odd if predict else even, even if predict else odd, -weight, dim, boundary, ahead=predict)
    return torch.stack((even, odd), dim).flatten(dim - 1, dim)


def rounds(levels: int | Sequence[int], ndim: int) -> list[tuple[int, ...]]:
    """Which of the `ndim` axes are split, time after time: all of them, then those that have more levels.

    Raises:
        CodecError: a negative number of levels, or not one for each axis.
    """
    each = (levels,) * ndim if isinstance(levels, int) else tuple(levels)
    if len(each) != ndim:
        raise CodecError(f"Wavelet levels are one number, or one for each of {ndim} axes, not {levels}.")
    if min(each) < 0:
        raise CodecError(f"The number of wavelet levels is 0 or more, not {levels}.")
    return [tuple(axis for axis in range(ndim) if each[axis] > number) for number in range(max(each))]


def _check(x: Tensor, ndim: int, boundary: str) -> None:
    if ndim not in (1, 2, 3):
        raise CodecError(f"The wavelet transform has 1, 2 or 3 spatial axes, not {ndim}.")
    if boundary not in BOUNDARIES:
        raise CodecError(f"Unknown boundary {boundary!r}: use one of {', '.join(BOUNDARIES)}.")
    if x.dim() != ndim + 2 or 0 in x.shape:
        raise CodecError(f"Expected a non-empty (batch, channels, {ndim} spatial axes) tensor, got {tuple(x.shape)}.")


def analysis(x: Tensor, levels: int | Sequence[int], boundary: str = "symmetric") -> Tensor:
    """Wavelet packets of a batch of signals.

    Args:
        x: (B, C, *S) with one to three spatial axes of any size >= 1.
        levels: J, how many times every band is split; one number, or one an axis.
        boundary: `symmetric` (whole-sample mirror) or `periodic` (circular).

    Returns:
        (B, C * 2^(D*J), *ceil(S / 2^J)), or 2^(sum of J) bands where axes differ. They are ordered as in the `walloc`
        package: channel-major, and within one level the low band of all axes first, the first spatial axis varying
        fastest.
    """
    ndim = x.dim() - 2
    _check(x, ndim, boundary)
    steps = rounds(levels, ndim)
    x = pad_to_multiple(x, ndim, [2 ** sum(axis in axes for axes in steps) for axis in range(ndim)])
    for axes in steps:
        bands = x
        for axis in axes:
            bands = torch.stack(_split(bands, axis - ndim, boundary), 2)
        x = bands.flatten(1, len(axes) + 1)
    return x


def synthesis(
    packets: Tensor, levels: int | Sequence[int], size: tuple[int, ...], boundary: str = "symmetric"
) -> Tensor:
    """The inverse of `analysis`: (B, C * 2^(D*J), *grid) to (B, C, *size)."""
    ndim = packets.dim() - 2
    _check(packets, ndim, boundary)
    steps = rounds(levels, ndim)
    number = 2 ** sum(map(len, steps))
    if packets.shape[1] % number:
        raise CodecError(
            f"{packets.shape[1]} packet channels are not a multiple of {number}, what {levels} levels in {ndim} "
            "dimensions give."
        )
    for axes in reversed(steps):
        bands = packets.unflatten(1, (-1, *[2] * len(axes)))
        for axis in reversed(axes):
            bands = merge(*bands.unbind(2), axis - ndim, boundary)
        packets = bands
    return crop(packets, size)
