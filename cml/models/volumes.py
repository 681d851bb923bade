"""A small network for signals of three axes, volumes and video: a class at every place, the same for every view."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from cml.errors import CmlError
from cml.models.backbones import StemShape


@dataclass(frozen=True)
class VolumeStem(StemShape):
    """What a stem of three axes reads.

    Attributes:
        kernel: positions a token along each axis; `patch` is its last one.
    """

    kernel: tuple[int, ...]


def _norm(width: int) -> nn.Module:
    # Of each signal by itself: a batch has one or two, whose statistics are not those of other batches.
    return nn.GroupNorm(8, width)


class VolumeBlock(nn.Module):
    """x + (1x1x1 expand, 3x3x3 depthwise, 1x1x1 project), group-normalized: `InvertedResidual` of three axes."""

    def __init__(self, width: int, expansion: int = 2):
        super().__init__()
        hidden = width * expansion
        self.body = nn.Sequential(
            nn.Conv3d(width, hidden, 1, bias=False),
            _norm(hidden),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, hidden, 3, padding=1, groups=hidden, bias=False),
            _norm(hidden),
            nn.ReLU(inplace=True),
            nn.Conv3d(hidden, width, 1, bias=False),
            _norm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class VolumeNet(nn.Module):
    """A shallow U over tokens.

        x (B, c, *grid) --patch convolution--> tokens (48) --block--> a --halve, two blocks--> b (96)
          --halve, block--> context (96)
        a + resized (b + resized context) --block--> 1x1x1 convolution --shuffle--> (B, K, *tokens * factor)

    Axes of one token are not halved. Nothing is of the whole signal, so that windows of it are read as it is.

    Args:
        stem: what it reads.
        classes: K.
        factor: answers of each token along each axis.
        width: of the tokens.
    """

    def __init__(self, stem: VolumeStem, classes: int, factor: tuple[int, ...], width: int = 48):
        super().__init__()
        wide = 2 * width
        tokens = tuple(n // k for n, k in zip(stem.grid, stem.kernel, strict=True))
        self.kernel, self.factor, self.classes = stem.kernel, factor, classes
        self.stem = nn.Conv3d(stem.channels, width, _three(stem.kernel), _three(stem.kernel), bias=False)
        self.norm = _norm(width)
        self.fine = VolumeBlock(width)
        self.halve = _halve(width, wide, tokens)
        self.coarse = nn.Sequential(VolumeBlock(wide), VolumeBlock(wide))
        self.again = _halve(wide, wide, tokens)
        self.context = VolumeBlock(wide)
        self.lateral = nn.Conv3d(wide, width, 1)
        self.fuse = VolumeBlock(width)
        self.answer = nn.Conv3d(width, classes * math.prod(factor), 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.fine(self.norm(self.stem(x)))
        b = self.coarse(self.halve(a))
        c = self.context(self.again(b))
        b = b + F.interpolate(c, b.shape[2:], mode="trilinear", align_corners=False)
        a = a + F.interpolate(self.lateral(b), a.shape[2:], mode="trilinear", align_corners=False)
        return shuffle(self.answer(F.relu(self.fuse(a))), self.factor)


def _three(numbers: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = numbers
    return first, second, third


def _halve(before: int, after: int, tokens: tuple[int, ...]) -> nn.Module:
    stride = _three([2 if n > 1 else 1 for n in tokens])
    kernel = _three([3 if n > 1 else 1 for n in tokens])
    padding = _three([n // 2 for n in kernel])
    return nn.Sequential(nn.Conv3d(before, after, kernel, stride, padding, bias=False), _norm(after))


def shuffle(x: Tensor, factor: tuple[int, ...]) -> Tensor:
    """(B, K * product of factor, d, h, w) to (B, K, d * f0, h * f1, w * f2): pixel shuffle of three axes."""
    first, second, third = factor
    batch, _, *size = x.shape
    x = x.view(batch, -1, first, second, third, *size).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(batch, -1, size[0] * first, size[1] * second, size[2] * third)


def build_volume(name: str, stem: StemShape, classes: int, factor: tuple[int, ...]) -> tuple[VolumeNet, str]:
    """The network by name, "cml:volume", and the path of its stem; `factor` as of `VolumeNet`."""
    if name != "cml:volume":
        raise CmlError(f"Unknown backbone {name!r}: signals of three axes have cml:volume.")
    if not isinstance(stem, VolumeStem):
        raise CmlError(f"cml:volume reads signals of three axes, not of {len(stem.grid)}.")
    return VolumeNet(stem, classes, factor), "stem"
