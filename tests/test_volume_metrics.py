"""Measures of signals of three axes against closed cases and direct computation."""

import math

import numpy as np
import pytest
import torch
from cml.eval import metrics, volume_metrics
from cml.eval.volume_metrics import psnr, shown, spectral_angle, ssim
from helpers import photo

from cml.errors import DataError


def stack(slices: int = 5, size: tuple[int, int] = (40, 44), seed: int = 0) -> np.ndarray:
    return np.stack([photo(size, 1, seed + number)[0].numpy() for number in range(slices)])[None]


def noisy(x: np.ndarray) -> np.ndarray:
    return np.clip(np.round(x + np.random.default_rng(0).normal(0, 5, x.shape)), 0, 255).astype(np.uint8)


def test_a_known_error_has_a_known_psnr(monkeypatch):
    x = stack().astype(np.int16) * 10 - 1000
    expected = 20 * math.log10(2000 / 4)
    assert psnr(x, x + np.int16(4), 2000) == pytest.approx(expected)
    # Piecemeal it is the same number.
    monkeypatch.setattr(volume_metrics, "_AT_ONCE", 1)
    assert psnr(x, x - np.int16(4), 2000) == pytest.approx(expected)
    assert psnr(x, x, 2000) == math.inf
    flat = np.zeros((1, 2, 3, 3), np.float32)
    assert psnr(flat, flat, 0) == math.inf and math.isnan(psnr(flat, flat + 1, 0))


def test_psnr_of_video_is_that_of_all_frames_together():
    x = np.concatenate([stack(seed=seed) for seed in (0, 10, 20)])
    one, two = torch.from_numpy(x), torch.from_numpy(noisy(x))
    assert psnr(x, noisy(x), 255) == pytest.approx(metrics.psnr(one, two, data_range=255))


def test_ssim_is_the_mean_over_slices_and_channels(monkeypatch):
    pytest.importorskip("piq")
    x = np.concatenate([stack(seed=0), stack(seed=30)])
    x_hat = noisy(x)
    one, two = torch.from_numpy(x), torch.from_numpy(x_hat)
    each = [metrics.ssim(one[c, z][None], two[c, z][None], data_range=255) for c in range(2) for z in range(x.shape[1])]
    assert ssim(x, x_hat, 0, 255) == pytest.approx(np.mean(each), abs=1e-5)
    monkeypatch.setattr(volume_metrics, "_AT_ONCE", 3 * 40 * 44)
    assert ssim(x, x_hat, 0, 255) == pytest.approx(np.mean(each), abs=1e-5)
    # Only where a value lies between the extremes counts, whatever its unit.
    first, second = (part.astype(np.float32) * 3 - 100 for part in (x, x_hat))
    assert ssim(first, second, -100, 3 * 255) == pytest.approx(np.mean(each), abs=1e-5)
    assert ssim(x, x, 0, 255) == pytest.approx(1)
    assert math.isnan(ssim(x, x_hat, 0, 0))
    # Large slices are averaged down first, as piq does it.
    large = stack(1, (400, 420))
    want = metrics.ssim(torch.from_numpy(large[0]), torch.from_numpy(noisy(large)[0]), data_range=255)
    assert ssim(large, noisy(large), 0, 255) == pytest.approx(want, abs=1e-5)
    with pytest.raises(DataError, match="too small"):
        ssim(x[:, :, :8], x_hat[:, :, :8], 0, 255)


def test_spectral_angles_of_known_spectra(monkeypatch):
    # Five pixels: equal, twice as bright, at a right angle, at 45 degrees, and one without light.
    before = np.array([[3, 4], [3, 4], [1, 0], [2, 0], [0, 0]], np.int16)
    after = np.array([[3, 4], [6, 8], [0, 1], [2, 2], [5, 5]], np.int16)
    cubes = [pixels.T.reshape(1, 2, 1, 5) for pixels in (before, after)]
    assert spectral_angle(*cubes) == pytest.approx((0 + 0 + 90 + 45) / 4, abs=1e-5)
    monkeypatch.setattr(volume_metrics, "_AT_ONCE", 1)
    assert spectral_angle(*cubes) == pytest.approx((0 + 0 + 90 + 45) / 4, abs=1e-5)
    dark = np.zeros((1, 2, 1, 1), np.float32)
    assert math.isnan(spectral_angle(dark, dark)) and spectral_angle(dark + 1, dark) == 90


def test_a_slice_as_a_picture():
    x = np.array([-5.0, 0, 5, 9]).reshape(1, 1, 2, 2)
    assert shown(x, 0, -5, 10).flatten().tolist() == [0, 128, 255, 255]
    video = np.concatenate([stack(seed=seed) for seed in (0, 10, 20)])
    assert np.array_equal(shown(video, 2, 0, 255).numpy(), video[:, 2])


def test_signals_of_two_kinds_are_a_mistake():
    with pytest.raises(ValueError, match="one kind"):
        psnr(stack(), stack().astype(np.float32), 255)
    with pytest.raises(ValueError, match="one kind"):
        spectral_angle(stack()[0], stack()[0])
