"""The compiled part of the `ctx` back-end for signals of three axes: planes that also see the slice before them.

    kernel --> _row --> _symbol --> _magnitude      what is coded, under which context, through `range_coder`
                           _predict                 what is taken from a symbol first, as the channel's mode says

A bit has three contexts: how large magnitudes are around it in its slice, at its place in earlier channels, and around
its place in the slice before. Their probabilities are mixed. What the slice before tells differs from signal to signal
and from channel to channel: in still video the symbols themselves come again, in scans only how large they are. So a
channel says from what its symbols are predicted: from nothing; from the median edge detector in the slice, or across
it; or from eight neighbours with weights that follow the signal (normalised least mean squares, in integers).
"""

import numpy as np
from numba import njit

from cml.codecs import ctx_kernel, range_coder
from cml.codecs.compiled import announced
from cml.codecs.ctx_kernel import (
    _BLOCK,
    _CLASSES,
    _DENSE,
    _FEW,
    _LARGEST,
    _LENGTH,
    _MODE,
    _PAST,
    _QUIET,
    _QUIET_CHANNEL,
    _SIZE,
    _STEP_CHANNEL,
    _STEP_SHARED,
    _TRUST,
    _UNARY,
    _WEIGHT,
    _ZERO_CHANNEL,
    _ZERO_SHARED,
    _blur,
    _forget,
    _remember,
    _sum_above,
)
from cml.codecs.range_coder import (
    LARGEST_WEIGHT,
    LEVELS,
    LOGIT,
    SEEN,
    SQUASH,
    STRETCH,
    code_bit,
    code_escape,
    code_single,
    finish,
    inlined,
    leaf,
    learn,
    level_of,
    read,
)

_MIXING = 15  # shift of the learning rate: slower than in the plane, with fewer symbols a channel
# Modes of a channel.
_PLAIN, _WITHIN, _ACROSS, _ADAPTIVE = 1, 2, 3, 4
_WORTH = 14  # a prediction must bring magnitudes below 14/16, or symbols by themselves have the better contexts
_DOUBT = 3  # adaptive weights must be better by an eighth: they take symbols to learn
_PULL = 13  # the step of adaptive weights, of 2^16, is 2^13 error / energy
_FRACTION = 28

# Where things are in the array of what is learned, behind those of `ctx_kernel`.
_ZERO_SLICE = _SIZE
_STEP_SLICE = _ZERO_SLICE + _FEW * _FEW
_SIGN = _STEP_SLICE + LEVELS * _UNARY
_PREDICTED = _SIGN + 27
_ZERO_WEIGHTS = _PREDICTED + 3
_STEP_WEIGHTS = _ZERO_WEIGHTS + 3
_SIZE_3D = _STEP_WEIGHTS + 3


def initial() -> np.ndarray:
    """What is known before the first symbol, int32 (_SIZE_3D,): the slice before is like the surroundings."""
    known = ctx_kernel.initial()
    zero, steps = known[_ZERO_SHARED:_ZERO_CHANNEL], known[_STEP_SHARED:_STEP_CHANNEL]
    rest = [32768 << 8 | 4] * 27 + [20000 << 8 | 4] * 3 + [_WEIGHT * 2 // 3] * 6
    return np.concatenate([known, zero, steps, np.array(rest, np.int32)])


@inlined
def _mixed(coder, words, learned, first, second, third, weights, bit, decoding):
    """Code a bit under three adaptive probabilities, mixed as logits with weights that learn to code it well."""
    a, b = int(STRETCH[int(learned[first]) >> 12]), int(STRETCH[int(learned[second]) >> 12])
    c = int(STRETCH[int(learned[third]) >> 12])
    weight_a, weight_b, weight_c = int(learned[weights]), int(learned[weights + 1]), int(learned[weights + 2])
    logit = min(max((weight_a * a + weight_b * b + weight_c * c) >> 16, -LOGIT), LOGIT)
    ones = int(SQUASH[logit + 2048])
    bit, coder = code_bit(coder, words, ones, bit, decoding)
    error = (65535 if bit else 0) - ones
    learned[weights] = min(max(weight_a + (a * error >> _MIXING), -LARGEST_WEIGHT), LARGEST_WEIGHT)
    learned[weights + 1] = min(max(weight_b + (b * error >> _MIXING), -LARGEST_WEIGHT), LARGEST_WEIGHT)
    learned[weights + 2] = min(max(weight_c + (c * error >> _MIXING), -LARGEST_WEIGHT), LARGEST_WEIGHT)
    learn(learned, first, bit)
    learn(learned, second, bit)
    learn(learned, third, bit)
    return bit, coder


@inlined
def _magnitude(coder, words, learned, level, beside, magnitude, decoding):
    """Code a magnitude >= 1: all but its low bits in steps of one, then, where magnitudes are large, the low bits."""
    low_bits = max(0, level - _DENSE) // 3
    shared, slice_before = _STEP_SHARED + level * _UNARY, _STEP_SLICE + beside * _UNARY
    channel = _STEP_CHANNEL + min(max(0, level - 6) // 3, _CLASSES - 1) * _UNARY
    high = (magnitude - 1) >> low_bits
    more, found = 1, 0
    while more and found < _UNARY:
        bit = 1 if high > found else 0
        at, own, near = shared + found, channel + found, slice_before + found
        more, coder = _mixed(coder, words, learned, at, own, near, _STEP_WEIGHTS, bit, decoding)
        found += more
    if more:
        rest, coder = code_escape(coder, words, learned, _LENGTH, high - found + 1, decoding)
        found += rest - 1
    for place in range(low_bits - 1, -1, -1):
        bit, coder = code_bit(coder, words, 32768, ((magnitude - 1) >> place) & 1, decoding)
        found = found << 1 | bit
    # Only a damaged payload reaches the bound; what it clips to is refused afterwards.
    return min(found + 1, _LARGEST), coder


@inlined
def _at(plane, y, x):
    """A symbol in a type that holds sums of several: `int` widens it when interpreted, `0 +` when compiled."""
    return 0 + int(plane[y, x])


@inlined
def _around(plane, last, y, x):
    """Left, above and their corner; in the slice before the same place, its left, above, right and below.

    Where there is none, the next best: above for left, the slice before for above.
    """
    height, width = plane.shape
    same = _at(last, y, x)
    above_same = _at(last, y - 1, x) if y > 0 else same
    left_same = _at(last, y, x - 1) if x > 0 else above_same
    right_same = _at(last, y, x + 1) if x + 1 < width else same
    below_same = _at(last, y + 1, x) if y + 1 < height else same
    above = _at(plane, y - 1, x) if y > 0 else (_at(plane, y, x - 1) if x > 0 else same)
    left = _at(plane, y, x - 1) if x > 0 else above
    corner = _at(plane, y - 1, x - 1) if y > 0 and x > 0 else above
    return left, above, corner, same, left_same, above_same, right_same, below_same


@inlined
def _median(a, b, corner):
    """Median edge detector: the median of a, b and a + b - corner."""
    return max(min(a + b - corner, max(a, b)), min(a, b))


@inlined
def _weighted(around, pulls):
    """The adaptive prediction, weights of 2^-16; within int16, so that no difference passes `_LARGEST`."""
    total = 1 << 15
    for i in range(8):
        total += int(pulls[i]) * around[i]
    return min(max(total >> 16, -32768), 32767)


@inlined
def _pull(around, pulls, error):
    """Move the weights of the adaptive prediction toward what would have been right."""
    energy = 1
    for i in range(8):
        energy += around[i] * around[i]
    share = (error << _FRACTION) // energy
    for i in range(8):
        moved = int(pulls[i]) + (share * around[i] >> (_FRACTION - _PULL))
        pulls[i] = min(max(moved, -LARGEST_WEIGHT), LARGEST_WEIGHT)


@leaf
def _begin(pulls):
    """The weights of a new channel: the slice before, and half of what changed to the left and above."""
    pulls[:] = 0
    pulls[0] = pulls[1] = 32768
    pulls[3] = 65536
    pulls[4] = pulls[5] = -32768


@inlined
def _predict(around, pulls, mode):
    """What a symbol is expected to be."""
    left, above, corner, same, left_same = around[0], around[1], around[2], around[3], around[4]
    if mode == _WITHIN:
        return _median(left, above, corner)
    return _median(left, same, left_same) if mode == _ACROSS else _weighted(around, pulls)


@inlined
def _signs(plane, last, y, x):
    """0 to 26: the signs of the symbols in the slice before, to the left and above."""
    left = _at(plane, y, x - 1) if x > 0 else 0
    above = _at(plane, y - 1, x) if y > 0 else 0
    same = _at(last, y, x)
    return 13 + 9 * min(max(same, -1), 1) + 3 * min(max(left, -1), 1) + min(max(above, -1), 1)


@inlined
def _symbol(coder, words, plane, last, y, x, near, beside, before, learned, pulls, mode, decoding):
    """Code one symbol; `near`, `beside` and `before` are 11, 16 and 128 x the mean magnitude of its contexts."""
    level = level_of((4 * near + 3 * beside + before) >> 2)
    in_slice, in_last = min(level_of(near), _FEW - 1), min(level_of(beside), _FEW - 1)
    shared = _ZERO_SHARED + in_slice * _FEW + min(level_of(before >> 1), _FEW - 1)
    own, slice_before = _ZERO_CHANNEL + min(level, _FEW - 1), _ZERO_SLICE + in_last * _FEW + in_slice
    around, centre = (0, 0, 0, 0, 0, 0, 0, 0), 0
    if mode != _PLAIN:
        around = _around(plane, last, y, x)
        centre = _predict(around, pulls, mode)
    value = 0 if decoding else _at(plane, y, x) - centre
    size = abs(value)
    bit = 1 if size else 0
    some, coder = _mixed(coder, words, learned, shared, own, slice_before, _ZERO_WEIGHTS, bit, decoding)
    if some:
        sign = _SIGN + (_signs(plane, last, y, x) if mode == _PLAIN else 13)
        negative, coder = code_single(coder, words, learned, sign, 1 if value < 0 else 0, decoding)
        size, coder = _magnitude(coder, words, learned, level, level_of(2 * beside + near), size, decoding)
        value = -size if negative else size
    if decoding:
        most = (1 << 8 * plane.itemsize - 1) - 1
        found = min(max(value + centre, -most - 1), most)
        plane[y, x] = found
        if found != value + centre:
            learned[_PAST] = 1
    if mode == _ADAPTIVE:
        _pull(around, pulls, value)
    return size, coder


@inlined
def _row(coder, words, plane, last, y, above, beside, before, sizes, learned, pulls, mode, decoding):
    """Code a line. Where all around a block of eight is quiet, one bit says that it is all zeros."""
    width = plane.shape[1]
    x = left = left2 = 0
    while x < width:
        stop = min(width, x + _BLOCK)
        if mode == _PLAIN and left == 0 and stop == x + _BLOCK:
            noise = 0
            for i in range(x, stop):
                noise = max(noise, 8 * above[i] + 4 * beside[y, i] + before[y, i])
            if noise < _QUIET:
                some = 0
                if not decoding:
                    for i in range(x, stop):
                        some |= int(plane[y, i])
                at = _QUIET_CHANNEL + noise * 4 // _QUIET
                some, coder = code_single(coder, words, learned, at, 1 if some else 0, decoding)
                if not some:
                    x, left2 = stop, 0
                    continue
        while x < stop:
            near, side, old = above[x] + 3 * left + left2, beside[y, x], before[y, x]
            size, coder = _symbol(coder, words, plane, last, y, x, near, side, old, learned, pulls, mode, decoding)
            sizes[y + 2, x + 2] = size
            x, left, left2 = x + 1, size, left
    return coder


@leaf
def _sum_beside(sizes, beside):
    """A binomial 3x3 filter of a slice's magnitudes, 16 x their mean; around the plane they are 0."""
    height, width = beside.shape
    for y in range(height):
        below = min(1, height - 1 - y)
        for x in range(width):
            here, up, down = sizes[y + 2], sizes[y + 1], sizes[y + 2 + below]
            lower = 2 * down[x + 2] + down[x + 1] + down[x + 3]
            upper = 2 * up[x + 2] + up[x + 1] + up[x + 3]
            beside[y, x] = 4 * here[x + 2] + 2 * (here[x + 1] + here[x + 3]) + upper + below * lower


@inlined
def _mode(volume, still, pulls):
    """0: all zero; else the mode with the smallest magnitudes, a prediction where it is worth it."""
    depth, height, width = volume.shape
    plain = within = across = adaptive = 0
    _begin(pulls)
    for z in range(depth):
        plane, last = volume[z], volume[z - 1] if z > 0 else still
        for y in range(height):
            for x in range(width):
                value, around = _at(plane, y, x), _around(plane, last, y, x)
                error = value - _weighted(around, pulls)
                _pull(around, pulls, error)
                plain += abs(value)
                within += abs(value - _predict(around, pulls, _WITHIN))
                across += abs(value - _predict(around, pulls, _ACROSS))
                adaptive += abs(error)
    least = min(within, across, adaptive + (adaptive >> _DOUBT))
    if plain == 0 or 16 * least >= _WORTH * plain:
        return _PLAIN if plain else 0
    return _WITHIN if least == within else _ACROSS if least == across else _ADAPTIVE


@inlined
def _code_mode(coder, words, learned, mode, decoding):
    some, coder = code_single(coder, words, learned, _MODE, 1 if mode else 0, decoding)
    found, more = 0, some
    while more and found < _ADAPTIVE - 1:
        found += 1
        more, coder = code_single(coder, words, learned, _PREDICTED + found - 1, 1 if mode > found else 0, decoding)
    return found + more if some else 0, coder


@njit(forceinline=True)
def _code(symbols, words, learned, decoding):
    channels, depth, height, width = symbols.shape
    low, start = 0, 3 if decoding else 0
    for position in range(start):
        low = low << 16 | read(words, position)
    coder = (low, 1 << 48, start)
    energy = np.zeros((depth, height + 2, width + 2), np.int32)
    before, beside = np.zeros((height, width), np.int32), np.zeros((height, width), np.int32)
    sizes, above = np.zeros((height + 2, width + 4), np.int32), np.zeros(width, np.int32)
    still, pulls = np.zeros((height, width), symbols.dtype), np.zeros(8, np.int64)
    for channel in range(channels):
        mode, coder = _code_mode(
            coder, words, learned, 0 if decoding else _mode(symbols[channel], still, pulls), decoding
        )
        if mode:
            _forget(learned)
            for at in range(_SIGN, _PREDICTED):
                learned[at] = learned[at] & ~SEEN | min(learned[at] & SEEN, _TRUST)
        _begin(pulls)
        beside[:] = 0
        for z in range(depth):
            sizes[:] = 0
            if mode:
                plane, last = symbols[channel, z], symbols[channel, z - 1] if z > 0 else still
                _blur(energy[z], before)
                for y in range(height):
                    _sum_above(sizes, above, y)
                    coder = _row(
                        coder, words, plane, last, y, above, beside, before, sizes, learned, pulls, mode, decoding
                    )
                _sum_beside(sizes, beside)
            _remember(energy[z], sizes)
    return coder


@announced("the ctx encoder of three axes (ten seconds)", range_coder, ctx_kernel)
@njit(cache=True, nogil=True)
def encode(symbols, words, learned):
    """Code symbols (c, slices, rows, columns) into uint16 `words`; how many are needed, perhaps more than fit."""
    return finish(_code(symbols, words, learned, False), words)


@announced("the ctx decoder of three axes (ten seconds)", range_coder, ctx_kernel)
@njit(cache=True, nogil=True)
def decode(symbols, words, learned):
    """Fill symbols (c, slices, rows, columns) from uint16 `words`; how many it asked for, -1 if one does not fit."""
    asked = _code(symbols, words, learned, True)[2]
    return -1 if learned[_PAST] else asked
