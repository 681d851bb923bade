"""A long signal as several containers one after another, each a block of its first axis: streamed, and read at random.

    parts (C, n, ...) --compress, one at a time--> container 0 | container 1 | ... | container n-1      one file
                      facts: all of the signal's, block 0    block 1         block n-1, blocks n

Every container tells its own length, so a block is found by stepping over those before it, and decodes alone. The last
one says how many there are: a file that is cut off, even between two blocks, is known to be. A signal of one block is
a container like any other.
"""

import io
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import torch
from torch import Tensor

from cml.codecs import bitstream
from cml.codecs.base import Codec
from cml.codecs.bitstream import Container, attach, is_container
from cml.errors import BitstreamError

BLOCK, BLOCKS = "block", "blocks"
"""The facts that number a block, and that the last one counts them with."""

_HEAD, _CRC = bitstream._HEAD, bitstream._CRC
_CHUNK = 1 << 20


class _Encoder(Protocol):
    def compress(self, x: Tensor, /) -> bytes: ...


@dataclass(frozen=True)
class Block:
    """Where a block lies.

    Attributes:
        offset, size: of its container in the file, in bytes.
        start: its first position on the first axis of the signal.
        shape: (C, n, ...) of what it decodes to.
    """

    offset: int
    size: int
    start: int
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """The first position after it."""
        return self.start + self.shape[1]


def write_blocks(codec: _Encoder, parts: Iterable[Tensor], facts: Mapping[str, Any]) -> Iterator[bytes]:
    """The containers of a signal that comes in parts, each as soon as it is known whether another follows.

    Args:
        codec: compresses each part to a container.
        parts: (C, n, ...), blocks of the first axis in order, uint8, uint16 or float.
        facts: of the signal; the first container carries them.
    """
    held, number = b"", 0
    for part in parts:
        if number:
            yield attach(held, {BLOCK: number - 1})
        held = codec.compress(part)
        if not number and is_container(held):  # a file of another format tells what it knows itself
            held = attach(held, facts)
        number += 1
    if number:
        yield attach(held, {BLOCK: number - 1, BLOCKS: number}) if number > 1 else held


def blocks(stream: bytes | BinaryIO) -> Iterator[bytes]:
    """The containers of a file, one at a time; a single one is a file of one block.

    Raises:
        BitstreamError: what follows is no container, is cut off, or has blocks missing.
    """
    file = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    number, last = 0, {}
    while True:
        reader = _Reader(file)
        if not reader.more():
            break
        _length(reader)
        blob = reader.whole()
        last = Container.unpack(blob).facts
        if number or BLOCK in last:
            _check_number(last, number)
        yield blob
        number += 1
    _check_count(last, number)


def scan(file: BinaryIO) -> list[Block]:
    """Where the blocks of a file lie; only their headers are read. Errors as of `blocks`, but for damaged payloads."""
    found: list[Block] = []
    offset, facts, end = 0, {}, file.seek(0, io.SEEK_END)
    while offset < end:
        file.seek(offset)
        reader = _Reader(file)
        reader.more()
        shape, facts, rest = _header(reader)
        size = reader.taken + rest
        if offset + size > end:
            raise BitstreamError(f"The file is cut off: its block number {len(found)} should be {size} bytes long.")
        if found and shape[0:1] + shape[2:] != found[0].shape[0:1] + found[0].shape[2:]:
            raise BitstreamError(f"Block number {len(found)} has another shape than the first one: it does not belong.")
        if found or BLOCK in facts:
            _check_number(facts, len(found))
        found.append(Block(offset, size, found[-1].stop if found else 0, shape))
        offset += size
    _check_count(facts, len(found))
    return found


def first_header(file: BinaryIO) -> tuple[tuple[int, ...], dict[str, Any]]:
    """The shape and the facts of the container that a file begins with; its payload is not read."""
    reader = _Reader(file)
    reader.more()
    shape, facts, _ = _header(reader)
    return shape, facts


def read_block(file: BinaryIO, block: Block) -> bytes:
    """The container of one block."""
    file.seek(block.offset)
    return file.read(block.size)


def is_sequence(blob: bytes) -> bool:
    """Whether bytes are several containers one after another, rather than one, or anything else."""
    if not is_container(blob):
        return False
    try:
        reader = _Reader(io.BytesIO(blob))
        length = _length(reader)
    except BitstreamError:
        return False  # a damaged container, which says so better itself
    return len(blob) > length and is_container(blob[length:])


def decompress_blocks(codec: Codec, blob: bytes) -> Tensor:
    """The whole signal of several blocks, (C, *axes), all of them by one codec."""
    return torch.cat([codec.decompress(part) for part in blocks(blob)], 1)


class _Reader:
    """Takes bytes of a stream, and remembers them."""

    def __init__(self, file: BinaryIO):
        self._file, self.taken = file, 0
        self._parts: list[bytes] = []

    def more(self) -> bool:
        """Whether the stream goes on."""
        self._parts = [self._file.read(1)]
        self.taken = len(self._parts[0])
        return bool(self.taken)

    def take(self, count: int) -> bytes:
        """The next `count` bytes; read in pieces, since a damaged length may ask for far more than there is."""
        pieces, wanted = [], count
        while wanted:
            piece = self._file.read(min(wanted, _CHUNK))
            if not piece:
                raise BitstreamError(f"The container is cut off: {wanted} bytes are missing.")
            pieces.append(piece)
            wanted -= len(piece)
        self._parts += pieces
        self.taken += count
        return b"".join(pieces)

    def varint(self) -> int:
        """A number as `bitstream` writes it."""
        written = b""
        while not written or (written[-1] > 127 and len(written) < 9):
            written += self.take(1)
        return bitstream.read_varint(written, 0)[0]

    def whole(self) -> bytes:
        """Everything taken."""
        return b"".join(self._parts)


def _header(reader: _Reader) -> tuple[tuple[int, ...], dict[str, Any], int]:
    """The shape, the facts, and how many bytes follow, of a container whose first byte was taken."""
    _, version, _, flags, _ = _HEAD.unpack(reader.whole() + reader.take(_HEAD.size - 1))
    if not is_container(reader.whole()):
        raise BitstreamError("What follows a block is no container: the file is damaged.")
    if version not in (bitstream._PLAIN, bitstream.VERSION):
        raise BitstreamError(f"The container has version {version}, which this cml does not read: update cml.")
    *shape, _ = [reader.varint() for _ in range((flags >> 5 & 3) + 2)]
    if math.prod(shape) > bitstream._MAX_SAMPLES or len(shape) < 2:
        raise BitstreamError(f"The container's header makes no sense: shape {tuple(shape)}.")
    facts: dict[str, Any] = {}
    if version == bitstream.VERSION:
        kinds = reader.take(1)
        extras = kinds
        if kinds[0] & bitstream._LEVEL:
            extras += reader.take(4 * (1 + shape[0]))
        if kinds[0] & bitstream._FACTS:
            length = reader.varint()
            extras += bitstream.varint(length) + reader.take(length)
        _, facts, _ = bitstream._read_extras(extras, 0, shape[0])
    return tuple(shape), facts, reader.varint() + _CRC.size


def _length(reader: _Reader) -> int:
    """Take a whole container; its length."""
    if not reader.taken:
        reader.more()
    *_, rest = _header(reader)
    reader.take(rest)
    return reader.taken


def _check_number(facts: Mapping[str, Any], number: int) -> None:
    if facts.get(BLOCK) != number:
        raise BitstreamError(f"Block number {number} is missing, or not where it should be: fetch the file again.")


def _check_count(facts: Mapping[str, Any], number: int) -> None:
    if not number:
        raise BitstreamError("There is no container: the file is empty.")
    if (number > 1 or BLOCK in facts) and facts.get(BLOCKS) != number:
        raise BitstreamError(f"The file is cut off after {number} blocks: the last one is missing; fetch it again.")
