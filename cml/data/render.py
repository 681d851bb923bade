"""Notes to sound: MIDI files, the program fluidsynth with a soundfont, and stems in balance."""

import hashlib
import math
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from cml.data.arrange import Line
from cml.data.sound import read_sound
from cml.errors import DataError
from cml.files import read_bytes

PEAK = 0.9
"""The largest sample of a mixture."""
SOUNDFONTS = (
    "/usr/share/sounds/sf3/MuseScore_General_Lite.sf3", "/usr/share/sounds/sf3/MuseScore_General_Full.sf3",
    "/usr/share/sounds/sf3/MuseScore_General.sf3", "/usr/share/sounds/sf2/MuseScore_General.sf2",
)  # fmt: skip
_TICKS = 500  # of a quarter note of half a second: a tick is a millisecond
_DRUM_CHANNEL = 9
_FULL = 1 << 15
_SPREAD = 4.0  # dB up or down, of a stem's loudness


class Renderer(Protocol):
    """What plays lines."""

    @property
    def versions(self) -> dict[str, str]:
        """What makes the sound; the same versions make the same sound."""
        ...

    def render(self, lines: Sequence[Line], rate: int, samples: int) -> Tensor:
        """Stereo sound of one stem, float32 (2, samples), at any level."""
        ...


class FluidSynth:
    """The program fluidsynth with a soundfont.

    Args:
        soundfont: a .sf2 or .sf3 file of General MIDI; None looks for MuseScore General where Debian puts it.

    Raises:
        DataError: the program or the soundfont is missing.
    """

    def __init__(self, soundfont: str | Path | None = None):
        program = shutil.which("fluidsynth")
        if program is None:
            raise DataError(
                "Rendering needs the program fluidsynth: apt-get install fluidsynth, or brew install fluid-synth."
            )
        found = [Path(path) for path in ([soundfont] if soundfont else SOUNDFONTS) if Path(path).is_file()]
        if not found:
            raise DataError(
                f"There is no soundfont {soundfont}: give the path of a .sf2 or .sf3 file."
                if soundfont
                else "Rendering needs a soundfont: apt-get install musescore-general-soundfont-small, or give "
                "--soundfont PATH."
            )
        self._program, self._soundfont = program, found[0]
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.split()
        self.versions = {
            "fluidsynth": next((word for word in said if word[0].isdigit()), "unknown"),
            "soundfont": self._soundfont.resolve().name,
            "soundfont_sha256": hashlib.sha256(read_bytes(self._soundfont)).hexdigest(),
        }

    def render(self, lines: Sequence[Line], rate: int, samples: int) -> Tensor:
        """Stereo sound of one stem, float32 (2, samples), with fluidsynth's reverb and chorus."""
        with tempfile.TemporaryDirectory() as folder:
            midi, wave = Path(folder) / "stem.mid", Path(folder) / "stem.wav"
            midi.write_bytes(midi_file(lines, samples / rate))
            command = [
                self._program, "-ni", "-q", "-r", str(rate), "-g", "0.3", "-O", "float", "-T", "wav", "-F", str(wave),
                "-o", "synth.cpu-cores=1", "-o", "synth.dynamic-sample-loading=1", str(self._soundfont), str(midi),
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
            if done.returncode or not wave.is_file():
                said = (done.stderr or done.stdout).strip().splitlines()
                raise DataError(f"fluidsynth has failed: {said[-1] if said else f'exit code {done.returncode}'}.")
            x = read_sound(wave, channels=2).samples
        return torch.nn.functional.pad(x, (0, max(0, samples - x.shape[1])))[:, :samples]


def midi_file(lines: Sequence[Line], seconds: float) -> bytes:
    """A standard MIDI file of one track in which a tick is a millisecond; every line has a channel of its own."""
    channels = [channel for channel in range(16) if channel != _DRUM_CHANNEL]
    events: list[tuple[int, int, bytes]] = []  # (tick, order within it, message)
    for number, line in enumerate(lines):
        channel = _DRUM_CHANNEL if line.family == "drums" else channels[number % len(channels)]
        events.append((0, 0, bytes((0xC0 | channel, line.program))))
        events.append((0, 0, bytes((0xB0 | channel, 10, line.pan))))
        for event in line.events:
            start, stop = round(1000 * event.onset), round(1000 * (event.onset + event.length))
            events.append((start, 2, bytes((0x90 | channel, event.pitch, event.velocity))))
            events.append((max(stop, start + 1), 1, bytes((0x80 | channel, event.pitch, 64))))
    track, now = bytearray(b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big")), 0
    for tick, _, message in sorted(events):
        track += _varying(tick - now) + message
        now = tick
    track += _varying(max(0, math.ceil(1000 * seconds) + 200 - now)) + b"\xff\x2f\x00"
    return struct.pack(">4sIHHH", b"MThd", 6, 0, 1, _TICKS) + struct.pack(">4sI", b"MTrk", len(track)) + track


def _varying(number: int) -> bytes:
    """A number in groups of seven bits, the highest first, as MIDI writes times."""
    out = [number & 0x7F]
    while number := number >> 7:
        out.append(0x80 | (number & 0x7F))
    return bytes(reversed(out))


def balance(stems: Tensor, rng: np.random.Generator) -> tuple[Tensor, list[float]]:
    """Stems as 16-bit numbers whose plain sum is the mixture.

    Each stem is brought to the same root mean square, then up or down by a seeded gain of up to 4 dB; then all together
    are scaled to a mixture whose peak is `PEAK`.

    Args:
        stems: (S, C, T) float32, at any level; a silent one stays silent.
        rng: draws the gains.

    Returns:
        Stems float32 (S, C, T), whole multiples of 2^-15, and the gain of each in dB.
    """
    power = stems.double().pow(2).mean((1, 2)).sqrt()
    spread = torch.from_numpy(rng.uniform(-_SPREAD, _SPREAD, len(stems)))
    gains = torch.where(power > 1e-6, 10 ** (spread / 20) / power.clamp_min(1e-6), torch.ones_like(power))
    mixture = (stems.double() * gains[:, None, None]).sum(0)
    # Rounding moves a sum by half a step for each stem at most.
    gains *= (PEAK - len(stems) / 2 / _FULL) / float(mixture.abs().max().clamp_min(1e-6))
    scaled = (stems.double() * gains[:, None, None] * _FULL).round() / _FULL
    return scaled.float(), [round(20 * math.log10(gain), 2) for gain in gains.tolist()]
