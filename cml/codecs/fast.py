"""The fast path: what codecs with a linear encoder do on a CPU, compiled, in tiles, with little memory.

    samples (uint8, uint16, float32) --tiles, threads--> `fast_kernel.encode` --> symbols
    symbols --tiles, threads--> `fast_kernel.synthesise` --> float32 samples

It computes what the reference in `neural` does, in another order: symbols are the same but for at most one in 10,000,
which is off by one. A tile is a part of the latent grid; it is computed from a little more of the signal around it, so
that neither the number of threads nor the size of the tiles changes a bit of the result.
"""

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from cml.codecs import fast_kernel as kernel
from cml.codecs import fast_volume as volume
from cml.codecs.architecture import WaveletConfig
from cml.codecs.fast_quantize import KEPT
from cml.codecs.fast_weights import Product
from cml.codecs.geometry import grid_shape
from cml.codecs.threads import each

_Result = TypeVar("_Result")

REACH = kernel.DELAY + 1  # cells around a tile that its symbols depend on, by the filters and by the rounding

# The largest tiles: in lines of cells, and in floats of what a thread holds of one. What lies around a tile should be a
# small part of the work, and a ring within the third cache.
_LINES, _RING_FLOATS = 512, 3 << 19
_VOLUME_COLUMNS = 64
_LATENT_FLOATS, _VOLUME_FLOATS = 1 << 22, 1 << 23


class _Scratch(threading.local):
    """Zeroed memory that a thread uses again and again; fresh pages would cost as much as the work on them."""

    def __init__(self):
        self._kept: dict[str, np.ndarray] = {}

    def floats(self, name: str, size: int) -> np.ndarray:
        """float32 (size,), on a cache line, with anything in it."""
        if name not in self._kept or self._kept[name].size < size:
            memory = np.zeros(size + kernel.LANES, np.float32)
            start = -(memory.ctypes.data // 4) % kernel.LANES
            self._kept[name] = memory[start : start + size]
        return self._kept[name][:size]


_scratch = _Scratch()


@dataclass(frozen=True)
class _Span:
    """A part of one axis of the grid: cells start ... stop, computed from begin ... end."""

    start: int
    stop: int
    begin: int
    end: int

    @property
    def size(self) -> int:
        """Cells that are computed."""
        return self.end - self.begin

    @property
    def inner(self) -> slice:
        """Those of them that are wanted."""
        return slice(self.start - self.begin, self.stop - self.begin)

    @property
    def pitch(self) -> int:
        """Columns of a row of a ring, where this is the last axis."""
        return math.ceil(self.size / kernel.LANES) * kernel.LANES + kernel.GUARD

    @property
    def wide(self) -> int:
        """Columns of a row of latents."""
        return math.ceil(self.size / kernel.WIDTH) * kernel.WIDTH


def _spans(wanted: tuple[int, int], cells: int, core: int, parts: int, reach: int) -> list[_Span]:
    """Cells low ... high of an axis in equal spans of at most about `core`, at least `parts` if there are as many."""
    low, high = wanted
    number = min(max(math.ceil((high - low) / core), parts), high - low)
    edges = [low + (high - low) * k // number for k in range(number + 1)]
    return [_Span(start, stop, max(0, start - reach), min(cells, stop + reach)) for start, stop in pairwise(edges)]


def _columns(cells: int, most: int, reach: int) -> list[_Span]:
    """All of the last axis in spans that with their surroundings are at most `most`, whole vectors but for the last."""
    inner: Iterable[int] = ()
    if cells > most:
        number = math.ceil((cells - 2 * reach) / (most - 2 * reach))
        size = min(math.ceil((cells + 2 * reach * (number - 1)) / number / kernel.WIDTH) * kernel.WIDTH, most)
        inner = range(size - reach, cells - reach, size - 2 * reach)
    edges = [0, *inner, cells]
    return [_Span(start, stop, max(0, start - reach), min(cells, stop + reach)) for start, stop in pairwise(edges)]


@lru_cache(maxsize=64)  # where they lie takes longer to say than some of them take to compute
def _tiles(
    wanted: tuple[int, int], rows: int, columns: int, ring: int, c: int, reach: int, threads: int
) -> tuple[tuple[_Span, _Span], ...]:
    """Lines low ... high of a grid in tiles, as many as there are threads if there are as many lines.

    A thread holds `ring` floats of a column, and `c` of each cell.
    """
    across = _columns(columns, max(_RING_FLOATS // ring, 4 * reach), reach)
    core = min(_LINES, max(_LATENT_FLOATS // (c * across[0].wide), 2 * reach))
    down = _spans(wanted, rows, core, -(-threads // len(across)), reach)
    return tuple((vertical, horizontal) for vertical in down for horizontal in across)


def _each(work: Callable[..., _Result], tiles: Sequence[tuple[_Span, ...]]) -> list[_Result]:
    """Work on all tiles, over as many threads as torch uses."""
    return each(lambda number: work(*tiles[number]), len(tiles), torch.get_num_threads())


def _room(x: np.ndarray, levels: int) -> np.ndarray:
    return np.empty(kernel.LANES << levels, x.dtype)


def encode(
    x: np.ndarray,
    config: WaveletConfig,
    product: Product,
    symbols: np.ndarray,
    rdo: float,
    window: tuple[int, int],
    lines: tuple[int, int],
) -> int:
    """Symbols of a picture, or of sound as a picture of one row.

    Args:
        x: (C, rows, W), rows of the picture from `window[0]` on; `window[1]` is the picture's height.
        config: of the codec, of one or two axes.
        product: of `analysis_product`, in units of the step.
        symbols: int8 or int16 (c, *grid as of a picture), filled.
        rdo: strength of rate-distortion optimised quantization.
        lines: first and last line of cells to fill. x has what lies within REACH cells of them.

    Returns:
        The largest magnitude; where it is past what `symbols` can hold, they are wrong.
    """
    levels = _levels(config)
    column = (x.shape[0] << levels[1]) * (kernel.RING << levels[0])
    _, rows, columns = symbols.shape
    margin = int(rdo > 0)

    def work(down: _Span, across: _Span) -> int:
        top, bottom = max(0, down.start - margin), min(rows, down.stop + margin)
        ring = _scratch.floats("ring", column * across.pitch + kernel.GUARD)
        latents = _scratch.floats("latents", product.bias.size * KEPT * across.wide)
        total, terms = _scratch.floats("total", across.size + 2), _scratch.floats("terms", across.size)
        place = (*window, down.begin, down.end, top, bottom - top, across.begin, across.size)
        inner = (down.start, down.stop - down.start, across.start, across.stop - across.start)
        peak = kernel.encode(
            x, _room(x, levels[1]), ring, place, levels, product.weights, product.bias, latents,
            symbols, inner, np.float32(rdo / 12), total, terms,
        )  # fmt: skip
        return int(peak)

    # A tile holds few lines of latents at a time, whatever its height; so in `synthesise`.
    return max(_each(work, _tiles(lines, rows, columns, column, 1, kernel.DELAY + margin, torch.get_num_threads())))


def analyse(x: np.ndarray, config: WaveletConfig, product: Product, c: int, lines: tuple[int, int]) -> np.ndarray:
    """Latents of a signal (C, *spatial), one to three axes, not quantized.

    Args:
        x: the signal.
        config: of the codec.
        product: of `analysis_product`.
        c: how many latents there are.
        lines: first and last cell of the first axis that are wanted; of sound, which has one axis, (0, 1) for all.

    Returns:
        float32 (c, *grid), of the grid those lines.
    """
    grid = grid_shape(x.shape[1:], config.cell)
    if config.ndim == 3:
        return _analyse_volume(x, config, product, c, grid, lines)
    flat, levels = x if config.ndim == 2 else x[:, None], _levels(config)
    rows, columns = grid if config.ndim == 2 else (1, *grid)
    column = (len(x) << levels[1]) * (kernel.RING << levels[0])
    out = np.empty((c, lines[1] - lines[0], columns), np.float32)

    def work(down: _Span, across: _Span) -> None:
        count = down.stop - down.start
        ring = _scratch.floats("ring", column * across.pitch + kernel.GUARD)
        latents = _scratch.floats("latents", product.bias.size * count * across.wide)
        place = (0, flat.shape[1], down.begin, down.end, down.start, count, across.begin, across.size)
        kernel.analyse(flat, _room(x, levels[1]), ring, place, levels, product.weights, product.bias, latents)
        tile = latents.reshape(-1, count, across.wide)[:c, :, across.inner]
        out[:, down.start - lines[0] : down.stop - lines[0], across.start : across.stop] = tile

    _each(work, _tiles(lines, rows, columns, column, product.bias.size, kernel.DELAY, torch.get_num_threads()))
    return out if config.ndim == 2 else out[:, 0]


def _levels(config: WaveletConfig) -> tuple[int, int]:
    """Of the rows' axis, which sound has not, and of the columns'."""
    levels = config.axis_levels
    return levels[0] if config.ndim == 2 else 0, levels[-1]


def _volume_tiles(
    wanted: tuple[int, int], grid: tuple[int, ...], cell: tuple[int, ...]
) -> list[tuple[_Span, _Span, _Span]]:
    """Tiles that take all rows of a volume or as many as their memory allows, and all slices or one part a thread."""
    across = _columns(grid[2], _VOLUME_COLUMNS, kernel.DELAY)
    line = kernel.RING * math.prod(cell) * across[0].pitch
    core = max(_VOLUME_FLOATS // line, 1 + 2 * kernel.DELAY)
    down = _columns(grid[1], core, kernel.DELAY)
    parts = -(-torch.get_num_threads() // (len(across) * len(down)))
    deep = _spans(wanted, grid[0], grid[0], parts, kernel.DELAY)
    return [(d, v, h) for d in deep for v in down for h in across]


def _analyse_volume(
    x: np.ndarray, config: WaveletConfig, product: Product, c: int, grid: tuple[int, ...], wanted: tuple[int, int]
) -> np.ndarray:
    deep_phases, down_phases, across_phases = config.cell
    out = np.empty((c, wanted[1] - wanted[0], *grid[1:]), np.float32)
    slices, height, width = x.shape[1:]
    flat = x.reshape(-1, height, width)

    def work(deep: _Span, down: _Span, across: _Span) -> None:
        sheets, lines = deep.stop - deep.start, down.stop - down.start
        ring = _scratch.floats("ring", across_phases * kernel.RING * down_phases * across.pitch + kernel.GUARD)
        sheet = lines * down_phases * across_phases * across.pitch
        store = _scratch.floats("slices", kernel.RING * deep_phases * sheet)
        latents = _scratch.floats("latents", product.bias.size * sheets * lines * across.wide)
        volume.analyse_volume(
            flat, _room(x, config.axis_levels[2]), ring, store,
            (0, height, down.begin, down.end, down.start, lines, across.begin, across.size),
            (slices, deep.begin, deep.end, deep.start, sheets), config.axis_levels,
            product.weights, product.bias, latents,
        )  # fmt: skip
        tile = latents.reshape(-1, sheets, lines, across.wide)[:c, ..., across.inner]
        depth = slice(deep.start - wanted[0], deep.stop - wanted[0])
        out[:, depth, down.start : down.stop, across.start : across.stop] = tile

    _each(work, _volume_tiles(wanted, grid, config.cell))
    return out


def synthesise(
    symbols: np.ndarray,
    config: WaveletConfig,
    product: Product,
    out: np.ndarray,
    lines: tuple[int, int] | None = None,
) -> None:
    """Samples from symbols by the linear decoder.

    Args:
        symbols: int8 or int16 (c, *grid).
        config: of the codec.
        product: of `synthesis_product`.
        out: float32 (C, *spatial), filled with samples in [-1, 1].
        lines: first and last line of cells that `out` holds, of a picture; None for all.
    """
    if config.ndim == 3:
        _synthesise_volume(symbols, config, product, out)
        return
    flat, grid = (out, symbols) if config.ndim == 2 else (out[:, None], symbols[:, None])
    levels = _levels(config)
    c, rows, columns = grid.shape
    wanted = lines or (0, rows)
    column = ((len(flat) << levels[1]) + kernel.BLOCK) * (kernel.RING << levels[0])

    def work(down: _Span, across: _Span) -> None:
        ring = _scratch.floats("ring", column * across.pitch + kernel.GUARD)
        latents = _scratch.floats("latents", c * across.wide)
        place = (
            wanted[0] << levels[0], down.begin, down.end, down.start, down.stop - down.start, across.begin, across.size,
            across.inner.start, across.inner.stop,
        )  # fmt: skip
        kernel.synthesise(flat, latents, grid, ring, place, levels, product.weights, product.bias)

    _each(work, _tiles(wanted, rows, columns, column, 1, kernel.DELAY, torch.get_num_threads()))


def _synthesise_volume(symbols: np.ndarray, config: WaveletConfig, product: Product, out: np.ndarray) -> None:
    deep_phases, down_phases, across_phases = config.cell
    c, *grid = symbols.shape
    slices, height, width = out.shape[1:]
    flat = out.reshape(-1, height, width)

    def work(deep: _Span, down: _Span, across: _Span) -> None:
        ring = _scratch.floats("ring", across_phases * kernel.RING * down_phases * across.pitch + kernel.GUARD)
        packets = deep_phases * down.size * down_phases * across_phases
        store = _scratch.floats("slices", (kernel.RING * packets + kernel.BLOCK) * across.pitch)
        latents = _scratch.floats("latents", c * across.wide)
        place = (
            0, down.begin, down.end, down.start, down.stop - down.start, across.begin, across.size,
            across.inner.start, across.inner.stop,
        )  # fmt: skip
        depth = (slices, deep.begin, deep.end, deep.start, deep.stop - deep.start)
        volume.synthesise_volume(
            flat, latents, symbols.reshape(c, -1, grid[2]), ring, store, place, depth, config.axis_levels,
            product.weights, product.bias,
        )  # fmt: skip

    _each(work, _volume_tiles((0, grid[0]), tuple(grid), config.cell))
