"""Synthetic signals and paths that several tests use."""

from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[1]


def photo(size: tuple[int, int], channels: int = 3, seed: int = 0) -> torch.Tensor:
    """A picture-like uint8 signal: smooth shapes, an edge, and some texture."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for channel in range(channels):
        base = 110 + 60 * np.sin(x / 17 + channel) * np.cos(y / 23) + 40 * (x + y > (height + width) / 2)
        planes.append(base + rng.normal(0, 6, size))
    return torch.from_numpy(np.clip(np.stack(planes), 0, 255).astype(np.uint8))
