"""`adapt`: a model that reads what a codec stores, latents or pixels, at a chosen number of tokens."""

import math
from typing import Any

import torch
from torch import nn

from cml.codecs.base import Codec, CodecSpec
from cml.codecs.geometry import grid_shape
from cml.errors import CmlError
from cml.models.backbones import StemShape, build
from cml.models.features import as_features, build_features
from cml.models.fold import fold_model
from cml.models.pretrained import load_pretrained

_PATCHES = {1: 1024, 2: 16}
_CHANNELS = {1: 1, 2: 3}
"""Of what has no latents, by its axes."""


def stem_shape(channels: int, cell: int, size: tuple[int, ...], patch: int) -> StemShape:
    """The stem that gives one token for `patch` samples of the signal along each axis.

    Args:
        channels: of the model's input.
        cell: samples of the signal along each axis behind one position of the input: 1 for pixels, F for latents.
        size: (height, width) of a picture, (samples,) of a sound.
        patch: samples of the signal a token.
    """
    if patch % cell or patch < cell:
        raise CmlError(
            f"A patch of {patch} samples is not a multiple of the {cell} samples behind one input position; "
            f"take a patch of {cell * max(1, math.ceil(patch / cell))}."
        )
    grid = grid_shape(size, cell)
    if min(grid) < patch // cell:
        shown = "x".join(map(str, size))
        raise CmlError(f"A patch of {patch} samples is larger than a signal of {shown}; take a smaller one.")
    return StemShape(channels, grid, patch // cell)


def adapt(
    backbone: str,
    codec: Codec | CodecSpec,
    num_classes: int | None = None,
    *,
    size: int | tuple[int, ...] | None = None,
    patch: int | None = None,
    channels: int | None = None,
    features: bool = False,
    pretrained: bool = False,
) -> nn.Module:
    """A model whose stem reads a codec's normalized latents, or pixels where the codec has none.

        Latent.to_float() (c, *grid) --stem: convolution over patch/F along each axis--> tokens --backbone--> logits

    With `pretrained` the weights come with the model, and its own first layer is folded with the codec's linear decoder
    (see `cml.models.fold`; `fold_model` does it to a model that is built already): what the model has learned of pixels
    holds for latents, tokens are those of the pixel model, and no decoder runs. Pictures are of its own size, its
    positions resampled where another is asked for.

    Args:
        backbone: of sound "cml:sound"; of pictures "cml:small", "timm:NAME" (vision transformers, ConvNeXts, ResNets,
            EfficientNets, Swins, MaxViTs), or "hf:NAME" and "hf:FOLDER" (ViT, DeiT, DINOv2, BEiT, Swin, SegFormer, the
            encoders of TrOCR and Donut); with `pretrained` also "timm:FOLDER" and "efficientnet-lite0".
        codec: whose latents are read, or its spec (`codec.spec`).
        num_classes: size of the output; None for the classes of a pretrained model, or with `features`.
        size: side, or (height, width), of the pictures that were encoded; None for 224, or the pretrained model's. Of
            sound its samples, which must be given.
        patch: samples of the signal a token, along each axis; None for 16, of sound 1024. Tokens, and so the backbone's
            cost, are then the same for samples and for the latents of every codec.
        channels: of the samples, where the codec has no latents; None for 3, of sound 1.
        features: return the pyramid, a `cml.models.features.Features`, in place of a classifier.
        pretrained: with weights, in evaluation mode.

    Returns:
        The model. `unstrided` holds the paths of layers whose stride would have emptied the grid, and is gone.

    Raises:
        CmlError: the patch is not a multiple of the codec's, the backbone cannot read the grid, or weights are missing.
    """
    spec = codec.spec if isinstance(codec, Codec) else codec
    sides = (size,) * spec.ndim if isinstance(size, int) else size
    if spec.ndim not in _PATCHES:
        raise CmlError(f"{spec.name} has signals of {spec.ndim} axes; models read sound and pictures.")
    if sides is not None and len(sides) != spec.ndim:
        raise CmlError(
            f"{spec.name} has signals of {spec.ndim} axes, so their size is {spec.ndim} numbers, not {sides}."
        )
    if sides is None and spec.ndim == 1:
        raise CmlError("How long is the sound? Give size, its samples.")
    if num_classes is None and not (features or pretrained):
        raise CmlError("How many classes? Give num_classes, or ask for features.")
    if pretrained:
        if patch is not None:
            raise CmlError("A pretrained model has the patch that it was trained with: leave out the patch.")
        return _pretrained(backbone, codec, 0 if features else num_classes, sides, features)
    cell = spec.patch if spec.latent_channels is not None and spec.patch is not None else 1
    count = spec.latent_channels or channels or _CHANNELS[spec.ndim]
    stem = stem_shape(count, cell, sides or (224, 224), patch or _PATCHES[spec.ndim])
    if features:
        return build_features(backbone, stem, cell)[0]
    return build(backbone, stem, num_classes or 0)[0]


def _pretrained(
    backbone: str, codec: Codec | CodecSpec, num_classes: int | None, sides: tuple[int, ...] | None, features: bool
) -> nn.Module:
    codec = _made(codec)
    spec = codec.spec
    if spec.ndim != 2:
        raise CmlError("Pretrained models read pictures; of sound there are none.")
    size = None if sides is None else (sides[0], sides[1])
    if spec.latent_channels is None or spec.patch is None:
        raise CmlError(f"{spec.name} has no latents to adapt a pretrained model to; feed it the decoded pictures.")
    family, _, name = backbone.partition(":")
    if family == "hf":
        from cml.models.encoders import load_hf

        model, size = load_hf(name, codec, num_classes, size)
    elif family == "cml":
        raise CmlError(f"{backbone} comes without weights; timm:NAME, hf:NAME and efficientnet-lite0 have some.")
    else:
        loaded = load_pretrained(backbone)
        pixels: Any = loaded.model
        if size is not None and size != loaded.size and hasattr(pixels, "set_input_size"):
            pixels.set_input_size(img_size=size)
        size = size or loaded.size
        if num_classes is not None:
            pixels.reset_classifier(num_classes)
        model = fold_model(pixels, loaded.stem, codec, loaded.mean, loaded.std)
    grid = grid_shape(size, spec.patch)
    stem = StemShape(spec.latent_channels, (grid[0], grid[1]), 1)
    if features:
        model = as_features(model, stem, spec.patch, backbone)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, stem.channels, *stem.grid))
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CmlError(
            f"{backbone} cannot read signals of {size[0]}x{size[1]} ({str(error).splitlines()[0]}); leave out the size."
        ) from error
    return model


def _made(codec: Codec | CodecSpec) -> Codec:
    """The codec of a spec: folding needs its weights."""
    if isinstance(codec, Codec):
        return codec
    from cml.codecs.factory import create_codec

    made = create_codec(codec.name)
    if made.spec.codec_id != codec.codec_id:
        raise CmlError(f"{codec.name} names another codec by now than the one of this spec; give the codec itself.")
    return made
