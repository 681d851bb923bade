"""Reading the checkpoints of the `walloc` and `livecodec` packages into a `WaveletCodec`.

"walloc:RGB_16x.pth"          with RGB_16x.json beside it (WaLLoC, DCC 2025; huggingface.co/danjacobellis/walloc)
"livecodec:lsdir_f16c48.pth"  (LiVeAction, DCC 2026; huggingface.co/danjacobellis/liveaction, .../autocodec)

Neither package is needed: tensors are renamed, and what differs in convention is folded into them. The signal of
walloc lies in [-0.5, 0.5], ours in [-1, 1]; its sound encoder codes one position of padding at either end, a constant
that our decoder holds instead.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cml import hub
from cml.codecs import wavelet
from cml.codecs.architecture import WaveletConfig
from cml.codecs.neural import WaveletCodec
from cml.codecs.quantize import GaussianCdf
from cml.errors import CmlError, CodecError

State = dict[str, Tensor]
Rules = list[tuple[str, str]]

# Inert classes that the published files hold beside their tensors: the settings of the training notebooks.
_SCALAR = np.float64(0).__reduce__()[0]
_INERT = [
    SimpleNamespace,
    *((SimpleNamespace, f"__main__.{name}") for name in ("Config", "Args")),
    np.dtype,
    *(type(np.dtype(code)) for code in ("f4", "f8", "i8")),
    *((_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
]

_TRANSFORM = re.compile(r"(wt|iwt|wpt|iwpt)\.")
_WALLOC_RULES: Rules = [
    (r"^encoder\.0\.", "encoder."),
    (r"^decoder\.1\.", "decoder."),
    (r"^post\.", "decoder.post_filter."),
]
_RESIDUAL_RULES: Rules = [
    (r"\.conv_in\.", ".enter."),
    (r"\.mid_block\.resnets\.0\.", ".blocks.0."),
    (r"\.mid_block\.attentions\.0\.", ".blocks.1."),
    (r"\.mid_block\.resnets\.1\.", ".blocks.2."),
    *((rf"\.up_blocks\.0\.resnets\.{i}\.", f".blocks.{i + 3}.") for i in range(3)),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_q\.", ".query."),
    (r"\.to_k\.", ".key."),
    (r"\.to_v\.", ".value."),
    (r"\.to_out\.0\.", ".project."),
    (r"\.conv_norm_out\.", ".norm."),
    (r"\.conv_out\.", ".leave."),
]
_OOBLECK_RULES: Rules = [
    *((rf"\.block\.{b}\.res_unit{u}\.", f".network.{2 + 5 * b + u}.body.") for b in (0, 1) for u in (1, 2, 3)),
    *((rf"\.block\.{b}\.snake1\.", f".network.{1 + 5 * b}.") for b in (0, 1)),
    *((rf"\.block\.{b}\.conv_t1\.", f".network.{2 + 5 * b}.") for b in (0, 1)),
    *((rf"\.body\.{name}\.", f".body.{i}.") for i, name in enumerate(("snake1", "conv1", "snake2", "conv2"))),
    (r"^decoder\.conv1\.", "decoder.network.0."),
    (r"^decoder\.snake1\.", "decoder.network.11."),
    (r"^decoder\.conv2\.", "decoder.network.12."),
    (r"\.alpha$", ".log_a"),
    (r"\.beta$", ".log_b"),
]
_LIVECODEC_RULES: Rules = [
    (r"\.gn([12])\.groupnorm\.", r".norm\1."),
    (r"\.se\.conv_(reduce|expand)\.", r".squeeze_excite.\1."),
    (r"\.context_module\.main\.", ".attention."),
    (r"\.proj\.conv\.", ".project."),
    (r"\.proj\.norm\.groupnorm\.", ".norm."),
    *(
        (rf"\.local_module\.main\.{name}\.{part}\.", f".local.{3 * i + offset}.")
        for i, name in enumerate(("inverted_conv", "depth_conv", "point_conv"))
        for offset, part in enumerate(("conv", r"norm\.groupnorm"))
    ),
    (r"^encoder_blocks\.", "encoder.blocks."),
    (r"^conv_down\.", "encoder.down."),
    (r"^quantize\.compand\.", "quantizer."),
    (r"^conv_up\.", "decoder.up."),
    (r"^decoder_blocks\.blocks\.", "decoder.blocks."),
]


def load_published(name: str, step: float | None = None, entropy: str | None = None) -> WaveletCodec:
    """The codec of a published checkpoint.

    The statistics of its latents are not published: mean 0 and the deviation of a uniform distribution over the
    symbols stand in for them.

    Args:
        name: "walloc:FILE" or "livecodec:FILE".
        step: quantization step of the companded latents; None for the published 1.
        entropy: entropy back-end; None for the default.

    Raises:
        CodecError: an architecture that this reader does not cover.
        CmlError: a file that is missing, unsafe to read, or not such a checkpoint.
    """
    package, _, path = name.partition(":")
    config, state = READERS[package](Path(path))
    codec = WaveletCodec(config, name, step, entropy=entropy)
    try:
        codec.load_state_dict(state)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip().rstrip(".")
        raise CmlError(
            f"The tensors of {path} are not those of a {package} codec with its settings: {detail}."
        ) from error
    return codec


def load_walloc(path: Path) -> tuple[WaveletConfig, State]:
    """Configuration and weights of a checkpoint of `walloc.Codec2D`, `LinearCodec2D` or `Codec1D`."""
    checkpoint = hub.read_checkpoint(path, *_INERT)
    settings = _settings(path.with_suffix(".json"))
    state = _tensors(checkpoint, "model_state_dict", path)
    if "encoder.0.weight" not in state:
        raise CodecError(f"{path} has walloc's full or residual encoder; only the lightweight one (1x1) can be read.")
    with _described(path):
        channels, levels, bits = (int(settings[key]) for key in ("channels", "J", "latent_bits"))
        weight = state["encoder.0.weight"]
        if "decoder.1.conv_in.weight" in state:
            decoder, width = "residual", len(state["decoder.1.conv_in.bias"])
            state = _rename(state, _WALLOC_RULES + _RESIDUAL_RULES)
            last = ["decoder.leave.weight", "decoder.leave.bias"]
        elif "decoder.1.conv1.bias" in state:
            decoder, width = "oobleck", len(state["decoder.1.conv1.bias"])
            state = _oobleck(state, channels, bits)
            last = ["decoder.network.12.weight", "decoder.post_filter.bias"]
        else:
            decoder, width = "linear", 0
            state = _rename(state, _WALLOC_RULES)
            state["decoder.weight"] = state["decoder.weight"].flatten(1)
            last = ["decoder.weight", "decoder.bias"]
        state["encoder.weight"] = state["encoder.weight"].flatten(1) / 2
        for key in last:
            state[key] = state[key] * 2
    c = len(weight)
    config = WaveletConfig(
        ndim=weight.dim() - 2,
        channels=channels,
        levels=levels,
        latent_channels=c,
        latent_mean=(0.0,) * c,
        latent_std=(GaussianCdf(bits).limit / 3**0.5,) * c,
        step=1.0,
        quantizer="gaussian",
        bits=bits,
        decoder=decoder,
        decoder_width=width,
        boundary="periodic",
        provenance={"package": "walloc", "file": path.name},
    )
    return config, state


def load_livecodec(path: Path) -> tuple[WaveletConfig, State]:
    """Configuration and weights of a checkpoint of `livecodec.AutoCodecND`."""
    checkpoint = hub.read_checkpoint(path, *_INERT)
    state = _tensors(checkpoint, "state_dict", path)
    settings = checkpoint.get("config")
    settings = settings if isinstance(settings, dict) else vars(settings or SimpleNamespace())
    with _described(path):
        down, channels = state["conv_down.conv1.weight"], int(settings["input_channels"])
        ndim, packets, c = down.dim() - 2, len(down), len(state["quantize.compand.sigma"])
    if any(key.startswith("encoder_blocks.blocks.") for key in state) or "decoder_blocks.0.conv1.conv1.weight" in state:
        raise CodecError(f"{path} has livecodec's heavy encoder or light decoder; only the published pairing is read.")
    if any(key.startswith("encoder_blocks.") and state[key].shape[2:].numel() > 1 for key in state):
        raise CodecError(f"{path} has an encoder of larger kernels; only the published kernel of 1 is read.")
    config = WaveletConfig(
        ndim=ndim,
        channels=channels,
        levels=round(np.log2(packets / channels) / ndim),
        latent_channels=c,
        latent_mean=(0.0,) * c,
        latent_std=(127 / 3**0.5,) * c,
        step=1.0,
        encoder="factorized",
        encoder_depth=_count(state, r"encoder_blocks\.(\d+)\."),
        quantizer="laplace",
        decoder="attention",
        decoder_depth=_count(state, r"decoder_blocks\.blocks\.(\d+)\."),
        boundary="periodic",
        provenance={"package": "livecodec", "file": path.name},
    )
    state = _rename(state, _LIVECODEC_RULES)
    state["encoder.order"] = state["decoder.order"] = _livecodec_order(config)
    return config, state


READERS = {"walloc": load_walloc, "livecodec": load_livecodec}


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text())
    except OSError as error:
        raise CmlError(f"The settings {path} are missing; download them to beside the checkpoint.") from error
    except ValueError as error:
        raise CmlError(f"The settings {path} are not JSON: {error}.") from error
    if not isinstance(settings, dict):
        raise CmlError(f"The settings {path} are not a JSON object.")
    return settings


def _tensors(checkpoint: Mapping[str, Any], key: str, path: Path) -> State:
    """The weights under a key, without the filters of the wavelet transform, which are ours."""
    state = checkpoint.get(key)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CmlError(f"{path} holds no {key!r} of tensors; is it a checkpoint of another package?")
    return {name: tensor.float() for name, tensor in state.items() if not _TRANSFORM.match(name)}


@contextmanager
def _described(path: Path) -> Iterator[None]:
    """Turns a key or a number that is not there into one sentence."""
    try:
        yield
    except (LookupError, TypeError, ValueError) as error:
        raise CmlError(f"The weights or settings of {path} lack or garble {error}.") from error


def _rename(state: State, rules: Rules) -> State:
    """Every key after all rules, in their order; a key that none fits stays, and loading then refuses it."""

    def renamed(key: str) -> str:
        for pattern, replacement in rules:
            key = re.sub(pattern, replacement, key)
        return key

    return {renamed(key): tensor for key, tensor in state.items()}


def _oobleck(state: State, channels: int, bits: int) -> State:
    """Renamed, with the weight normalization multiplied out and the transposed convolutions turned round."""
    state = _rename(dict(_without_weight_norm(state)), _WALLOC_RULES + _OOBLECK_RULES)
    for key in ("decoder.network.2.weight", "decoder.network.7.weight"):
        state[key] = state[key].transpose(0, 1).flip(2).contiguous()
    if "decoder.post_filter.weight" not in state:
        state["decoder.post_filter.weight"] = torch.nn.init.dirac_(torch.empty(channels, channels, 129))
        state["decoder.post_filter.bias"] = torch.zeros(channels)
    quantizer = GaussianCdf(bits)
    state["decoder.edge"] = quantizer.expand(quantizer.compand(state["encoder.bias"]).round())[:, None]
    return state


def _without_weight_norm(state: State) -> Iterator[tuple[str, Tensor]]:
    for key, tensor in state.items():
        if key.endswith(".weight_v"):
            gain = state[key.removesuffix("v") + "g"]
            yield key.removesuffix("_v"), gain * tensor / tensor.norm(dim=(1, 2), keepdim=True)
        elif key.endswith((".alpha", ".beta")):
            yield key, tensor[0]
        elif not key.endswith(".weight_g"):
            yield key, tensor


def _livecodec_order(config: WaveletConfig) -> Tensor:
    """Which of our packets is each of theirs: only their 3-D transform has an order of its own.

    It takes the first n of the 8 n bands of a level for the lowest bands of the n channels, and the others, in groups
    of seven, for their details.
    """
    order = torch.arange(config.channels)
    if config.ndim < 3:
        return torch.arange(config.packet_channels)
    for _ in wavelet.rounds(config.levels, config.ndim):
        n = len(order)
        bands = (order[:, None] * 8 + torch.arange(8)).flatten()
        order = torch.cat((bands[:n, None], bands[n:].view(n, 7)), 1).flatten()
    return order


def _count(state: State, pattern: str) -> int:
    """How many blocks there are, from the numbers in the keys."""
    return len({match[1] for match in (re.match(pattern, key) for key in state) if match})
