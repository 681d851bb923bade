"""How a codec in training does on pictures that it does not train on: real bytes, real reconstructions, a picture."""

import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.base import check_signal, to_uint8
from cml.codecs.neural import WaveletCodec
from cml.data.signals import find_images, read_image
from cml.errors import DataError
from cml.files import read_bytes
from cml.train.recipes import CodecRecipe


@dataclass(frozen=True)
class Point:
    """Mean rate (bits a position, of whole containers) and mean PSNR (dB) at a quantization step."""

    step: float
    bpp: float
    psnr: float


def read_pictures(recipe: CodecRecipe) -> tuple[list[Tensor], list[Tensor]]:
    """The pictures of a recipe: what it trains on, and the middles, at most 512 a side, of those held out."""
    found = {path.resolve(): None for folder in recipe.folders() for path in find_images(folder)}
    # The same picture twice could be in both parts.
    contents = {hashlib.sha256(read_bytes(path)).digest(): path for path in reversed(found)}
    files = list(reversed(contents.values()))
    channels = recipe.codec.get("channels", 3)
    if len(files) < 2:
        raise DataError(f"{', '.join(recipe.data)} holds one picture; training needs one more, to validate on.")
    first = min(recipe.validation // 2, len(files) - 1)
    train = [read_image(path, channels) for n, path in enumerate(files) if n % recipe.validation != first]
    return train, [_middle(read_image(path, channels), 512) for path in files[first :: recipe.validation]]


def _middle(x: Tensor, size: int) -> Tensor:
    for dim in range(1, x.dim()):
        excess = max(0, x.shape[dim] - size)
        x = x.narrow(dim, excess // 2, x.shape[dim] - excess)
    return x


def validate(codec: WaveletCodec, signals: Sequence[Tensor], steps: tuple[float, float], count: int = 3) -> list[Point]:
    """A codec at `count` of its steps, from the largest to the smallest."""
    points = []
    for step in np.geomspace(steps[1], steps[0], count).tolist():
        at = codec.at(step)
        rates, decibels = [], []
        for signal in signals:
            x = check_signal(signal, codec.spec)[0]
            blob = at.compress(signal)
            x_hat = to_uint8(at.decompress(blob)).float() / 127.5 - 1
            rates.append(8 * len(blob) / x[0].numel())
            decibels.append(-10 * math.log10(max(float((x_hat - x).square().mean()), 1e-9) / 4))
        points.append(Point(step, float(np.mean(rates)), float(np.mean(decibels))))
    return points


def picture(x: Tensor, before: WaveletCodec, after: WaveletCodec, steps: tuple[float, float]) -> bytes:
    """PNG bytes: the original, and at the largest step the codec that training began with and the trained one."""
    shown = [x if x.dtype == torch.uint8 else to_uint8(x)]
    for codec in (before, after):
        at = codec.at(steps[1])
        shown.append(to_uint8(at.decompress(at.compress(x))))
    strip = torch.cat(shown, 2).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(strip.squeeze(2) if strip.shape[2] == 1 else strip).save(buffer, "PNG")
    return buffer.getvalue()
