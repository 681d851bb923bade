"""The `Codec` protocol: everything that turns a signal into bytes, neural or not, has these five members."""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from cml.codecs.bitstream import FINGERPRINT_BYTES, container_id
from cml.errors import CodecError


def fingerprint(*parts: Mapping[str, Any] | bytes) -> str:
    """12 hexadecimal digits that name a codec by its content (configuration, weights)."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return digest.hexdigest()[: 2 * FINGERPRINT_BYTES]


@dataclass(frozen=True)
class CodecSpec:
    """What the rest of cml knows of a codec.

    Attributes:
        name: the operating point as a string that makes the codec again, "rgb_f8c48:step=0.5".
        ndim: D, spatial axes of a signal.
        channels: the channel counts C that the codec takes.
        latent_channels: c, or None for a codec that has no latents.
        patch: F, samples per axis and latent position, of the last axis where they differ; None without latents.
        lossless: True when `decompress(compress(x))` equals an 8-bit x.
        codec_id: the fingerprint that the container carries: which configuration and weights decode it.
        axis_patches: of each axis, where they differ, (4, 8, 8); empty where all are `patch`.
        settings: every option in force and the version of the library behind it, kept with each result.
    """

    name: str
    ndim: int
    channels: tuple[int, ...]
    latent_channels: int | None = None
    patch: int | None = None
    lossless: bool = False
    codec_id: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    axis_patches: tuple[int, ...] = ()

    @property
    def cell(self) -> tuple[int, ...]:
        """Samples of each axis behind one position of the latents; of one sample without latents."""
        return self.axis_patches or (self.patch or 1,) * self.ndim

    @property
    def dimension_reduction(self) -> float | None:
        """DR = C * F^D / c, samples of the signal per latent value; None without latents."""
        if self.latent_channels is None or self.patch is None:
            return None
        return self.channels[0] * math.prod(self.cell) / self.latent_channels


@dataclass(frozen=True, eq=False)
class Latent:
    """The quantized latents of one signal: a value, equal bytes mean equal symbols.

    Attributes:
        symbols: int8 (c, *grid); int16 where a step finer than the shipped ones needs it.
        original_shape: (C, *spatial) of the signal.
        codec_id: fingerprint of the codec that made it.
        step: the quantization step; symbols * step are the latents in the transform's own unit.
        mean, std: (c,) per-channel statistics of the latents over the codec's training data.
        level: (peak, *offsets) where the codec brings each signal to a peak of 1 around its offsets, one a channel, as
            the codecs of sound do: the symbols are those of (x - offset) / peak, whatever the volume. Else empty.
    """

    symbols: Tensor
    original_shape: tuple[int, ...]
    codec_id: str
    step: float
    mean: Tensor
    std: Tensor
    level: tuple[float, ...] = ()

    @property
    def scale(self) -> float:
        """Root mean square of `std`: what brings the latents, all channels together, to unit variance.

        One scale for all channels, not one each: the linear encoders are close to orthonormal, so a model then sees
        the energies that the signal has. Whitening lifts what is mostly noise to the level of the picture, and cost a
        small classifier 9 to 10 points of accuracy in a trial (validation split of the clothing, one seed).
        """
        return float(self.std.square().mean().sqrt())

    def to_float(self, normalize: bool = True) -> Tensor:
        """float32 (c, *grid), without the step; normalized, by each channel's mean and `scale`, ready for a model."""
        z = self.symbols.float() * self.step
        if not normalize:
            return z
        return (z - self.mean.to(z).view(-1, *[1] * (z.dim() - 1))) / self.scale


class Codec(ABC):
    """A codec at one operating point.

        signal x --encode--> Latent --(entropy coder, container)--> bytes        compress = the whole way
        x_hat <--decode-- Latent <------------------------------- bytes        decompress = the whole way back

    A signal is a float tensor (C, *spatial) in [-1, 1], or uint8 in [0, 255], or uint16 in [0, 65535]. Every verb
    also takes a batch (B, C, *spatial) or a list of signals of different sizes, and then returns a list. The output
    has the shape of the input for every size >= 1; padding, range, rounding and mode are the codec's business.
    """

    @property
    @abstractmethod
    def spec(self) -> CodecSpec:
        """What this codec is, at this operating point."""

    @abstractmethod
    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        """One signal, float32 (C, *spatial) in [-1, 1], that came with 8, 16 or 32 (float) bits a sample."""

    @abstractmethod
    def _decompress(self, blob: bytes) -> Tensor:
        """One signal, float32 (C, *spatial) in [-1, 1]."""

    def _admit(self, x: Tensor | np.ndarray, spec: CodecSpec) -> tuple[Tensor, int]:
        """What `_compress` and `_encode` are given of a signal; a codec that reads integers leaves them alone."""
        return check_signal(x, spec)

    def _encode(self, x: Tensor) -> Latent:
        raise self._no_latents()

    def _decode(self, latent: Latent) -> Tensor:
        raise self._no_latents()

    def pack(self, latent: Latent, bit_depth: int = 8) -> bytes:
        """A latent of this codec to bytes, as `compress` writes them for a signal of that bit depth."""
        raise self._no_latents()

    def unpack(self, blob: bytes) -> Latent:
        """Bytes of this codec to its latent: no decoder runs."""
        raise self._no_latents()

    def _no_latents(self) -> CodecError:
        return CodecError(f"{self.spec.name} has no latents; use compress and decompress.")

    @classmethod
    def claim(cls, blob: bytes) -> "Codec | None":
        """The codec of this class that decodes some bytes, or None; `cml.decompress` asks every registered class.

        As it stands, the default operating point, where the bytes are a container with its `codec_id`.
        """
        codec = cls()
        return codec if container_id(blob) == codec.spec.codec_id else None

    @overload
    def compress(self, x: Sequence[Tensor]) -> list[bytes]: ...
    @overload
    def compress(self, x: Tensor | np.ndarray) -> bytes: ...
    @torch.no_grad()
    def compress(self, x):
        """Signal to bytes; a batch or a list gives a list of bytes."""
        return _each(lambda s, spec: self._compress(*self._admit(s, spec)), x, self.spec)

    @overload
    def decompress(self, blob: Sequence[bytes]) -> list[Tensor]: ...
    @overload
    def decompress(self, blob: bytes | bytearray | memoryview) -> Tensor: ...
    @torch.no_grad()
    def decompress(self, blob):
        """Bytes to signal, float32 in [-1, 1]; a list gives a list. Raises BitstreamError on anything else."""
        if isinstance(blob, (bytes, bytearray, memoryview)):
            return self._decompress(bytes(blob))
        return [self._decompress(bytes(item)) for item in blob]

    @overload
    def encode(self, x: Sequence[Tensor]) -> list[Latent]: ...
    @overload
    def encode(self, x: Tensor | np.ndarray) -> Latent: ...
    @torch.no_grad()
    def encode(self, x):
        """Signal to `Latent`, always rounded; a batch or a list gives a list."""
        return _each(lambda s, spec: self._encode(self._admit(s, spec)[0]), x, self.spec)

    @overload
    def decode(self, latent: Sequence[Latent]) -> list[Tensor]: ...
    @overload
    def decode(self, latent: Latent) -> Tensor: ...
    @torch.no_grad()
    def decode(self, latent):
        """`Latent` to signal, float32 in [-1, 1]; a list gives a list."""
        return self._decode(latent) if isinstance(latent, Latent) else [self._decode(item) for item in latent]


def _each(function, x, spec: CodecSpec):
    """Apply to one signal, or to each of a batch or list.

    One at a time on purpose: a batched float product may round differently from a single one, and the symbols of a
    signal must not depend on its neighbours.
    """
    if isinstance(x, (list, tuple)):
        return [function(item, spec) for item in x]
    if isinstance(x, (Tensor, np.ndarray)) and x.ndim == spec.ndim + 2:
        return [function(item, spec) for item in x]
    return function(x, spec)


def check_signal(x: Tensor | np.ndarray, spec: CodecSpec) -> tuple[Tensor, int]:
    """A signal as float32 in [-1, 1] and its bits a sample (8, 16, 32), or one sentence on what is wrong with it."""
    x, bit_depth = admit_signal(x, spec)
    return to_unit(x), bit_depth


def to_unit(x: Tensor) -> Tensor:
    """Samples of an admitted signal, uint8, uint16 or float32, to float32 in [-1, 1]."""
    if x.dtype == torch.uint8:
        return x.float() / 127.5 - 1
    return x.float() / 32767.5 - 1 if x.dtype == torch.uint16 else x


def admit_signal(x: Tensor | np.ndarray, spec: CodecSpec, bounded: bool = True) -> tuple[Tensor, int]:
    """A signal as uint8, uint16, or float32 (in [-1, 1] if `bounded`), with its bits a sample, or one sentence on what
    is wrong."""
    if isinstance(x, np.ndarray):
        # Torch has no negative strides; others, as of a transposed picture, need no copy of all of it.
        x = torch.from_numpy(np.ascontiguousarray(x) if min(x.strides, default=0) < 0 else x)
    if not isinstance(x, Tensor):
        raise CodecError(
            f"A signal is a tensor (channels, *spatial), not {type(x).__name__}; cml.read_image makes one."
        )
    if x.dim() != spec.ndim + 1:
        raise CodecError(
            f"{spec.name} takes signals of {spec.ndim} spatial axes, (C, ...) or a batch (B, C, ...); "
            f"this one has shape {tuple(x.shape)}."
        )
    if x.numel() == 0:
        raise CodecError(f"The signal is empty: its shape is {tuple(x.shape)}.")
    if x.shape[0] not in spec.channels:
        takes = " or ".join(map(str, spec.channels)) if len(spec.channels) < 5 else f"up to {max(spec.channels)}"
        raise CodecError(
            f"{spec.name} takes {takes} channel(s), the signal has {x.shape[0]}: its shape must be (C, *spatial); "
            "choose another codec (cml list) or convert the signal."
        )
    x = x.detach()
    if x.dtype in (torch.uint8, torch.uint16):
        return x, 8 * x.element_size()
    if not x.is_floating_point():
        raise CodecError(f"A signal is float in [-1, 1], uint8 or uint16, not {x.dtype}; convert it.")
    x = x.float()
    low, high = (float(end) for end in x.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CodecError("The signal holds NaN or infinity; clean it before encoding.")
    peak = max(-low, high)
    if bounded and peak > 1 + 1e-4:
        raise CodecError(
            f"Float signals lie in [-1, 1]; this one reaches {peak:.4g}. Scale it, or pass 8-bit images as uint8."
        )
    return (x.clamp(-1, 1) if bounded and peak > 1 else x), 32


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to the nearest of the 256 levels of an 8-bit image."""
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
