"""Segmentation of volumes through `compare`: every view, the data sets, and what is wrong with a request."""

# Codecs and tables by what they are, not by their type.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import numpy as np
import pytest
import torch
from cml.eval import protocols
from cml.eval.dry_run import dry_run
from cml.eval.matrix import Matrix
from cml.eval.results import Run
from cml.tasks.confusion import mean_iou
from cml.tasks.volumes import VolumeSegmentation

import cml
from cml.codecs.fit import fit_codec
from cml.data.labelled_volumes import VOID, load_labelled
from cml.errors import CmlError, DataError
from cml.models.volumes import VolumeNet, VolumeStem, shuffle

SIZE = (16, 24, 32)
VIEWS = ["pixels", "bigpatch", "resize", "latent", "reconstruction", "retrained"]


def scan(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two balls, a bright one and a dark one, in noise: uint16, and labels; a little larger than whole cells."""
    rng = np.random.default_rng(seed)
    z, y, x = np.mgrid[: SIZE[0] + 1, : SIZE[1] + 2, : SIZE[2] + 3]
    labels = np.zeros(z.shape, np.uint8)
    for label, across in ((1, 9), (2, 24)):
        centre = rng.integers(6, 10), rng.integers(8, 16), across + rng.integers(-2, 3)
        labels[sum((axis - at) ** 2 for axis, at in zip((z, y, x), centre, strict=True)) < 30] = label
    scan = np.array([10000, 14000, 6000])[labels] + rng.normal(0, 400, z.shape)
    labels[0] = VOID
    return scan.round().astype(np.uint16), labels


@pytest.fixture(autouse=True, scope="module")
def hasty():
    """Codecs are timed for a moment only, and an epoch is short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cml.eval.complexity._SECONDS", 0.01)
        patch.setattr(VolumeSegmentation, "repeats", 2)
        patch.setattr(VolumeSegmentation, "block", (8, 12, 16))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for split, seeds in (("train", (0, 1)), ("test", (2, 3))):
        (root / split).mkdir()
        for seed in seeds:
            made, labels = scan(seed)
            np.save(root / split / f"{seed}.npy", made)
            np.save(root / split / f"{seed}_labels.npy", labels)
    return root


@pytest.fixture(scope="module")
def codec(folder, tmp_path_factory):
    """Cells of 4x8x8 with 16 channels: the two last axes have another patch than the first."""
    signals = [VolumeSegmentation(f"scans:{folder}").signal("train", number) for number in range(2)]
    finer = [torch.nn.functional.interpolate(x.to(torch.int32).float()[None], scale_factor=4)[0] for x in signals]
    made = fit_codec(
        finer,
        name="v", ndim=3, channels=1, levels=(2, 3, 3), latent_channels=16, step=0.05, level="peak",
    )  # fmt: skip
    path = tmp_path_factory.mktemp("codec") / "f8c16"
    made.save(path, "A test.")
    return str(path)


@pytest.fixture(scope="module")
def finished(folder, codec, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, cml.compare(
        "volumes", f"scans:{folder}", ["downsample:factor=4", codec], VIEWS, epochs=3, seeds=2, out=out
    )


def test_every_view_is_in_the_table(finished):
    out, table = finished
    assert not table.attrs["failed"]
    assert list(table["view"]) == [*VIEWS[:4], *["reconstruction"] * 2, *["retrained"] * 2]
    assert table["tokens"].tolist() == [4 * 24, *[24] * 7]
    voxels = int(np.prod(SIZE))
    assert table["dimensions"].tolist() == [voxels, voxels, voxels // 64, 16 * voxels // 256, *[voxels] * 4]
    others = table[table["view"] != "pixels"]
    assert others["backbone_macs"].nunique() == 1 and (table["backbone_macs"] > 0).all()
    assert table.loc[0, "bpp"] == pytest.approx(16, abs=0.2)
    assert table.loc[table["view"] == "reconstruction", "by_pixels_model"].notna().all()
    assert table["gain"].notna().all()
    for name in ("report.html", "report.md", "summary.csv", "rate.png", "answers.png"):
        assert (out / name).stat().st_size > 0
    assert "Dice" in (out / "report.md").read_text()


def test_items_are_blocks_whose_sum_is_the_score(finished):
    out, _ = finished
    for result in Run(out).results().values():
        items = Run(out).items(result.key)
        assert items["confusion"].shape == (2 * 8, 3, 3) and len(items["bits"]) == 2
        total = items["confusion"].sum(0)
        assert total.sum() == 2 * (np.prod(SIZE) - SIZE[1] * SIZE[2])  # the void is left out
        assert mean_iou(total) == pytest.approx(result.metrics["miou"])
        dice = [2 * total[k, k] / (total[k].sum() + total[:, k].sum()) for k in (1, 2)]
        assert result.metrics["dice"] == pytest.approx(np.mean(dice))


def test_a_model_learns_where_the_balls_are(folder):
    task = VolumeSegmentation(f"scans:{folder}", epochs=150)
    prepared = protocols.prepare("bigpatch", cml.create_codec("identity:ndim=3"), task, 8)
    model, _ = task.build(prepared.stem, 0)
    assert prepared.train is not None
    task.train(model, prepared.train, prepared.shift, 0, lambda epoch, loss: None)
    assert task.score(model, prepared.train).metrics["miou"] > task.chance + 0.3


def test_latents_of_a_view_are_those_of_the_container(folder, codec):
    task, made = VolumeSegmentation(f"scans:{folder}"), cml.create_codec(codec)
    prepared = protocols.prepare("latent", made, task, 8)
    x = task.signal("test", 1)
    blob = made.compress(x)
    assert prepared.bits[1] == 8 * len(blob)
    assert torch.allclose(prepared.test.batch(torch.tensor([1]))[0], made.unpack(blob).to_float(), atol=1e-6)


def test_answers_lie_where_the_tokens_do():
    x = torch.arange(2 * 4 * 6 * 8.0).view(1, 2, 4, 6, 8)
    apart = x.unflatten(4, (4, 2)).unflatten(3, (2, 3)).unflatten(2, (1, 4)).permute(0, 1, 3, 5, 7, 2, 4, 6)
    assert torch.equal(shuffle(apart.flatten(1, 4), (4, 3, 2)), x)
    model = VolumeNet(VolumeStem(3, (4, 8, 8), 2, (1, 2, 2)), 5, (2, 4, 4)).eval()
    assert model(torch.zeros(1, 3, 4, 8, 8)).shape == (1, 5, 8, 16, 16)
    assert model(torch.zeros(1, 3, 1, 2, 2)).shape == (1, 5, 2, 4, 4)  # halves of one token are one token


def test_a_dry_run_times_every_condition(folder, codec, tmp_path):
    comparison = Matrix("volumes", f"scans:{folder}", (codec,), epochs=1).resolve()
    plans = dry_run(comparison, Run(tmp_path))
    assert [plan.error for plan in plans] == [""] * len(plans) and all(plan.seconds > 0 for plan in plans)


def test_scans_are_cut_to_what_all_have(folder):
    data = load_labelled(f"scans:{folder}")
    assert data.size == SIZE and data.classes == ("0", "1", "2") and (len(data.train), len(data.test)) == (2, 2)
    whole, labels = scan(2)
    cut = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(whole.shape, SIZE, strict=True))
    assert np.array_equal(data.test.signal(0)[0].numpy(), whole[cut])
    assert np.array_equal(data.test.labels(0).numpy(), labels[cut])
    counts = [np.bincount(data.train.labels(i).numpy().ravel(), minlength=256)[:3] for i in range(2)]
    assert data.frequencies.tolist() == np.sum(counts, 0).tolist()


def test_the_halves_of_the_head_are_mirror_images_but_for_the_tissue(data):
    files = data / "volumes"
    task = VolumeSegmentation(f"mricron:{files}")
    assert task.size == (152, 192, 88) and len(task.data.classes) == 13
    left, right = task.signal("train", 0), task.signal("test", 0)
    assert not torch.equal(left, right)
    together = torch.corrcoef(torch.stack([left.flatten().float(), right.flatten().float()]))[0, 1]
    assert 0.85 < together < 0.99
    assert 0.6 < task.chance < 0.8  # the labels of the left half, laid over the right one


def test_bad_requests_are_sentences(folder, codec, tmp_path):
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    np.save(tmp_path / "train" / "a.npy", np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(DataError, match="no labels"):
        load_labelled(f"scans:{tmp_path}")
    np.save(tmp_path / "train" / "a_labels.npy", np.zeros((8, 8, 9), np.uint8))
    np.save(tmp_path / "test" / "a.npy", np.zeros((8, 8, 8), np.uint8))
    np.save(tmp_path / "test" / "a_labels.npy", np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(DataError, match="must agree"):
        load_labelled(f"scans:{tmp_path}")
    np.save(tmp_path / "train" / "a_labels.npy", np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(DataError, match="two classes or more"):
        load_labelled(f"scans:{tmp_path}")
    np.save(tmp_path / "train" / "a_labels.npy", np.ones((8, 8, 8), np.uint16))
    with pytest.raises(DataError, match="no map of labels"):
        load_labelled(f"scans:{tmp_path}")
    with pytest.raises(DataError, match="must hold scans"):
        load_labelled(f"scans:{tmp_path / 'nowhere'}")
    with pytest.raises(DataError, match="MRIcron"):
        load_labelled(f"mricron:{tmp_path}")
    for options, words in (
        ({"data": "elpv"}, "needs --data mricron:PATH"),
        ({"size": 64}, "leave out the size"),
        ({"backbone": "cml:small"}, "cml:volume"),
        ({"codecs": ("rgb_f8c12",)}, "signals of three axes"),
        ({"codecs": ("downsample:factor=16",)}, "multiples"),
        ({"patch": 6}, "whole tokens"),
        ({"views": ("pca",)}, "Unknown view"),
    ):
        with pytest.raises(CmlError, match=words):
            Matrix(**{"task": "volumes", "data": f"scans:{folder}", "codecs": (codec,)} | options).resolve()
