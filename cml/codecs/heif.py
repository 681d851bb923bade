"""HEIC (HEVC stills) by x265 and libde265, through the package pillow-heif: grey and RGB, 8 bits, plain files."""

import importlib
import io
from typing import Any

from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.conventional import brands, check_option, from_pillow, refuse_16_bits, to_pillow
from cml.errors import BitstreamError, CodecError

_BRANDS = {b"heic", b"heix"}
# One thread, so that speeds compare; the picture is the same.
_ENCODER = {"x265:pools": "none"}


def _library() -> Any:
    try:
        library = importlib.import_module("pillow_heif")
    except ImportError as error:
        raise CodecError("heic needs the package pillow-heif: pip install 'cml-toolkit[bench]'.") from error
    if not library.libheif_info()["HEIF"]:
        raise CodecError("This pillow-heif was built without x265; install the wheel: pip install -U pillow-heif.")
    library.options.DECODE_THREADS = 1
    return library


class Heic(Codec):
    """HEIC, what phones write: HEVC by x265, chroma 4:2:0, or none for grey.

    Args:
        quality: 0 (worst) to 100.

    Raises:
        CodecError: `quality` is out of range, or pillow-heif is not installed.
    """

    def __init__(self, quality: int = 75):
        check_option("heic", "quality", quality, 0, 100)
        self._quality, self._pillow_heif = quality, _library()
        info = self._pillow_heif.libheif_info()
        self._spec = CodecSpec(
            name=f"heic:quality={quality}",
            ndim=2,
            channels=(1, 3),
            codec_id=fingerprint({"codec": "HEIC", "version": 1}),
            settings={
                "format": "HEIC",
                "quality": quality,
                "L": {"subsampling": "4:0:0"},
                "RGB": {"subsampling": "4:2:0"},
                **_ENCODER,
                "pillow_heif": self._pillow_heif.__version__,
                "libheif": info["libheif"],
                "x265": info["HEIF"],
            },
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        picture, buffer = to_pillow(x), io.BytesIO()
        how = {"quality": self._quality, "enc_params": dict(_ENCODER)}
        if picture.mode == "RGB":
            how["subsampling"] = "4:2:0"
        try:
            self._pillow_heif.encode(picture.mode, picture.size, picture.tobytes(), buffer, **how)
        except (RuntimeError, ValueError, MemoryError) as error:
            size = f"{picture.width}x{picture.height}"
            raise CodecError(f"{self.spec.name} cannot encode a picture of {size}: {error}.") from error
        return buffer.getvalue()

    def _decompress(self, blob: bytes) -> Tensor:
        try:
            picture = self._pillow_heif.open_heif(io.BytesIO(blob)).to_pillow()
        except (RuntimeError, ValueError, EOFError, OSError, SyntaxError, MemoryError) as error:
            raise BitstreamError(f"These bytes are not a whole HEIC picture: {error}.") from error
        return from_pillow(picture, 1 if picture.mode in ("L", "LA") else 3)

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return None if _BRANDS.isdisjoint(brands(blob)) else cls()
