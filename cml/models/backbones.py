"""Backbones by name: `timm:NAME`, and `cml:small`, which trains in a minute on two cores.

A builder takes what the stem must read and returns a model and the path of its stem, the module in it that turns
inputs into tokens.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cml.errors import CmlError
from cml.registry import Registry

BACKBONES = Registry(
    "backbone", {"cml": "cml.models.backbones:build_cml", "timm": "cml.models.backbones:build_timm"}
)


@dataclass(frozen=True)
class StemShape:
    """What a stem reads.

    Attributes:
        channels: channels of the input.
        grid: (height, width) of the input, in positions.
        patch: positions a token, along each axis; kernel and stride of the stem.
    """

    channels: int
    grid: tuple[int, int]
    patch: int


def build(backbone: str, stem: StemShape, num_classes: int) -> tuple[nn.Module, str]:
    """A backbone and the path of its stem, by name: "cml:small" or "timm:NAME"."""
    family, _, name = backbone.partition(":")
    if not name:
        raise CmlError(f"A backbone is family:name, such as cml:small or timm:resnet18, not {backbone!r}.")
    return BACKBONES.get(family)(name, stem, num_classes)


class InvertedResidual(nn.Module):
    """x + (1x1 expand, 3x3 depthwise, 1x1 project), batch-normalized (Sandler et al., MobileNetV2, 2018)."""

    def __init__(self, width: int, expansion: int = 2):
        super().__init__()
        hidden = width * expansion
        self.body = nn.Sequential(
            nn.Conv2d(width, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class SmallNet(nn.Module):
    """The default backbone.

        input (c, *grid) --patch convolution--> tokens (48, *) --inverted residual--> --halve--> (96, *)
          --two inverted residuals--> mean over positions --> classes
    """

    def __init__(self, stem: StemShape, num_classes: int, widths: tuple[int, int] = (48, 96), depths: tuple[int, int] = (1, 2)):
        super().__init__()
        first, second = widths
        self.stem = nn.Conv2d(stem.channels, first, stem.patch, stem.patch, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.stage1 = nn.Sequential(*[InvertedResidual(first) for _ in range(depths[0])])
        self.halve = nn.Sequential(
            nn.Conv2d(first, second, 2, 2, padding=1 if min(stem.grid) // stem.patch < 2 else 0, bias=False),
            nn.BatchNorm2d(second),
        )
        self.stage2 = nn.Sequential(*[InvertedResidual(second) for _ in range(depths[1])])
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(second, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage1(self.stem_norm(self.stem(x)))
        x = self.stage2(self.halve(x))
        return self.head(x.mean((2, 3)))


def build_cml(name: str, stem: StemShape, num_classes: int) -> tuple[nn.Module, str]:
    """The backbones of this file."""
    if name != "small":
        raise CmlError(f"Unknown backbone 'cml:{name}': there is cml:small; others are timm:NAME.")
    return SmallNet(stem, num_classes), "stem"


def build_timm(name: str, stem: StemShape, num_classes: int) -> tuple[nn.Module, str]:
    """Any timm model whose first layer can be edited: vision transformers through their arguments, convolutional nets
    by replacing their first convolution with the patch convolution and dropping a pooling that follows it."""
    import timm
    from timm.layers import PatchEmbed

    if not timm.is_model(name):
        from cml.registry import unknown

        raise CmlError(unknown("timm model", name, timm.list_models()))
    try:
        model = timm.create_model(name, num_classes=num_classes, in_chans=stem.channels)
        if isinstance(getattr(model, "patch_embed", None), PatchEmbed):
            model = timm.create_model(
                name, num_classes=num_classes, in_chans=stem.channels, img_size=stem.grid, patch_size=stem.patch
            )
            path = "patch_embed.proj"
        else:
            path = _replace_first_convolution(model, stem)
        # The proof that the edited model works on this grid: one pass of one blank input.
        with torch.no_grad():
            model.eval()(torch.zeros(1, stem.channels, *stem.grid))
    except (TypeError, RuntimeError, ValueError, AssertionError, AttributeError, KeyError) as error:
        raise CmlError(
            f"timm:{name} cannot read a {stem.channels}-channel grid of {stem.grid[0]}x{stem.grid[1]} at patch "
            f"{stem.patch} ({str(error).splitlines()[0] if str(error) else type(error).__name__}); vision transformers, "
            "ResNets, ConvNeXts and EfficientNets do, on a grid large enough for their stages."
        ) from error
    return model.train(), path


def _replace_first_convolution(model: nn.Module, stem: StemShape) -> str:
    first = getattr(model, "pretrained_cfg", {}).get("first_conv")
    path = first[0] if isinstance(first, (list, tuple)) else first
    if not path:
        raise ValueError("it names no first convolution")
    old = model.get_submodule(path)
    if not isinstance(old, nn.Conv2d):
        raise TypeError(f"its first layer is a {type(old).__name__}")
    new = nn.Conv2d(stem.channels, old.out_channels, stem.patch, stem.patch, bias=old.bias is not None)
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.maxpool = nn.Identity()
    return path
