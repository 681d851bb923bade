"""The `order0` back-end: about the order-0 entropy, very fast, by four interleaved rANS coders in numba.

    symbols (c, *grid) --blocks of at most 1024 of a channel--> difference to the value before, where that is cheaper
      --> high part, and low bits of large symbols --> table of (zero, decay) --> rANS words, and bits for the rest

A block's table is a two-sided geometric distribution with a probability of zero of its own; its two numbers cost a byte
and follow the picture, which makes up for what plain order 0 does not see. A block of zeros costs one bit. Large
arrays are cut into segments that know nothing of each other and are coded in threads; where the cuts are depends on the
shape alone.

Compiled by numba when first used, and kept beside this file from then on.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from cml.codecs.threads import each
from cml.errors import BitstreamError

_SEGMENT = 49152  # symbols, so that a picture of 1024 x 1024 pixels makes four at `f8c12`
_MOST_SEGMENTS = 64
_SERIAL = 65536  # up to so many symbols threads are not worth their start


class Order0:
    """The fastest back-end; see the module."""

    number = 4

    def encode(self, symbols: np.ndarray) -> bytes:
        from cml.codecs import order0_kernel as kernel

        flat = np.ascontiguousarray(symbols).reshape(-1)
        flat.setflags(write=False)  # of this view: read-only symbols shall not be another type to compile for
        if not flat.size:
            return b""
        size, step, blocks, segments = _layout(symbols.shape, kernel.BLOCK)

        def code(segment: int) -> bytes:
            first, last = blocks * segment // segments, blocks * (segment + 1) // segments
            return kernel.encode(flat, size, step, first, last).tobytes()

        parts = each(code, segments, _threads(flat.size))
        lengths = np.array([len(part) for part in parts[:-1]], "<u4").tobytes()
        return b"".join([lengths, *parts])

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return self.decode_many([payload], shape, dtype)[0]

    def decode_many(self, payloads: Sequence[bytes], shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Arrays of one shape at once, as a loader needs them; faster than one after another where they are small.

        Args:
            payloads: what `encode` made, B of them.
            shape: (c, *grid) of each.
            dtype: int8 or int16.

        Returns:
            (B, c, *grid).

        Raises:
            BitstreamError: one of them is not a coding of that shape.
        """
        from cml.codecs import order0_kernel as kernel

        symbols = np.empty((len(payloads), *shape), dtype)
        if not symbols.size:
            if any(payloads):
                raise _foreign()
            return symbols
        size, step, blocks, segments = _layout(shape, kernel.BLOCK)
        bounds, count = _bounds(payloads, segments), len(payloads) * segments
        joined = np.frombuffer(payloads[0] if len(payloads) == 1 else b"".join(payloads), np.uint8)
        flat = symbols.reshape(-1)
        runs = min(count, 4 * _threads(flat.size)) if _threads(flat.size) > 1 else 1

        def code(run: int) -> bool:
            first, last = count * run // runs, count * (run + 1) // runs
            return kernel.decode(flat, joined, bounds, size, step, blocks, segments, first, last)

        if not all(each(code, runs, _threads(flat.size))):
            raise _foreign()
        return symbols


def _foreign() -> BitstreamError:
    return BitstreamError("The order0 payload is not a coding of these symbols; fetch the file again.")


def _layout(shape: tuple[int, ...], most: int) -> tuple[int, int, int, int]:
    """Symbols of a channel, symbols of its blocks but the last, blocks and segments of an array."""
    size = math.prod(shape[1:])
    blocks = -(-size // most)
    segments = min(max(shape[0] * size // _SEGMENT, 1), _MOST_SEGMENTS, shape[0] * blocks)
    return size, -(-size // blocks), shape[0] * blocks, segments


def _bounds(payloads: Sequence[bytes], segments: int) -> np.ndarray:
    """Where each segment of each payload begins and ends in all of them joined."""
    bounds, begin = [], 0
    for payload in payloads:
        end = begin + len(payload)
        if segments > 1:
            head = 4 * (segments - 1)
            if len(payload) < head:
                raise _foreign()
            begin += head
            for length in np.frombuffer(payload, "<u4", segments - 1).tolist():
                bounds += [begin, begin + length]
                begin += length
            if begin > end:
                raise _foreign()
        bounds += [begin, end]
        begin = end
    return np.array(bounds)


def _threads(size: int) -> int:
    return torch.get_num_threads() if size > _SERIAL else 1
