"""The lossy codecs people already use, through Pillow: JPEG, JPEG 2000, WebP, AVIF; grey and RGB, 8 bits a sample.

Their bytes are ordinary files of the format, without a container of ours, so that the rate is what a file costs.
"""

import io
import threading
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image, features
from PIL.ImageFile import ImageFile
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint, to_uint8
from cml.errors import BitstreamError, CodecError


def to_samples(x: Tensor) -> np.ndarray:
    """(1 or 3, H, W) in [-1, 1] to uint8 (H, W) or (H, W, 3)."""
    samples = to_uint8(x).numpy()
    return samples[0] if len(samples) == 1 else samples.transpose(1, 2, 0).copy()


def from_samples(samples: np.ndarray) -> Tensor:
    """uint8 (H, W) or (H, W, channels) to (channels, H, W) in [-1, 1]."""
    planes = samples[None] if samples.ndim == 2 else samples.transpose(2, 0, 1)
    return torch.from_numpy(planes.astype(np.float32)) / 127.5 - 1


def to_pillow(x: Tensor) -> Image.Image:
    """(1 or 3, H, W) in [-1, 1] to an 8-bit grey or RGB picture."""
    return Image.fromarray(to_samples(x))


def from_pillow(picture: Image.Image, channels: int) -> Tensor:
    """An 8-bit picture to (channels, H, W) in [-1, 1]."""
    return from_samples(np.asarray(picture.convert("L" if channels == 1 else "RGB")))


def save_picture(picture: Image.Image, codec: str, options: Mapping[str, Any]) -> bytes:
    """A picture as a file in memory; what the library refuses (a side too long, say) becomes a CodecError."""
    buffer = io.BytesIO()
    limit = 2 * (Image.MAX_IMAGE_PIXELS or picture.width * picture.height)
    if picture.width * picture.height > limit:
        raise CodecError(f"{codec}: {picture.width}x{picture.height} is past the {limit} pixels that Pillow decodes.")
    try:
        picture.save(buffer, **options)
    except (OSError, ValueError, OverflowError) as error:
        raise CodecError(f"{codec} cannot encode {picture.width}x{picture.height} {picture.mode}: {error}.") from error
    return buffer.getvalue()


_open_lock = threading.Lock()


def open_picture(source: io.BytesIO | Path, formats: list[str] | None = None) -> ImageFile:
    """Read a picture's header, without Pillow's warning for large ones; those past its hard limit are an error.

    Warning filters belong to the whole process, so threads that decode take turns here.
    """
    with _open_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(source, formats=formats)


def load_picture(blob: bytes, format: str) -> Image.Image:
    """Decode a file in memory, all of it, or raise BitstreamError."""
    try:
        picture = open_picture(io.BytesIO(blob), [format])
        picture.load()
    except UNREADABLE as error:
        raise BitstreamError(f"These bytes are not a whole {format} picture: {error}.") from error
    return picture


# What Pillow raises for bytes that are not a whole picture.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


def refuse_16_bits(codec: str, bit_depth: int) -> None:
    """Say so instead of dropping half of the bits of a 16-bit signal."""
    if bit_depth == 16:
        raise CodecError(f"{codec} keeps 8 bits a sample, the signal has 16; convert it, or take another codec.")


def brands(blob: bytes) -> set[bytes]:
    """The formats that the first box of an AVIF or HEIC file names, none for other files."""
    end = int.from_bytes(blob[:4], "big") if blob[4:8] == b"ftyp" else 0
    return {blob[at : at + 4] for at in (8, *range(16, min(end, 256), 4)) if at < end}


def is_jpeg_ls(blob: bytes) -> bool:
    """Whether bytes start as JPEG-LS does: as JPEG, then a frame of its own or the SPIFF header that CharLS writes."""
    return blob[:3] == b"\xff\xd8\xff" and blob[3:4] in (b"\xf7", b"\xe8")


def check_option(codec: str, option: str, value: Any, low: float, high: float, whole: bool = True) -> None:
    """Raise CodecError unless a value is a number, whole or not, from low to high."""
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise CodecError(f"{codec} takes a {kind} from {low} to {high} as {option}, not {value!r}.")


def pillow_version(library: str) -> dict[str, str]:
    """Versions of Pillow and of the library behind a format, for a result's settings."""
    return {"pillow": PIL.__version__, library: str(features.version(library))}


class PillowCodec(Codec):
    """x --round to 8 bits--> Pillow picture --save--> file bytes --load--> x_hat, at the original size."""

    format: str
    library: str
    lossless = False

    def __init__(self, point: str, **options: Any):
        self._options = options
        effective = {mode: self._save_options(Image.new(mode, (512, 512))) for mode in ("L", "RGB")}
        self._spec = CodecSpec(
            name=point,
            ndim=2,
            channels=(1, 3),
            lossless=self.lossless,
            codec_id=fingerprint({"codec": self.format, "version": 1}),
            settings={"format": self.format, **effective, **pillow_version(self.library)},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    def _save_options(self, picture: Image.Image) -> dict[str, Any]:
        """Everything given to the library for this picture; `spec.settings` shows it for one of 512x512."""
        return dict(self._options)

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        refuse_16_bits(self.spec.name, bit_depth)
        picture = to_pillow(x)
        return save_picture(picture, self.spec.name, {"format": self.format, **self._save_options(picture)})

    def _decompress(self, blob: bytes) -> Tensor:
        picture = load_picture(blob, self.format)
        return from_pillow(picture, 1 if picture.mode == "L" else 3)

    @classmethod
    @abstractmethod
    def matches(cls, blob: bytes) -> bool:
        """Whether bytes start as a file of this format does."""

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        return cls() if cls.matches(blob) else None  # pyright: ignore[reportCallIssue]


class Jpeg(PillowCodec):
    """JPEG by libjpeg-turbo, with optimised Huffman tables: the same picture, fewer bytes than the default tables.

    Args:
        quality: 1 (worst) to 100.
        subsampling: of the chroma of RGB pictures, 4:2:0 (what cameras and the web use), 4:2:2 or 4:4:4.
    """

    format, library = "JPEG", "libjpeg_turbo"

    def __init__(self, quality: int = 75, subsampling: str = "4:2:0"):
        check_option("jpeg", "quality", quality, 1, 100)
        if subsampling not in ("4:2:0", "4:2:2", "4:4:4"):
            raise CodecError(f"jpeg takes subsampling 4:2:0, 4:2:2 or 4:4:4, not {subsampling!r}.")
        extra = "" if subsampling == "4:2:0" else f",subsampling={subsampling}"
        super().__init__(f"jpeg:quality={quality}{extra}", quality=quality, subsampling=subsampling, optimize=True)

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[:3] == b"\xff\xd8\xff" and not is_jpeg_ls(blob)


class Jpeg2000(PillowCodec):
    """JPEG 2000 by OpenJPEG: a bare codestream, one quality layer.

    Args:
        rate: compression ratio against 8 bits a sample, >= 1; 20 asks for 1.2 bpp of an RGB image.
        wavelet: `9/7` (irreversible) or `5/3` (the reversible one, cut short).
        colour: `ycc`, the standard's colour transform of RGB pictures, or `rgb`, none. `wavelet=5/3,colour=rgb` is
            what Pillow does by default, and what the authors of WaLLoC and LiVeAction compared with.
    """

    format, library = "JPEG2000", "jpg_2000"

    def __init__(self, rate: float = 20, wavelet: str = "9/7", colour: str = "ycc"):
        check_option("jpeg2000", "rate", rate, 1, 10_000, whole=False)
        for option, value, known in (("wavelet", wavelet, ("9/7", "5/3")), ("colour", colour, ("ycc", "rgb"))):
            if value not in known:
                raise CodecError(f"jpeg2000: {option} must be one of {', '.join(known)}, not {value!r}.")
        self._colour = colour
        chosen = ("" if wavelet == "9/7" else f",wavelet={wavelet}") + ("" if colour == "ycc" else f",colour={colour}")
        super().__init__(
            f"jpeg2000:rate={rate:.12g}{chosen}",
            quality_mode="rates", quality_layers=[rate], irreversible=wavelet == "9/7", no_jp2=True,
        )  # fmt: skip

    def _save_options(self, picture: Image.Image) -> dict[str, Any]:
        # OpenJPEG's default of six resolutions needs 32 samples a side; smaller pictures have fewer to halve.
        resolutions = min(6, min(picture.size).bit_length())
        mct = int(picture.mode == "RGB" and self._colour == "ycc")
        return self._options | {"num_resolutions": resolutions, "mct": mct}

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[:4] == b"\xff\x4f\xff\x51" or blob[4:8] == b"jP  "


class WebP(PillowCodec):
    """Lossy WebP by libwebp. The format has no grey: one byte behind the file, which readers skip, says it was grey.

    Args:
        quality: 0 (worst) to 100.
        method: 0 (fast) to 6 (small).
    """

    format, library = "WEBP", "webp"
    _GREY = b"L"

    def __init__(self, quality: int = 80, method: int = 4):
        check_option("webp", "quality", quality, 0, 100)
        check_option("webp", "method", method, 0, 6)
        super().__init__(
            f"webp:quality={quality}" + ("" if method == 4 else f",method={method}"), quality=quality, method=method
        )

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        blob = super()._compress(x, bit_depth)
        return blob + self._GREY if len(x) == 1 else blob

    def _decompress(self, blob: bytes) -> Tensor:
        grey = len(blob) > 8 and len(blob) - 8 - int.from_bytes(blob[4:8], "little") == 1 and blob[-1:] == self._GREY
        return from_pillow(load_picture(blob, self.format), 1 if grey else 3)

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return blob[:4] == b"RIFF" and blob[8:12] == b"WEBP"


class Avif(PillowCodec):
    """AVIF by libavif; chroma 4:2:0, or none for grey.

    Args:
        quality: 0 (worst) to 100.
        speed: 0 (small) to 10 (fast).
    """

    format, library = "AVIF", "avif"

    def __init__(self, quality: int = 75, speed: int = 6):
        check_option("avif", "quality", quality, 0, 100)
        check_option("avif", "speed", speed, 0, 10)
        if not features.check("avif"):
            raise CodecError("This Pillow was built without AVIF; install the wheel: pip install -U 'pillow>=11.3'.")
        super().__init__(
            f"avif:quality={quality}" + ("" if speed == 6 else f",speed={speed}"),
            quality=quality, speed=speed, max_threads=1,
        )  # fmt: skip

    def _save_options(self, picture: Image.Image) -> dict[str, Any]:
        return self._options | {"subsampling": "4:0:0" if picture.mode == "L" else "4:2:0"}

    @classmethod
    def matches(cls, blob: bytes) -> bool:
        return not brands(blob).isdisjoint({b"avif", b"avis"})
