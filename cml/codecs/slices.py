"""Volumes and cubes slice by slice: each slice of the first axis is a picture of a codec that people use.

    x (C, z, y, x) --own range--> integers --z C pictures of (y, x)--> files, their lengths before them --> container

What a radiologist's archive does with a scan. Slices are coded apart, channel by channel; the range of the signal's own
values fills that of the format (see `sample_range`), and travels as the container's level.
"""

import io
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.av_video import GREY_12, VideoFormat, decode_video, encode_video, video_settings
from cml.codecs.base import Codec, CodecSpec, admit_signal, fingerprint
from cml.codecs.bitstream import Container, container_id, read_varint, varint
from cml.codecs.conventional import UNREADABLE, check_option, open_picture, pillow_version, save_picture
from cml.codecs.jpegxl import distance_of, load_imagecodecs
from cml.codecs.sample_range import from_levels, to_levels
from cml.codecs.video_files import X265, operating_point, pad_frames
from cml.errors import BitstreamError, CodecError

CHANNELS = tuple(range(1, 1025))
_PLAIN, _DEFLATED = 0, 1
_LONGEST = 1 << 31  # bytes of a payload, inflated


def kind_id(kind: str) -> str:
    """The fingerprint in the containers of a codec without weights."""
    return fingerprint({"codec": kind, "version": 1})


def join_parts(parts: Sequence[bytes]) -> tuple[int, bytes]:
    """Strings of bytes as a payload: one after the other, the length of each before it, and what kind that is.

    Deflated where that is shorter: files of slices begin alike, and have at low rates as much header as content.
    """
    plain = b"".join(varint(len(part)) + part for part in parts)
    deflated = zlib.compress(plain)
    return (_DEFLATED, deflated) if len(deflated) < len(plain) else (_PLAIN, plain)


def split_parts(container: Container, count: int | None = None) -> list[bytes]:
    """The way back; BitstreamError where they do not fill the payload, or are not `count` strings."""
    payload, at, parts = container.payload, 0, []
    if container.backend == _DEFLATED:
        unpacker = zlib.decompressobj()
        try:
            payload = unpacker.decompress(payload, _LONGEST)
        except zlib.error as error:
            raise BitstreamError(f"The payload cannot be inflated: {error}.") from error
        if not unpacker.eof or unpacker.unused_data:
            raise BitstreamError("The payload is longer or shorter than what was deflated into it.")
    while at < len(payload):
        length, at = read_varint(payload, at)
        parts.append(payload[at : at + length])
        at += length
    if at != len(payload) or not parts or count not in (None, len(parts)):
        raise BitstreamError("The payload does not hold the parts that it promises.")
    return parts


class Slices(Codec):
    """What is common: range and container; `kind` is the name without options.

    Takes integers of 8 or 16 bits, and floats of any range, which come back in it.

    Args:
        name: of the operating point.
        parameter: what the container keeps of the operating point.
        lossless: whether 8-bit integers come back as they were.
        settings: what belongs with a result.
    """

    kind: str

    def __init__(self, name: str, parameter: float, settings: dict[str, Any], lossless: bool = False):
        self._parameter = float(parameter)
        self._spec = CodecSpec(
            name=name,
            ndim=3,
            channels=CHANNELS,
            lossless=lossless,
            codec_id=kind_id(self.kind),
            settings={**settings, "level": "own range"},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        # None is made for bytes of others: that needs a package, which they may not.
        return cls() if container_id(blob) == kind_id(cls.kind) else None  # pyright: ignore[reportCallIssue]

    def _admit(self, x: Tensor | np.ndarray, spec: CodecSpec) -> tuple[Tensor, int]:
        return admit_signal(x, spec, bounded=False)

    @abstractmethod
    def _parts(self, slices: int) -> int:
        """How many strings of bytes a channel has."""

    @abstractmethod
    def _bits(self, bit_depth: int) -> int | None:
        """Over how many bits a signal of that depth is stretched; None to shift it alone."""

    @abstractmethod
    def _write(self, slices: np.ndarray) -> list[bytes]:
        """One channel, uint8 or uint16 (z, y, x), as one string of bytes or one a slice."""

    @abstractmethod
    def _read(self, parts: list[bytes], shape: tuple[int, ...], parameter: float) -> np.ndarray:
        """The way back, of the shape (z, y, x), at the operating point that the container names."""

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        levels = to_levels(x, self._bits(bit_depth))
        kind, payload = join_parts([part for channel in levels.samples for part in self._write(channel)])
        shape, codec_id = tuple(x.shape), self._spec.codec_id
        return Container(codec_id, self._parameter, shape, 0, bit_depth, kind, False, payload, levels.level).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        channels, *shape = container.shape
        if container.codec_id != self._spec.codec_id or len(shape) != 3:
            raise BitstreamError(f"The container was not written by {self.kind}.")
        each = self._parts(shape[0])
        parts = split_parts(container, channels * each)
        channel = (parts[at : at + each] for at in range(0, len(parts), each))
        samples = np.stack([self._read(files, tuple(shape), container.parameter) for files in channel])
        return from_levels(samples, container.level, container.bit_depth)


class PictureSlices(Slices):
    """Each slice a file of a picture."""

    @abstractmethod
    def _write_picture(self, picture: np.ndarray) -> bytes:
        """uint8 or uint16 (y, x) to a file."""

    @abstractmethod
    def _read_picture(self, file: bytes, parameter: float) -> np.ndarray:
        """The way back; any error of the library's as BitstreamError."""

    def _parts(self, slices: int) -> int:
        return slices

    def _write(self, slices: np.ndarray) -> list[bytes]:
        return [self._write_picture(picture) for picture in slices]

    def _read(self, parts: list[bytes], shape: tuple[int, ...], parameter: float) -> np.ndarray:
        pictures = []
        for file in parts:
            picture = self._read_picture(file, parameter)
            if picture.shape != shape[1:] or picture.dtype not in (np.uint8, np.uint16):
                raise BitstreamError(f"A slice is {picture.shape}, and the header promises {shape[1:]}.")
            pictures.append(picture)
        return np.stack(pictures)


class SlicesJpeg2000(PictureSlices):
    """Slices as JPEG 2000 by OpenJPEG: bare codestreams, irreversible 9/7, one quality layer.

    8-bit signals are coded with 8 bits, others stretched over 16.

    Args:
        rate: compression ratio of each slice against the 8 or 16 bits that are coded, >= 1.
        psnr: instead of a rate, what each slice is to reach, in dB against the whole range of the signal: slices that
            need few bits then leave them to others.
    """

    kind = "slices-jpeg2000"

    def __init__(self, rate: float | None = None, psnr: float | None = None):
        if rate is not None and psnr is not None:
            raise CodecError("slices-jpeg2000 takes a rate or a psnr, not both.")
        if psnr is not None:
            check_option(self.kind, "psnr", psnr, 1, 200, whole=False)
            how, name = {"quality_mode": "dB", "quality_layers": [psnr]}, f"psnr={psnr:.12g}"
        else:
            rate = 20 if rate is None else rate
            check_option(self.kind, "rate", rate, 1, 100_000, whole=False)
            how, name = {"quality_mode": "rates", "quality_layers": [rate]}, f"rate={rate:.12g}"
        self._options = {"irreversible": True, "no_jp2": True, "mct": 0, **how}
        settings = {**self._options, **pillow_version("jpg_2000")}
        super().__init__(f"{self.kind}:{name}", psnr or rate or 0, settings)

    def _bits(self, bit_depth: int) -> int | None:
        return None if bit_depth == 8 else 16

    def _write_picture(self, picture: np.ndarray) -> bytes:
        # OpenJPEG's default of six resolutions needs 32 samples a side; smaller pictures have fewer to halve.
        resolutions = min(6, min(picture.shape).bit_length())
        options = {"format": "JPEG2000", **self._options, "num_resolutions": resolutions}
        return _without_comment(save_picture(Image.fromarray(picture), self.spec.name, options))

    def _read_picture(self, file: bytes, parameter: float) -> np.ndarray:
        try:
            return np.asarray(open_picture(io.BytesIO(file), ["JPEG2000"]))
        except UNREADABLE as error:
            raise BitstreamError(f"A slice is not a whole JPEG 2000 picture: {error}.") from error


def _without_comment(stream: bytes) -> bytes:
    """A JPEG 2000 codestream without the name of the program that wrote it, which takes 39 bytes of every slice."""
    at = 2
    while stream[at : at + 2] not in (b"\xff\x90", b""):
        end = at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
        if stream[at : at + 2] == b"\xff\x64":
            return stream[:at] + stream[end:]
        at = end
    return stream


@cache
def _srgb_to_linear() -> tuple[np.ndarray, np.ndarray]:
    """Tables of 16 bits: from the scale of sRGB to linear light, and back."""
    scale = np.linspace(0, 1, 1 << 16)
    linear = np.where(scale <= 0.04045, scale / 12.92, ((scale + 0.055) / 1.055) ** 2.4)
    back = np.where(scale <= 0.0031308, scale * 12.92, 1.055 * scale ** (1 / 2.4) - 0.055)
    there, back = (np.rint(table * 65535).astype(np.uint16) for table in (linear, back))
    return there, back


class SlicesJpegXl(PictureSlices):
    """Slices as JPEG XL by libjxl: lossy VarDCT in XYB; without loss of integers at quality 100.

    Lossy, the range of the signal goes from black to white, by the curve of sRGB into the 16 bits of linear light that
    imagecodecs says they are: equal steps of the signal are then about equal to libjxl, whose distance is one of what
    people see. Of CT slices that is 2 to 3 dB better at equal bits than the same range taken for linear light, and as
    good as 8-bit samples, which are sRGB by themselves.

    Args:
        quality: 0 (worst) to 100 (lossless); libjxl's distance is `distance_of(quality)`.
        effort: 1 (fast) to 10 (small); 7 is libjxl's default.
    """

    kind = "slices-jpegxl"

    def __init__(self, quality: float = 75, effort: int = 7):
        check_option(self.kind, "quality", quality, 0, 100, whole=False)
        check_option(self.kind, "effort", effort, 1, 10)
        self._imagecodecs = load_imagecodecs(self.kind)
        how: dict[str, Any] = {"lossless": True} if quality == 100 else {"distance": distance_of(quality)}
        self._options = how | {"effort": effort, "numthreads": 1, "usecontainer": False}
        super().__init__(
            f"{self.kind}:quality={quality:.12g}" + ("" if effort == 7 else f",effort={effort}"),
            quality,
            {
                **self._options,
                "imagecodecs": self._imagecodecs.__version__,
                "libjxl": self._imagecodecs.jpegxl_version(),
            },
            lossless=quality == 100,
        )

    def _bits(self, bit_depth: int) -> int | None:
        return None if self._spec.lossless else 16

    def _write_picture(self, picture: np.ndarray) -> bytes:
        if not self._spec.lossless:
            picture = _srgb_to_linear()[0][picture]
        try:
            return self._imagecodecs.jpegxl_encode(picture, **self._options)
        except (self._imagecodecs.JpegxlError, ValueError, MemoryError) as error:
            raise CodecError(f"{self.spec.name} cannot encode a slice of {picture.shape}: {error}.") from error

    def _read_picture(self, file: bytes, parameter: float) -> np.ndarray:
        try:
            picture = self._imagecodecs.jpegxl_decode(file, numthreads=1)
        # RuntimeError, of which JpegxlError is one, also stands for a header cut short.
        except (RuntimeError, ValueError, MemoryError) as error:
            raise BitstreamError(f"A slice is not a whole JPEG XL picture: {error}.") from error
        return picture if parameter == 100 or picture.dtype != np.uint16 else _srgb_to_linear()[1][picture]


class SlicesHevc(Slices):
    """All slices as one video of grey frames, HEVC by x265 with 12 bits, the range of the signal stretched over them.

    A slice is predicted from those beside it: what the best video codec with an encoder for many bits makes of a scan.

    Args:
        crf: constant rate factor, 0 (best) to 51.
        preset: x265's, "ultrafast" to "placebo".
        tune: `psnr`, `ssim`, or `none`, for viewers.
    """

    kind = "slices-hevc"

    def __init__(self, crf: float = 28, preset: str = "medium", tune: str = "psnr"):
        options = X265.quality(self.kind, crf, preset, tune)
        self._format = VideoFormat("hevc", "libx265", GREY_12, options)
        name = operating_point(self.kind, crf, preset=(preset, "medium"), tune=(tune, "psnr"))
        super().__init__(name, crf, video_settings(self.kind, self._format))

    def _bits(self, bit_depth: int) -> int | None:
        return 12

    def _parts(self, slices: int) -> int:
        return 1

    def _write(self, slices: np.ndarray) -> list[bytes]:
        return [encode_video(pad_frames(torch.from_numpy(slices)[None])[0].numpy(), self._format)]

    def _read(self, parts: list[bytes], shape: tuple[int, ...], parameter: float) -> np.ndarray:
        frames = [frame[: shape[1], : shape[2]] for frame in decode_video(parts[0], self._format)]
        if len(frames) != shape[0] or frames[0].shape != shape[1:]:
            raise BitstreamError(f"The video holds {len(frames)} slices, and the header promises {shape[0]}.")
        return np.stack(frames)
