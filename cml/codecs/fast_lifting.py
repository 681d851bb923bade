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

from cml.codecs.simd import LANES, but_first, last_and, lift, load, put, splat, store
from cml.codecs.wavelet import LIFTING

DELAY = 4  # cells between the arrival of a cell and its last change, and the reach of the filters, for every level
RING = DELAY + 3  # cells that a stream keeps: two that arrive, those not finished, and one that steps still look at
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


@_inlined
def _split_band(buffer, first, hop, phases, cells, inverse):
    """The four lifting steps of one band of a line, all at once: each sample is read and written once.

    A line is walked from its start to its end, or, to undo the steps, backwards: `first` is then the row of the last
    phase, and what comes last in a cell comes first. In that order a cell has samples 0 ... phases - 1, of which
    steps one and three change the odd ones, two and four the even ones. The digit of a name is the step that made it.

        vector of cells --_begin--> samples 0, 1 and the last, as far as they can be --_middle--> those between
          --_end, when the next vector has begun--> samples 0, the last but one and the last
    """
    weights = _weights(inverse)
    vectors, rest = (cells + LANES - 1) // LANES, (cells - 1) % LANES
    opening, closing = (rest, 0) if inverse else (0, rest)  # lanes of the cells at both ends
    forth = -LANES if inverse else LANES
    at = first + (LANES * (vectors - 1) if inverse else 0)
    end = closing if vectors == 1 else -1
    zero2, one1, last1 = _begin(buffer, at, hop, phases, weights[0], opening, end, inverse, weights)
    last3 = last1
    for number in range(vectors):
        one3, near3, late2 = _middle(buffer, at, hop, phases, zero2, one1, last1, weights)
        next0, next1, next_last = zero2, one1, last1
        if number + 1 < vectors:
            end = closing if number + 2 == vectors else -1
            next0, next1, next_last = _begin(buffer, at + forth, hop, phases, last1, -1, end, inverse, weights)
        start, end = opening if number == 0 else -1, closing if number + 1 == vectors else -1
        known = zero2, one3, near3, late2, last1
        last3 = _end(buffer, at, hop, phases, known, next0, last3, start, end, inverse, weights)
        zero2, one1, last1 = next0, next1, next_last
        at += forth


@_inlined
def _weights(inverse):
    steps = _STEPS[int(inverse)]
    return splat(steps[0]), splat(steps[1]), splat(steps[2]), splat(steps[3])


@_inlined
def _begin(buffer, at, hop, phases, before1, start, end, inverse, weights):
    """Sample 0 after step two, samples 1 and the last after step one.

    At an end of the line, in the lane of this number there, what is past it is the mirror image.
    """
    final = at + (phases - 1) * hop
    zero, late = load(buffer, at), load(buffer, final - hop)
    beyond = load(buffer, at - 1) if inverse else load(buffer, at + 1)
    if end >= 0:
        beyond = put(beyond, end, late)
    last1 = lift(load(buffer, final), late, beyond, weights[0])
    one1 = last1
    if phases > 2:
        one1 = lift(load(buffer, at + hop), zero, load(buffer, at + 2 * hop), weights[0])
    before = but_first(last1, before1) if inverse else last_and(before1, last1)
    if start >= 0:
        before = put(before, start, one1)
    return lift(zero, before, one1, weights[1]), one1, last1


@_inlined
def _middle(buffer, at, hop, phases, zero2, one1, last1, weights):
    """Write the samples that need nothing of another vector.

    Returns:
        What `_end` needs of them: sample 1 and the last but two after step three, the last but one after step two.
    """
    one3 = near3 = one1
    if phases == 2:
        return one3, near3, zero2
    even2, odd1, even = zero2, one1, load(buffer, at + 2 * hop)
    for odd in range(1, phases - 1, 2):  # the number of a sample
        place = at + odd * hop
        next_even, next_odd1 = even, last1
        if odd < phases - 3:
            next_even = load(buffer, place + 3 * hop)
            next_odd1 = lift(load(buffer, place + 2 * hop), even, next_even, weights[0])
        next_even2 = lift(even, odd1, next_odd1, weights[1])
        odd3 = lift(odd1, even2, next_even2, weights[2])
        store(buffer, place, odd3)
        if odd == 1:
            one3 = odd3
        else:
            store(buffer, place - hop, lift(even2, near3, odd3, weights[3]))
        near3, even2, odd1, even = odd3, next_even2, next_odd1, next_even
    return one3, near3, even2


@_inlined
def _end(buffer, at, hop, phases, known, next2, before3, start, end, inverse, weights):
    """Write samples 0 and the last two, of which all is `known` but what comes next.

    Returns:
        The last sample after step three.
    """
    zero2, one3, near3, late2, last1 = known
    final = at + (phases - 1) * hop
    after = last_and(next2, zero2) if inverse else but_first(zero2, next2)
    if end >= 0:
        after = put(after, end, late2)
    last3 = lift(last1, late2, after, weights[2])
    store(buffer, final, last3)
    if phases > 2:
        store(buffer, final - hop, lift(late2, near3, last3, weights[3]))
    else:
        one3 = last3
    before = but_first(last3, before3) if inverse else last_and(before3, last3)
    if start >= 0:
        before = put(before, start, one3)
    store(buffer, at, lift(zero2, before, one3, weights[3]))
    return last3


@_inlined
def _each_band(buffer, base, hop, pitch, rows, cells, levels, inverse):
    for row in range(base, base + rows * pitch, pitch):
        for number in range(levels):
            level = levels - 1 - number if inverse else number
            stride, phases = 1 << level, 1 << (levels - level)
            for low in range(row, row + stride * hop, hop):
                if inverse:
                    _split_band(buffer, low + (phases - 1) * stride * hop, -stride * hop, phases, cells, True)
                else:
                    _split_band(buffer, low, stride * hop, phases, cells, False)


def _fixed(levels: int, inverse: bool) -> Any:
    @_compiled
    def every(buffer, base, hop, pitch, rows, cells):
        _each_band(buffer, base, hop, pitch, rows, cells, levels, inverse)

    return every


# Of these the compiler knows how many phases there are, and unrolls their loops: twice as fast.
_split_3, _split_4, _merge_3, _merge_4 = (_fixed(levels, inverse) for inverse in (False, True) for levels in (3, 4))


@_compiled
def split_lines(buffer, base, hop, pitch, rows, cells, levels, inverse):
    """Split, or merge, some lines of the signal along their own axis.

    Phase p of line r is the row at base + p * hop + r * pitch: `cells` samples, and others that mean nothing.
    """
    if levels == 3 and inverse:
        _merge_3(buffer, base, hop, pitch, rows, cells)
    elif levels == 3:
        _split_3(buffer, base, hop, pitch, rows, cells)
    elif levels == 4 and inverse:
        _merge_4(buffer, base, hop, pitch, rows, cells)
    elif levels == 4:
        _split_4(buffer, base, hop, pitch, rows, cells)
    elif inverse:
        _each_band(buffer, base, hop, pitch, rows, cells, levels, True)
    else:
        _each_band(buffer, base, hop, pitch, rows, cells, levels, False)


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
    w1, w2, w3, w4 = _weights(inverse)
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
    w1, w2, w3, w4 = _weights(inverse)
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
def stream(buffer, base, pitch, phases, levels, cell, cells, length, copies, apart, inverse, many):
    """Take cell number `cell` of `cells`, which is in the ring (RING * phases rows) or past the end.

    Afterwards cell - DELAY is finished: the ring holds its packets, or its samples if inverse. With `many` = 2 that is
    so of two cells, of which the second is named: less memory has to move than for one after the other.
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
            pair = newest - many * pairs + 1
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
