"""What a page holds of sound: what players play, and what the axes of their spectrograms say."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cml.eval import gallery, sound_answers, spectrogram

_Uri = Callable[[Path], str | None]


def sampling_rate(about: Mapping[str, Any], context: Mapping[str, Any]) -> int | None:
    """Samples a second of the clips of a run; None where it is not about sound."""
    size = about.get("size") or context.get("size") or ()
    return int(context.get("sampling_rate", 0)) or None if len(size) == 1 else None


def size_of(size: int, rate: int) -> str:
    """A length as people read it."""
    return f"{size / rate:.3g} s, {size} samples at {rate / 1000:g} kHz, before any codec"


def scales(rate: int) -> dict[str, Any]:
    """What the axes and colours of the page's spectrograms mean."""
    return {
        "rate": rate, "floor": spectrogram.FLOOR, "colours": spectrogram.colours(), "ticks": spectrogram.ticks(rate),
    }  # fmt: skip


def embed(item: dict[str, Any], folder: Path, uri: _Uri) -> None:
    """Put what the files of an item hold in the place of their names."""
    for part in gallery.PARTS:
        if part in item:
            item[part] = uri(folder / item[part])


def answers(folder: Path, uri: _Uri, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
    """The stems that were kept, with their sounds; None where there are none."""
    said = read(folder / sound_answers.INDEX)
    if not said:
        return None
    conditions = said["conditions"]
    for item in (said["mixture"], *said["stems"], *(stem for each in conditions for stem in each["stems"])):
        embed(item, folder, uri)
    return said
