"""The compiled part of the fast path for volumes: slices as pictures, then the same along the third axis.

slices --`fast_kernel.take`--> packets of each slice, in a ring of the last six cells of slices
  --`stream`--> split along the first axis --`project`--> latents                     and back
"""

from numba import njit

from cml.codecs import fast_kernel, fast_lifting, simd, wavelet
from cml.codecs.compiled import announced
from cml.codecs.fast_kernel import BLOCK, WIDTH, give, project, project_line, spread, take
from cml.codecs.fast_lifting import DELAY, GUARD, RING, UNCOUNTED, stream
from cml.codecs.simd import LANES


@njit(**UNCOUNTED)
def _copy(out, at, values, start, count):
    for i in range(count):
        out[at + i] = values[start + i]


@announced("the encoder of volumes (ten seconds)", fast_kernel, fast_lifting, simd, wavelet)
@njit(cache=True, **UNCOUNTED)
def analyse_volume(x, room, ring, slices, where, depth, levels, weights, bias, out):
    """Latents of a tile of a volume, all of its slices, channel after channel.

    Args:
        x, room, where: as for `analyse`, x being (C * slices, rows, W); ring: of one channel.
        slices: float32 room for RING * F of slices times the packets of a slice, (lines, F, F, pitch).
        depth: slices of the volume; first and last cell of slices to stream; first cell of slices of `out`, how many.
        levels: of the axes of slices, rows and columns.
        weights: (blocks, C * F * F * F, BLOCK), in the order channel, slice, column, row; bias: (blocks, BLOCK).
        out: float32 room for (blocks * BLOCK, cells of slices, cells of rows, cells to a multiple of WIDTH).
    """
    first, height, begin, end, top, lines, left, cells = where
    number, start, stop, front, sheets = depth
    phases, down, flat = 1 << levels[0], 1 << levels[1], 1 << levels[1] + levels[2]
    pitch, wide = -(-cells // LANES) * LANES + GUARD, -(-cells // WIDTH) * WIDTH
    packets = flat * pitch  # of one line of cells of one slice
    sheet = lines * packets
    for channel in range(x.shape[0] // number):
        for deep in range(start, front + sheets + DELAY):
            for k in range(phases if deep < stop else 0):
                z = channel * number + min(deep * phases + k, number - 1)
                target = ((deep - start) % RING * phases + k) * sheet
                for cell in range(begin, top + lines + DELAY):
                    place = (first, height, begin, end, cell, left, cells, pitch)
                    take(x, room, ring, z, 0, place, (levels[1], levels[2]))
                    done = cell - DELAY
                    if done >= top:
                        base = GUARD + (done - begin) % RING * down * pitch
                        line = target + (done - top) * packets
                        for row in range(flat):
                            source = base + (row // down * RING * down + row % down) * pitch
                            _copy(slices, line + row * pitch, ring, source, pitch - GUARD)
            stream(slices, 0, sheet, phases, levels[0], deep - start, stop - start, sheet, 1, sheet, 0, 1)
            done = deep - DELAY
            if done >= front:
                used = weights.shape[1] // (x.shape[0] // number)
                for line in range(lines):
                    base = (done - start) % RING * phases * sheet + line * packets
                    for block in range(weights.shape[0]):
                        at = ((block * BLOCK * sheets + done - front) * lines + line) * wide
                        for i in range(0, wide, WIDTH):
                            project(
                                out, at + i, sheets * lines * wide, slices, base + i, pitch, flat, sheet,
                                weights[block, channel * used : (channel + 1) * used], bias[block], channel == 0,
                            )  # fmt: skip


@announced("the linear decoder of volumes (ten seconds)", fast_kernel, fast_lifting, simd, wavelet)
@njit(cache=True, **UNCOUNTED)
def synthesise_volume(x, latents, symbols, ring, slices, where, depth, levels, weights, bias):
    """Samples of a tile of a volume from symbols, channel after channel.

    Args:
        x, latents, where: as for `synthesise`, x being (C * slices, rows, W); ring: of one channel.
        symbols: (c, cells of slices * cells of rows, cells), all of the volume.
        slices: as for `analyse_volume`, with the lines that are streamed, and BLOCK rows more.
        depth: slices of the volume; first and last cell of slices to stream; first cell of slices to write, how many.
        levels: of the axes of slices, rows and columns.
        weights: (C, F of slices, blocks, c, BLOCK), blocks over column, row; bias: (C, F of slices, blocks, BLOCK).
    """
    first, begin, end, top, lines, left, cells, inner, outer = where
    number, start, stop, front, sheets = depth
    phases, down, flat = 1 << levels[0], 1 << levels[1], 1 << levels[1] + levels[2]
    pitch, wide = -(-cells // LANES) * LANES + GUARD, -(-cells // WIDTH) * WIDTH
    packets = flat * pitch
    sheet = (end - begin) * packets
    height = symbols.shape[1] // (-(-number // phases))
    for channel in range(x.shape[0] // number):
        for deep in range(start, front + sheets + DELAY):
            for cell in range(begin, end if deep < stop else begin):
                spread(latents, symbols, deep * height + cell, left, cells, wide)
                for k in range(phases):
                    line = ((deep - start) % RING * phases + k) * sheet + (cell - begin) * packets
                    for block in range(weights.shape[2]):
                        project_line(
                            slices, line + block * BLOCK * pitch, pitch, latents, 0, wide, symbols.shape[0], wide,
                            weights[channel, k, block], bias[channel, k, block],
                        )  # fmt: skip
            stream(slices, 0, sheet, phases, levels[0], deep - start, stop - start, sheet, 1, sheet, 1, 1)
            done = deep - DELAY
            for k in range(phases if done >= front else 0):
                z = done * phases + k
                if z >= number:
                    break
                source = ((done - start) % RING * phases + k) * sheet
                for cell in range(begin, top + lines + DELAY):
                    if cell < end:
                        base = GUARD + (cell - begin) % RING * down * pitch
                        for row in range(flat):
                            target = base + (row // down * RING * down + row % down) * pitch
                            line = source + (cell - begin) * packets + row * pitch
                            _copy(ring, target, slices, line, pitch - GUARD)
                    place = (first, begin, end, cell, top, top + lines, left, cells, pitch, inner, outer)
                    give(x, ring, channel * number + z, 0, place, (levels[1], levels[2]))
