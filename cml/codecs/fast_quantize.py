"""Rounding of latents to symbols, compiled: what `rdo.rdo_round` does, for pictures and sound."""

import numpy as np
from numba import njit

from cml.codecs.compiled import announced
from cml.codecs.rdo import LARGEST, LEAST

_HALF = np.float32(0.5)
_MOST = np.float32(1 << 24)  # beyond what symbols may be, within what an integer holds
_LEAST, _LARGEST = np.float32(LEAST), np.float32(LARGEST)

_compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"})


@_compiled
def _sum_rows(total, v, low, high):
    """Sums of magnitudes over rows low ... high of v; `total` has a zero on each side."""
    inside = total[1:-1]
    for y in range(low, high + 1):
        row = v[y]
        for i in range(inside.size):
            inside[i] = abs(row[i]) + (inside[i] if y > low else np.float32(0))


@_compiled
def _round(line, v, total, count, strength):
    """Round v to `line`; the mean magnitude around a sample is that of `count` in three sums of `total`."""
    before, here, after = total[: line.size], total[1 : 1 + line.size], total[2 : 2 + line.size]
    peak = 0
    for i in range(line.size):
        mean = (before[i] + here[i] + after[i]) / count
        threshold = min(strength / max(mean, _LEAST), _LARGEST)
        size = np.int32(min(np.floor(abs(v[i]) + _HALF - threshold), _MOST))
        peak = max(peak, size)
        line[i] = -size if v[i] < 0 else size
    return peak


@_compiled
def _round_nearest(line, v):
    peak = 0
    for i in range(line.size):
        value = np.int32(min(max(np.rint(v[i]), -_MOST), _MOST))
        peak = max(peak, abs(value))
        line[i] = value
    return peak


@announced("the quantizer")
@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def quantize(v, width, inner, symbols, where, strength):
    """Round a tile of latents, in units of the step; returns the largest magnitude, perhaps more than symbols hold.

    Args:
        v: float32 (c or more, lines, pitch). Beyond its lines and the first `width` columns is nothing, or nothing that
            a rounded sample is next to.
        inner: first line and column of v that are rounded.
        symbols: int8 or int16 (c, *grid).
        where: first line and column of `symbols` to write, and how many of each.
        strength: of rate-distortion optimisation, / 12; 0 rounds to the nearest.
    """
    top, left, lines, cells = where
    total = np.zeros(width + 2, np.float32)
    start, stop = inner[1], inner[1] + cells
    peak = 0
    for k in range(symbols.shape[0]):
        for y in range(inner[0], inner[0] + lines):
            line = symbols[k, top + y - inner[0], left : left + cells]
            row = v[k, y]
            if strength == 0:
                peak = max(peak, _round_nearest(line, row[start:stop]))
                continue
            low, high = max(y - 1, 0), min(y + 1, v.shape[1] - 1)
            _sum_rows(total, v[k], low, high)
            rows = high - low + 1
            begin, end = max(start, 1), min(stop, width - 1)
            # At an end two sums, or one, make the mean.
            if start == 0:
                count = np.float32(rows * min(2, width))
                peak = max(peak, _round(line[:1], row[:1], total, count, strength))
            if begin < end:
                count = np.float32(rows * 3)
                peak = max(
                    peak, _round(line[begin - start : end - start], row[begin:end], total[begin:], count, strength)
                )
            if stop == width and width > 1 and start < width:
                count = np.float32(rows * 2)
                peak = max(peak, _round(line[cells - 1 :], row[width - 1 : width], total[width - 1 :], count, strength))
    return peak
