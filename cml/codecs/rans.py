"""The `rans` back-end: asymmetric numeral systems with one integer table a channel.

    symbols (c, *grid) --per channel--> difference to the left neighbour, where that is cheaper
      --> high part and low bits (only past +-255) --> table of (zero, decay) --> one ANS stream

A channel's table is a two-sided geometric distribution with a probability of zero of its own; its two numbers are
indices into the short lists below and travel in the stream, coded the same way. Tables are built in integers;
constriction takes them as floats that are whole numbers and scales them with single IEEE operations, which give the
same on every machine. The golden bitstreams in the tests hold its releases to that.
"""

from functools import cache
from typing import Any

import numpy as np
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]

from cml.errors import BitstreamError

# Probability of a zero, and ratio of successive magnitudes, in units of 2^-16, at evenly spaced logits.
_ZERO = (
    508, 785, 1209, 1857, 2836, 4296, 6432, 9465, 13598, 18929, 25329, 32389, 39485, 45979, 51433, 55691,
    58831, 61051, 62572, 63594, 64271, 64715, 65004, 65192, 65314, 65393, 65444, 65476, 65498, 65511, 65520,
)  # fmt: skip
_DECAY = (
    508, 693, 944, 1284, 1743, 2361, 3187, 4281, 5718, 7576, 9939, 12874, 16421, 20563, 25213, 30209,
    35327, 40323, 44973, 49115, 52662, 55597, 57960, 59818, 61255, 62349, 63175, 63793, 64252, 64592, 64843, 65028,
)  # fmt: skip
_EMPTY = len(_ZERO)  # the index that says: every symbol of this channel is zero, nothing is coded
_LARGEST = 255  # magnitudes that a table holds
_TOTAL = 1 << 24  # constriction's own precision
_SIDE = ("difference", "shift", "zero", "decay")
_SIDE_BYTES = 6  # difference(1) zero(5) decay(5) bits for each of the four rows of side information


def _bits(probability: np.ndarray) -> np.ndarray:
    """Code lengths in 1/4096 bit, integers, so that the choice of a table does not hang on a last float digit."""
    return np.round(-4096 * np.log2(probability)).astype(np.int64)


_P, _R = np.array(_ZERO) / 65536, np.array(_DECAY) / 65536
_COST_ZERO, _COST_NONZERO = _bits(_P), _bits((1 - _P) / 2)
_COST_FIRST, _COST_NEXT = _bits(1 - _R), _bits(_R)


@cache
def _table(zero: int, decay: int) -> Any:
    """The model of the integers -255 ... 255, as counts that sum to 2^24."""
    weight = (_TOTAL - _TOTAL // 65536 * _ZERO[zero]) // 2 * (65536 - _DECAY[decay]) >> 16
    tail = []
    for _ in range(_LARGEST):
        tail.append(max(weight, 1))
        weight = weight * _DECAY[decay] >> 16
    counts = [*reversed(tail), _TOTAL - 2 * sum(tail), *tail]
    return stream.model.Categorical(np.array(counts, dtype=np.float64), perfect=False)


def _choose(planes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each row of integers its best (zero, decay) indices and its cost."""
    nonzero = np.count_nonzero(planes, 1)[:, None]
    zeros = planes.shape[1] - nonzero
    beyond = np.abs(planes).sum(1, dtype=np.int64)[:, None] - nonzero
    cost_zero = zeros * _COST_ZERO + nonzero * _COST_NONZERO
    cost_decay = nonzero * _COST_FIRST + beyond * _COST_NEXT
    empty = nonzero[:, 0] == 0
    cost = np.where(empty, 0, cost_zero.min(1) + cost_decay.min(1))
    return np.where(empty, _EMPTY, cost_zero.argmin(1)), np.where(empty, 0, cost_decay.argmin(1)), cost


def _difference(x: np.ndarray) -> np.ndarray:
    """Differences along the last axis of (c, *grid); the first of each line is predicted from the line before."""
    out = x.copy()
    out[..., 1:] -= x[..., :-1]
    first = x[..., 0].reshape(len(x), -1)
    out[..., 0] = np.diff(first, axis=1, prepend=0).reshape(x.shape[:-1])
    return out


def _accumulate(x: np.ndarray) -> np.ndarray:
    """The inverse of `_difference` for one channel (*grid)."""
    out = x.copy()
    out[..., 0] = np.cumsum(out[..., 0].reshape(-1)).reshape(x.shape[:-1])
    return np.cumsum(out, axis=-1)


class Rans:
    """The default back-end; see the module."""

    number = 2

    def encode(self, symbols: np.ndarray) -> bytes:
        plain = symbols.astype(np.int32)
        difference = _difference(plain)
        flat, flat_difference = plain.reshape(len(plain), -1), difference.reshape(len(plain), -1)
        use = _choose(flat_difference)[2] < _choose(flat)[2]
        rows = np.where(use[:, None], flat_difference, flat)
        peak = np.abs(rows).max(1)
        shift = np.array([max(int(p).bit_length() - 8, 0) for p in peak])
        # An arithmetic shift moves negative values one further from zero than positive ones.
        shift += ((rows.min(1) >> shift) < -_LARGEST).astype(int)
        high = rows >> shift[:, None]
        zero, decay, _ = _choose(high)

        coder = stream.stack.AnsCoder()
        for row, top, bits, z, d in reversed(list(zip(rows, high, shift, zero, decay, strict=True))):
            if bits:
                low = (row & (1 << bits) - 1).astype(np.int32)
                coder.encode_reverse(low, stream.model.Uniform(1 << int(bits)))
            _push(coder, top, int(z), int(d))

        side = np.stack([use.astype(np.int32), shift, zero, decay]).astype(np.int32)
        side_difference = _difference(side)
        use_side = _choose(side_difference)[2] < _choose(side)[2]
        side = np.where(use_side[:, None], side_difference, side)
        side_zero, side_decay, _ = _choose(side)
        header = 0
        for row, u, z, d in reversed(list(zip(side, use_side, side_zero, side_decay, strict=True))):
            _push(coder, row, int(z), int(d))
            header = header << 11 | int(u) << 10 | int(z) << 5 | int(d)
        return header.to_bytes(_SIDE_BYTES, "little") + coder.get_compressed().astype("<u4").tobytes()

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        try:
            return self._decode(payload, shape, dtype)
        except (ValueError, IndexError, OverflowError) as error:
            raise BitstreamError("The rans payload is not a coding of these symbols; fetch the file again.") from error

    def _decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        header = int.from_bytes(payload[:_SIDE_BYTES], "little")
        coder = stream.stack.AnsCoder(np.frombuffer(payload[_SIDE_BYTES:], "<u4").astype(np.uint32))
        side = []
        for _ in _SIDE:
            row = _pop(coder, shape[0], header >> 5 & 31, header & 31)
            side.append(_accumulate(row) if header >> 10 & 1 else row)
            header >>= 11
        out = np.empty(shape, dtype=dtype)
        limits = np.iinfo(dtype)
        size = out[0].size
        for channel, (use, bits, z, d) in enumerate(zip(*(row.tolist() for row in side), strict=True)):
            if not (0 <= use <= 1 and 0 <= bits <= 24 and 0 <= z <= _EMPTY and 0 <= d < len(_DECAY)):
                raise ValueError("side information out of range")
            plane = _pop(coder, size, z, d)
            if bits:
                plane = plane << bits | coder.decode(stream.model.Uniform(1 << bits), size)
            plane = plane.reshape(shape[1:])
            plane = _accumulate(plane) if use else plane
            if plane.min() < limits.min or plane.max() > limits.max:
                raise ValueError("symbols out of range")
            out[channel] = plane
        return out


def _push(coder: Any, row: np.ndarray, zero: int, decay: int) -> None:
    if zero != _EMPTY:
        coder.encode_reverse((row + _LARGEST).astype(np.int32), _table(zero, decay))


def _pop(coder: Any, size: int, zero: int, decay: int) -> np.ndarray:
    if zero == _EMPTY:
        return np.zeros(size, np.int64)
    return coder.decode(_table(zero, decay), size).astype(np.int64) - _LARGEST
