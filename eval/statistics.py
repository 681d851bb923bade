"""Uncertainty of a comparison on one test split.

Every interval is a percentile bootstrap over the test items, the same resampled items on both sides (paired): it holds
what the sampling of the test split does, not what seeds do; outcomes are averaged over seeds first. Intervals are
per comparison: of twenty that compare equals, one excludes zero by chance.

Outcomes are numbers, of which the score is the mean, or confusion matrices, of which it is the mean intersection over
union of their sum.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from cml.eval.curves import mean_gap, undominated
from cml.tasks.confusion import mean_iou
from scipy.interpolate import PchipInterpolator

CURVE_SAMPLES = 1000
"""Resamples of curves, for each of which a curve is interpolated."""
_BLOCK = 2**22  # item draws at a time, to bound the memory
_MOST_DEGENERATE = 0.05


@dataclass(frozen=True)
class Interval:
    """A difference with its 95 % interval; NaN ends where there is none.

    Attributes:
        difference: on the whole test split.
        low, high: the middle 95 % of the resamples.
        degenerate: share of the resamples on which the difference does not exist; above 5 %, there is no interval.
    """

    difference: float
    low: float
    high: float
    degenerate: float = 0.0

    @property
    def excludes_zero(self) -> bool:
        """Whether the difference is more than the sampling of the test split explains."""
        return self.low > 0 or self.high < 0

    @classmethod
    def of(cls, difference: float, resampled: np.ndarray) -> "Interval":
        """From the difference on each resample, NaN where it does not exist."""
        finite = resampled[np.isfinite(resampled)]
        degenerate = 1 - len(finite) / len(resampled)
        low, high = np.quantile(finite, [0.025, 0.975]) if degenerate <= _MOST_DEGENERATE else (np.nan, np.nan)
        return cls(float(difference), float(low), float(high), degenerate)


def resample_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over resampled items.

    Args:
        values: (M, N), M outcomes of N items.
        samples: resamples, each of N items drawn with replacement.
        seed: of the drawing; equal seeds and N draw equal items, whatever M is.

    Returns:
        (samples, M).
    """
    count = values.shape[1]
    rng = np.random.default_rng(seed)
    means, rows = [], max(1, _BLOCK // count)
    for start in range(0, samples, rows):
        size = min(rows, samples - start)
        drawn = rng.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count)
        means.append(times.astype(float) @ values.T / count)
    return np.concatenate(means)


def outcome_of(items: Mapping[str, np.ndarray]) -> np.ndarray:
    """What says how well each test item went: (N,), or confusion matrices (N, K, K); see `cml.tasks.base.Score`."""
    return next(items[name] for name in ("confusion", "outcome", "correct") if name in items)


def resampled_scores(outcomes: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """(1 + samples,) score on the whole test split and on each resample, averaged over seeds.

    Args:
        outcomes: (seeds, N) or (seeds, N, K, K) outcome of each item.
        samples, seed: as for `resample_means`.
    """
    seeds, _, *shape = outcomes.shape
    # One row a seed for numbers; one a seed and place of the matrix else.
    values = outcomes.astype(float).reshape(*outcomes.shape[:2], -1).swapaxes(1, 2).reshape(-1, outcomes.shape[1])
    means = np.concatenate([values.mean(1)[None], resample_means(values, samples, seed)])
    means = means.reshape(-1, seeds, *shape)
    return _score(means.swapaxes(0, 1))


def _score(means: np.ndarray) -> np.ndarray:
    """Mean outcomes (seeds, ...), or (seeds, ..., K, K), to scores (...)."""
    return (mean_iou(means) if means.ndim > 2 else means).mean(0)


def score_interval(outcomes: np.ndarray, *, samples: int = 4000, seed: int = 0) -> Interval:
    """The score itself, with its bootstrap interval; arguments as for `paired_bootstrap`."""
    scores = resampled_scores(outcomes, samples, seed)
    return Interval.of(scores[0], scores[1:])


def paired_bootstrap(ours: np.ndarray, theirs: np.ndarray, *, samples: int = 4000, seed: int = 0) -> Interval:
    """The difference of two models on the same items, with a percentile bootstrap interval over the items.

    Pairing removes what both find hard; resampling items measures the sampling of the test split, which seeds do not.

    Args:
        ours, theirs: (seeds, N) or (seeds, N, K, K) outcome of each item; averaged over seeds.
        samples: bootstrap resamples.
        seed: of the resampling.
    """
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"Paired items must be the same ones: {ours.shape[1]} and {theirs.shape[1]} items.")
    if ours.ndim > 2:
        gaps = resampled_scores(ours, samples, seed) - resampled_scores(theirs, samples, seed)
        return Interval.of(gaps[0], gaps[1:])
    difference = ours.mean(0) - theirs.mean(0)
    return Interval.of(difference.mean(), resample_means(difference[None], samples, seed)[:, 0])


@dataclass(frozen=True, eq=False)
class ScoredCurve:
    """The operating points of one codec that nobody would refuse, with the score of each on every resample.

    Which points those are is decided once, on the whole test split, as `Curve.of` does: fewer bits and a higher score
    than every point left out. That choice favours lucky points a little, alike in all
    curves. It is not made again for each resample, where it would be made by the noise, and the curves of the resamples
    need not rise: PCHIP over log rate goes through whatever scores they have. Rates stay as measured.

    Attributes:
        rates: (P,) bits a pixel, rising.
        scores: (P,) on the whole test split, rising.
        resampled: (samples, P).
        items: how many the test split has.
    """

    rates: np.ndarray
    scores: np.ndarray
    resampled: np.ndarray
    items: int

    @classmethod
    def of(
        cls,
        rates: Sequence[float],
        outcomes: Sequence[np.ndarray],
        *,
        samples: int = CURVE_SAMPLES,
        seed: int = 0,
    ) -> "ScoredCurve":
        """From every operating point that was measured.

        Args:
            rates: bits a pixel of each point.
            outcomes: (seeds, N) or (seeds, N, K, K) of each point.
            samples: bootstrap resamples.
            seed: of the resampling, the same for all curves that are compared.
        """
        kept = undominated(rates, [float(_score(outcome.mean(1))) for outcome in outcomes])
        scores = np.stack([resampled_scores(outcomes[i], samples, seed) for i in kept])
        return cls(
            rates=np.array([rates[i] for i in kept], float),
            scores=scores[:, 0],
            resampled=scores[:, 1:].T,
            items=outcomes[0].shape[1],
        )

    def score_at(self, rate: float) -> np.ndarray:
        """(1 + samples,) score at a rate, on the whole split and on each resample; NaN outside the measured rates."""
        scores = np.vstack([self.scores, self.resampled])
        if len(self.rates) < 2:
            return scores[:, 0] if len(self.rates) and rate == self.rates[0] else np.full(len(scores), np.nan)
        return PchipInterpolator(np.log(self.rates), scores, axis=1, extrapolate=False)(np.log(rate))

    @cached_property
    def log_rate_over_score(self) -> list["_Rising | None"]:
        """Of each resample, the curve the other way round."""
        return [_Rising.of(self.rates, scores) for scores in self.resampled]


@dataclass(frozen=True)
class _Rising:
    """Log rate over score, integrated."""

    low: float
    high: float
    integral: Callable[[float], np.ndarray]

    @classmethod
    def of(cls, rates: np.ndarray, scores: np.ndarray) -> "_Rising | None":
        """Only a curve that rises can be turned round, so here the points are chosen for each resample."""
        kept = undominated(list(rates), list(scores))
        if len(kept) < 2:
            return None
        x = scores[kept]
        return cls(float(x[0]), float(x[-1]), PchipInterpolator(x, np.log(rates[kept])).antiderivative())


def score_difference(anchor: ScoredCurve, curve: ScoredCurve, rate: float) -> Interval:
    """Difference in score at a rate, interpolated; all NaN where one of the curves was not measured."""
    _same_items(anchor, curve)
    difference = curve.score_at(rate) - anchor.score_at(rate)
    return Interval.of(difference[0], difference[1:])


def bd_accuracy(anchor: ScoredCurve, curve: ScoredCurve) -> Interval:
    """Mean difference in score at equal rate: `bd_quality` of the scores, with its interval.

    Raises:
        CmlError: a curve has fewer than 4 points that no other point beats, or the rates do not overlap.
    """
    _same_items(anchor, curve)
    ours, theirs = ((np.log(c.rates), np.vstack([c.scores, c.resampled]).T) for c in (curve, anchor))
    gaps = mean_gap(theirs, ours, "ranges of rate")
    return Interval.of(gaps[0], gaps[1:])


def bd_rate_of_score(anchor: ScoredCurve, curve: ScoredCurve) -> Interval:
    """Mean difference in rate at equal score, in percent: `bd_rate` of the scores, with its interval.

    On a resample the curves may not overlap any more; the interval is over those on which they do, and says how many
    do not.

    Raises:
        CmlError: a curve has fewer than 4 points that no other point beats, or the scores do not overlap.
    """
    _same_items(anchor, curve)
    ours, theirs = ((c.scores, np.log(c.rates)) for c in (curve, anchor))
    whole = mean_gap(theirs, ours, "ranges of score")
    pairs = zip(anchor.log_rate_over_score, curve.log_rate_over_score, strict=True)
    gaps = np.array([_rising_gap(a, c) for a, c in pairs])
    return Interval.of(100 * float(np.expm1(whole)), 100 * np.expm1(gaps))


def _rising_gap(anchor: _Rising | None, curve: _Rising | None) -> float:
    if anchor is None or curve is None:
        return np.nan
    low, high = max(anchor.low, curve.low), min(anchor.high, curve.high)
    if low >= high:
        return np.nan
    areas = [float(c.integral(high) - c.integral(low)) for c in (anchor, curve)]
    return (areas[1] - areas[0]) / (high - low)


def _same_items(anchor: ScoredCurve, curve: ScoredCurve) -> None:
    if anchor.items != curve.items or len(anchor.resampled) != len(curve.resampled):
        raise ValueError(f"Paired items must be the same ones: {anchor.items} and {curve.items} items.")
