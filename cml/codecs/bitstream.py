"""The container: what a stored latent needs to be decoded by anybody, and nothing else.

    "CML" version(1) codec_id(6) flags(1) parameter(float32) shape(varints: C, *spatial)
    channels(varint) length(varint) payload CRC32(4)

flags: bits 0-2 back-end, 3-4 bit depth (8, 16, 32), 5-6 spatial axes, 7 symbols are int16. An image of 768x512 costs
28 bytes beside its payload. The CRC covers every byte before it, so a cut or changed file raises `BitstreamError`.
"""

import math
import struct
import zlib
from dataclasses import dataclass

from cml.errors import BitstreamError

MAGIC = b"CML"
VERSION = 2
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
    """

    codec_id: str
    parameter: float
    shape: tuple[int, ...]
    channels: int
    bit_depth: int
    backend: int
    wide: bool
    payload: bytes

    def pack(self) -> bytes:
        """The bytes of the container."""
        flags = self.backend | _DEPTHS.index(self.bit_depth) << 3 | (len(self.shape) - 1) << 5 | self.wide << 7
        head = _HEAD.pack(MAGIC, VERSION, bytes.fromhex(self.codec_id), flags, self.parameter)
        body = head + b"".join(map(_varint, (*self.shape, self.channels, len(self.payload)))) + self.payload
        return body + _CRC.pack(zlib.crc32(body))

    @classmethod
    def unpack(cls, blob: bytes) -> "Container":
        """Read a container; any byte changed, added or missing raises `BitstreamError`."""
        if not is_container(blob):
            raise BitstreamError("These bytes do not start with 'CML': not a cml container.")
        if len(blob) < _HEAD.size + _CRC.size:
            raise BitstreamError(f"The container is cut off: only {len(blob)} bytes are left.")
        _, version, codec_id, flags, parameter = _HEAD.unpack_from(blob)
        if version != VERSION:
            advice = "update cml" if version > VERSION else "encode the signal again"
            raise BitstreamError(f"The container has version {version}; this cml reads version {VERSION}: {advice}.")
        body = blob[: -_CRC.size]
        if _CRC.unpack_from(blob, len(body))[0] != zlib.crc32(body):
            raise BitstreamError("The container is damaged or cut off: its checksum does not match; fetch it again.")
        position, numbers = _HEAD.size, []
        ndim = flags >> 5 & 3
        for _ in range(ndim + 3):
            number, position = _read_varint(body, position)
            numbers.append(number)
        *shape, channels, length = numbers
        depth = flags >> 3 & 3
        if ndim == 0 or depth >= len(_DEPTHS) or 0 in shape or math.prod(shape) > _MAX_SAMPLES:
            raise BitstreamError(f"The container's header makes no sense: shape {tuple(shape)}.")
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
        )


def container_id(blob: bytes) -> str | None:
    """The codec that a container names, read without checking the rest; None if it is no container."""
    return blob[4 : 4 + FINGERPRINT_BYTES].hex() if is_container(blob) and len(blob) >= _HEAD.size else None


def is_container(blob: bytes) -> bool:
    """Whether bytes start as a cml container does."""
    return blob[: len(MAGIC)] == MAGIC


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
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
