"""Measures of signals and of comparisons. The range of the data is always an argument, never guessed.

SSIM and MS-SSIM are those of the library `piq`, because the tables of WaLLoC and LiVeAction were made with it (its
`SSIMLoss`) and because it runs on the torch of cml as it is. The choice shows in the numbers: piq, like the authors of
SSIM, averages pictures down by round(shorter side / 256) first, 2 for Kodak; a library that does not (torchmetrics,
pytorch-msssim) gives other values for the same pictures. A test gets the printed 0.8712 of JPEG 2000 at 40:1 to the
last digit.
"""

import importlib
import math
from typing import Any

import torch
from torch import Tensor

from cml.errors import CmlError, DataError

SSIM_SIDE, MS_SSIM_SIDE = 11, 161
"""The shortest side in samples that each takes: an 11x11 window, and the same after four halvings."""


def psnr(x: Tensor, x_hat: Tensor, *, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(data_range^2 / MSE); infinite for equal signals."""
    if x.shape != x_hat.shape:
        raise ValueError(f"PSNR compares signals of one shape, not {tuple(x.shape)} and {tuple(x_hat.shape)}.")
    mse = float(torch.mean((x.double() - x_hat.double()) ** 2))
    return 10 * math.log10(data_range**2 / mse) if mse else math.inf


def ssim(x: Tensor, x_hat: Tensor, *, data_range: float) -> float:
    """Structural similarity (Wang et al., 2004), mean over channels; 1 for equal pictures.

    Args:
        x, x_hat: (C, H, W) in [0, data_range], each side of 11 or more.
        data_range: the largest value there can be: 255, or 1.

    Raises:
        DataError: the pictures are too small.
        CmlError: piq is not installed.
    """
    return _similarity("ssim", SSIM_SIDE, x, x_hat, data_range)


def ms_ssim(x: Tensor, x_hat: Tensor, *, data_range: float) -> float:
    """Multi-scale structural similarity (Wang et al., 2003), five scales; arguments and errors as for `ssim`.

    Each side must be 161 or more.
    """
    return _similarity("multi_scale_ssim", MS_SSIM_SIDE, x, x_hat, data_range)


def load_piq() -> Any:
    """The library of picture quality measures, or one sentence on how to get it."""
    try:
        return importlib.import_module("piq")
    except ImportError as error:
        raise CmlError("SSIM and its relatives need the package piq: pip install 'cml-toolkit[bench]'.") from error


def _similarity(name: str, side: int, x: Tensor, x_hat: Tensor, data_range: float) -> float:
    if x.shape != x_hat.shape or x.dim() != 3:
        raise ValueError(f"{name} compares two (C, H, W), not {tuple(x.shape)} and {tuple(x_hat.shape)}.")
    if min(x.shape[1:]) < side:
        raise DataError(f"A picture of {x.shape[2]}x{x.shape[1]} is too small for {name}: {side} a side at least.")
    # In single precision, as the papers: 4e-7 off the double result on a picture of Kodak, 3e-4 on a perfectly flat
    # one, at a seventeenth of its time.
    return float(getattr(load_piq(), name)(x[None].float(), x_hat[None].float(), data_range=data_range))


def retention(score: float, ceiling: float, chance: float) -> float:
    """(score - chance) / (ceiling - chance): the share of what a machine could do that survives; NaN at no ceiling."""
    return (score - chance) / (ceiling - chance) if ceiling > chance else math.nan
