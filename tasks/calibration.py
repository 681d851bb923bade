"""Whether a classifier is as often right as it says."""

import numpy as np


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error (Guo et al., 2017, equation 3): mean |accuracy - confidence| over equal bins.

    Args:
        confidence: (N,) the probability of the predicted class, in [0, 1].
        correct: (N,) whether it was right.
        bins: of equal width; each counts by the items in it.
    """
    number = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(number, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))
