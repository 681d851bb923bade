"""The compiled part of the fast path: wavelet packets by lifting and the product with the encoder, streamed.

    rows of the signal --_load--> phases (F, cells) --split_lines--> split along the last axis
      --> ring of the last six cells of rows --stream--> split along the axis before --project--> latents

See `fast_lifting` for cells, phases and the ring.
"""

import numpy as np
from numba import njit

from cml.codecs import fast_lifting, fast_quantize, rdo, simd, wavelet
from cml.codecs.compiled import announced
from cml.codecs.fast_lifting import DELAY, GUARD, RING, UNCOUNTED, split_lines, stream
from cml.codecs.fast_quantize import KEPT, round_line
from cml.codecs.simd import LANES, deal8, deal16, load, multiply_add, prefetch, splat, store, weave8, weave16

WIDTH = 2 * LANES  # columns of a product that are computed together; the last may reach into the guard
TOGETHER = 512  # columns, of one phase or of several, for which one step of a stream is begun
MANY = 2  # cells of rows of a picture that are taken at once
BLOCK = 4  # rows of a product that are computed together

_compiled = njit(**UNCOUNTED)
_inlined = njit(forceinline=True, **UNCOUNTED)


@_compiled
def _load(buffer, base, hop, phases, cells, line, ahead, start, room):
    """Samples start ... of a line of the signal to `cells` columns of phases; past its end the last one.

    `ahead` is the line that will be asked for when this one is done with.
    """
    if phases == 8:
        _load_vectors(buffer, base, hop, 8, cells, line, ahead, start, room)
    elif phases == 16:
        _load_vectors(buffer, base, hop, 16, cells, line, ahead, start, room)
    else:
        whole = max(min(cells, (line.size - start) // phases), 0)
        for phase in range(phases):
            row = buffer[base + phase * hop : base + phase * hop + cells]
            for i in range(whole):
                row[i] = np.float32(line[start + i * phases + phase])
            for i in range(whole, cells):
                row[i] = np.float32(line[min(start + i * phases + phase, line.size - 1)])


@_inlined
def _load_vectors(buffer, base, hop, phases, cells, line, ahead, start, room):
    for i in range(0, cells, LANES):
        at = start + i * phases
        if at + LANES * phases <= line.size:
            for k in range(0, LANES * phases, 64 // line.itemsize):
                prefetch(ahead, at + k)
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
def _stream_all(ring, base, pitch, hop, levels, cell, cells, inverse, many):
    """`stream` all phases of the last axis, where rows are short several at a time."""
    length, phases = pitch - GUARD, 1 << levels[1]
    together = 1
    while together < phases and together * length < TOGETHER:
        together *= 2
    for phase in range(0, phases, together):
        place = base + phase * hop
        stream(ring, place, pitch, 1 << levels[0], levels[0], cell, cells, length, together, hop, inverse, many)


@_compiled
def take(x, room, ring, plane, channel, where, levels):
    """One cell of rows of a plane of the signal into the ring of a channel, split along both axes where it can be."""
    _take_some(x, room, ring, plane, channel, where, levels, 1)


@_compiled
def _take_some(x, room, ring, plane, channel, where, levels, many):
    """`take` for a cell and those before it, `many` in all."""
    first, height, begin, end, last, left, cells, pitch = where
    down, across = 1 << levels[0], 1 << levels[1]
    hop = RING * down * pitch
    base = GUARD + channel * across * hop
    for cell in range(last - many + 1, min(last + 1, end)):
        block = base + (cell - begin) % RING * down * pitch
        for k in range(down):
            line = min(cell * down + k, height - 1) - first
            ahead = x[plane, min(line + down, x.shape[1] - 1)]
            _load(ring, block + k * pitch, hop, across, cells, x[plane, line], ahead, left * across, room)
        split_lines(ring, block, hop, pitch, down, cells, levels[1], 0)
    _stream_all(ring, base, pitch, hop, levels, last - begin, end - begin, 0, many)


@announced("the filters and the product of pictures and sound (ten seconds)", fast_lifting, simd, wavelet)
@njit(cache=True, **UNCOUNTED)
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
        out: float32 room for (blocks * BLOCK, cells of rows, cells to a multiple of WIDTH).
    """
    _, _, begin, _, top, lines, _, _ = where
    delay = DELAY if levels[0] else 0
    for cell in range(begin + MANY - 1, top + lines + delay + MANY - 1, MANY):
        newest = _advance(x, room, ring, where, levels, cell)
        for done in range(max(newest - MANY + 1, top), min(newest + 1, top + lines)):
            _project_all(out, done - top, lines, ring, where, levels, done, weights, bias)


@_compiled
def _advance(x, room, ring, where, levels, cell):
    """Take a cell of rows of all channels and those before it, MANY in all; the last one that is finished then."""
    first, height, begin, end, _, _, left, cells = where
    pitch = -(-cells // LANES) * LANES + GUARD
    for channel in range(x.shape[0]):
        place = (first, height, begin, end, cell, left, cells, pitch)
        _take_some(x, room, ring, channel, channel, place, levels, MANY)
    return cell - (DELAY if levels[0] else 0)


@_compiled
def _project_all(out, line, lines, ring, where, levels, done, weights, bias):
    """Latents of a finished cell of rows, to a line of `out`, (blocks * BLOCK, lines, cells to a multiple of WIDTH)."""
    _, _, begin, _, _, _, _, cells = where
    down = 1 << levels[0]
    pitch, wide = -(-cells // LANES) * LANES + GUARD, -(-cells // WIDTH) * WIDTH
    base = GUARD + (done - begin) % RING * down * pitch
    for block in range(weights.shape[0]):
        at = (block * BLOCK * lines + line) * wide
        for i in range(0, wide, WIDTH):
            project(
                out, at + i, lines * wide, ring, base + i, pitch, down, RING * down * pitch,
                weights[block], bias[block], True,
            )  # fmt: skip


@announced("the encoder of pictures and sound (ten seconds)", fast_lifting, fast_quantize, rdo, simd, wavelet)
@njit(cache=True, **UNCOUNTED)
def encode(x, room, ring, where, levels, weights, bias, latents, symbols, inner, strength, total, terms):
    """Symbols of a tile of a picture; sound is a picture of one row. They are rounded while their latents are near.

    Args:
        x, room, ring, where, levels, weights, bias: as of `analyse`, of the lines that are needed to round.
        latents: float32 room for (blocks * BLOCK, KEPT, cells to a multiple of WIDTH).
        symbols: int8 or int16 (c, *grid) of all of the picture.
        inner: first line and how many, first column and how many, that are rounded.
        strength: of rate-distortion optimisation, / 12; 0 rounds to the nearest.
        total, terms: float32 room for two more than the columns of the tile, and for as many.

    Returns:
        The largest magnitude; where it is past what `symbols` can hold, they are wrong.
    """
    _, _, begin, _, top, lines, left, cells = where
    start, count, across, width = inner
    wide = -(-cells // WIDTH) * WIDTH
    total[0] = total[cells + 1] = 0
    for i in range(cells):
        terms[i] = 3 - (i == 0) - (i == cells - 1)
    rounded, peak, last = start, 0, top + lines - 1
    for cell in range(begin + MANY - 1, last + (DELAY if levels[0] else 0) + MANY, MANY):
        newest = _advance(x, room, ring, where, levels, cell)
        for done in range(max(newest - MANY + 1, top), min(newest, last) + 1):
            _project_all(latents, done % KEPT, KEPT, ring, where, levels, done, weights, bias)
            # A line waits for the next, if there is one and its rounding depends on that.
            ready = done if strength == 0 or done == last else done - 1
            while rounded <= min(ready, start + count - 1):
                rows = (rounded, max(rounded - 1, top), min(rounded + 1, last))
                place = (rounded, across, width)
                magnitude = round_line(symbols, place, latents, wide, rows, across - left, strength, total, terms)
                peak = max(peak, magnitude)
                rounded += 1
    return peak


@_inlined
def project_line(out, at, hop, rows, base, pitch, count, wide, weights, bias):
    """BLOCK packets of a line of cells: rows of `out` from `count` rows of latents."""
    for i in range(0, wide, WIDTH):
        project(out, at + i, hop, rows, base + i, pitch, count, 0, weights, bias, True)


@_compiled
def spread(latents, symbols, index, left, cells, wide):
    """A line of cells of all latents, `symbols[:, index]` flat, as float32."""
    width = symbols.shape[2]
    for k in range(symbols.shape[0]):
        row = symbols[k, index]
        target = latents[k * wide : k * wide + cells]
        for i in range(min(cells, width - left)):
            target[i] = np.float32(row[left + i])


@_compiled
def give(x, ring, plane, channel, where, levels):
    """Finish a cell of rows of a plane, in the ring of a channel, and write its samples into the signal."""
    _give_some(x, ring, plane, channel, where, levels, 1)


@_compiled
def _give_some(x, ring, plane, channel, where, levels, many):
    """`give` for a cell and those before it, `many` in all."""
    first, begin, end, cell, top, bottom, left, cells, pitch, inner, outer = where
    down, across = 1 << levels[0], 1 << levels[1]
    hop = RING * down * pitch
    base = GUARD + channel * across * hop
    _stream_all(ring, base, pitch, hop, levels, cell - begin, end - begin, 1, many)
    newest = cell - (DELAY if levels[0] else 0)
    for done in range(max(newest - many + 1, top), min(newest + 1, bottom)):
        block = base + (done - begin) % RING * down * pitch
        split_lines(ring, block, hop, pitch, down, cells, levels[1], 1)
        for k in range(down):
            line = done * down + k - first
            if line < x.shape[1]:
                _unload(x[plane, line], (left + inner) * across, ring, block + k * pitch, hop, across, inner, outer)


@announced("the linear decoder of pictures and sound (ten seconds)", fast_lifting, simd, wavelet)
@njit(cache=True, **UNCOUNTED)
def synthesise(x, latents, symbols, ring, where, levels, weights, bias):
    """Samples of a tile of a picture, or of sound, from symbols.

    Args:
        x: float32 (C, rows, W), rows of the picture from number `where[0]` on; filled where the tile is.
        latents: float32 room for (c, cells to a multiple of WIDTH).
        symbols: (c, cells of rows, cells), all of the picture.
        ring: float32 room for C * F + BLOCK phases of RING * F rows each, and GUARD.
        where: first row of x; first and last cell of rows to stream; first cell of rows to write, and how many; first
            cell of columns of the tile, how many, and the first and last of them to write.
        levels: of the rows' axis and of the columns'.
        weights: (F of rows, blocks, c, BLOCK), blocks over channel, column; bias: (F of rows, blocks, BLOCK).
    """
    first, begin, end, top, lines, left, cells, inner, outer = where
    down = 1 << levels[0]
    pitch, wide = -(-cells // LANES) * LANES + GUARD, -(-cells // WIDTH) * WIDTH
    hop = RING * down * pitch
    for last in range(begin + MANY - 1, top + lines + (DELAY if levels[0] else 0) + MANY - 1, MANY):
        for cell in range(last - MANY + 1, min(last + 1, end)):
            spread(latents, symbols, cell, left, cells, wide)
            for row in range(down):
                for block in range(weights.shape[1]):
                    at = GUARD + block * BLOCK * hop + ((cell - begin) % RING * down + row) * pitch
                    project_line(
                        ring, at, hop, latents, 0, wide, symbols.shape[0], wide, weights[row, block], bias[row, block]
                    )
        for channel in range(x.shape[0]):
            place = (first, begin, end, last, top, top + lines, left, cells, pitch, inner, outer)
            _give_some(x, ring, channel, channel, place, levels, MANY)
