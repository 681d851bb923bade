"""Segmentation of video through `compare`: clips of labelled frames, temporal latents, and what is wrong."""

# Codecs and tables by what they are, not by their type.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

from pathlib import Path

import numpy as np
import pytest
from cml.eval import protocols
from cml.eval.matrix import Matrix
from cml.eval.results import Run
from cml.tasks.confusion import mean_iou
from cml.tasks.video import VideoSegmentation
from PIL import Image

import cml
from cml.codecs.fit import fit_codec
from cml.data.clips import clips_of
from cml.data.labelled_volumes import load_labelled
from cml.errors import CmlError, DataError

HEIGHT, WIDTH = 32, 48
VIEWS = ["pixels", "bigpatch", "resize", "latent", "reconstruction"]


def frame(number: int, sequence: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square that moves to the right over a dim ground, and its label."""
    rng = np.random.default_rng(1000 * sequence + number)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    left, top = (5 * number + 9 * sequence) % (WIDTH - 14), 4 + 3 * sequence
    labels[top : top + 14, left : left + 14] = 1
    picture = np.array([[60, 80, 70], [220, 60, 40]])[labels] + rng.normal(0, 8, (HEIGHT, WIDTH, 3))
    return picture.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(autouse=True, scope="module")
def hasty():
    """Codecs are timed for a moment only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cml.eval.complexity._SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Frames 30 numbers apart: two sequences to train on, of 17 and 8 frames, and one of 16 to test."""
    root = tmp_path_factory.mktemp("frames")
    for split, sequences in (("train", ((0, 17), (1, 8))), ("test", ((2, 16),))):
        for kind in (split, f"{split}annot"):
            (root / kind).mkdir()
        for sequence, count in sequences:
            for number in range(count):
                picture, labels = frame(number, sequence)
                name = f"drive{sequence}_f{30 * number:05}.png"
                Image.fromarray(picture).save(root / split / name)
                Image.fromarray(labels).save(root / f"{split}annot" / name)
    return root


@pytest.fixture(scope="module")
def codec(folder, tmp_path_factory):
    """Cells of 4 frames and 8x8 pixels, with 24 channels."""
    task = VideoSegmentation(f"folder-seg:{folder}")
    clips = [task.signal("train", index).repeat(1, 2, 4, 4) for index in range(task.count("train"))]
    made = fit_codec(clips, name="v", ndim=3, channels=3, levels=(2, 3, 3), latent_channels=24, step=0.05)
    path = tmp_path_factory.mktemp("codec") / "f8c24"
    made.save(path, "A test.")
    return str(path)


@pytest.fixture(scope="module")
def finished(folder, codec, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, cml.compare(
        "video", f"folder-seg:{folder}", ["decimate:space=4,time=4", codec], VIEWS, epochs=30, out=out
    )


def test_every_view_is_in_the_table(finished):
    out, table = finished
    assert not table.attrs["failed"]
    assert list(table["view"]) == [*VIEWS, "reconstruction"]
    cells = 2 * HEIGHT // 8 * WIDTH // 8
    assert table["tokens"].tolist() == [4 * cells, *[cells] * 5]
    values = 3 * 8 * HEIGHT * WIDTH
    assert table["dimensions"].tolist() == [values, values, values // 64, 24 * cells, values, values]
    assert table.loc[table["view"] != "pixels", "backbone_macs"].nunique() == 1
    assert table.loc[0, "bpp"] == pytest.approx(24, abs=0.1)  # of three colours, a place and time
    assert (table["miou"] > table["chance"]).all() and table["dice"].notna().all()
    assert (out / "answers.png").stat().st_size > 0 and (out / "report.html").stat().st_size > 0


def test_items_are_clips(finished):
    out, _ = finished
    for result in Run(out).results().values():
        items = Run(out).items(result.key)
        assert items["confusion"].shape == (2, 2, 2) and len(items["bits"]) == 2
        assert items["confusion"].sum() == 2 * 8 * HEIGHT * WIDTH
        assert mean_iou(items["confusion"].sum(0)) == pytest.approx(result.metrics["miou"])


def test_clips_are_frames_in_a_row(folder):
    data = load_labelled(f"folder-seg:{folder}")
    assert data.size == (8, HEIGHT, WIDTH) and (len(data.train), len(data.test)) == (3, 2)
    for place, first in ((0, 0), (1, 8)):
        for number in range(8):
            picture, labels = frame(first + number, 2)
            assert np.array_equal(data.test.signal(place)[:, number].permute(1, 2, 0).numpy(), picture)
            assert np.array_equal(data.test.labels(place)[number].numpy(), labels)


def test_a_gap_ends_a_clip():
    names = [f"a_{30 * n:04}" for n in (*range(5), *range(6, 15))] + [f"b{n}" for n in range(7)] + ["title"]
    clips = clips_of([Path(f"{name}.png") for name in names])
    assert clips == [list(range(5, 13))]  # five frames stand before the gap, one is left over, and b has seven
    assert clips_of([]) == []


def test_training_moves_frames_in_the_picture_and_not_in_time(folder, codec, monkeypatch):
    task = VideoSegmentation(f"folder-seg:{folder}", epochs=2)
    prepared = protocols.prepare("latent", cml.create_codec(codec), task, 8)
    model, _ = task.build(prepared.stem, 0)
    moves = []
    original = type(prepared.train).batch
    monkeypatch.setattr(
        type(prepared.train), "batch", lambda self, *a, **k: (moves.append(k.get("shift")), original(self, *a, **k))[1]
    )
    task.train(model, prepared.train, prepared.shift, 0, lambda epoch, loss: None)
    assert moves and all(move[0] == 0 and max(map(abs, move[1:])) <= 3 for move in moves)
    assert any(any(move) for move in moves)


def test_camvid_makes_clips(data):
    found = load_labelled(f"folder-seg:{data / 'camvid'}")
    assert found.size == (8, 240, 320) and len(found.classes) == 11
    assert (len(found.train), len(found.test)) == (44, 28)


def test_bad_requests_are_sentences(folder, codec, tmp_path):
    for name in ("train", "trainannot", "test", "testannot"):
        (tmp_path / name).mkdir()
        for number in (1, 2, 3):
            kind = frame(number, 0)["annot" in name]
            Image.fromarray(kind).save(tmp_path / name / f"{number}.png")
    with pytest.raises(DataError, match="no 8 frames in a row"):
        load_labelled(f"folder-seg:{tmp_path}")
    for options, words in (
        ({"data": "elpv"}, "needs --data folder-seg:PATH"),
        ({"codecs": ("rgb_f8c12",)}, "signals of three axes"),
        ({"codecs": ("decimate:space=3,time=4",)}, "whole factors"),
        ({"codecs": ("decimate:space=2,time=8",)}, "multiples"),
        ({"backbone": "timm:resnet18"}, "cml:volume"),
    ):
        with pytest.raises(CmlError, match=words):
            Matrix(**{"task": "video", "data": f"folder-seg:{folder}", "codecs": (codec,)} | options).resolve()
