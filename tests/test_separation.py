"""Mixtures taken apart: representations that add up, models, and `compare` end to end."""

# Codecs and tables by what they are, not by their type.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import math

import numpy as np
import pytest
import torch
from cml.eval import matrix, separation_protocols
from cml.eval.complexity import model_cost
from cml.eval.dry_run import dry_run
from cml.eval.protocols import prepare
from cml.eval.results import Run
from cml.tasks.separation import Separation
from cml.tasks.sound_measures import si_sdr
from stem_pieces import RATE, STEMS, slakh, stem

import cml
from cml.codecs.fit import fit_codec
from cml.data.sound import write_sound
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.sound import SeparatorNet

SIZE, PATCH = 4096, 64
VIEWS = ["waveform", "bigpatch", "resample", "latent", "reconstruction"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return slakh(tmp_path_factory.mktemp("slakh"), quiet="high")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Patch 16, 12 channels, fitted to mixtures."""
    signals = (stem("low", number, 12_000) + stem("high", number, 12_000) for number in range(3))
    made = fit_codec(
        signals, name="mine", ndim=1, channels=1, levels=4, latent_channels=12, step=0.02, level="peak"
    )  # fmt: skip
    path = tmp_path_factory.mktemp("codec") / "f16c12"
    made.save(path, "A test.")
    return str(path)


def task_of(data, **options) -> Separation:
    return Separation(data, **{"size": SIZE, "epochs": 2} | options)


@pytest.fixture(autouse=True, scope="module")
def hasty():
    """Codecs are timed for a moment only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cml.eval.complexity._SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def finished(data, codec, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    codecs = ["resample:factor=2", codec, f"opus:kbps=16,rate={RATE}"]
    table = cml.compare("separation", data, codecs, seeds=2, size=SIZE, patch=PATCH, epochs=2, out=out)
    return out, table


def test_latents_of_mixtures_are_sums(data, codec):
    """What is trained on is what the codec would store of the same mixture, but for rounding."""
    task, made = task_of(data), cml.create_codec(codec)
    prepared = prepare("latent", made, task, PATCH)
    inputs = prepared.train
    assert inputs is not None and inputs.sounds is not None
    mixed = torch.empty(0)
    for index in range(2):
        stems = inputs.batch(torch.tensor([index])).unflatten(1, (2, -1))
        mixed = inputs.sounds.stored(stems.sum(1))[0]
        x = task.signal("train", index)
        again = made.encode(x)
        level = again.level[0]
        unit = float(torch.tensor(made.config.latent_std).square().mean().sqrt())
        theirs = again.symbols * again.step * level / unit
        gap = (mixed - theirs).abs() / (again.step / unit)
        # An excerpt is as loud as its piece, and its codec divides by its own peak: half a step each way, and a little.
        assert float(gap.max()) < 1.3
    twice = inputs.sounds.stored(mixed[None])[0]
    assert torch.allclose(twice, mixed, atol=1e-5)


@pytest.mark.parametrize("view", ["latent", "resample", "bigpatch"])
def test_true_stems_sound_like_themselves(data, codec, view):
    """The way from stems to a view and back, as answers go, loses what the view loses and nothing else."""
    task = task_of(data)
    made = cml.create_codec({"latent": codec, "resample": "resample:factor=2"}.get(view, "identity:ndim=1"))
    inputs = prepare(view, made, task, PATCH).train
    assert inputs is not None and inputs.sounds is not None
    stems = inputs.batch(torch.arange(len(inputs))).unflatten(1, (2, -1))
    for index in range(len(inputs)):
        truth = task.parts(index)
        sound = inputs.sounds.sound(stems[index], task.excerpt).detach()
        assert sound.shape == truth.shape
        wanted = {"latent": 12, "resample": 30, "bigpatch": 60}[view]
        assert min(si_sdr(x, y) for x, y in zip(truth, sound, strict=True)) > wanted


def test_every_view_is_in_the_table(finished, data, codec):
    out, table = finished
    assert not table.attrs["failed"]
    assert list(table["view"]) == [*VIEWS[:4], *["reconstruction"] * 3]
    assert table["tokens"].tolist() == [128, *[64] * 6] and (table["seeds"] == 2).all()
    ends = [float(row.stem_macs) for row in table.itertuples()]
    assert ends[1] == ends[0] and ends[2] < ends[3] < ends[1]
    assert table["dimensions"].tolist() == [SIZE, SIZE, SIZE // 2, 12 * SIZE // 16, *[SIZE] * 3]
    assert (table["stems_left_out"] == 2).all() and (table["chance"] == 0).all()
    assert table["gain"].notna().all() and table["sdr"].notna().all()
    assert {"si_sdr", "si_sdr_improvement_low", "si_sdr_improvement_high", "by_waveform_model"} <= set(table)
    task = task_of(data)
    blobs = [cml.create_codec(codec).compress(task.signal("test", index)) for index in range(2)]
    rates = [8 * len(blob) * RATE / 1000 / length for blob, length in zip(blobs, (9_000, 7_001), strict=True)]
    assert table.loc[table["view"] == "latent", "kbps"].iloc[0] == pytest.approx(np.mean(rates))
    for result in Run(out).results().values():
        items = Run(out).items(result.key)
        # The silent stem is left out, and the other one of its piece, which is the mixture.
        assert len(items["outcome"]) == 2 and items["stem"].tolist() == [0, 1]
        assert items["outcome"].mean() == pytest.approx(result.metrics["si_sdr_improvement"])
        assert result.metrics["si_sdr_improvement_high"] == pytest.approx(items["outcome"][1])
    for name in ("report.md", "report.html", "rate.png", "dimension.png"):
        assert (out / name).stat().st_size > 0
    report = (out / "report.md").read_text()
    assert "SI-SDR" in report and "kbit/s" in report and "picture" not in report


@pytest.mark.parametrize("view", ["latent", "bigpatch"])
def test_it_learns_what_is_easy(data, codec, view):
    task = task_of(data, epochs=60)
    made = cml.create_codec(codec if view == "latent" else "identity:ndim=1")
    prepared = prepare(view, made, task, PATCH)
    model, path = task.build(prepared.stem, 0)
    losses: list[float] = []
    assert prepared.train is not None
    task.train(model, prepared.train, prepared.shift, 0, lambda epoch, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 2
    score = task.score(model, prepared.test)
    assert score.metrics["si_sdr_improvement"] > 2
    assert model_cost(model, path, prepared.stem).tokens == SIZE // PATCH
    assert score.sounds is not None and score.sounds.truth.shape == (1, 2, 1, 9_000) == score.sounds.answer.shape


def test_the_loss_may_be_of_the_sound(data, codec):
    task = task_of(data, backbone="cml:separator:loss=waveform")
    prepared = prepare("latent", cml.create_codec(codec), task, PATCH)
    model, _ = task.build(prepared.stem, 0)
    assert prepared.train is not None
    before = [p.clone() for p in cml.create_codec(codec).decoder.parameters()]
    losses: list[float] = []
    task.train(model, prepared.train, prepared.shift, 0, lambda epoch, loss: losses.append(loss))
    assert all(map(math.isfinite, losses)) and task.key["loss"] == "waveform"
    assert all(map(torch.equal, before, cml.create_codec(codec).decoder.parameters()))
    other = task_of(data)
    assert other.key["loss"] == "latent" and other.key["backbone"] != task.key["backbone"]


def test_half_of_the_mixtures_are_new(data):
    task = task_of(data)
    stems = torch.arange(64.0).view(64, 1, 1, 1).expand(-1, 2, -1, -1) + 1
    mixed = task._remix(stems, torch.Generator().manual_seed(0))
    assert torch.equal(mixed, task._remix(stems, torch.Generator().manual_seed(0)))
    gains = 20 * (mixed / stems).abs().log10()
    kept = (gains.abs() <= task.gain + 1e-3).all(1).flatten()
    assert 0.35 < float(kept.float().mean()) < 0.75
    assert 0.3 < float((mixed > 0).float().mean()) < 0.7


@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000])
def test_the_separator_takes_any_length(length):
    model = SeparatorNet(StemShape(3, (64,), 8), 4).eval()
    assert model(torch.randn(2, 3, length)).shape == (2, 12, length)


def test_excerpts(tmp_path, data, monkeypatch):
    task = task_of(data)
    assert task.excerpt == 2 * SIZE and task.count("train") == 6 and task.count("test") == 2
    short = task_of(data, size=12_000 // PATCH * PATCH)
    assert short.excerpt == short.size[0]
    longer = task_of(slakh(tmp_path / "long", (3 * SIZE, 40_000), (9_000,)))
    starts = [0, SIZE, 0, 2 * SIZE, 4 * SIZE, 6 * SIZE, 40_000 - 2 * SIZE]
    assert [start for piece, start in longer._excerpts] == starts
    assert torch.equal(longer.signal("train", 6), longer.parts(6).sum(0).clamp(-1, 1))
    monkeypatch.setattr("cml.tasks.separation._MOST", 2 * 2 * 2 * 2 * SIZE)
    assert task_of(f"slakh:{tmp_path / 'long'}")._excerpts == [longer._excerpts[0], longer._excerpts[3]]


def test_stereo(tmp_path):
    data = slakh(tmp_path / "stereo", channels=2)
    task = task_of(data)
    prepared = prepare("bigpatch", cml.create_codec("identity:ndim=1"), task, PATCH)
    model, _ = task.build(prepared.stem, 0)
    assert prepared.train is not None and prepared.train.values.shape == (1, 6, 4, 2 * SIZE)
    task.train(model, prepared.train, prepared.shift, 0, lambda epoch, loss: None)
    assert task.separate(model, prepared.test, 1).shape == (2, 2, 7_001)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"backbone": "cml:small"}, "cml:separator"),
        ({"backbone": "cml:separator:loss=ears"}, "latent or waveform"),
        ({"backbone": "cml:separator:depth=3"}, "cml:separator"),
        ({"size": 10}, "parts of 256 to 12000 samples"),
        ({"size": 2**17}, "parts of 256 to 12000 samples"),
        ({"epochs": 0}, "1 epoch"),
    ],
)
def test_bad_requests(data, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        task_of(data, **options)


def test_bad_data(tmp_path):
    with pytest.raises(DataError, match=r"index\.json"):
        task_of(f"slakh:{tmp_path}")
    with pytest.raises(DataError, match="only 100 samples"):
        Separation(slakh(tmp_path / "short", (100,), (9_000,)))
    silent = slakh(tmp_path / "silent", (9_000,), (9_000,))
    for name in STEMS:
        write_sound(tmp_path / "silent" / "piece-1" / f"{name}.flac", torch.zeros(1, 9_000), RATE)
    table = cml.compare("separation", silent, [], ["waveform"], size=SIZE, patch=PATCH, epochs=1, out=tmp_path / "run")
    (failed,) = table.attrs["failed"]
    assert "silent: there is nothing to separate" in failed.error


def test_latents_that_do_not_add_up(data, codec, monkeypatch):
    made = cml.create_codec(codec)
    with pytest.raises(CmlError, match="do not add up"):
        separation_protocols._linear(cml.create_codec("resample:factor=2"))
    assert separation_protocols._linear(made) is made


def test_dry_run_knows_the_cells(data, codec, tmp_path):
    request = matrix.Matrix("separation", data, (codec,), size=SIZE, patch=PATCH, epochs=2)
    plans = dry_run(request.resolve(), Run(tmp_path))
    assert [plan.condition.view for plan in plans] == ["waveform", "bigpatch", "latent", "reconstruction"]
    assert all(plan.seconds > 0 and not plan.error for plan in plans)
