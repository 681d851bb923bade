"""`identity` (samples as they are: the ceiling of accuracy) and `resize` (a true antialiased downsample)."""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint, to_uint8
from cml.codecs.bitstream import Container, container_id
from cml.codecs.conventional import (
    from_pillow,
    load_picture,
    pillow_version,
    refuse_16_bits,
    save_picture,
    to_pillow,
)
from cml.codecs.lossless import LOSSLESS_WEBP
from cml.errors import BitstreamError, CodecError

FILTERS = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def resize_image(x: Tensor, size: tuple[int, int], filter: str = "bicubic") -> Tensor:
    """A whole image (C, H, W) in [-1, 1] resampled to (height, width), antialiased, one channel at a time in float.

    Pillow's filters widen with the reduction (they are antialiased); the result is clamped to [-1, 1].
    """
    if tuple(x.shape[1:]) == size:
        return x
    height, width = size
    planes = [Image.fromarray(plane.numpy()).resize((width, height), FILTERS[filter]) for plane in x]
    return torch.from_numpy(np.stack([np.asarray(plane) for plane in planes])).clamp(-1, 1)


class Identity(Codec):
    """Samples as they came, 8, 16 or 32 bits each, in a container: no compression, no loss.

    Args:
        ndim: spatial axes of the signals, 1 to 3.
    """

    def __init__(self, ndim: int = 2):
        if ndim not in (1, 2, 3):
            raise CodecError(f"identity takes ndim 1, 2 or 3, not {ndim!r}.")
        self._spec = CodecSpec(
            name="identity" if ndim == 2 else f"identity:ndim={ndim}",
            ndim=ndim,
            channels=tuple(range(1, 1025)),
            lossless=True,
            codec_id=fingerprint({"codec": "identity", "version": 1}),
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        if bit_depth == 8:
            samples = to_uint8(x).numpy()
        elif bit_depth == 16:
            samples = ((x + 1) * 32767.5).round().numpy().astype("<u2")
        else:
            samples = x.numpy().astype("<f4")
        return Container(self._spec.codec_id, 0.0, tuple(x.shape), 0, bit_depth, 0, False, samples.tobytes()).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        if container.codec_id != self._spec.codec_id:
            raise BitstreamError(f"The container was written by codec {container.codec_id}, not by identity.")
        dtype = np.dtype({8: np.uint8, 16: "<u2", 32: "<f4"}[container.bit_depth])
        if len(container.payload) != math.prod(container.shape) * dtype.itemsize:
            raise BitstreamError("The payload does not hold the samples that the header promises.")
        samples = np.frombuffer(container.payload, dtype).reshape(container.shape).astype(np.float32)
        if container.bit_depth == 32:
            return torch.from_numpy(samples)
        return torch.from_numpy(samples) / (2 ** (container.bit_depth - 1) - 0.5) - 1


class Resize(Codec):
    """The whole image downsampled by a factor with antialiasing, kept as lossless WebP, and upsampled again.

        x (C, H, W) --filter--> (C, H/f, W/f) uint8 --lossless WebP--> bytes --> (C, H/f, W/f) --filter--> x_hat

    Args:
        factor: f >= 1, on both axes; each side keeps at least one sample.
        filter: box, bilinear, bicubic or lanczos, for both directions.
    """

    def __init__(self, factor: float = 2, filter: str = "bicubic"):
        if not isinstance(factor, (int, float)) or not 1 <= factor <= 1024:
            raise CodecError(f"resize takes a factor of 1 to 1024, not {factor!r}.")
        if filter not in FILTERS:
            raise CodecError(f"resize takes the filters {', '.join(FILTERS)}, not {filter!r}.")
        self.factor, self.filter = factor, filter
        self._save = LOSSLESS_WEBP
        self._spec = CodecSpec(
            name=f"resize:factor={factor:.12g}" + ("" if filter == "bicubic" else f",filter={filter}"),
            ndim=2,
            channels=(1, 3),
            codec_id=fingerprint({"codec": "resize", "version": 1, "filter": filter}),
            settings={"factor": factor, "filter": filter, "container": self._save, **pillow_version("webp")},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        codecs = (cls(filter=name) for name in FILTERS)
        return next((codec for codec in codecs if codec.spec.codec_id == container_id(blob)), None)

    def small_size(self, size: tuple[int, ...]) -> tuple[int, int]:
        """(height, width) after the downsample."""
        height, width = (max(1, round(n / self.factor)) for n in size)
        return height, width

    def downsample(self, x: Tensor) -> Tensor:
        """(C, H, W) in [-1, 1] to what a model of the `resize` view sees: small, and rounded to 8 bits."""
        return to_uint8(resize_image(x, self.small_size(tuple(x.shape[1:])), self.filter)).float() / 127.5 - 1

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        payload = save_picture(to_pillow(self.downsample(x)), self.spec.name, self._save)
        shape = tuple(x.shape)
        return Container(self._spec.codec_id, float(self.factor), shape, 0, bit_depth, 0, False, payload).pack()

    def load_small(self, blob: bytes) -> Tensor:
        """Bytes to the small picture, what a model of the `resize` view reads."""
        return self._unpack(blob)[0]

    def _unpack(self, blob: bytes) -> tuple[Tensor, tuple[int, int]]:
        container = Container.unpack(blob)
        if container.codec_id != self._spec.codec_id or len(container.shape) != 3:
            raise BitstreamError(f"The container was not written by resize with the filter {self.filter}.")
        height, width = container.shape[1:]
        return from_pillow(load_picture(container.payload, "WEBP"), container.shape[0]), (height, width)

    def _decompress(self, blob: bytes) -> Tensor:
        small, size = self._unpack(blob)
        return resize_image(small, size, self.filter)
