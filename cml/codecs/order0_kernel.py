"""The compiled part of the `order0` back-end: four interleaved rANS coders under a table of two numbers a block.

    encode --> _choose --> _encoder_table --> _split --> _push_block
    decode -------------> _decoder_table --> _pull_block --> _join

A segment is two stacks that meet. The four states and the words of the coders grow down from the middle; from there the
bits of everything else grow up: of each block its model, what its table does not hold, the low bits of large symbols.
What is pushed last is popped first: the encoder begins with the last block and the last symbol.

All numbers are integers: the bytes are the same on every machine. Where speed counts they are unsigned, which spares a
test for an index from the end, or of few bits, for vector instructions; mixing signed and unsigned makes floats.
All stands in one file, the only one of which the cache of compiled code sees changes.
"""

from typing import Any

import numpy as np
from numba import njit
from numba import uint64 as word  # as a function, it makes a number unsigned

from cml.codecs.compiled import announced

BLOCK = 1024  # symbols at most that share a model
_LANES = 4  # coders, of which each takes every fourth symbol
_SCALE = 4096  # the sum of a table's counts
_LEAST = 1 << 16  # no state is below that between two symbols
_LARGEST = 127  # the largest magnitude that a table may hold
_DENSE = 24  # where the mean magnitude is larger, low bits are stored as they are

# Probability of a zero, and ratio of successive magnitudes, in units of 2^-16, at evenly spaced logits.
_ZERO = np.array((
    3108, 5793, 10412, 17625, 27357, 38179, 47911, 55124, 59743, 62428, 63903, 64687, 65097, 65310, 65420, 65476,
))  # fmt: skip
_DECAY = np.array((
    3108, 4820, 7365, 11009, 15961, 22233, 29502, 37111, 44272, 50366, 55124, 58596, 61005, 62619, 63676, 64357,
))  # fmt: skip
_LEVELS = 16  # of each


def _bits(share: np.ndarray) -> np.ndarray:
    """Code lengths in 1/4096 bit, integers, so that the choice of a model does not hang on a last float digit."""
    return np.round(-4096 * np.log2(share)).astype(np.int64)


_COST_ZERO, _COST_NONZERO = _bits(_ZERO / 65536), _bits((1 - _ZERO / 65536) / 2)
_COST_FIRST, _COST_NEXT = _bits(1 - _DECAY / 65536), _bits(_DECAY / 65536)
# Rounded up, they divide states below 2^20 x count exactly, and no product passes 64 bits.
_RECIPROCAL = np.array([0] + [-(-(1 << 44) // count) for count in range(1, _SCALE)], np.uint64)

_UNCOUNTED: dict[str, Any] = {"_nrt": False}  # who allocates nothing need not count references, which takes time
_leaf = njit(**_UNCOUNTED)
_inlined = njit(forceinline=True, **_UNCOUNTED)


@_inlined
def _copy(source, start, target, count):
    """As slices do, several times faster: numba does not assign them by vector instructions."""
    for i in range(word(count)):
        target[i] = source[word(start) + i]


@_inlined
def _clear(target, start, stop):
    for i in range(word(start), word(stop)):
        target[i] = 0


@_inlined
def _half(shift):
    """What is added before a shift, so that it rounds."""
    return np.int32(1 << shift >> 1)


@_leaf
def _measure(values, shift):
    """How many high parts of the values are not zero, and the sum of their magnitudes."""
    nonzero = total = np.int32(0)
    for i in range(values.size):
        size = np.int32(abs(np.int32(np.int32(values[i]) + _half(shift)) >> np.int32(shift)))
        nonzero = np.int32(nonzero + np.int32(size != 0))
        total = np.int32(total + size)
    return np.int64(nonzero), np.int64(total)


@_leaf
def _choose(values, width):
    """The shift and the model that suit values, what they cost in 1/4096 bit, and the sum of all magnitudes."""
    count = values.size
    nonzero, total = _measure(values, 0)
    high_total, shift = total, 0
    while total >> shift > _DENSE * count:
        shift += 1
    if shift:
        nonzero, high_total = _measure(values, shift)
    zero = decay = 0
    cost_zero = cost_decay = 1 << 62
    for level in range(_LEVELS):
        cost = (count - nonzero) * _COST_ZERO[level] + nonzero * _COST_NONZERO[level]
        if cost < cost_zero:
            zero, cost_zero = level, cost
        cost = nonzero * _COST_FIRST[level] + (high_total - nonzero) * _COST_NEXT[level]
        if cost < cost_decay:
            decay, cost_decay = level, cost
    cost, most = cost_zero + cost_decay + (shift * count << 12), width * count << 12
    if cost > most:
        # Noise: all bits are low bits, and all high parts are zero.
        return width, (_LEVELS - 1) * _LEVELS, most, total
    return shift, zero * _LEVELS + decay, cost, total


@_leaf
def _counts(model, counts):
    """Fill in the counts of 0, 1, 2, ..., each of both signs, and of the escape; the largest magnitude before that."""
    left = (65536 - _ZERO[model // _LEVELS]) * (_SCALE // 2)
    decay = _DECAY[model % _LEVELS]
    weight = left * (65536 - decay) >> 16
    largest = used = 0
    # Rare magnitudes get a count as long as it is not much more than they deserve; the escape has what is left.
    while largest == 0 or (largest < _LARGEST and weight > 40000):
        largest += 1
        counts[largest] = max(weight >> 16, 1)
        used += 2 * counts[largest]
        left -= weight
        weight = weight * decay >> 16
    counts[largest + 1] = max(left >> 15, 1)
    counts[0] = _SCALE - used - counts[largest + 1]
    return largest


@_leaf
def _encoder_table(model, counts, reciprocals, entries):
    """Fill in what `_push` needs of the symbols, of which the first is the escape; returns that."""
    largest, start = _counts(model, counts), 0
    for symbol in range(-largest - 1, largest + 1):
        count = counts[abs(symbol)]
        reciprocals[symbol & 255] = _RECIPROCAL[count]
        entries[symbol & 255] = count << 52 | (_SCALE - count) << 16 | start
        start += count
    return -largest - 1


@_leaf
def _decoder_table(model, counts, table):
    """Fill in, for each remainder of a state, its symbol, the symbol's count, and the place within it; the escape."""
    largest, start = _counts(model, counts), 0
    for symbol in range(-largest - 1, largest + 1):
        count = counts[abs(symbol)]
        entry = (symbol & 255) | count << 8
        for i in range(count):
            table[word(start + i)] = entry | i << 20
        start += count
    return -largest - 1


@_inlined
def _push(state, position, i, symbols, reciprocals, entries, words):
    symbol = word(np.uint8(symbols[i]))
    entry = entries[symbol]
    # Written always and kept sometimes: a branch here would be taken at random.
    words[position] = state & word(65535)
    full = state >= entry >> word(32)
    state = state >> word(16) if full else state
    position -= word(1) if full else word(0)
    quotient = state * reciprocals[symbol] >> word(44)
    return state + quotient * (entry >> word(16) & word(65535)) + (entry & word(65535)), position


@_leaf
def _push_block(symbols, reciprocals, entries, words, position, states):
    """Code int8 symbols, a multiple of four, the last one first, into words below `position`; the new position."""
    a, b, c, d = states[0], states[1], states[2], states[3]
    i, position = word(symbols.size), word(position)
    while i > word(0):
        i -= word(4)
        d, position = _push(d, position, i + word(3), symbols, reciprocals, entries, words)
        c, position = _push(c, position, i + word(2), symbols, reciprocals, entries, words)
        b, position = _push(b, position, i + word(1), symbols, reciprocals, entries, words)
        a, position = _push(a, position, i, symbols, reciprocals, entries, words)
    states[0], states[1], states[2], states[3] = a, b, c, d
    return np.int64(position)


@_inlined
def _pull(state, position, i, symbols, table, words):
    entry = word(table[state & word(_SCALE - 1)])
    symbols[i] = np.int8(np.uint8(entry))
    state = (entry >> word(8) & word(_SCALE - 1)) * (state >> word(12)) + (entry >> word(20))
    longer = state << word(16) | word(words[position])
    short = state < word(_LEAST)
    position += word(1) if short else word(0)
    return longer if short else state, position


@_leaf
def _pull_block(symbols, table, words, states):
    """Find int8 symbols, a multiple of four; how many words they took, at most one each."""
    a, b, c, d = states[0], states[1], states[2], states[3]
    i, position = word(0), word(0)
    while i < word(symbols.size):
        a, position = _pull(a, position, i, symbols, table, words)
        b, position = _pull(b, position, i + word(1), symbols, table, words)
        c, position = _pull(c, position, i + word(2), symbols, table, words)
        d, position = _pull(d, position, i + word(3), symbols, table, words)
        i += word(4)
    states[0], states[1], states[2], states[3] = a, b, c, d
    return np.int64(position)


@_inlined
def _put(stack, raw, value, width):
    """Push a few bits onto the stack, which grows up in `raw`."""
    top, hold, held = stack
    hold, held = hold | (value & ((1 << width) - 1)) << held, held + width
    while held >= 8:
        raw[top] = hold & 255
        top, hold, held = top + 1, hold >> 8, held - 8
    return top, hold, held


@_inlined
def _get(stack, raw, bottom, width):
    """Pop bits; what is below `bottom` counts as zeros."""
    top, hold, held = stack
    while held < width:
        top -= 1
        hold = hold << 8 | (np.int64(raw[top]) if top >= bottom else 0)
        held += 8
    held -= width
    return hold >> held, (top, hold & ((1 << held) - 1), held)


@_leaf
def _difference(values, changes):
    """Differences to the value before, which wrap."""
    changes[0] = values[0]
    for i in range(word(1), word(values.size)):
        changes[i] = changes.dtype.type(np.int32(values[i]) - np.int32(values[i - word(1)]))


@_inlined
def _escapes(high, escape, start):
    """Whether one of 64 is the escape; few are, and most of them are passed over by this at once."""
    found = np.int32(0)
    for i in range(word(64)):
        found = np.int32(found | np.int32(high[word(start) + i] == np.int8(escape)))
    return found


@_leaf
def _split(values, shift, escape, high, stack, raw, width):
    """The high parts of values, or the escape; the rest is pushed: low bits, and then what escapes."""
    half = np.int64(_half(shift))
    for i in range(values.size):
        value = np.int32(np.int32(np.int32(values[i]) + _half(shift)) >> np.int32(shift))
        far = np.int32(abs(value)) >= np.int32(-escape)
        high[i] = np.int8(escape) if far else np.int8(value)
    _clear(high, values.size, high.size)
    for i in range(values.size - 1 if shift else -1, -1, -1):
        stack = _put(stack, raw, np.int64(values[i]) + half, shift)
    for start in range((values.size - 1) & -64, -1, -64):
        if _escapes(high, escape, start):
            for i in range(min(start + 64, values.size) - 1, start - 1, -1):
                if high[i] == escape:
                    stack = _put(stack, raw, np.int64(values[i]) + half >> shift, width)
    return stack


@_leaf
def _join(symbols, start, values, differences, shift, escape, high, stack, raw, bottom, width):
    """What `_split` took apart, modulo 2^8 or 2^16, written where it belongs, as it is or summed up."""
    for i in range(values.size):
        values[i] = np.int32(np.int32(np.int32(high[i]) << np.int32(shift) & np.int32(0xFFFF)) - _half(shift))
    for piece in range(0, values.size, 64):
        if _escapes(high, escape, piece):
            for i in range(piece, min(piece + 64, values.size)):
                if high[i] == escape:
                    found, stack = _get(stack, raw, bottom, width)
                    values[i] = (found << shift & 0xFFFF) - _half(shift)
    for i in range(values.size if shift else 0):
        found, stack = _get(stack, raw, bottom, shift)
        values[i] += found
    total = np.int32(0)
    for i in range(word(values.size)):
        total = np.int32(total + values[i]) if differences else values[i]
        symbols[word(start) + i] = symbols.dtype.type(total)
    return stack


@_inlined
def _span(block, size, step):
    """Where a block of a channel of `size` symbols begins, how many symbols it has, and with those that fill it up."""
    channel, number = divmod(block, -(-size // step))
    count = min(step, size - number * step)
    return channel * size + number * step, count, (count + _LANES - 1) // _LANES * _LANES


@announced("the order0 encoder (five seconds)")
@njit(cache=True, nogil=True)
def encode(symbols, size, step, first, last):
    """The bytes of blocks `first` to `last` of flat symbols, in channels of `size` symbols and blocks of `step`."""
    width = 8 * symbols.itemsize
    # Room for a word of each symbol, and twice its bits for the rest of it: never more, and mostly never touched.
    middle = (last - first) * (step + _LANES) + 16
    out = np.empty(middle + (last - first) * (step * symbols.itemsize + 1) + 16, np.uint16)
    raw = out.view(np.uint8)
    position, stack = middle - 1, (2 * middle, 0, 0)  # the stack: where it ends, the bits held back, how many
    states = np.full(_LANES, _LEAST, np.uint64)
    counts = np.empty(_LARGEST + 2, np.int64)
    reciprocals, entries = np.empty(256, np.uint64), np.empty(256, np.uint64)
    all_plain, all_changes = np.empty(step, symbols.dtype), np.empty(step, symbols.dtype)
    high = np.empty((step + 63) // 64 * 64, np.int8)
    known, escape = -1, 0  # the model of the tables, and the symbol that stands for all that they do not hold
    for block in range(last - 1, first - 1, -1):
        start, count, full = _span(block, size, step)
        values, changes = all_plain[:count], all_changes[:count]
        _copy(symbols, start, values, count)
        shift, model, cost, total = _choose(values, width)
        if total == 0:
            stack = _put(stack, raw, 0, 1)
            continue
        _difference(values, changes)
        shift_changes, model_changes, cost_changes, _ = _choose(changes, width)
        differences = cost_changes < cost
        if differences:
            values, shift, model = changes, shift_changes, model_changes
        if model != known:
            escape, known = _encoder_table(model, counts, reciprocals, entries), model
        stack = _split(values, shift, escape, high, stack, raw, width)
        position = _push_block(high[:full], reciprocals, entries, out, position, states)
        stack = _put(stack, raw, model, 8)
        stack = _put(stack, raw, shift, 5 if shift else 0)
        stack = _put(stack, raw, 4 | differences << 1 | (shift > 0), 3)
    if known < 0:
        return raw[:0]
    for lane in range(_LANES - 1, -1, -1):
        position -= 2
        out[position + 1] = states[lane] & word(65535)
        out[position + 2] = states[lane] >> word(16)
    stack = _put(stack, raw, 1, 8)  # one bit to tell where the bits end, and what may fill the last byte
    return raw[2 * position + 2 : stack[0]]


@njit
def _decode(symbols, payload, bottom, top, size, step, first, last):
    """Fill blocks `first` to `last` of symbols from the segment between `bottom` and `top`; whether it can be one."""
    width = 8 * symbols.itemsize
    states = np.empty(_LANES, np.uint64)
    counts = np.empty(_LARGEST + 2, np.int64)
    table = np.empty(_SCALE, np.uint32)
    words = np.empty(step + 2 * _LANES, np.uint16)
    word_bytes = words.view(np.uint8)
    high, all_values = np.empty((step + 63) // 64 * 64, np.int8), np.empty(step, np.int32)
    position, known, escape = bottom + 4 * _LANES, -1, 0
    if top <= position or payload[top - 1] == 0:
        return False
    _copy(payload, bottom, word_bytes, 4 * _LANES)
    for lane in range(_LANES):
        states[lane] = word(words[2 * lane]) | word(words[2 * lane + 1]) << word(16)
    hold, held = np.int64(payload[top - 1]), 7
    while hold >> held == 0:
        held -= 1
    stack = top - 1, hold & ((1 << held) - 1), held
    for block in range(first, last):
        start, count, full = _span(block, size, step)
        some, stack = _get(stack, payload, bottom, 1)
        if not some:
            _clear(symbols, start, start + count)
            continue
        flags, stack = _get(stack, payload, bottom, 2)
        shift, stack = _get(stack, payload, bottom, 5 * (flags & 1))
        model, stack = _get(stack, payload, bottom, 8)
        if model != known:
            escape, known = _decoder_table(model, counts, table), model
        # A copy of as many words as the block can ask for: `_pull_block` need not look where they end.
        near = min(2 * full, top - position)
        _copy(payload, position, word_bytes, near)
        _clear(word_bytes, near, 2 * full)
        position += 2 * _pull_block(high[:full], table, words, states)
        if position > top or shift > width:
            return False
        values, changes = all_values[:count], flags >> 1
        stack = _join(symbols, start, values, changes, shift, escape, high, stack, payload, bottom, width)
    # Both stacks are empty, and the coders are where they began.
    return stack[0] == position and stack[2] == 0 and np.all(states == _LEAST)


@announced("the order0 decoder (five seconds)")
@njit(cache=True, nogil=True)
def decode(symbols, payload, bounds, size, step, blocks, segments, first, last):
    """Fill the flat symbols of arrays, each of so many blocks and segments; whether the bytes between `bounds` fit."""
    for segment in range(first, last):
        array, part = divmod(segment, segments)
        begin, end = array * blocks + blocks * part // segments, array * blocks + blocks * (part + 1) // segments
        bottom, top = bounds[2 * segment], bounds[2 * segment + 1]
        if bottom == top:
            start, count, _ = _span(end - 1, size, step)
            _clear(symbols, _span(begin, size, step)[0], start + count)
        elif not _decode(symbols, payload, bottom, top, size, step, begin, end):
            return False
    return True
