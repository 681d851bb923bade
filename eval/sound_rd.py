"""`rd` for sound: what codecs cost and give on a set of clips, operating point by operating point, resumable."""

import hashlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from cml.eval import sound_metrics, sound_rd_report
from cml.eval.rd_loop import cpu_timed, kept, library_versions, round_trip, take
from cml.eval.rd_points import Point, curve_of, points_with, usable
from cml.eval.rd_report import Request
from cml.eval.rd_rows import Rows, summarize
from cml.eval.results import cell_key
from torch import Tensor

from cml import hub
from cml.data.sound import common_format, find_sounds, sound_header
from cml.data.sound_sets import ClipSplit, load_clips
from cml.errors import CmlError

ANCHOR = "opus"
RIVALS = ("opus", "mp3", "aac", "vorbis", "vorbis:inside=16000", "resample")
"""Those people use. Vorbis has no bit rates below some 40 kbit/s but at a lower sampling rate."""
_SPEECH_RATE = 16000

# Raised whenever a measured number changes its meaning; rows of different versions are never mixed.
SOUND_RD_VERSION = 1
_LIBRARIES = ("torch", "torchaudio", "numpy", "av", "soundfile", "speechmos")

Measure = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class SoundRow:
    """One clip at one operating point; NaN, an empty cell of the file, is a measure not taken, or without a value."""

    key: str
    """Content key: the clip's samples, codec configuration and weights, operating point, measures, versions."""
    clip: str
    curve: str
    """The codec without the option that steers its rate: the points of one curve have one name."""
    point: str
    """The operating point, as `create_codec` takes it."""
    sampling_rate: int
    channels: int
    samples: int
    """Of each channel."""
    bytes: int
    """Of the whole container or file."""
    kbps: float
    """8 x bytes / seconds / 1000."""
    si_sdr: float
    """dB, from -30 to 100; no value where the clip is silent."""
    psnr: float
    """dB against full scale, 1."""
    lsd: float
    """Log-spectral distance, dB."""
    dnsmos: float
    level_error: float
    """dB; this and the next of clips of several channels."""
    covariance_error: float
    encode_x: float
    """Seconds of sound in a CPU second on one thread, clip to bytes: the median of a few passes."""
    decode_x: float
    """The same, bytes to clip."""


MEASURES = ("si_sdr", "psnr", "lsd", "dnsmos", "level_error", "covariance_error")


@dataclass
class SoundPlan:
    """What a benchmark will measure, checked before anything runs.

    Attributes:
        clips: what is measured on.
        points: the operating points, those of a curve together.
        measures: name -> function of two (C, T).
        notes: sentences on what is left out.
    """

    clips: ClipSplit
    points: list[Point]
    measures: dict[str, Measure]
    notes: list[str] = field(default_factory=list)


def sound_rd(
    data: str,
    codecs: Sequence[str] | None = None,
    *,
    out: str | Path,
    anchor: str = ANCHOR,
    perceptual: bool = False,
) -> pd.DataFrame:
    """Measure rate, distortion and speed of codecs of sound on every clip of a set.

    Each measured clip is appended to OUT.csv at once and never measured again; run it again after an interruption.

    Args:
        data: a folder of sounds, searched with its subfolders, or a set whose test split is taken, "esc10:PATH",
            "slakh:PATH", "ambisonic:PATH" (`cml.data.sound_sets.load_clips`).
        codecs: names, each measured at a ladder of operating points, and operating points, measured as given; several
            of one codec form a curve. Those with an option `rate` are told the sampling rate of the clips. None for the
            codecs people use and the bundled ones for so many channels.
        out: where the results go, without suffix: OUT.csv, OUT.md and OUT.png.
        anchor: the codec that BD-rates are against; it is measured too.
        perceptual: DNSMOS too, a second of computing for each of a few seconds of speech.

    Returns:
        One row an operating point: means over the clips, medians of the speeds. The attribute `failed` of the frame
        holds a sentence for each measurement that failed, `notes` those on what is left out, `rate` and `channels` what
        the clips have.

    Raises:
        CmlError: something is wrong with the request; nothing has run then.
    """
    plan = make_plan(data, codecs, anchor, perceptual)
    names = {name: number for number, name in enumerate(plan.clips.names)}
    contents = {name: _content(plan.clips, number) for name, number in names.items()}
    keys = {point.codec.spec.name: _keys(plan, point, contents) for point in plan.points}
    rows = Rows(f"{out}.csv", SoundRow)
    failed = take(
        plan.points, list(names), keys, rows, read=lambda name: plan.clips.sound(names[name]), warm=round_trip,
        one=lambda point, name, key, x: _measure_one(plan, point, name, key, x), told=_told,
    )  # fmt: skip
    wanted = kept(plan.points, keys, rows)
    table = summarize(wanted, len(names), ("kbps", *MEASURES), ("encode_x", "decode_x"))
    plan.notes += _silent(wanted)
    table.attrs.update(failed=failed, notes=plan.notes, rate=plan.clips.rate, channels=plan.clips.channels)
    request = Request(
        data=data, codecs=codecs, out=str(out), anchor=curve_of(anchor), printed=None, perceptual=perceptual,
        pictures=len(names), versions=library_versions(_LIBRARIES),
        settings={point.codec.spec.name: point.codec.spec.settings for point in plan.points},
    )  # fmt: skip
    sound_rd_report.write(table, request)
    return table


def make_plan(data: str, codecs: Sequence[str] | None, anchor: str, perceptual: bool) -> SoundPlan:
    """Check a request: the clips, and every name and option."""
    clips = clips_of(data)
    notes: list[str] = []
    names = [*codecs] if codecs is not None else default_codecs(clips.channels, clips.rate, notes)
    points = points_with(anchor, names, clips.rate)
    for point in points:
        spec = point.codec.spec
        if spec.ndim != 1 or clips.channels not in spec.channels:
            what = (
                "is no codec of sound" if spec.ndim != 1 else f"does not take the {clips.channels} channel(s) of {data}"
            )
            raise CmlError(f"{spec.name} {what}; leave it out.")
    return SoundPlan(clips, points, _measures(clips, perceptual, notes), notes)


def clips_of(data: str) -> ClipSplit:
    """Every sound of a folder, at the rate that most have; or the test split of a named set."""
    if not Path(data).is_dir():
        return load_clips(data).test
    folder = Path(data)
    files = find_sounds(folder)
    rate, channels = common_format([sound_header(file) for file in files])
    return ClipSplit([file.relative_to(folder).as_posix() for file in files], files, rate, channels)


def default_codecs(channels: int, rate: int, notes: list[str]) -> list[str]:
    """The codecs people use and the bundled ones for so many channels; what cannot be used is noted."""
    bundled = [name for name in hub.bundled_names() if not name.startswith("speech") or rate == _SPEECH_RATE]
    names = []
    for name, spec in usable([*RIVALS, *bundled], notes):
        if spec.ndim == 1 and channels in spec.channels:
            names.append(name)
        elif spec.ndim == 1 and name in RIVALS:
            notes.append(f"{name} does not take {channels} channels, and is left out.")
    return names


def _measures(clips: ClipSplit, perceptual: bool, notes: list[str]) -> dict[str, Measure]:
    rate = clips.rate
    measures: dict[str, Measure] = {
        "si_sdr": sound_metrics.si_sdr,
        "psnr": sound_metrics.psnr,
        "lsd": lambda x, y: sound_metrics.log_spectral_distance(x, y, rate),
    }
    if perceptual:
        try:
            sound_metrics.load_dnsmos()
            measures["dnsmos"] = lambda x, y: sound_metrics.dnsmos(y, rate)
        except CmlError as error:
            notes.append(f"{error} It is left out.")
    if clips.channels > 1:
        measures["level_error"] = sound_metrics.level_error
        measures["covariance_error"] = lambda x, y: sound_metrics.covariance_error(x, y, rate)
    return measures


def _content(clips: ClipSplit, number: int) -> str:
    return hashlib.sha256(clips.sound(number).numpy().tobytes()).hexdigest()


def _keys(plan: SoundPlan, point: Point, contents: Mapping[str, str]) -> dict[str, str]:
    """Clip -> content key of its measurement at a point."""
    spec = point.codec.spec
    context = {
        "sound_rd_version": SOUND_RD_VERSION, "codec": spec.name, "codec_id": spec.codec_id,
        "settings": dict(spec.settings), "sampling_rate": plan.clips.rate, "measures": sorted(plan.measures),
        "versions": library_versions(_LIBRARIES),
    }  # fmt: skip
    return {name: cell_key(context | {"clip": content}) for name, content in contents.items()}


def _measure_one(plan: SoundPlan, point: Point, name: str, key: str, x: Tensor) -> SoundRow:
    codec, rate = point.codec, plan.clips.rate
    blob, encode = cpu_timed(lambda: codec.compress(x))
    x_hat, decode = cpu_timed(lambda: codec.decompress(blob))
    values = dict.fromkeys(MEASURES, math.nan) | {name: f(x, x_hat) for name, f in plan.measures.items()}
    seconds = x.shape[1] / rate
    return SoundRow(
        key=key, clip=name, curve=point.curve, point=codec.spec.name, sampling_rate=rate, channels=len(x),
        samples=x.shape[1], bytes=len(blob), kbps=8 * len(blob) / seconds / 1000, **values,
        encode_x=seconds / encode, decode_x=seconds / decode,
    )  # fmt: skip


def _told(taken: Sequence[SoundRow]) -> str:
    heard = [row.si_sdr for row in taken if not math.isnan(row.si_sdr)]
    kbps = statistics.fmean(row.kbps for row in taken)
    return f"{len(taken)} clips, {kbps:.2f} kbit/s" + (f", {statistics.fmean(heard):.2f} dB" if heard else "")


def _silent(rows: Iterable[SoundRow]) -> list[str]:
    silent = sorted({row.clip for row in rows if math.isnan(row.si_sdr)})
    return [f"SI-SDR is the mean without {len(silent)} silent clip(s): {', '.join(silent)}."] if silent else []
