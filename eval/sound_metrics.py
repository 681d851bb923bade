"""Measures of sound that was coded: all take the signal and its reconstruction, float (C, T) in [-1, 1].

Of waveforms: `si_sdr` (that of `cml.tasks.sound_measures`), `snr`, `psnr`, `sdr`. Of what the ear hears:
`log_spectral_distance`, and `dnsmos`, which asks a network that was trained on the answers of listeners to speech. Of
where sounds come from: `level_error` and `covariance_error`, for ambisonics.

Silence, samples that are all zero, has no ratio: `si_sdr`, `snr`, `sdr`, `covariance_error` and `dnsmos` are NaN where
the signal is silent. `psnr`, `log_spectral_distance` and `level_error` are as for any other.
"""

import importlib
import importlib.util
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cml.eval import metrics
from cml.tasks.sound_measures import frame_sdr, si_sdr
from torch import Tensor

from cml.codecs.resample_sound import resample
from cml.errors import CmlError

__all__ = [
    "covariance_error", "dnsmos", "level_error", "log_spectral_distance", "psnr", "sdr", "si_sdr", "snr"
]  # fmt: skip

FLOOR = -80.0
"""dB below a full-scale sine, under which spectra and levels are not told apart: nobody hears what is there."""
_FRAME = 0.04  # seconds, about
_DNSMOS_RATE, _DNSMOS_WINDOW = 16000, 144_160
_DNSMOS_FIT = (-0.06766283, 1.11546468, 0.04602535)  # from what the network says to the scale of its listeners


def psnr(x: Tensor, x_hat: Tensor) -> float:
    """10 log10(1 / mean squared error) dB: the peak is 1, full scale, not 2, the range. Infinite for equal signals."""
    return metrics.psnr(x, x_hat, data_range=1)


def snr(x: Tensor, x_hat: Tensor) -> float:
    """10 log10(|x|^2 / |x - x_hat|^2) dB over all channels together; infinite for equal signals."""
    _check(x, x_hat)
    signal = float(x.double().square().sum())
    noise = float((x.double() - x_hat.double()).square().sum())
    if signal == 0:
        return math.nan
    return 10 * math.log10(signal / noise) if noise else math.inf


def sdr(x: Tensor, x_hat: Tensor, rate: int) -> float:
    """The signal-to-distortion ratio of museval, dB: BSSEval v4, the median over frames of a second.

    Frames in which the signal or the reconstruction is all zeros do not count. For several stems at once, where such a
    frame counts for none of them, `cml.tasks.sound_measures.frame_sdr`.
    """
    _check(x, x_hat)
    return float(frame_sdr(x[None], x_hat[None], rate)[0])


def log_spectral_distance(x: Tensor, x_hat: Tensor, rate: int) -> float:
    """How far two spectra are apart, dB: per frame the root mean square over frequencies, then the mean over frames.

    Frames are of the power of two samples that is nearest to 40 ms (2048 at 44.1 and 48 kHz, 512 at 16 kHz), a quarter
    apart, with a Hann window; silence is assumed around the signal. Powers below `FLOOR` are taken as `FLOOR`. The mean
    is over channels too. Two silences are 0 apart.
    """
    _check(x, x_hat)
    first, second = (_spectrum(signal, rate) for signal in (x, x_hat))
    return float((first - second).square().mean(1).sqrt().mean())


def _spectrum(x: Tensor, rate: int) -> Tensor:
    """dB against a full-scale sine, (C, frequencies, frames)."""
    length = max(16, 2 ** round(math.log2(_FRAME * rate)))
    window = torch.hann_window(length, dtype=torch.double)
    spectrum = torch.stft(
        x.double(), length, length // 4, window=window, center=True, pad_mode="constant", return_complex=True
    )
    power = spectrum.abs().square() / (window.sum() / 2) ** 2
    return 10 * power.clamp(min=10 ** (FLOOR / 10)).log10()


def level_error(x: Tensor, x_hat: Tensor) -> float:
    """By how many dB the levels of the channels are off: the mean over channels of |10 log10(energy ratio)|.

    Levels below `FLOOR` are taken as `FLOOR`, so that silence that stays silent is no error.
    """
    _check(x, x_hat)
    # A full-scale sine has a mean square of a half.
    lowest = 10 ** (FLOOR / 10) / 2
    first, second = (signal.double().square().mean(1).clamp(min=lowest) for signal in (x, x_hat))
    return float((10 * (second / first).log10()).abs().mean())


def covariance_error(x: Tensor, x_hat: Tensor, rate: int) -> float:
    """How far the covariances between channels are off, as a share of them, which is where sounds come from.

    Over frames of the length that `log_spectral_distance` has, side by side (one, where the signal is shorter):
    sqrt(sum |R_hat - R|^2 / sum |R|^2), with R = X X^T of a frame (C, C), and the Frobenius norm. 0 for equal signals.
    """
    _check(x, x_hat)
    length = min(x.shape[1], max(16, 2 ** round(math.log2(_FRAME * rate))))
    first, second = (_covariances(signal, length) for signal in (x, x_hat))
    whole = float(first.square().sum())
    return math.sqrt(float((second - first).square().sum()) / whole) if whole else math.nan


def _covariances(x: Tensor, length: int) -> Tensor:
    frames = x.double().unfold(1, length, length).transpose(0, 1)
    return frames @ frames.transpose(1, 2)


@cache
def load_dnsmos() -> Any:
    """A session of the network of DNSMOS on one thread, or one sentence on how to get it.

    Its weights are those of the package speechmos, which is not imported: for another score it needs librosa.
    """
    package = importlib.util.find_spec("speechmos")
    if package is None or package.origin is None:
        raise CmlError("DNSMOS needs the package speechmos: pip install 'cml-toolkit[sound]'.")
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise CmlError("DNSMOS needs the package onnxruntime: pip install 'cml-toolkit[sound]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    file = Path(package.origin).parent / "dnsmos_models" / "sig_bak_ovr.onnx"
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def dnsmos(x: Tensor, rate: int) -> float:
    """How good speech sounds, 1 to 5: the overall score of DNSMOS P.835 (Reddy et al., 2022), without a reference.

    Of the mean of the channels at 16 kHz; as its authors do it, speech of less than 9.01 s is repeated, and of longer
    one the score is the mean over windows of that length that begin a second apart.
    """
    network = load_dnsmos()
    mono = resample(x.mean(0, keepdim=True), rate, _DNSMOS_RATE)[0].clamp(-1, 1)
    if not bool(mono.any()):
        return math.nan
    while len(mono) < _DNSMOS_WINDOW:
        mono = torch.cat((mono, mono))
    windows = int(len(mono) // _DNSMOS_RATE - _DNSMOS_WINDOW / _DNSMOS_RATE) + 1
    parts = [mono[start : start + _DNSMOS_WINDOW] for start in range(0, windows * _DNSMOS_RATE, _DNSMOS_RATE)]
    raw = [network.run(None, {"input_1": part.numpy()[None]})[0][0][2] for part in parts]
    return float(np.polyval(_DNSMOS_FIT, raw).mean())


def _check(x: Tensor, x_hat: Tensor) -> None:
    if x.shape != x_hat.shape or x.dim() != 2:
        raise ValueError(f"Two sounds of one shape (C, T) are compared, not {tuple(x.shape)} and {tuple(x_hat.shape)}.")
