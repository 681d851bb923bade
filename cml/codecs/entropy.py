"""Entropy back-ends: integer symbols to bytes and back, losslessly, through integers only.

No float that a signal or a network made reaches a back-end: the bytes are a function of the symbols and of constant
tables alone, and decode to them on any machine.
"""

import math
from typing import Protocol

import numpy as np
import zstandard

from cml.codecs.ctx import Ctx, Ctx3d
from cml.codecs.order0 import Order0
from cml.codecs.rans import Rans
from cml.errors import BitstreamError, CodecError


class EntropyCoder(Protocol):
    """Codes an int8 or int16 array (c, *grid)."""

    number: int
    """What the container calls this back-end, 0 to 7; never reused."""

    def encode(self, symbols: np.ndarray) -> bytes:
        """Symbols to bytes, the same on any number of threads."""
        ...

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Bytes to symbols; raises BitstreamError when they are not a coding of that shape."""
        ...


class Zstd:
    """Zstandard over the channel planes: very fast, weak on sparse symbols. int16 goes low bytes first."""

    number = 1

    def encode(self, symbols: np.ndarray) -> bytes:
        planes = np.ascontiguousarray(symbols).view(np.uint8).reshape(-1, symbols.itemsize)
        return zstandard.ZstdCompressor(level=3, write_content_size=False).compress(planes.T.tobytes())

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = math.prod(shape) * dtype.itemsize
        try:
            raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=size)
        except zstandard.ZstdError as error:
            raise BitstreamError(f"The zstd payload does not decode: {error}.") from error
        if len(raw) != size:
            raise BitstreamError(f"The zstd payload holds {len(raw)} bytes of symbols, the header promises {size}.")
        planes = np.frombuffer(raw, np.uint8).reshape(dtype.itemsize, -1)
        return planes.T.copy().view(dtype).reshape(shape)


BACKENDS: dict[str, EntropyCoder] = {"zstd": Zstd(), "rans": Rans(), "ctx": Ctx(), "order0": Order0()}


_OF_THREE_AXES: dict[str, EntropyCoder] = {"ctx": Ctx3d()}
NAMES = {coder.number: name for name, coder in (*BACKENDS.items(), *_OF_THREE_AXES.items())}


def backend(name: str, axes: int = 2) -> EntropyCoder:
    """The back-end of a name, for grids of so many axes."""
    if name not in BACKENDS:
        raise CodecError(f"Unknown entropy back-end {name!r}: use one of {', '.join(BACKENDS)}.")
    return _OF_THREE_AXES.get(name, BACKENDS[name]) if axes == 3 else BACKENDS[name]


def backend_by_number(number: int) -> EntropyCoder:
    """The back-end that a container names."""
    for coder in (*BACKENDS.values(), *_OF_THREE_AXES.values()):
        if coder.number == number:
            return coder
    raise BitstreamError(f"The container uses entropy back-end {number}, unknown to this cml: update cml.")
