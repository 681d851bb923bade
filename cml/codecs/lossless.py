"""The lossless codecs people already use, through Pillow: PNG and lossless WebP; grey and RGB, 8 bits a sample."""

from torch import Tensor

from cml.codecs.conventional import PillowCodec, WebP, check_option, from_pillow, load_picture
from cml.errors import BitstreamError

LOSSLESS_WEBP = {"format": "WEBP", "lossless": True, "quality": 75, "method": 4}
"""How small integers are stored as a picture, in the containers of codecs that quantize."""


class Png(PillowCodec):
    """PNG by zlib, with the strongest of its settings: the same picture, fewer bytes than by default."""

    format, library, lossless = "PNG", "zlib", True

    def __init__(self):
        super().__init__("png", optimize=True)

    def _decompress(self, blob: bytes) -> Tensor:
        picture = load_picture(blob, self.format)
        if picture.mode.startswith("I"):
            raise BitstreamError("This PNG picture holds 16 bits a sample; cml.read_image reads those.")
        return from_pillow(picture, 1 if picture.mode in ("1", "L", "LA") else 3)

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[:8] == b"\x89PNG\r\n\x1a\n"


class WebPLossless(WebP):
    """Lossless WebP by libwebp; grey pictures are marked as those of `webp` are.

    Args:
        method: 0 (fast) to 6 (small).
    """

    lossless = True

    def __init__(self, method: int = 4):
        check_option("webp-lossless", "method", method, 0, 6)
        name = "webp-lossless" + ("" if method == 4 else f":method={method}")
        PillowCodec.__init__(self, name, lossless=True, quality=75, method=method)

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return super().matches(blob) and blob[12:16] == b"VP8L"
