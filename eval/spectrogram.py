"""Sound as a picture: energy over time and frequency, in one colour map from 0 dB, a full-scale sine, to -90 dB."""

import io
import math
from itertools import pairwise

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

FLOOR = -90
"""dB, the darkest colour."""
_STEP = 3  # dB a colour: finer ones are hardly seen and cost bytes
PALETTE = (matplotlib.colormaps["magma"](np.linspace(0, 1, -FLOOR // _STEP + 1))[:, :3] * 255).round().astype(np.uint8)
"""uint8 (colours, 3), from `FLOOR` to 0 dB."""
SIZE = (96, 320)
"""Rows and columns of a picture, unless one asks for others."""
_WINDOW = 0.045  # seconds, about
_TICKS = (500, 1000, 2000, 4000, 8000, 16000)


def levels(x: Tensor, rate: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A sound as colours, uint8 (rows, columns), 0 the darkest; the first row is the highest frequency.

    The rows go from 0 to half the rate, evenly on the mel scale: linear at first, logarithmic above. Each shows the
    loudest frequency of its band; channels are averaged.

    Args:
        x: (C, T) float in [-1, 1].
        rate: samples a second.
        size: rows, and columns at most: a very short sound has fewer.
    """
    rows, columns = size
    bins = 2 ** max(4, round(math.log2(_WINDOW * rate)))
    hop = min(bins // 2, -(-x.shape[-1] // columns))
    window = torch.hann_window(bins)
    around = "reflect" if x.shape[-1] > bins // 2 else "constant"
    spectrum = torch.stft(x.float(), bins, hop, window=window, pad_mode=around, return_complex=True)
    energy = (2 * spectrum.abs() / window.sum()).square().mean(0)[:, :-1]  # the last column stands at the end
    if energy.shape[1] > columns:
        energy = F.adaptive_max_pool1d(energy[None], columns)[0]
    edges = _hertz(np.linspace(0, 1, rows + 1), rate) * bins / rate
    bands = torch.stack([_band(energy, low, high) for low, high in pairwise(edges)])
    decibels = 10 * bands.clamp(min=1e-12).log10()
    return ((decibels.clamp(FLOOR, 0) - FLOOR) / _STEP).round().to(torch.uint8).flip(0).numpy()


def png(x: Tensor, rate: int, size: tuple[int, int] = SIZE) -> bytes:
    """`levels` as a picture without axes."""
    image = Image.fromarray(levels(x, rate, size))
    image.putpalette(PALETTE.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def colours() -> list[str]:
    """The colour map from `FLOOR` to 0 dB, every few dB, as a style sheet writes colours."""
    return [to_hex(colour / 255) for colour in PALETTE[::5]]


def ticks(rate: int) -> list[tuple[str, float]]:
    """(kHz, place) of round frequencies; a place is from 0, the lowest row, to 1."""
    places = [(f"{hertz / 1000:g}", _mel(hertz) / _mel(rate / 2)) for hertz in _TICKS]
    return [(text, place) for text, place in places if place < 0.98]


def plot(axes: Axes, x: Tensor, rate: int) -> AxesImage:
    """A spectrogram with named axes."""
    decibels = levels(x, rate, (128, 512)) * float(_STEP) + FLOOR
    image = axes.imshow(
        decibels, cmap=ListedColormap(PALETTE / 255), vmin=FLOOR, vmax=0, aspect="auto", interpolation="nearest",
        extent=(0, x.shape[-1] / rate, 0, 1),
    )  # fmt: skip
    axes.set_yticks([place for _, place in ticks(rate)], [text for text, _ in ticks(rate)])
    axes.set_xlabel("time, s", fontsize=7, labelpad=1)
    axes.set_ylabel("frequency, kHz", fontsize=7, labelpad=1)
    axes.tick_params(labelsize=6, length=2, pad=1)
    return image


def colour_bar(figure: Figure, image: AxesImage) -> None:
    """What the colours of all spectrograms of a figure mean."""
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, aspect=40, pad=0.01)
    bar.set_label("dBFS", fontsize=7)  # 0 is a full-scale sine
    bar.ax.tick_params(labelsize=6, length=2, pad=1)


def _band(energy: Tensor, low: float, high: float) -> Tensor:
    """The loudest of the bins from `low` to `high`; between two bins where there is none."""
    first, last = math.ceil(low), math.ceil(high)
    if last > first:
        return energy[first:last].amax(0)
    middle = (low + high) / 2
    below = math.floor(middle)
    return torch.lerp(energy[below], energy[min(below + 1, len(energy) - 1)], middle - below)


def _mel(hertz: float) -> float:
    return math.log1p(hertz / 700)


def _hertz(places: np.ndarray, rate: int) -> np.ndarray:
    return 700 * np.expm1(places * _mel(rate / 2))
