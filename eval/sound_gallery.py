"""Test clips through each codec: `gallery.png` at one rate, and the folder `gallery/` for the players of the page."""

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from cml.eval import gallery, spectrogram
from cml.eval.figures import family, save
from cml.eval.sound_protocols import SeparationTask, SoundTask
from cml.tasks.sound_measures import si_sdr
from matplotlib.figure import Figure
from torch import Tensor

from cml.codecs.base import Codec
from cml.codecs.pcm import to_int16
from cml.codecs.rate import match_rate
from cml.codecs.resample import Identity
from cml.data.sound import sound_bytes
from cml.errors import CmlError

BUDGET = 1_900_000
"""Bytes of all files of a run that go into its page, so that with them in base64 it stays below 3 MB."""
BESIDE_ANSWERS = 0.35
"""The gallery's share of them where the page has answers to listen to as well."""
LONGEST, SHORTEST = 3.0, 0.5
"""Seconds of a player."""
_DRAWN = 5.0  # seconds in gallery.png


@dataclass(frozen=True)
class Player:
    """A sound with its picture, and what is said of it."""

    entry: dict[str, Any]
    sound: Tensor | None = None
    symbols: Tensor | None = None


@dataclass(frozen=True)
class _Clip:
    """A test clip, and what each codec makes of it."""

    index: int
    label: int | None
    original: Tensor
    players: list[Player]


def draw(task: SoundTask, codecs: Sequence[Codec], table: pd.DataFrame, path: Path) -> None:
    """Draw a test clip through every lossy codec, each at the operating point nearest to the median rate."""
    lossy = table[table["view"] == "reconstruction"]
    unique = {family(codec.spec.name): codec for codec in codecs if not isinstance(codec, Identity)}
    if not unique or not len(lossy):
        return
    target = statistics.median(lossy["bpp"].tolist())
    x = task.signal("test", gallery.chosen(task)[0])
    panels = [("original", x)]
    for codec in unique.values():
        player = through(_steered(codec, x, target), x, task.rate)
        said = f"failed: {player.entry['error']}" if player.sound is None else caption(player.entry)
        sound = torch.zeros_like(x) if player.sound is None else player.sound
        panels.append((f"{player.entry['codec']}\n{said}", sound))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4 * columns, 2.4 * rows), dpi=110, layout="constrained")
    image = None
    for number, (title, sound) in enumerate(panels):
        axes = figure.add_subplot(rows, columns, number + 1)
        image = spectrogram.plot(axes, sound[:, : _samples(_DRAWN, task.rate)], task.rate)
        axes.set_title(title, fontsize=8)
    if image is not None:
        spectrogram.colour_bar(figure, image)
    save(figure, path)


def _steered(codec: Codec, x: Tensor, bpp: float) -> Codec:
    """The codec at the operating point nearest to a rate; as it is where it has one rate only, or fails."""
    try:
        return match_rate(codec.spec.name, x, bpp)[0]
    except CmlError:
        return codec


def keep(task: SoundTask, codecs: Sequence[Codec], folder: Path) -> None:
    """Store test clips through each codec in a folder, so that a page can be made when codecs and data are gone.

    FLAC of 16 bits and a spectrogram each, of the first seconds, as many as a page has room for; latents as PNG, and
    `gallery.json`, which names them. Rate and SI-SDR are of the whole clip. A codec that fails leaves its sentence.
    """
    unique = {codec.spec.name: codec for codec in codecs if not isinstance(codec, Identity)}
    parts = isinstance(task, SeparationTask)
    clips: list[_Clip] = []
    for index in gallery.chosen(task):
        x, label = task.signal("test", index), task.labels("test")[index]
        players = [through(codec, x, task.rate, latents=not clips) for codec in unique.values()]
        clips.append(_Clip(index, None if parts or label.dim() else int(label), x, players))
    budget = round(BUDGET * (BESIDE_ANSWERS if parts else 1))
    gallery.store(fit(lambda seconds: _pack(clips, task.rate, seconds), budget, SHORTEST), folder)


def fit(pack: Callable[[float], dict[str, bytes]], budget: int, shortest: float) -> dict[str, bytes]:
    """The files that `pack` makes of as many seconds as a budget of bytes allows, from `LONGEST` to `shortest`."""
    seconds = LONGEST
    files = pack(seconds)
    while size_of(files) > budget and seconds > shortest:
        seconds = max(shortest, math.floor(10 * seconds * min(0.97, budget / size_of(files))) / 10)
        files = pack(seconds)
    return files


def size_of(files: Mapping[str, bytes]) -> int:
    """Bytes of all files."""
    return sum(map(len, files.values()))


def through(codec: Codec, x: Tensor, rate: int, latents: bool = False) -> Player:
    """What a codec makes of a clip (C, T), its rate, and how near it comes; its latents, if they are wanted."""
    entry: dict[str, Any] = {"codec": codec.spec.name}
    try:
        blob = codec.compress(x)
        x_hat = codec.decompress(blob)
        ratio = si_sdr(x, x_hat)
        entry |= {
            "kbps": 8 * len(blob) * rate / x.shape[-1] / 1000,
            "si_sdr": ratio if math.isfinite(ratio) else None,
            "lossless": bool((to_int16(x) == to_int16(x_hat)).all()),
        }
        symbols = None
        if latents and codec.spec.latent_channels is not None:
            symbols = codec.encode(x).symbols
            entry |= {"channels": len(symbols), "patch": codec.spec.patch}
        return Player(entry, x_hat, symbols)
    except Exception as error:  # one codec must not stop the report
        return Player(entry | {"error": str(error) or type(error).__name__})


def caption(entry: dict[str, Any]) -> str:
    """Rate and nearness, as a person reads them."""
    ratio = entry["si_sdr"]
    near = "lossless" if entry["lossless"] else "silence" if ratio is None else f"SI-SDR {ratio:.1f} dB"
    return f"{entry['kbps']:.3g} kbit/s, {near}"


def add_sound(files: dict[str, bytes], name: str, x: Tensor, rate: int) -> dict[str, str]:
    """Put a sound and its spectrogram among files; returns the names that an index gives them.

    Of more than two channels it is the first, which in B-format hears all directions alike: a browser would mix them.
    """
    x = x if len(x) <= 2 else x[:1]
    names = {"file": f"{name}.flac", "spectrogram": f"{name}.png"}
    files[names["file"]] = sound_bytes(x.clamp(-1, 1), rate)
    files[names["spectrogram"]] = spectrogram.png(x, rate)
    return names


def _pack(clips: list[_Clip], rate: int, seconds: float) -> dict[str, bytes]:
    """The files of the folder by name, of the first seconds of each clip."""
    files: dict[str, bytes] = {}
    length = _samples(seconds, rate)
    shown = []
    for number, clip in enumerate(clips):
        item: dict[str, Any] = {
            "index": clip.index, "label": clip.label, "seconds": clip.original.shape[-1] / rate,
            "shown": min(length, clip.original.shape[-1]) / rate, "codecs": [],
            **add_sound(files, str(number), clip.original[:, :length], rate),
        }  # fmt: skip
        for place, player in enumerate(clip.players):
            entry = dict(player.entry)
            if player.sound is not None:
                entry |= add_sound(files, f"{number}-{place}", player.sound[:, :length], rate)
            if player.symbols is not None:
                positions = max(1, length // entry["patch"])
                entry["latent"] = f"{number}-{place}-latent.png"
                files[entry["latent"]] = gallery.latent_picture(player.symbols[:, :positions])
            item["codecs"].append(entry)
        shown.append(item)
    files[gallery.INDEX] = (
        json.dumps({"rate": rate, "channels": len(clips[0].original), "clips": shown}, indent=1) + "\n"
    ).encode()
    return files


def _samples(seconds: float, rate: int) -> int:
    return max(1, round(seconds * rate))
