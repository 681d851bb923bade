"""JPEG XL by libjxl, through the package imagecodecs: grey and RGB, 8 bits a sample, plain files of the format."""

import importlib
from typing import Any

import numpy as np
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.conventional import check_option, from_samples, refuse_16_bits, to_samples
from cml.errors import BitstreamError, CodecError

# A bare codestream, and the boxes that other encoders write around one.
_MAGIC = (b"\xff\x0a", b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a")
_DEFAULT_EFFORT = 7


def distance_of(quality: float) -> float:
    """libjxl's Butteraugli distance of a quality, as `JxlEncoderDistanceFromQuality` of its encoder defines it."""
    if quality >= 100:
        return 0.0
    if quality >= 30:
        return 0.1 + (100 - quality) * 0.09
    return 53 / 3000 * quality**2 - 23 / 20 * quality + 25


def load_imagecodecs(codec: str) -> Any:
    """The package imagecodecs, or a CodecError that says how to get it."""
    try:
        return importlib.import_module("imagecodecs")
    except ImportError as error:
        raise CodecError(f"{codec} needs the package imagecodecs: pip install 'cml-toolkit[bench]'.") from error


class JpegXl(Codec):
    """JPEG XL: lossy VarDCT in XYB, tuned to what people see rather than to PSNR; without loss at quality 100.

    Args:
        quality: 0 (worst) to 100 (lossless); libjxl's distance is `distance_of(quality)`.
        effort: 1 (fast) to 10 (small); 7 is libjxl's default.

    Raises:
        CodecError: an option is out of range, or imagecodecs is not installed.
    """

    def __init__(self, quality: float = 75, effort: int = _DEFAULT_EFFORT):
        check_option("jpegxl", "quality", quality, 0, 100, whole=False)
        check_option("jpegxl", "effort", effort, 1, 10)
        self._imagecodecs = load_imagecodecs("jpegxl")
        # In imagecodecs lossless is a mode of its own; a distance of 0 is a lossy file twice as large.
        how: dict[str, Any] = {"lossless": True} if quality == 100 else {"distance": distance_of(quality)}
        self._options = how | {"effort": effort, "numthreads": 1, "usecontainer": False}
        self._spec = CodecSpec(
            name=f"jpegxl:quality={quality:.12g}" + ("" if effort == _DEFAULT_EFFORT else f",effort={effort}"),
            ndim=2,
            channels=(1, 3),
            lossless=quality == 100,
            codec_id=fingerprint({"codec": "JPEGXL", "version": 1}),
            settings={
                "format": "JPEGXL",
                **self._options,
                "imagecodecs": self._imagecodecs.__version__,
                "libjxl": self._imagecodecs.jpegxl_version(),
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        try:
            return self._imagecodecs.jpegxl_encode(to_samples(x), **self._options)
        except (self._imagecodecs.JpegxlError, ValueError, MemoryError) as error:
            size = f"{x.shape[2]}x{x.shape[1]}"
            raise CodecError(f"{self.spec.name} cannot encode a picture of {size}: {error}.") from error

    def _decompress(self, blob: bytes) -> Tensor:
        if not self.matches(blob):
            raise BitstreamError("These bytes are not a JPEG XL picture: they start otherwise.")
        try:
            samples = self._imagecodecs.jpegxl_decode(blob, numthreads=1)
        # RuntimeError, of which JpegxlError is one, also stands for a header cut short.
        except (RuntimeError, ValueError, MemoryError) as error:
            raise BitstreamError(f"These bytes are not a whole JPEG XL picture: {error}.") from error
        if samples.dtype != np.uint8 or samples.ndim not in (2, 3) or samples.shape[2:] not in ((), (1,), (3,)):
            raise BitstreamError(
                f"This JPEG XL picture holds {samples.dtype} samples of shape {samples.shape}; cml reads single "
                "pictures of 8-bit grey or RGB."
            )
        return from_samples(samples)

    @staticmethod
    def matches(blob: bytes) -> bool:
        """Whether bytes start as a JPEG XL file does."""
        return blob.startswith(_MAGIC)

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if cls.matches(blob) else None
