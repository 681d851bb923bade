"""Rounding of latents to symbols, compiled: what `rdo.rdo_round` does, for pictures and sound."""

from typing import Any

import numpy as np
from numba import njit

from cml.codecs import rdo
from cml.codecs.compiled import announced
from cml.codecs.rdo import LARGEST, LEAST

_HALF = np.float32(0.5)
_MOST = np.float32(1 << 24)  # beyond what symbols may be, within what an integer holds
_LEAST, _LARGEST = np.float32(LEAST), np.float32(LARGEST)

# Views of rows hold no reference of their own: counting them would take as long as rounding short ones, and threads
# would wait for each other's counts.
_UNCOUNTED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}, "_nrt": False}
_compiled = njit(**_UNCOUNTED)


@_compiled
def _sum_rows(total, v, low, high):
    """Sums of magnitudes over rows low ... high of v; `total` has a zero on each side."""
    inside = total[1:-1]
    inside[:] = 0
    for y in range(low, high + 1):
        row = v[y]
        for i in range(inside.size):
            inside[i] += abs(row[i])


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
def _quantize(v, inner, symbols, where, strength, total, terms):
    top, left, lines, cells = where
    start, stop = inner[1], inner[1] + cells
    peak = 0
    for k in range(symbols.shape[0]):
        for y in range(inner[0], inner[0] + lines):
            line = symbols[k, top + y - inner[0], left : left + cells]
            row = v[k, y, start:stop]
            if strength == 0:
                peak = max(peak, _round_nearest(line, row))
                continue
            low, high = max(y - 1, 0), min(y + 1, v.shape[1] - 1)
            _sum_rows(total, v[k], low, high)
            peak = max(peak, _round(line, row, total[start:], terms[start:], np.float32(high - low + 1), strength))
    return peak


@announced("the quantizer (seconds)", rdo)
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def quantize(v, width, inner, symbols, where, strength):
    """Round a tile of latents, in units of the step; returns the largest magnitude, perhaps more than symbols hold.

    Args:
        v: float32 (c or more, lines, columns). What is beyond its lines and its first `width` columns is nothing, or
            no neighbour of a sample that is rounded.
        inner: first line and column of v that are rounded.
        symbols: int8 or int16 (c, *grid).
        where: first line and column of `symbols` to write, and how many of each.
        strength: of rate-distortion optimisation, / 12; 0 rounds to the nearest.
    """
    total = np.zeros(width + 2, np.float32)
    terms = np.full(width, 3, np.float32)  # that are inside, of a sample and its neighbours in the line
    terms[0] -= 1
    terms[-1] -= 1
    return _quantize(v, inner, symbols, where, strength, total, terms)
