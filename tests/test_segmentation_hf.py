"""Segmentation data sets of Hugging Face `datasets`: parquet folders, as the hub holds them, through the task."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from cml.tasks.segmentation import Segmentation
from PIL import Image

import cml
from cml.data.segmentation import VOID, load_segmentation
from cml.data.segmentation_hf import RowSplit
from cml.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Tables are made anew for this file, and nothing goes to the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


def pair(seed, size=(32, 48)):
    """A bright square (1) in a void frame and a dark stripe (2) on grey (0)."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(size, np.uint8)
    top, left = rng.integers(0, 16), rng.integers(0, 20)
    labels[top : top + 14, left : left + 14] = VOID
    labels[top + 1 : top + 13, left + 1 : left + 13] = 1
    labels[:, 38:44] = 2
    values = np.array([120, 230, 20])[np.where(labels == VOID, 0, labels)]
    picture = (values[..., None] + rng.normal(0, 8, (*size, 3))).clip(0, 255).astype(np.uint8)
    return picture, labels


def png(array, mode=None):
    buffer = io.BytesIO()
    picture = Image.fromarray(array)
    (picture.convert(mode) if mode else picture).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(folder, splits, names=("image", "annotation"), more=None):
    """A parquet file for each split: lists of (picture, labels), either of them also a stored cell or None."""
    features = {name: datasets.Image() for name in names} | {name: kind for name, (kind, _) in (more or {}).items()}
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for split, pairs in splits.items():
        cells = [[cell if cell is None or isinstance(cell, dict) else png(cell) for cell in both] for both in pairs]
        columns = dict(zip(names, map(list, zip(*cells, strict=True)), strict=True))
        columns |= {name: [value] * len(pairs) for name, (_, value) in (more or {}).items()}
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
        table.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    splits = {"train": [pair(n) for n in range(10)], "validation": [pair(100 + n) for n in range(4)]}
    return write(tmp_path_factory.mktemp("shapes"), splits)


def test_rows_become_pictures_and_labels(shapes):
    data = load_segmentation(f"hf:{shapes}")
    assert (len(data.train), len(data.test), data.size, data.train.channels) == (10, 4, (32, 48), 3)
    assert data.classes == ("0", "1", "2") and data.description == f"{shapes.name}, 3 classes"
    picture, labels = pair(101)
    assert np.array_equal(data.test.image(1).numpy(), picture.transpose(2, 0, 1))
    assert np.array_equal(data.test.labels(1, (32, 48)).numpy(), labels)
    small = data.test.labels(1, (16, 24))
    assert small.shape == (16, 24) and set(small.unique().tolist()) == {0, 1, 2, VOID}
    counted = [sum(int((pair(n)[1] == label).sum()) for n in range(10)) for label in range(3)]
    assert data.frequencies.tolist() == counted


def test_the_revision_is_of_the_content(shapes, tmp_path):
    first = load_segmentation(f"hf:{shapes}").revision
    assert load_segmentation(f"hf:{shutil.copytree(shapes, tmp_path / 'copy')}").revision == first
    splits = {"train": [pair(n) for n in range(10)], "validation": [pair(100 + n) for n in range(4)]}
    splits["train"][7][1][0, 0] = 2
    assert load_segmentation(f"hf:{write(tmp_path / 'other', splits)}").revision != first


def test_pictures_are_decoded_when_they_are_asked_for(tmp_path):
    torn = png(pair(2)[0])
    torn["bytes"] = torn["bytes"][:-600]
    splits = {"train": [pair(1), (torn, pair(2)[1])], "test": [pair(3)]}
    data = load_segmentation(f"hf:{write(tmp_path, splits)}")
    assert data.train.image(0).shape == (3, 32, 48)
    with pytest.raises(DataError, match="train, row 1, cannot be read as a picture"):
        data.train.image(1)


def test_classes_have_names_where_somebody_gives_them(shapes, tmp_path):
    root = shutil.copytree(shapes, tmp_path / "named")
    (root / "id2label.json").write_text(json.dumps({"1": "square", "0": "ground", "2": "stripe", "3": "sky"}))
    assert load_segmentation(f"hf:{root}").classes == ("ground", "square", "stripe", "sky")
    splits = {"train": [pair(0)], "test": [pair(1)]}
    for number, (names, known) in enumerate(((["a", "b", "c"], ("a", "b", "c")), (["a", "b"], ("0", "1", "2")))):
        more = {"objects": (datasets.List(datasets.ClassLabel(names=names)), [0, 1])}
        assert load_segmentation(f"hf:{write(tmp_path / f'list{number}', splits, more=more)}").classes == known


def test_kinds_of_columns_splits_and_pictures(tmp_path):
    """A palette for labels, grey pictures with a useless alpha, a test split whose maps are kept secret."""
    grey = [(png(pair(n)[0], "L"), png(pair(n)[1], "P")) for n in range(3)]
    splits = {"train": grey[:2], "test": [(png(pair(9)[0]), None)], "val": grey[2:]}
    data = load_segmentation(f"hf:{write(tmp_path / 'grey', splits, ('pixel_values', 'semantic_mask'))}")
    assert data.train.channels == 1 and data.train.image(0).shape == (1, 32, 48) and len(data.test) == 1
    assert isinstance(data.test, RowSplit) and data.test.name.endswith(", val")
    clear = png(np.dstack([pair(0)[0], np.full((32, 48), 255, np.uint8)]))
    rgba = load_segmentation(f"hf:{write(tmp_path / 'rgba', {'train': [(clear, pair(0)[1])], 'test': [pair(1)]})}")
    assert np.array_equal(rgba.train.image(0).numpy(), pair(0)[0].transpose(2, 0, 1))


def test_compare_segments_rows(shapes, tmp_path):
    codecs = ["resize:factor=2", "rgb_f8c12:step=0.5"]
    options = {"views": ["bigpatch", "resize", "latent"], "epochs": 3, "size": 32, "out": tmp_path}
    table = cml.compare("segmentation", f"hf:{shapes}", codecs, **options)
    assert not table.attrs["failed"] and list(table["view"]) == ["bigpatch", "resize", "latent"]
    assert table["miou"].between(0, 1).all() and {"iou_0", "iou_1", "iou_2"} <= set(table)
    task = Segmentation(f"hf:{shapes}", size=16)
    assert task.signal("train", 0).shape == (3, 16, 24) and task.labels("test").shape == (4, 16, 24)
    assert torch.equal(task.labels("test")[0], task.data.test.labels(0, (16, 24)))


GOOD, EMPTY = [pair(5)], [(pair(5)[0], 0 * pair(5)[1])]
BROKEN = {"bytes": b"no picture", "path": None}


@pytest.mark.parametrize(
    ("splits", "names", "sentence"),
    [
        ({"train": GOOD}, None, r"needs the splits train and test \(or validation\), with label maps; it has train"),
        ({"test": GOOD}, None, "it has test"),
        ({"train": GOOD, "test": [(pair(0)[0], None)]}, None, "with label maps; it has train, test"),
        ({"train": [GOOD[0], (pair(0)[0], None)], "test": GOOD}, None, "train, row 1, column annotation, is empty"),
        ({"train": [(None, pair(0)[1])], "test": GOOD}, None, "train, row 0, column image, is empty"),
        ({"train": GOOD, "test": [(pair(0)[0][:-1], pair(0)[1])]}, None,
         "The map of .*test, row 0, is 48x32 and its picture 48x31"),
        ({"train": GOOD, "test": [(pair(0)[0], pair(0)[0])]}, None, "row 0, column annotation, is no label map"),
        ({"train": GOOD, "test": [(BROKEN, pair(0)[1])]}, None, "test, row 0, holds a picture that cannot be read"),
        ({"train": GOOD, "test": [(pair(0)[0], BROKEN)]}, None, "column annotation, cannot be read as a picture"),
        ({"train": EMPTY, "test": EMPTY}, None, "two classes or more"),
        ({"train": GOOD, "test": GOOD}, ("left", "right"), "its columns of pictures are left, right"),
        ({"train": GOOD, "test": GOOD}, ("mask", "label"), "one of label maps whose name says label"),
    ],
)  # fmt: skip
def test_wrong_tables_are_named(tmp_path, splits, names, sentence):
    root = write(tmp_path / "table", splits, names or ("image", "annotation"))
    with pytest.raises(DataError, match=sentence):
        load_segmentation(f"hf:{root}")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ({"0": "a", "1": "b"}, r"train, row 0, holds the label 2, and there are 2 classes \(0 to 1\)"),
        ({"1": "a", "2": "b"}, r"id2label\.json must map every label from"),
        (["a", "b", "c"], r"id2label\.json must map every label from"),
        ({"0": "a", "1": "a", "2": "b"}, "each once"),
    ],
)
def test_wrong_names_are_told(shapes, tmp_path, names, sentence):
    root = shutil.copytree(shapes, tmp_path / "named")
    (root / "id2label.json").write_text(json.dumps(names))
    with pytest.raises(DataError, match=sentence):
        load_segmentation(f"hf:{root}")


def test_pictures_that_tasks_do_not_take(tmp_path):
    deep = png(np.full((32, 48), 40_000, np.uint16))
    veil = png(np.dstack([pair(0)[0], np.full((32, 48), 90, np.uint8)]))
    splits = {"train": [(deep, pair(0)[1]), (veil, pair(0)[1])], "test": [pair(1)]}
    data = load_segmentation(f"hf:{write(tmp_path, splits)}")
    for index, mode in enumerate(("I;16", "RGBA")):
        with pytest.raises(DataError, match=f"train, row {index}, has a picture of the kind {mode}"):
            data.train.image(index)


def test_data_sets_that_cannot_be_had(shapes, tmp_path, monkeypatch):
    with pytest.raises(
        DataError, match=r"Cannot load the data set hf:nobody/nothing \(.*check the name and the network"
    ):
        load_segmentation("hf:nobody/nothing")
    with pytest.raises(DataError, match="needs the name of a data set"):
        load_segmentation("hf:")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"Cannot load the data set hf:.*empty \("):
        load_segmentation(f"hf:{tmp_path / 'empty'}")
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        load_segmentation(f"hf:{shapes}")


def test_a_table_may_have_configurations(shapes, tmp_path):
    root = shutil.copytree(shapes, tmp_path / "two")
    (root / "data").rename(root / "fine")
    card = "---\nconfigs:\n- config_name: fine\n  data_dir: fine\n- config_name: coarse\n  data_dir: coarse\n---\n"
    (root / "README.md").write_text(card)
    shutil.copytree(root / "fine", root / "coarse")
    with pytest.raises(DataError, match=r"Config name is missing.*fine.*coarse"):
        load_segmentation(f"hf:{root}")
    assert len(load_segmentation(f"hf:{root},coarse").train) == 10
