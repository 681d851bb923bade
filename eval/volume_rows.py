"""The measurements of `rd` for signals of three axes: one row a signal and operating point, and choices among them."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cml.eval.rd_points import Point

from cml.codecs.base import CodecSpec
from cml.codecs.factory import create_codec
from cml.errors import CmlError


@dataclass(frozen=True)
class VolumeRow:
    """One signal at one operating point; NaN, an empty cell of the file, is a measure not taken, or without a value."""

    key: str
    """Content key: the signal's samples, codec configuration and weights, operating point, measures, versions."""
    signal: str
    curve: str
    """The codec without the option that steers its rate: the points of one curve have one name."""
    point: str
    """The operating point, as `create_codec` takes it."""
    channels: int
    slices: int
    """Of the first of the three axes: slices, bands or frames."""
    height: int
    width: int
    bit_depth: int
    """Bits that a sample is stored with: 8, 16 or 32."""
    bytes: int
    """Of the whole container or file."""
    bpv: float
    """8 x bytes / (slices x height x width): bits a voxel, or a pixel of a frame, with all of its channels."""
    psnr: float
    """dB against max - min of the signal, of video against 255, over all samples."""
    ssim: float
    """Mean over slices, bands or frames."""
    sam: float
    """Spectral angle of cubes, degrees, mean over pixels; less is better."""
    encode_mvps: float
    """Millions of voxels in a CPU second on one thread, signal to bytes: the median of a few passes."""
    decode_mvps: float
    """The same, bytes to signal."""

    @property
    def stored(self) -> float:
        """Bits a voxel of the signal as it is stored."""
        return self.bit_depth * self.channels

    @property
    def encode_fps(self) -> float:
        """Frames a second."""
        return self.encode_mvps * 1e6 / (self.height * self.width)

    @property
    def decode_fps(self) -> float:
        return self.decode_mvps * 1e6 / (self.height * self.width)


MEASURES = ("psnr", "ssim", "sam")
SPEEDS = ("encode_mvps", "decode_mvps", "encode_fps", "decode_fps")


def defaults(points: Sequence[Point]) -> list[CodecSpec]:
    """Of each codec with latents the operating point at which it is shipped, or the middle one where that is not among
    the points."""
    curves: dict[str, list[CodecSpec]] = {}
    for point in points:
        if point.codec.spec.latent_channels is not None:
            curves.setdefault(point.curve, []).append(point.codec.spec)
    found = []
    for curve, specs in curves.items():
        try:
            shipped = create_codec(curve).spec.name
        except CmlError:  # a curve of given points of a codec that has no point of its own
            shipped = ""
        found.append(next((spec for spec in specs if spec.name == shipped), specs[len(specs) // 2]))
    return found


def rate_of(rows: Iterable[VolumeRow], point: str) -> float:
    """Bits a voxel of an operating point, mean over the signals; NaN where it is not measured."""
    rates = [row.bpv for row in rows if row.point == point]
    return statistics.fmean(rates) if rates else math.nan


def nearest(rows: Sequence[VolumeRow], bpv: float) -> dict[str, str]:
    """Curve -> that of its operating points whose rate is nearest to another one, in ratio."""
    found: dict[str, str] = {}
    distances: dict[str, float] = {}
    for curve, point in dict.fromkeys((row.curve, row.point) for row in rows):
        distance = abs(math.log(rate_of(rows, point) / bpv))
        if curve not in found or distance < distances[curve]:
            found[curve], distances[curve] = point, distance
    return found
