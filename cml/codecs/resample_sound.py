"""True resampling of sound, and `resample`: sound at a part of its sampling rate, as a codec."""

import math
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.bitstream import Container, container_id
from cml.codecs.conventional import check_option
from cml.codecs.pcm import check_payload, from_int16, pack_pcm, pcm_settings, to_int16, unpack_pcm
from cml.errors import BitstreamError, CodecError

# Zero crossings of the sinc on each side, and where the low pass is 6 dB down, as a share of the lower Nyquist
# frequency: 0.3 dB down at 95 % of it, and 58 dB or more beyond it.
_ZEROS, _ROLLOFF = 64, 0.97
_LONGEST_KERNEL = 1 << 27  # numbers, held whole


def resample(x: Tensor, before: int, after: int) -> Tensor:
    """Sound at another sampling rate, band-limited by a windowed sinc; its first and last samples go on outside.

    Sample n of the result is at the time n / after, so that nothing is delayed.

    Args:
        x: (C, T) float.
        before, after: samples a second; only their ratio counts.

    Returns:
        (C, ceil(T * after / before)); `x` itself where the rates agree. It can pass 1 by a little.

    Raises:
        CodecError: the ratio of the rates is one of too large numbers.
    """
    common = math.gcd(before, after)
    old, new = before // common, after // common
    if old == new:
        return x
    # Whole periods of both rates, and more than the filter reaches.
    periods = math.ceil((_ZEROS + 1) * max(1.0, old / new) / _ROLLOFF / old)
    edges = old * periods
    padded = torch.nn.functional.pad(x[None].float(), (edges, edges), mode="replicate")[0]
    first, length = new * periods, -(-x.shape[-1] * new // old)
    return _resampler(old, new)(padded)[:, first : first + length]


@lru_cache(maxsize=16)
def _resampler(old: int, new: int) -> Any:
    if new * (2 * _ZEROS * old / min(old, new) + old) > _LONGEST_KERNEL:
        raise CodecError(
            f"The sampling rates are as {old} to {new}, too long for a filter: take a rate near by that divides "
            "better, such as 44100, 48000 or 16000 Hz."
        )
    from torchaudio.transforms import Resample as Kernel

    return Kernel(old, new, lowpass_filter_width=_ZEROS, rolloff=_ROLLOFF)


class Resample(Codec):
    """Sound of a lower sampling rate: what is above its half is lost, the rest kept with 16 bits a sample.

        x (C, T) --windowed sinc--> (C, ceil(T/f)) int16 --FLAC, or raw where that is shorter--> bytes
        x_hat (C, T) <--windowed sinc-- (C, ceil(T/f)) <----------------------------------------- bytes

    Args:
        factor: f, 1 to 1024, by which the rate falls; rounded to a ratio of numbers up to 1000.
    """

    _ID = fingerprint({"codec": "resample", "version": 1})

    def __init__(self, factor: float = 2):
        check_option("resample", "factor", factor, 1, 1024, whole=False)
        self.factor = factor
        self._spec = CodecSpec(
            name=f"resample:factor={factor:.12g}",
            ndim=1,
            channels=tuple(range(1, 1025)),
            codec_id=self._ID,
            settings={"factor": factor, "zeros": _ZEROS, "rolloff": _ROLLOFF, **pcm_settings()},
        )

    @property
    def spec(self) -> CodecSpec:
        return self._spec

    @classmethod
    def claim(cls, blob: bytes) -> Codec | None:
        # None is made for bytes of others: that needs a package, which they may not.
        return cls() if container_id(blob) == cls._ID else None

    def small_size(self, size: tuple[int, ...]) -> tuple[int]:
        """(samples,) at the lower rate."""
        old, new = _ratio(self.factor)
        return (-(-size[0] * new // old),)

    def downsample(self, x: Tensor) -> Tensor:
        """(C, T) in [-1, 1] to what a model of resampled sound sees: fewer samples, rounded to 16 bits."""
        return from_int16(to_int16(resample(x, *_ratio(self.factor))))

    def _compress(self, x: Tensor, bit_depth: int) -> bytes:
        kind, payload = pack_pcm(to_int16(resample(x, *_ratio(self.factor))))
        return Container(
            self._spec.codec_id, float(self.factor), tuple(x.shape), 0, bit_depth, kind, False, payload
        ).pack()

    def load_small(self, blob: bytes) -> Tensor:
        """Bytes to the samples at the lower rate, what a model of resampled sound reads."""
        return self._unpack(blob)[0]

    def _unpack(self, blob: bytes) -> tuple[Tensor, Container]:
        container = Container.unpack(blob)
        if container.codec_id != self._spec.codec_id or len(container.shape) != 2 or not container.parameter >= 1:
            raise BitstreamError("The container was not written by resample.")
        old, new = _ratio(container.parameter)
        channels, length = container.shape
        small = unpack_pcm(container.payload, container.backend, channels)
        check_payload(small, (channels, -(-length * new // old)))
        return from_int16(small), container

    def _decompress(self, blob: bytes) -> Tensor:
        small, container = self._unpack(blob)
        old, new = _ratio(container.parameter)
        return resample(small, new, old)[:, : container.shape[1]].clamp(-1, 1)


def _ratio(factor: float) -> tuple[int, int]:
    ratio = Fraction(factor).limit_denominator(1000)
    return ratio.numerator, ratio.denominator
