"""Sound that is encoded while it comes in: the symbols of the whole signal, chunk by chunk."""

import math

import numpy as np
import torch
from torch import Tensor

from cml.codecs import fast
from cml.codecs.base import Latent, admit_signal
from cml.codecs.level import remove
from cml.codecs.neural import WaveletCodec
from cml.errors import CodecError


class StreamEncoder:
    """The encoder of a one-dimensional codec for a signal without an end.

        chunk (C, n) --> [ the last cells | chunk ] --analysis, encoder, rounding--> symbols that are final
                          ^-------- kept: what later cells depend on

    Symbols depend on `REACH` cells to either side, so those of a cell are final when as many more cells have come: the
    latency. They equal those of `codec.encode` for the whole signal, to the last bit; where the codec divides by the
    peak of its signal, for the codec with the same `peak`, since nobody knows the peak of what is still to come.

    Args:
        codec: a codec of sound with a linear encoder and a uniform step. Its `peak`, or 1 without one, is the largest
            sample that is expected; larger ones only get larger symbols.

    Raises:
        CodecError: the codec cannot encode in parts.
    """

    def __init__(self, codec: WaveletCodec):
        if codec.config.ndim != 1 or not codec._fast.quantizes:
            raise CodecError(
                f"{codec.spec.name} does not encode streams: that takes one dimension, a linear encoder, a uniform "
                "step and the symmetric boundary."
            )
        self.codec = codec
        self.level = () if codec.config.level == "absolute" else (codec.peak or 1.0, *[0.0] * codec.config.channels)
        self._patch = codec.config.cell[0]
        self._kept = torch.empty(codec.config.channels, 0)
        self._first = 0  # the cell that the kept samples begin with
        self._done = 0  # cells given
        self._samples = 0
        self._finished = False

    @property
    def latency(self) -> int:
        """Samples between the first one of a cell and the last one that its symbols wait for."""
        return (1 + fast.REACH) * self._patch

    def push(self, chunk: Tensor | np.ndarray) -> Tensor:
        """Symbols (c, n) that are final now, int8, int16 where they are larger; often none.

        Args:
            chunk: (C, any length), the next samples.
        """
        if self._finished:
            raise CodecError("The stream has ended; begin another one.")
        if chunk.shape[-1] == 0:
            return self._nothing()
        x, _ = admit_signal(chunk, self.codec.spec, bounded=not self.level)
        x = remove(x, self.level) if self.level else x
        if self._samples and x.dtype != self._kept.dtype:
            raise CodecError(f"The stream was {self._kept.dtype} and goes on as {x.dtype}; send one type.")
        self._kept = torch.cat((self._kept.to(x.dtype), x), 1)
        self._samples += x.shape[1]
        ready = self._samples // self._patch - fast.REACH
        return self._give(ready) if ready > self._done else self._nothing()

    def finish(self) -> Tensor:
        """The last symbols (c, n): the signal ends here, and is continued as `codec.encode` continues it."""
        if self._finished or not self._samples:
            raise CodecError("The stream has ended already." if self._finished else "Nothing has come: no sample.")
        self._finished = True
        return self._give(math.ceil(self._samples / self._patch))

    def latent(self, symbols: Tensor) -> Latent:
        """Symbols (c, n) of the stream, all that `push` and `finish` gave side by side, as the `Latent` of the whole.

        Before the end it is that of what has come so far, as far as it is final.
        """
        length = self._samples if self._finished else symbols.shape[1] * self._patch
        symbols = _narrow(symbols)
        return self.codec._pair(symbols, (self.codec.config.channels, length), self.level)

    def _give(self, stop: int) -> Tensor:
        symbols = self.codec._symbols(self._kept)[:, self._done - self._first : stop - self._first]
        self._done = stop
        drop = max(0, stop - fast.REACH - self._first)
        self._kept, self._first = self._kept[:, drop * self._patch :].clone(), self._first + drop
        return _narrow(symbols)

    def _nothing(self) -> Tensor:
        return torch.empty(self.codec.channels, 0, dtype=torch.int8)


def _narrow(symbols: Tensor) -> Tensor:
    """As int8 if they fit, as the codec itself gives them; those past the end of what is known may have been larger."""
    low, high = (int(end) for end in symbols.aminmax())
    return symbols.to(torch.int8) if low >= -128 and high <= 127 else symbols
