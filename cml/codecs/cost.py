"""What a codec costs, computed from its config alone: operations, parameters and bytes moved, stage by stage.

    encode: transform --> encoder --> quantizer --> entropy coder
    decode: entropy decoder --> dequantizer --> decoder --> inverse transform

Everything is per *position* of the signal, all of its channels together: a pixel of a picture, an instant of sound, a
voxel. One multiplication, with an addition or without, is one MAC; an addition, comparison or function such as erf
that belongs to no multiplication is one `addition`. Left out are borders, what is done once a signal, and beside the
products of a network its biases, activations and normalizations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from cml.codecs.architecture import WaveletConfig, make_decoder, make_encoder
from cml.codecs.base import Codec
from cml.codecs.factorized import choose_groups
from cml.codecs.quantize import make_quantizer

NOMINAL_POSITIONS = 2**20
"""Positions of the signal for which costs are given: a picture of 1024x1024."""

COST_COLUMNS = ("MACs a pixel, encoder", "decoder", "parameters, encoder", "decoder")

_FLOAT = 4  # bytes
_STEPS = 4  # lifting steps of the CDF 9/7 filters: each two additions and one multiplication a pair of samples
_HEAD_UNIT, _EXPANSION = 32, 6  # of the attention decoder
_RESIDUAL_BLOCKS = 5
_UNITS, _TAPS = 3, 129  # residual units a stage, and the filter, of the oobleck decoder


@dataclass(frozen=True)
class StageCost:
    """One stage, per position of the signal.

    Attributes:
        name: `transform`, `encoder`, `quantizer`, `entropy coder`, or `entropy decoder`, `dequantizer`, `decoder`,
            `inverse transform`.
        macs: multiplications, most of them with an addition.
        additions: other operations.
        parameters: learned numbers of the stage.
        bytes: what it reads and writes where each stage runs by itself: float32 between stages, a byte a sample and
            a symbol at the ends, at most a byte a symbol in the bitstream; once each, caches cannot save these.
    """

    name: str
    macs: float
    additions: float
    parameters: int
    bytes: float


def encode_costs(config: WaveletConfig) -> list[StageCost]:
    """The stages from 8-bit samples to bytes."""
    # There are as many packet values as samples.
    samples, latents = config.channels, _latents(config)
    macs = encoder_macs(config) / _cell(config)
    products, others = _quantizer_operations(config)
    return [
        _transform("transform", config, (1 + _FLOAT) * samples, config.encoder != "linear"),
        StageCost("encoder", macs, 0, _parameters(make_encoder, config), _FLOAT * (samples + latents)),
        StageCost(
            "quantizer", latents * products, latents * others, _quantizer_parameters(config), (_FLOAT + 1) * latents
        ),
        StageCost("entropy coder", 0, 0, 0, 2 * latents),
    ]


def decode_costs(config: WaveletConfig, positions: int = NOMINAL_POSITIONS) -> list[StageCost]:
    """The stages from bytes to float32 samples.

    Args:
        config: of the codec.
        positions: of the signal; only the softmax attention of the `residual` decoder costs more on larger signals.
    """
    samples, latents = config.channels, _latents(config)
    macs = decoder_macs(config, positions) / _cell(config)
    expands = config.quantizer != "uniform"
    return [
        StageCost("entropy decoder", 0, 0, 0, 2 * latents),
        StageCost(
            "dequantizer",
            latents * (1 + 2 * expands),
            latents * expands,
            _quantizer_parameters(config),
            (1 + _FLOAT) * latents,
        ),
        StageCost("decoder", macs, 0, _parameters(make_decoder, config), _FLOAT * (latents + samples)),
        _transform("inverse transform", config, 2 * _FLOAT * samples, config.decoder != "linear"),
    ]


def cost_summary(config: WaveletConfig) -> dict[str, float]:
    """The cost in four numbers, for tables of results: MACs a position, and parameters, to encode and to decode."""
    encode, decode = encode_costs(config), decode_costs(config)
    return {
        "encode_macs": sum(stage.macs for stage in encode),
        "decode_macs": sum(stage.macs for stage in decode),
        "encode_parameters": sum(stage.parameters for stage in encode),
        "decode_parameters": sum(stage.parameters for stage in decode),
    }


def config_of(codec: Codec) -> WaveletConfig | None:
    """The config of a codec with the options in force that change its cost; None for a codec without one."""
    config = getattr(codec, "config", None)
    if not isinstance(config, WaveletConfig):
        return None
    settings = codec.spec.settings
    return replace(config, rdo=settings["rdo"], decoder=settings.get("decoder", config.decoder))


def codec_cost(codec: Codec) -> dict[str, float]:
    """`cost_summary` of a codec; empty for one without a config, whose library does not say."""
    config = config_of(codec)
    return {} if config is None else cost_summary(config)


def cost_cells(codec: Codec) -> list[str]:
    """`codec_cost` as cells of a table with the columns `COST_COLUMNS`; empty ones where there is none."""
    summary = codec_cost(codec)
    if not summary:
        return [""] * len(COST_COLUMNS)
    macs = [f"{summary[key]:.4g}" for key in ("encode_macs", "decode_macs")]
    return [*macs, *(f"{summary[key]:.0f}" for key in ("encode_parameters", "decode_parameters"))]


def fused_bytes(config: WaveletConfig) -> float:
    """Bytes a position that an encoder in one pass cannot save: 8-bit samples in, a byte a symbol out."""
    return config.channels + _latents(config)


def encoder_macs(config: WaveletConfig) -> int:
    """MACs of the encoder a position of the latents, without the transform."""
    packets, c = config.packet_channels, config.latent_channels
    if config.encoder == "linear":
        return packets * c
    # The products of the squeeze-excite are on one mean a signal.
    return config.encoder_depth * 2 * _factorized(packets, packets) + _factorized(packets, c)


def decoder_macs(config: WaveletConfig, positions: int = NOMINAL_POSITIONS) -> int:
    """MACs of the decoder a position of the latents, without the inverse transform."""
    packets, c = config.packet_channels, config.latent_channels
    width, depth, taps = config.decoder_width, config.decoder_depth, 3**config.ndim
    if config.decoder == "linear":
        return packets * c
    if config.decoder == "light":
        blocks = depth * 2 * taps * width**2
        return packets * c + taps * c * width + blocks + width * packets
    if config.decoder == "attention":
        inner, wide = packets // _HEAD_UNIT * _HEAD_UNIT, _EXPANSION * packets
        attention = 4 * packets * inner + 2 * inner**2 + inner
        return _factorized(c, packets) + depth * (attention + 2 * packets * wide + taps * wide)
    if config.decoder == "residual":
        grid = positions // _cell(config)
        attention = 4 * width**2 + 2 * grid * width
        return taps * (c * width + width * packets + _RESIDUAL_BLOCKS * 2 * width**2) + attention
    stages = 2 * width**2 + _UNITS * 8 * width**2 + 2 * width * c + _UNITS * 8 * c**2
    ends = 7 * (c * width + c * packets) + _TAPS * config.channels * packets
    # Its filter works on the waveform, between another inverse transform and another transform.
    return stages + ends + 2 * packets * _STEPS * config.axis_levels[0] // 2


def _factorized(inputs: int, outputs: int) -> int:
    """Weights of a factorized 1x1 convolution."""
    first, second = choose_groups(inputs, outputs)
    return inputs**2 // first + inputs * outputs // second


def _cell(config: WaveletConfig) -> int:
    """Positions of the signal behind one of the latents."""
    return math.prod(config.cell)


def _latents(config: WaveletConfig) -> float:
    """Latent values a position of the signal."""
    return config.latent_channels / _cell(config)


def _transform(name: str, config: WaveletConfig, moved: float, scaled: bool) -> StageCost:
    """The lifting: each step of a split is one MAC and one more addition a pair, half of that a sample.

    The gains of all levels are one multiplication a sample, or none where a matrix behind them takes them in.
    """
    splits = config.channels * sum(config.axis_levels)
    steps = splits * _STEPS / 2
    return StageCost(name, steps + (config.channels if scaled and splits else 0), steps, 0, moved)


def _quantizer_operations(config: WaveletConfig) -> tuple[int, int]:
    """MACs and other operations a latent value: the step, rounding, companding, rate-distortion optimisation."""
    macs, others = 1, 1
    if config.quantizer != "uniform":
        macs, others = macs + 2, others + 1
    if config.rdo:
        # The mean magnitude around each symbol, a threshold from it, and rounding by that.
        macs, others = macs + 2, others + 3**config.ndim + 4
    return macs, others


def _parameters(make: Callable[[WaveletConfig], nn.Module], config: WaveletConfig) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in make(config).parameters())


def _quantizer_parameters(config: WaveletConfig) -> int:
    module = make_quantizer(config.quantizer, config.latent_channels, config.bits)
    return sum(p.numel() for p in module.parameters())
