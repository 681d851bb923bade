"""Backbones by name: `timm:NAME`, `hf:NAME`, and `cml:small`, which trains in a minute on two cores.

A builder takes what the stem must read and returns a model and the path of its stem, the module in it that turns
inputs into tokens.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cml.errors import CmlError
from cml.models.strides import unstride
from cml.registry import Registry, unknown

BACKBONES = Registry(
    "backbone",
    {
        "cml": "cml.models.backbones:build_cml",
        "timm": "cml.models.backbones:build_timm",
        "hf": "cml.models.encoders:build_hf",
    },
)


@dataclass(frozen=True)
class StemShape:
    """What a stem reads.

    Attributes:
        channels: channels of the input.
        grid: size of the input, in positions: (height, width) of maps, (length,) of sound.
        patch: positions a token, along each axis; kernel and stride of the stem.
    """

    channels: int
    grid: tuple[int, ...]
    patch: int


def build(backbone: str, stem: StemShape, num_classes: int) -> tuple[nn.Module, str]:
    """A backbone and the path of its stem, by name: "cml:small", "timm:NAME" or "hf:NAME"; 0 classes: no classifier."""
    family, _, name = backbone.partition(":")
    if not name:
        raise CmlError(f"A backbone is family:name, such as cml:small or timm:resnet18, not {backbone!r}.")
    if family in ("timm", "hf") and len(stem.grid) != 2:
        raise CmlError(f"{backbone} reads pictures; sound has cml:sound.")
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

    def __init__(
        self, stem: StemShape, num_classes: int, widths: tuple[int, int] = (48, 96), depths: tuple[int, int] = (1, 2)
    ):
        super().__init__()
        first, second = widths
        odd = (stem.grid[0] // stem.patch % 2, stem.grid[1] // stem.patch % 2)  # so that no token is dropped
        self.stem = nn.Conv2d(stem.channels, first, stem.patch, stem.patch, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.stage1 = nn.Sequential(*[InvertedResidual(first) for _ in range(depths[0])])
        self.halve = nn.Sequential(
            nn.Conv2d(first, second, 2, 2, padding=odd, bias=False),
            nn.BatchNorm2d(second),
        )
        self.stage2 = nn.Sequential(*[InvertedResidual(second) for _ in range(depths[1])])
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(second, num_classes)) if num_classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.feature_maps(x)[-1].mean((2, 3)))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """What leaves the two stages, (B, C, h, w) each."""
        fine = self.stage1(self.stem_norm(self.stem(x)))
        return [fine, self.stage2(self.halve(fine))]


def build_cml(name: str, stem: StemShape, num_classes: int) -> tuple[nn.Module, str]:
    """Our own: `small` of this file reads maps, `sound` of `cml.models.sound` reads sound."""
    if name not in ("small", "sound"):
        raise CmlError(
            f"Unknown backbone 'cml:{name}': there is cml:small, and cml:sound of sound; others are timm:NAME, hf:NAME."
        )
    if (name == "sound") != (len(stem.grid) == 1):
        reads = "sound; pictures have cml:small" if name == "sound" else "pictures; sound has cml:sound"
        raise CmlError(f"The backbone cml:{name} reads {reads}.")
    if name == "sound":
        from cml.models.sound import SoundNet

        return SoundNet(stem, num_classes), "stem"
    return SmallNet(stem, num_classes), "stem"


_LARGEST_WINDOW = 8

# What the many model classes of timm raise when a size does not suit them.
_CANNOT = (
    TypeError,
    RuntimeError,
    ValueError,
    AssertionError,
    AttributeError,
    LookupError,
    ArithmeticError,
    StopIteration,
)


def build_timm(name: str, stem: StemShape, num_classes: int) -> tuple[nn.Module, str]:
    """A timm model with its stem edited to read the grid: whichever of the ways below first passes a blank input.

    - models of timm's `PatchEmbed` (vision transformers, Swin, mixers): its size and patch arguments;
    - others: the first convolution replaced by the patch convolution, a pooling right behind it dropped; once with the
      largest windows, up to 8, that divide the tokens (MaxViT), once as the model is, once with its input size set to
      what would give the same tokens (CoAtNet, LeViT).

    Layers whose stride is longer than what is left of the grid, or breaks its windows, lose it; their paths are the
    model's `unstrided`.
    """
    import timm

    if not timm.is_model(name):
        raise CmlError(unknown("timm model", name, timm.list_models()))
    reason = ""
    for edit in (_patch_embedding, _windowed, _first_convolution, _first_convolution_sized):
        try:
            model, path, window = edit(name, stem, {"num_classes": num_classes, "in_chans": stem.channels})
            blank = torch.zeros(1, stem.channels, *stem.grid)
            model.unstrided = unstride(model, path, blank, window)  # pyright: ignore[reportArgumentType]
            return model.train(), path
        except _CANNOT as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
    raise CmlError(
        f"timm:{name} cannot read a {stem.channels}-channel grid of {stem.grid[0]}x{stem.grid[1]} at patch "
        f"{stem.patch} ({reason}); vision transformers, ResNets, ConvNeXts and EfficientNets do, Swins and MaxViTs on "
        "grids that their windows divide."
    )


def _patch_embedding(name: str, stem: StemShape, options: dict[str, Any]) -> tuple[nn.Module, str, int]:
    import timm
    from timm.layers.patch_embed import PatchEmbed

    model = timm.create_model(name, img_size=stem.grid, patch_size=stem.patch, **options)
    path = next(path for path, module in model.named_modules() if isinstance(module, PatchEmbed))
    return model, f"{path}.proj", 1


def _windowed(name: str, stem: StemShape, options: dict[str, Any]) -> tuple[nn.Module, str, int]:
    import timm

    model: Any = timm.create_model(name, **options)
    if not any("PartitionAttention" in type(module).__name__ for module in model.modules()):
        raise TypeError("it has no windows")
    shared = math.gcd(*(n // stem.patch for n in stem.grid))
    window = max(n for n in range(1, _LARGEST_WINDOW + 1) if shared % n == 0)
    # Its windows are a 32nd of the size that it is told.
    model, path, _ = _first_convolution(name, stem, options | {"img_size": 32 * window})
    return model, path, window


def _first_convolution(name: str, stem: StemShape, options: dict[str, Any]) -> tuple[nn.Module, str, int]:
    import timm

    model = timm.create_model(name, **options)
    path, old = _find_first_convolution(model)
    new = nn.Conv2d(stem.channels, old.out_channels, stem.patch, stem.patch, bias=old.bias is not None)
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)
    if isinstance(getattr(model, "maxpool", None), nn.MaxPool2d):
        model.maxpool = nn.Identity()
    return model, path, 1


def _first_convolution_sized(name: str, stem: StemShape, options: dict[str, Any]) -> tuple[nn.Module, str, int]:
    import timm

    stride = _find_first_convolution(timm.create_model(name, **options))[1].stride[0]
    size = tuple(stride * (n // stem.patch) for n in stem.grid)
    return _first_convolution(name, stem, options | {"img_size": size})


def _find_first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d]:
    """By the name that timm gives it; some families name none, and then it is the first there is."""
    named = getattr(model, "pretrained_cfg", {}).get("first_conv")
    path = named[0] if isinstance(named, (list, tuple)) else named
    if not path:
        path = next(path for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    found = model.get_submodule(path)
    if not isinstance(found, nn.Conv2d):
        raise TypeError(f"its first layer is a {type(found).__name__}")
    return path, found
