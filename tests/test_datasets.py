import numpy as np
import pytest
import torch
from cml.tasks.classification import Classification
from PIL import Image

import cml
from cml.data.datasets import stratified_split
from cml.data.latents import ModelInputs
from cml.errors import CmlError, DataError


def test_elpv():
    pytest.importorskip("elpv_dataset", reason="needs the extra `demo`")
    data = cml.load_dataset("elpv")
    assert len(data.train) + len(data.test) == 2624
    assert len(data.test) == pytest.approx(2624 / 4, abs=2)
    assert data.train.image(0).shape == (1, 300, 300)
    share = np.concatenate([data.train.labels, data.test.labels]).mean()
    assert data.test.labels.mean() == pytest.approx(share, abs=0.002)
    assert 1 - share == pytest.approx(0.69, abs=0.01)
    assert not {p.name for p in data.train.paths} & {p.name for p in data.test.paths}
    # The split is part of what published numbers mean: it must never move.
    assert sorted(p.name for p in data.test.paths)[:3] == ["cell0003.png", "cell0013.png", "cell0015.png"]


def test_stratified_split():
    strata = ["a"] * 40 + ["b"] * 8
    held = stratified_split(strata, 0.25, 0)
    assert held[:40].sum() == 10 and held[40:].sum() == 2
    assert np.array_equal(held, stratified_split(strata, 0.25, 0))
    assert not np.array_equal(held, stratified_split(strata, 0.25, 1))


def test_folder_of_classes(picture_folder):
    data = cml.load_dataset(f"folder:{picture_folder}")
    assert data.classes == ("plain", "striped")
    assert (len(data.train), len(data.test), data.channels, data.size) == (36, 12, 1, 32)


def test_train_and_test_folders(tmp_path):
    for split, count in (("train", 3), ("test", 2), ("validation", 5)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (50, 70), (number, 0, 0)).save(tmp_path / split / name / f"{number}.png")
    data = cml.load_dataset(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test), data.channels) == (6, 4, 3)
    revision = data.revision
    Image.new("RGB", (50, 70), (99, 0, 0)).save(tmp_path / "test" / "a" / "0.png")
    assert cml.load_dataset(f"folder:{tmp_path}").revision != revision


def test_val_is_the_test_split_where_there_is_no_test(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("L", (50, 70)).save(tmp_path / split / name / "0.png")
    data = cml.load_dataset(f"folder:{tmp_path}")
    assert data.classes == ("a", "b") and len(data.test) == 2


def test_bad_folders_get_a_sentence(tmp_path):
    with pytest.raises(CmlError, match="did you mean folder"):
        cml.load_dataset("foldr:x")
    with pytest.raises(DataError, match="needs a folder"):
        cml.load_dataset("folder:")
    with pytest.raises(DataError, match="none at"):
        cml.load_dataset(f"folder:{tmp_path / 'nothing'}")
    with pytest.raises(DataError, match="no class folders"):
        cml.load_dataset(f"folder:{tmp_path}")
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match="no pictures"):
        cml.load_dataset(f"folder:{tmp_path}")
    (tmp_path / "a" / "x.png").write_text("no picture")
    with pytest.raises(DataError, match="two class folders"):
        cml.load_dataset(f"folder:{tmp_path}")
    (tmp_path / "b").mkdir()
    for number in range(8):
        Image.new("L", (9, 9)).save(tmp_path / "b" / f"{number}.png")
        Image.new("L", (9, 9)).save(tmp_path / "a" / f"{number}.png")
    with pytest.raises(DataError, match=r"x\.png"):
        cml.load_dataset(f"folder:{tmp_path}")


def test_whole_pictures_are_resized_never_cropped(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            picture = Image.new("L", (400, 100), 0)
            picture.paste(255, (380, 0, 400, 100))  # only the right border is bright
            picture.save(tmp_path / name / f"{number}.png")
    task = Classification(f"folder:{tmp_path}", size=64)
    x = task.signal("test", 0)
    assert x.shape == (1, 64, 64)
    assert x[0, :, -1].min() > 200 and x[0, :, :50].max() < 60


def test_flips_and_shifts_of_pixels_are_exact():
    values = torch.arange(2 * 3 * 8 * 8, dtype=torch.int32).remainder(256).to(torch.uint8).view(1, 2, 3, 8, 8)
    inputs = ModelInputs(values, torch.ones(3), torch.zeros(3), torch.zeros(2), ("none", "h", "v", "hv"), blank=7)
    indices = torch.tensor([0, 1, 0, 1])
    x = inputs.batch(indices, torch.tensor([0, 1, 2, 3]))
    v = values[0].float()
    assert torch.equal(x, torch.stack([v[0], v[1].flip(-1), v[0].flip(-2), v[1].flip(-1, -2)]))
    y = inputs.batch(torch.tensor([0]), shift=(2, -3))
    assert torch.equal(y[0, :, 2:, :5], v[0, :, :6, 3:]) and (y[0, :, :2] == 7).all() and (y[0, :, :, 5:] == 7).all()


def test_encoded_flips_are_looked_up():
    values = torch.randint(-5, 5, (2, 4, 3, 6, 6), dtype=torch.int8)
    inputs = ModelInputs(values, torch.full((3,), 0.5), torch.ones(3), torch.zeros(4), ("none", "h"))
    x = inputs.batch(torch.tensor([3, 2]), torch.tensor([1, 0]))
    assert torch.allclose(x, torch.stack([values[1, 3], values[0, 2]]).float() * 0.5 + 1)
