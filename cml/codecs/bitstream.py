"""The container: what a stored latent needs to be decoded by anybody, and nothing else.

    "CML" version(1) codec_id(6) flags(1) parameter(float32) shape(varints: C, *spatial)
    channels(varint) [extras] length(varint) payload CRC32(4)

flags: bits 0-2 back-end, 3-4 bit depth (8, 16, 32), 5-6 spatial axes, 7 symbols are int16. An image of 768x512 costs
28 bytes beside its payload. The CRC covers every byte before it, so a cut or changed file raises `BitstreamError`.

Version 3 has `extras`: a byte that says which of these follow, in this order: 1, the level, float32 peak and C float32
offsets; 2, the facts, a varint of their bytes and JSON, deflated where that is shorter (4). A container that needs none
of them is written as version 2, which has no such byte.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cml.errors import BitstreamError, CodecError

MAGIC = b"CML"
VERSION = 3
_PLAIN = 2
_LEVEL, _FACTS, _DEFLATED = 1, 2, 4
_MOST_FACTS = 1 << 24  # bytes
FINGERPRINT_BYTES = 6
_DEPTHS = (8, 16, 32)
_HEAD = struct.Struct(f"<3sB{FINGERPRINT_BYTES}sBf")
_CRC = struct.Struct("<I")
# More samples than this is no signal but a broken or hostile header; decoding would ask for all the memory.
_MAX_SAMPLES = 2**34


@dataclass(frozen=True)
class Container:
    """One signal on the wire.

    Attributes:
        codec_id: 12 hexadecimal digits, the fingerprint of the codec that decodes it.
        parameter: the operating point (the step of a neural codec, the factor of `resize`).
        shape: (C, *spatial) of the original signal.
        channels: c, latent channels that the payload holds; 0 for a codec without latents.
        bit_depth: bits a sample of the original: 8, 16, or 32 for float.
        backend: number of the entropy back-end (0 to 7).
        wide: symbols are int16.
        payload: what the back-end wrote.
        level: (peak, *offsets) of a signal that was brought to a peak of 1 around its offsets, one a channel, before
            it was encoded; empty where it was encoded as it is. Rounded to float32.
        facts: what a reader of the signal should know and the codec need not: sampling rate, spacing, wavelengths;
            whatever JSON holds.
    """

    codec_id: str
    parameter: float
    shape: tuple[int, ...]
    channels: int
    bit_depth: int
    backend: int
    wide: bool
    payload: bytes
    level: tuple[float, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def pack(self) -> bytes:
        """The bytes of the container."""
        flags = self.backend | _DEPTHS.index(self.bit_depth) << 3 | (len(self.shape) - 1) << 5 | self.wide << 7
        extras = self._extras()
        version = VERSION if extras else _PLAIN
        head = _HEAD.pack(MAGIC, version, bytes.fromhex(self.codec_id), flags, self.parameter)
        numbers = b"".join(map(varint, (*self.shape, self.channels)))
        body = head + numbers + extras + varint(len(self.payload)) + self.payload
        return body + _CRC.pack(zlib.crc32(body))

    def _extras(self) -> bytes:
        kinds, parts = 0, b""
        if self.level:
            kinds |= _LEVEL
            parts += struct.pack(f"<{len(self.level)}f", *self.level)
        if self.facts:
            kinds |= _FACTS
            written = _write_facts(self.facts)
            deflated = zlib.compress(written, 9)
            if len(deflated) < len(written):
                kinds, written = kinds | _DEFLATED, deflated
            parts += varint(len(written)) + written
        return bytes([kinds]) + parts if kinds else b""

    @classmethod
    def unpack(cls, blob: bytes) -> "Container":
        """Read a container; any byte changed, added or missing raises `BitstreamError`."""
        if not is_container(blob):
            raise BitstreamError("These bytes do not start with 'CML': not a cml container.")
        if len(blob) < _HEAD.size + _CRC.size:
            raise BitstreamError(f"The container is cut off: only {len(blob)} bytes are left.")
        _, version, codec_id, flags, parameter = _HEAD.unpack_from(blob)
        if version not in (_PLAIN, VERSION):
            advice = "update cml" if version > VERSION else "encode the signal again"
            raise BitstreamError(
                f"The container has version {version}; this cml reads versions {_PLAIN} and {VERSION}: {advice}."
            )
        body = blob[: -_CRC.size]
        if _CRC.unpack_from(blob, len(body))[0] != zlib.crc32(body):
            raise BitstreamError("The container is damaged or cut off: its checksum does not match; fetch it again.")
        position, numbers = _HEAD.size, []
        ndim = flags >> 5 & 3
        for _ in range(ndim + 2):
            number, position = read_varint(body, position)
            numbers.append(number)
        *shape, channels = numbers
        depth = flags >> 3 & 3
        if ndim == 0 or depth >= len(_DEPTHS) or 0 in shape or math.prod(shape) > _MAX_SAMPLES:
            raise BitstreamError(f"The container's header makes no sense: shape {tuple(shape)}.")
        level, facts = (), {}
        if version == VERSION:
            level, facts, position = _read_extras(body, position, shape[0])
        length, position = read_varint(body, position)
        if len(body) - position != length:
            raise BitstreamError(f"The container promises {length} bytes of payload and holds {len(body) - position}.")
        return cls(
            codec_id=codec_id.hex(),
            parameter=parameter,
            shape=tuple(shape),
            channels=channels,
            bit_depth=_DEPTHS[depth],
            backend=flags & 7,
            wide=bool(flags >> 7),
            payload=body[position:],
            level=level,
            facts=facts,
        )


def attach(blob: bytes, facts: Mapping[str, Any]) -> bytes:
    """A container that carries facts, besides those that it has; nothing else of it changes.

    Args:
        blob: a container.
        facts: name -> what JSON holds; floats come back as they were, to the last bit.

    Raises:
        BitstreamError: the bytes are no container.
        CodecError: JSON does not hold the facts.
    """
    container = Container.unpack(blob)
    return replace(container, facts={**container.facts, **facts}).pack()


def facts(blob: bytes) -> dict[str, Any]:
    """The facts that a container carries; none of other bytes, such as the files of conventional codecs."""
    return dict(Container.unpack(blob).facts) if is_container(blob) else {}


def container_id(blob: bytes) -> str | None:
    """The codec that a container names, read without checking the rest; None if it is no container."""
    return blob[4 : 4 + FINGERPRINT_BYTES].hex() if is_container(blob) and len(blob) >= _HEAD.size else None


def is_container(blob: bytes) -> bool:
    """Whether bytes start as a cml container does."""
    return blob[: len(MAGIC)] == MAGIC


def varint(number: int) -> bytes:
    """A number of 0 or more, seven bits a byte, the lowest first."""
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """The number at a position, and the position after it; BitstreamError where it is cut off or endless."""
    number = 0
    for shift in range(0, 63, 7):
        if position >= len(data):
            raise BitstreamError("The container's header is cut off.")
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
    raise BitstreamError("The container's header holds an endless number.")


def _write_facts(facts: Mapping[str, Any]) -> bytes:
    try:
        written = json.dumps(dict(facts), separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise CodecError(f"The facts of a signal must be what JSON holds: {error}.") from error
    if len(written) > _MOST_FACTS:
        raise CodecError(f"The facts of a signal take {len(written)} bytes, more than the {_MOST_FACTS} allowed.")
    return written


def _read_extras(body: bytes, position: int, channels: int) -> tuple[tuple[float, ...], dict[str, Any], int]:
    """Level, facts and where they end."""
    if position >= len(body):
        raise BitstreamError("The container's header is cut off.")
    kinds, position, level, facts = body[position], position + 1, (), {}
    if not kinds or kinds >= 2 * _DEFLATED or (kinds & _DEFLATED and not kinds & _FACTS):
        raise BitstreamError("The container's header holds what this cml does not know: update cml.")
    if kinds & _LEVEL:
        end = position + 4 * (1 + channels)
        if end > len(body):
            raise BitstreamError("The container's header is cut off.")
        level, position = struct.unpack(f"<{1 + channels}f", body[position:end]), end
        if not all(map(math.isfinite, level)) or level[0] < 0:
            raise BitstreamError("The container's level makes no sense.")
    if kinds & _FACTS:
        length, position = read_varint(body, position)
        written, position = body[position : position + length], position + length
        try:
            if kinds & _DEFLATED:
                unpacker = zlib.decompressobj()
                written = unpacker.decompress(written, _MOST_FACTS)
            facts = json.loads(written)
        except (zlib.error, ValueError) as error:
            raise BitstreamError("The container's facts cannot be read.") from error
        if not isinstance(facts, dict):
            raise BitstreamError("The container's facts are no names with values.")
    return level, facts, position
