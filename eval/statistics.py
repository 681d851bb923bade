"""Uncertainty of a comparison on one test split."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A difference of means with its 95 % interval."""

    difference: float
    low: float
    high: float


def paired_bootstrap(ours: np.ndarray, theirs: np.ndarray, *, samples: int = 4000, seed: int = 0) -> Interval:
    """The difference of two models on the same items, with a percentile bootstrap interval over the items.

    Pairing removes what both find hard; resampling items measures the sampling of the test split, which seeds do not.

    Args:
        ours, theirs: (seeds, N) outcome of each item; averaged over seeds first.
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"Paired items must be the same ones: {ours.shape[1]} and {theirs.shape[1]} items.")
    difference = ours.mean(0) - theirs.mean(0)
    rng = np.random.default_rng(seed)
    means = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))
