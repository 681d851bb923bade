"""Heads that answer at every place of a signal, on the pyramid of any backbone."""

from torch import Tensor, nn
from torch.nn import functional as F

from cml.models.backbones import InvertedResidual, StemShape
from cml.models.features import Features, build_features


class DenseHead(nn.Module):
    """A light decoder: the maps of a pyramid to a few answers at each place.

        maps --1x1 convolutions--> (B, width, *) each, the coarser ones resized to the finest
        coarsest --halve, two inverted residuals, plus its mean--> context, resized to the finest
        sum --inverted residual--> 1x1 convolution --pixel shuffle--> (B, outputs, factor * h, factor * w)

    Args:
        channels: of each map, finest first.
        outputs: answers a place.
        factor: places along each axis for each position of the finest map.
        width: of what is summed.
    """

    def __init__(self, channels: list[int], outputs: int, factor: int, width: int = 64):
        super().__init__()
        self.lateral = nn.ModuleList(
            nn.Sequential(nn.Conv2d(count, width, 1, bias=False), nn.BatchNorm2d(width)) for count in channels
        )
        self.context = nn.Sequential(
            nn.Conv2d(width, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            InvertedResidual(width),
            InvertedResidual(width),
        )
        self.whole = nn.Conv2d(width, width, 1)
        self.fuse = InvertedResidual(width)
        self.answer = nn.Conv2d(width, outputs * factor**2, 1)
        self.shuffle = nn.PixelShuffle(factor)

    def forward(self, maps: list[Tensor]) -> Tensor:
        aligned = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        context = self.context(aligned[-1])
        context = context + self.whole(context.mean((2, 3), keepdim=True))
        finest, size = aligned[0], aligned[0].shape[2:]
        for x in (*aligned[1:], context):
            finest = finest + F.interpolate(x, size, mode="bilinear", align_corners=False)
        return self.shuffle(self.answer(self.fuse(F.relu(finest))))


class DenseModel(nn.Module):
    """A backbone and a head, answering at a size: input (B, c, *grid) to (B, outputs, *size)."""

    def __init__(self, features: Features, head: DenseHead, size: tuple[int, ...]):
        super().__init__()
        self.features, self.head, self.size = features, head, size

    def forward(self, x: Tensor) -> Tensor:
        y = self.head(self.features(x))
        if y.shape[2:] == self.size:
            return y
        return F.interpolate(y, self.size, mode="bilinear", align_corners=False)


def build_dense(
    backbone: str, stem: StemShape, outputs: int, size: tuple[int, ...], spacing: int
) -> tuple[DenseModel, str]:
    """A backbone by name with a light decoder, and the path of its stem.

    Args:
        backbone: as for `build_features`.
        stem: what it reads.
        outputs: answers a place.
        size: (height, width) of the answer.
        spacing: samples of the answer, along each axis, for each of which the head computes one: finer backbones as
            fine as their finest map; the rest is bilinear.
    """
    cell = max(1, size[0] // stem.grid[0])
    features, path = build_features(backbone, stem, cell)
    head = DenseHead(features.channels, outputs, max(1, features.reductions[0] // spacing))
    return DenseModel(features, head, size), f"features.{path}"
