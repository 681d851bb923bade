import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import cml
from cml.cli import app
from cml.data.encode_dataset import encode_dataset
from cml.data.latent_dataset import LatentDataset
from cml.data.latent_files import read_manifest, write_manifest
from cml.data.loading import latent_loader
from cml.errors import CmlError
from cml.models.backbones import StemShape, build
from cml.train.batch_norm import GlobalBatchNorm, normalize_globally
from cml.train.checkpoint import CHECKPOINT
from cml.train.classifier import (
    ClassifierPlan,
    _Objective,
    load_classifier,
    train_classifier,
    without_dropout,
)
from cml.train.loop import Recipe

PLAN = ClassifierPlan(recipe=Recipe(epochs=3, batch_size=8), flip=True)


@pytest.fixture(scope="module")
def latents(picture_folder, tmp_path_factory) -> Path:
    """36 samples to train on and 12 to test, of two classes."""
    out = tmp_path_factory.mktemp("latents")
    encode_dataset(f"folder:{picture_folder}", out, "gray_f8c4:entropy=zstd", workers=1)
    return out


def losses(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / "losses.csv", delimiter=",", skiprows=1)


def test_a_classifier_learns_and_is_read_back(latents, tmp_path):
    seen = []
    plan = replace(PLAN, recipe=Recipe(epochs=20, batch_size=8), flip=False)
    trained = train_classifier(latents, tmp_path, plan, on_progress=seen.append)
    assert trained.accuracy == 1 and trained.tested == 12
    assert [p.step for p in seen] == [20, 40, 60, 80] and seen[-1].steps == 80 and seen[-1].rate > 0
    rows = losses(tmp_path)
    assert (tmp_path / "losses.csv").read_text().startswith("step,epoch,loss,lr\n")
    assert rows[:, 0].tolist() == list(range(1, 81)) and rows[:, 1].tolist() == [n // 4 for n in range(80)]
    assert rows[-10:, 2].mean() < 0.5 * rows[0, 2]
    assert rows[60:, 2].mean() == pytest.approx(seen[-1].loss, rel=1e-6)
    assert rows[:, 3].max() == 2e-3 and rows[0, 3] == pytest.approx(2e-3 / 12) and rows[-1, 3] < 1e-5

    model, config = load_classifier(tmp_path)
    codec = cml.create_codec(config["codec"])
    assert codec.spec.codec_id == config["codec_id"] and config["accuracy"] == 1 and config["steps"] == 80
    batch = next(iter(latent_loader(LatentDataset(latents, "test"), 12)))
    logits = model(batch.to_float())
    assert torch.allclose(logits, trained.model(batch.to_float()), atol=1e-3)  # convolved in another layout
    assert config["classes"] == ["plain", "striped"] and torch.equal(logits.argmax(1), batch.labels)
    assert "accuracy 1.0000" in (tmp_path / "README.md").read_text()


class _Interruption(Exception):
    pass


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_training_ends_where_an_uninterrupted_one_does(workers, latents, tmp_path):
    whole = train_classifier(latents, tmp_path / "whole", PLAN)

    def interrupt(progress):
        if progress.step == 9:  # in the middle of an epoch, and after the checkpoint of step 6
            raise _Interruption

    with pytest.raises(_Interruption):
        train_classifier(latents, tmp_path / "cut", PLAN, every=3, on_progress=interrupt)
    with open(tmp_path / "cut" / "losses.csv", "a") as file:
        file.write("10,2,0.1")  # what a kill leaves of a line
    assert load_classifier(tmp_path / "cut")[1]["steps"] == 6
    resumed = train_classifier(latents, tmp_path / "cut", PLAN, workers=workers)
    mine, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine) and mine.keys() == theirs.keys()
    assert (tmp_path / "whole" / "losses.csv").read_text() == (tmp_path / "cut" / "losses.csv").read_text()
    # once more, and nothing is left to do
    assert train_classifier(latents, tmp_path / "cut", PLAN).accuracy == whole.accuracy
    with pytest.raises(CmlError, match="another recipe or of other data"):
        train_classifier(latents, tmp_path / "cut", replace(PLAN, seed=1))
    (tmp_path / "cut" / CHECKPOINT).write_bytes(b"damaged")
    with pytest.raises(CmlError, match="remove it"):
        train_classifier(latents, tmp_path / "cut", PLAN)


class _Watched(nn.Module):
    """Keeps what it was given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.x = x
        return torch.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)


def test_flips_are_those_of_the_pictures_and_a_function_of_seed_and_step(latents):
    train = LatentDataset(latents)
    batch = train.batch(range(8))
    objective = _Objective(train.manifest, train.labels, PLAN)
    plain = batch.to_float()
    assert objective.operators is not None
    flipped = objective.operators.flip(plain)

    def which(objective: _Objective, step: int) -> list[bool]:
        model = _Watched()
        objective(model, batch, step)
        out = []
        for given, as_is, mirrored in zip(model.x, plain, flipped, strict=True):
            assert torch.equal(given, as_is) != torch.allclose(given, mirrored, atol=1e-5)
            out.append(not torch.equal(given, as_is))
        return out

    drawn = [which(objective, step) for step in range(20)]
    assert drawn == [which(objective, step) for step in range(20)]
    assert 50 < sum(map(sum, drawn)) < 110 and len(set(map(tuple, drawn))) > 15
    assert drawn != [which(_Objective(train.manifest, train.labels, replace(PLAN, seed=1)), n) for n in range(20)]


def test_rare_classes_weigh_more_and_nothing_in_the_mean(latents):
    labels = np.array([0] * 9 + [1])
    weights = _Objective(read_manifest(latents), labels, replace(PLAN, flip=False)).weights
    assert float(weights[1] / weights[0]) == pytest.approx(3) and float(weights[labels].mean()) == pytest.approx(1)


@pytest.mark.parametrize("backbone", ["cml:small", "timm:test_efficientnet"])
def test_global_batch_norm_of_one_process_is_batch_norm(backbone):
    torch.manual_seed(0)
    model = without_dropout(build(backbone, StemShape(4, (8, 8), 2), 3)[0]).train().double()
    other = normalize_globally(copy.deepcopy(model))
    assert any(isinstance(module, GlobalBatchNorm) for module in other.modules())
    x = torch.randn(6, 4, 8, 8).double()
    for step in range(2):
        outputs = [made(x + step) for made in (model, other)]
        assert torch.allclose(*outputs, rtol=1e-9)
        for made, out in zip((model, other), outputs, strict=True):
            made.zero_grad()
            out.square().sum().backward()
    for (name, one), (same, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert name == same and one.grad is not None and two.grad is not None
        assert torch.allclose(one.grad, two.grad, rtol=1e-6, atol=1e-9), name
    mine, theirs = model.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.allclose(mine[name], theirs[name], rtol=1e-9) for name in mine)
    assert torch.allclose(model.eval()(x), other.eval()(x), rtol=1e-9)
    half = normalize_globally(nn.BatchNorm2d(4))(x.bfloat16()).detach()
    assert half.dtype == torch.bfloat16 and float(half.float().std()) == pytest.approx(1, abs=0.02)


def test_dropout_is_off():
    model = without_dropout(build("timm:test_vit", StemShape(4, (8, 8), 2), 3)[0].train())
    both = without_dropout(nn.Sequential(model, nn.Dropout(0.5)))
    x = torch.randn(2, 4, 8, 8)
    assert torch.equal(both(x), both(x))


# what cannot be trained gets a sentence


def train(data: Path, out: Path, **changes):
    return train_classifier(data, out, replace(PLAN, flip=False, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"recipe": Recipe(1, batch_size=37)}, "fewer than a batch"),
        ({"recipe": Recipe(3, batch_size=8, lr=1e30, clip=1e30)}, "smaller lr"),
        ({"patch": 12}, "multiple of the 8 samples"),
        ({"backbone": "cml:large"}, "cml:small"),
    ],
)
def test_plans_that_do_not_fit(changes, sentence, latents, tmp_path):
    with pytest.raises(CmlError, match=sentence):
        train(latents, tmp_path, **changes)
    assert not (tmp_path / CHECKPOINT).exists()


def test_plans_that_make_no_sense():
    for wrong in ({"recipe": Recipe(0)}, {"recipe": Recipe(1, lr=0.0)}, {"seed": -1}, {"patch": 0}):
        with pytest.raises(CmlError, match="or more"):
            replace(PLAN, **wrong)


def test_data_that_does_not_fit(latents, picture_folder, tmp_path):
    encode_dataset(picture_folder / "plain", tmp_path / "flat", "gray_f8c4", workers=1)
    with pytest.raises(CmlError, match="no labels"):
        train(tmp_path / "flat", tmp_path / "out")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "plain").symlink_to(picture_folder / "plain")
    encode_dataset(tmp_path / "one", tmp_path / "alike", "gray_f8c4", workers=1)
    with pytest.raises(CmlError, match="all of one class"):
        train(tmp_path / "alike", tmp_path / "out")
    with pytest.raises(CmlError, match="no latent data set"):
        train(tmp_path, tmp_path / "out")
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in latents.glob("*.parquet"):
        (changed / file.name).symlink_to(file)
    manifest = read_manifest(latents)
    write_manifest(changed, replace(manifest, codec="gray_f8c16"))
    with pytest.raises(CmlError, match="train without flips"):
        train_classifier(changed, tmp_path / "out", PLAN)
    write_manifest(changed, replace(manifest, ndim=1))
    with pytest.raises(CmlError, match="1 spatial axes"):
        train(changed, tmp_path / "out")
    write_manifest(changed, replace(manifest, splits={"train": manifest.splits["train"]}))
    trained = train(changed, tmp_path / "out", recipe=Recipe(1, batch_size=36))
    assert trained.accuracy is None and trained.tested == 0


def test_folders_that_hold_no_classifier(tmp_path):
    with pytest.raises(CmlError, match="There is no model"):
        load_classifier(tmp_path)
    with pytest.raises(CmlError, match="no classifier of cml"):
        load_classifier("rgb_f8c12")


def test_the_command(latents, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of this process
    arguments = ["train", "classifier", str(latents), "-o", str(tmp_path / "out"), "--threads", "1"]
    options = ["--epochs", "1", "--batch", "9", "--lr", "1e-3", "--seed", "3", "--patch", "8", "--every", "2"]
    result = CliRunner().invoke(app, arguments + options, catch_exceptions=False)
    assert result.exit_code == 0 and "on 12 test samples" in result.stdout
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["stem"] == {"channels": 4, "grid": [5, 5], "patch": 1}
    assert config["training"]["recipe"]["lr"] == 1e-3 and config["training"]["seed"] == 3
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes").touch()
    with pytest.raises(CmlError, match="holds something else"):
        CliRunner().invoke(app, [*arguments[:4], str(tmp_path / "other")], catch_exceptions=False)
