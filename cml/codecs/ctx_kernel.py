"""The compiled part of the `ctx` back-end for signals of one and two axes: the model of the symbols.

kernel --> _row --> _symbol --> _magnitude      what is coded, under which context, through `range_coder`
"""

import numpy as np
from numba import njit

from cml.codecs import range_coder
from cml.codecs.compiled import announced
from cml.codecs.range_coder import (
    EXTRA,
    LEVEL,
    LEVELS,
    SEEN,
    code_bit,
    code_escape,
    code_mixed,
    code_single,
    finish,
    inlined,
    leaf,
    level_of,
    read,
)

# The model.
_TRUST = 12  # what a new channel believes of what the last one saw
_WEIGHT = 26000  # of each probability in a mixture, to begin with
_BLOCK = 8
_QUIET = 8  # surroundings below which a block of zeros is one bit
_FEW = 24  # levels of expected magnitude, those that tell zero from nonzero
_UNARY = 14  # steps of a magnitude with a probability of their own
_DENSE = 17  # level from which low bits of a magnitude are coded as they are
_CLASSES = 6
_LARGEST = 131_072  # no magnitude of int16 symbols or of their differences is larger
_LOUD = 4095  # magnitudes count for later channels up to this

# Where each probability, or pair of weights, is in the one array of what is learned.
_ZERO_SHARED = 0
_ZERO_CHANNEL = _ZERO_SHARED + _FEW * _FEW
_QUIET_CHANNEL = _ZERO_CHANNEL + _FEW
_STEP_SHARED = _QUIET_CHANNEL + 4
_STEP_CHANNEL = _STEP_SHARED + LEVELS * _UNARY
_SIGN_CHANNEL = _STEP_CHANNEL + _CLASSES * _UNARY
_LENGTH = _SIGN_CHANNEL + 9
_MODE = _LENGTH + EXTRA
_ZERO_WEIGHTS = _MODE + 2
_STEP_WEIGHTS = _ZERO_WEIGHTS + 2
_PAST = _STEP_WEIGHTS + 2  # not learned: whether a symbol was decoded that its type does not hold
_SIZE = _PAST + 1


def initial() -> np.ndarray:
    """What is known before the first symbol, int32 (_SIZE,): it was small nearby, so it is small, as photographs go."""

    def state(ones: int, seen: int = 4) -> int:
        return ones << 8 | seen

    def larger(expected: int, half: int) -> int:
        """Probability that a magnitude passes a bound, 1/2 where what is expected is `half`."""
        return min(max(65536 * expected**2 // (expected**2 + half**2), 256), 65280)

    least = [int(np.searchsorted(LEVEL, k % 36)) << k // 36 * 12 for k in range(LEVELS)]
    zero = [state(larger(4 * near + before // 3, 44)) for near in least[:_FEW] for before in least[:_FEW]]
    zero += [state(larger(e, 44)) for e in least[:_FEW]]
    steps = []
    for k in [*range(LEVELS), *range(7, 7 + 3 * _CLASSES, 3)]:
        first = larger(least[k] >> max(0, k - _DENSE) // 3, 73)
        steps += [state(first)] + [state(max(first, 12000))] * (_UNARY - 1)
    rest = [state(32768)] * (9 + EXTRA) + [state(60000), state(6000)] + [_WEIGHT] * 4 + [0]
    return np.array([*zero, *[state(512, 4)] * 4, *steps, *rest], np.int32)


@inlined
def _magnitude(coder, words, learned, level, magnitude, decoding):
    """Code a magnitude >= 1: all but its low bits in steps of one, then, where magnitudes are large, the low bits."""
    low_bits = max(0, level - _DENSE) // 3
    shared = _STEP_SHARED + level * _UNARY
    channel = _STEP_CHANNEL + min(max(0, level - 6) // 3, _CLASSES - 1) * _UNARY
    high = (magnitude - 1) >> low_bits
    more, found = 1, 0
    while more and found < _UNARY:
        bit = 1 if high > found else 0
        more, coder = code_mixed(coder, words, learned, shared + found, channel + found, _STEP_WEIGHTS, bit, decoding)
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
def _at(symbols, channel, y, x):
    """A symbol in a type that holds sums of several: `int` widens it when interpreted, `0 +` when compiled."""
    return 0 + int(symbols[channel, y, x])


@inlined
def _predict(symbols, channel, y, x):
    """Median edge detector: the median of left, above, and left + above - corner."""
    left = _at(symbols, channel, y, x - 1) if x > 0 else (_at(symbols, channel, y - 1, x) if y > 0 else 0)
    above = _at(symbols, channel, y - 1, x) if y > 0 else left
    corner = _at(symbols, channel, y - 1, x - 1) if y > 0 and x > 0 else above
    return max(min(left + above - corner, max(left, above)), min(left, above))


@inlined
def _signs(symbols, channel, y, x):
    """0 to 8: the signs of the symbols to the left and above."""
    left = _at(symbols, channel, y, x - 1) if x > 0 else 0
    above = _at(symbols, channel, y - 1, x) if y > 0 else 0
    return 4 + 3 * min(max(left, -1), 1) + min(max(above, -1), 1)


@inlined
def _symbol(coder, words, symbols, channel, y, x, near, before, learned, smooth, decoding):
    """Code one symbol between neighbours of weighted magnitude `near` (11 x their mean) and `before` (128 x)."""
    level = level_of((8 * near + before) >> 2)
    shared = _ZERO_SHARED + min(level_of(near), _FEW - 1) * _FEW + min(level_of(before >> 1), _FEW - 1)
    centre = _predict(symbols, channel, y, x) if smooth else 0
    value = 0 if decoding else _at(symbols, channel, y, x) - centre
    size = abs(value)
    own = _ZERO_CHANNEL + min(level, _FEW - 1)
    some, coder = code_mixed(coder, words, learned, shared, own, _ZERO_WEIGHTS, 1 if size else 0, decoding)
    if some:
        sign = _SIGN_CHANNEL + (4 if smooth else _signs(symbols, channel, y, x))
        negative, coder = code_single(coder, words, learned, sign, 1 if value < 0 else 0, decoding)
        size, coder = _magnitude(coder, words, learned, level, size, decoding)
        value = -size if negative else size
    if decoding:
        most = (1 << 8 * symbols.itemsize - 1) - 1
        found = min(max(value + centre, -most - 1), most)
        symbols[channel, y, x] = found
        if found != value + centre:
            learned[_PAST] = 1
    return size, coder


@inlined
def _row(coder, words, symbols, channel, y, above, before, sizes, learned, smooth, decoding):
    """Code a line. Where all around a block of eight is quiet, one bit says that it is all zeros."""
    width = symbols.shape[2]
    x = left = left2 = 0
    while x < width:
        stop = min(width, x + _BLOCK)
        if not smooth and left == 0 and stop == x + _BLOCK:
            noise = 0
            for i in range(x, stop):
                noise = max(noise, 8 * above[i] + before[y, i])
            if noise < _QUIET:
                some = 0
                if not decoding:
                    for i in range(x, stop):
                        some |= int(symbols[channel, y, i])
                at = _QUIET_CHANNEL + noise * 4 // _QUIET
                some, coder = code_single(coder, words, learned, at, 1 if some else 0, decoding)
                if not some:
                    x, left2 = stop, 0
                    continue
        while x < stop:
            near = above[x] + 3 * left + left2
            size, coder = _symbol(coder, words, symbols, channel, y, x, near, before[y, x], learned, smooth, decoding)
            sizes[y + 2, x + 2] = size
            x, left, left2 = x + 1, size, left
    return coder


@leaf
def _sum_above(sizes, above, y):
    """Weighted magnitudes of the lines above line y; `sizes` has two rows and columns of zeros around the plane."""
    for x in range(above.size):
        above[x] = sizes[y + 1, x + 1] + 3 * sizes[y + 1, x + 2] + 2 * sizes[y + 1, x + 3] + sizes[y, x + 2]


@leaf
def _blur(energy, before):
    """A binomial 3x3 filter; `energy` has a row and column of zeros around the plane."""
    for y in range(before.shape[0]):
        for x in range(before.shape[1]):
            side = energy[y, x + 1] + energy[y + 2, x + 1] + energy[y + 1, x] + energy[y + 1, x + 2]
            corner = energy[y, x] + energy[y, x + 2] + energy[y + 2, x] + energy[y + 2, x + 2]
            before[y, x] = (4 * energy[y + 1, x + 1] + 2 * side + corner) >> 2


@leaf
def _remember(energy, sizes):
    """The decaying magnitude of the channels so far, 32 x their mean."""
    for y in range(energy.shape[0] - 2):
        for x in range(energy.shape[1] - 2):
            old = energy[y + 1, x + 1]
            energy[y + 1, x + 1] = old - (old >> 3) + 4 * min(sizes[y + 2, x + 2], _LOUD)


@leaf
def _forget(learned):
    """A new channel begins where the last one ended, but learns faster."""
    for at in range(_ZERO_CHANNEL, _LENGTH):
        if at < _STEP_SHARED or at >= _STEP_CHANNEL:
            learned[at] = learned[at] & ~SEEN | min(learned[at] & SEEN, _TRUST)


@leaf
def _mode(symbols, channel):
    """0: all zero; 2: smooth, differences to the left are smaller than the symbols; 1: neither."""
    _, height, width = symbols.shape
    first = plain = difference = 0
    for y in range(height):
        first += abs(_at(symbols, channel, y, 0))
        for x in range(1, width):
            plain += abs(_at(symbols, channel, y, x))
            difference += abs(_at(symbols, channel, y, x) - _at(symbols, channel, y, x - 1))
    return 0 if first + plain == 0 else 2 if difference < plain else 1


@njit(forceinline=True)
def _code(symbols, words, learned, decoding):
    channels, height, width = symbols.shape
    low, start = 0, 3 if decoding else 0
    for position in range(start):
        low = low << 16 | read(words, position)
    coder = (low, 1 << 48, start)
    energy = np.zeros((height + 2, width + 2), np.int32)
    before = np.zeros((height, width), np.int32)
    sizes = np.zeros((height + 2, width + 4), np.int32)
    above = np.zeros(width, np.int32)
    for channel in range(channels):
        mode = 0 if decoding else _mode(symbols, channel)
        some, coder = code_single(coder, words, learned, _MODE, 1 if mode else 0, decoding)
        sizes[:] = 0
        if some:
            smooth, coder = code_single(coder, words, learned, _MODE + 1, mode >> 1, decoding)
            _forget(learned)
            _blur(energy, before)
            for y in range(height):
                _sum_above(sizes, above, y)
                coder = _row(coder, words, symbols, channel, y, above, before, sizes, learned, smooth, decoding)
        _remember(energy, sizes)
    return coder


@announced("the ctx encoder (ten seconds)", range_coder)
@njit(cache=True, nogil=True)
def encode(symbols, words, learned):
    """Code symbols (c, rows, columns) into uint16 `words`; returns how many are needed, perhaps more than fit."""
    return finish(_code(symbols, words, learned, False), words)


@announced("the ctx decoder (ten seconds)", range_coder)
@njit(cache=True, nogil=True)
def decode(symbols, words, learned):
    """Fill symbols (c, rows, columns) from uint16 `words`; how many it asked for, -1 if a symbol does not fit."""
    asked = _code(symbols, words, learned, True)[2]
    return -1 if learned[_PAST] else asked
