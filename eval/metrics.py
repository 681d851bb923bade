"""Measures of signals and of comparisons. The range of the data is always an argument, never guessed."""

import math

import torch
from torch import Tensor


def psnr(x: Tensor, x_hat: Tensor, *, data_range: float) -> float:
    """Peak signal-to-noise ratio in dB, 10 log10(data_range^2 / MSE); infinite for equal signals."""
    if x.shape != x_hat.shape:
        raise ValueError(f"PSNR compares signals of one shape, not {tuple(x.shape)} and {tuple(x_hat.shape)}.")
    mse = float(torch.mean((x.double() - x_hat.double()) ** 2))
    return 10 * math.log10(data_range**2 / mse) if mse else math.inf


def retention(score: float, ceiling: float, chance: float) -> float:
    """(score - chance) / (ceiling - chance): the share of what a machine could do that survives; NaN at no ceiling."""
    return (score - chance) / (ceiling - chance) if ceiling > chance else math.nan
