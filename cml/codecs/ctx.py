"""The `ctx` back-end: adaptive binary range coding whose contexts are symbols that are coded already.

    symbols (c, *grid) --all axes of the grid but the last in one--> planes, one after another, line by line
      --> all zero? smooth? (then the residual of the median edge detector, as JPEG-LS has it)
      --> in quiet surroundings, eight symbols at once: all zero?
      --> zero? --> sign --> magnitude in steps of one, Exp-Golomb beyond --> one range coder

A bit's context is how large magnitudes are around it: left and above in its plane, and at the same place in the planes
before, blurred and decaying. Two adaptive probabilities, one of all planes and one that a new plane learns afresh, are
mixed as logits (after Mahoney's PAQ); only the sign and a few flags have one. Nothing but symbols is in the payload: no
tables, no header; zeros at its end are not stored, so that symbols that are all zero cost no byte.

Symbols of three axes have a model of their own, `Ctx3d`, which sees the slice before, too (`ctx3d_kernel`).

Compiled by numba when first used, in about ten seconds each way and type, and kept beside this file from then on.
"""

import sys
from types import ModuleType

import numpy as np

from cml.errors import BitstreamError

_SPARE_WORDS = 64


class Ctx:
    """The back-end with the fewest bytes; see the module. Beside symbols and payload it needs 12 bytes a position."""

    number = 3

    def encode(self, symbols: np.ndarray) -> bytes:
        kernel = self._kernel()
        planes = self._planes(np.require(symbols, requirements=["C", "A", "W"]))  # other layouts would be compiled anew
        # Memory that nothing is written to is only promised. Symbols that cost more than their plain bytes are coded
        # again, into as many words as the first run asked for.
        room, needed = 0, planes.nbytes // 2 + _SPARE_WORDS
        words = np.empty(0, np.uint16)
        while needed > room:
            room = needed
            words = np.empty(room, np.uint16)
            needed = int(kernel.encode(planes, words, kernel.initial()))
        payload = _big_endian(words[:needed]).view(np.uint8)
        stop = len(payload)
        while stop and not payload[stop - 1]:
            stop -= 1
        return payload[:stop].tobytes()

    def decode(self, payload: bytes, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        kernel = self._kernel()
        symbols = np.zeros(shape, dtype)
        words = np.zeros(-(-len(payload) // 2), np.uint16)
        words.view(np.uint8)[: len(payload)] = np.frombuffer(payload, np.uint8)
        asked = int(kernel.decode(self._planes(symbols), _big_endian(words), kernel.initial()))
        if words.size > asked or payload.endswith(b"\0"):
            raise BitstreamError("The ctx payload is not a coding of these symbols; fetch the file again.")
        return symbols

    def _kernel(self) -> ModuleType:
        from cml.codecs import ctx_kernel

        return ctx_kernel

    def _planes(self, symbols: np.ndarray) -> np.ndarray:
        """(c, *grid) as the kernel takes it, (c, lines, columns), the same memory."""
        return symbols.reshape(len(symbols), -1, symbols.shape[-1])


class Ctx3d(Ctx):
    """`ctx` for symbols (c, slices, rows, columns)."""

    number = 5

    def _kernel(self) -> ModuleType:
        from cml.codecs import ctx3d_kernel

        return ctx3d_kernel

    def _planes(self, symbols: np.ndarray) -> np.ndarray:
        return symbols


def _big_endian(words: np.ndarray) -> np.ndarray:
    """Words as this machine has them to the payload's order, in place, or back."""
    return words.byteswap(inplace=True) if sys.byteorder == "little" else words
