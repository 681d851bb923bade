"""JPEG-LS by CharLS, through the package imagecodecs: grey and RGB, 8 bits a sample, plain files of the format."""

import numpy as np
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.conventional import check_option, from_samples, is_jpeg_ls, refuse_16_bits, to_samples
from cml.codecs.jpegxl import load_imagecodecs
from cml.errors import BitstreamError, CodecError

_END = b"\xff\xd9"


class JpegLs(Codec):
    """JPEG-LS: each sample predicted from its neighbours, the rest coded with an error of at most `near`.

    Args:
        near: largest error of a sample in 8-bit levels, 0 (lossless) to 127.

    Raises:
        CodecError: `near` is out of range, or imagecodecs is not installed.
    """

    def __init__(self, near: int = 0):
        check_option("jpegls", "near", near, 0, 127)
        self._near, self._imagecodecs = near, load_imagecodecs("jpegls")
        self._spec = CodecSpec(
            name=f"jpegls:near={near}",
            ndim=2,
            channels=(1, 3),
            lossless=near == 0,
            codec_id=fingerprint({"codec": "JPEGLS", "version": 1}),
            settings={
                "format": "JPEGLS",
                "near": near,
                "imagecodecs": self._imagecodecs.__version__,
                "charls": self._imagecodecs.jpegls_version(),
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        try:
            return self._imagecodecs.jpegls_encode(to_samples(x), self._near)
        except (self._imagecodecs.JpeglsError, ValueError, MemoryError) as error:
            size = f"{x.shape[2]}x{x.shape[1]}"
            raise CodecError(f"{self.spec.name} cannot encode a picture of {size}: {error}.") from error

    def _decompress(self, blob: bytes) -> Tensor:
        if not is_jpeg_ls(blob):
            raise BitstreamError("These bytes are not a JPEG-LS picture: they start otherwise.")
        # CharLS takes seconds to find out that a small file is cut off.
        if _END not in blob:
            raise BitstreamError("These bytes are not a whole JPEG-LS picture: its end marker is missing.")
        try:
            samples = self._imagecodecs.jpegls_decode(blob)
        except (self._imagecodecs.JpeglsError, ValueError, MemoryError) as error:
            raise BitstreamError(f"These bytes are not a whole JPEG-LS picture: {error}.") from error
        if samples.dtype != np.uint8 or samples.shape[2:] not in ((), (3,)):
            raise BitstreamError(
                f"This JPEG-LS picture holds {samples.dtype} samples of shape {samples.shape}; cml reads 8-bit grey "
                "or RGB."
            )
        return from_samples(samples)

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if is_jpeg_ls(blob) else None
