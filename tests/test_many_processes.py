"""Training on two CPU processes, by gloo, is training on one: the same losses, and each goes on where the other was."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from helpers import photo

import cml
from cml.data.encode_dataset import encode_dataset
from cml.hub import load
from cml.train.checkpoint import CHECKPOINT
from cml.train.classifier import ClassifierPlan, train_classifier
from cml.train.codec import train_codec
from cml.train.loop import Recipe
from cml.train.material import read_signals
from cml.train.recipes import CodecRecipe, dump_recipe

# Where there is no GPU, `--multi_gpu` starts processes on the CPU; `--cpu` starts one, whatever `--num_processes` says.
ACCELERATE = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--main_process_port", "0")
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(launcher: tuple[str, ...], folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Two processes of `python -m cml.train`, in a folder."""
    command = [sys.executable, "-m", *launcher, "-m", "cml.train", *map(str, arguments), "--threads", "1"]
    env = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill(process: "subprocess.Popen[str]") -> None:
    """SIGKILL to the launcher and, since they would live on, to what it launched."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.kill()
    psutil.wait_procs(family)
    process.communicate()


def distance(one: Path, two: Path) -> float:
    """How far apart the weights of two models are, root mean square."""
    mine, theirs = load(one)[1], load(two)[1]
    assert mine.keys() == theirs.keys()
    return float(torch.cat([(mine[name] - theirs[name]).flatten() for name in mine]).square().mean().sqrt())


def test_a_classifier_of_two_processes_is_killed_and_goes_on_as_one(picture_folder, tmp_path):
    encode_dataset(f"folder:{picture_folder}", tmp_path / "latents", "gray_f8c4:entropy=zstd", workers=1)
    plan = ClassifierPlan(recipe=Recipe(epochs=40, batch_size=12), flip=True)
    options = ["--epochs", 40, "--batch", 12, "--flip", "--every", 20]
    process = start(ACCELERATE, tmp_path, "classifier", "latents", "-o", "two", *options)
    while not (tmp_path / "two" / CHECKPOINT).exists() and process.poll() is None:
        time.sleep(0.01)
    if process.poll() is not None:
        pytest.fail("".join(process.communicate()))
    kill(process)
    done = torch.load(tmp_path / "two" / CHECKPOINT, weights_only=True)["done"]
    assert 20 <= done < 120
    whole = train_classifier(tmp_path / "latents", tmp_path / "one", plan)
    resumed = train_classifier(tmp_path / "latents", tmp_path / "two", plan)
    mine, theirs = (np.loadtxt(tmp_path / name / "losses.csv", delimiter=",", skiprows=1) for name in ("one", "two"))
    assert mine.shape == theirs.shape == (120, 4)
    # What two processes have done rounds otherwise, and the rest is as one process does it from there.
    assert np.allclose(mine[:20], theirs[:20], rtol=1e-5) and not np.array_equal(mine[:done, 2], theirs[:done, 2])
    assert np.allclose(mine, theirs, rtol=5e-3)
    assert whole.accuracy == resumed.accuracy == 1


class Interruption(Exception):
    pass


def test_a_codec_of_one_process_goes_on_as_two(tmp_path):
    for number in range(4):
        cml.write_image(tmp_path / "photos" / f"{number}.png", photo((72, 80), 3, number).float() / 127.5 - 1)
    recipe = CodecRecipe(
        data=(str(tmp_path / "photos"),),
        codec={"levels": 2, "latent_channels": 6, "decoder": "light", "decoder_width": 8, "decoder_depth": 1},
        rounding="noise", steps=(0.2, 0.4), scales=(1.0,), crop=32, batch=4, iterations=60, warmup=10, every=20,
        ema=0.9, validation=4,
    )  # fmt: skip
    (tmp_path / "toy.yaml").write_text(dump_recipe(recipe))
    signals = read_signals(recipe)[0]
    train_codec(recipe, signals, tmp_path / "one")

    def interrupt(progress):
        if progress.iteration == 40:
            raise Interruption

    with pytest.raises(Interruption):
        train_codec(recipe, signals, tmp_path / "two", on_progress=interrupt)
    shutil.copytree(tmp_path / "two", tmp_path / "at 20")
    out, err = start(TORCHRUN, tmp_path, "codec", "toy.yaml", "-o", "two").communicate()
    assert out.count("60/60") == 1 and "20/60" not in out, out + err
    moved = distance(tmp_path / "one", tmp_path / "at 20")
    assert 0 < distance(tmp_path / "one", tmp_path / "two") < 1e-4 * moved
