"""Hyperspectral cubes through `compare`: the split, every view, both models, and what is wrong with a request."""

# Codecs and tables by what they are, not by their type.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import importlib.util

import numpy as np
import pytest
import torch
from cml.eval import protocols
from cml.eval.dry_run import dry_run
from cml.eval.matrix import Matrix
from cml.eval.matrix_file import read_matrix
from cml.eval.results import Run
from cml.tasks.hyperspectral import Hyperspectral
from scipy.io import savemat
from sklearn.metrics import accuracy_score, balanced_accuracy_score, cohen_kappa_score
from sklearn.svm import SVC

import cml
from cml.codecs.fit import fit_codec
from cml.data.hyper_sets import PARTS, VOID, HyperSet, load_hyper, spatial_split
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.spectral import KernelMachine, build_spectral

BANDS, SIDE, CLASSES = 16, 76, 3
VIEWS = ["pixels", "bigpatch", "pca", "resize", "latent", "reconstruction", "retrained"]


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A cube (y, x, bands) of fields, each of three spectra with noise, and their labels, 0 on the roads between."""
    rng = np.random.default_rng(seed)
    fields = rng.integers(1, CLASSES + 1, (SIDE // 12 + 1, SIDE // 12 + 1)).repeat(12, 0).repeat(12, 1)[:SIDE, :SIDE]
    labels = fields * (np.add.outer(np.arange(SIDE), np.arange(SIDE)) % 19 > 0)
    spectra = 3000 + 1500 * np.sin(np.arange(BANDS) / np.array([[0.0], [2.0], [3.0], [5.0]]).clip(1))
    cube = spectra[labels] + rng.normal(0, 150, (SIDE, SIDE, BANDS))
    return cube.round().astype(np.uint16), labels.astype(np.uint8)


def _set(cube: np.ndarray, labels: np.ndarray) -> HyperSet:
    blocks, parts = spatial_split(labels, 3)
    return HyperSet(
        torch.from_numpy(cube.transpose(2, 0, 1).copy())[None], labels, ("a", "b", "c"), blocks, parts, "", ""
    )


@pytest.fixture(autouse=True, scope="module")
def hasty():
    """Codecs are timed for a moment only, and support vector machines fitted to few pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cml.eval.complexity._SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    cube, labels = scene()
    np.save(folder / "cube.npy", cube)
    np.save(folder / "labels.npy", labels)
    return f"cube:{folder / 'cube.npy'},{folder / 'labels.npy'}"


@pytest.fixture(scope="module")
def codecs(data, tmp_path_factory):
    """Of three axes, with cells of 4 bands and 2x2 pixels, and of two axes, with a channel a band: as many latents."""
    x = Hyperspectral(data).signal("train", 0).to(torch.int32).float() / 32767.5 - 1
    root = tmp_path_factory.mktemp("codecs")
    settings = {"step": 0.02, "level": "peak", "name": "h"}
    volume = fit_codec([x], ndim=3, channels=1, levels=(2, 1, 1), latent_channels=3, **settings)
    picture = fit_codec([x[0]], ndim=2, channels=BANDS, levels=1, latent_channels=12, **settings)
    volume.save(root / "volume", "A test.")
    picture.save(root / "picture", "A test.")
    return [str(root / "volume"), str(root / "picture")]


@pytest.fixture(scope="module")
def finished(data, codecs, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    points = ["downsample:factor=2,axes=2", *codecs]
    return out, cml.compare("hyperspectral", data, points, VIEWS, epochs=4, seeds=2, out=out)


def test_every_view_is_in_the_table(finished, codecs):
    out, table = finished
    assert not table.attrs["failed"]
    # Both codecs have 12 latents for 4 pixels, so one `pca` of 3 components stands for both.
    assert list(table["view"]) == [*VIEWS[:4], "latent", "latent", *["reconstruction"] * 3, *["retrained"] * 3]
    padded = 80
    assert table["tokens"].tolist() == [padded**2, *[padded**2 // 4] * 11]
    whole = BANDS * padded**2
    assert table["dimensions"].tolist() == [
        whole,
        whole,
        3 * padded**2,
        *[whole // 4] * 1,
        *[12 * 1600] * 2,
        *[whole] * 6,
    ]
    assert table.loc[table["view"] != "pixels", "backbone_macs"].nunique() == 1
    assert (table["overall_accuracy"] > table["chance"] + 0.2).all()
    decoded = table["view"].isin(["reconstruction", "retrained"])
    assert table.loc[decoded, "psnr"].between(15, 80).all() and table.loc[~decoded, "psnr"].isna().all()
    assert table.loc[table["view"] == "reconstruction", "by_pixels_model"].notna().all()
    report = (out / "report.md").read_text()
    assert "pca" in report and "bpp is bits a voxel" in report and "signals" in report and "picture)" not in report
    assert "--views" in report  # `retrained` is not among the usual ones
    for name in ("report.html", "summary.csv", "rate.png", "dimension.png", "answers.png", "run.json"):
        assert (out / name).stat().st_size > 0


def test_rates_are_those_of_containers_over_real_voxels(finished, data, codecs):
    _, table = finished
    task = Hyperspectral(data)
    x = task.signal("test", 0)
    for view, point in (("latent", codecs[0]), ("latent", codecs[1]), ("pca", "identity:ndim=3")):
        codec = cml.create_codec(point)
        blob = codec.compress(protocols.taken(codec, x))
        rows = table[(table["view"] == view) & ((view == "pca") | (table["codec"] == codec.spec.name))]
        assert rows["bpp"].tolist() == [8 * len(blob) / (BANDS * SIDE**2)]


def test_measures_are_those_of_all_test_pixels_and_items_are_blocks(finished, data):
    out, _ = finished
    task = Hyperspectral(data)
    truth = task.labels("test")[0].numpy()
    truth = truth[truth != VOID]
    for result in Run(out).results().values():
        items = Run(out).items(result.key)
        answer, metrics = items["predicted"], result.metrics
        assert metrics["overall_accuracy"] == pytest.approx(accuracy_score(truth, answer))
        assert metrics["average_accuracy"] == pytest.approx(balanced_accuracy_score(truth, answer))
        assert metrics["kappa"] == pytest.approx(cohen_kappa_score(truth, answer))
        assert items["outcome"].mean() == pytest.approx(metrics["overall_accuracy"])
        assert items["pixels"].sum() == len(truth) and len(items["pixels"]) == len(items["blocks"]) > 5


def test_results_are_found_again(finished, data, codecs, capsys):
    out, table = finished
    before = (out / "results.jsonl").read_bytes()
    again = cml.compare(
        "hyperspectral", data, ["downsample:factor=2,axes=2", *codecs], VIEWS, epochs=4, seeds=2, out=out
    )
    assert (out / "results.jsonl").read_bytes() == before and again.equals(table)
    stored = read_matrix(out / "matrix.yaml")
    assert stored.pop("out") == str(out) and len(Matrix(**stored).resolve().cell_keys()) == 24
    assert "--size" not in (out / "report.md").read_text()


def test_a_dry_run_times_every_condition(data, codecs, tmp_path):
    comparison = Matrix("hyperspectral", data, tuple(codecs), epochs=1).resolve()
    plans = dry_run(comparison, Run(tmp_path))
    assert [plan.error for plan in plans] == [""] * len(plans) and all(plan.seconds > 0 for plan in plans)


def test_blocks_keep_the_parts_apart():
    labels = np.where((y := scene()[1]) > 0, y - 1, VOID).astype(np.uint8)
    labels[70:74, 70:74] = 3  # a class that lies within a block of 16, and within one of 8
    blocks, parts = spatial_split(labels, 4)
    again = spatial_split(labels, 4)
    assert np.array_equal(blocks, again[0]) and np.array_equal(parts, again[1])
    assert not np.array_equal(parts, spatial_split(labels, 4, seed=1)[1])
    assert ((blocks >= 0) == (labels != VOID)).all() and (parts[labels == VOID] == -1).all()
    for number in range(blocks.max() + 1):
        assert len(set(parts[blocks == number].tolist()) - {-1}) <= 1
    for label in range(3):
        for part in range(len(PARTS)):
            assert ((labels == label) & (parts == part)).sum() > 10
    train, other = np.argwhere(parts == 0), np.argwhere(parts > 0)
    gaps = np.abs(train[:, None] - other[None]).max(2).min(1)
    ordinary = labels[parts == 0] < 3
    assert gaps[ordinary].min() > 2
    assert (parts[labels == 3] >= 0).any()


def test_large_cells_serve_one_part():
    labels = np.full((32, 32), VOID, np.uint8)
    labels[:, :16], labels[16:, 16:], labels[2:6, 18:26] = 0, 1, 2
    cube = np.random.default_rng(0).integers(0, 999, (32, 32, 8)).astype(np.uint16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cml.tasks.hyperspectral.load_hyper", lambda text: _set(cube, labels))
        task = Hyperspectral("mine")
    kept = task._alone(task.labels("train")[0], 8)
    others = torch.stack([task.labels(part)[0] for part in PARTS[1:]]).amin(0) != VOID
    cells = others.unflatten(1, (4, 8)).unflatten(0, (4, 8)).any(3).any(1)
    trained = (kept != VOID).unflatten(1, (4, 8)).unflatten(0, (4, 8)).any(3).any(1)
    assert trained.any() and not (cells & trained).any()
    assert torch.equal(task._alone(task.labels("train")[0], 2), task.labels("train")[0])


def test_a_class_in_one_block_is_cut():
    labels = np.full((32, 32), VOID, np.uint8)
    labels[:, :16], labels[2:6, 18:26] = 0, 1
    _, parts = spatial_split(labels, 2)
    assert {0, 2} <= set(parts[labels == 1].tolist())


def test_models_look_at_no_other_cell():
    for name in ("cml:spectral", "sklearn:svm"):
        torch.manual_seed(0)
        model, _ = build_spectral(name, StemShape(3, (8, 8), 2), 4, 2)
        if isinstance(model, KernelMachine):
            cells = torch.randn(40, 3, 2, 2)
            model.learn(cells, torch.randint(4, (40, 2, 2)), cells, torch.randint(4, (40, 2, 2)))
        model.eval()
        x = torch.randn(1, 3, 8, 8)
        before = model(x)
        assert before.shape == (1, 4, 8, 8)
        x[:, :, 2:4, 4:6] += 1
        changed = (model(x) != before).any(1)[0]
        inside = torch.zeros(8, 8, dtype=torch.bool)
        inside[2:4, 4:6] = True
        assert changed[inside].any() and not changed[~inside].any()


@pytest.mark.parametrize("classes", [2, 4])
def test_the_kernel_machine_answers_as_scikit_learn(classes):
    generator = torch.Generator().manual_seed(classes)
    y = torch.randint(classes, (200,), generator=generator)
    y[y == 1] = 0 if classes > 2 else 1  # a class that no training pixel has
    x = torch.randn(200, 5, 1, 1, generator=generator) + y.view(-1, 1, 1, 1) * torch.tensor([1.0, -1, 0, 0.5, 0]).view(
        5, 1, 1
    )
    model = KernelMachine(StemShape(5, (1, 1), 1), classes, 1)
    accuracy = model.learn(x[:150], y[:150].view(-1, 1, 1), x[150:], y[150:].view(-1, 1, 1))
    answer = model(x[150:]).argmax(1).flatten()
    assert float((answer == y[150:]).float().mean()) == pytest.approx(accuracy)
    features = model.standardize(x).flatten(1).numpy()
    best = max(
        SVC(C=cost, gamma=gamma / 5).fit(features[:150], y[:150]).score(features[150:], y[150:])
        for gamma in (0.5, 2, 8)
        for cost in (10, 100, 1000)
    )
    assert best == pytest.approx(accuracy)
    other = KernelMachine(StemShape(5, (1, 1), 1), classes, 1)
    other.load_state_dict({key: value.clone() for key, value in model.state_dict().items()})
    assert torch.equal(other(x), model(x))


def test_the_support_vector_machine_runs_through_compare(data, codecs, tmp_path):
    table = cml.compare("hyperspectral", data, codecs[:1], backbone="sklearn:svm", epochs=1, out=tmp_path)
    assert not table.attrs["failed"] and (table["overall_accuracy"] > 0.8).all()
    assert (table["backbone_macs"] > 0).all()  # its support vectors, which training makes


def test_principal_components_are_of_training_pixels(data, codecs):
    task = Hyperspectral(data)
    prepared = protocols.prepare("pca", cml.create_codec(codecs[0]), task, 2)
    values = prepared.test.batch(torch.tensor([0]))[0]
    spectra = task.spectra().double()
    _, _, basis = torch.linalg.svd(spectra - spectra.mean(0), full_matrices=False)
    scores = torch.einsum("db,bhw->dhw", basis[:3], task.signal("test", 0)[0].to(torch.int32).double()
                          - spectra.mean(0).view(-1, 1, 1))  # fmt: skip
    for mine, theirs in zip(values.double(), scores, strict=True):
        assert torch.corrcoef(torch.stack([mine.flatten(), theirs.flatten()]))[0, 1].abs() > 0.9999


def test_floats_and_matlab_files_are_read(tmp_path):
    cube, labels = scene()
    np.save(tmp_path / "cube.npy", cube.astype(np.float32) / 1e4)
    savemat(tmp_path / "labels.mat", {"gt": labels})
    savemat(tmp_path / "cube.mat", {"cube": cube})
    floats = Hyperspectral(f"cube:{tmp_path / 'cube.npy'},{tmp_path / 'labels.mat'}")
    whole = load_hyper(f"cube:{tmp_path / 'cube.mat'},{tmp_path / 'labels.mat'}")
    assert floats.signal("test", 0).dtype == torch.uint16 and whole.cube.dtype == torch.uint16
    assert np.array_equal(whole.cube[0].numpy(), cube.transpose(2, 0, 1))
    assert np.array_equal(floats.data.parts, whole.parts)


def test_bad_requests_are_sentences(data, codecs, tmp_path):
    cube, labels = scene()
    np.save(tmp_path / "cube.npy", cube)
    np.save(tmp_path / "small.npy", labels[:-1])
    np.save(tmp_path / "one.npy", np.minimum(labels, 1))
    np.save(tmp_path / "flat.npy", cube[0])
    (tmp_path / "broken.npy").write_bytes(b"no array")
    for text, words in (
        (f"cube:{tmp_path / 'cube.npy'}", "two files"),
        (f"cube:{tmp_path / 'cube.npy'},{tmp_path / 'small.npy'}", "must agree"),
        (f"cube:{tmp_path / 'cube.npy'},{tmp_path / 'one.npy'}", "two classes or more"),
        (f"cube:{tmp_path / 'flat.npy'},{tmp_path / 'one.npy'}", "must hold a cube"),
        (f"cube:{tmp_path / 'broken.npy'},{tmp_path / 'one.npy'}", "numpy array"),
        (f"cube:{tmp_path / 'cube.npy'},{tmp_path / 'cube.npy'}", "map of labels"),
        (f"indian-pines:{tmp_path}", "Indian_pines_corrected"),
    ):
        with pytest.raises(DataError, match=words):
            load_hyper(text)
    for options, words in (
        ({"size": 64}, "leave out the size"),
        ({"backbone": "cml:small"}, "cml:spectral and sklearn:svm"),
        ({"codecs": ["jpeg"]}, "takes 1 or 3 channels, the data has 16"),
        ({"codecs": ["opus:kbps=6"]}, "signals of three axes"),
        ({"codecs": ["downsample:factor=3,axes=2"]}, "whole factors"),
        ({"patch": 1}, "must be even"),
        ({"views": ["waveform"]}, "Unknown view"),
    ):
        with pytest.raises(CmlError, match=words):
            Matrix(**{"task": "hyperspectral", "data": data, "codecs": tuple(codecs)} | options).resolve()


def test_indian_pines_is_the_one_of_the_papers():
    if importlib.util.find_spec("tensorly") is None:
        pytest.skip("needs the package tensorly, which brings Indian Pines")
    data = load_hyper("indian-pines")
    assert tuple(data.cube.shape) == (1, 200, 145, 145) and (data.labels != VOID).sum() == 10249
    for part in ("train", "test"):
        labels = data.part(part)
        assert len(np.unique(labels[labels != VOID])) == 16
