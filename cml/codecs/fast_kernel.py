"""The compiled part of the fast path: wavelet packets by lifting and the product with the encoder, streamed.

    rows of the signal --_load--> phases (F, cells) --_lanes--> split along the last axis
      --> ring of the last six cells of rows --stream--> split along the axis before --project--> latents

A *cell* is what one position of the latent grid covers, F samples an axis; a *phase* is a sample's place in its cell.
With one row of memory a phase, every lifting step, of any level, is the same operation on whole rows, and in place.
Nothing is scaled: the gains of the filters are in the weights of the product.

The cache of compiled code sees changes of the file alone that a cached kernel is in. Whoever changes this file, or
`simd`, removes the caches (cml/codecs/__pycache__/*.nb?).
"""

from typing import Any

import numpy as np
from numba import njit

from cml.codecs.compiled import announced
from cml.codecs.simd import LANES, deal8, deal16, lift, load, multiply_add, splat, store, weave8, weave16
from cml.codecs.wavelet import LIFTING

RING = 6  # cells that a stream keeps
DELAY = 4  # cells between the arrival of a cell and its last change, and the reach of the filters, for every level
GUARD = LANES  # columns between rows; two would do, sixteen keep vectors on cache lines
WIDTH = 2 * LANES  # a row holds a multiple of these
BLOCK = 4  # rows of a product that are computed together

# What is done to the second to the fifth newest sample of a band when one more arrives: the lifting steps, or undone.
_STEPS = np.array([LIFTING, [-weight for weight in reversed(LIFTING)]], np.float32)

OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy"}
_compiled = njit(**OPTIONS)
_inlined = njit(forceinline=True, **OPTIONS)


@_inlined
def _lift(buffer, target, first, second, weight, length):
    """target += weight * (first + second), rows that begin at these places of `buffer`."""
    factor = splat(weight)
    for i in range(0, length, LANES):
        value = lift(load(buffer, target + i), load(buffer, first + i), load(buffer, second + i), factor)
        store(buffer, target + i, value)


@_compiled
def _lanes(buffer, base, hop, phases, pitch, rows, cells, length, levels, inverse):
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
                        _lift(buffer, odd, odd - skip, odd + skip, weight, length)
                    _lift(buffer, last, last - skip, low + 1, weight, length)
                else:
                    for r in range(rows):
                        buffer[last + r * pitch - 1] = buffer[low + skip + r * pitch]
                    for even in range(low + 2 * skip, last, 2 * skip):
                        _lift(buffer, even, even - skip, even + skip, weight, length)
                    _lift(buffer, low, last - 1, low + skip, weight, length)


@_inlined
def _before(row, stride, rows):
    """The row of a ring that is `stride` before another."""
    return row - stride if row >= stride else row - stride + rows


@_compiled
def _push_one(buffer, base, pitch, rows, stride, newest, inverse, length):
    """`_push` away from the ends, all four steps at once; `newest` is a row."""
    v0 = newest
    v1 = _before(v0, stride, rows)
    v2 = _before(v1, stride, rows)
    v3 = _before(v2, stride, rows)
    v4 = _before(v3, stride, rows)
    v5 = _before(v4, stride, rows)
    v0, v1, v2 = base + pitch * v0, base + pitch * v1, base + pitch * v2
    v3, v4, v5 = base + pitch * v3, base + pitch * v4, base + pitch * v5
    w1, w2 = splat(_STEPS[inverse, 0]), splat(_STEPS[inverse, 1])
    w3, w4 = splat(_STEPS[inverse, 2]), splat(_STEPS[inverse, 3])
    for i in range(0, length, LANES):
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
def _push_two(buffer, base, pitch, rows, stride, newest, inverse, length):
    """`_push_one` of the second newest sample but one, then of the newest: a third less of memory to move."""
    v0 = newest
    v1 = _before(v0, stride, rows)
    v2 = _before(v1, stride, rows)
    v3 = _before(v2, stride, rows)
    v4 = _before(v3, stride, rows)
    v5 = _before(v4, stride, rows)
    v6 = _before(v5, stride, rows)
    v7 = _before(v6, stride, rows)
    v0, v1, v2, v3 = base + pitch * v0, base + pitch * v1, base + pitch * v2, base + pitch * v3
    v4, v5, v6, v7 = base + pitch * v4, base + pitch * v5, base + pitch * v6, base + pitch * v7
    w1, w2 = splat(_STEPS[inverse, 0]), splat(_STEPS[inverse, 1])
    w3, w4 = splat(_STEPS[inverse, 2]), splat(_STEPS[inverse, 3])
    for i in range(0, length, LANES):
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
def _push(buffer, base, pitch, rows, stride, band, newest, count, length, inverse):
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
            )


@_compiled
def stream(buffer, base, pitch, phases, levels, cell, cells, length, inverse):
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
                    _push(buffer, base, pitch, rows, stride, band, sample, count, length, inverse)
                    pair += 1
                elif pair < newest and sample + 2 < count:
                    row = ((sample + 2) * stride + band) % rows
                    _push_two(buffer, base, pitch, rows, stride, row, inverse, length)
                    pair += 2
                else:
                    row = (sample * stride + band) % rows
                    _push_one(buffer, base, pitch, rows, stride, row, inverse, length)
                    pair += 1
        newest = 2 * (newest - 2) + 1


@_compiled
def _load(buffer, base, hop, phases, cells, line, start, room):
    """Samples start ... of a line of the signal to `cells` columns of phases; past its end the last one."""
    if phases not in (8, 16):
        whole = max(min(cells, (line.size - start) // phases), 0)
        for phase in range(phases):
            row = buffer[base + phase * hop : base + phase * hop + cells]
            for i in range(whole):
                row[i] = np.float32(line[start + i * phases + phase])
            for i in range(whole, cells):
                row[i] = np.float32(line[min(start + i * phases + phase, line.size - 1)])
        return
    for i in range(0, cells, LANES):
        at = start + i * phases
        if at + LANES * phases <= line.size:
            _deal(buffer, base + i, hop, phases, line, at)
        else:
            for k in range(LANES * phases):
                room[k] = line[min(at + k, line.size - 1)]
            _deal(buffer, base + i, hop, phases, room, 0)


@_inlined
def _deal(buffer, base, hop, phases, line, at):
    if phases == 8:
        deal8(buffer, base, hop, line, at)
    else:
        deal16(buffer, base, hop, line, at)


@_compiled
def _unload(line, start, buffer, base, hop, phases, left, right):
    """Phases, columns left ... right of them, to samples start ... of a line, held to [-1, 1]."""
    stop = min(line.size, start + (right - left) * phases)
    whole = (stop - start) // (LANES * phases) * LANES if phases in (8, 16) else 0
    for i in range(0, whole, LANES):
        if phases == 8:
            weave8(line, start + i * phases, buffer, base + left + i, hop)
        else:
            weave16(line, start + i * phases, buffer, base + left + i, hop)
    start += whole * phases
    for phase in range(phases):
        row = buffer[base + phase * hop + left + whole : base + phase * hop + right]
        for i in range((stop - start - phase + phases - 1) // phases):
            line[start + i * phases + phase] = min(max(row[i], np.float32(-1)), np.float32(1))


@_compiled
def project(out, at, hop, rows, base, pitch, lines, apart, weights, bias, fresh):
    """Four rows of a product, WIDTH columns: out = bias + weights (k, 4) @ rows (k, WIDTH), or += the product.

    They go to at, at + hop, ... of `out`; `rows` has `lines` of them from base, base + apart, ..., k in all.
    """
    if fresh:
        a0 = b0 = splat(bias[0])
        a1 = b1 = splat(bias[1])
        a2 = b2 = splat(bias[2])
        a3 = b3 = splat(bias[3])
    else:
        a0, b0 = load(out, at), load(out, at + LANES)
        a1, b1 = load(out, at + hop), load(out, at + hop + LANES)
        a2, b2 = load(out, at + 2 * hop), load(out, at + 2 * hop + LANES)
        a3, b3 = load(out, at + 3 * hop), load(out, at + 3 * hop + LANES)
    for group in range(weights.shape[0] // lines):
        for line in range(lines):
            place, k = base + group * apart + line * pitch, group * lines + line
            a, b = load(rows, place), load(rows, place + LANES)
            w0, w1, w2, w3 = splat(weights[k, 0]), splat(weights[k, 1]), splat(weights[k, 2]), splat(weights[k, 3])
            a0, b0 = multiply_add(a0, w0, a), multiply_add(b0, w0, b)
            a1, b1 = multiply_add(a1, w1, a), multiply_add(b1, w1, b)
            a2, b2 = multiply_add(a2, w2, a), multiply_add(b2, w2, b)
            a3, b3 = multiply_add(a3, w3, a), multiply_add(b3, w3, b)
    store(out, at, a0)
    store(out, at + LANES, b0)
    store(out, at + hop, a1)
    store(out, at + hop + LANES, b1)
    store(out, at + 2 * hop, a2)
    store(out, at + 2 * hop + LANES, b2)
    store(out, at + 3 * hop, a3)
    store(out, at + 3 * hop + LANES, b3)


@_compiled
def take(x, room, ring, plane, channel, where, levels):
    """One cell of rows of a plane of the signal into the ring of a channel, split along both axes where it can be."""
    first, height, begin, end, cell, left, cells, pitch = where
    down, across = 1 << levels[0], 1 << levels[1]
    hop = RING * down * pitch
    base = GUARD + channel * across * hop
    if cell < end:
        block = base + (cell - begin) % RING * down * pitch
        for k in range(down):
            line = min(cell * down + k, height - 1) - first
            _load(ring, block + k * pitch, hop, across, cells, x[plane, line], left * across, room)
        _lanes(ring, block, hop, across, pitch, down, cells, down * pitch - GUARD, levels[1], 0)
    for phase in range(across):
        stream(ring, base + phase * hop, pitch, down, levels[0], cell - begin, end - begin, pitch - GUARD, 0)


@announced("the encoder of pictures and sound")
@njit(cache=True, **OPTIONS)
def analyse(x, room, ring, where, levels, weights, bias, out):
    """Latents of a tile of a picture; sound is a picture of one row.

    Args:
        x: (C, rows, W), uint8, uint16 or float32; rows of the picture from number `where[0]` on.
        room: LANES * F samples.
        ring: float32 room for C * F * RING * F rows and GUARD.
        where: first row of x, height of the picture; first and last cell of rows to stream; first cell of rows of
            `out`, and how many; first cell of columns, and how many.
        levels: of the rows' axis and of the columns'.
        weights: (blocks, C * F * F, BLOCK), in the order channel, column, row; bias: (blocks, BLOCK).
        out: float32 room for (blocks * BLOCK, cells of rows, pitch - GUARD).
    """
    first, height, begin, end, top, lines, left, cells = where
    down = 1 << levels[0]
    length = -(-cells // WIDTH) * WIDTH
    pitch = length + GUARD
    delay = DELAY if levels[0] else 0
    for cell in range(begin, top + lines + delay):
        for channel in range(x.shape[0]):
            place = (first, height, begin, end, cell, left, cells, pitch)
            take(x, room, ring, channel, channel, place, levels)
        done = cell - delay
        if done >= top:
            base = GUARD + (done - begin) % RING * down * pitch
            for block in range(weights.shape[0]):
                at = (block * BLOCK * lines + done - top) * length
                for i in range(0, length, WIDTH):
                    project(
                        out, at + i, lines * length, ring, base + i, pitch, down, RING * down * pitch,
                        weights[block], bias[block], True,
                    )  # fmt: skip


@_inlined
def project_line(out, at, hop, rows, base, pitch, count, length, weights, bias):
    """BLOCK packets of a line of cells: rows of `out` from `count` rows of latents."""
    for i in range(0, length, WIDTH):
        project(out, at + i, hop, rows, base + i, pitch, count, 0, weights, bias, True)


@_compiled
def spread(latents, symbols, index, left, cells, pitch):
    """A line of cells of all latents, `symbols[:, index]` flat, as float32."""
    width = symbols.shape[2]
    for k in range(symbols.shape[0]):
        row = symbols[k, index]
        target = latents[k * pitch : k * pitch + cells]
        for i in range(min(cells, width - left)):
            target[i] = np.float32(row[left + i])


@_compiled
def give(x, ring, plane, channel, where, levels):
    """Finish a cell of rows of a plane, in the ring of a channel, and write its samples into the signal."""
    first, begin, end, cell, done, top, left, cells, pitch, inner, outer = where
    down, across = 1 << levels[0], 1 << levels[1]
    hop = RING * down * pitch
    base = GUARD + channel * across * hop
    for phase in range(across):
        stream(ring, base + phase * hop, pitch, down, levels[0], cell - begin, end - begin, pitch - GUARD, 1)
    if done >= top:
        block = base + (done - begin) % RING * down * pitch
        _lanes(ring, block, hop, across, pitch, down, cells, down * pitch - GUARD, levels[1], 1)
        for k in range(down):
            line = done * down + k - first
            if line < x.shape[1]:
                _unload(x[plane, line], (left + inner) * across, ring, block + k * pitch, hop, across, inner, outer)


@announced("the linear decoder of pictures and sound")
@njit(cache=True, **OPTIONS)
def synthesise(x, latents, symbols, ring, where, levels, weights, bias):
    """Samples of a tile of a picture, or of sound, from symbols.

    Args:
        x: float32 (C, rows, W), rows of the picture from number `where[0]` on; filled where the tile is.
        latents: float32 room for (c, pitch - GUARD).
        symbols: (c, cells of rows, cells), all of the picture.
        ring: float32 room for C * F * RING * F rows, BLOCK more, and GUARD.
        where: first row of x; first and last cell of rows to stream; first cell of rows to write, and how many; first
            cell of columns of the tile, how many, and the first and last of them to write.
        levels: of the rows' axis and of the columns'.
        weights: (F of rows, blocks, c, BLOCK), blocks over channel, column; bias: (F of rows, blocks, BLOCK).
    """
    first, begin, end, top, lines, left, cells, inner, outer = where
    down = 1 << levels[0]
    length = -(-cells // WIDTH) * WIDTH
    pitch = length + GUARD
    hop = RING * down * pitch
    delay = DELAY if levels[0] else 0
    for cell in range(begin, top + lines + delay):
        if cell < end:
            spread(latents, symbols, cell, left, cells, length)
            for row in range(down):
                for block in range(weights.shape[1]):
                    at = GUARD + block * BLOCK * hop + ((cell - begin) % RING * down + row) * pitch
                    project_line(
                        ring,
                        at,
                        hop,
                        latents,
                        0,
                        length,
                        symbols.shape[0],
                        length,
                        weights[row, block],
                        bias[row, block],
                    )
        for channel in range(x.shape[0]):
            place = (first, begin, end, cell, cell - delay, top, left, cells, pitch, inner, outer)
            give(x, ring, channel, channel, place, levels)
