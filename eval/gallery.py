"""Test items through each codec: `gallery.png` at one rate, and the folder `gallery/` for the page.

Those of sound are in `sound_gallery`.
"""

import io
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from cml.eval.figures import save
from cml.eval.metrics import psnr
from cml.eval.sound_protocols import SoundTask
from cml.tasks.base import Task
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from cml.codecs.base import Codec, to_uint8
from cml.codecs.factory import parse_operating_point
from cml.codecs.rate import match_rate
from cml.codecs.resample import Identity
from cml.files import write_atomic

INDEX = "gallery.json"
_BUDGET = 1_700_000  # bytes of all files, so that a page with them in base64 stays below 3 MB
_LARGEST, _SMALLEST = 512, 96  # sides in pixels
_MOST_CHANNELS = 64
PARTS = ("file", "spectrogram", "latent")
"""What `gallery.json` names files by."""
_SUFFIXES = (".webp", ".png", ".flac")
# From negative through zero to positive: blue, white, red, even in lightness on both sides.
_NEGATIVE, _ZERO, _POSITIVE = (24, 78, 140), (247, 246, 243), (165, 38, 42)


def draw(task: Task, codecs: Sequence[Codec], table: pd.DataFrame, path: Path) -> None:
    """Draw a test item through every lossy codec, each at the operating point nearest to the median rate."""
    if len(task.size) == 3:
        return  # slices of volumes are in the rate-distortion report
    if len(task.size) == 1:
        from cml.eval import sound_gallery  # it uses this module

        return sound_gallery.draw(cast(SoundTask, task), codecs, table, path)
    lossy = table[table["view"] == "reconstruction"]
    names = list(dict.fromkeys(parse_operating_point(c.spec.name)[0] for c in codecs if not isinstance(c, Identity)))
    if not names or not len(lossy):
        return
    target = statistics.median(lossy["bpp"].tolist())
    x = task.signal("test", chosen(task)[0])
    panels = [("original", x)]
    for name in names:
        try:
            codec, blob = match_rate(name, x, target)
            x_hat = to_uint8(codec.decompress(blob))
        except Exception as error:  # one codec must not stop the report
            panels.append((f"{name}\nfailed: {error}", torch.zeros_like(x)))
            continue
        bpp = 8 * len(blob) / x[0].numel()
        quality = psnr(x.float(), x_hat.float(), data_range=255)
        panels.append((f"{codec.spec.name}\n{bpp:.3f} bpp, {quality:.1f} dB", x_hat))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(3 * columns, 3.4 * rows), dpi=110, layout="constrained")
    for number, (title, image) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        axes.imshow(_array(image), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(title, fontsize=8)
        axes.axis("off")
    save(figure, path)


def chosen(task: Task) -> list[int]:
    """The test items shown: the first of the last class (a defect, where there are defects) and of another class.

    Where there are no classes, the first and one from the middle.
    """
    labels = task.labels("test")
    if labels.dim() > 1:
        return sorted({0, len(labels) // 2})
    last = int((labels == labels.max()).nonzero()[0])
    others = (labels != labels.max()).nonzero()
    return [last, int(others[0])] if len(others) else [last]


@dataclass
class _Panel:
    """A picture as one codec leaves it."""

    entry: dict[str, Any]
    image: Tensor | None = None
    latent: bytes | None = None


@dataclass
class _Strip:
    """A picture, and what each codec makes of it."""

    index: int
    label: int | None
    original: Tensor
    panels: list[_Panel] = field(default_factory=list)


def keep(task: Task, codecs: Sequence[Codec], folder: Path) -> None:
    """Store test items through each codec in a folder, so that a page can be made when codecs and data are gone.

    Of pictures: lossless WebP, the middle of each where the whole would be too much for a page, latents as PNG, and
    `gallery.json`, which names them. Rate and PSNR are of the whole picture. A codec that fails leaves its sentence.
    """
    if len(task.size) == 3:
        return
    if len(task.size) == 1:
        from cml.eval import sound_gallery

        return sound_gallery.keep(cast(SoundTask, task), codecs, folder)
    unique = {codec.spec.name: codec for codec in codecs if not isinstance(codec, Identity)}
    strips = []
    for index in chosen(task):
        x = task.signal("test", index)
        label = task.labels("test")[index]
        strip = _Strip(index, None if label.dim() else int(label), x)
        strip.panels = [_through(codec, x, draw_latent=not strips) for codec in unique.values()]
        strips.append(strip)
    side = _LARGEST
    files = _pack(strips, side)
    while (total := sum(map(len, files.values()))) > _BUDGET and side > _SMALLEST:
        side = max(_SMALLEST, int(side * min(0.95, math.sqrt(_BUDGET / total))))
        files = _pack(strips, side)
    store(files, folder)


def store(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files by name into a folder, and remove those of earlier times that have other names."""
    for name, data in files.items():
        write_atomic(folder / name, data)
    for path in folder.iterdir():
        if path.suffix in _SUFFIXES and path.name not in files:
            path.unlink()


def _through(codec: Codec, x: Tensor, draw_latent: bool) -> _Panel:
    entry: dict[str, Any] = {"codec": codec.spec.name}
    try:
        blob = codec.compress(x)
        x_hat = to_uint8(codec.decompress(blob))
        quality = psnr(x.float(), x_hat.float(), data_range=255)
        entry |= {"bpp": 8 * len(blob) / x[0].numel(), "psnr": quality if math.isfinite(quality) else None}
        latent = None
        if draw_latent and codec.spec.latent_channels is not None:
            symbols = codec.encode(x).symbols
            entry |= {"channels": len(symbols), "grid": list(symbols.shape[1:])}
            latent = latent_picture(symbols)
        return _Panel(entry, x_hat, latent)
    except Exception as error:  # one codec must not stop the report
        return _Panel(entry | {"error": str(error) or type(error).__name__})


def _pack(strips: list[_Strip], side: int) -> dict[str, bytes]:
    """The files of the folder by name, each picture's middle of at most `side`."""
    files: dict[str, bytes] = {}
    pictures = []
    for number, strip in enumerate(strips):
        whole = strip.original.shape[1:]
        middle = _middle(strip.original, side)
        picture = {
            "index": strip.index, "label": strip.label, "size": list(whole), "shown": list(middle.shape[1:]),
            "file": f"{number}.webp", "codecs": [],
        }  # fmt: skip
        files[picture["file"]] = _webp(middle)
        for place, panel in enumerate(strip.panels):
            entry = dict(panel.entry)
            if panel.image is not None:
                entry["file"] = f"{number}-{place}.webp"
                files[entry["file"]] = _webp(_middle(panel.image, side))
            if panel.latent is not None:
                entry["latent"] = f"{number}-{place}-latent.png"
                files[entry["latent"]] = panel.latent
            picture["codecs"].append(entry)
        pictures.append(picture)
    files[INDEX] = (json.dumps({"pictures": pictures}, indent=1) + "\n").encode()
    return files


def _middle(image: Tensor, side: int) -> Tensor:
    height, width = image.shape[1:]
    top, left = max(0, height - side) // 2, max(0, width - side) // 2
    return image[:, top : top + side, left : left + side]


def _webp(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(_array(image))).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def latent_picture(symbols: Tensor) -> bytes:
    """The first channels, each around its median and scaled by its own 99th percentile, as PNG.

    Planes (c, h, w) lie side by side; of sound, (c, n), each channel is a row.
    """
    planes = symbols[:_MOST_CHANNELS].float().flatten(1)
    centred = planes - planes.median(1, keepdim=True).values
    scale = centred.abs().quantile(0.99, 1, keepdim=True).clamp(min=1)
    levels = (centred / scale).clamp(-1, 1).mul(127).round().add(128).to(torch.uint8).view(-1, *symbols.shape[1:])
    image = Image.fromarray(_sheet(levels.numpy()) if levels.dim() == 3 else levels.numpy())
    image.putpalette(_palette())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _sheet(planes: np.ndarray) -> np.ndarray:
    """Planes (c, h, w) in rows, as near to a square as may be."""
    count, height, width = planes.shape
    root = math.ceil(math.sqrt(count))
    columns = next((n for n in range(root, 2 * root) if count % n == 0), root)
    # Index 0 is free, as symbols take 1 to 255: it is the grid between the channels.
    sheet = np.zeros((-(-count // columns) * (height + 1) - 1, columns * (width + 1) - 1), np.uint8)
    for number, plane in enumerate(planes):
        row, column = divmod(number, columns)
        sheet[row * (height + 1) :, column * (width + 1) :][:height, :width] = plane
    return sheet


def _palette() -> bytes:
    position = (np.arange(256)[:, None] - 128) / 127
    ends = np.where(position < 0, _NEGATIVE, _POSITIVE)
    colours = _ZERO + (ends - np.array(_ZERO)) * np.abs(position).clip(0, 1) ** 0.8
    colours[0] = 128
    return colours.round().astype(np.uint8).tobytes()


def _array(image: Tensor) -> np.ndarray:
    return image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy()
