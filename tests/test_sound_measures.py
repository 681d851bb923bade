"""SI-SDR and SDR against closed cases and museval."""

# Codecs and tables by what they are, not by their type.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from cml.tasks.sound_measures import BEST, WORST, frame_sdr, is_silent, si_sdr


def test_si_sdr_by_hand():
    generator = torch.Generator().manual_seed(0)
    s = torch.randn(2, 4000, generator=generator, dtype=torch.double)
    noise = torch.randn(2, 4000, generator=generator, dtype=torch.double)
    noise -= s * (s * noise).sum() / (s * s).sum()  # nothing of the truth is in it
    noise *= s.norm() / noise.norm()
    assert si_sdr(s, 3 * s + 0.3 * noise) == pytest.approx(20)  # whatever the scale
    assert si_sdr(s, -0.5 * s + 0.5 * noise) == pytest.approx(0)
    assert si_sdr(s, 2 * s) == BEST
    assert si_sdr(s, noise) == si_sdr(s, 0 * s) == WORST
    assert math.isnan(si_sdr(0 * s, s))
    assert si_sdr(s[:1], s[:1] + 1) < 5  # no mean is removed
    with pytest.raises(ValueError, match="one shape"):
        si_sdr(s, s[:1])
    assert is_silent(torch.full((1, 10), 9e-5)) and not is_silent(torch.full((1, 10), 2e-4))


@pytest.mark.parametrize("samples", [2000, 3300, 700])
def test_sdr_is_that_of_museval(samples):
    found = importlib.util.find_spec("museval")  # not imported whole: it wants the program ffmpeg
    if found is None:
        pytest.skip("needs the package museval")
    spec = importlib.util.spec_from_file_location("bss", Path(found.origin or "").with_name("metrics.py"))
    assert spec is not None and spec.loader is not None
    bss = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bss)
    rate, generator = 1000, torch.Generator().manual_seed(1)
    truths = torch.randn(3, 2, samples, generator=generator)
    answers = truths + 0.5 * torch.randn(3, 2, samples, generator=generator) + 0.1 * truths.sum(0)
    if samples > 2 * rate:
        truths[1, :, rate : 2 * rate] = 0  # a silent frame
    theirs = bss.bss_eval(
        truths.movedim(1, 2).double().numpy(),
        answers.movedim(1, 2).double().numpy(),
        window=rate,
        hop=rate,
        filters_len=16,
    )[0]
    assert np.allclose(frame_sdr(truths, answers, rate), np.nanmedian(theirs, 1), atol=1e-3)


def test_sdr_where_nothing_is_heard():
    assert frame_sdr(torch.zeros(1, 1, 100), torch.ones(1, 1, 100), 50).isnan().all()
