"""How a codec in training does on signals that it does not train on: real bytes, real reconstructions, a picture."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.base import check_signal, to_uint8
from cml.codecs.neural import WaveletCodec


@dataclass(frozen=True)
class Point:
    """Mean rate (bits a position, of whole containers) and mean PSNR (dB) at a quantization step."""

    step: float
    bpp: float
    psnr: float


def validate(codec: WaveletCodec, signals: Sequence[Tensor], steps: tuple[float, float], count: int = 3) -> list[Point]:
    """A codec at `count` of its steps, from the largest to the smallest."""
    points = []
    for step in np.geomspace(steps[1], steps[0], count).tolist():
        at = codec.at(step)
        rates, decibels = [], []
        for signal in signals:
            x = check_signal(signal, codec.spec)[0]
            blob = at.compress(signal)
            x_hat = at.decompress(blob)
            if x.dim() == 3:  # pictures are shown in 8 bits
                x_hat = to_uint8(x_hat).float() / 127.5 - 1
            rates.append(8 * len(blob) / x[0].numel())
            decibels.append(-10 * math.log10(max(float((x_hat - x).square().mean()), 1e-9) / 4))
        points.append(Point(step, float(np.mean(rates)), float(np.mean(decibels))))
    return points


def picture(x: Tensor, before: WaveletCodec, after: WaveletCodec, steps: tuple[float, float]) -> bytes:
    """PNG bytes: the original, and at the largest step the codec that training began with and the trained one.

    Of sound the spectrograms, one below the other; of volumes, cubes and videos the middle of the first axis.
    """
    shown = [x, *(at.decompress(at.compress(x)) for at in (before.at(steps[1]), after.at(steps[1])))]
    if x.dim() == 2:
        strip = torch.cat([_spectrogram(signal) for signal in shown])
    else:
        shown = [signal.select(1, signal.shape[1] // 2) for signal in shown] if x.dim() == 4 else shown
        strip = torch.cat([s if s.dtype == torch.uint8 else to_uint8(s) for s in shown], 2).permute(1, 2, 0).squeeze(2)
    buffer = io.BytesIO()
    Image.fromarray(strip.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def _spectrogram(x: Tensor, size: int = 512, floor: float = -90.0) -> Tensor:
    """uint8 (bands, frames) of a sound's first channel: white is 0 dB of full scale, black `floor`; low notes below."""
    if x.shape[1] < size:
        x = torch.nn.functional.pad(x, (0, size - x.shape[1]))
    window = torch.hann_window(size)
    power = torch.stft(x[0], size, size // 2, window=window, return_complex=True).abs() / (window.sum() / 2)
    decibels = 20 * power.clamp(min=1e-9).log10()
    return (255 * (1 - decibels / floor)).clamp(0, 255).to(torch.uint8).flip(0)
