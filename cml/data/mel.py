"""The log-mel spectrogram of a sound: energies in bands that widen with their frequency, as hearing has them."""

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

LEAST = 1e-8
"""Energy at which the logarithm ends: 80 dB below a full-scale sine."""
_LOWEST = 20.0  # Hz
_FINEST = 2048  # bins of the transform at least, so that the lowest bands are not empty


def log_mel(x: Tensor, rate: int, hop: int, bands: int) -> Tensor:
    """Natural logarithms of energies, a column for each `hop` samples, from a Hann window of twice as many around them.

    Args:
        x: (..., T) float.
        rate: samples a second.
        hop: samples a column.
        bands: from 20 Hz to half the rate, evenly on the mel scale.

    Returns:
        float32 (..., bands, ceil(T / hop)); a full-scale sine is near 0, silence log(`LEAST`).
    """
    columns = -(-x.shape[-1] // hop)
    bins = max(_FINEST, 2 ** (2 * hop - 1).bit_length())
    # So that a window stands over the middle of its column.
    before = (bins - hop) // 2
    after = (columns - 1) * hop + bins - before - x.shape[-1]
    window = torch.hann_window(2 * hop)
    flat = F.pad(x.reshape(-1, x.shape[-1]).float(), (before, after))
    spectrum = torch.stft(flat, bins, hop, 2 * hop, window, center=False, return_complex=True)
    # A sine of amplitude 1 has an energy of 1 in its bin; a longer transform than the window shows it in more bins.
    energies = _filters(bins, rate, bands).T @ ((2 * spectrum.abs() / window.sum()).square() * (2 * hop / bins))
    return energies.clamp(min=LEAST).log().view(*x.shape[:-1], bands, columns)


def _filters(bins: int, rate: int, bands: int) -> Tensor:
    """(bins / 2 + 1, bands) triangles."""
    import torchaudio.functional

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # at very high rates the lowest bands are narrower than a bin, and stay empty
        return torchaudio.functional.melscale_fbanks(bins // 2 + 1, _LOWEST, rate / 2, bands, rate)
