"""The video codecs that people use: H.264, HEVC, VP9, AV1; 4:2:0 with 8 bits, on one thread.

Their bytes are plain streams of the format, the smallest files that hold one, so that the rate is what the codec costs:
Annex B of H.264 and HEVC (.264, .265), the low-overhead format of AV1 (.obu), and IVF for VP9, which has none of its
own. An MP4 or Matroska file has half a kilobyte to a whole one more, and 8 to 12 bytes a frame. Players read them.

Frames are padded to even sides. What the format cannot tell, the size without the padding, and a checksum are in a unit
behind the stream, of a kind that decoders skip, or in the free fields of IVF's header.
"""

import zlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml.codecs.av_video import RGB, VideoFormat, decode_video, encode_video, video_settings
from cml.codecs.base import Codec, CodecSpec, admit_signal, fingerprint, to_uint8
from cml.codecs.conventional import check_option, refuse_16_bits
from cml.codecs.geometry import pad_to_multiple
from cml.errors import BitstreamError, CodecError

SMALLEST = (16, 64)
"""Height and width that every encoder takes; of less than some 60 pixels width, x265 damages memory."""
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
TUNES = ("psnr", "ssim", "none")


def pad_frames(x: Tensor) -> Tensor:
    """(C, t, h, w) with its edges repeated to even sides of at least `SMALLEST`."""
    return pad_to_multiple(x, 2, [least if n < least else 2 for n, least in zip(x.shape[2:], SMALLEST, strict=True)])


@dataclass(frozen=True)
class Extent:
    """What the stream alone does not tell: how much was encoded, without the padding."""

    frames: int
    height: int
    width: int


class VideoFile(Codec):
    """A signal (3, t, h, w) as a stream, one frame after the other.

        x --8 bits, even sides--> RGB frames --BT.709, 4:2:0--> encoder --> stream --decoder, RGB, cropped--> x_hat

    Args:
        name: of the operating point.
        options: of the encoder.
    """

    kind: str
    container: str
    encoder: str
    filter = ""

    def __init__(self, name: str, options: dict[str, str]):
        self._format = VideoFormat(self.container, self.encoder, RGB, options, self.filter)
        self._spec = CodecSpec(
            name=name,
            ndim=3,
            channels=(3,),
            codec_id=fingerprint({"codec": self.kind, "version": 1}),
            settings=video_settings(self.kind, self._format),
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    @abstractmethod
    def matches(cls, blob: bytes) -> bool:
        """Whether bytes start as a stream of this format does."""

    @classmethod
    @abstractmethod
    def _sign(cls, stream: bytes, extent: Extent) -> bytes:
        """A stream that says what it holds, with a checksum."""

    @classmethod
    @abstractmethod
    def _signature(cls, blob: bytes) -> Extent | None:
        """What `_sign` wrote, if all bytes are as they were."""

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if cls.matches(blob) else None  # pyright: ignore[reportCallIssue]

    def _admit(self, x: Tensor | np.ndarray, spec: CodecSpec) -> tuple[Tensor, int]:
        x, bit_depth = admit_signal(x, spec)
        refuse_16_bits(spec.name, bit_depth)
        return x if bit_depth == 8 else to_uint8(x), 8

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        _, frames, height, width = x.shape
        padded = (pad_frames(x[:, number : number + 1])[:, 0] for number in range(frames))
        stream = encode_video((frame.permute(1, 2, 0).numpy() for frame in padded), self._format)
        return self._sign(stream, Extent(frames, height, width))

    def _decompress(self, blob: bytes) -> Tensor:
        return torch.from_numpy(np.stack([frame.transpose(2, 0, 1) for frame in self._frames(blob)], 1))

    def _frames(self, blob: bytes) -> Iterator[np.ndarray]:
        if not self.matches(blob):
            raise BitstreamError(f"These bytes are no stream of {self.kind}.")
        extent = self._signature(blob)
        if extent is None:
            raise BitstreamError(
                f"The stream of {self.kind} is cut off, damaged, or not from cml: fetch it again, or read it as a file."
            )
        count = 0
        for padded in decode_video(blob, self._format):
            count += 1
            frame = padded[: extent.height, : extent.width]
            if frame.shape[:2] != (extent.height, extent.width):
                break
            yield frame.astype(np.float32) / 127.5 - 1
        if count != extent.frames:
            raise BitstreamError(f"The stream of {self.kind} does not hold the frames that it tells.")


class _WithTail(VideoFile):
    """A stream with a unit of ours behind it: numbers in seven bits a byte, so that no start of a unit is among them.

    Attributes:
        _STARTS: what the first bytes of a stream may be.
        _UNIT, _END: what makes such a unit of the numbers: frames, height, width, checksum.
    """

    _STARTS: tuple[bytes, ...]
    _UNIT: bytes
    _END = b""
    _NUMBERS = 4

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob.startswith(cls._STARTS)

    @classmethod
    def _sign(cls, stream: bytes, extent: Extent) -> bytes:
        numbers = extent.frames, extent.height, extent.width
        tail = b"".join(map(_seven_bits, (*numbers, zlib.crc32(stream, zlib.crc32(repr(numbers).encode())))))
        return stream + cls._UNIT + tail + cls._END

    @classmethod
    def _signature(cls, blob: bytes) -> Extent | None:
        start = len(blob) - len(cls._END) - 5 * cls._NUMBERS
        if start <= len(cls._UNIT):
            return None
        numbers = (blob[at : at + 5] for at in range(start, start + 15, 5))
        extent = Extent(*(sum((byte & 127) << 7 * place for place, byte in enumerate(number)) for number in numbers))
        return extent if cls._sign(blob[: start - len(cls._UNIT)], extent) == blob else None


def _seven_bits(number: int) -> bytes:
    return bytes(number >> 7 * place & 127 | 128 for place in range(5))


def _quality(kind: str, crf: float, preset: str, tune: str) -> dict[str, str]:
    check_option(kind, "crf", crf, 0, 51, whole=False)
    if preset not in PRESETS:
        raise CodecError(f"{kind} takes the presets {', '.join(PRESETS)}, not {preset!r}.")
    if tune not in TUNES:
        raise CodecError(f"{kind} takes tune {', '.join(TUNES)}, not {tune!r}.")
    return {"crf": f"{crf:.12g}", "preset": preset} | ({} if tune == "none" else {"tune": tune})


def operating_point(kind: str, crf: float, **others: tuple[Any, Any]) -> str:
    """An operating point; of the other options those that are not (as usual, usual)."""
    more = [f",{key}={value}" for key, (value, usual) in others.items() if value != usual]
    return f"{kind}:crf={crf:.12g}" + "".join(more)


class X264(_WithTail):
    """H.264 by x264, without the note that it writes of itself.

    Args:
        crf: constant rate factor, 0 (best) to 51.
        preset: x264's, "ultrafast" to "placebo".
        tune: `psnr`, as VP9 and SVT-AV1 are by themselves; `ssim`; or `none`, for viewers, as x264 is by itself.
    """

    kind, container, encoder = "x264", "h264", "libx264"
    filter = "filter_units=remove_types=6"
    # As it is by itself, its fastest code for the lookahead gives other bytes of the same frames now and then.
    _SAME_EVERYWHERE = "cpu-independent=1"
    _STARTS = (b"\0\0\0\x01\x67", b"\0\0\0\x01\x09")
    _UNIT = b"\0\0\0\x01\x1e"  # of the unspecified type 30

    def __init__(self, crf: float = 26, preset: str = "medium", tune: str = "psnr"):
        options = _quality(self.kind, crf, preset, tune) | {"x264-params": self._SAME_EVERYWHERE}
        super().__init__(operating_point(self.kind, crf, preset=(preset, "medium"), tune=(tune, "psnr")), options)


class X265(_WithTail):
    """HEVC by x265, without the note that it writes of itself.

    Args:
        crf: constant rate factor, 0 (best) to 51.
        preset: x265's, "ultrafast" to "placebo".
        tune: as of `X264`.
    """

    kind, container, encoder = "x265", "hevc", "libx265"
    _ONE_THREAD = "log-level=none:info=0:pools=none:frame-threads=1"
    _STARTS = (b"\0\0\0\x01\x40\x01", b"\0\0\0\x01\x46\x01")
    _UNIT = b"\0\0\0\x01\x7c\x01"  # of the unspecified type 62

    def __init__(self, crf: float = 28, preset: str = "medium", tune: str = "psnr"):
        options = self.quality(self.kind, crf, preset, tune)
        super().__init__(operating_point(self.kind, crf, preset=(preset, "medium"), tune=(tune, "psnr")), options)

    @classmethod
    def quality(cls, kind: str, crf: float, preset: str, tune: str) -> dict[str, str]:
        """x265's options."""
        return _quality(kind, crf, preset, tune) | {"x265-params": cls._ONE_THREAD}


class Av1(_WithTail):
    """AV1 by SVT-AV1, read by dav1d.

    Args:
        crf: constant rate factor, 1 (best) to 63.
        preset: 0 (small) to 13 (fast).
    """

    kind, container, encoder = "av1", "obu", "libsvtav1"
    _STARTS = (b"\x12\x00\x0a",)
    _UNIT, _END = b"\x7a\x15", b"\x80"  # padding, of so many bytes

    def __init__(self, crf: int = 35, preset: int = 6):
        check_option(self.kind, "crf", crf, 1, 63)
        check_option(self.kind, "preset", preset, 0, 13)
        options = {"crf": str(crf), "preset": str(preset), "svtav1-params": "lp=1:tune=1"}
        super().__init__(operating_point(self.kind, crf, preset=(preset, 6)), options)


class Vp9(VideoFile):
    """VP9 by libvpx, one pass, deadline good.

    Args:
        crf: constant quality, 0 (best) to 63.
        speed: 0 (small) to 5 (fast), libvpx's cpu-used.
    """

    kind, container, encoder = "vp9", "ivf", "libvpx-vp9"
    _SIZE, _FRAMES, _FREE = slice(12, 16), slice(24, 28), slice(28, 32)  # in IVF's header

    def __init__(self, crf: int = 32, speed: int = 1):
        check_option(self.kind, "crf", crf, 0, 63)
        check_option(self.kind, "speed", speed, 0, 5)
        options = {"crf": str(crf), "b": "0", "deadline": "good", "cpu-used": str(speed)}
        super().__init__(operating_point(self.kind, crf, speed=(speed, 1)), options)

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[:4] == b"DKIF" and blob[8:12] == b"VP90"

    @classmethod
    def _sign(cls, stream: bytes, extent: Extent) -> bytes:
        if max(extent.height, extent.width) > 0xFFFF:
            raise CodecError(f"{cls.kind} has sides of at most {0xFFFF} pixels.")
        signed = bytearray(stream)
        signed[cls._SIZE] = extent.width.to_bytes(2, "little") + extent.height.to_bytes(2, "little")
        signed[cls._FRAMES] = extent.frames.to_bytes(4, "little")
        signed[cls._FREE] = bytes(4)
        signed[cls._FREE] = zlib.crc32(signed).to_bytes(4, "little")
        return bytes(signed)

    @classmethod
    def _signature(cls, blob: bytes) -> Extent | None:
        width, height = (int.from_bytes(blob[at : at + 2], "little") for at in (12, 14))
        extent = Extent(int.from_bytes(blob[cls._FRAMES], "little"), height, width)
        return extent if len(blob) > cls._FREE.stop and cls._sign(blob, extent) == blob else None
