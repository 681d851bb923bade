"""How well sound is told from other sound: SI-SDR, and SDR as museval defines it."""

import math

import torch
from torch import Tensor

WORST, BEST = -30.0, 100.0
"""dB that SI-SDR stays between: an answer of silence, or one that has nothing of the truth, counts as the worst."""
_SILENT = 1e-4  # root mean square, 80 dB below full scale


def is_silent(x: Tensor) -> bool:
    """Whether a sound (C, T) has nothing to be found: its root mean square is 80 dB below full scale, or less."""
    return float(x.double().square().mean()) <= _SILENT**2


def si_sdr(truth: Tensor, answer: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2019), from `WORST` to `BEST`.

        target = <answer, truth> / <truth, truth> * truth,   10 log10(|target|^2 / |answer - target|^2)

    Args:
        truth, answer: (C, T); the channels have one scale together. No mean is removed.

    Returns:
        NaN where the truth is all zeros: there is nothing to be found.
    """
    if truth.shape != answer.shape:
        raise ValueError(f"SI-SDR compares two of one shape, not {tuple(truth.shape)} and {tuple(answer.shape)}.")
    s, y = truth.double(), answer.double()
    energy = float(s.square().sum())
    if energy == 0:
        return math.nan
    target = s * (float((s * y).sum()) / energy)
    return _decibels(float(target.square().sum()), float((y - target).square().sum()))


def frame_sdr(truths: Tensor, answers: Tensor, rate: int) -> Tensor:
    """SDR of each stem as `museval` gives it: BSSEval v4, the median over frames of a second.

    In this version, of images, what the distortion filters tell apart (place, interference, artifacts) sums up to
    answer - truth, so the ratio needs no filter: 10 log10(|truth|^2 / |answer - truth|^2). A frame in which a stem or
    an answer is all zeros counts for none of the stems, a last part of a frame neither, but the whole where it is
    shorter than a second.

    Args:
        truths, answers: (S, C, T).
        rate: samples a second.

    Returns:
        (S,) dB; NaN where no frame counts.
    """
    window = min(rate, truths.shape[-1])
    s, y = (x.double().unfold(-1, window, window).movedim(1, -1).flatten(2) for x in (truths, answers))
    heard = (s.abs().amax(2) > 0).all(0) & (y.abs().amax(2) > 0).all(0)
    signal, error = s.square().sum(2)[:, heard], (y - s).square().sum(2)[:, heard]
    ratios = 10 * (signal / error.clamp(min=1e-300)).log10()
    return ratios.quantile(0.5, dim=1) if heard.any() else torch.full((len(truths),), math.nan, dtype=torch.double)


def _decibels(signal: float, noise: float) -> float:
    if signal <= 0:
        return WORST
    return min(BEST, max(WORST, 10 * math.log10(signal / noise))) if noise > 0 else BEST
