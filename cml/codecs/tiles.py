"""Decoding in stripes: the memory is that of a few latent rows, whatever the size of the signal.

    symbols (c, *grid) --some rows--> z --decoder--> packets --one level up, J times--> stripe (C, rows, *rest)

Rows are positions along the first spatial axis. Each stage holds on to the rows that it still needs and runs that far
behind its input. So a row is what the decoder makes of it within the whole signal, and next to nothing is computed
twice. Decoders that look at the whole signal (attention, group normalization) get it.
"""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cml.codecs import wavelet
from cml.codecs.geometry import crop
from cml.codecs.light import LightDecoder
from cml.codecs.linear import LinearDecoder

if TYPE_CHECKING:
    from cml.codecs.neural import WaveletCodec

_FLOATS = 2**20  # of packets at a time; about twenty times as much memory is in use meanwhile
_LIFTING_REACH = 2  # to either side, of a level
_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


class _Stage(Protocol):
    def push(self, rows: Tensor) -> Tensor:
        """Rows (1, channels, n >= 1, *rest) to those that are certain after them, perhaps none."""
        ...

    def flush(self) -> Tensor:
        """What is left, once the last row is in."""
        ...


@torch.no_grad()
def synthesis_stripes(codec: "WaveletCodec", symbols: Tensor, size: tuple[int, ...], step: float) -> Iterator[Tensor]:
    """What `codec.synthesis` makes of symbols, from the first row to the last, not clamped, on the codec's device.

    Signals of one stripe come in one piece, and so do those of a decoder or a boundary that looks at the whole signal.

    Args:
        codec: its decoder and transform are used, not its own step.
        symbols: integers (c, *grid); c may be less than the codec's latent channels.
        size: spatial size of the signal.
        step: what the symbols were quantized with.

    Yields:
        float32 (C, rows, *size[1:]); the rows add up to size[0].
    """
    steps = torch.full((1,), step, device=next(codec.parameters()).device)
    decoder = _decoder_stages(codec, steps)
    rows = max(1, _FLOATS // (codec.config.packet_channels * math.prod(symbols.shape[2:])))
    if decoder is None or symbols.shape[1] <= rows:
        yield codec.synthesis(_latents(codec, symbols, steps), size, steps)[0]
        return
    axes = reversed(wavelet.rounds(codec.config.levels, codec.config.ndim))
    stages = decoder + [_Level(split) for split in axes]
    left = size[0]
    for rows_up in _streamed(codec, symbols.split(rows, 1), steps, stages):
        stripe = rows_up[0, :, :left]
        left -= stripe.shape[1]
        if stripe.shape[1]:
            yield crop(stripe, size[1:])


def _streamed(
    codec: "WaveletCodec", pieces: tuple[Tensor, ...], step: Tensor, stages: list[_Stage]
) -> Iterator[Tensor]:
    for symbols in pieces:
        yield _through(stages, codec.quantizer.expand(_latents(codec, symbols, step)))
    for number, stage in enumerate(stages, start=1):
        yield _through(stages[number:], stage.flush())


def _through(stages: list[_Stage], rows: Tensor) -> Tensor:
    for stage in stages:
        if rows.shape[2]:
            rows = stage.push(rows)
    return rows


def _latents(codec: "WaveletCodec", symbols: Tensor, step: Tensor) -> Tensor:
    """Symbols (c, *grid) to float32 (1, latent channels, *grid), the step undone; channels that were not sent are 0."""
    z = step.new_zeros(1, codec.config.latent_channels, *symbols.shape[1:])
    z[0, : len(symbols)] = symbols.to(z.device)
    return z.mul_(step)


def _decoder_stages(codec: "WaveletCodec", step: Tensor) -> list[_Stage] | None:
    decoder = codec.decoder
    if codec.config.boundary == "symmetric" and isinstance(decoder, LinearDecoder):
        return [_Linear(decoder, step)]
    if codec.config.boundary == "symmetric" and isinstance(decoder, LightDecoder):
        return _light(decoder, step)
    return None


class _Linear:
    def __init__(self, decoder: LinearDecoder, step: Tensor):
        self.decoder, self.step = decoder, step

    def push(self, rows: Tensor) -> Tensor:
        return self.decoder(rows, self.step)

    def flush(self) -> Tensor:
        return self.step.new_zeros(1, 1, 0)


def _kept(old: Tensor | None, new: Tensor) -> Tensor:
    """A copy, in the same memory if it fits there: small pieces in ever new places would scatter the large ones."""
    return old.copy_(new) if old is not None and old.shape == new.shape else new.clone()


class _Held:
    """Rows that wait for what is added to them."""

    def __init__(self):
        self.rows: Tensor | None = None
        self.rest: Tensor | None = None

    def put(self, rows: Tensor) -> None:
        self.rows = rows if self.rows is None else torch.cat((self.rows, rows), 2)

    def take(self, count: int) -> Tensor:
        """The oldest rows."""
        assert self.rows is not None
        rows = self.rows[:, :, :count]
        self.rest = self.rows = _kept(self.rest, self.rows[:, :, count:])
        return rows


class _Convolution:
    """A convolution of kernel 3, zeros around the signal: one row behind."""

    def __init__(self, layer: nn.Module):
        self.weight, self.bias = cast(Tensor, layer.weight), cast(Tensor, layer.bias)
        self.rows: Tensor | None = None

    def push(self, rows: Tensor) -> Tensor:
        if not rows.shape[2]:
            return rows
        x = torch.cat((torch.zeros_like(rows[:, :, :1]) if self.rows is None else self.rows, rows), 2)
        self.rows = _kept(self.rows, x[:, :, -2:])
        rest = x.shape[3:]
        if x.shape[2] < 3:
            return x.new_zeros(1, len(self.weight), 0, *rest)
        return _CONVOLUTIONS[len(rest)](x, self.weight, self.bias, padding=(0, *[1] * len(rest)))

    def flush(self) -> Tensor:
        assert self.rows is not None
        return self.push(torch.zeros_like(self.rows[:, :, :1]))


def _light(decoder: LightDecoder, step: Tensor) -> list[_Stage]:
    """The stages of `LightDecoder`; see there."""
    ndim = decoder.variance.dim() - 2
    unit = step.clamp(decoder.limits[0], decoder.limits[1]).view(-1, *[1] * (ndim + 1))
    log = unit.log2()
    features = torch.cat((torch.ones_like(log), log, log.square()), 1).flatten(1)
    latents = _Held()
    blocks = [_Block(block, features) for block in decoder.blocks]
    return [_Enter(decoder, unit, latents), *blocks, _Leave(decoder, step, unit, latents)]


class _Enter:
    def __init__(self, decoder: LightDecoder, unit: Tensor, latents: _Held):
        self.scale, self.latents = (decoder.variance + unit.square()).rsqrt(), latents
        self.convolution = _Convolution(decoder.enter)

    def push(self, rows: Tensor) -> Tensor:
        self.latents.put(rows)
        h = rows * self.scale
        return self.convolution.push(h.contiguous(memory_format=torch.channels_last) if h.dim() == 4 else h)

    def flush(self) -> Tensor:
        return self.convolution.flush()


class _Block:
    def __init__(self, block: nn.Module, features: Tensor):
        self.first, self.second = (_Convolution(cast(nn.Module, layer)) for layer in (block.first, block.second))
        gain = cast(nn.Linear, block.gain)(features)
        self.gain = gain.view(1, -1, *[1] * (self.first.weight.dim() - 2))
        self.before = _Held()

    def push(self, rows: Tensor) -> Tensor:
        self.before.put(rows)
        return self._add(self.second.push(self._gained(self.first.push(rows))))

    def flush(self) -> Tensor:
        change = self.second.push(self._gained(self.first.flush()))
        return self._add(torch.cat((change, self.second.flush()), 2))

    def _gained(self, h: Tensor) -> Tensor:
        return h.mul_(self.gain).relu_()

    def _add(self, change: Tensor) -> Tensor:
        return change.add_(self.before.take(change.shape[2]))


class _Leave:
    def __init__(self, decoder: LightDecoder, step: Tensor, unit: Tensor, latents: _Held):
        self.decoder, self.step, self.unit, self.latents = decoder, step, unit, latents

    def push(self, rows: Tensor) -> Tensor:
        linear = self.decoder.linear(self.latents.take(rows.shape[2]), self.step)
        return linear.add_(self.decoder.leave(rows).mul_(self.unit))

    def flush(self) -> Tensor:
        return self.step.new_zeros(1, 1, 0)


class _Level:
    """One level of the inverse transform, twice as many samples on some axes: if the first is one of them, two rows of
    its input behind.
    """

    def __init__(self, axes: tuple[int, ...]):
        self.axes = axes
        self.rows: Tensor | None = None
        self.done = 0

    def push(self, rows: Tensor) -> Tensor:
        ndim = rows.dim() - 2
        bands = rows.unflatten(1, (-1, *[2] * len(self.axes)))
        for axis in reversed(self.axes):
            if axis:
                bands = wavelet.merge(bands[:, :, 0], bands[:, :, 1], axis - ndim, "symmetric")
        if 0 not in self.axes:
            return bands
        x = bands if self.rows is None else torch.cat((self.rows, bands), 3)
        stop = max(x.shape[3] - _LIFTING_REACH, self.done)
        stripe = self._merge(x, stop)
        first = max(stop - _LIFTING_REACH, 0)
        self.rows, self.done = _kept(self.rows, x[:, :, :, first:]), stop - first
        return stripe

    def flush(self) -> Tensor:
        if self.rows is None:  # the first axis is not split
            return torch.empty(1, 1, 0)
        return self._merge(self.rows, self.rows.shape[3])

    def _merge(self, x: Tensor, stop: int) -> Tensor:
        """Rows `done` to `stop` of x (1, channels, low and high, rows, *rest); the others are there for their sake."""
        if stop == self.done:
            return x[:, :, 0, :0]
        return wavelet.merge(x[:, :, 0], x[:, :, 1], 3 - x.dim(), "symmetric")[:, :, 2 * self.done : 2 * stop]
