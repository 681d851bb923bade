"""The fast path of one codec: which parts it has, its weights as the kernels want them, and stripes of pictures."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from cml.codecs import fast
from cml.codecs.architecture import WaveletConfig
from cml.codecs.fast_kernel import DELAY
from cml.codecs.fast_weights import Product, analysis_product, synthesis_product
from cml.codecs.geometry import grid_shape
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.quantize import symbols_too_large

_STRIPE = 64  # lines of cells at a time, where a picture comes or goes in stripes
_INT8, _INT16 = 127, 32767
_SLAB_FLOATS = 1 << 23  # of latents at a time that are quantized elsewhere

Rows = Callable[[int, int], np.ndarray]
"""Rows start ... stop of a picture, (C, stop - start, W); asked for in order."""


class Fast:
    """The compiled encoder and decoder of a codec, and what they need of its weights, kept until those change.

    Args:
        config: of the codec.
        encoder, decoder: its linear parts, those that it has; on a CPU.
    """

    def __init__(self, config: WaveletConfig, encoder: LinearEncoder | None, decoder: LinearDecoder | None):
        self.config = config
        self._encoder, self._decoder = encoder, decoder
        self._kept: dict[str, tuple[object, Product]] = {}

    @property
    def encodes(self) -> bool:
        """Whether it has latents for a signal."""
        return self._encoder is not None

    @property
    def quantizes(self) -> bool:
        """Whether it has symbols at once: without companding, in one or two dimensions."""
        config = self.config
        return self.encodes and config.quantizer == "uniform" and config.ndim < 3 and config.boundary == "symmetric"

    @property
    def decodes(self) -> bool:
        """Whether it has the samples of symbols."""
        return self._decoder is not None

    def latents(self, x: Tensor, margin: int) -> Iterator[tuple[Tensor, slice]]:
        """A signal (C, *spatial) to the encoder's output, some cells of its first axis at a time.

        Yields:
            (1, c, lines, *grid[1:]) with `margin` more lines on each side where the grid has them, and which lines to
            keep of them. Sound and periodic signals come in one piece.
        """
        config = self.config
        c = config.latent_channels
        samples = np.ascontiguousarray(x.numpy())
        cells = grid_shape(samples.shape[1:], config.cell)
        product = self._analysis(c, samples.dtype, 1.0)
        if config.boundary == "periodic":
            # What is past one end is what is before the other, as far as filters reach.
            ends = [(0, n * f - m) for n, f, m in zip(cells, config.cell, samples.shape[1:], strict=True)]
            reach = [(DELAY * f,) * 2 for f in config.cell]
            samples = np.pad(np.pad(samples, [(0, 0), *ends], "edge"), [(0, 0), *reach], "wrap")
        lines = cells[0] if config.boundary == "symmetric" else cells[0] + 2 * DELAY
        if config.ndim == 1 or config.boundary == "periodic":
            whole = fast.analyse(samples, config, product, c, (0, 1 if config.ndim == 1 else lines))
            if config.boundary == "periodic":
                whole = np.ascontiguousarray(whole[(..., *(slice(DELAY, DELAY + n) for n in cells))])
            yield torch.from_numpy(whole)[None], slice(None)
            return
        count = max(_SLAB_FLOATS // (c * math.prod(cells[1:])), 1)
        for low in range(0, lines, count):
            high = min(low + count, lines)
            first, last = max(0, low - margin), min(lines, high + margin)
            part = fast.analyse(samples, config, product, c, (first, last))
            yield torch.from_numpy(part)[None], slice(low - first, high - first)

    def symbols(self, x: Tensor, step: float, channels: int, rdo: float) -> Tensor:
        """A signal (C, *spatial) to int8 symbols (channels, *grid), int16 where they are larger."""
        samples = x.numpy()
        if self.config.ndim == 1:
            whole = np.ascontiguousarray(samples)[:, None]
            return self._quantize(iter([(whole, 0, (0, 1))]), whole.shape, step, channels, rdo)[:, 0]
        if samples.flags.c_contiguous:
            lines = math.ceil(samples.shape[1] / self.config.cell[0])
            return self._quantize(iter([(samples, 0, (0, lines))]), samples.shape, step, channels, rdo)
        return self.symbols_of_rows(lambda a, b: samples[:, a:b], samples.shape, step, channels, rdo)

    def symbols_of_rows(self, rows: Rows, shape: tuple[int, ...], step: float, channels: int, rdo: float) -> Tensor:
        """The same of a picture (C, H, W) that is read row by row, once, from the first to the last."""
        return self._quantize(_windows(rows, shape[1], self.config.cell[0]), shape, step, channels, rdo)

    def _quantize(
        self, windows: Iterator["_Window"], shape: tuple[int, ...], step: float, channels: int, rdo: float
    ) -> Tensor:
        config, height = self.config, shape[1]
        down = config.cell[0] if config.ndim == 2 else 1
        out = np.empty((channels, math.ceil(height / down), math.ceil(shape[2] / config.cell[-1])), np.int8)
        for samples, first, lines in windows:
            product = self._analysis(channels, samples.dtype, step)
            peak = fast.encode(samples, config, product, out, rdo, (first, height), lines)
            if peak > _INT8 and out.dtype == np.int8:
                out = out.astype(np.int16)
                peak = fast.encode(samples, config, product, out, rdo, (first, height), lines)
            if peak > _INT16:
                raise symbols_too_large(step, peak)
        return torch.from_numpy(out)

    def samples(self, symbols: Tensor, step: float, size: tuple[int, ...]) -> Tensor:
        """Symbols (c, *grid) to a signal (C, *size) in [-1, 1]."""
        # By numpy, which asks for large pages: else a third of the time would go into new small ones.
        out = np.empty((self.config.channels, *size), np.float32)
        codes = np.ascontiguousarray(symbols.numpy())
        fast.synthesise(codes, self.config, self._synthesis(len(codes), step), out)
        return torch.from_numpy(out)

    def sample_rows(self, symbols: Tensor, step: float, size: tuple[int, ...]) -> Iterator[Tensor]:
        """The same of a picture in stripes (C, rows, W), from the first to the last."""
        codes, phases = np.ascontiguousarray(symbols.numpy()), self.config.cell[0]
        product = self._synthesis(len(codes), step)
        for low in range(0, codes.shape[1], _STRIPE):
            high = min(low + _STRIPE, codes.shape[1])
            out = torch.empty((self.config.channels, min(high * phases, size[0]) - low * phases, size[1]))
            fast.synthesise(codes, self.config, product, out.numpy(), (low, high))
            yield out

    def _analysis(self, channels: int, dtype: np.dtype, unit: float) -> Product:
        encoder = self._encoder
        assert encoder is not None
        return self._keep(
            "encoder", encoder, (channels, dtype, unit),
            lambda weight, bias: analysis_product(self.config, weight, bias, channels, dtype.name, unit),
        )  # fmt: skip

    def _synthesis(self, channels: int, unit: float) -> Product:
        decoder = self._decoder
        assert decoder is not None
        return self._keep(
            "decoder", decoder, (channels, unit),
            lambda weight, bias: synthesis_product(self.config, weight, bias, channels, unit),
        )  # fmt: skip

    def _keep(
        self,
        name: str,
        part: LinearEncoder | LinearDecoder,
        point: tuple[object, ...],
        make: Callable[[np.ndarray, np.ndarray], Product],
    ) -> Product:
        """What was made last, unless it was of other weights or for another operating point."""
        w, b = part.weight, part.bias
        state = (*point, w.data_ptr(), w._version, b.data_ptr(), b._version)
        kept = self._kept.get(name)
        if kept is None or kept[0] != state:
            # Returned as it was made here: another thread may keep that of another operating point meanwhile.
            kept = self._kept[name] = state, make(w.detach().numpy(), b.detach().numpy())
        return kept[1]


_Window = tuple[np.ndarray, int, tuple[int, int]]
"""Rows of a picture, the number of the first, and the lines of cells that they are for."""


def _windows(rows: Rows, height: int, phases: int) -> Iterator[_Window]:
    """A picture's rows, stripe after stripe, with as many around each as its latents depend on, in one buffer."""
    size = min(height, (_STRIPE + 2 * fast.REACH) * phases)
    first, window = 0, np.array(rows(0, size), order="C")
    lines = math.ceil(height / phases)
    for low in range(0, lines, _STRIPE):
        begin = min(max(0, low - fast.REACH) * phases, height - size)
        if begin > first:
            kept = first + size - begin
            window[:, :kept] = window[:, size - kept :]
            window[:, kept:] = rows(first + size, begin + size)
            first = begin
        yield window, first, (low, min(low + _STRIPE, lines))
