"""Measures of signals of three axes that were coded: volumes, cubes of bands, and video.

All take a signal and its reconstruction as their file holds them (`cml.data.samples.restore`): two arrays (C, *three
axes) of one dtype, integers or floats in their own unit. They go slice by slice, so that a large scan needs no copies
in double precision.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from cml.eval.metrics import SSIM_SIDE
from torch import Tensor
from torch.nn import functional

from cml.errors import DataError

_C1, _C2 = 0.01**2, 0.03**2
_AT_ONCE = 1 << 21  # samples of slices that are looked at together


def psnr(x: np.ndarray, x_hat: np.ndarray, data_range: float) -> float:
    """10 log10(data_range^2 / mean squared error) dB over all samples; infinite for equal signals.

    NaN where the range is zero, that of a constant signal, and the signals differ.
    """
    _check(x, x_hat)
    total = sum(float(np.square(first - second).sum()) for first, second in _slices(x, x_hat))
    if not total:
        return math.inf
    return 10 * math.log10(data_range**2 * x.size / total) if data_range else math.nan


def ssim(x: np.ndarray, x_hat: np.ndarray, low: float, data_range: float) -> float:
    """Structural similarity, the mean over channels and over the slices of the first of the three axes.

    That of pictures in `cml.eval.metrics`, piq's, to a few 1e-6, of (value - low) / data_range, the reconstruction
    clipped to [0, 1]; slices without structure count, too. NaN where the range is zero.

    Raises:
        DataError: slices are smaller than 11 a side.
    """
    _check(x, x_hat)
    if min(x.shape[2:]) < SSIM_SIDE:
        raise DataError(f"Slices of {x.shape[3]}x{x.shape[2]} are too small for SSIM: {SSIM_SIDE} a side at least.")
    if not data_range:
        return math.nan
    total = 0.0
    for first, second in _slices(x, x_hat):
        one, two = (torch.from_numpy(((part - low) / data_range).clip(0, 1)).float() for part in (first, second))
        total += float(_ssim_maps(one, two).double().mean((1, 2)).sum())
    return total / (x.shape[0] * x.shape[1])


def _ssim_maps(x: Tensor, y: Tensor) -> Tensor:
    """(slices, H, W) in [0, 1] to the similarity at each place of the window.

    piq lets the window of 11x11 glide over each slice as a convolution of 121 products; the Gaussian falls into one
    of rows and one of columns, matrix products, which take a tenth of the time.
    """
    factor = max(1, round(min(x.shape[1:]) / 256))
    x, y = (functional.avg_pool2d(part, factor) if factor > 1 else part for part in (x, y))
    rows, columns = (_glide(size) for size in x.shape[1:])

    def local(values: Tensor) -> Tensor:
        return rows @ values @ columns.T

    mean_x, mean_y = local(x), local(y)
    both, square_x, square_y = mean_x * mean_y, mean_x.square(), mean_y.square()
    contrast = (2 * (local(x * y) - both) + _C2) / (local(x * x) - square_x + local(y * y) - square_y + _C2)
    return (2 * both + _C1) / (square_x + square_y + _C1) * contrast


def _glide(size: int) -> Tensor:
    """(size - 10, size): a Gaussian of deviation 1.5 at each of the places where its 11 samples lie inside."""
    offsets = torch.arange(SSIM_SIDE, dtype=torch.double) - SSIM_SIDE // 2
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window /= window.sum()
    matrix = torch.zeros(size - SSIM_SIDE + 1, size, dtype=torch.double)
    for place in range(len(matrix)):
        matrix[place, place : place + SSIM_SIDE] = window
    return matrix.float()


def spectral_angle(x: np.ndarray, x_hat: np.ndarray) -> float:
    """The angle between the spectra of a pixel before and after, degrees, the mean over pixels; 0 for equal cubes.

    Pixels whose spectrum is zero are left out; one that is lost altogether is 90 degrees off. NaN where all are zero.

    Args:
        x, x_hat: (1, bands, y, x).
    """
    _check(x, x_hat)
    shape = x.shape[2:]
    products, before, after = (np.zeros(shape) for _ in range(3))
    for first, second in _slices(x, x_hat):
        products += (first * second).sum(0)
        before += np.square(first).sum(0)
        after += np.square(second).sum(0)
    seen = before > 0
    if not seen.any():
        return math.nan
    lengths = np.sqrt(before * after)[seen]
    cosine = np.divide(products[seen], lengths, out=np.zeros_like(lengths), where=lengths > 0)
    return float(np.degrees(np.arccos(cosine.clip(-1, 1))).mean())


def shown(x: np.ndarray, place: int, low: float, data_range: float) -> Tensor:
    """A slice of the first of the three axes as a picture, uint8 (C, H, W), `low` black and low + data_range white."""
    picture = (x[:, place].astype(np.float64) - low) / (data_range or 1)
    return torch.from_numpy((picture * 255).round().clip(0, 255).astype(np.uint8))


def _slices(x: np.ndarray, x_hat: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Both signals as float64 (slices, H, W), some slices at a time, those of the first channel first."""
    some = max(1, _AT_ONCE // max(1, x[0, 0].size))
    for channel, channel_hat in zip(x, x_hat, strict=True):
        for start in range(0, len(channel), some):
            part = slice(start, start + some)
            yield channel[part].astype(np.float64), channel_hat[part].astype(np.float64)


def _check(x: np.ndarray, x_hat: np.ndarray) -> None:
    if x.shape != x_hat.shape or x.dtype != x_hat.dtype or x.ndim != 4:
        raise ValueError(
            f"Two signals (C, *three axes) of one kind are compared, not {x.dtype} {x.shape} and {x_hat.dtype} "
            f"{x_hat.shape}."
        )
