"""`downsample`, a true antialiased downsample of a volume or a cube, and `decimate`, of video in space and in time."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, admit_signal, to_uint8
from cml.codecs.bitstream import Container, container_id
from cml.codecs.conventional import (
    check_option,
    from_pillow,
    load_picture,
    pillow_version,
    refuse_16_bits,
    save_picture,
    to_pillow,
)
from cml.codecs.jpegxl import load_imagecodecs
from cml.codecs.lossless import LOSSLESS_WEBP
from cml.codecs.resample import FILTERS
from cml.codecs.sample_range import from_levels, to_levels
from cml.codecs.slices import CHANNELS, join_parts, kind_id, split_parts
from cml.errors import BitstreamError, CodecError

_LONGEST = 0xFFFF  # rows of a JPEG-LS picture


def resize_axes(x: np.ndarray, size: tuple[int, ...], filters: tuple[str, ...]) -> np.ndarray:
    """float32 (C, *spatial) resampled to another spatial size, one axis after the other, each by its filter.

    Pillow's filters widen with the reduction: they are antialiased. Not clamped.
    """
    for axis, (length, filter) in enumerate(zip(size, filters, strict=True), start=1):
        before, here, behind = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
        if here != length:
            # Pillow resizes pictures: of the axis and all behind it, or, of the last one, of all before it.
            shape, to = (
                ((-1, here, math.prod(behind)), (math.prod(behind), length)) if behind else ((1, -1, here), None)
            )
            pictures = np.ascontiguousarray(x).reshape(shape)
            to = to or (length, pictures.shape[1])
            resized = [np.asarray(Image.fromarray(picture).resize(to, FILTERS[filter])) for picture in pictures]
            x = np.stack(resized).reshape(*before, length, *behind)
    return x


def _shorter(length: int, factor: float) -> int:
    """Of a factor as a container keeps it."""
    return max(1, round(length / float(np.float32(factor))))


class Downsample(Codec):
    """A volume downsampled with antialiasing, kept without loss at its own depth, and upsampled again.

        x (C, z, y, x) --own range--> integers --bicubic--> fewer --JPEG-LS, slices stacked--> bytes
        x_hat <--bicubic-- fewer integers <--------------------------------------------------- bytes

    Integers keep their levels, of 8 bits or 16; floats, of any range, are stretched over 16 bits.

    Args:
        factor: f >= 1; each axis keeps at least one sample.
        axes: how many of the three are downsampled, counted from the last; 2 leaves slices, or bands, apart.
    """

    _ID = kind_id("downsample")
    _FILTERS = ("bicubic",) * 3

    def __init__(self, factor: float = 2, axes: int = 3):
        check_option("downsample", "factor", factor, 1, 1024, whole=False)
        check_option("downsample", "axes", axes, 1, 3)
        self.factor, self.axes = factor, axes
        self._imagecodecs = load_imagecodecs("downsample")
        self._spec = CodecSpec(
            name=f"downsample:factor={factor:.12g}" + ("" if axes == 3 else f",axes={axes}"),
            ndim=3,
            channels=CHANNELS,
            codec_id=self._ID,
            settings={
                "factor": factor,
                "axes": axes,
                "filter": "bicubic",
                "container": "JPEG-LS",
                "level": "own range",
                "imagecodecs": self._imagecodecs.__version__,
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if container_id(blob) == cls._ID else None

    def small_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size after the downsample."""
        return self._smaller(size, self.factor, self.axes)

    @staticmethod
    def _smaller(size: tuple[int, ...], factor: float, axes: int) -> tuple[int, ...]:
        return tuple(_shorter(n, factor) if axis >= 3 - axes else n for axis, n in enumerate(size))

    def downsample(self, x: Tensor) -> Tensor:
        """(C, z, y, x) to what a model of the smaller signal sees, rounded as the bytes hold it."""
        x, bit_depth = self._admit(x, self._spec)
        samples, level = self._small(x)
        return from_levels(samples, level, bit_depth)

    def _admit(self, x: Tensor | np.ndarray, spec: CodecSpec) -> tuple[Tensor, int]:
        return admit_signal(x, spec, bounded=False)

    def _small(self, x: Tensor) -> tuple[np.ndarray, tuple[float, ...]]:
        levels = to_levels(x)
        size = self.small_size(tuple(x.shape[1:]))
        small = resize_axes(levels.samples.astype(np.float32), size, self._FILTERS)
        top = np.iinfo(levels.samples.dtype).max
        return np.rint(small).clip(0, top).astype(levels.samples.dtype), levels.level

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        small, level = self._small(x)
        pictures = [part for channel in small for part in self._write(channel)]
        kind, payload = join_parts([bytes([self.axes]), *pictures])
        shape = tuple(x.shape)
        return Container(self._ID, float(self.factor), shape, 0, bit_depth, kind, False, payload, level).pack()

    def _write(self, slices: np.ndarray) -> list[bytes]:
        """One channel as pictures, each of as many slices as fit, one below the other: one header serves many."""
        rows = slices.reshape(-1, slices.shape[2])
        stripes = [rows[at : at + _LONGEST] for at in range(0, len(rows), _LONGEST)]
        try:
            return [self._imagecodecs.jpegls_encode(part) for part in stripes]
        except (self._imagecodecs.JpeglsError, ValueError, MemoryError) as error:
            raise CodecError(f"{self.spec.name} cannot encode slices of {slices.shape[1:]}: {error}.") from error

    def load_small(self, blob: bytes) -> Tensor:
        """Bytes to the smaller signal, what a model of it reads."""
        samples, container = self._unpack(blob)
        return from_levels(samples, container.level, container.bit_depth)

    def _unpack(self, blob: bytes) -> tuple[np.ndarray, Container]:
        container = Container.unpack(blob)
        channels, *size = container.shape
        if container.codec_id != self._ID or len(size) != 3 or not container.parameter >= 1:
            raise BitstreamError("The container was not written by downsample.")
        axes, *parts = split_parts(container)
        if len(axes) != 1:
            raise BitstreamError("The container of downsample does not say which axes it has fewer samples of.")
        small = self._smaller(tuple(size), container.parameter, axes[0])
        try:
            pictures = [self._imagecodecs.jpegls_decode(part) for part in parts]
            samples = np.concatenate([picture.reshape(-1, small[2]) for picture in pictures])
            return samples.reshape(channels, *small), container
        except (self._imagecodecs.JpeglsError, ValueError, MemoryError) as error:
            raise BitstreamError(f"The payload does not hold the samples that the header promises: {error}.") from error

    def _decompress(self, blob: bytes) -> Tensor:
        samples, container = self._unpack(blob)
        top = np.iinfo(samples.dtype).max
        whole = resize_axes(samples.astype(np.float32), container.shape[1:], self._FILTERS).clip(0, top)
        return from_levels(whole, container.level, container.bit_depth)


class Decimate(Codec):
    """Video with fewer pixels and fewer frames, kept as lossless WebP files, and interpolated again.

        x (C, t, y, x) --bicubic in space, mean of frames in time--> uint8 --WebP, frame by frame--> bytes
        x_hat <--bicubic in space and in time-- fewer frames <------------------------------------ bytes

    WebP is smaller here than x264 without loss: frames that are far apart have little in common to the last bit.

    Args:
        space: factor >= 1 of both sides.
        time: factor >= 1 of the frames; each stands for the mean of so many.
    """

    _ID = kind_id("decimate")
    _DOWN, _UP = ("box", "bicubic", "bicubic"), ("bicubic",) * 3

    def __init__(self, space: float = 2, time: float = 2):
        check_option("decimate", "space", space, 1, 1024, whole=False)
        check_option("decimate", "time", time, 1, 1024, whole=False)
        self.space, self.time = space, time
        self._spec = CodecSpec(
            name=f"decimate:space={space:.12g},time={time:.12g}",
            ndim=3,
            channels=(1, 3),
            codec_id=self._ID,
            settings={
                "space": space,
                "time": time,
                "filters": {"down": list(self._DOWN), "up": list(self._UP)},
                "container": LOSSLESS_WEBP,
                **pillow_version("webp"),
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if container_id(blob) == cls._ID else None

    def small_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """(frames, height, width) after the decimation."""
        return (_shorter(size[0], self.time), *(_shorter(n, self.space) for n in size[1:]))

    def downsample(self, x: Tensor) -> Tensor:
        """(C, t, y, x) in [-1, 1] to what a model of the smaller video sees: rounded to 8 bits."""
        small = resize_axes(x.numpy(), self.small_size(tuple(x.shape[1:])), self._DOWN)
        return to_uint8(torch.from_numpy(small)).float() / 127.5 - 1

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        small = self.downsample(x)
        files = [save_picture(to_pillow(frame), self.spec.name, LOSSLESS_WEBP) for frame in small.unbind(1)]
        shape = tuple(x.shape)
        kind, payload = join_parts(files)
        return Container(self._ID, float(self.time), shape, 0, bit_depth, kind, False, payload).pack()

    def load_small(self, blob: bytes) -> Tensor:
        """Bytes to the smaller video, what a model of it reads."""
        return self._unpack(blob)[0]

    def _unpack(self, blob: bytes) -> tuple[Tensor, tuple[int, ...]]:
        container = Container.unpack(blob)
        if container.codec_id != self._ID or len(container.shape) != 4 or not container.parameter >= 1:
            raise BitstreamError("The container was not written by decimate.")
        channels, count = container.shape[0], _shorter(container.shape[1], container.parameter)
        frames = [from_pillow(load_picture(file, "WEBP"), channels) for file in split_parts(container, count)]
        if len({frame.shape for frame in frames}) > 1:
            raise BitstreamError("The container of decimate holds frames of several sizes.")
        return torch.stack(frames, 1), container.shape[1:]

    def _decompress(self, blob: bytes) -> Tensor:
        small, size = self._unpack(blob)
        return torch.from_numpy(resize_axes(small.numpy(), size, self._UP)).clamp(-1, 1)
