"""`adapt`: a classifier that reads what a codec stores, latents or pixels, at a chosen number of tokens."""

import math

from torch import nn

from cml.codecs.base import CodecSpec
from cml.codecs.geometry import grid_shape
from cml.errors import CmlError
from cml.models.backbones import StemShape, build


def stem_shape(channels: int, cell: int, size: tuple[int, int], patch: int) -> StemShape:
    """The stem that gives one token for `patch` samples of the signal along each axis.

    Args:
        channels: of the model's input.
        cell: samples of the signal along each axis behind one position of the input: 1 for pixels, F for latents.
        size: (height, width) of the signal.
        patch: samples of the signal a token.
    """
    if patch % cell or patch < cell:
        raise CmlError(
            f"A patch of {patch} samples is not a multiple of the {cell} samples behind one input position; "
            f"take a patch of {cell * max(1, math.ceil(patch / cell))}."
        )
    grid = grid_shape(size, cell)
    if min(grid) < patch // cell:
        raise CmlError(
            f"A patch of {patch} samples is larger than a signal of {size[0]}x{size[1]}; take a smaller one."
        )
    return StemShape(channels, (grid[0], grid[1]), patch // cell)


def adapt(
    backbone: str,
    spec: CodecSpec,
    num_classes: int,
    *,
    size: int | tuple[int, int] = 224,
    patch: int = 16,
    channels: int = 3,
) -> nn.Module:
    """A classifier whose stem reads a codec's normalized latents, or pixels where the codec has none.

        Latent.to_float() (c, *grid) --stem: patch/F x patch/F convolution--> tokens --backbone--> logits

    Args:
        backbone: "cml:small" or "timm:NAME".
        spec: of the codec whose latents are read (`codec.spec`).
        num_classes: size of the output.
        size: side, or (height, width), of the signals that were encoded.
        patch: samples of the signal a token, along each axis; tokens, and so the backbone's cost, are then the same
            for pixels and for the latents of every codec.
        channels: of the pixels, where the codec has no latents.

    Raises:
        CmlError: the patch is not a multiple of the codec's, or the backbone cannot read the grid.
    """
    size = (size, size) if isinstance(size, int) else size
    if spec.latent_channels is not None and spec.patch is not None:
        stem = stem_shape(spec.latent_channels, spec.patch, size, patch)
    else:
        stem = stem_shape(channels, 1, size, patch)
    return build(backbone, stem, num_classes)[0]
