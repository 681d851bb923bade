"""A page to listen to: short clips through our codecs, and through others at rates as near as they have them.

python -m cml.eval.listening a.flac b.flac c.flac -o docs/results/listening --about "Where they are from."

clips, mono --codecs--> OUT.md, a table a clip, with players and spectrograms; the sounds, FLAC, in the folder OUT/
"""

import io
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from cml.eval import spectrogram
from cml.eval.gallery import store
from cml.eval.sound_gallery import through
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

import cml
from cml.codecs.base import Codec
from cml.codecs.factory import create_codec
from cml.codecs.rate import for_sampling_rate, match_rate
from cml.data.sound import read_sound, sound_bytes
from cml.errors import CmlError
from cml.files import write_atomic

OURS = ("mono_f256c16:step=0.05", "mono_f64c64")
RIVALS = ("opus", "mp3", "resample")
"""The first is heard at the rates of all of ours, the others at the highest."""
MOST = 2_000_000
"""Bytes of all sounds and pictures: they are kept with the project."""
_GREYS = 9  # of letters and lines


@dataclass(frozen=True)
class Heard:
    """A clip as one codec leaves it: (1, T), its kbit/s, and its SI-SDR in dB, NaN of silence and of the original."""

    name: str
    sound: Tensor
    kbps: float
    si_sdr: float


def listen(x: Tensor, rate: int, ours: Sequence[str] = OURS, rivals: Sequence[str] = RIVALS) -> list[Heard]:
    """A clip through every codec, as it was first, then by rate.

    Args:
        x: (1, T) float in [-1, 1].
        rate: samples a second.
        ours: operating points.
        rivals: codecs whose rate can be steered.
    """
    heard = [_hear(create_codec(for_sampling_rate(name, rate)), x, rate) for name in ours]
    rates = [each.kbps * 1000 / rate for each in heard]  # bits a sample
    for number, name in enumerate(rivals):
        for target in rates if number == 0 else [max(rates)]:
            codec, _ = match_rate(for_sampling_rate(name, rate), x, target)
            heard.append(_hear(codec, x, rate))
    return [Heard("original", x, 16 * rate / 1000, math.nan), *sorted(heard, key=lambda each: each.kbps)]


def _hear(codec: Codec, x: Tensor, rate: int) -> Heard:
    player = through(codec, x, rate)
    if player.sound is None:
        raise CmlError(f"{codec.spec.name} failed: {player.entry['error']}")
    ratio = player.entry["si_sdr"]
    return Heard(codec.spec.name, player.sound, player.entry["kbps"], math.nan if ratio is None else ratio)


def write(clips: dict[str, tuple[Tensor, int]], out: Path, about: str, command: str, **codecs: Sequence[str]) -> int:
    """Write the page of some clips and its files; returns the bytes of the files.

    Args:
        clips: name -> (1, T) float in [-1, 1], and samples a second.
        out: without suffix.
        about: what the clips are, a sentence or more.
        command: that made the page.
        codecs: `ours` and `rivals` of `listen`.

    Raises:
        CmlError: a codec fails, or the files have more than `MOST` bytes.
    """
    files: dict[str, bytes] = {}
    lines = [
        "# Listening", "", about, "",
        "Each clip is mono. Rate: 8 x the bytes of the whole file or container, headers too, in a second of the clip. "
        "SI-SDR is how near the waveform comes. Opus and MP3 do not aim at that but shape their error for the ear, "
        "so they may sound better than it says. The sounds are kept without loss, 16 bits: what is heard is what the "
        "codec did.",
        "",
    ]  # fmt: skip
    for name, (x, rate) in clips.items():
        lines += [f"## {name}", "", f"{x.shape[-1] / rate:.3g} s at {rate / 1000:g} kHz.", ""]
        lines += ["| codec | kbit/s | SI-SDR, dB | sound |", "|---|--:|--:|---|"]
        for number, each in enumerate(listen(x, rate, **codecs)):
            stem = f"{name}-{number}"
            files[f"{stem}.flac"] = sound_bytes(each.sound.clamp(-1, 1), rate)
            files[f"{stem}.png"] = _picture(each.sound, rate)
            ratio = "" if math.isnan(each.si_sdr) else f"{each.si_sdr:.1f}"
            label = each.name if number == 0 else f"`{each.name}`"
            lines.append(f"| {label} | {each.kbps:.3g} | {ratio} | {_player(out.name, stem, each.name)} |")
        lines.append("")
    total = sum(map(len, files.values()))
    if total > MOST:
        raise CmlError(f"The sounds take {total / 1e6:.2f} MB, more than {MOST / 1e6:g}: take fewer seconds.")
    versions = {"cml": cml.__version__, "python": sys.version.split()[0]}
    lines += ["## Made by", "", "```", command, "```", "", f"Versions: `{json.dumps(versions)}`."]
    store(files, out)
    write_atomic(out.with_name(f"{out.name}.md"), "\n".join(lines) + "\n")
    return total


def _player(folder: str, stem: str, name: str) -> str:
    """A player and a picture. On the site a page is a folder, and its sounds lie beside it; elsewhere in their own."""
    sources = "".join(f'<source src="{place}{stem}.flac" type="audio/flac">' for place in ("", f"{folder}/"))
    audio = f'<audio controls preload="none" aria-label="{stem}, {name}">{sources}</audio>'
    return f"![Spectrogram of {stem}, {name}]({folder}/{stem}.png)<br>{audio} [FLAC]({folder}/{stem}.flac)"


def _picture(x: Tensor, rate: int) -> bytes:
    """A spectrogram with axes, as a small PNG."""
    figure = Figure(figsize=(4.2, 1.5), dpi=100, layout="constrained")
    image = spectrogram.plot(figure.add_subplot(), x, rate)
    spectrogram.colour_bar(figure, image)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    greys = np.linspace(0, 255, _GREYS).round().astype(np.uint8)[:, None].repeat(3, 1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.concatenate([spectrogram.PALETTE, greys]).tobytes())
    small = io.BytesIO()
    with Image.open(buffer) as drawn:
        drawn.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def main(
    sources: Annotated[list[Path], typer.Argument(help="Sound files.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write, without suffix.")],
    about: Annotated[str, typer.Option(help="What the sounds are, where they come from, and their licence.")],
    ours: Annotated[str, typer.Option(help="Operating points, separated by spaces.")] = " ".join(OURS),
    rivals: Annotated[
        str, typer.Option(help="Codecs at the rates nearest to those; the first at all, the others at the highest.")
    ] = " ".join(RIVALS),
    seconds: Annotated[float, typer.Option(help="Of each clip, from its start.")] = 2.7,
) -> None:
    """Write a page with players for short clips through codecs."""
    clips = {}
    for source in sources:
        sound = read_sound(source, channels=1)
        clips[source.stem] = sound.samples[:, : max(1, round(seconds * sound.rate))], sound.rate
    command = f"python -m cml.eval.listening {shlex.join(sys.argv[1:])}"
    total = write(clips, out, about, command, ours=ours.split(), rivals=rivals.split())
    print(f"{out}.md, {total / 1e6:.2f} MB of sounds and pictures")


if __name__ == "__main__":
    typer.run(main)
