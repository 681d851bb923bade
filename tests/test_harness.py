"""`compare` end to end at toy size: every view, resume, failure, keys."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from cml.eval import cells, matrix
from cml.eval.metrics import psnr, retention
from cml.eval.results import Result, Run, cell_key
from cml.eval.statistics import paired_bootstrap

import cml
from cml.errors import CmlError, DataError

CODECS = ["resize:factor=2", "gray_f8c4:step=0.25", "gray_f8c16", "jpeg:quality=20"]
SCORES = ["view", "codec", "seeds", "accuracy", "accuracy_sd", "roc_auc", "bpp", "dimensions", "retention", "psnr"]


def toy(folder, out, **options):
    settings = {"size": 32, "epochs": 3, "seeds": 2, "codecs": CODECS, "out": out} | options
    return cml.compare("classification", f"folder:{folder}", **settings)


@pytest.fixture(scope="module")
def finished(picture_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, toy(picture_folder, out)


def test_every_view_is_in_the_table(finished):
    out, table = finished
    assert list(table["view"]) == ["pixels", "bigpatch", "resize", "latent", "latent", *["reconstruction"] * 4]
    assert (table["seeds"] == 2).all() and table["accuracy_sd"].notna().all()
    assert table["tokens"].tolist() == [16, *[4] * 8]
    bodies = table.loc[table["view"].isin(["bigpatch", "resize", "latent", "reconstruction"]), "backbone_macs"]
    assert bodies.nunique() == 1
    assert table["dimensions"].tolist() == [1024, 1024, 256, 256, 64, *[1024] * 4]
    identity = cml.create_codec("identity").compress(torch.zeros(1, 32, 32, dtype=torch.uint8))
    assert table["bpp"][0] == 8 * len(identity) / 1024
    assert table.loc[table["view"] == "reconstruction", "psnr"].between(15, 60).all()
    for name in ("report.md", "summary.csv", "rate.png", "dimension.png", "gallery.png", "results.jsonl", "run.json"):
        assert (out / name).stat().st_size > 0
    report = (out / "report.md").read_text()
    assert "cml compare --task classification" in report and "subsampling" in report
    assert pd.read_csv(out / "summary.csv").shape[0] == 9


def test_items_are_kept_for_paired_comparisons(finished):
    out, _ = finished
    results = Run(out).results()
    assert len(results) == 18
    for key, result in results.items():
        items = np.load(out / "items" / f"{key}.npz")
        assert items["correct"].shape == (12,) and items["correct"].mean() == pytest.approx(result.metrics["accuracy"])
        assert items["bits"].sum() >= 8 * 12 and result.bpp == pytest.approx(items["bits"].mean() / 1024)


def test_run_again_computes_nothing(finished, picture_folder, monkeypatch):
    out, table = finished
    before = (out / "results.jsonl").read_bytes(), (out / "gallery.png").stat().st_mtime_ns
    monkeypatch.setattr(cells, "_run_condition", lambda *a: pytest.fail("a finished cell ran again"))
    again = toy(picture_folder, out)
    assert ((out / "results.jsonl").read_bytes(), (out / "gallery.png").stat().st_mtime_ns) == before
    pd.testing.assert_frame_equal(again, table)


def test_the_same_seed_gives_the_same_scores(finished, picture_folder, tmp_path):
    _, table = finished
    other = toy(picture_folder, tmp_path, views=["latent"], codecs=["gray_f8c16"])
    ours = table[(table["view"] == "latent") & table["codec"].str.startswith("gray_f8c16")]
    assert (
        other["accuracy"].tolist() == ours["accuracy"].tolist()
        and other["roc_auc"].tolist() == ours["roc_auc"].tolist()
    )


def test_a_failing_cell_is_recorded_and_the_rest_goes_on(picture_folder, tmp_path, monkeypatch):
    from cml.codecs.conventional import Jpeg

    def broken(self, blob):
        raise RuntimeError("the library fell over")

    with monkeypatch.context() as patch:
        patch.setattr(Jpeg, "_decompress", broken)
        table = toy(picture_folder, tmp_path, seeds=1)
    assert len(table) == 8
    (failed,) = table.attrs["failed"]
    assert failed.codec == "jpeg:quality=20" and "fell over" in failed.error
    assert "fell over" in (tmp_path / "report.md").read_text()
    healed = toy(picture_folder, tmp_path, seeds=1)
    assert len(healed) == 9 and not healed.attrs["failed"]
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 10


def test_killed_half_way_it_ends_with_the_same_table(finished, picture_folder, tmp_path):
    _, table = finished
    code = (
        "import torch; torch.set_num_threads(1); import cml\n"
        f"options = dict(size=32, epochs=3, seeds=2, codecs={CODECS!r}, out={str(tmp_path)!r})\n"
        f"cml.compare('classification', 'folder:{picture_folder}', **options)"
    )
    results = tmp_path / "results.jsonl"
    for wanted in (3, 9, 14):
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if results.exists() and results.read_bytes().count(b"\n") >= wanted:
                break
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert wanted <= results.read_bytes().count(b"\n") < 18
        # What a kill in the middle of a write leaves behind.
        with open(results, "ab") as file:
            file.write(b'{"key": "half a li')
    resumed = toy(picture_folder, tmp_path)
    pd.testing.assert_frame_equal(resumed.loc[:, SCORES], table.loc[:, SCORES])
    assert len(Run(tmp_path).results()) == 18


def test_every_part_of_the_key_matters(picture_folder):
    task = matrix.TASKS.get("classification")(f"folder:{picture_folder}", size=32)
    *_, condition = matrix.plan(task, ["jpeg"], ["reconstruction"], 16)
    context = cells.context_of(task, condition, 0, 16)
    keys = {cell_key(context)}
    for name, value in context.items():
        changed = json.loads(json.dumps(context))
        changed[name] = {"other": 1} if isinstance(value, dict) else f"{value}x"
        keys.add(cell_key(changed))
    assert len(keys) == 1 + len(context)
    assert {"data_revision", "task_version", "codec_id", "codec_settings", "seed", "recipe", "versions"} <= set(context)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"codecs": ["jepg"]}, "did you mean jpeg"),
        ({"codecs": ["rgb_f8c48"]}, "choose another codec"),
        ({"views": ["latents"]}, "are pixels, bigpatch"),
        ({"seeds": 0}, "1 seed"),
        ({"epochs": 0}, "1 epoch"),
        ({"size": 4}, "8 pixels"),
        ({"patch": 12}, "patch"),
        ({"patch": 15}, "take a size of 30"),
        ({"size": 30, "patch": 15}, "even"),
        ({"views": ["resize"], "codecs": ["jpeg"]}, "has the view resize"),
        ({"codecs": ["resize:factor=3"]}, "divide"),
        ({"backbone": "small"}, "family:name"),
    ],
)
def test_bad_requests_fail_before_anything_runs(picture_folder, tmp_path, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        toy(picture_folder, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_broken_results_file_is_named(tmp_path):
    (tmp_path / "results.jsonl").write_text('{"key": 1}\nnot json\n{}\n')
    with pytest.raises(DataError, match=r"results\.jsonl, line 1"):
        Run(tmp_path).results()


def test_results_round_trip(tmp_path):
    result = Result(key="k", view="latent", codec="c", seed=3, status="ok", metrics={"accuracy": 0.5}, psnr=30.0)
    Run(tmp_path).append(result)
    assert Run(tmp_path).results() == {"k": result}


def test_paired_bootstrap_by_hand():
    ours, theirs = np.ones((2, 400)), np.ones((1, 400))
    same = paired_bootstrap(ours, theirs)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    theirs[0, :100] = 0
    gain = paired_bootstrap(ours, theirs)
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert gain.difference == 0.25
    assert gain.low == pytest.approx(0.25 - half, abs=0.01) and gain.high == pytest.approx(0.25 + half, abs=0.01)
    with pytest.raises(ValueError, match="same ones"):
        paired_bootstrap(ours, theirs[:, :3])


def test_default_folders_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {
        str(matrix.default_folder(data, False)) for data in ("elpv", "folder:.", "folder:a/train", "folder:b/train")
    }
    assert len(names) == 4 and all(name.startswith("runs/") and ".." not in name for name in names)


def test_psnr_and_retention_by_hand():
    x = torch.tensor([0.0, 10.0])
    assert psnr(x, x + 1, data_range=255) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(x, x, data_range=255) == float("inf")
    with pytest.raises(ValueError, match="one shape"):
        psnr(x, x[:1], data_range=1)
    assert retention(0.8, 0.9, 0.7) == pytest.approx(0.5)
    assert np.isnan(retention(0.8, 0.7, 0.7))
