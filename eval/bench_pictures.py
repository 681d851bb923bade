"""The pictures of the speed benchmark: photos cut and mirrored to any size, or noise that resembles them."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cml.data.signals import find_images, read_image
from cml.errors import CmlError

_CELL = 256
_SYNTHETIC = 16
_LONGEST = 65_535


def read_photos(folder: str | Path | None) -> list[Tensor]:
    """Square uint8 (3, n, n) crops of the middle of each photo of a folder; synthetic ones without a folder.

    Small crops of all photos, rather than a whole one, so that a picture of any size holds a bit of each.
    """
    if folder is None:
        return [synthetic(_CELL, seed) for seed in range(_SYNTHETIC)]
    photos = [read_image(file, 3) for file in find_images(folder)]
    side = min(_CELL, *(min(photo.shape[1:]) for photo in photos))
    return [_middle(photo, side) for photo in photos]


def _middle(x: Tensor, side: int) -> Tensor:
    top, left = ((n - side) // 2 for n in x.shape[1:])
    return x[:, top : top + side, left : left + side].contiguous()


def synthetic(side: int, seed: int) -> Tensor:
    """uint8 (3, side, side): 1/f noise whose contrast changes from place to place, with little colour."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1

    def noise(power: float) -> np.ndarray:
        plane = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(side, side))) / frequency**power, (side, side))
        return plane / plane.std()

    detail = noise(1) * np.exp(0.8 * noise(2))
    light = 110 + 40 * noise(1.5) + 9 * detail
    warm, green = 12 * noise(1.5), 6 * noise(1.5)
    planes = np.stack((light + warm, light + green, light - warm))
    return torch.from_numpy(np.clip(planes.round(), 0, 255).astype(np.uint8))


def picture(photos: Sequence[Tensor], height: int, width: int) -> Tensor:
    """uint8 (3, height, width) from square crops laid side by side, every other one mirrored.

    Nothing is resampled, which would make it easier to code than a photo.
    """
    side = photos[0].shape[1]
    rows, columns = math.ceil(height / side), math.ceil(width / side)
    out = torch.empty(3, height, width, dtype=torch.uint8)
    for row in range(rows):
        for column in range(columns):
            tile = photos[(row * columns + column) % len(photos)]
            tile = tile.flip([axis for axis, odd in ((1, row % 2), (2, column % 2)) if odd])
            target = out[:, row * side : (row + 1) * side, column * side : (column + 1) * side]
            target.copy_(tile[:, : target.shape[1], : target.shape[2]])
    return out


def parse_size(text: str) -> tuple[int, int]:
    """Height and width of "1024x768", or of "16", megapixels in a square."""
    try:
        numbers = [float(part) for part in text.lower().split("x")]
        if len(numbers) == 1:
            numbers = [math.sqrt(numbers[0] * 1e6)] * 2
        height, width = (round(number) for number in numbers)
    except (ValueError, OverflowError) as error:
        raise CmlError(f"A size is megapixels, as 16, or HEIGHTxWIDTH, as 1024x1024, not {text!r}.") from error
    if min(height, width) < 64 or max(height, width) > _LONGEST:
        raise CmlError(f"The sides of a picture to measure are 64 to {_LONGEST} pixels, not {height}x{width}.")
    return height, width
