"""Pyramids: the maps inside a backbone, for tasks that answer at every place."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from cml.errors import CmlError
from cml.models.backbones import StemShape, build

_SAME_SIZE = 4  # maps of a backbone that keeps one resolution, evenly spaced over its depth


class Features(nn.Module):
    """A backbone as a function of its input to maps, finest first.

        Latent.to_float() (B, c, *grid) --stem, backbone--> [(B, channels[0], *), (B, channels[1], *), ...]

    One map for each resolution, the last that the backbone makes of it; four evenly spaced ones where it has only one
    resolution, as vision transformers do.

    Args:
        model: with `feature_maps(x)`, or `forward_intermediates` as timm's models have it.
        stem: what it reads.
        cell: samples of the signal along each axis behind one position of the input.

    Attributes:
        channels: of each map.
        reductions: samples of the signal along each axis behind one position of each map.
    """

    def __init__(self, model: nn.Module, stem: StemShape, cell: int = 1):
        super().__init__()
        self.model = model
        model.eval()
        with torch.no_grad():
            maps = self._all(torch.zeros(1, stem.channels, *stem.grid))
        self._kept = _choose([(x.shape[2], x.shape[3]) for x in maps])
        kept = [maps[number] for number in self._kept]
        self.channels = [x.shape[1] for x in kept]
        finest = round(cell * stem.grid[0] / kept[0].shape[2])
        # Odd grids are padded before they are halved: the halvings are what counts.
        self.reductions = [finest * 2 ** round(math.log2(kept[0].shape[2] / x.shape[2])) for x in kept]
        model.train()

    def _all(self, x: Tensor) -> list[Tensor]:
        model: Any = self.model
        if hasattr(model, "feature_maps"):
            return model.feature_maps(x)
        return model.forward_intermediates(x, intermediates_only=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self._all(x)
        return [maps[number] for number in self._kept]


def build_features(backbone: str, stem: StemShape, cell: int = 1) -> tuple[Features, str]:
    """The pyramid of a backbone by name, and the path of its stem; see `build`."""
    model, path = build(backbone, stem, 0)
    return as_features(model, stem, cell, backbone), f"model.{path}"


def as_features(model: nn.Module, stem: StemShape, cell: int, name: str) -> Features:
    """The pyramid of a model, or a sentence where it shows none."""
    if not (hasattr(model, "feature_maps") or hasattr(model, "forward_intermediates")):
        raise CmlError(f"{name} does not show its feature maps; cml:small, timm:NAME and hf:NAME of most families do.")
    if hasattr(model, "prune_intermediate_layers"):  # layers that only the classifier uses would get no gradient
        model.prune_intermediate_layers(prune_norm=True, prune_head=True)  # pyright: ignore[reportCallIssue]
    return Features(model, stem, cell)


def _choose(sizes: list[tuple[int, int]]) -> list[int]:
    last = {size: number for number, size in enumerate(sizes)}
    if len(last) > 1:
        return sorted(last.values())
    count = min(_SAME_SIZE, len(sizes))
    return [(number + 1) * len(sizes) // count - 1 for number in range(count)]
