"""The autoencoders of generative models as codecs: a network of others, a uniform quantizer, and our entropy coder.

    x (C, H, W) --edges repeated to multiples of F--> analysis --/step, round--> symbols (c, *grid) --back-end--> bytes
    x_hat <--crop, clamp-- synthesis <--*step------------------------------------------------------------- bytes

With `entropy=fp16` latents are stored as they are, as float16: two bytes each, no step, no symbols. The networks see a
whole picture at once, and their latents are the mean of the posterior, so that equal pictures give equal bytes on one
machine. Another machine's encoder may round a latent the other way; what bytes decode to differs only as float32 does.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cml.codecs.base import Codec, CodecSpec, Latent, fingerprint
from cml.codecs.bitstream import Container
from cml.codecs.entropy import BACKENDS, backend, backend_by_number
from cml.codecs.geometry import crop, grid_shape, pad_to_multiple
from cml.codecs.quantize import symbols_too_large
from cml.errors import BitstreamError, CodecError

FP16 = "fp16"
_RAW = 0  # back-end number of float16 latents
_DEFAULT_ENTROPY = "ctx"


class GenerativeCodec(nn.Module, Codec):
    """A pre-trained picture autoencoder at a quantization step.

    The weights are taken as they are at the start: change them, and make another codec.

    Args:
        name: what makes this codec again, without options.
        network: both ways, with its weights.
        channels: C of the pictures.
        patch: F, pixels a latent along each axis.
        mean, std: (c,) what to bring the latents to zero mean and unit deviation with.
        config: what the weights alone do not say of the network; part of the fingerprint.
        settings: what else belongs with a result.
        default_step: the step where none is given.
        step: quantization step, in the unit of the latents; None for the default.
        entropy: an entropy back-end for rounded latents, or `fp16` for float16 latents; None for `ctx`.

    Raises:
        CodecError: an option is out of range.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        *,
        channels: int,
        patch: int,
        mean: Tensor,
        std: Tensor,
        config: Mapping[str, Any],
        settings: Mapping[str, Any],
        default_step: float,
        step: float | None = None,
        entropy: str | None = None,
    ):
        super().__init__()
        self.network = network.float().eval().requires_grad_(False)
        self.entropy = entropy or _DEFAULT_ENTROPY
        if self.entropy not in (*BACKENDS, FP16):
            raise CodecError(f"{name} has no entropy={entropy}: use one of {', '.join((*BACKENDS, FP16))}.")
        if self.entropy == FP16 and step is not None:
            raise CodecError(f"{name} rounds nothing with entropy={FP16}: leave out the step, or that option.")
        self.step = _check_step(default_step if step is None else step)
        self._statistics = mean.float(), std.float()
        self._patch, self._latents = patch, len(mean)
        weights = [tensor.detach().cpu().numpy().tobytes() for _, tensor in sorted(network.state_dict().items())]
        quantized = self.entropy != FP16
        options = [f"step={self.step}"] * quantized + [f"entropy={self.entropy}"] * (self.entropy != _DEFAULT_ENTROPY)
        self._spec = CodecSpec(
            name=name + ("," if ":" in name else ":") + ",".join(options),
            ndim=2,
            channels=(channels,),
            latent_channels=self._latents if quantized else None,
            patch=patch if quantized else None,
            codec_id=fingerprint(config, *weights),
            settings={"step": self.step if quantized else None, "entropy": self.entropy, **settings},
        )

    @abstractmethod
    def analysis(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1], sides multiples of F, to latents (B, c, H/F, W/F)."""

    @abstractmethod
    def synthesis(self, z: Tensor) -> Tensor:
        """Latents (B, c, h, w) to pictures (B, C, F h, F w), not clamped."""

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _z(self, x: Tensor) -> Tensor:
        z = self.analysis(pad_to_multiple(x, 2, self._patch)[None].to(self._device))[0].float().cpu()
        self._check_shape(z, self._grid(x.shape))
        if not z.isfinite().all():
            raise CodecError(f"The network of {self.spec.name} gives NaN or infinity: its weights are damaged.")
        return z

    def _x_hat(self, z: Tensor, shape: tuple[int, ...]) -> Tensor:
        x_hat = self.synthesis(z[None].to(self._device))[0].float().cpu()
        self._check_shape(x_hat, (shape[0], *self._size(tuple(z.shape[1:]))))
        if not x_hat.isfinite().all():
            raise BitstreamError(f"These latents are beyond what the network of {self.spec.name} computes with.")
        return crop(x_hat, shape[1:]).clamp(-1, 1)

    def _check_shape(self, result: Tensor, wanted: tuple[int, ...]) -> None:
        if result.shape != wanted:
            raise CodecError(
                f"The network of {self.spec.name} gives {tuple(result.shape)} where its config says {wanted}: its "
                "blocks do not halve and double as often as they should."
            )

    def _encode(self, x: Tensor) -> Latent:
        if self.entropy == FP16:
            raise self._no_latents()
        symbols = (self._z(x) / self.step).round()
        peak = float(symbols.abs().max())
        if peak > torch.iinfo(torch.int16).max:
            raise symbols_too_large(self.step, peak)
        symbols = symbols.to(torch.int8 if peak <= torch.iinfo(torch.int8).max else torch.int16)
        return self._latent(symbols, tuple(x.shape), self.step)

    def _latent(self, symbols: Tensor, shape: tuple[int, ...], step: float) -> Latent:
        mean, std = self._statistics
        return Latent(symbols, shape, self.spec.codec_id, step, mean.clone(), std.clone())

    def _no_latents(self) -> CodecError:
        return CodecError(f"{self.spec.name} stores floats, and so has no latents of integers: leave out entropy=fp16.")

    def _decode(self, latent: Latent) -> Tensor:
        if latent.codec_id != self.spec.codec_id:
            raise CodecError(
                f"This latent was made by codec {latent.codec_id}, not by {self.spec.name} ({self.spec.codec_id})."
            )
        shape = tuple(latent.symbols.shape)
        if shape != self._grid(latent.original_shape) or latent.symbols.dtype not in (torch.int8, torch.int16):
            raise CodecError(
                f"Symbols of shape {shape} and type {latent.symbols.dtype} are not those of a signal "
                f"{latent.original_shape} of {self.spec.name}; decode latents as `encode` or `unpack` made them."
            )
        return self._x_hat(latent.to_float(normalize=False), latent.original_shape)

    def _grid(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self._latents, *grid_shape(shape[1:], self._patch)

    def _size(self, grid: tuple[int, ...]) -> tuple[int, ...]:
        """Spatial size of what latents of a grid decode to, before the crop."""
        return tuple(self._patch * n for n in grid)

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        if self.entropy != FP16:
            return self.pack(self._encode(x), bit_depth)
        z = self._z(x).numpy().astype("<f2")
        if not np.isfinite(z).all():
            raise CodecError(f"Latents of this signal are past float16: leave out entropy=fp16 of {self.spec.name}.")
        return self._container(tuple(x.shape), bit_depth, 0.0, _RAW, True, z.tobytes())

    def pack(self, latent: Latent, bit_depth: int = 8) -> bytes:
        if self.entropy == FP16:
            raise self._no_latents()
        symbols, coder = latent.symbols.numpy(), backend(self.entropy)
        wide = symbols.dtype == np.int16
        return self._container(latent.original_shape, bit_depth, latent.step, coder.number, wide, coder.encode(symbols))

    def _container(
        self, shape: tuple[int, ...], bit_depth: int, step: float, number: int, wide: bool, payload: bytes
    ) -> bytes:
        return Container(self.spec.codec_id, step, shape, self._latents, bit_depth, number, wide, payload).pack()

    def unpack(self, blob: bytes) -> Latent:
        container = self._open(blob)
        if container.backend == _RAW:
            raise BitstreamError("This container holds latents as float16, not as symbols: use decompress.")
        if not 0 < container.parameter < float("inf"):
            raise BitstreamError(f"The container's step is {container.parameter}, which no codec writes.")
        coder, dtype = backend_by_number(container.backend), np.dtype(np.int16 if container.wide else np.int8)
        symbols = coder.decode(container.payload, self._grid(container.shape), dtype)
        return self._latent(torch.from_numpy(symbols), container.shape, container.parameter)

    def _open(self, blob: bytes) -> Container:
        container = Container.unpack(blob)
        if container.codec_id != self.spec.codec_id:
            raise BitstreamError(
                f"The container was written by codec {container.codec_id}, not by {self.spec.name} "
                f"({self.spec.codec_id}): choose the codec it was written with."
            )
        shape, axes = container.shape, self.spec.ndim
        if len(shape) != axes + 1 or shape[0] not in self.spec.channels or container.channels != self._latents:
            raise BitstreamError(f"A signal of shape {shape} is not one of {self.spec.name}.")
        return container

    def _decompress(self, blob: bytes) -> Tensor:
        container = self._open(blob)
        if container.backend != _RAW:
            return self._decode(self.unpack(blob))
        shape = self._grid(container.shape)
        z = np.frombuffer(container.payload[: len(container.payload) // 2 * 2], "<f2").astype(np.float32)
        if len(container.payload) != 2 * np.prod(shape) or not np.isfinite(z).all():
            raise BitstreamError("The payload does not hold the float16 latents that the header promises.")
        return self._x_hat(torch.from_numpy(z.reshape(shape)), container.shape)


def _check_step(step: float) -> float:
    if isinstance(step, bool) or not (isinstance(step, (int, float)) and 1e-30 <= step <= 1e30):
        raise CodecError(f"The quantization step must be a positive number, 1e-30 or more, not {step!r}.")
    return float(step)
