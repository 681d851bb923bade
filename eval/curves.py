"""Rate-distortion curves, and the Bjontegaard differences between two of them.

Bjontegaard, "Calculation of average PSNR differences between RD-curves" (VCEG-M33, 2001): the mean horizontal gap
between two curves of quality over log rate, or the mean vertical one. As is practice now, the curves are piecewise
cubics that keep the data's monotony (PCHIP), not one cubic through all points.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from cml.errors import CmlError

MIN_POINTS = 4
"""Of a curve, for Bjontegaard differences: with fewer, a difference says more about the points than the codecs."""


def undominated(rates: Sequence[float], quality: Sequence[float]) -> list[int]:
    """Which points no other one beats or equals in rate and in quality, from the lowest rate up; finite ones only."""
    if len(rates) != len(quality):
        raise ValueError(f"A curve has as many rates as qualities, not {len(rates)} and {len(quality)}.")
    points = sorted(
        (i for i, (r, q) in enumerate(zip(rates, quality, strict=True)) if np.isfinite(r) and np.isfinite(q) and r > 0),
        key=lambda i: (rates[i], -quality[i]),
    )
    kept: list[int] = []
    for i in points:
        if not kept or quality[i] > quality[kept[-1]]:
            kept.append(i)
    return kept


@dataclass(frozen=True)
class Curve:
    """Operating points of one codec, from the lowest rate up; quality rises with every point.

    Attributes:
        rates: bits a pixel, > 0.
        quality: any measure of which more is better.
    """

    rates: tuple[float, ...]
    quality: tuple[float, ...]

    @classmethod
    def of(cls, rates: Sequence[float], quality: Sequence[float]) -> "Curve":
        """The points that nobody would refuse.

        A codec need not be monotone. A point that another one beats or equals in rate and in quality is left out,
        since whoever has the codec would use the other; so are points without a finite number (lossless: infinite
        PSNR).
        """
        kept = undominated(rates, quality)
        return cls(tuple(float(rates[i]) for i in kept), tuple(float(quality[i]) for i in kept))

    def quality_at(self, rate: float) -> float:
        """Interpolated quality at a rate; NaN outside the measured rates, never extrapolated."""
        return _inside(np.log(self.rates), self.quality, np.log(rate))

    def rate_at(self, quality: float) -> float:
        """Interpolated rate at a quality; NaN outside the measured qualities, never extrapolated."""
        return float(np.exp(_inside(self.quality, np.log(self.rates), quality)))


def _inside(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray, at: float) -> float:
    if len(x) < 2:
        return float(y[0]) if len(x) and at == x[0] else float("nan")
    return float(PchipInterpolator(x, y, extrapolate=False)(at))


def bd_rate(
    anchor_rates: Sequence[float],
    anchor_quality: Sequence[float],
    rates: Sequence[float],
    quality: Sequence[float],
) -> float:
    """Mean difference in rate at equal quality, in percent of the anchor's rate: -50 is half the bits.

    The mean is of log rate, over the range of quality that both curves reach.

    Args:
        anchor_rates, anchor_quality: the points of the codec compared with, in any order; rates > 0.
        rates, quality: the points of the codec in question.

    Raises:
        CmlError: a curve has fewer than 4 points that no other point beats, or the qualities do not overlap.
    """
    anchor, curve = Curve.of(anchor_rates, anchor_quality), Curve.of(rates, quality)
    gap = mean_gap((anchor.quality, np.log(anchor.rates)), (curve.quality, np.log(curve.rates)), "ranges of quality")
    return float(100 * np.expm1(gap))


def bd_quality(
    anchor_rates: Sequence[float],
    anchor_quality: Sequence[float],
    rates: Sequence[float],
    quality: Sequence[float],
) -> float:
    """Mean difference in quality at equal rate, in the unit of quality: with PSNR the BD-PSNR in dB.

    The mean is over log rate, over the range that both curves reach; arguments and errors as for `bd_rate`.
    """
    anchor, curve = Curve.of(anchor_rates, anchor_quality), Curve.of(rates, quality)
    return float(
        mean_gap((np.log(anchor.rates), anchor.quality), (np.log(curve.rates), curve.quality), "ranges of rate")
    )


Line = tuple[Sequence[float] | np.ndarray, Sequence[float] | np.ndarray]


def mean_gap(anchor: Line, curve: Line, what: str) -> np.ndarray:
    """Mean of curve - anchor over the interval of the first coordinate that both cover.

    Args:
        anchor, curve: x (P,), rising, and y (P, ...), which may hold several curves over the same x.
        what: the first coordinate, for the sentence of an error.

    Returns:
        (...), a mean for each of the curves.

    Raises:
        CmlError: a curve has fewer than 4 points, or they do not overlap.
    """
    for x, _ in (anchor, curve):
        if len(x) < MIN_POINTS:
            raise CmlError(
                f"A Bjontegaard difference needs {MIN_POINTS} operating points a codec that no other point beats, "
                f"not {len(x)}; measure more."
            )
    low, high = max(anchor[0][0], curve[0][0]), min(anchor[0][-1], curve[0][-1])
    if low >= high:
        raise CmlError(f"The two curves have no Bjontegaard difference: their {what} do not overlap; measure more.")
    areas = [PchipInterpolator(x, y).integrate(low, high) for x, y in (anchor, curve)]
    return (areas[1] - areas[0]) / (high - low)
