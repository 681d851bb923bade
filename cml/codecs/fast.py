"""The fast path: what codecs with a linear encoder do on a CPU, compiled, in tiles, with little memory.

    samples (uint8, uint16, float32) --tiles, threads--> `fast_kernel.analyse` --> `fast_quantize` --> symbols
    symbols --tiles, threads--> `fast_kernel.synthesise` --> float32 samples

It computes what the reference in `neural` does, in another order: symbols are the same but for at most one in 10,000,
which is off by one. A tile is a part of the latent grid; it is computed from a little more of the signal around it, so
that neither the number of threads nor the size of the tiles changes a bit of the result.
"""

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
import torch

from cml.codecs import fast_kernel as kernel
from cml.codecs import fast_volume as volume
from cml.codecs.architecture import WaveletConfig
from cml.codecs.fast_quantize import quantize
from cml.codecs.fast_weights import Product
from cml.codecs.geometry import grid_shape
from cml.codecs.threads import each

_Result = TypeVar("_Result")

REACH = kernel.DELAY + 1  # cells around a tile that its symbols depend on, by the filters and by the rounding

_COLUMNS = 272  # cells of a tile of pictures and sound, whose ring is in the caches; more than it has cells to spare
_LINES = 512
_VOLUME_COLUMNS = 64
_VOLUME_FLOATS = 1 << 23  # of the ring of slices of one tile


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
    def inner(self) -> int:
        return self.start - self.begin


def _spans(cells: int, core: int, parts: int, reach: int) -> list[_Span]:
    """An axis in equal spans of at most `core` cells, at least `parts` if there are as many cells."""
    number = min(max(math.ceil(cells / core), parts), cells)
    edges = [cells * k // number for k in range(number + 1)]
    return [_Span(start, stop, max(0, start - reach), min(cells, stop + reach)) for start, stop in pairwise(edges)]


def _columns(cells: int, core: int, reach: int) -> list[_Span]:
    """Spans whose width with its surroundings is at most `core`."""
    return _spans(cells, core if cells <= core else core - 2 * reach, 1, reach)


def _each(work: Callable[..., _Result], tiles: Sequence[tuple[_Span, ...]]) -> list[_Result]:
    """Work on all tiles, over as many threads as torch uses."""
    return each(lambda number: work(*tiles[number]), len(tiles), torch.get_num_threads())


def _wide(span: _Span) -> int:
    """Columns of a row of latents."""
    return math.ceil((span.end - span.begin) / kernel.WIDTH) * kernel.WIDTH


def _pitch(span: _Span) -> int:
    """Columns of a row of a ring."""
    return math.ceil((span.end - span.begin) / kernel.LANES) * kernel.LANES + kernel.GUARD


def _room(x: np.ndarray, levels: int) -> np.ndarray:
    return np.empty(kernel.LANES << levels, x.dtype)


def encode(
    x: np.ndarray,
    config: WaveletConfig,
    product: Product,
    symbols: np.ndarray,
    rdo: float,
    window: tuple[int, int] = (0, 0),
    lines: tuple[int, int] | None = None,
) -> int:
    """Symbols of a picture, or of sound as a picture of one row.

    Args:
        x: (C, rows, W), rows of the picture from `window[0]` on; `window[1]` is the picture's height, 0 for that of x.
        config: of the codec, of one or two axes.
        product: of `analysis_product`, in units of the step.
        symbols: int8 or int16 (c, *grid as of a picture), filled.
        rdo: strength of rate-distortion optimised quantization.
        lines: first and last line of cells to fill; None for all. x has what lies within REACH cells of them.

    Returns:
        The largest magnitude; where it is past what `symbols` can hold, they are wrong.
    """
    first, height = window[0], window[1] or x.shape[1]
    levels = (config.levels if config.ndim == 2 else 0, config.levels)
    phases = x.shape[0] << levels[1]
    _, rows, columns = symbols.shape
    low, high = lines or (0, rows)
    margin = int(rdo > 0)
    across = _columns(columns, _COLUMNS, kernel.DELAY + margin)
    down = _spans(high - low, _LINES, -(-torch.get_num_threads() // len(across)), 0)

    def work(vertical: _Span, horizontal: _Span) -> int:
        start, stop = low + vertical.start, low + vertical.stop
        top, bottom = max(0, start - margin), min(rows, stop + margin)
        begin, end = max(0, top - kernel.DELAY), min(rows, bottom + kernel.DELAY)
        cells, wide = horizontal.end - horizontal.begin, _wide(horizontal)
        ring = _scratch.floats("ring", phases * (kernel.RING << levels[0]) * _pitch(horizontal) + kernel.GUARD)
        out = _scratch.floats("latents", product.bias.size * (bottom - top) * wide)
        kernel.analyse(
            x, _room(x, levels[1]), ring, (first, height, begin, end, top, bottom - top, horizontal.begin, cells),
            levels, product.weights, product.bias, out,
        )  # fmt: skip
        latents = out.reshape(product.bias.size, bottom - top, wide)
        where = (start, horizontal.start, stop - start, horizontal.stop - horizontal.start)
        return int(quantize(latents, cells, (start - top, horizontal.inner), symbols, where, np.float32(rdo / 12)))

    return max(_each(work, [(v, h) for v in down for h in across]))


def analyse(x: np.ndarray, config: WaveletConfig, product: Product, c: int) -> np.ndarray:
    """Latents of a signal (C, *spatial), one to three axes, not quantized: float32 (c, *grid)."""
    grid = grid_shape(x.shape[1:], 2**config.levels)
    if config.ndim == 3:
        return _analyse_volume(x, config, product, c, grid)
    flat = x if config.ndim == 2 else x[:, None]
    levels = (config.levels if config.ndim == 2 else 0, config.levels)
    rows, columns = grid if config.ndim == 2 else (1, *grid)
    out = np.empty((c, rows, columns), np.float32)
    across = _columns(columns, _COLUMNS, kernel.DELAY)
    down = _spans(rows, _LINES, -(-torch.get_num_threads() // len(across)), kernel.DELAY)

    def work(vertical: _Span, horizontal: _Span) -> None:
        lines, cells, wide = vertical.stop - vertical.start, horizontal.end - horizontal.begin, _wide(horizontal)
        ring = _scratch.floats(
            "ring", (len(x) << levels[1]) * (kernel.RING << levels[0]) * _pitch(horizontal) + kernel.GUARD
        )
        latents = _scratch.floats("latents", product.bias.size * lines * wide)
        where = (0, flat.shape[1], vertical.begin, vertical.end, vertical.start, lines, horizontal.begin, cells)
        kernel.analyse(flat, _room(x, levels[1]), ring, where, levels, product.weights, product.bias, latents)
        _place(out, latents.reshape(-1, lines, wide), (vertical,), horizontal)

    _each(work, [(v, h) for v in down for h in across])
    return out.reshape(c, *grid)


def _place(out: np.ndarray, latents: np.ndarray, lines: tuple[_Span, ...], columns: _Span) -> None:
    width = columns.stop - columns.start
    target = (slice(None), *(slice(span.start, span.stop) for span in (*lines, columns)))
    out[target] = latents[: len(out), ..., columns.inner : columns.inner + width]


def _volume_tiles(grid: tuple[int, ...], levels: int) -> list[tuple[_Span, _Span, _Span]]:
    """Tiles that take all rows of a volume or as many as their memory allows, and all slices or one part a thread."""
    across = _columns(grid[2], _VOLUME_COLUMNS, kernel.DELAY)
    line = (kernel.RING << 3 * levels) * _pitch(across[0])
    core = max(_VOLUME_FLOATS // line, 1 + 2 * kernel.DELAY)
    down = _columns(grid[1], core, kernel.DELAY)
    deep = _spans(grid[0], grid[0], -(-torch.get_num_threads() // (len(across) * len(down))), kernel.DELAY)
    return [(d, v, h) for d in deep for v in down for h in across]


def _analyse_volume(
    x: np.ndarray, config: WaveletConfig, product: Product, c: int, grid: tuple[int, ...]
) -> np.ndarray:
    phases = 2**config.levels
    out = np.empty((c, *grid), np.float32)
    slices, height, width = x.shape[1:]
    flat = x.reshape(-1, height, width)

    def work(deep: _Span, vertical: _Span, horizontal: _Span) -> None:
        sheets, lines = deep.stop - deep.start, vertical.stop - vertical.start
        cells, wide = horizontal.end - horizontal.begin, _wide(horizontal)
        pitch = _pitch(horizontal)
        ring = _scratch.floats("ring", phases * kernel.RING * phases * pitch + kernel.GUARD)
        store = _scratch.floats("slices", kernel.RING * phases * lines * phases**2 * pitch)
        latents = _scratch.floats("latents", product.bias.size * sheets * lines * wide)
        volume.analyse_volume(
            flat, _room(x, config.levels), ring, store,
            (0, height, vertical.begin, vertical.end, vertical.start, lines, horizontal.begin, cells),
            (slices, deep.begin, deep.end, deep.start, sheets), config.levels, product.weights, product.bias, latents,
        )  # fmt: skip
        _place(out, latents.reshape(-1, sheets, lines, wide), (deep, vertical), horizontal)

    _each(work, _volume_tiles(grid, config.levels))
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
    levels = (config.levels if config.ndim == 2 else 0, config.levels)
    c, rows, columns = grid.shape
    low, high = lines or (0, rows)
    across = _columns(columns, _COLUMNS, kernel.DELAY)
    down = _spans(high - low, _LINES, -(-torch.get_num_threads() // len(across)), 0)

    def work(vertical: _Span, horizontal: _Span) -> None:
        start, stop = low + vertical.start, low + vertical.stop
        begin, end = max(0, start - kernel.DELAY), min(rows, stop + kernel.DELAY)
        pitch = _pitch(horizontal)
        ring = _scratch.floats(
            "ring", ((len(flat) << levels[1]) + kernel.BLOCK) * (kernel.RING << levels[0]) * pitch + kernel.GUARD
        )
        latents = _scratch.floats("latents", c * _wide(horizontal))
        where = (
            low << levels[0], begin, end, start, stop - start, horizontal.begin, horizontal.end - horizontal.begin,
            horizontal.inner, horizontal.inner + horizontal.stop - horizontal.start,
        )  # fmt: skip
        kernel.synthesise(flat, latents, grid, ring, where, levels, product.weights, product.bias)

    _each(work, [(v, h) for v in down for h in across])


def _synthesise_volume(symbols: np.ndarray, config: WaveletConfig, product: Product, out: np.ndarray) -> None:
    phases = 2**config.levels
    c, *grid = symbols.shape
    slices, height, width = out.shape[1:]
    flat = out.reshape(-1, height, width)

    def work(deep: _Span, vertical: _Span, horizontal: _Span) -> None:
        pitch = _pitch(horizontal)
        lines = vertical.end - vertical.begin
        ring = _scratch.floats("ring", phases * kernel.RING * phases * pitch + kernel.GUARD)
        store = _scratch.floats("slices", (kernel.RING * phases * lines * phases**2 + kernel.BLOCK) * pitch)
        latents = _scratch.floats("latents", c * _wide(horizontal))
        where = (
            0, vertical.begin, vertical.end, vertical.start, vertical.stop - vertical.start, horizontal.begin,
            horizontal.end - horizontal.begin, horizontal.inner, horizontal.inner + horizontal.stop - horizontal.start,
        )  # fmt: skip
        volume.synthesise_volume(
            flat, latents, symbols.reshape(c, -1, grid[2]), ring, store, where,
            (slices, deep.begin, deep.end, deep.start, deep.stop - deep.start), config.levels,
            product.weights, product.bias,
        )  # fmt: skip

    _each(work, _volume_tiles(tuple(grid), config.levels))
