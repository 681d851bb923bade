"""`WaveletCodec`: wavelet packets, a cheap encoder, a uniform step, and a decoder, in 1, 2 or 3 dimensions."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cml import hub
from cml.codecs import wavelet
from cml.codecs.base import Codec, CodecSpec, Latent, fingerprint
from cml.codecs.bitstream import Container
from cml.codecs.entropy import backend, backend_by_number
from cml.codecs.geometry import grid_shape
from cml.errors import BitstreamError, CmlError, CodecError

MAX_PACKET_CHANNELS = 8192


@dataclass(frozen=True)
class WaveletConfig:
    """What `config.json` holds.

    Attributes:
        ndim: D, spatial axes (1, 2, 3).
        channels: C, channels of the signal.
        levels: J, wavelet packet levels; the patch is F = 2^J.
        latent_channels: c.
        latent_mean, latent_std: per-channel statistics of the latents over the training data.
        step: the default quantization step.
        boundary: `symmetric` or `periodic`.
        entropy: the default entropy back-end.
        provenance: data and command that made the weights; not part of the fingerprint.
    """

    ndim: int
    channels: int
    levels: int
    latent_channels: int
    latent_mean: tuple[float, ...]
    latent_std: tuple[float, ...]
    step: float
    boundary: str = "symmetric"
    entropy: str = "rans"
    provenance: Mapping[str, Any] | None = None

    @property
    def packet_channels(self) -> int:
        """C * 2^(D*J), channels after the wavelet packet transform."""
        return self.channels * 2 ** (self.ndim * self.levels)


class WaveletCodec(nn.Module, Codec):
    """A linear encoder and decoder around the wavelet packet transform.

        x (C, *S) --WPT, J levels--> packets (C 2^(DJ), *grid) --1x1--> z (c, *grid) --/step, round--> int8 --> bytes
        x_hat <--crop, clamp-- inverse WPT <-- packets <--1x1-- z <-------------- *step -------------- int8 <-- bytes

    `analysis` and `synthesis` are plain differentiable functions of batches, for training and export; the verbs of
    `Codec` work on signals. The encoder is WaLLoC's (one 1x1 convolution: 2,316 parameters at f8c12), the quantizer
    one uniform step for all channels, which leaves bits where the energy is.

    Args:
        config: the frozen configuration.
        name: what the registry or the user calls it.
        step: quantization step, in units of the orthonormal transform of a [-1, 1] signal; None for the default.
        entropy: entropy back-end; None for the default.
    """

    def __init__(self, config: WaveletConfig, name: str, step: float | None = None, entropy: str | None = None):
        super().__init__()
        self.config = config
        if not (0 <= config.levels <= 16 and config.ndim in (1, 2, 3) and config.channels >= 1):
            raise CodecError(
                f"{name}: levels must be 0 to 16, dimensions 1 to 3 and channels 1 or more, not {config.levels}, "
                f"{config.ndim} and {config.channels}."
            )
        if config.packet_channels > MAX_PACKET_CHANNELS:
            raise CodecError(
                f"{name}: {config.levels} levels make {config.packet_channels} packet channels, more than the "
                f"{MAX_PACKET_CHANNELS} that a dense encoder is good for; take fewer levels."
            )
        self.step = _check_step(config.step if step is None else step)
        self.entropy = entropy or config.entropy
        backend(self.entropy)
        self._name = name
        self._fingerprint: tuple[tuple, str] = ((), "")
        c, packets = config.latent_channels, config.packet_channels
        if not 1 <= c <= packets:
            raise CodecError(f"{name}: latent channels must be 1 to {packets} at {config.levels} levels, not {c}.")
        self.encoder_weight = nn.Parameter(torch.zeros(c, packets))
        self.encoder_bias = nn.Parameter(torch.zeros(c))
        self.decoder_weight = nn.Parameter(torch.zeros(packets, c))
        self.decoder_bias = nn.Parameter(torch.zeros(packets))
        self.eval()

    @property
    def spec(self) -> CodecSpec:
        config = self.config
        options = {"step": self.step} | ({} if self.entropy == config.entropy else {"entropy": self.entropy})
        return CodecSpec(
            name=f"{self._name}:" + ",".join(f"{key}={value}" for key, value in options.items()),
            ndim=config.ndim,
            channels=(config.channels,),
            latent_channels=config.latent_channels,
            patch=2**config.levels,
            codec_id=self.codec_id,
            settings={"step": self.step, "entropy": self.entropy, "boundary": config.boundary},
        )

    @property
    def codec_id(self) -> str:
        """Fingerprint of architecture, weights and statistics; step and back-end travel in the container."""
        state = tuple((p.data_ptr(), p._version) for p in self.parameters())
        if self._fingerprint[0] != state:
            self._fingerprint = (state, self._compute_fingerprint())
        return self._fingerprint[1]

    def _compute_fingerprint(self) -> str:
        architecture = {
            key: value for key, value in asdict(self.config).items() if key not in ("step", "entropy", "provenance")
        }
        weights = [tensor.detach().cpu().numpy().tobytes() for _, tensor in sorted(self.state_dict().items())]
        return fingerprint(architecture, *weights)

    def at(self, step: float) -> "WaveletCodec":
        """The same weights at another quantization step."""
        other = WaveletCodec(self.config, self._name, step, self.entropy)
        other.load_state_dict(self.state_dict(), assign=True)
        return other

    def analysis(self, x: Tensor) -> Tensor:
        """(B, C, *S) in [-1, 1] to unquantized latents (B, c, *grid)."""
        packets = wavelet.analysis(x, self.config.levels, self.config.boundary)
        z = self.encoder_weight @ packets.flatten(2) + self.encoder_bias[:, None]
        return z.unflatten(2, packets.shape[2:])

    def synthesis(self, z: Tensor, size: tuple[int, ...]) -> Tensor:
        """Latents (B, c, *grid) to signals (B, C, *size), not clamped."""
        packets = (self.decoder_weight @ z.flatten(2) + self.decoder_bias[:, None]).unflatten(2, z.shape[2:])
        return wavelet.synthesis(packets, self.config.levels, size, self.config.boundary)

    def quantize(self, z: Tensor) -> Tensor:
        """Latents to the nearest multiples of the step: int8 if they fit, else int16."""
        symbols = (z / self.step).round()
        peak = symbols.abs().max()
        if peak > torch.iinfo(torch.int16).max:
            raise CodecError(f"Step {self.step} gives symbols of {peak:.0f}, past 16 bits; take a larger step.")
        return symbols.to(torch.int8 if peak <= torch.iinfo(torch.int8).max else torch.int16)

    def _latent(self, symbols: Tensor, shape: tuple[int, ...], step: float) -> Latent:
        mean, std = torch.tensor(self.config.latent_mean), torch.tensor(self.config.latent_std)
        return Latent(symbols, shape, self.codec_id, step, mean, std)

    def _encode(self, x: Tensor) -> Latent:
        symbols = self.quantize(self.analysis(x[None].to(self.encoder_weight.device))[0]).cpu()
        # The step through float32, as the container stores it: encoder and decoder use the same number.
        return self._latent(symbols, tuple(x.shape), float(np.float32(self.step)))

    def _decode(self, latent: Latent) -> Tensor:
        if latent.codec_id != self.codec_id:
            raise CodecError(
                f"This latent was made by codec {latent.codec_id}, not by {self.spec.name} ({self.codec_id})."
            )
        z = latent.to_float(normalize=False)[None].to(self.decoder_weight.device)
        return self.synthesis(z, latent.original_shape[1:])[0].clamp(-1, 1).cpu()

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        return self.pack(self._encode(x), bit_depth)

    def pack(self, latent: Latent, bit_depth: int = 8) -> bytes:
        symbols = latent.symbols.numpy()
        coder = backend(self.entropy)
        return Container(
            codec_id=latent.codec_id,
            parameter=latent.step,
            shape=latent.original_shape,
            bit_depth=bit_depth,
            backend=coder.number,
            wide=symbols.dtype == np.int16,
            payload=coder.encode(symbols),
        ).pack()

    def unpack(self, blob: bytes) -> Latent:
        container = Container.unpack(blob)
        if container.codec_id != self.codec_id:
            raise BitstreamError(
                f"The container was written by codec {container.codec_id}, not by {self._name} ({self.codec_id}); "
                "decode it with the codec that wrote it."
            )
        if len(container.shape) != self.config.ndim + 1 or container.shape[0] != self.config.channels:
            raise BitstreamError(f"The container's shape {container.shape} is not a signal of {self._name}.")
        shape = (self.config.latent_channels, *grid_shape(container.shape[1:], 2**self.config.levels))
        dtype = np.dtype(np.int16 if container.wide else np.int8)
        symbols = backend_by_number(container.backend).decode(container.payload, shape, dtype)
        return self._latent(torch.from_numpy(symbols), container.shape, container.parameter)

    def _decompress(self, blob: bytes) -> Tensor:
        return self._decode(self.unpack(blob))

    def save(self, folder: str | Path, card: str) -> None:
        """Write `config.json`, `model.safetensors` and the model card."""
        config = asdict(self.config) | {"codec_id": self.codec_id}
        hub.save(folder, config, dict(self.state_dict()), card)


def _check_step(step: float) -> float:
    usable = isinstance(step, (int, float)) and 0 < step <= float(np.finfo(np.float32).max) and np.float32(step) > 0
    if not usable:
        raise CodecError(f"The quantization step must be a positive number, not {step!r}.")
    return float(step)


def load_wavelet_codec(name: str, folder: Path, step: float | None = None, entropy: str | None = None) -> WaveletCodec:
    """A `WaveletCodec` from a folder of config.json and model.safetensors."""
    raw, tensors = hub.load(folder)
    try:
        known = {field.name for field in fields(WaveletConfig)}
        config = WaveletConfig(**{key: value for key, value in raw.items() if key in known})
        config = replace(config, latent_mean=tuple(config.latent_mean), latent_std=tuple(config.latent_std))
        codec = WaveletCodec(config, name, step, entropy)
        codec.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise CmlError(f"{folder} does not hold a wavelet codec: {str(error).splitlines()[0]}.") from error
    return codec
