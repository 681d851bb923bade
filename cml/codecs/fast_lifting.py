"""The compiled part of the fast path that splits and merges bands, by lifting, in place.

A *cell* is what one position of the latent grid covers, F samples an axis; a *phase* is a sample's place in its cell.
With one row of memory a phase, every lifting step, of any level, is the same operation on whole rows. Nothing is
scaled: the gains of the filters are in the weights of the encoder and the decoder.

Along the axis in which samples lie side by side, a row holds the cells of a line (`split_lines`). Along another axis
the signal comes cell by cell, each step is taken as soon as it can be, and a ring holds the last few cells (`stream`).
"""

from typing import Any

import numpy as np
from numba import njit

from cml.codecs.simd import LANES, lift, load, splat, store
from cml.codecs.wavelet import LIFTING

RING = 6  # cells that a stream keeps
DELAY = 4  # cells between the arrival of a cell and its last change, and the reach of the filters, for every level
GUARD = LANES  # columns between rows; two would do, sixteen keep vectors on cache lines

# What is done to the second to the fifth newest sample of a band when one more arrives: the lifting steps, or undone.
_STEPS = np.array([LIFTING, [-weight for weight in reversed(LIFTING)]], np.float32)

# Everything works on arrays that its caller holds. Counting references to their rows would take a tenth of the time of
# a line, and threads that count those of one array wait for each other.
UNCOUNTED: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}
_compiled = njit(**UNCOUNTED)
_inlined = njit(forceinline=True, **UNCOUNTED)


@_inlined
def _lift(buffer, target, first, second, weight, length, copies, apart):
    """target += weight * (first + second): rows from these places of `buffer`, and of `copies` at each `apart`."""
    factor = splat(weight)
    for begin in range(0, copies * apart, apart):
        for i in range(begin, begin + length, LANES):
            value = lift(load(buffer, target + i), load(buffer, first + i), load(buffer, second + i), factor)
            store(buffer, target + i, value)


@_compiled
def split_lines(buffer, base, hop, phases, pitch, rows, cells, length, levels, inverse):
    """Split, or merge, some lines of the signal along their own axis.

    Phase p of line r is the row at base + p * hop + r * pitch: `cells` samples, and others that mean nothing, up to the
    `length` at which the last line ends.
    """
    for number in range(levels):
        stride = 1 << (levels - 1 - number if inverse else number)
        skip = stride * hop
        for band in range(stride):
            low = base + band * hop
            last = low + (phases - stride) * hop
            for step in range(4):
                weight = _STEPS[inverse, step]
                if step % 2 == inverse:
                    # The odd samples. Past the end the next even one is the mirror image, the last one.
                    for r in range(rows):
                        buffer[low + r * pitch + cells] = buffer[last - skip + r * pitch + cells - 1]
                    for odd in range(low + skip, last, 2 * skip):
                        _lift(buffer, odd, odd - skip, odd + skip, weight, length, 1, length)
                    _lift(buffer, last, last - skip, low + 1, weight, length, 1, length)
                else:
                    for r in range(rows):
                        buffer[last + r * pitch - 1] = buffer[low + skip + r * pitch]
                    for even in range(low + 2 * skip, last, 2 * skip):
                        _lift(buffer, even, even - skip, even + skip, weight, length, 1, length)
                    _lift(buffer, low, last - 1, low + skip, weight, length, 1, length)


@_inlined
def _places(base, pitch, rows, stride, newest):
    """Where the row `newest` of a ring begins, and seven before it, each `stride` before the last."""
    k0 = newest
    k1 = k0 - stride if k0 >= stride else k0 - stride + rows
    k2 = k1 - stride if k1 >= stride else k1 - stride + rows
    k3 = k2 - stride if k2 >= stride else k2 - stride + rows
    k4 = k3 - stride if k3 >= stride else k3 - stride + rows
    k5 = k4 - stride if k4 >= stride else k4 - stride + rows
    k6 = k5 - stride if k5 >= stride else k5 - stride + rows
    k7 = k6 - stride if k6 >= stride else k6 - stride + rows
    first, second = (base + pitch * k0, base + pitch * k1), (base + pitch * k2, base + pitch * k3)
    third, fourth = (base + pitch * k4, base + pitch * k5), (base + pitch * k6, base + pitch * k7)
    return first + second + third + fourth


@_compiled
def _push_one(buffer, base, pitch, rows, stride, newest, inverse, length, copies, apart):
    """`_push` away from the ends, all four steps at once; `newest` is a row."""
    v0, v1, v2, v3, v4, v5, _, _ = _places(base, pitch, rows, stride, newest)
    w1, w2 = splat(_STEPS[inverse, 0]), splat(_STEPS[inverse, 1])
    w3, w4 = splat(_STEPS[inverse, 2]), splat(_STEPS[inverse, 3])
    for begin in range(0, copies * apart, apart):
        for i in range(begin, begin + length, LANES):
            x2, x3, x4 = load(buffer, v2 + i), load(buffer, v3 + i), load(buffer, v4 + i)
            x1 = lift(load(buffer, v1 + i), load(buffer, v0 + i), x2, w1)
            x2 = lift(x2, x1, x3, w2)
            x3 = lift(x3, x2, x4, w3)
            x4 = lift(x4, x3, load(buffer, v5 + i), w4)
            store(buffer, v1 + i, x1)
            store(buffer, v2 + i, x2)
            store(buffer, v3 + i, x3)
            store(buffer, v4 + i, x4)


@_compiled
def _push_two(buffer, base, pitch, rows, stride, newest, inverse, length, copies, apart):
    """`_push_one` of the second newest sample but one, then of the newest: a third less of memory to move."""
    v0, v1, v2, v3, v4, v5, v6, v7 = _places(base, pitch, rows, stride, newest)
    w1, w2 = splat(_STEPS[inverse, 0]), splat(_STEPS[inverse, 1])
    w3, w4 = splat(_STEPS[inverse, 2]), splat(_STEPS[inverse, 3])
    for begin in range(0, copies * apart, apart):
        for i in range(begin, begin + length, LANES):
            x2, x4 = load(buffer, v2 + i), load(buffer, v4 + i)
            x5, x6 = load(buffer, v5 + i), load(buffer, v6 + i)
            x3 = lift(load(buffer, v3 + i), x2, x4, w1)
            x4 = lift(x4, x3, x5, w2)
            x5 = lift(x5, x4, x6, w3)
            store(buffer, v5 + i, x5)
            store(buffer, v6 + i, lift(x6, x5, load(buffer, v7 + i), w4))
            x1 = lift(load(buffer, v1 + i), load(buffer, v0 + i), x2, w1)
            x2 = lift(x2, x1, x3, w2)
            x3 = lift(x3, x2, x4, w3)
            store(buffer, v1 + i, x1)
            store(buffer, v2 + i, x2)
            store(buffer, v3 + i, x3)
            store(buffer, v4 + i, lift(x4, x3, x5, w4))


@_compiled
def _push(buffer, base, pitch, rows, stride, band, newest, count, length, copies, apart, inverse):
    """What sample number `newest` of a band of `count` makes possible: one step on each of the four before it.

    A sample of the band is the row `stride` after the one before, of a ring of `rows`. `newest` may be past the end,
    and the others before the beginning: nothing is done to those, and others see the mirror image there.
    """
    for step in range(4):
        target = newest - 1 - step
        if 0 <= target < count:
            after = target + 1 if target + 1 < count else target - 1
            before = target - 1 if target > 0 else target + 1
            _lift(
                buffer,
                base + pitch * ((target * stride + band) % rows),
                base + pitch * ((after * stride + band) % rows),
                base + pitch * ((before * stride + band) % rows),
                _STEPS[inverse, step],
                length,
                copies,
                apart,
            )


@_compiled
def stream(buffer, base, pitch, phases, levels, cell, cells, length, copies, apart, inverse):
    """Take cell number `cell` of `cells`, which is in the ring (RING * phases rows) or past the end.

    Afterwards cell - DELAY is finished: the ring holds its packets, or its samples if inverse.
    """
    rows = RING * phases
    newest = cell  # pair of samples of a band that can be taken
    for number in range(levels):
        level = levels - 1 - number if inverse else number
        stride = 1 << level
        pairs = phases // (2 * stride)
        count = 2 * cells * pairs
        if not inverse:
            newest = (cell + 1) * pairs - 1 - min(level, 2)
        for band in range(stride):
            pair = newest - pairs + 1
            while pair <= newest:
                sample = 2 * pair + inverse
                if sample < 5 or sample >= count:
                    _push(buffer, base, pitch, rows, stride, band, sample, count, length, copies, apart, inverse)
                    pair += 1
                elif pair < newest and sample + 2 < count:
                    row = ((sample + 2) * stride + band) % rows
                    _push_two(buffer, base, pitch, rows, stride, row, inverse, length, copies, apart)
                    pair += 2
                else:
                    row = (sample * stride + band) % rows
                    _push_one(buffer, base, pitch, rows, stride, row, inverse, length, copies, apart)
                    pair += 1
        newest = 2 * (newest - 2) + 1
