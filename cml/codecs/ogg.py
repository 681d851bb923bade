"""Ogg pages: whether a stream is whole, and the few header bytes of it that our files set themselves.

A page: "OggS" version(1) flags(1) granule(8) serial(4) sequence(4) CRC32(4) n(1) lacing(n), then its packets' bytes.
"""

import zlib
from collections.abc import Iterator

from cml.errors import BitstreamError

MAGIC = b"OggS"
_FLAGS, _GRANULE, _SERIAL, _CRC, _COUNT = 5, slice(6, 14), slice(14, 18), slice(22, 26), 26
_HEAD, _LAST = 27, 4
# Ogg's CRC-32 is zlib's with the bits of every byte, and of the result, in the other order, and without the inversions.
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ONES = 0xFFFFFFFF


def checksum(page: bytes) -> bytes:
    """The four CRC bytes of a page, whatever they are in it."""
    page = page[: _CRC.start] + bytes(4) + page[_CRC.stop :]
    value = zlib.crc32(page.translate(_MIRRORED), _ONES) ^ _ONES
    return int(f"{value:032b}"[::-1], 2).to_bytes(4, "little")


def pages(blob: bytes) -> Iterator[bytes]:
    """The pages of a file of one stream, each checked.

    Raises:
        BitstreamError: a page is damaged or cut off, or the last one does not say that it is the last.
    """
    at, ended = 0, False
    while at < len(blob):
        lacing = blob[at + _HEAD : at + _HEAD + blob[at + _COUNT]] if at + _HEAD <= len(blob) else b""
        page = blob[at : at + _HEAD + len(lacing) + sum(lacing)]
        if page[:4] != MAGIC or len(page) < _HEAD or page[_CRC] != checksum(page):
            raise BitstreamError("The Ogg file is damaged or cut off: one of its pages does not match its checksum.")
        yield page
        at, ended = at + len(page), bool(page[_FLAGS] & _LAST)
    if not ended:
        raise BitstreamError("The Ogg file is cut off: its last page is missing.")


def first_packet(blob: bytes) -> bytes:
    """The bytes of the first page behind its header: what kind of stream it is. Nothing is checked."""
    return blob[_HEAD + blob[_COUNT] :] if blob[:4] == MAGIC and len(blob) > _HEAD else b""


def granule(page: bytes) -> int:
    """The position of the stream at the end of a page: for sound, its samples so far."""
    return int.from_bytes(page[_GRANULE], "little")


def with_serial(blob: bytes, serial: int) -> bytes:
    """The same stream under another serial number: libraries draw it by chance, and then equal signals differ."""
    number = serial.to_bytes(4, "little")
    return b"".join(_sealed(page[: _SERIAL.start] + number + page[_SERIAL.stop :]) for page in pages(blob))


def patched(blob: bytes, offset: int, data: bytes) -> bytes:
    """The same stream with other bytes at an offset of its first packet."""
    at = _HEAD + blob[_COUNT] + offset
    end = _HEAD + blob[_COUNT] + sum(blob[_HEAD : _HEAD + blob[_COUNT]])
    return _sealed(blob[:at] + data + blob[at + len(data) : end]) + blob[end:]


def _sealed(page: bytes) -> bytes:
    return page[: _CRC.start] + checksum(page) + page[_CRC.stop :]
