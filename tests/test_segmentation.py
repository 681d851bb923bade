"""Segmentation: scores by hand, augmentation that keeps label and pixel together, `compare` end to end, wrong pairs."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from cml.eval import complexity
from cml.eval.protocols import prepare
from cml.eval.results import Run
from cml.eval.statistics import paired_bootstrap, score_interval
from cml.tasks.confusion import boundary_f1, class_iou, confusion_matrix, mean_iou
from cml.tasks.segmentation import Segmentation
from PIL import Image

import cml
from cml.data.latents import ModelInputs
from cml.data.segmentation import VOID, load_segmentation
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.heads import build_dense

CODECS = ["resize:factor=2", "rgb_f8c12:step=0.25", "jpeg:quality=20"]


def shapes(folder, maps, count, seed):
    """Bright squares (1) and dark discs (2) on grey (0), with a void frame around each square."""
    folder.mkdir(parents=True)
    maps.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:32, 0:48]
    for number in range(count):
        labels = np.zeros((32, 48), np.uint8)
        top, left = rng.integers(0, 20), rng.integers(0, 16)
        labels[top : top + 12, left : left + 12] = VOID
        labels[top + 1 : top + 11, left + 1 : left + 11] = 1
        labels[(y - rng.integers(6, 26)) ** 2 + (x - rng.integers(34, 42)) ** 2 < 36] = 2
        values = np.array([120, 230, 20])[np.where(labels == VOID, 0, labels)]
        image = (values[..., None] + rng.normal(0, 8, (32, 48, 3))).clip(0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{number:02d}.png")
        Image.fromarray(labels).save(maps / f"{number:02d}.png")


@pytest.fixture(scope="module")
def shape_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    for number, split in enumerate(("train", "test")):
        shapes(root / split, root / f"{split}annot", 24 - 16 * number, number)
    return root


@pytest.fixture
def broken(shape_folder, tmp_path):
    shutil.copytree(shape_folder, tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture(scope="module")
def finished(shape_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(complexity, "_SECONDS", 0)
        return out, cml.compare("segmentation", f"folder-seg:{shape_folder}", CODECS, epochs=30, seeds=1, out=out)


def test_confusion_and_iou_by_hand():
    truth = torch.tensor([[0, 0, 1], [1, VOID, 1]], dtype=torch.uint8)
    answer = torch.tensor([[0, 1, 1], [1, 0, 2]], dtype=torch.uint8)
    confusion = confusion_matrix(truth, answer, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 2, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    # one of two, two of four, none of one; class 3 is nowhere
    assert class_iou(confusion)[:3].tolist() == [0.5, 0.5, 0] and math.isnan(class_iou(confusion)[3])
    assert mean_iou(confusion) == pytest.approx(1 / 3)
    assert math.isnan(mean_iou(np.zeros((2, 2), int)))


def test_boundaries_by_hand():
    truth = torch.zeros(9, 12, dtype=torch.uint8)
    truth[:, 6:] = 1
    moved = truth.roll(2, 1)
    moved[:, :2] = 0
    assert boundary_f1(truth, truth, 2, 1) == 1
    # Columns 5, 6 against 7, 8. Class 0 ends at column 5, then at 7: two apart; so does class 1.
    assert boundary_f1(truth, moved, 2, 2) == 1
    assert boundary_f1(truth, moved, 2, 1) == 0
    half = truth.clone()
    half[4:, 6:] = 0  # the lower five rows miss the object: a true boundary without an answer, and a wrong one
    given, true = 4, 9  # class 1: its column in the rows 0 to 3, and its lower edge, columns 6 to 11, in row 3
    precision, recall = given / (given + 5), given / true
    zero = {"precision": 4 / (4 + 6), "recall": 4 / 9}  # class 0: column 5, and row 4 below the object
    wanted = np.mean([2 * p * r / (p + r) for p, r in ((precision, recall), zero.values())])
    assert boundary_f1(truth, half, 2, 0) == pytest.approx(float(wanted))
    void = truth.clone()
    void[:, 5:7] = VOID
    assert math.isnan(boundary_f1(void, torch.where(void == VOID, 0, void), 2, 1))


def test_miou_of_resampled_pictures():
    rng = np.random.default_rng(0)
    ours = rng.integers(0, 50, (2, 40, 3, 3)) + 100 * np.eye(3, dtype=int)
    theirs = ours + rng.integers(0, 30, ours.shape)
    gain = paired_bootstrap(ours, theirs, samples=500)
    wanted = mean_iou(ours.sum(1)).mean() - mean_iou(theirs.sum(1)).mean()
    assert gain.difference == pytest.approx(wanted) and gain.low < wanted < gain.high and gain.excludes_zero
    one = score_interval(ours[:1], samples=500)
    drawn = np.random.default_rng(0).integers(0, 40, (500, 40))
    by_hand = [mean_iou(ours[0, rows].sum(0)) for rows in drawn]
    assert (one.low, one.high) == pytest.approx(tuple(np.quantile(by_hand, [0.025, 0.975])))


def test_maps_move_with_their_inputs():
    """Every position holds its own number, in the values and in the labels behind them."""
    numbers = torch.arange(1, 25, dtype=torch.uint8).view(1, 1, 1, 4, 6)
    labels = numbers[0, :, 0].repeat_interleave(2, 1).repeat_interleave(2, 2)
    inputs = ModelInputs(numbers, torch.ones(1), torch.zeros(1), labels, ("none", "h", "v"), blank=VOID)
    for flip in range(3):
        for shift in ((0, 0), (1, -2), (-3, 4)):
            moved = (torch.tensor([0]), torch.tensor([flip]), shift)
            seen = inputs.batch(*moved)[:, 0].repeat_interleave(2, 1).repeat_interleave(2, 2)
            assert torch.equal(inputs.targets(*moved).float(), seen)
    assert torch.equal(inputs.targets(torch.tensor([0])), labels)


def test_flipped_latents_are_those_of_the_flipped_picture(shape_folder):
    task = Segmentation(f"folder-seg:{shape_folder}")
    codec = cml.create_codec("rgb_f8c12:step=0.25,rdo=0")
    inputs = prepare("latent", codec, task, 8).train
    assert inputs is not None and inputs.values.shape == (2, 24, 12, 4, 6)
    flipped = codec.encode(task.signal("train", 3).flip(-1)).to_float()
    torch.testing.assert_close(inputs.batch(torch.tensor([3]), torch.tensor([1]))[0], flipped)
    assert torch.equal(inputs.targets(torch.tensor([3]), torch.tensor([1]))[0], task.labels("train")[3].flip(-1))


def test_compare_end_to_end(finished):
    out, table = finished
    assert list(table["view"]) == ["pixels", "bigpatch", "resize", "latent", *["reconstruction"] * 3]
    assert table["tokens"].tolist() == [96, *[24] * 6]
    by_view = table.groupby("view")["miou"].max()
    assert (by_view > 0.6).all() and (table["pixel_accuracy"] > table["chance"]).all()
    assert table["chance"].between(0.2, 0.35).all()  # one of three classes, with most of the pixels
    assert {"boundary_f1", "iou_0", "iou_1", "iou_2", "by_pixels_model"} <= set(table.columns)
    for result in Run(out).results().values():
        items = Run(out).items(result.key)
        assert mean_iou(items["confusion"].sum(0)) == pytest.approx(result.metrics["miou"])
        assert items["outcome"].shape == (8,)
    report = (out / "report.md").read_text()
    assert "--patch 8" in report and "(answers.png)" in report and "boundary F1" in report
    with Image.open(out / "answers.png") as picture:
        assert picture.width > picture.height > 100
    gallery = json.loads((out / "gallery" / "gallery.json").read_text())["pictures"]
    assert [picture["label"] for picture in gallery] == [None, None]
    assert (out / "report.html").exists() and (out / "tables" / "token_matched.csv").exists()


def test_gain_is_that_of_the_main_score(finished):
    _, table = finished
    control = table.loc[table["view"] == "bigpatch", "miou"].iloc[0]
    assert np.allclose(table["gain"], table["miou"] - control)
    assert (table["gain_low"] <= table["gain"]).all() and (table["gain"] <= table["gain_high"]).all()


def test_a_size_keeps_the_shape(shape_folder):
    assert Segmentation(f"folder-seg:{shape_folder}").size == (32, 48)
    task = Segmentation(f"folder-seg:{shape_folder}", size=16)
    assert task.size == (16, 24) and task.signal("test", 0).shape == (3, 16, 24)
    labels = task.labels("test")
    assert labels.shape == (8, 16, 24) and set(labels.unique().tolist()) == {0, 1, 2, VOID}


@pytest.mark.parametrize("backbone", ["timm:resnet10t", "hf"])
def test_other_backbones(backbone, tmp_path):
    if backbone == "hf":
        from transformers import SegformerConfig

        SegformerConfig(
            hidden_sizes=[8, 16, 24, 32], num_attention_heads=[1, 1, 1, 2], depths=[1, 1, 1, 1]
        ).save_pretrained(tmp_path)
        backbone = f"hf:{tmp_path}"
    model, path = build_dense(backbone, StemShape(12, (8, 12), 1), 5, (64, 96), spacing=2)
    answer = model(torch.randn(2, 12, 8, 12))
    assert answer.shape == (2, 5, 64, 96) and model.get_submodule(path)
    answer.sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_layouts_classes_and_void(shape_folder, tmp_path):
    for split in ("train", "validation"):
        shutil.copytree(shape_folder / "test", tmp_path / split / "images")
        shutil.copytree(shape_folder / "testannot", tmp_path / split / "labels")
    (tmp_path / "classes.txt").write_text("ground\nsquare\n\n")
    data = load_segmentation(f"folder-seg:{tmp_path}")
    assert data.classes == ("ground", "square") and len(data.train) == len(data.test) == 8 and data.size == (32, 48)
    labels = data.train.labels(0, data.size)
    assert set(labels.unique().tolist()) == {0, 1, VOID}  # 2, behind the last class, counts nowhere
    assert data.frequencies.tolist() == [
        sum(int((data.train.labels(i, data.size) == label).sum()) for i in range(8)) for label in (0, 1)
    ]
    palette = Image.open(tmp_path / "train" / "labels" / "00.png").convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "train" / "labels" / "00.png")
    assert load_segmentation(f"folder-seg:{tmp_path}").classes == ("ground", "square")


def test_camvid_is_known(data):
    camvid = load_segmentation(f"folder-seg:{data / 'camvid'}")
    assert (len(camvid.train), len(camvid.test), camvid.size) == (367, 233, (240, 320))
    assert len(camvid.classes) == 11 and camvid.classes[8] == "car"
    assert set(camvid.test.labels(0, (240, 320)).unique().tolist()) <= {*range(11), VOID}


def test_wrong_pairs_are_named(broken):
    name = f"folder-seg:{broken}"
    labels = broken / "testannot" / "03.png"
    label = np.array(Image.open(labels))
    Image.fromarray(label[:-1]).save(labels)
    with pytest.raises(DataError, match=r"testannot/03\.png is 48x31 and its picture 48x32"):
        load_segmentation(name)
    labels.unlink()
    with pytest.raises(DataError, match=r"test/03\.png has no label map: .*03\.png is missing"):
        load_segmentation(name)
    (broken / "test" / "03.png").unlink()
    (broken / "classes.txt").write_text("ground\nsquare\n")
    odd = broken / "trainannot" / "05.png"
    Image.fromarray(np.where(np.array(Image.open(odd)) == 1, 7, 0).astype(np.uint8)).save(odd)
    with pytest.raises(DataError, match=r"trainannot/05\.png holds the label 7"):
        load_segmentation(name)
    Image.new("RGB", (48, 32)).save(odd)
    with pytest.raises(DataError, match=r"05\.png is no label map"):
        load_segmentation(name)
    (broken / "train" / "05.png").unlink()
    with pytest.raises(DataError, match=r"05\.png has no picture"):
        load_segmentation(name)


@pytest.mark.parametrize(
    ("data", "options", "sentence"),
    [
        ("elpv", {}, "needs --data folder-seg:PATH"),
        ("folder:x", {}, "did you mean folder-seg"),
        ("folder-seg:nowhere", {}, "there is none at 'nowhere'"),
        (None, {"size": 4}, "8 pixels"),
        (None, {"epochs": 0}, "1 epoch"),
        (None, {"patch": 7}, "patch"),
        (None, {"backbone": "small"}, "family:name"),
    ],
)
def test_bad_requests(shape_folder, tmp_path, data, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        cml.compare("segmentation", data or f"folder-seg:{shape_folder}", CODECS, out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_folder_without_splits_is_refused(shape_folder):
    with pytest.raises(DataError, match="must hold train and trainannot, or train/images"):
        load_segmentation(f"folder-seg:{shape_folder / 'train'}")
