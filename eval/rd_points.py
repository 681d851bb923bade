"""The operating points that a rate-distortion benchmark measures: ladders of options, and the curves they form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cml.codecs.base import Codec, CodecSpec
from cml.codecs.factory import create_codec, parse_operating_point
from cml.codecs.rate import for_sampling_rate, steering
from cml.errors import CmlError

LADDERS: Mapping[str, tuple[float, ...]] = {
    "jpeg": (10, 20, 35, 50, 65, 75, 85, 93),
    "jpeg2000": (200, 120, 70, 40, 24, 16, 10, 6),
    "webp": (1, 10, 25, 45, 60, 75, 85, 93),
    "avif": (5, 15, 25, 35, 50, 65, 78, 88),
    "jpegxl": (5, 15, 30, 50, 65, 80, 90, 95),
    "heic": (10, 18, 26, 34, 42, 50, 60, 70),
    "jpegls": (60, 40, 25, 15, 9, 6),
    "bits": (1, 2, 3, 4),
    "resize": (8, 6, 4, 3, 2),
    "opus": (6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
    "mp3": (8, 16, 24, 32, 48, 64, 96, 128),
    "aac": (8, 12, 16, 24, 32, 48, 64, 96, 128),
    "vorbis": (0, 1, 2, 4, 6, 8),
    "resample": (64, 48, 32, 24, 16, 12, 8, 6, 4),
    "lyra": (3.2, 6, 9.2),
    "slices-jpeg2000": (1000, 500, 250, 125, 64, 32, 16, 8),
    "slices-jpegxl": (0, 5, 10, 20, 35, 50, 65, 80, 90),
    "slices-hevc": (48, 44, 40, 36, 31, 26, 21, 16),
    "zfp": (16, 4, 1, 0.4, 0.15, 0.06, 0.02),
    "sz3": (0.6, 0.4, 0.25, 0.15, 0.08, 0.04, 0.02, 0.008),
    "sperr": (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.2),
    "downsample": (12, 8, 6, 4, 3, 2),
    "x264": (51, 46, 41, 36, 31, 26, 21, 15),
    "x265": (51, 46, 41, 36, 31, 26, 21, 15),
    "vp9": (63, 58, 52, 46, 40, 33, 25, 15),
    "av1": (63, 57, 50, 43, 36, 29, 20, 10),
    "frames-jpeg": (2, 5, 10, 20, 35, 55, 75, 90),
    "frames-avif": (1, 5, 15, 25, 35, 50, 65, 80),
}
"""Values of the steering option for a codec named without one: from about 0.1 to about 3 bits a pixel of a photo, from
about 6 to about 128 kbit/s of sound, and from about 0.01 to about 1 bit a voxel or a pixel of video."""
_BITS_OF_SOUND = (1, 2, 3, 4, 5, 6)
STEPS = (4.0, 2.8, 2.0, 1.4, 1.0, 0.7, 0.48, 0.32, 0.2)
"""The same for codecs that are steered by their quantization step, in units of their default step."""
STEPS_OF_VOLUMES = (16.0, 8.0, 5.6, 4.0, 2.8, 2.0, 1.4, 1.0, 0.5, 0.25)
STEPS_OF_SOUND = (5.0, 4.0, 2.8, 2.0, 1.4, 1.0, 0.5, 0.2, 0.08, 0.03)

_TOGETHER = {
    "vq": ("patch", "codes"), "encodec": ("codebooks",), "dac": ("codebooks",), "mimi": ("codebooks",),
    "decimate": ("space", "time"),
}  # fmt: skip
"""Options that steer the rate, so that nothing can be searched along them."""


@dataclass(frozen=True)
class Point:
    """One operating point of one curve."""

    curve: str
    codec: Codec


def curve_of(name: str) -> str:
    """The name of a curve: the codec and its options, without the one that steers its rate."""
    base, options = parse_operating_point(name)
    steer = steering(name)
    steers = (steer.option,) if steer else _TOGETHER.get(base.partition(":")[0], ())
    others = [f"{key}={value}" for key, value in sorted(options.items()) if key not in steers]
    # The same codec, steered by what each slice is to reach, is another curve.
    others += ["psnr"] if "psnr" in steers else []
    return base + (":" + ",".join(others) if others else "")


def points_of(names: Sequence[str], sampling_rate: int | None = None) -> list[Point]:
    """The operating points that names stand for: a ladder, unless the option that steers the rate is given.

    Args:
        names: codecs.
        sampling_rate: samples a second of the signals, of sound, which codecs that have the option `rate` are told.
    """
    points: dict[str, Point] = {}
    for name in names:
        base, options = parse_operating_point(name)
        steer = steering(name)
        values = ladder(base, name) if steer and steer.option not in options else ()
        made = [create_codec(base, **options, **{steer.option: value}) for value in values] if steer else []
        for point in made or [create_codec(name)]:
            codec = point if sampling_rate is None else create_codec(for_sampling_rate(point.spec.name, sampling_rate))
            points.setdefault(codec.spec.name, Point(curve_of(name), codec))
    order = list(dict.fromkeys(point.curve for point in points.values()))
    return sorted(points.values(), key=lambda point: order.index(point.curve))


def points_with(anchor: str, names: Sequence[str], sampling_rate: int | None = None) -> list[Point]:
    """As `points_of`, and the points of a codec to compare with, first, where the names do not have its curve."""
    points = points_of(names, sampling_rate)
    if any(point.curve == curve_of(anchor) for point in points):
        return points
    return points_of([anchor, *names], sampling_rate)


def usable(names: Sequence[str], notes: list[str]) -> list[tuple[str, CodecSpec]]:
    """Those of some codecs that can be made here; a sentence for each of the others is added to `notes`."""
    found = []
    for name in names:
        try:
            found.append((name, create_codec(name).spec))
        except CmlError as error:
            notes.append(f"{error} It is left out.")
    return found


def ladder(base: str, name: str) -> tuple[float, ...]:
    """The values of the steering option that stand for a codec without an operating point."""
    if base == "bits" and parse_operating_point(name)[1].get("ndim") == 1:
        return _BITS_OF_SOUND
    if base.partition(":")[0] in LADDERS:
        return LADDERS[base.partition(":")[0]]
    spec = create_codec(name).spec
    # Of two axes and many channels: a cube whose bands are channels.
    steps = (
        STEPS_OF_SOUND if spec.ndim == 1 else STEPS_OF_VOLUMES if spec.ndim == 3 or min(spec.channels) > 4 else STEPS
    )
    return tuple(float(f"{factor * spec.settings['step']:.3g}") for factor in steps)
