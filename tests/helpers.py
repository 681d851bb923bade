"""Synthetic signals and paths that several tests use."""

import math
import os
from pathlib import Path

import numpy as np
import torch

from cml.codecs.entropy import EntropyCoder

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


def golden_symbols(dtype: str, grid: tuple[int, ...], full: bool = False) -> np.ndarray:
    """Channels from loud to all but silent, with extremes, a ramp, and, if `full`, one of all values."""
    rng = np.random.default_rng(9)
    size, limits = math.prod(grid), np.iinfo(dtype)
    spread = np.array([20.0, 3.0, 0.7, 0.01])[:, None] * (1 if dtype == "int8" else 100)
    planes = [np.round(rng.laplace(0, spread, (4, size))), np.arange(size)[None] // 3]
    if full:
        planes.append(rng.integers(limits.min, limits.max, (1, size), endpoint=True))
    symbols = np.concatenate(planes)
    symbols[0, :2] = limits.min, limits.max
    return symbols.reshape(-1, *grid).clip(limits.min, limits.max).astype(dtype)


def check_golden(name: str, coder: EntropyCoder, symbols: np.ndarray) -> None:
    """Bytes written once decode to the same symbols for ever. CML_WRITE_GOLDEN=1 makes those that are missing."""
    path = ROOT / "tests" / "golden" / f"{name}.bin"
    if os.environ.get("CML_WRITE_GOLDEN") and not path.exists():
        path.write_bytes(coder.encode(symbols))
    assert coder.encode(symbols) == path.read_bytes()
    assert np.array_equal(coder.decode(path.read_bytes(), symbols.shape, symbols.dtype), symbols)
