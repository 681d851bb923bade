"""`cml fit` on volumes, cubes and videos."""

import numpy as np
import pytest
from command_line import run

import cml


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Four smooth volumes."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "scans").mkdir()
    for number in range(4):
        waves = rng.normal(size=(12, 30, 40)).cumsum(0).cumsum(1).cumsum(2)
        np.save(tmp_path / "scans" / f"{number}.npy", waves.astype(np.int16))
    return tmp_path


def test_a_codec_of_volumes_with_levels_of_each_axis(folder):
    text = run("fit", "scans", "--levels", "1,2,2", "--channels", 6)
    assert "scans_f2x4x4c6" in text and "5.33333x" in text
    codec = cml.create_codec("scans_f2x4x4c6")
    assert codec.spec.cell == (2, 4, 4) and codec.spec.ndim == 3
    x = np.load("scans/0.npy").astype(np.float32)[None]
    back = codec.decompress(codec.compress(x)).numpy()
    assert back.shape == x.shape and ((back - x) ** 2).mean() < 0.2 * x.var()
    assert "--levels 1,2,2" in (folder / "scans_f2x4x4c6" / "README.md").read_text()


def test_a_codec_of_cubes_whose_bands_are_channels(folder):
    from scipy.io import savemat

    (folder / "cubes").mkdir()
    rng = np.random.default_rng(1)
    basis = rng.normal(size=(2, 9)) + 3
    savemat(folder / "cubes" / "one.mat", {"cube": (rng.random((40, 30, 2)) @ basis).astype(np.float32)})
    assert "fingerprint" in run("fit", "cubes", "--bands-as-channels", "--levels", 0, "--channels", 2, "-o", "mine")
    codec = cml.create_codec("mine", step=0.01)
    assert codec.spec.ndim == 2 and codec.spec.channels == (9,)
    x = (rng.random((2, 20, 20)).T @ basis).transpose(2, 0, 1).astype(np.float32)
    assert ((codec.decompress(codec.compress(x)).numpy() - x) ** 2).mean() < 1e-3 * x.var()


@pytest.mark.parametrize(
    "options, sentence",
    [
        (["--levels", "1,2"], "one for each of its 3 axes"),
        (["--levels", "1,x,2"], "one whole number, or one an axis"),
        (["--gray"], "--gray is for pictures"),
        (["--bands-as-channels"], "is for cubes"),
    ],
)
def test_wrong_options_get_a_sentence(folder, options, sentence):
    assert sentence in run("fit", "scans", *options, expect=2)
