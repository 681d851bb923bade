"""Rounding of latents to symbols, compiled: what `rdo.rdo_round` does, for pictures and sound."""

from typing import Any

import numpy as np
from numba import njit

from cml.codecs.rdo import LARGEST, LEAST

KEPT = 4  # lines of latents at a time: one, and those next to it
_HALF = np.float32(0.5)
_MOST = np.float32(1 << 24)  # beyond what symbols may be, within what an integer holds
_LEAST, _LARGEST = np.float32(LEAST), np.float32(LARGEST)

# Views of rows hold no reference of their own: counting them would take as long as rounding short ones, and threads
# would wait for each other's counts.
_UNCOUNTED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "_nrt": False}
_compiled = njit(**_UNCOUNTED)


@_compiled
def _sum_rows(total, v, low, high, wide):
    """Sums of magnitudes over rows low ... high of a ring v of `wide` columns; `total` has a zero on each side."""
    inside = total[1:-1]
    for y in range(low, high + 1):
        row = v[y % KEPT * wide : y % KEPT * wide + inside.size]
        for i in range(inside.size):
            inside[i] = abs(row[i]) if y == low else inside[i] + abs(row[i])


@_compiled
def _round(line, v, total, terms, rows, strength):
    """Round v to `line`; the mean magnitude around a sample is of rows * terms samples, in three sums of `total`."""
    size = line.size
    before, here, after = total[:size], total[1 : size + 1], total[2 : size + 2]
    peak = np.int32(0)  # of one type with what it is compared with, or the loop is not made of vectors
    for i in range(size):
        mean = (before[i] + here[i] + after[i]) / (rows * terms[i])
        threshold = min(strength / max(mean, _LEAST), _LARGEST)
        magnitude = np.int32(min(np.floor(abs(v[i]) + _HALF - threshold), _MOST))
        peak = magnitude if magnitude > peak else peak
        line[i] = -magnitude if v[i] < 0 else magnitude
    return peak


@_compiled
def _round_nearest(line, v):
    peak = np.int32(0)
    for i in range(line.size):
        value = np.int32(min(max(np.rint(v[i]), -_MOST), _MOST))
        magnitude = np.int32(abs(value))
        peak = magnitude if magnitude > peak else peak
        line[i] = value
    return peak


@_compiled
def round_line(symbols, where, v, wide, rows, start, strength, total, terms):
    """Round a line of latents, in units of the step; returns the largest magnitude, perhaps more than symbols hold.

    Args:
        symbols: int8 or int16 (c, *grid).
        where: line and first column of `symbols` to write, and how many columns.
        v: float32 room for (c or more, KEPT, wide): lines of latents, line y in place y % KEPT.
        rows: number of the line, of the first, and of the last of those next to it that there are.
        start: first column of v to round.
        strength: of rate-distortion optimisation, / 12; 0 rounds to the nearest.
        total: float32, room for the columns of the tile, those that mean something, and a zero on each side.
        terms: float32, how many columns of the tile a sample and its neighbours in the line are.
    """
    line, left, cells = where
    here, low, high = rows
    peak = 0
    for k in range(symbols.shape[0]):
        base = k * KEPT * wide
        target = symbols[k, line, left : left + cells]
        row = v[base + here % KEPT * wide + start : base + here % KEPT * wide + start + cells]
        if strength == 0:
            peak = max(peak, _round_nearest(target, row))
            continue
        _sum_rows(total, v[base:], low, high, wide)
        rounded = _round(target, row, total[start:], terms[start:], np.float32(high - low + 1), strength)
        peak = max(peak, rounded)
    return peak
