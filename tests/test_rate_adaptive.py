"""One model for every rate: what it is fed, what is compared, and the command."""

import numpy as np
import pandas as pd
import pytest
import torch
from cml.eval.protocols import prepare
from cml.eval.rate_adaptive import MIXED, MixedInputs, main, markdown, rate_adaptive
from cml.eval.results import Run
from cml.tasks.classification import Classification
from typer import Typer
from typer.testing import CliRunner

import cml
from cml.errors import CmlError

STEPS = (0.25, 4)


@pytest.fixture(scope="module")
def task(picture_folder):
    return Classification(f"folder:{picture_folder}", size=32, epochs=4)


def test_each_sample_of_a_batch_has_its_step(task):
    parts = []
    for step in STEPS:
        train = prepare("latent", cml.create_codec(f"gray_f8c16:step={step}"), task, 16).train
        assert train is not None
        parts.append(train)
    mixed = MixedInputs.of(parts, seed=0)
    indices = torch.arange(24)
    flips = indices % 2
    x = mixed.batch(indices, flips, (0, 1))
    fine, coarse = (part.batch(indices, flips, (0, 1)) for part in parts)
    of_fine = (x == fine).flatten(1).all(1)
    assert ((x == coarse).flatten(1).all(1) != of_fine).all() and 4 < int(of_fine.sum()) < 20
    assert not torch.equal(mixed.batch(indices, flips, (0, 1)), x)
    assert torch.equal(mixed.targets(indices), parts[0].labels[:24]) and len(mixed) == len(parts[0])
    again = MixedInputs.of(parts, seed=0)
    assert torch.equal(again.batch(indices, flips, (0, 1)), x)


def test_every_model_at_every_step(task, tmp_path):
    table = rate_adaptive(task, "gray_f8c16", STEPS, 2, Run(tmp_path))
    assert list(table["trained_on"]) == [MIXED, "0.25", "4"] * 2 and list(table["step"]) == [0.25] * 3 + [4] * 3
    own = table[table["trained_on"] == [f"{step:g}" for step in table["step"]]]
    assert own["gain"].tolist() == [0, 0]
    mixed = table[table["trained_on"] == MIXED].reset_index()
    assert np.allclose(mixed["gain"], mixed["accuracy"] - own.reset_index()["accuracy"])
    rates = table.groupby("step")["bpp"]
    fine, coarse = rates.first().tolist()
    assert rates.nunique().tolist() == [1, 1] and fine > 2 * coarse
    text = markdown(table, "accuracy", "stripes", "the command")
    rows = [line for line in text.splitlines() if line.startswith("| 0.25 |") or line.startswith("| 4 |")]
    assert len(rows) == 2 and all(row.count("±") == 3 and "[" in row for row in rows) and "the command" in text


def test_a_killed_run_goes_on(task, tmp_path, monkeypatch):
    """Stopped in its third training of six, it trains the last four, and the table is that of an unbroken run."""
    trained = []
    train = type(task).train

    def counted(self, model, inputs, shift, seed, on_epoch):
        if len(trained) == 2 and not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        trained.append((isinstance(inputs, MixedInputs), seed))
        return train(self, model, inputs, shift, seed, on_epoch)

    monkeypatch.setattr(type(task), "train", counted)
    steps = (0.5, 2)
    with pytest.raises(KeyboardInterrupt):
        rate_adaptive(task, "gray_f8c4", steps, 2, Run(tmp_path / "run"))
    (tmp_path / "again").touch()
    with open(tmp_path / "run" / "results.jsonl", "a") as file:
        file.write('{"key": "half of a li')
    table = rate_adaptive(task, "gray_f8c4", steps, 2, Run(tmp_path / "run"))
    assert trained == [(True, 0), (True, 1), (False, 0), (False, 1), (False, 0), (False, 1)]
    whole = rate_adaptive(task, "gray_f8c4", steps, 2, Run(tmp_path / "whole"))
    pd.testing.assert_frame_equal(table, whole)
    trained.clear()
    pd.testing.assert_frame_equal(rate_adaptive(task, "gray_f8c4", steps, 2, Run(tmp_path / "run")), whole)
    assert not trained
    rate_adaptive(task, "gray_f8c4", steps, 3, Run(tmp_path / "run"))
    assert trained == [(True, 2), (False, 2), (False, 2)]


def test_a_finished_training_counts_for_its_own_request_only(task, picture_folder, tmp_path):
    def keys(other, steps):
        before = set(Run(tmp_path).results())
        rate_adaptive(other, "gray_f8c4", steps, 1, Run(tmp_path))
        return set(Run(tmp_path).results()) - before

    short = Classification(f"folder:{picture_folder}", size=32, epochs=1)
    assert len(keys(short, (0.5, 2))) == 6
    assert len(keys(short, (2, 0.5))) == 0
    # the model of all steps is another; the others are trained again only to be scored at the third
    assert len(keys(short, (0.5, 2, 4))) == 12 - 4
    assert len(keys(Classification(f"folder:{picture_folder}", size=32, epochs=2), (0.5, 2))) == 6


def test_command(picture_folder, tmp_path):
    app = Typer()
    app.command()(main)
    base = ["--task", "classification", "--data", f"folder:{picture_folder}", "--size", "32", "--epochs", "1"]
    done = CliRunner().invoke(
        app, [*base, "--codec", "gray_f8c4:entropy=order0", "--steps", "0.5 1", "-o", str(tmp_path / "r")]
    )
    assert done.exit_code == 0, done.output
    assert pd.read_csv(tmp_path / "r.csv").shape[0] == 6 and "all steps" in (tmp_path / "r.md").read_text()
    for codec, steps, sentence in (
        ("gray_f8c4", "a b", "Steps are numbers"),
        ("gray_f8c4", "1", "two steps"),
        ("jpeg", "0.5 1", "step"),
    ):
        done = CliRunner().invoke(app, [*base, "--codec", codec, "--steps", steps, "-o", str(tmp_path / "x")])
        assert done.exit_code == 2 and sentence in " ".join(done.output.split())


def test_a_trained_model_has_nothing_to_adapt(task, tmp_path, monkeypatch):
    monkeypatch.setattr(task, "frozen", True)
    with pytest.raises(CmlError, match="trains nothing"):
        rate_adaptive(task, "gray_f8c4", STEPS, 1, Run(tmp_path))
