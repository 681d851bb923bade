"""What a `WaveletCodec` is made of: its frozen configuration, and the encoder and decoder that it names."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from torch import nn

from cml.codecs.level import LEVELS
from cml.codecs.wavelet import BOUNDARIES
from cml.errors import CodecError

MAX_PACKET_CHANNELS = 8192
ENCODERS = ("linear", "factorized")
QUANTIZERS = ("uniform", "gaussian", "laplace")
_DECODER_SIZES = ("decoder_width", "decoder_depth")
_NEEDS = {
    "light": _DECODER_SIZES,
    "attention": ("decoder_depth",),
    "residual": ("decoder_width",),
    "oobleck": ("decoder_width",),
}
DECODERS = ("linear", "light", "attention", "residual", "oobleck")


@dataclass(frozen=True)
class WaveletConfig:
    """What `config.json` holds.

    Attributes:
        ndim: D, spatial axes (1, 2, 3).
        channels: C, channels of the signal.
        levels: J, wavelet packet levels; the patch is F = 2^J. One number, or one an axis, (2, 3, 3).
        latent_channels: c.
        latent_mean, latent_std: per-channel statistics of the latents over the training data.
        step: the default quantization step.
        encoder: `linear` (WaLLoC) or `factorized` (LiVeAction), the latter of `encoder_depth` blocks.
        quantizer: `uniform`, `gaussian` (WaLLoC, to `bits` bits at step 1) or `laplace` (LiVeAction).
        decoder: `linear`, `light`, `attention` (LiVeAction), `residual` (WaLLoC) or `oobleck` (WaLLoC in 1-D), of
            `decoder_width` channels and `decoder_depth` blocks where it has them.
        boundary: `symmetric` or `periodic`.
        level: `absolute`, signals as they are, or `peak`: each brought to a peak of 1 around its means (see `level`).
        rdo: default strength of rate-distortion optimised quantization; 0 rounds to the nearest.
        entropy: the default entropy back-end.
        provenance: data and command that made the weights; not part of the fingerprint.

    Raises:
        CodecError: values that do not go together.
    """

    ndim: int
    channels: int
    levels: int | tuple[int, ...]
    latent_channels: int
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    step: float
    encoder: str = "linear"
    encoder_depth: int = 4
    quantizer: str = "uniform"
    bits: int = 8
    decoder: str = "linear"
    decoder_width: int = 0
    decoder_depth: int = 0
    boundary: str = "symmetric"
    level: str = "absolute"
    rdo: float = 0.0
    entropy: str = "ctx"
    provenance: Mapping[str, Any] | None = None

    def __post_init__(self):
        for key in ("ndim", "channels", "latent_channels", "encoder_depth", "bits", *_DECODER_SIZES):
            if type(getattr(self, key)) is not int or getattr(self, key) < 0:
                raise CodecError(f"A wavelet codec's {key} is a whole number of 0 or more, not {getattr(self, key)!r}.")
        self._check_axes()
        packets = self.packet_channels
        if packets > MAX_PACKET_CHANNELS:
            raise CodecError(
                f"{self.levels} levels make {packets} packet channels, more than the {MAX_PACKET_CHANNELS} that an "
                "encoder is good for; take fewer levels."
            )
        c = self.latent_channels
        if not 1 <= c <= packets:
            raise CodecError(f"Latent channels must be 1 to {packets} at {self.levels} levels, not {c}.")
        if not all(map(math.isfinite, (*self.latent_mean, *self.latent_std))) or min(self.latent_std, default=1) <= 0:
            raise CodecError("The means of the latents must be finite, and their standard deviations positive.")
        if not len(self.latent_mean) == len(self.latent_std) == c:
            raise CodecError(f"{c} latent channels need as many means and standard deviations.")
        for key, known in (
            ("encoder", ENCODERS),
            ("quantizer", QUANTIZERS),
            ("decoder", DECODERS),
            ("boundary", BOUNDARIES),
            ("level", LEVELS),
        ):
            if getattr(self, key) not in known:
                raise CodecError(f"Unknown {key} {getattr(self, key)!r}: use one of {', '.join(known)}.")
        for key in _DECODER_SIZES:
            if key in _NEEDS.get(self.decoder, ()) and getattr(self, key) < 1:
                raise CodecError(f"The decoder {self.decoder} needs a {key} of 1 or more.")
        if not 2 <= self.bits <= 16:
            raise CodecError(f"The companding range is 2 to 16 bits, not {self.bits}.")

    def _check_axes(self) -> None:
        if self.ndim not in (1, 2, 3) or self.channels < 1:
            raise CodecError(
                f"A wavelet codec has 1 to 3 dimensions and 1 or more channels, not {self.ndim} and {self.channels}."
            )
        given: Any = self.levels
        each: Any = (given,) * self.ndim if type(given) is int else given
        whole = isinstance(each, (tuple, list)) and len(each) == self.ndim and all(type(n) is int for n in each)
        if not whole or min(each) < 0:
            raise CodecError(
                "A wavelet codec's levels is a whole number of 0 or more, or one for each of its "
                f"{self.ndim} axes, not {self.levels!r}."
            )
        if max(each) > 16:
            raise CodecError(f"A wavelet codec has 0 to 16 levels, not {self.levels}.")
        # Equal levels are one number: one config, one fingerprint.
        object.__setattr__(self, "levels", each[0] if len(set(each)) == 1 else tuple(each))

    @property
    def axis_levels(self) -> tuple[int, ...]:
        """Wavelet packet levels of each axis."""
        return (self.levels,) * self.ndim if isinstance(self.levels, int) else self.levels

    @cached_property
    def cell(self) -> tuple[int, ...]:
        """Samples of each axis behind one position of the latents."""
        return tuple(2**levels for levels in self.axis_levels)

    @property
    def packet_channels(self) -> int:
        """C * 2^(D*J), channels after the wavelet packet transform."""
        return self.channels * math.prod(self.cell)

    @property
    def architecture(self) -> dict[str, Any]:
        """The fields that decide what a bitstream decodes to, without those that the container carries or that only
        the encoder reads."""
        chosen = ("step", "entropy", "rdo", "provenance")
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in chosen}
        if self.level == "absolute":  # codecs of before there was another keep their fingerprints
            del found["level"]
        return found


def make_encoder(config: WaveletConfig) -> nn.Module:
    """packets (B, P, *grid) -> y (B, c, *grid)."""
    if config.encoder == "factorized":
        from cml.codecs.factorized import FactorizedEncoder

        return FactorizedEncoder(config.ndim, config.packet_channels, config.latent_channels, config.encoder_depth)
    from cml.codecs.linear import LinearEncoder

    return LinearEncoder(config.packet_channels, config.latent_channels)


def make_decoder(config: WaveletConfig) -> nn.Module:
    """(z (B, c, *grid), step (B,)) -> packets (B, P, *grid)."""
    ndim, c, packets = config.ndim, config.latent_channels, config.packet_channels
    width, depth = config.decoder_width, config.decoder_depth
    if config.decoder == "linear":
        from cml.codecs.linear import LinearDecoder

        return LinearDecoder(c, packets)
    if config.decoder == "light":
        from cml.codecs.light import LightDecoder

        return LightDecoder(ndim, c, packets, width, depth)
    if config.decoder == "attention":
        from cml.codecs.attention import AttentionDecoder

        return AttentionDecoder(ndim, c, packets, depth)
    if config.decoder == "oobleck":
        from cml.codecs.oobleck import OobleckDecoder

        return OobleckDecoder(ndim, c, packets, width, config.axis_levels[0], config.boundary)
    from cml.codecs.residual import ResidualDecoder

    return ResidualDecoder(ndim, c, packets, width)
