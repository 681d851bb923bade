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
_LIFTING = (-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971)
_GAIN = 1.149604398860241


def _next(x: Tensor, dim: int, boundary: str) -> Tensor:
    """The right neighbour of every sample; past the end the mirror image (symmetric) or the first (periodic)."""
    edge = x.narrow(dim, x.shape[dim] - 1 if boundary == "symmetric" else 0, 1)
    return torch.cat((x.narrow(dim, 1, x.shape[dim] - 1), edge), dim)


def _previous(x: Tensor, dim: int, boundary: str) -> Tensor:
    """The left neighbour of every sample; before the start the mirror image (symmetric) or the last (periodic)."""
    edge = x.narrow(dim, 0 if boundary == "symmetric" else x.shape[dim] - 1, 1)
    return torch.cat((edge, x.narrow(dim, 0, x.shape[dim] - 1)), dim)


def _split(x: Tensor, dim: int, boundary: str) -> tuple[Tensor, Tensor]:
    even, odd = x.unflatten(dim, (-1, 2)).unbind(dim)
    a, b, c, d = _LIFTING
    odd = odd + a * (even + _next(even, dim, boundary))
    even = even + b * (odd + _previous(odd, dim, boundary))
    odd = odd + c * (even + _next(even, dim, boundary))
    even = even + d * (odd + _previous(odd, dim, boundary))
    return even * _GAIN, odd * (-1 / _GAIN)


def _merge(low: Tensor, high: Tensor, dim: int, boundary: str) -> Tensor:
    even, odd = low / _GAIN, high * -_GAIN
    a, b, c, d = _LIFTING
    even = even - d * (odd + _previous(odd, dim, boundary))
    odd = odd - c * (even + _next(even, dim, boundary))
    even = even - b * (odd + _previous(odd, dim, boundary))
    odd = odd - a * (even + _next(even, dim, boundary))
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
            bands = _merge(*bands.unbind(2), axis, boundary)
        packets = bands
    return crop(packets, size)
