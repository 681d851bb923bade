"""The codecs of others in the speed benchmark: formats through Pillow, learned ones through their own packages.

The learned ones have random weights, which take as long as trained ones. Their bytes mean nothing, except those of
`walloc`, whose encoder is one matrix: it gets that of our codec of the same size, scaled so that its symbols are about
ours.
"""

import importlib
import io
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from cml.eval.bench_subjects import Ours, Subject, Work
from PIL import Image
from torch import Tensor

from cml.codecs.base import to_uint8
from cml.codecs.conventional import from_pillow, load_picture, save_picture, to_pillow
from cml.codecs.factory import create_codec
from cml.codecs.neural import WaveletCodec
from cml.errors import CmlError

# Their networks take seconds and gigabytes a megapixel.
_LARGEST = 1.1e6


class Pillow(Subject):
    """A format through Pillow: its picture in memory to a file in memory and back."""

    def __init__(self, name: str, threads: int, format: str, **options: Any):
        super().__init__(name, threads)
        self._format, self._options = format, {"format": format, **options}

    def take(self, x: Tensor) -> Image.Image:
        return to_pillow(x.float() / 127.5 - 1)

    def encode(self, source: Image.Image) -> bytes:
        return save_picture(source, self.name, self._options)

    def decode(self, blob: bytes) -> Image.Image:
        return load_picture(blob, self._format)

    def show(self, decoded: Image.Image) -> Tensor:
        return to_uint8(from_pillow(decoded, 3))


def _package(name: str, label: str) -> Any:
    """Import what may be missing, and what warns of its own dependencies."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise CmlError(f"{label} is not installed here ({error}).") from error


class _Learned(Subject):
    largest = _LARGEST
    meaningful = ()
    _size = (0, 0)

    def take(self, x: Tensor) -> Tensor:
        self._size = (x.shape[1], x.shape[2])
        return x


class _SymbolsAsWebP(_Learned):
    """A codec whose authors keep its 8-bit symbols, three channels a picture, as lossless WebP."""

    module: Any
    latents: int

    @abstractmethod
    def symbols(self, source: Tensor) -> Tensor:
        """uint8 (3, H, W) to rounded symbols (1, c, *grid)."""

    @abstractmethod
    def network(self, symbols: Tensor) -> Tensor:
        """Symbols to samples (1, 3, H, W)."""

    def encode(self, source: Tensor) -> bytes:
        return self._container(self.symbols(source))

    def _container(self, symbols: Tensor) -> bytes:
        buffer = io.BytesIO()
        self.module.latent_to_pil(symbols, 8, 3)[0].save(buffer, format="WEBP", lossless=True)
        return buffer.getvalue()

    def decode(self, blob: bytes) -> Tensor:
        return self.network(self._read(blob))

    def _read(self, blob: bytes) -> Tensor:
        return self.module.pil_to_latent([load_picture(blob, "WEBP")], self.latents, 8, 3)

    def stages(self, source: Tensor, blob: bytes) -> dict[str, Work]:
        symbols = self._read(blob)
        return {
            "encode.transform": lambda: self.symbols(source),
            "encode.container": lambda: self._container(symbols),
            "decode.container": lambda: self._read(blob),
        }


class Walloc(_SymbolsAsWebP):
    """The RGB_16x configuration of the `walloc` package: 12 channels at 1/8, a decoder of 57 million parameters."""

    latents = 12
    meaningful = ("bytes",)

    def __init__(self, threads: int):
        super().__init__("walloc", threads)
        self.module = _package("walloc.walloc", "walloc")
        with torch.random.fork_rng(devices=[]):
            self.model = self.module.Codec2D(
                channels=3, J=3, Ne=0, Nd=768, latent_dim=self.latents, latent_bits=8, lightweight_encode=True
            ).eval()
        ours = create_codec("rgb_f8c12")
        assert isinstance(ours, WaveletCodec)
        # A small latent y becomes the symbol y * slope; its signal lies in [-1/2, 1/2], ours in [-1, 1].
        slope = 2 * self.model.latent_max / (127 / 1.85) / math.sqrt(2 * math.pi)
        with torch.no_grad():
            scale = 1 / (ours.step * slope)
            weights = ours.encoder.state_dict()
            self.model.encoder[0].weight.copy_(2 * scale * weights["weight"][:, :, None, None])
            self.model.encoder[0].bias.copy_(scale * weights["bias"])

    @torch.no_grad()
    def symbols(self, source: Tensor) -> Tensor:
        x = self.module.pad(source[None].float() / 255 - 0.5, 8)
        return self.model.encoder(self.model.wavelet_analysis(x, J=3))

    @torch.no_grad()
    def network(self, symbols: Tensor) -> Tensor:
        x = self.model.wavelet_synthesis(self.model.decoder(symbols), J=3)
        return self.module.crop(self.model.clamp(x), self._size)

    def show(self, decoded: Tensor) -> Tensor:
        return ((decoded[0] + 0.5) * 255).round().to(torch.uint8)


class LiveCodec(_SymbolsAsWebP):
    """The lsdir_f16c48 configuration of the `livecodec` package: a decoder of 76 million parameters."""

    latents = 48

    def __init__(self, threads: int):
        super().__init__("livecodec", threads)
        self.module = _package("livecodec.codec", "livecodec")
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            self.model = self.module.AutoCodecND(
                dim=2, input_channels=3, J=4, latent_dim=self.latents,
                encoder_depth=4, encoder_kernel_size=1, decoder_depth=8,
            ).eval()  # fmt: skip

    @torch.no_grad()
    def symbols(self, source: Tensor) -> Tensor:
        x = torch.nn.functional.pad(
            source[None].float() / 127.5 - 1, (0, -self._size[1] % 16, 0, -self._size[0] % 16), "replicate"
        )
        return self.model.quantize(self.model.encode(x)).round()

    @torch.no_grad()
    def network(self, symbols: Tensor) -> Tensor:
        return self.model.decode(symbols)[..., : self._size[0], : self._size[1]].clamp(-1, 1)

    def show(self, decoded: Tensor) -> Tensor:
        return ((decoded[0] + 1) * 127.5).round().to(torch.uint8)


class CompressAI(_Learned):
    """CompressAI's smallest: bmshj2018-factorized, 3 million parameters, with its own range coder."""

    def __init__(self, threads: int):
        super().__init__("compressai", threads)
        zoo = _package("compressai.zoo", "CompressAI")
        with torch.random.fork_rng(devices=[]):
            self.model = zoo.bmshj2018_factorized(quality=3, metric="mse", pretrained=False).eval()
        self.model.update(force=True)
        self._grid = torch.Size((0, 0))

    @torch.no_grad()
    def encode(self, source: Tensor) -> bytes:
        padding = (0, -self._size[1] % 16, 0, -self._size[0] % 16)
        out = self.model.compress(torch.nn.functional.pad(source[None].float() / 255, padding, "replicate"))
        self._grid = out["shape"]
        return out["strings"][0][0]

    @torch.no_grad()
    def decode(self, blob: bytes) -> Tensor:
        return self.model.decompress([[blob]], self._grid)["x_hat"][..., : self._size[0], : self._size[1]]

    def show(self, decoded: Tensor) -> Tensor:
        return (decoded[0] * 255).round().clamp(0, 255).to(torch.uint8)


ANCHOR, WEBP, WALLOC = "jpeg:quality=75", "webp:quality=80", "walloc"
"""What ratios are against."""

RIVALS: dict[str, Callable[[int], Subject]] = {
    # The setting of sensors, and the fastest: default Huffman tables, chroma 4:2:0.
    ANCHOR: lambda n: Pillow(ANCHOR, n, "JPEG", quality=75, optimize=False, subsampling="4:2:0"),
    WEBP: lambda n: Pillow(WEBP, n, "WEBP", quality=80, method=4),
    "webp:quality=80,method=0": lambda n: Pillow("webp:quality=80,method=0", n, "WEBP", quality=80, method=0),
    "avif:quality=75": lambda n: Pillow("avif:quality=75", n, "AVIF", quality=75, speed=6, max_threads=n),
    "avif:quality=75,speed=8": lambda n: Pillow(
        "avif:quality=75,speed=8", n, "AVIF", quality=75, speed=8, max_threads=n
    ),
    "jpeg2000:rate=20": lambda n: Pillow(
        "jpeg2000:rate=20", n, "JPEG2000",
        quality_mode="rates", quality_layers=[20], irreversible=True, mct=1, no_jp2=True,
    ),
    WALLOC: Walloc,
    "livecodec": LiveCodec,
    "compressai": CompressAI,
}  # fmt: skip
"""Name -> what makes it for a number of threads; raises CmlError where its package is missing."""


def make_subject(name: str, threads: int) -> Subject:
    """A rival by its name, or one of ours by its operating point."""
    return RIVALS[name](threads) if name in RIVALS else Ours(name, threads)
