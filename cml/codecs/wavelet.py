"""The N-dimensional CDF 9/7 wavelet packet transform, by lifting.

    x (B, C, *S) --pad to a multiple of 2^J--> J times: split every axis, low | high, of *every* band
      --> packets (B, C * 2^(D*J), *ceil(S / 2^J))

Lifting (Daubechies and Sweldens, "Factoring wavelet transforms into lifting steps", 1998) undoes each of its steps
exactly, whatever the extension at the border, so reconstruction is perfect for every length; a filter bank that
folds its border only once is not (it breaks below ten samples).
"""

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


def _check(x: Tensor, ndim: int, levels: int, boundary: str) -> None:
    if ndim not in (1, 2, 3):
        raise CodecError(f"The wavelet transform has 1, 2 or 3 spatial axes, not {ndim}.")
    if levels < 0:
        raise CodecError(f"The number of wavelet levels is 0 or more, not {levels}.")
    if boundary not in BOUNDARIES:
        raise CodecError(f"Unknown boundary {boundary!r}: use one of {', '.join(BOUNDARIES)}.")
    if x.dim() != ndim + 2 or 0 in x.shape:
        raise CodecError(f"Expected a non-empty (batch, channels, {ndim} spatial axes) tensor, got {tuple(x.shape)}.")


def analysis(x: Tensor, levels: int, boundary: str = "symmetric") -> Tensor:
    """Wavelet packets of a batch of signals.

    Args:
        x: (B, C, *S) with one to three spatial axes of any size >= 1.
        levels: J, how many times every band is split.
        boundary: `symmetric` (whole-sample mirror) or `periodic` (circular).

    Returns:
        (B, C * 2^(D*J), *ceil(S / 2^J)); bands are ordered as in the `walloc` package: channel-major, and within one
        level the low band of all axes first, the first spatial axis varying fastest.
    """
    ndim = x.dim() - 2
    _check(x, ndim, levels, boundary)
    x = pad_to_multiple(x, ndim, 2**levels)
    for _ in range(levels):
        bands = x
        for axis in range(-ndim, 0):
            bands = torch.stack(_split(bands, axis, boundary), 2)
        x = bands.flatten(1, ndim + 1)
    return x


def synthesis(packets: Tensor, levels: int, size: tuple[int, ...], boundary: str = "symmetric") -> Tensor:
    """The inverse of `analysis`: (B, C * 2^(D*J), *grid) to (B, C, *size)."""
    ndim = packets.dim() - 2
    _check(packets, ndim, levels, boundary)
    if packets.shape[1] % 2 ** (ndim * levels):
        raise CodecError(
            f"{packets.shape[1]} packet channels are not a multiple of {2 ** (ndim * levels)}, "
            f"what {levels} levels in {ndim} dimensions give."
        )
    for _ in range(levels):
        bands = packets.unflatten(1, (-1, *[2] * ndim))
        for axis in range(-1, -ndim - 1, -1):
            bands = merge(*bands.unbind(2), axis, boundary)
        packets = bands
    return crop(packets, size)
