"""Synthetic signals and paths that several tests use."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import cml
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


def code_blocks(text: str) -> list[tuple[str, str | None, str]]:
    """The fenced blocks of a markdown page: (language, title or None, code), in their order."""
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```', text, flags=re.MULTILINE | re.DOTALL)
    return [(language, title or None, code) for language, title, code in found]


def newcomer(root: Path) -> Path:
    """The folder in which the code of a page runs: a photo, photos, and parts of two classes; a voice, and voices."""
    cml.write_image(root / "photo.png", photo((240, 256)).float() / 127.5 - 1)
    for number in range(4):
        cml.write_image(root / "photos" / f"{number}.png", photo((160, 200), 3, number).float() / 127.5 - 1)
    for number in range(48):
        part = photo((64, 64), 3, number).float() / 127.5 - 1
        if number % 2:
            part[:, range(64), range(64)] = 1
        cml.write_image(root / "parts" / ("good", "scratched")[number % 2] / f"{number}.png", part)
    cml.write_sound(root / "voice.wav", hum(44100), 44100)
    for number in range(4):
        cml.write_sound(root / "voices" / f"{number}.wav", hum(30_000, number), 44100)
    return root


def hum(length: int, seed: int = 0) -> torch.Tensor:
    """A note with its harmonics that dies away, and noise: float32 (1, length) in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(length) / 44100
    note = sum(torch.sin(2 * math.pi * (110 + 30 * seed) * k * t) / k for k in range(1, 12))
    return 0.3 * note * torch.exp(-3 * t) + 0.01 * torch.randn(1, length, generator=generator)


def run_in(folder: Path, *arguments: str) -> None:
    """Run a program as a user of this environment would, and fail with what it says."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        arguments, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
