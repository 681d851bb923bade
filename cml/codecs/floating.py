"""Compressors of scientific arrays: zfp, SZ3 and SPERR, through the package imagecodecs, in three axes at once.

    x (C, z, y, x) float32 --each channel an array--> the library's bytes, their lengths before them --> container

They take floats of any range and bound the error, or the rate, themselves. Integers are given as [-1, 1], and come
back so.
"""

from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, admit_signal, to_unit
from cml.codecs.bitstream import Container, container_id
from cml.codecs.conventional import check_option
from cml.codecs.jpegxl import load_imagecodecs
from cml.codecs.slices import CHANNELS, join_parts, kind_id, split_parts
from cml.errors import BitstreamError, CodecError


class Floating(Codec):
    """What is common: arrays of float32, one a channel, in a container.

    Args:
        option: what the operating point is given by, and its name.
        low, high: between which it lies.
    """

    kind: str

    def __init__(self, option: str, value: float, low: float, high: float):
        check_option(self.kind, option, value, low, high, whole=False)
        self._imagecodecs = load_imagecodecs(self.kind)
        if not getattr(self._imagecodecs, self.kind.upper()).available:
            raise CodecError(f"This imagecodecs was built without {self.kind}; install its wheel from PyPI.")
        self._value = float(value)
        self._spec = CodecSpec(
            name=f"{self.kind}:{option}={value:.12g}",
            ndim=3,
            channels=CHANNELS,
            codec_id=kind_id(self.kind),
            settings={
                option: value,
                "level": "own range",
                "imagecodecs": self._imagecodecs.__version__,
                self.kind: getattr(self._imagecodecs, f"{self.kind}_version")(),
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if container_id(blob) == kind_id(cls.kind) else None  # pyright: ignore[reportCallIssue]

    def _admit(self, x: Tensor | np.ndarray, spec: CodecSpec) -> tuple[Tensor, int]:
        x, bit_depth = admit_signal(x, spec, bounded=False)
        return to_unit(x), bit_depth

    @abstractmethod
    def _write(self, array: np.ndarray) -> bytes:
        """float32 (z, y, x) to the library's bytes."""

    @abstractmethod
    def _read(self, part: bytes, shape: tuple[int, ...]) -> np.ndarray:
        """The way back."""

    def _range(self, array: np.ndarray) -> float:
        """What a tolerance is a part of: max - min, or 1 of a constant array."""
        return float(array.max()) - float(array.min()) or 1.0

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        try:
            kind, payload = join_parts([self._write(np.ascontiguousarray(array)) for array in x.numpy()])
        except (RuntimeError, ValueError, MemoryError) as error:
            raise CodecError(f"{self.spec.name} cannot encode an array of {tuple(x.shape[1:])}: {error}.") from error
        return Container(self._spec.codec_id, self._value, tuple(x.shape), 0, bit_depth, kind, False, payload).pack()

    def _decompress(self, blob: bytes) -> Tensor:
        container = Container.unpack(blob)
        channels, *shape = container.shape
        if container.codec_id != self._spec.codec_id or len(shape) != 3:
            raise BitstreamError(f"The container was not written by {self.kind}.")
        arrays = []
        for part in split_parts(container, channels):
            try:
                array = self._read(part, tuple(shape))
            except (RuntimeError, ValueError, TypeError, MemoryError) as error:
                raise BitstreamError(f"These are not the whole bytes of {self.kind}: {error}.") from error
            if array.shape != tuple(shape) or not np.isfinite(array).all():
                raise BitstreamError(f"{self.kind} gives an array of another shape than the header promises.")
            arrays.append(torch.from_numpy(np.ascontiguousarray(array, np.float32)))
        x_hat = torch.stack(arrays)
        return x_hat if container.bit_depth == 32 else x_hat.clamp(-1, 1)


class Zfp(Floating):
    """zfp: blocks of 4x4x4, a transform, and bit planes down to an error; the bound falls by powers of two.

    Args:
        tolerance: largest error of a sample, as a part of max - min; zfp keeps well below it.
    """

    kind = "zfp"

    def __init__(self, tolerance: float = 0.01):
        super().__init__("tolerance", tolerance, 1e-9, 16)

    def _write(self, array: np.ndarray) -> bytes:
        return self._imagecodecs.zfp_encode(array, self._value * self._range(array), mode="a", numthreads=1)

    def _read(self, part: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return self._imagecodecs.zfp_decode(part, numthreads=1)


class Sz3(Floating):
    """SZ3: interpolation from coarse to fine, the rest quantized to an error, Huffman and zstd.

    Its decoder trusts its bytes, and can end the process on forged ones; the container's checksum finds accidents.

    Args:
        tolerance: largest error of a sample, as a part of max - min.
    """

    kind = "sz3"

    def __init__(self, tolerance: float = 0.01):
        super().__init__("tolerance", tolerance, 1e-9, 1)

    def _write(self, array: np.ndarray) -> bytes:
        return self._imagecodecs.sz3_encode(array, mode="abs", abs=self._value * self._range(array))

    def _read(self, part: bytes, shape: tuple[int, ...]) -> np.ndarray:
        return self._imagecodecs.sz3_decode(part, shape, np.float32)


class Sperr(Floating):
    """SPERR: the CDF 9/7 wavelet in three axes and SPECK, embedded: it stops at a rate.

    Args:
        bpp: bits a sample.
    """

    kind = "sperr"

    def __init__(self, bpp: float = 1.0):
        super().__init__("bpp", bpp, 1e-4, 32)

    def _write(self, array: np.ndarray) -> bytes:
        # SPERR ends the whole process on an axis of one sample: it is given two.
        array = np.pad(array, [(0, int(n == 1)) for n in array.shape], mode="edge")
        return self._imagecodecs.sperr_encode(array, self._value, "bpp", numthreads=1)

    def _read(self, part: bytes, shape: tuple[int, ...]) -> np.ndarray:
        self._check_header(part, shape)
        array = self._imagecodecs.sperr_decode(part, numthreads=1)
        return array[tuple(slice(n) for n in shape)]

    @staticmethod
    def _check_header(part: bytes, shape: tuple[int, ...]) -> None:
        """Its own decoder trusts the sizes that it reads."""
        sizes = tuple(int.from_bytes(part[at : at + 4], "little") for at in (10, 6, 2))
        if sizes != tuple(max(n, 2) for n in shape):
            raise BitstreamError("SPERR's header promises another size than the container's.")
