"""Rate control by search: the operating point of a codec that meets a rate, or stays within a number of bytes."""

import math
from dataclasses import dataclass

from torch import Tensor

from cml.codecs.base import Codec
from cml.codecs.factory import create_codec, parse_operating_point
from cml.codecs.lyra import Lyra
from cml.codecs.sound_files import Mp3
from cml.errors import CodecError


@dataclass(frozen=True)
class Steering:
    """How the rate of a codec is steered.

    Attributes:
        option: the option that is searched.
        low, high: its values at the lowest and at the highest rate.
        whole: whether it takes whole numbers only.
        among: all values that it takes, rising, where they are few.
    """

    option: str
    low: float
    high: float
    whole: bool = True
    among: tuple[float, ...] = ()

    def _between(self, low: float, high: float) -> list[float]:
        return [value for value in self.among if min(low, high) < value < max(low, high)]

    def middle(self, low: float, high: float) -> float:
        """Halfway: between whole numbers, or between the logarithms of real ones."""
        if self.among:
            between = self._between(low, high)
            return between[len(between) // 2]
        return round((low + high) / 2) if self.whole else float(f"{math.sqrt(low * high):.4g}")

    def met(self, low: float, high: float) -> bool:
        """Whether nothing worth trying lies between."""
        if self.among:
            return not self._between(low, high)
        return abs(high - low) <= 1 if self.whole else max(high, low) / min(high, low) < 1.01


_STEERING = {
    "jpeg": Steering("quality", 1, 100),
    "webp": Steering("quality", 0, 100),
    "avif": Steering("quality", 0, 100),
    "jpegxl": Steering("quality", 0, 100),
    "heic": Steering("quality", 0, 100),
    # A larger error is no longer a lower rate: the predictions suffer.
    "jpegls": Steering("near", 60, 0),
    "bits": Steering("bits", 1, 8),
    "resize": Steering("factor", 32, 1),
    "jpeg2000": Steering("rate", 2000.0, 1.0, whole=False),
    "opus": Steering("kbps", 2.0, 256.0, whole=False),
    "aac": Steering("kbps", 4.0, 320.0, whole=False),
    "mp3": Steering("kbps", 8, 320, among=Mp3.BIT_RATES),
    "vorbis": Steering("quality", 0, 10),
    "resample": Steering("factor", 64, 1),
    "slices-jpeg2000": Steering("rate", 5000.0, 1.0, whole=False),
    "slices-jpegxl": Steering("quality", 0, 100),
    "slices-hevc": Steering("crf", 51, 0),
    "zfp": Steering("tolerance", 16.0, 1e-6, whole=False),
    "sz3": Steering("tolerance", 1.0, 1e-6, whole=False),
    "sperr": Steering("bpp", 0.005, 16.0, whole=False),
    "downsample": Steering("factor", 32, 1),
    "decimate": Steering("space", 16, 1, whole=False),
    "x264": Steering("crf", 51, 0),
    "x265": Steering("crf", 51, 0),
    "vp9": Steering("crf", 63, 0),
    "av1": Steering("crf", 63, 1),
    "frames-jpeg": Steering("quality", 1, 100),
    "frames-avif": Steering("quality", 0, 100),
}
_PSNR = Steering("psnr", 10.0, 120.0, whole=False)
_BITS_OF_SOUND = Steering("bits", 1, 16)
_LYRA = Steering("kbps", 3.2, 9.2, among=Lyra.BIT_RATES)
_COMPRESSAI = Steering("quality", 1, 6)  # all of its models have these
_STEP = Steering("step", 16.0, 0.01, whole=False)


def steering(name: str) -> Steering | None:
    """How the rate of a codec is steered; None for a codec that has one rate only.

    A codec without an entry here is steered by its quantization `step`, if its operating point has one.
    """
    base, options = parse_operating_point(name)
    if base == "bits" and options.get("ndim") == 1:
        return _BITS_OF_SOUND
    if base == "slices-jpeg2000" and "psnr" in options:
        return _PSNR
    if base in _STEERING:
        return _STEERING[base]
    if base.partition(":")[0] == "lyra":
        return _LYRA
    if base.startswith("compressai:"):
        return _COMPRESSAI
    point = create_codec(base, **options).spec.name
    return _STEP if _STEP.option in parse_operating_point(point)[1] else None


def for_sampling_rate(name: str, rate: int) -> str:
    """The name of a codec with its option `rate` set, where it has one and the name does not say another.

    Files of sound have a sampling rate inside, and signals do not carry theirs, so that codecs must be told.

    Args:
        name: a codec, with options or without.
        rate: samples a second of the signals.
    """
    base, options = parse_operating_point(name)
    spec = create_codec(name).spec
    if "rate" in options or spec.ndim != 1 or "rate" not in spec.settings:
        return name
    return create_codec(base, **options, rate=rate).spec.name


def match_rate(name: str, x: Tensor, bpp: float) -> tuple[Codec, bytes]:
    """The operating point of a codec whose container for `x` has the rate nearest to a target, and that container.

    Args:
        name: a codec, with options or without; the option that steers its rate is searched.
        x: the signal, (C, *spatial).
        bpp: target, 8 x the bytes of the whole container / samples of one channel.

    Raises:
        CodecError: the codec has one rate only, or the target is not above 0.
    """
    if not (bpp > 0 and math.isfinite(bpp)):
        raise CodecError(f"A rate is a number of bits a pixel above 0, not {bpp}.")
    target = bpp * x[0].numel() / 8
    return min(_search(name, x, target), key=lambda tried: abs(len(tried[1]) - target))


def fit_bytes(name: str, x: Tensor, max_bytes: int) -> tuple[Codec, bytes]:
    """The operating point of the highest rate whose container for `x` has at most `max_bytes`, and that container.

    Args:
        name: a codec, with options or without; the option that steers its rate is searched.
        x: the signal, (C, *spatial).
        max_bytes: of the whole container.

    Raises:
        CodecError: the codec has one rate only, or not even its coarsest operating point fits.
    """
    tried = _search(name, x, max_bytes)
    fitting = [item for item in tried if len(item[1]) <= max_bytes]
    if not fitting:
        codec, blob = min(tried, key=lambda item: len(item[1]))
        size = "x".join(map(str, reversed(x.shape[1:])))
        raise CodecError(
            f"A signal of {size} does not fit into {max_bytes} bytes: {codec.spec.name} takes {len(blob)}; allow more, "
            "make the signal smaller, or take a codec with a larger patch."
        )
    return max(fitting, key=lambda item: len(item[1]))


def _search(name: str, x: Tensor, target: float) -> list[tuple[Codec, bytes]]:
    """Bisect the steering option towards a number of bytes; every operating point tried, with its container.

    An end of the range is among them if the search came to it.
    """
    base, fixed = parse_operating_point(name)
    steer = steering(name)
    if steer is None:
        raise CodecError(f"{base} has one rate only; choose a codec whose rate can be steered (cml list).")
    tried: dict[float, tuple[Codec, bytes]] = {}

    def attempt(value: float) -> int:
        if value not in tried:
            codec = create_codec(base, **(fixed | {steer.option: value}))
            tried[value] = codec, codec.compress(x)
        return len(tried[value][1])

    low, high = steer.low, steer.high
    while not steer.met(low, high):
        middle = steer.middle(low, high)
        if attempt(middle) > target:
            high = middle
        else:
            low = middle
    attempt(low)
    attempt(high)
    return list(tried.values())
