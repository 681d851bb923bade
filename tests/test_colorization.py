"""Colorization: measures by hand, what each view represents, `compare` end to end, refusals."""

import numpy as np
import pytest
import torch
from cml.eval import answers, complexity
from cml.eval.protocols import prepare, view_space
from cml.eval.results import Run
from cml.tasks.base import Pictures
from cml.tasks.colorization import Colorization, chroma, colourfulness, grey
from helpers import photo
from PIL import Image

import cml
from cml.errors import CmlError, DataError

CODECS = ["resize:factor=2", "rgb_f8c12:step=0.25", "jpeg:quality=30"]


@pytest.fixture(scope="module")
def colour_folder(tmp_path_factory):
    """Bright is red, dark is blue: a colour that the luma tells."""
    root = tmp_path_factory.mktemp("colours")
    for number in range(32):
        luma = np.random.default_rng(number).integers(0, 2, (4, 4)).repeat(8, 0).repeat(8, 1)
        image = np.where(luma[..., None], [230, 90, 90], [30, 30, 120])
        image = (image + np.random.default_rng(number).normal(0, 4, image.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def finished(colour_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complexity, "_SECONDS", 0)
        patch.setitem(answers.MEASURES, "lpips", _missing)
        return out, cml.compare("colorization", f"folder:{colour_folder}", CODECS, epochs=60, out=out)


def _missing():
    raise CmlError("no weights")


def test_measures_by_hand():
    x = torch.zeros(3, 1, 2, dtype=torch.uint8)
    x[:, 0, 0], x[0, 0, 1] = 100, 200  # a grey pixel and a red one
    # red - green: 0 and 200; (red + green) / 2 - blue: 0 and 100
    assert colourfulness(x) == pytest.approx(np.hypot(100, 50) + 0.3 * np.hypot(100, 50))
    assert colourfulness(grey(x)) == 0
    assert grey(x)[:, 0].tolist() == [[100, 60]] * 3
    wanted = torch.tensor([[[0, -0.168736 * 200]], [[0, 100]]])
    torch.testing.assert_close(chroma(x), wanted, atol=1e-4, rtol=0)
    assert chroma(grey(photo((8, 8)))).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("view", "codec", "least"),
    [("pixels", "identity", 77), ("resize", "resize:factor=2", 25), ("latent", "rgb_f8c48:step=0.25", 30)],
)
def test_a_space_comes_back_from_what_it_represents(colour_folder, view, codec, least):
    task = Colorization(f"folder:{colour_folder}", size=64)
    made = cml.create_codec(codec)
    space = view_space(view, made, task)
    x = photo((64, 64))
    y = space.picture(space.represent(x))
    error = float((x.double() - y.double()).square().mean())
    assert y.dtype == torch.uint8 and y.shape == x.shape and 10 * np.log10(255**2 / max(error, 1e-3)) > least
    inputs = prepare(view, made, task, 8).test
    torch.testing.assert_close(space.represent(task.signal("test", 0)), inputs.batch(torch.tensor([0]))[0])
    if view == "latent":  # as decoding the container does
        decoded = ((made.decompress(made.compress(x)) + 1) * 127.5).round().to(torch.uint8)
        assert torch.equal(y, decoded)


def test_an_untrained_model_answers_grey(colour_folder):
    task = Colorization(f"folder:{colour_folder}")
    inputs = prepare("bigpatch", cml.create_codec("identity"), task, 8)
    model, path = task.build(inputs.stem, 0)
    assert model.get_submodule(path) is not None
    score = task.score(model, inputs.test)
    assert score.metrics["chroma_explained"] == pytest.approx(0) and score.metrics["colourfulness"] == 0


def test_compare_end_to_end(finished):
    out, table = finished
    assert list(table["view"]) == ["pixels", "bigpatch", "resize", "latent", *["reconstruction"] * 3]
    assert table["tokens"].tolist() == [64, *[16] * 6]
    assert (table["chroma_explained"] > 1 - 10**-0.2).all() and (table["chance"] == 0).all()
    assert table["colour_psnr"].between(15, 40).all() and table["ssim"].between(0.3, 1).all()
    assert "lpips" not in table
    assert (table["colourfulness"] / table["colourfulness_of_truth"]).between(0.6, 1.2).all()
    for result in Run(out).results().values():
        assert Run(out).items(result.key)["outcome"].mean() == pytest.approx(result.metrics["chroma_explained"])
    report = (out / "report.md").read_text()
    assert "colour PSNR" in report and "(answers.png)" in report and (out / "report.html").exists()
    with Image.open(out / "answers.png") as picture:
        assert np.ptp(np.asarray(picture.convert("RGB")).astype(int), axis=2).max() > 50


def test_perceptual_measures_where_they_are_available(monkeypatch):
    x = torch.stack([photo((64, 64), 3, seed) for seed in range(2)])
    pictures = Pictures(x, x, range(2), ("ssim", "lpips"))
    monkeypatch.setitem(answers.MEASURES, "lpips", lambda: lambda x, y: float((x - y).abs().max()) + 0.5)
    assert answers.measure(pictures) == {"ssim": pytest.approx(1), "lpips": 0.5}

    monkeypatch.setitem(answers.MEASURES, "lpips", _missing)
    assert set(answers.measure(pictures)) == {"ssim"}


def test_splits(colour_folder, tmp_path):
    flat = Colorization(f"folder:{colour_folder}")
    assert (flat.count("train"), flat.count("test"), flat.size) == (24, 8, (32, 32))
    for split, number in (("train", 0), ("train", 1), ("validation", 2)):
        (tmp_path / split / "class").mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo((40, 50), 3, number).permute(1, 2, 0).numpy()).save(
            tmp_path / split / "class" / f"{number}.png"
        )
    task = Colorization(f"folder:{tmp_path}", size=48)
    assert (task.count("train"), task.count("test")) == (2, 1) and task.labels("train").shape == (2, 3, 48, 48)
    assert task.signal("test", 0).unique(dim=0).shape == (1, 48, 48)


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        ("elpv", {}, "needs --data folder:PATH"),
        ("folder:nowhere", {}, "needs --data folder:PATH"),
        (None, {"size": 8}, "16 pixels"),
        (None, {"epochs": 0}, "1 epoch"),
        (None, {"codecs": ["gray_f8c4"]}, "choose another codec"),
    ],
)
def test_bad_requests(colour_folder, tmp_path, data, options, sentence):
    settings = {"codecs": CODECS, "out": tmp_path / "run"} | options
    with pytest.raises(CmlError, match=sentence):
        cml.compare("colorization", data or f"folder:{colour_folder}", **settings)


def test_one_picture_is_too_few(tmp_path):
    Image.fromarray(photo((40, 50)).permute(1, 2, 0).numpy()).save(tmp_path / "only.png")
    with pytest.raises(DataError, match="two pictures or more"):
        Colorization(f"folder:{tmp_path}")
