"""Measures of sound against cases whose answer is known, and against the packages that define them."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cml.eval import sound_metrics
from cml.eval.sound_metrics import (
    FLOOR,
    covariance_error,
    dnsmos,
    level_error,
    log_spectral_distance,
    psnr,
    sdr,
    si_sdr,
    snr,
)
from helpers import hum

from cml.errors import CmlError

RATE = 16000


def noise(channels: int, length: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(channels, length, generator=torch.Generator().manual_seed(seed))


def test_noise_of_a_known_level_has_a_known_ratio():
    x, e = noise(2, 50_000), noise(2, 50_000, 1)
    e -= x * (x * e).sum() / x.square().sum()  # nothing of the signal in it
    for decibels in (-10, 0, 20, 60):
        scaled = e * (x.norm() / e.norm()) * 10 ** (-decibels / 20)
        assert snr(x, x + scaled) == pytest.approx(decibels, abs=1e-3)
        assert si_sdr(x, x + scaled) == pytest.approx(decibels, abs=1e-3)
        assert si_sdr(x, -7 * (x + scaled)) == pytest.approx(decibels, abs=1e-3)  # whatever the scale
        assert sdr(x, x + scaled, RATE) == pytest.approx(decibels, abs=0.3)  # of frames, the median
    assert snr(x, 0.9 * x) == pytest.approx(20, abs=1e-3)
    assert snr(x, 0 * x) == 0


def test_psnr_is_against_full_scale():
    x = noise(1, 1000)
    assert psnr(x, x + 0.01) == pytest.approx(40, abs=1e-3)
    assert psnr(x, x) == math.inf == snr(x, x)


def test_silence_has_no_ratio():
    x, silence = noise(2, RATE), torch.zeros(2, RATE)
    for measure in (snr, si_sdr):
        assert math.isnan(measure(silence, x))
    for measure in (sdr, covariance_error):
        assert math.isnan(measure(silence, x, RATE))
    assert si_sdr(x, silence) == -30  # the worst that counts
    assert log_spectral_distance(silence, silence, RATE) == level_error(silence, silence) == 0
    assert psnr(silence, silence + 0.1) == pytest.approx(20, abs=1e-3)
    assert covariance_error(x, silence, RATE) == 1


def test_sdr_is_that_of_museval():
    found = importlib.util.find_spec("museval")  # not imported whole: it wants the program ffmpeg
    if found is None:
        pytest.skip("needs the package museval")
    spec = importlib.util.spec_from_file_location("bss", Path(found.origin or "").with_name("metrics.py"))
    assert spec is not None and spec.loader is not None
    bss = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bss)
    x = noise(2, 70_000)
    x[:, 16_000:32_000] = 0  # a whole frame of silence, which does not count
    x_hat = 0.9 * x + noise(2, 70_000, 3) * torch.linspace(0.01, 0.5, 70_000)
    stems = [signal.T.numpy()[None].astype(np.float64) for signal in (x, x_hat)]
    want = bss.bss_eval(*stems, window=RATE, hop=RATE, compute_permutation=False)[0]
    assert np.isnan(want).sum() == 1
    assert sdr(x, x_hat, RATE) == pytest.approx(float(np.nanmedian(want)), abs=1e-3)


def test_a_gain_shifts_spectra_by_its_decibels():
    x = noise(2, 30_000)
    for rate in (8000, RATE, 44100):
        assert log_spectral_distance(x, x * 10 ** (-6 / 20), rate) == pytest.approx(6, abs=0.02)
    assert log_spectral_distance(x, x, RATE) == 0
    for length in (1, 5, 600):
        assert log_spectral_distance(x[:, :length], -x[:, :length], RATE) == pytest.approx(0, abs=1e-9)


def test_what_nobody_hears_is_no_distance():
    sine = 10 ** ((FLOOR - 20) / 20) * torch.sin(torch.arange(20_000) * 0.3)[None]
    assert log_spectral_distance(torch.zeros(1, 20_000), sine, RATE) < 1e-6
    loud = 100 * sine  # 20 dB above the floor, in the few frequencies next to it
    assert 0.2 < log_spectral_distance(torch.zeros(1, 20_000), loud, RATE) < 5
    assert level_error(torch.zeros(1, 20_000), loud) == pytest.approx(20, abs=0.1)


def test_levels_and_covariances_of_channels():
    x = noise(4, 20_000)
    gains = torch.tensor([1.0, 0.5, 1.0, 2.0])[:, None]
    six = 20 * math.log10(2)
    assert level_error(x, gains * x) == pytest.approx(2 * six / 4, abs=1e-4)
    assert covariance_error(x, 0.9 * x, RATE) == pytest.approx(1 - 0.81, abs=1e-5)
    assert covariance_error(x, x, RATE) == 0
    # Channels that are exchanged have the right levels, and come from elsewhere.
    left = torch.cat([x[:1], 0.1 * x[1:2]])
    right = left.flip(0)
    assert level_error(left, right) > 15
    both = torch.cat([x[:1] + x[1:2], x[:1] - x[1:2]])
    turned = torch.cat([x[:1], x[1:2]]) * math.sqrt(2)
    assert level_error(both, both.flip(0)) < 0.1 and covariance_error(both, both.flip(0), RATE) < 0.5
    assert level_error(turned, both) < 0.2
    same = torch.cat([x[:1], x[:1]])
    assert level_error(same, same * torch.tensor([[1.0], [-1.0]])) == 0
    assert covariance_error(same, same * torch.tensor([[1.0], [-1.0]]), RATE) == pytest.approx(math.sqrt(2), abs=1e-5)
    assert covariance_error(x[:, :3], x[:, :3], RATE) == 0  # shorter than a frame


def test_dnsmos_is_a_score_of_the_mean_of_the_channels():
    pytest.importorskip("onnxruntime")
    if importlib.util.find_spec("speechmos") is None:
        pytest.skip("needs the package speechmos")
    x = hum(9 * RATE + 1000)  # one window
    score = dnsmos(x, RATE)
    assert 1 <= score <= 5
    assert score == pytest.approx(dnsmos(torch.cat([2 * x, 0 * x]).clamp(-1, 1), RATE), abs=0.01)
    assert math.isnan(dnsmos(torch.zeros(1, 1000), RATE))


@pytest.mark.skipif(importlib.util.find_spec("librosa") is None, reason="needs librosa, which speechmos needs itself")
def test_dnsmos_is_that_of_speechmos():
    theirs = pytest.importorskip("speechmos.dnsmos")
    for seconds in (2.5, 12.4):
        x = hum(round(seconds * RATE))
        want = theirs.run(x[0].numpy(), RATE)["ovrl_mos"]
        assert dnsmos(x, RATE) == pytest.approx(float(want), abs=1e-4)


def test_a_missing_package_is_named(monkeypatch):
    sound_metrics.load_dnsmos.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CmlError, match=r"speechmos: pip install 'cml-toolkit\[sound\]'"):
        dnsmos(noise(1, 100), RATE)


def test_shapes_must_agree():
    for measure in (snr, level_error):
        with pytest.raises(ValueError, match="one shape"):
            measure(noise(1, 10), noise(1, 11))
