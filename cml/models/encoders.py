"""Vision encoders of transformers: `hf:NAME` from the hub, `hf:FOLDER` from a folder with config.json.

    input (c, *grid) --stem--> token map (width, *tokens) --encoder, its own patch convolution taken out--> tokens

The encoder is made for the token map, as pictures of `width` channels and patches of 1, so that position grid, windows
and checks of size are those of the tokens, whatever the codec. Encoders of TrOCR and Donut are those of their model.
"""

import copy
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cml.codecs.base import Codec
from cml.errors import CmlError
from cml.models.backbones import StemShape
from cml.models.fold import fold
from cml.models.strides import unstride

FAMILIES = ("vit", "deit", "dinov2", "beit", "swin", "donut-swin", "segformer")
_USUAL_SIZE = 224  # of encoders without positions, which say none


class VisionEncoder(nn.Module):
    """An encoder of transformers behind a stem of cml's.

    Args:
        stem: (B, c, *grid) to the token map (B, width, *tokens).
        encoder: of transformers, for that map; with a classifier of its own where `head` is None.
        head: mean over the tokens to logits.
    """

    unstrided: tuple[str, ...] = ()

    def __init__(self, stem: nn.Module, encoder: nn.Module, head: nn.Module | None):
        super().__init__()
        self.stem, self.encoder, self.head = stem, encoder, head

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x)
        out = self.encoder(pixel_values=tokens)
        if self.head is None:
            return out.logits
        last = out.last_hidden_state
        if last.dim() == 4:
            last = last.flatten(2).transpose(1, 2)
        # Class and register tokens come first; hierarchical encoders have none.
        return self.head(last[:, -tokens[0, 0].numel() :].mean(1))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """What leaves each layer or stage, (B, C, h, w) each."""
        tokens = self.stem(x)
        out = self.encoder(pixel_values=tokens, output_hidden_states=True)
        maps = getattr(out, "reshaped_hidden_states", None)
        if maps is None:
            maps = out.hidden_states
        size = tokens.shape[2:]
        return [
            y if y.dim() == 4 else y[:, -size.numel() :].transpose(1, 2).unflatten(2, size)
            for y in maps[int(maps[0].shape == maps[1].shape) :]  # the first repeats the stem
        ]

    def prune_intermediate_layers(self, prune_norm: bool, prune_head: bool) -> None:
        """Drop the layers that maps do without, as timm's method of this name does."""
        encoder: Any = self.encoder
        if prune_norm and hasattr(encoder, "layernorm"):
            encoder.layernorm = nn.Identity()
        if prune_head:
            self.head = nn.Identity()


class _AsIs(nn.Module):
    """In place of a patch convolution; encoders ask it for the type of its weights."""

    weight: Tensor

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.empty(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x


def build_hf(name: str, stem: StemShape, num_classes: int) -> tuple[nn.Module, str]:
    """A vision encoder with random weights behind a patch convolution, and a linear classifier."""
    from transformers import AutoModel

    config = _vision(name, _config(name))
    tokens = (stem.grid[0] // stem.patch, stem.grid[1] // stem.patch)
    convolution = nn.Conv2d(stem.channels, _width(config), stem.patch, stem.patch)
    try:
        encoder = _for_tokens(AutoModel.from_config(_tokens_config(config, tokens)))
        model = VisionEncoder(convolution, encoder, _head(config, num_classes))
        model.unstrided = unstride(model, "stem", torch.zeros(1, stem.channels, *stem.grid))
    except (RuntimeError, ValueError, TypeError, ArithmeticError, LookupError) as error:
        raise CmlError(
            f"hf:{name} cannot read a grid of {stem.grid[0]}x{stem.grid[1]} at patch {stem.patch} "
            f"({str(error).splitlines()[0]}); take a larger signal or a smaller patch."
        ) from error
    return model.train(), "stem"


def load_hf(
    name: str, codec: Codec, num_classes: int | None, size: tuple[int, int] | None
) -> tuple[nn.Module, tuple[int, int]]:
    """A trained vision encoder that reads latents: its patch convolution folded, positions resampled to the size.

    Args:
        name: hub or folder, with weights and preprocessor_config.json.
        codec: with a linear decoder.
        num_classes: of a new linear classifier; 0 for none, None for the classifier that comes with the weights.
        size: of the signals; None for the model's.

    Returns:
        The model, and the size of its signals.
    """
    from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, VisionEncoderDecoderModel

    whole = _config(name)
    config = _vision(name, whole)
    kind = AutoModel if num_classes is not None else AutoModelForImageClassification
    if config is not whole:
        if num_classes is None:
            raise CmlError(f"hf:{name} comes without a classifier; give num_classes, or ask for features.")
        kind = VisionEncoderDecoderModel
    try:
        processor = AutoImageProcessor.from_pretrained(name)
        source: Any = kind.from_pretrained(name)
    except Exception as error:  # whatever the hub, the network or a file of theirs raise
        raise _unreachable(name, error, "config.json, preprocessor_config.json and model.safetensors") from error
    source = source if config is whole else source.encoder
    old_size = _pair(getattr(config, "image_size", _USUAL_SIZE))
    size = size or old_size
    convolution = next(module for module in source.modules() if isinstance(module, nn.Conv2d))
    stem = fold(convolution, codec, tuple(processor.image_mean), tuple(processor.image_std))
    with torch.no_grad():
        old, new = (tuple(convolution(torch.zeros(1, 3, *n)).shape[2:]) for n in (old_size, size))
    encoder = _for_tokens(type(source)(_tokens_config(source.config, new)))
    state = {key: value for key, value in source.state_dict().items() if key in encoder.state_dict()}
    for key, value in state.items():
        if key.endswith("position_embeddings"):
            state[key] = _resample(value, old, new)
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise CmlError(
            f"hf:{name} has weights for pictures of {old_size[0]}x{old_size[1]} alone; leave out the size."
        ) from error
    head = None if num_classes is None else _head(config, num_classes)
    return VisionEncoder(stem, encoder, head).eval(), size


def _config(name: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(name)
    except Exception as error:  # as above
        raise _unreachable(name, error, "config.json") from error


def _vision(name: str, config: Any) -> Any:
    """The part of a model's config that describes its vision encoder."""
    config = config.encoder if config.model_type == "vision-encoder-decoder" else config
    if config.model_type not in FAMILIES:
        raise CmlError(f"hf:{name} is a {config.model_type}; the encoders that read latents are {', '.join(FAMILIES)}.")
    return config


def _tokens_config(config: Any, tokens: tuple[int, ...]) -> Any:
    config = copy.deepcopy(config)
    config.image_size, config.patch_size, config.num_channels = list(tokens), 1, _width(config)
    config.use_mask_token = False
    return config


def _width(config: Any) -> int:
    if config.model_type == "segformer":
        return config.hidden_sizes[0]
    return getattr(config, "embed_dim", None) or config.hidden_size


def _head(config: Any, num_classes: int) -> nn.Module:
    width = config.hidden_sizes[-1] if config.model_type == "segformer" else config.hidden_size
    return nn.Linear(width, num_classes) if num_classes else nn.Identity()


def _for_tokens(encoder: nn.Module) -> nn.Module:
    """Without its patch convolution and its pooler, and with the positions that it has."""
    path = next(path for path, module in encoder.named_modules() if isinstance(module, nn.Conv2d))
    encoder.set_submodule(path, _AsIs())
    if hasattr(encoder, "pooler"):
        encoder.pooler = None  # pyright: ignore[reportArgumentType]
    module: Any
    for module in encoder.modules():
        if hasattr(module, "interpolate_pos_encoding") and hasattr(module, "position_embeddings"):
            module.interpolate_pos_encoding = types.MethodType(_positions, module)
    return encoder


def _positions(self: Any, embeddings: Tensor, height: int, width: int) -> Tensor:
    return self.position_embeddings  # theirs takes every grid for square


def _resample(positions: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    prefix = positions.shape[1] - old[0] * old[1]
    grid = positions[:, prefix:].transpose(1, 2).unflatten(2, old)
    if old != new:
        grid = F.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    return torch.cat((positions[:, :prefix], grid.flatten(2).transpose(1, 2)), 1)


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _unreachable(name: str, error: Exception, files: str) -> CmlError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    here = "" if Path(name).is_dir() else ", check the name and the network"
    return CmlError(f"Cannot load hf:{name} ({reason}){here}, or bring {files} in a folder and give hf:FOLDER.")
