"""Measures of pictures: closed forms, a printed number, and weights that are not there."""

import io
import math
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from cml.eval.metrics import ms_ssim, psnr, ssim
from cml.eval.perceptual import FILES, perceptual
from helpers import photo
from PIL import Image

from cml.errors import CmlError, DataError


def flat(value, size=(200, 176)):
    return torch.full((3, *size), value, dtype=torch.uint8)


def test_equal_pictures():
    x = photo((200, 176))
    assert ssim(x, x, data_range=255) == pytest.approx(1) and ms_ssim(x, x, data_range=255) == pytest.approx(1)
    assert psnr(x, x, data_range=255) == math.inf


def test_constant_pictures_have_a_closed_form():
    """No variance: only the luminance term is left, (2 a b + c1) / (a^2 + b^2 + c1) with c1 = (0.01 x 255)^2."""
    a, b, c1 = 100.0, 150.0, 2.55**2
    luminance = (2 * a * b + c1) / (a * a + b * b + c1)
    assert ssim(flat(100), flat(150), data_range=255) == pytest.approx(luminance, abs=5e-4)
    # Of the five scales only the last one looks at luminance, with weight 0.1333.
    assert ms_ssim(flat(100), flat(150), data_range=255) == pytest.approx(luminance**0.1333, abs=5e-4)


def test_a_shifted_picture_has_a_known_psnr_and_the_range_is_explicit():
    x = photo((200, 176)) // 2
    y = x + 5
    assert psnr(x, y, data_range=255) == pytest.approx(20 * math.log10(255 / 5))
    small, large = (ssim(x / scale, y / scale, data_range=255 / scale) for scale in (1, 255))
    assert small == pytest.approx(large, abs=1e-5)
    assert 0.9 < small < 1


def test_more_damage_is_less_similar():
    x = photo((200, 176))
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 1, x.shape))
    damaged = [(x + sigma * noise).clamp(0, 255).round() for sigma in (2, 8, 32)]
    for measure in (ssim, ms_ssim, psnr):
        values = [measure(x, y, data_range=255) for y in damaged]
        assert values[0] > values[1] > values[2]


def test_the_printed_numbers_of_jpeg2000_come_out(kodak):
    """LiVeAction's table, JPEG 2000 40:1: 0.5985 bpp, 29.19 dB, SSIM 0.8712: Pillow's, without colour transform."""
    rates, decibels, similar = [], [], []
    for file in kodak:
        picture = Image.open(file)
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG2000", quality_mode="rates", quality_layers=[40])
        x, y = (torch.from_numpy(np.array(p).transpose(2, 0, 1)) for p in (picture, Image.open(buffer)))
        rates.append(8 * len(buffer.getvalue()) / x[0].numel())
        decibels.append(psnr(x, y, data_range=255))
        similar.append(ssim(x, y, data_range=255))
    assert np.mean(rates) == pytest.approx(0.5985, abs=1e-4)
    assert np.mean(decibels) == pytest.approx(29.19, abs=0.01)
    assert np.mean(similar) == pytest.approx(0.8712, abs=1e-4)


def test_what_cannot_be_compared_gets_a_sentence(monkeypatch):
    for measure, size, least in ((ssim, (10, 50), "11"), (ms_ssim, (160, 300), "161")):
        with pytest.raises(DataError, match=f"{least} a side"):
            measure(flat(1, size), flat(1, size), data_range=255)
        with pytest.raises(ValueError, match="compares two"):
            measure(flat(1), flat(1, (200, 177)), data_range=255)
    monkeypatch.setitem(__import__("sys").modules, "piq", None)
    with pytest.raises(CmlError, match=r"cml-toolkit\[bench\]"):
        ssim(flat(1), flat(1), data_range=255)


@pytest.mark.parametrize("name", ["LPIPS", "DISTS"])
def test_missing_weights_are_named_with_their_place(name, tmp_path, monkeypatch):
    def offline(url, *args, **options):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(CmlError) as caught:
        perceptual(name)
    for part in (name, "vgg16-397923af.pth", "https://", str(tmp_path / "checkpoints")):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["LPIPS", "DISTS"])
def test_perceptual_distances_with_random_weights(name, tmp_path, monkeypatch):
    """The real VGG is 530 MB; random weights of its convolutions show that everything is wired as it must be."""
    import piq.perceptual
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    vgg = SimpleNamespace(features=make_layers(cfgs["D"]))
    monkeypatch.setattr(piq.perceptual, "vgg16", lambda **options: vgg)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "vgg16-397923af.pth").touch()
    widths = (64, 128, 256, 512, 512)
    torch.save([torch.rand(1, c, 1, 1) for c in widths], folder / "lpips_weights.pt")
    share = torch.rand(1, 3 + sum(widths), 1, 1)
    share /= 2 * share.sum()
    torch.save({"alpha": share, "beta": share}, folder / "dists_weights.pt")
    assert all((folder / file).exists() for file in FILES[name])
    distance = perceptual(name)
    x = photo((64, 80))
    near, far = (x + 2).clamp(max=255), photo((64, 80), seed=3).flip(2)
    assert distance(x, near) > distance(x, far)
    assert distance(x, x) > 50
    with pytest.raises(DataError, match="RGB pictures of 32"):
        distance(x[:1], x[:1])
