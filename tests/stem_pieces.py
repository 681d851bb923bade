"""Pieces of two stems, made up on the spot, in a folder as `cml data slakh` writes it."""

import json
import math

import torch

from cml.data.sound import write_sound

RATE = 8000
STEMS = ("low", "high")


def stem(name: str, seed: int, samples: int, channels: int = 1) -> torch.Tensor:
    """Notes that come and go, below 400 Hz or above 900."""
    generator = torch.Generator().manual_seed(2 * seed + STEMS.index(name))
    time = torch.arange(samples) / RATE
    sound = torch.zeros(samples)
    for _ in range(6):
        pitch, begin, phase = torch.rand(3, generator=generator).tolist()
        hertz = 150 + 250 * pitch if name == "low" else 900 + 600 * pitch
        note = torch.sin(2 * math.pi * (hertz * time + phase)) * torch.exp(
            -((time - begin * samples / RATE) ** 2) / 0.01
        )
        sound += 0.15 * note
    return sound.expand(channels, -1)


def slakh(root, lengths=(12_000, 12_000, 12_500), tests=(9_000, 7_001), quiet: str = "", channels: int = 1):
    """Pieces as `cml data slakh` writes them; of the last one to test, a stem may be silent."""
    pieces = []
    for number, samples in enumerate((*lengths, *tests)):
        piece = f"piece-{number}"
        for name in STEMS:
            sound = stem(name, number, samples, channels)
            last = number == len(lengths) + len(tests) - 1
            write_sound(root / piece / f"{name}.flac", 0 * sound if last and name == quiet else sound, RATE)
        pieces.append({"name": piece, "split": "train" if number < len(lengths) else "test"})
    index = {"stems": STEMS, "rate": RATE, "channels": channels, "seconds": 1.5, "pieces": pieces}
    (root / "index.json").write_text(json.dumps(index))
    return f"slakh:{root}"
