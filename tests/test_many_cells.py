"""500 cells, killed five times: nothing is lost, nothing is computed twice, and the table is the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from cml.eval.results import Run
from PIL import Image

SEEDS, CONDITIONS = 4, 125
MATRIX = f"""
task: nearest
data: folder:pictures
size: 16
patch: 8
epochs: 1
seeds: {SEEDS}
codecs:
  - resize: {{factor: 2}}
  - gray_f8c4: {{step: [0.1, 0.2, 0.4, 0.8, 1.6]}}
  - webp: {{quality: [1, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]}}
  - jpeg: {{quality: {list(range(1, 101))}}}
"""
# A task of another package, with a model that is drawn at random instead of trained; all else is the real harness.
PROGRAM = """
import torch
from cml.cli import main
from cml.eval import complexity
from cml.tasks.base import TASKS, Score
from cml.tasks.classification import Classification
from cml.train.loop import TrainingTime
from torch import nn

torch.set_num_threads(1)
complexity._SECONDS = 0


class Nearest(Classification):
    name = "nearest"

    def build(self, stem, seed):
        torch.manual_seed(seed)
        first = nn.Conv2d(stem.channels, 4, stem.patch, stem.patch)
        return nn.Sequential(first, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "0"

    def train(self, model, inputs, shift, seed, on_epoch):
        return TrainingTime(len(inputs), 1.0)

    @torch.no_grad()
    def score(self, model, inputs):
        predicted = model(inputs.batch(torch.arange(len(inputs)))).argmax(1)
        correct = predicted == inputs.labels
        metrics = {"accuracy": float(correct.double().mean())}
        return Score(metrics, {"correct": correct.numpy(), "predicted": predicted.numpy()})


TASKS.add("nearest", "__main__:Nearest")
main()
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for label in ("bright", "dark"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        for number in range(8):
            image = rng.integers(0, 256, (16, 16)) // (2 if label == "dark" else 1)
            Image.fromarray(image.astype(np.uint8)).save(tmp_path / "pictures" / label / f"{number}.png")
    (tmp_path / "matrix.yaml").write_text(MATRIX)
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def start(out):
    command = [sys.executable, "program.py", "compare", "matrix.yaml", "--out", out]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def lines(out):
    return (out / "results.jsonl").read_bytes().count(b"\n") if (out / "results.jsonl").exists() else 0


def test_the_table_survives_five_kills(place):
    whole, broken = place / "whole", place / "broken"
    assert start(whole).wait() == 0
    rng = random.Random(5)
    for wanted in sorted(rng.sample(range(1, SEEDS * CONDITIONS - 20), 5)):
        process = start(broken)
        while process.poll() is None and lines(broken) < wanted:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))  # anywhere in a cell, not only behind its line
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wanted <= lines(broken) < SEEDS * CONDITIONS
    assert start(broken).wait() == 0
    cells = [json.loads(line) for line in (broken / "results.jsonl").read_text().splitlines()]
    assert len(cells) == len({cell["key"] for cell in cells}) == SEEDS * CONDITIONS
    assert all(cell["status"] == "ok" for cell in cells)
    for key in (cell["key"] for cell in cells):
        mine, wanted = (Run(run).items(key) for run in (broken, whole))
        assert all(np.array_equal(mine[name], wanted[name]) for name in wanted)
    ours, theirs = (pd.read_csv(run / "summary.csv") for run in (broken, whole))
    timings = [name for name in ours if name.endswith(("_mps", "_ips"))]
    pd.testing.assert_frame_equal(ours.drop(columns=timings), theirs.drop(columns=timings))
    assert ours["seeds"].tolist() == [SEEDS] * CONDITIONS
    for path in (whole / "tables").iterdir():
        assert (broken / "tables" / path.name).read_text() == path.read_text()
