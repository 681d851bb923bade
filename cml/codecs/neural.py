"""`WaveletCodec`: wavelet packets, a cheap encoder, a quantizer and a decoder, in 1, 2 or 3 dimensions."""

from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from cml import hub
from cml.codecs import wavelet
from cml.codecs.architecture import WaveletConfig, make_decoder, make_encoder
from cml.codecs.base import Codec, CodecSpec, Latent, admit_signal, fingerprint, to_unit
from cml.codecs.bitstream import Container
from cml.codecs.entropy import backend, backend_by_number
from cml.codecs.geometry import grid_shape
from cml.codecs.level import check_peak, measure, remove, restore
from cml.codecs.light import LightDecoder
from cml.codecs.linear import LinearDecoder, LinearEncoder
from cml.codecs.quantize import make_quantizer, symbols_too_large
from cml.codecs.rdo import rdo_round
from cml.codecs.tiles import synthesis_stripes
from cml.errors import BitstreamError, CmlError, CodecError

if TYPE_CHECKING:
    from cml.codecs.fast_codec import Fast, Rows


class WaveletCodec(nn.Module, Codec):
    """An encoder and a decoder around the wavelet packet transform.

        x (C, *S) --WPT, J levels--> packets (C 2^(DJ), *grid) --encoder--> y (c, *grid) --compand, /step, round--> int8
        x_hat <--crop, clamp-- inverse WPT <-- packets <--decoder-- z <--expand, *step------------------------ int8

    `analysis` and `synthesis` are plain differentiable functions of batches, for training and export; the verbs of
    `Codec` work on signals. The config says which encoder, quantizer and decoder: those of WaLLoC (`linear`,
    `gaussian`, `residual`), of LiVeAction (`factorized`, `laplace`, `attention`), or ours (`linear`, `uniform`,
    `light`): one step for all channels leaves the bits where the energy is.

    On a CPU, what is linear runs compiled (see `fast`), straight from integer samples; `analysis` and `synthesis` are
    the reference for it.

    Args:
        config: the frozen configuration.
        name: what the registry or the user calls it.
        step: quantization step, in units of the orthonormal transform of a [-1, 1] signal (of the companded latents
            where the quantizer compands); None for the default.
        channels: send only the first of the latent channels, which linear encoders order by energy; None for all.
        rdo: strength of rate-distortion optimised quantization, 0 to round to the nearest; None for the default.
        entropy: entropy back-end; None for the default.
        decoder: `linear` to decode by the linear part of a light decoder alone, far faster and a little worse; None
            for the whole decoder. The bytes are the same.
        peak: of a codec that divides each signal by its peak: a known one, the same for all, as streams need it; None
            for each signal's own.
    """

    def __init__(
        self,
        config: WaveletConfig,
        name: str,
        step: float | None = None,
        channels: int | None = None,
        rdo: float | None = None,
        entropy: str | None = None,
        decoder: str | None = None,
        peak: float | None = None,
    ):
        super().__init__()
        self.config = config
        self.step = _check_step(config.step if step is None else step)
        self.channels = _check_channels(config.latent_channels if channels is None else channels, config)
        self.rdo = _check_rdo(config.rdo if rdo is None else rdo)
        self.peak = check_peak(peak, config.level)
        self.entropy = entropy or config.entropy
        backend(self.entropy)
        self._name = name
        self._fingerprint: tuple[tuple, str] = ((), "")
        self._spec: tuple[tuple, CodecSpec] | None = None
        self.encoder = make_encoder(config)
        self.quantizer = make_quantizer(
            config.quantizer, config.latent_channels, config.bits, invert=config.decoder != "attention"
        )
        self.decoder = make_decoder(config)
        self.decodes_by = _check_decoder(decoder or config.decoder, config)
        self._parts = [part for part in self.modules() if part._parameters]
        self._statistics = torch.tensor(config.latent_mean), torch.tensor(config.latent_std)
        self.eval()

    @cached_property
    def _fast(self) -> "Fast":
        from cml.codecs.fast_codec import Fast  # with numba, which takes as long to import as all else

        config, linear = self.config, self.linear_decoder
        splits = max(config.axis_levels) > 0
        encoder = self.encoder if isinstance(self.encoder, LinearEncoder) and splits else None
        plain = config.quantizer == "uniform" and config.boundary == "symmetric" and splits
        return Fast(config, encoder, linear if plain else None)

    @property
    def linear_decoder(self) -> LinearDecoder | None:
        """The linear decoder, where that is all that is to decode by."""
        if isinstance(self.decoder, LightDecoder) and self.decodes_by == "linear":
            return self.decoder.linear
        return self.decoder if isinstance(self.decoder, LinearDecoder) else None

    @property
    def spec(self) -> CodecSpec:
        # As the fingerprint: made again only where something in it has changed.
        codec_id = self.codec_id
        state = (codec_id, self.step, self.channels, self.rdo, self.entropy, self.decodes_by, self.peak)
        if self._spec is None or self._spec[0] != state:
            self._spec = state, self._make_spec(codec_id)
        return self._spec[1]

    def _make_spec(self, codec_id: str) -> CodecSpec:
        config = self.config
        chosen = {"channels": self.channels, "rdo": self.rdo, "entropy": self.entropy}
        usual = {"channels": config.latent_channels, "rdo": config.rdo, "entropy": config.entropy}
        if self.decodes_by != config.decoder:  # else left out: results of before this option keep their keys
            chosen["decoder"] = self.decodes_by
        if self.peak is not None:
            chosen["peak"] = self.peak
        coder = backend(self.entropy, config.ndim)
        # Likewise left out where the name says it all.
        own = {} if coder is backend(self.entropy) else {"backend": coder.number}
        options = {"step": self.step} | {key: value for key, value in chosen.items() if value != usual.get(key)}
        return CodecSpec(
            name=f"{self._name}:" + ",".join(f"{key}={value}" for key, value in options.items()),
            ndim=config.ndim,
            channels=(config.channels,),
            latent_channels=self.channels,
            patch=config.cell[-1],
            codec_id=codec_id,
            axis_patches=config.cell if len(set(config.cell)) > 1 else (),
            settings={"step": self.step, **chosen, "boundary": config.boundary, **own},
        )

    @property
    def codec_id(self) -> str:
        """Fingerprint of architecture, weights and statistics; step, channels and back-end travel in the container."""
        # Asked for at every call of every verb; `parameters()` would take longer than a small picture.
        state = tuple(
            (p.data_ptr(), p._version) for part in self._parts for p in part._parameters.values() if p is not None
        )
        if self._fingerprint[0] != state:
            self._fingerprint = (state, self._compute_fingerprint())
        return self._fingerprint[1]

    def _compute_fingerprint(self) -> str:
        weights = [tensor.detach().cpu().numpy().tobytes() for _, tensor in sorted(self.state_dict().items())]
        return fingerprint(self.config.architecture, *weights)

    def at(self, step: float) -> "WaveletCodec":
        """The same weights at another quantization step."""
        options = (self.channels, self.rdo, self.entropy, self.decodes_by, self.peak)
        other = WaveletCodec(self.config, self._name, step, *options)
        other.load_state_dict(self.state_dict(), assign=True)
        return other

    def analysis(self, x: Tensor) -> Tensor:
        """(B, C, *S) in [-1, 1] to unquantized latents (B, c, *grid), companded."""
        return self.quantizer.compand(self.encoder(wavelet.analysis(x, self.config.levels, self.config.boundary)))

    def synthesis(self, z: Tensor, size: tuple[int, ...], step: Tensor | None = None) -> Tensor:
        """Latents (B, c, *grid), as `analysis` gives them, to signals (B, C, *size), not clamped.

        Args:
            z: latents, quantized or not.
            size: spatial size of the signals.
            step: (B,) the steps they were quantized with; None for the codec's.
        """
        if step is None:
            step = z.new_full((len(z),), self.step)
        packets = (self.linear_decoder or self.decoder)(self.quantizer.expand(z), step)
        return wavelet.synthesis(packets, self.config.levels, size, self.config.boundary)

    def quantize(self, z: Tensor) -> Tensor:
        """Latents (B, c, *grid) to symbols (B, channels, *grid), as int8 if they fit, else int16."""
        symbols = rdo_round(z[:, : self.channels] / self.step, self.rdo)
        peak = symbols.abs().max()
        if peak > torch.iinfo(torch.int16).max:
            raise symbols_too_large(self.step, float(peak))
        return symbols.to(torch.int8 if peak <= torch.iinfo(torch.int8).max else torch.int16)

    def _quantize_some(self, z: Tensor) -> Tensor:
        """`quantize`, some channels at a time: on the way it makes several tensors of the size of what it is given."""
        count = max(_QUANTIZED // z[0, 0].numel(), 1)
        parts = [self.quantize(part) for part in z[:, : self.channels].split(count, 1)]
        return torch.cat(parts, 1) if len(parts) > 1 else parts[0]

    def _latent(self, symbols: Tensor, shape: tuple[int, ...], step: float, level: tuple[float, ...]) -> Latent:
        mean, std = self._statistics
        count = len(symbols)
        return Latent(symbols, shape, self.codec_id, step, mean[:count].clone(), std[:count].clone(), level)

    @property
    def _device(self) -> torch.device:
        return next(iter(self._parts[0]._parameters.values())).device  # pyright: ignore[reportOptionalMemberAccess]

    def _admit(self, x: Tensor | np.ndarray, spec: CodecSpec) -> tuple[Tensor, int]:
        return admit_signal(x, spec, bounded=self.config.level == "absolute")

    def _symbols(self, x: Tensor) -> Tensor:
        fast = self._fast if self._device.type == "cpu" else None
        x = x.to(self._device)
        if fast and fast.quantizes:
            return fast.symbols(x, self.step, self.channels, self.rdo)
        if fast and fast.encodes:
            parts = [
                self._quantize_some(self.quantizer.compand(part))[0, :, kept]
                for part, kept in fast.latents(x, margin=int(self.rdo > 0))
            ]
            return torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        return self.quantize(self.analysis(to_unit(x)[None]))[0].cpu()

    def _encode(self, x: Tensor) -> Latent:
        return self._pair(*self._levelled(x))

    def _levelled(self, x: Tensor) -> tuple[Tensor, tuple[int, ...], tuple[float, ...]]:
        """Symbols, shape and level of a signal."""
        shape = tuple(x.shape)
        if self.config.level == "absolute":
            return self._symbols(x), shape, ()
        level = measure(x, self.peak)
        return self._symbols(remove(x, level)), shape, level

    @property
    def _stored_step(self) -> float:
        # Through float32, as the container stores it: encoder and decoder use the same number.
        return float(np.float32(self.step))

    def _pair(self, symbols: Tensor, shape: tuple[int, ...], level: tuple[float, ...] = ()) -> Latent:
        return self._latent(symbols, shape, self._stored_step, level)

    def compress_rows(self, rows: "Rows", shape: tuple[int, ...], dtype: np.dtype) -> bytes:
        """`compress` of a picture that is never in memory as a whole, if the codec's encoder allows it.

        Args:
            rows: gives rows start ... stop as (C, stop - start, W), uint8 or uint16; asked for in order, each once.
            shape: (C, H, W) of the picture.
            dtype: of the samples.
        """
        depth = 8 * dtype.itemsize
        by_rows = self._fast.quantizes and self.config.ndim == 2 and self.config.level == "absolute"
        if by_rows and self._device.type == "cpu":
            admit_signal(np.empty((shape[0], 1, 1), dtype), self.spec)
            symbols = self._fast.symbols_of_rows(rows, shape, self.step, self.channels, self.rdo)
            return self.pack(self._pair(symbols, shape), depth)
        return self.compress(rows(0, shape[1]))

    @torch.no_grad()
    def decompress_rows(self, blob: bytes) -> Iterator[Tensor]:
        """`decompress` of a picture in stripes float32 (C, rows, W), from the first to the last.

        A decoder that looks at the whole picture gives it in one piece.
        """
        latent = self.unpack(blob)
        for stripe in self._stripes(latent):
            yield restore(stripe, latent.level) if latent.level else stripe

    def _stripes(self, latent: Latent) -> Iterator[Tensor]:
        size = latent.original_shape[1:]
        if self._fast.decodes and self._device.type == "cpu" and self.config.ndim == 2:
            yield from self._fast.sample_rows(latent.symbols, latent.step, size)
        else:
            for stripe in synthesis_stripes(self, latent.symbols, size, latent.step):
                yield stripe.clamp_(-1, 1).cpu()

    def _decode(self, latent: Latent) -> Tensor:
        if latent.codec_id != self.codec_id:
            raise CodecError(
                f"This latent was made by codec {latent.codec_id}, not by {self.spec.name} ({self.codec_id})."
            )
        latent = replace(latent, symbols=latent.symbols.detach().cpu())
        size = latent.original_shape[1:]
        if latent.symbols.dtype not in (torch.int8, torch.int16):
            raise CodecError(f"Symbols are int8 or int16, not {latent.symbols.dtype}; decode what `encode` made.")
        channels, *grid = latent.symbols.shape
        if tuple(grid) != grid_shape(size, self.config.cell) or not 1 <= channels <= self.config.latent_channels:
            raise CodecError(
                f"Symbols of shape {tuple(latent.symbols.shape)} are not those of a signal {latent.original_shape} of "
                f"{self.spec.name}; decode latents as `encode` or `unpack` made them."
            )
        x = self._samples(latent, size)
        return restore(x, latent.level) if latent.level else x

    def _samples(self, latent: Latent, size: tuple[int, ...]) -> Tensor:
        if self._fast.decodes and self._device.type == "cpu":
            return self._fast.samples(latent.symbols, latent.step, size)
        stripes = self._stripes(latent)
        first = next(stripes)
        if first.shape[1] == size[0]:
            return first
        out, row = torch.empty((len(first), *size)), 0
        for stripe in chain((first,), stripes):
            out[:, row : (row := row + stripe.shape[1])] = stripe
        return out

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        # Without a `Latent` in between: what that holds beside symbols takes some percent of a small picture's time.
        symbols, shape, level = self._levelled(x)
        return self._contain(symbols, shape, level, self.codec_id, self._stored_step, bit_depth)

    def pack(self, latent: Latent, bit_depth: int = 8) -> bytes:
        shape, level = latent.original_shape, latent.level
        return self._contain(latent.symbols, shape, level, latent.codec_id, latent.step, bit_depth)

    def _contain(
        self, symbols: Tensor, shape: tuple[int, ...], level: tuple[float, ...], codec_id: str, step: float, depth: int
    ) -> bytes:
        codes, coder = symbols.numpy(), backend(self.entropy, self.config.ndim)
        wide, payload = codes.dtype == np.int16, coder.encode(codes)
        return Container(codec_id, step, shape, len(codes), depth, coder.number, wide, payload, level).pack()

    def unpack(self, blob: bytes) -> Latent:
        container = Container.unpack(blob)
        if container.codec_id != self.codec_id:
            raise BitstreamError(
                f"The container was written by codec {container.codec_id}, not by {self._name} ({self.codec_id}); "
                "decode it with the codec that wrote it."
            )
        if len(container.shape) != self.config.ndim + 1 or container.shape[0] != self.config.channels:
            raise BitstreamError(f"The container's shape {container.shape} is not a signal of {self._name}.")
        if not 0 < container.parameter < float("inf"):
            raise BitstreamError(f"The container's step is {container.parameter}, which no codec writes.")
        if not 1 <= container.channels <= self.config.latent_channels:
            raise BitstreamError(f"The container holds {container.channels} channels; {self._name} makes no such.")
        if bool(container.level) != (self.config.level == "peak"):
            raise BitstreamError(f"The container does not tell the level of its signal as those of {self._name} do.")
        shape = (container.channels, *grid_shape(container.shape[1:], self.config.cell))
        dtype = np.dtype(np.int16 if container.wide else np.int8)
        symbols = backend_by_number(container.backend).decode(container.payload, shape, dtype)
        return self._latent(torch.from_numpy(symbols), container.shape, container.parameter, container.level)

    def _decompress(self, blob: bytes) -> Tensor:
        return self._decode(self.unpack(blob))

    def save(self, folder: str | Path, card: str) -> None:
        """Write `config.json`, `model.safetensors` and the model card."""
        config = asdict(self.config) | {"codec_id": self.codec_id}
        hub.save(folder, config, dict(self.state_dict()), card)


_QUANTIZED = 1 << 20  # latents at a time, where memory is to stay flat
_FINEST = 1e-30  # step, with which weights divided by it are still numbers


def _check_step(step: float) -> float:
    if not (isinstance(step, (int, float)) and _FINEST <= step <= 1 / _FINEST):
        raise CodecError(f"The quantization step must be a positive number, {_FINEST} or more, not {step!r}.")
    return float(step)


def _check_channels(channels: int, config: WaveletConfig) -> int:
    if not (isinstance(channels, int) and 1 <= channels <= config.latent_channels):
        raise CodecError(f"channels must be a whole number from 1 to {config.latent_channels}, not {channels!r}.")
    return channels


def _check_rdo(rdo: float) -> float:
    if not (isinstance(rdo, (int, float)) and 0 <= rdo <= 100):
        raise CodecError(f"rdo, the strength of rate-distortion optimisation, must be 0 to 100, not {rdo!r}.")
    return float(rdo)


def _check_decoder(decoder: str, config: WaveletConfig) -> str:
    if decoder != config.decoder and not (decoder == "linear" and config.decoder == "light"):
        usable = "linear or light" if config.decoder == "light" else config.decoder
        raise CodecError(f"This codec decodes by decoder={usable}, not by {decoder!r}.")
    return decoder


def load_wavelet_codec(
    name: str,
    folder: Path,
    step: float | None = None,
    channels: int | None = None,
    rdo: float | None = None,
    entropy: str | None = None,
    decoder: str | None = None,
    peak: float | None = None,
) -> WaveletCodec:
    """A `WaveletCodec` from a folder of config.json and model.safetensors; the options are those of the class."""
    raw, tensors = hub.load(folder)
    try:
        known = {field.name for field in fields(WaveletConfig)}
        config = WaveletConfig(**{key: value for key, value in raw.items() if key in known})
        config = replace(config, latent_mean=tuple(config.latent_mean), latent_std=tuple(config.latent_std))
        codec = WaveletCodec(config, name, step, channels, rdo, entropy, decoder, peak)
        codec.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise CmlError(f"{folder} does not hold a wavelet codec: {str(error).splitlines()[0]}.") from error
    return codec
