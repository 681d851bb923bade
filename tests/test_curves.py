"""Bjontegaard differences against cases that are known in closed form."""

import math

import pytest
from cml.eval.curves import Curve, bd_quality, bd_rate

from cml.errors import CmlError

RATES = [0.1, 0.2, 0.4, 0.9, 2.0]
QUALITY = [25.0, 28.0, 31.5, 35.0, 40.0]


def halved(factor=0.5):
    return [rate * factor for rate in RATES]


def test_half_the_bits_is_minus_50_percent():
    assert bd_rate(RATES, QUALITY, halved(), QUALITY) == pytest.approx(-50)
    assert bd_rate(halved(), QUALITY, RATES, QUALITY) == pytest.approx(100)
    assert bd_rate(RATES, QUALITY, RATES, QUALITY) == pytest.approx(0, abs=1e-9)
    assert bd_rate(RATES, QUALITY, halved(3), QUALITY) == pytest.approx(200)


def test_a_constant_gain_of_quality():
    better = [value + 1.5 for value in QUALITY]
    assert bd_quality(RATES, QUALITY, RATES, better) == pytest.approx(1.5)
    assert bd_quality(RATES, better, RATES, QUALITY) == pytest.approx(-1.5)


def test_lines_in_log_rate_have_the_mean_of_their_gap():
    """Straight lines, which PCHIP keeps: 6 dB a doubling against 3 dB a doubling, both 30 dB at 1 bpp."""
    rates = [0.25, 0.5, 1.0, 2.0, 4.0]
    steep = [30 + 6 * math.log2(r) for r in rates]
    flat = [30 + 3 * math.log2(r) for r in rates]
    # Common quality is 24 to 36 dB, symmetric about 30: the gaps in log rate cancel.
    assert bd_rate(flat, flat, flat, flat) == pytest.approx(0, abs=1e-9)
    assert bd_rate(rates, flat, rates, steep) == pytest.approx(0, abs=1e-9)
    # Above 1 bpp alone, at 30 + d dB the flat line takes d/3 doublings and the steep one d/6; d runs from 0 to 6.
    fine = [1.0, 1.25, 1.5, 2.0, 3.0, 4.0]
    up = bd_rate(fine, [30 + 3 * math.log2(r) for r in fine], fine, [30 + 6 * math.log2(r) for r in fine])
    assert up == pytest.approx(100 * (2**-(0.5) - 1))


def test_only_the_common_range_counts():
    """The second curve goes on to where the first one was never measured."""
    assert bd_rate(RATES, QUALITY, [*halved(), 3.0, 9.0], [*QUALITY, 45.0, 46.0]) == pytest.approx(-50, abs=1.5)
    linear = [10 * math.log10(r) for r in RATES]
    assert bd_rate(RATES[:4], linear[:4], halved(), linear) == pytest.approx(-50)


def test_order_and_beaten_points_do_not_matter():
    want = bd_rate(RATES, QUALITY, halved(), QUALITY)
    shuffled = [2, 0, 4, 1, 3]
    assert bd_rate(RATES, QUALITY, [halved()[i] for i in shuffled], [QUALITY[i] for i in shuffled]) == want
    # More bits for less quality, an equal point, and a lossless one.
    assert bd_rate(RATES, QUALITY, [*halved(), 0.3, 0.05, 5.0], [*QUALITY, 20.0, 25.0, math.inf]) == want


def test_a_curve_keeps_what_nobody_would_refuse():
    curve = Curve.of([1.0, 2.0, 3.0, 3.0, 4.0], [30.0, 29.0, 33.0, 34.0, 34.0])
    assert curve == Curve((1.0, 3.0), (30.0, 34.0))


def test_interpolation_never_leaves_the_measured_range():
    curve = Curve.of([1.0, 2.0, 4.0], [30.0, 33.0, 36.0])
    assert curve.quality_at(2.0) == pytest.approx(33) and curve.rate_at(34.5) == pytest.approx(2 * 2**0.5)
    for value in (curve.quality_at(0.99), curve.quality_at(4.1), curve.rate_at(29.9), curve.rate_at(36.1)):
        assert math.isnan(value)
    alone = Curve.of([1.0], [30.0])
    assert math.isnan(alone.quality_at(2.0)) and alone.rate_at(30.0) == 1.0
    assert math.isnan(Curve.of([], []).quality_at(1.0))


def test_what_has_no_difference_gets_a_sentence():
    with pytest.raises(CmlError, match="needs 4 operating points"):
        bd_rate(RATES, QUALITY, RATES[:3], QUALITY[:3])
    with pytest.raises(CmlError, match="not 2"):  # four points, but two of them are beaten
        bd_rate(RATES, QUALITY, [1, 2, 3, 4], [30, 31, 29, 28])
    with pytest.raises(CmlError, match="ranges of quality do not overlap"):
        bd_rate(RATES, QUALITY, RATES, [value + 100 for value in QUALITY])
    with pytest.raises(CmlError, match="ranges of rate do not overlap"):
        bd_quality(RATES, QUALITY, [rate * 100 for rate in RATES], QUALITY)
    with pytest.raises(ValueError, match="as many"):
        Curve.of([1.0], [])
