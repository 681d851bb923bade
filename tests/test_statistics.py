"""Intervals and Bjontegaard differences of scores, against cases that are known by hand."""

import math

import numpy as np
import pytest
from cml.eval.curves import bd_quality, bd_rate
from cml.eval.statistics import (
    Interval,
    ScoredCurve,
    bd_accuracy,
    bd_rate_of_score,
    paired_bootstrap,
    resample_means,
    score_difference,
)

from cml.errors import CmlError

RATES = [0.1, 0.2, 0.4, 0.8, 1.6]
ITEMS = 400


def right(count, items=ITEMS):
    """(1, items): the first `count` are right."""
    return (np.arange(items) < count)[None]


def line(start, slope, rates=RATES, items=ITEMS):
    """A curve that is straight in log rate: `slope` items more right a doubling."""
    counts = [start + round(slope * math.log2(rate / 0.1)) for rate in rates]
    return ScoredCurve.of(rates, [right(count, items) for count in counts])


def test_resampled_means_have_the_mean_and_spread_of_a_binomial():
    means = resample_means(np.stack([right(100)[0], right(200)[0]]), 20_000, seed=1)
    assert means.mean(0) == pytest.approx([0.25, 0.5], abs=0.001)
    assert means.std(0) == pytest.approx([math.sqrt(p * (1 - p) / ITEMS) for p in (0.25, 0.5)], rel=0.02)


def test_all_rows_see_the_same_items_in_blocks_of_any_size(monkeypatch):
    values = np.random.default_rng(0).random((3, 50))
    whole = resample_means(values, 100, seed=3)
    # A number drawn is the same whatever the block, so are the items; and the same for one row as for three.
    monkeypatch.setattr("cml.eval.statistics._BLOCK", 150)
    assert resample_means(values, 100, seed=3) == pytest.approx(whole)
    assert resample_means(values[1:2], 100, seed=3)[:, 0] == pytest.approx(whole[:, 1])


def test_a_mark_only_where_zero_is_outside():
    assert Interval(0.1, 0.01, 0.2).excludes_zero and Interval(-0.1, -0.2, -0.01).excludes_zero
    assert not Interval(0.1, -0.01, 0.2).excludes_zero and not Interval(0.0, 0.0, 0.0).excludes_zero
    assert not Interval(0.1, math.nan, math.nan).excludes_zero


def test_seeds_are_averaged_first():
    gain = paired_bootstrap(np.stack([right(300)[0], right(100)[0]]), right(200))
    assert gain.difference == 0 and gain.low < 0 < gain.high


def test_a_constant_gain():
    """The better codec is right wherever the other is, and on the same 40 items more at every rate."""
    more = np.arange(ITEMS)[None] >= ITEMS - 40
    worse, better = ([right(100 + 30 * i) | extra for i in range(5)] for extra in (False, more))
    other, mine = (ScoredCurve.of(RATES, outcomes) for outcomes in (worse, better))
    gain = bd_accuracy(other, mine)
    half = 1.96 * math.sqrt(0.1 * 0.9 / ITEMS)
    assert gain.difference == pytest.approx(0.1)
    assert gain.low == pytest.approx(0.1 - half, abs=0.006) and gain.high == pytest.approx(0.1 + half, abs=0.006)
    assert gain.excludes_zero and gain.degenerate == 0
    lost = bd_accuracy(mine, other)
    assert (lost.difference, lost.low, lost.high) == pytest.approx((-0.1, -gain.high, -gain.low))


def test_half_the_bits():
    """The same scores at half the rate, from the same items: -50 % on every resample on which the curve rises."""
    gain = bd_rate_of_score(
        line(100, 40), ScoredCurve.of([r / 2 for r in RATES], [right(100 + 40 * i) for i in range(5)])
    )
    assert (gain.difference, gain.low, gain.high) == pytest.approx((-50, -50, -50))
    assert gain.excludes_zero


def test_the_whole_split_gives_what_the_curves_give():
    rng = np.random.default_rng(2)
    ours, theirs = (sorted(rng.random(5)) for _ in range(2))
    outcomes = [[rng.random((3, ITEMS)) < p for p in curve] for curve in (ours, theirs)]
    rates = [[r * 1.3 for r in RATES], RATES]
    scores = [[float(o.mean()) for o in curve] for curve in outcomes]
    mine, other = (ScoredCurve.of(r, o) for r, o in zip(rates, outcomes, strict=True))
    arguments = (rates[1], scores[1], rates[0], scores[0])
    assert bd_accuracy(other, mine).difference == pytest.approx(bd_quality(*arguments))
    assert bd_rate_of_score(other, mine).difference == pytest.approx(bd_rate(*arguments))


def test_equal_codecs_have_no_difference():
    """Of 40 pairs of one codec with independent items right, about two exclude zero; ten would be a broken interval."""
    rng = np.random.default_rng(0)
    excluded = 0
    for _ in range(40):
        curves = [ScoredCurve.of(RATES[:4], [rng.random((1, 200)) < p for p in (0.3, 0.5, 0.7, 0.9)]) for _ in range(2)]
        excluded += bd_accuracy(*curves).excludes_zero
    assert excluded < 10


def test_points_are_chosen_once_on_the_whole_split():
    """A point that another one beats is left out, and its neighbours are not, though many resamples disagree."""
    curve = ScoredCurve.of([0.1, 0.2, 0.4, 0.8], [right(n) for n in (100, 201, 200, 202)])
    assert curve.rates.tolist() == [0.1, 0.2, 0.8] and curve.scores == pytest.approx([0.25, 0.5025, 0.505])
    assert curve.resampled.shape == (1000, 3)


def test_scores_at_a_rate():
    anchor, curve = line(100, 30), line(140, 30)
    at = score_difference(anchor, curve, 0.3)
    assert at.difference == pytest.approx(0.1) and at.excludes_zero
    assert curve.score_at(0.1)[0] == pytest.approx(0.35) and curve.score_at(math.sqrt(0.02))[0] == pytest.approx(0.3875)
    for rate in (0.09, 1.7):
        outside = score_difference(anchor, curve, rate)
        assert math.isnan(outside.difference) and math.isnan(outside.low) and not outside.excludes_zero
    alone = ScoredCurve.of([0.5], [right(200)])
    assert alone.score_at(0.5)[0] == 0.5 and np.isnan(alone.score_at(0.4)).all()


def test_resamples_without_a_difference_are_counted():
    """Curves that barely overlap in score: on many resamples they do not, and then there is no interval."""
    low = ScoredCurve.of(RATES[:4], [right(n, 40) for n in (4, 8, 12, 21)])
    shuffled = np.arange(40)[::-1]
    high = ScoredCurve.of(RATES[:4], [right(n, 40)[:, shuffled] for n in (20, 24, 28, 32)])
    gap = bd_rate_of_score(low, high)
    assert math.isfinite(gap.difference) and 0.2 < gap.degenerate < 0.8
    assert math.isnan(gap.low) and not gap.excludes_zero


def test_what_has_no_difference_gets_a_sentence():
    with pytest.raises(CmlError, match="needs 4 operating points"):
        bd_accuracy(line(100, 30), line(100, 30, RATES[:3]))
    with pytest.raises(CmlError, match="ranges of rate do not overlap"):
        bd_accuracy(line(100, 30), line(40, 10, [r * 100 for r in RATES]))
    with pytest.raises(CmlError, match="ranges of score do not overlap"):
        bd_rate_of_score(line(10, 10), line(200, 30))
    with pytest.raises(ValueError, match="400 and 300 items"):
        bd_accuracy(line(100, 30), line(100, 30, items=300))
