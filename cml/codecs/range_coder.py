"""A compiled range coder of bits, and the adaptive probabilities under which they are coded.

    code_single, code_mixed, code_escape      a bit or a number, its probability, and what is learned from it
                --> code_bit                  the range coder

Encoder and decoder are one text: every function takes `decoding` and codes a bit that it is given, or finds it. Both
run on integers alone, none of which passes 62 bits, so that they agree on every machine, compiled or not. Models, which
say what is coded under which context, compile all of it into kernels of their own.
"""

from typing import Any

import numpy as np
from numba import njit

# The coder: an interval of at most 48 bits, which leaves by 16-bit words when it is below 2^32.
_FLOOR = 1 << 32
_LEAST, _MOST = 32, 65504  # probabilities in units of 2^-16
# Adaptive probability: 16 bits of probability of a one and 8 bits of how often it was seen.
SEEN = 255
RATE = np.array([655360 // (10 * n + 16) for n in range(121)])  # by how much it moves, in units of 2^-16
# Logistic mixing, in units of 1/256 nat and weights of 2^-16.
LOGIT = 2047
_MIXING = 13  # shift of the learning rate
LARGEST_WEIGHT = 1 << 20
LEVELS = 64  # levels of expected magnitude, three an octave
EXTRA = 18  # steps of the length of a number in Exp-Golomb


def squash_table() -> np.ndarray:
    """65536 / (1 + exp(-d / 256)) for d = -2048 ... 2047, by integers, since a libm may round as it likes."""
    ratio, power, half = 18374827034086858296, 1 << 64, []  # floor(2^64 exp(-1/256))
    for _ in range(2049):
        half.append((65536 << 64) // ((1 << 64) + power))
        power = power * ratio >> 64
    return np.array([65536 - p for p in half[:0:-1]] + half[:2048])


def stretch_table(squash: np.ndarray) -> np.ndarray:
    """The inverse of the squash table at the middles of 4096 equal parts."""
    upper = np.minimum(np.searchsorted(squash, np.arange(2048, 4096) * 16 + 8) - 2048, LOGIT)
    return np.concatenate([-upper[::-1], upper])


def level_table() -> np.ndarray:
    """The rounded 3 log2(1 + e / 2) for e = 0 ... 4095: the largest k with (e + 2)^6 >= 2^(2k + 5), or 0."""
    return np.array([max(((e + 2) ** 6).bit_length() - 6, 0) // 2 for e in range(4096)])


# In small types: tables that fill the nearest cache push out what is learned.
SQUASH = np.clip(squash_table(), _LEAST, _MOST).astype(np.int32)
STRETCH = stretch_table(squash_table()).astype(np.int16)
LEVEL = level_table().astype(np.int8)


# Kernels that only call each other hold no reference of their own to an array; counting them would take longer than
# the work. Those that allocate do count.
_UNCOUNTED: dict[str, Any] = {"_nrt": False}
leaf = njit(**_UNCOUNTED)
inlined = njit(forceinline=True, **_UNCOUNTED)


@leaf
def emit(low, words, position):
    """Write the top word of the interval's lower end, with its carry; past the end of `words` only count."""
    word = low >> 32
    if position < words.size:
        if word >> 16:
            back = position - 1
            while words[back] == 65535:
                words[back] = 0
                back -= 1
            words[back] += 1
        words[position] = word & 65535
    return (low & 0xFFFFFFFF) << 16


@inlined
def read(words, position):
    return int(words[position]) if position < words.size else 0


@inlined
def code_bit(coder, words, ones, bit, decoding):
    """Code one bit that is 1 with probability ones / 65536; `low` is how far the code is above it when decoding."""
    low, width, position = coder
    upper = (width >> 16) * ones
    lower = width - upper
    if decoding:
        bit = 1 if low >= lower else 0
        low -= lower if bit else 0
    else:
        low += lower if bit else 0
    width = upper if bit else lower
    if width < _FLOOR:
        width <<= 16
        low = low << 16 | read(words, position) if decoding else emit(low, words, position)
        position += 1
    return bit, (low, width, position)


@inlined
def learn(learned, at, bit):
    state = int(learned[at])
    seen, ones = state & SEEN, state >> 8
    if bit:
        ones += (65535 - ones) * RATE[seen] >> 16
    else:
        ones -= ones * RATE[seen] >> 16
    learned[at] = ones << 8 | min(seen + 1, RATE.size - 1)


@inlined
def code_single(coder, words, learned, at, bit, decoding):
    """Code a bit under one adaptive probability."""
    ones = min(max(int(learned[at]) >> 8, _LEAST), _MOST)
    bit, coder = code_bit(coder, words, ones, bit, decoding)
    learn(learned, at, bit)
    return bit, coder


@inlined
def code_mixed(coder, words, learned, first, second, weights, bit, decoding):
    """Code a bit under two adaptive probabilities, mixed as logits with weights that learn to code it well."""
    a, b = int(STRETCH[int(learned[first]) >> 12]), int(STRETCH[int(learned[second]) >> 12])
    weight_a, weight_b = int(learned[weights]), int(learned[weights + 1])
    logit = min(max((weight_a * a + weight_b * b) >> 16, -LOGIT), LOGIT)
    ones = int(SQUASH[logit + 2048])
    bit, coder = code_bit(coder, words, ones, bit, decoding)
    error = (65535 if bit else 0) - ones
    learned[weights] = min(max(weight_a + (a * error >> _MIXING), -LARGEST_WEIGHT), LARGEST_WEIGHT)
    learned[weights + 1] = min(max(weight_b + (b * error >> _MIXING), -LARGEST_WEIGHT), LARGEST_WEIGHT)
    learn(learned, first, bit)
    learn(learned, second, bit)
    return bit, coder


@inlined
def level_of(energy):
    """The level of a number >= 0, three an octave."""
    if energy < LEVEL.size:
        return int(LEVEL[energy])
    return min(int(LEVEL[min(energy >> 12, LEVEL.size - 1)]) + 36, LEVELS - 1)


@inlined
def code_escape(coder, words, learned, lengths, value, decoding):
    """Code an integer >= 1 in Exp-Golomb: how many bits follow the first, one probability a step; then those bits."""
    bits, more, k = 0, 1, 0
    while not decoding and value >> (bits + 1):
        bits += 1
    while more and k < EXTRA:
        more, coder = code_single(coder, words, learned, lengths + k, 1 if k < bits else 0, decoding)
        k += more
    found = 1
    for place in range(k - 1, -1, -1):
        bit, coder = code_bit(coder, words, 32768, (value >> place) & 1, decoding)
        found = found << 1 | bit
    return found, coder


@leaf
def finish(coder, words):
    """Write what names the interval; returns how many words there are, perhaps more than fit."""
    low, width, position = coder
    # Of the numbers in the interval, the one that ends in the most zeros: those are not stored.
    zeros = 47
    while (low + (1 << zeros) - 1) >> zeros << zeros >= low + width:
        zeros -= 1
    emit((low + (1 << zeros) - 1) >> zeros << zeros, words, position)
    return position + 1
