"""Sound through `compare`: every view of clips, what makes them comparable, and what is wrong with a request."""

# Codecs and tables by what they are, not by their type.
# pyright: reportAttributeAccessIssue=false, reportArgumentType=false, reportGeneralTypeIssues=false

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from cml.eval import cells, matrix, sound_protocols
from cml.eval.dry_run import dry_run
from cml.eval.protocols import prepare
from cml.eval.results import Run
from cml.tasks.sound import SoundClassification

import cml
from cml.codecs.base import CodecSpec
from cml.codecs.fit import fit_codec
from cml.data.latents import ModelInputs
from cml.data.mel import LEAST, log_mel
from cml.data.sound import write_sound
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.sound import FilterBank, SoundNet

RATE, SAMPLES, SIZE, PATCH = 8000, 8200, 8192, 512
VIEWS = ["waveform", "bigpatch", "spectrogram", "resample", "latent", "reconstruction", "retrained"]


def tone(hertz: float, samples: int = SAMPLES, rate: int = RATE) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(samples) / rate)[None]


def clip(label: int, seed: int, samples: int = SAMPLES) -> torch.Tensor:
    """A low tone or a high one, as loud as it likes, with noise."""
    generator = torch.Generator().manual_seed(seed)
    pitch, volume = 1 + 0.2 * torch.rand(2, generator=generator)
    noise = 0.1 * torch.randn(1, samples, generator=generator)
    return (0.2 * volume - 0.1) * (tone((300, 900)[label] * float(pitch), samples) + noise)


def sound_folder(root, make=clip, count: int = 12):
    for label, name in enumerate(("low", "high")):
        for number in range(count):
            write_sound(root / name / f"{number}.wav", make(label, number), RATE)
    return root


@pytest.fixture(autouse=True, scope="module")
def hasty():
    """Codecs are timed for a moment only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cml.eval.complexity._SECONDS", 0.01)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return sound_folder(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """Patch 32, 8 channels, fitted to the clips."""
    signals = (clip(number % 2, number) for number in range(8))
    made = fit_codec(
        signals, name="mine", ndim=1, channels=1, levels=5, latent_channels=8, step=0.05, level="peak"
    )  # fmt: skip
    path = tmp_path_factory.mktemp("codec") / "f32c8"
    made.save(path, "A test.")
    return str(path)


def task_of(folder, **options) -> SoundClassification:
    return SoundClassification(f"folder:{folder}", **{"size": SIZE, "epochs": 2} | options)


def toy(folder, codec, out, **options):
    codecs = ["resample:factor=4", codec]
    settings = {"epochs": 2, "seeds": 2, "size": SIZE, "patch": PATCH, "codecs": codecs, "views": VIEWS, "out": out}
    return cml.compare("sound", f"folder:{folder}", **settings | options)


@pytest.fixture(scope="module")
def finished(folder, codec, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return out, toy(folder, codec, out)


def test_every_view_is_in_the_table(finished, codec):
    out, table = finished
    assert not table.attrs["failed"]
    assert list(table["view"]) == [*VIEWS[:5], *["reconstruction"] * 2, *["retrained"] * 2]
    assert table["tokens"].tolist() == [32, *[16] * 8] and (table["seeds"] == 2).all()
    assert table.loc[table["view"] != "waveform", "backbone_macs"].nunique() == 1
    assert table["dimensions"].tolist() == [SIZE, SIZE, 64 * 16, SIZE // 4, 8 * SIZE // 32, *[SIZE] * 4]
    raw = cml.create_codec("identity:ndim=1").compress(torch.zeros(1, SIZE, dtype=torch.uint16))
    assert table["bpp"][0] == 8 * len(raw) / SIZE  # 16 bits a sample, as files have them
    assert table["kbps"].tolist() == pytest.approx((table["bpp"] * RATE / 1000).tolist())
    decoded = table["view"].isin(["reconstruction", "retrained"])
    assert table.loc[decoded, "psnr"].between(5, 80).all() and table.loc[~decoded, "psnr"].isna().all()
    assert table.loc[table["view"] == "reconstruction", "by_waveform_model"].notna().all()
    assert table["gain"].notna().all() and table.attrs["control"] == "bigpatch"
    for name in ("report.md", "report.html", "summary.csv", "rate.png", "dimension.png", "gallery.png", "run.json"):
        assert (out / name).stat().st_size > 0
    report = (out / "report.md").read_text()
    assert "kbit/s" in report and "the ceiling, at twice the tokens" in report and "by waveform's model" in report
    assert "cml compare --task sound" in report and "bpp" not in report and "picture" not in report
    assert pd.read_csv(out / "summary.csv").shape[0] == 9


def test_rate_and_items_are_those_of_the_containers(finished, folder, codec):
    out, _ = finished
    task, made = task_of(folder), cml.create_codec(codec)
    for result in Run(out).results().values():
        items = Run(out).items(result.key)
        assert len(items["correct"]) == task.count("test") and result.chance == 0.5
        if result.view == "latent":
            blobs = [made.compress(task.signal("test", index)) for index in range(task.count("test"))]
            assert items["bits"].tolist() == [8 * len(blob) for blob in blobs]


def test_run_again_computes_nothing(finished, folder, codec, monkeypatch):
    out, table = finished
    before = (out / "results.jsonl").read_bytes()
    monkeypatch.setattr(cells, "_run_condition", lambda *a: pytest.fail("a finished cell ran again"))
    pd.testing.assert_frame_equal(toy(folder, codec, out), table)
    assert (out / "results.jsonl").read_bytes() == before


def test_every_part_of_the_key_matters(folder, codec):
    task = task_of(folder)
    condition = next(c for c in matrix.plan(task, [codec], None, PATCH) if c.view == "latent")
    key = cells.context_key(task, condition, 0, PATCH)
    louder = task_of(folder, size=SIZE // 2), task_of(folder, epochs=3)
    assert len({key, *(cells.context_key(other, condition, 0, PATCH) for other in louder)}) == 3
    context = cells.context_of(task, condition, 0, PATCH)
    assert context["sampling_rate"] == RATE and context["protocol_version"] == sound_protocols.VERSION


@pytest.mark.parametrize("view", ["latent", "spectrogram", "waveform"])
def test_it_learns_what_is_easy(folder, codec, view):
    task = task_of(folder, epochs=12)
    made = cml.create_codec(codec if view == "latent" else "identity:ndim=1")
    prepared = prepare(view, made, task, PATCH)
    model, _ = task.build(prepared.stem, 0)
    assert prepared.train is not None
    seen = prepared.train.batch(torch.arange(len(prepared.train)))
    assert 0.2 < float(seen.std()) < 5  # about unit variance
    task.train(model, prepared.train, prepared.shift, 0, lambda epoch, loss: None)
    score = task.score(model, prepared.test)
    assert score.metrics["accuracy"] == score.items["correct"].mean() >= 5 / 6


def test_volume_and_offset_do_not_count(folder, tmp_path):
    quiet = sound_folder(tmp_path / "quiet", lambda label, seed: 0.25 * clip(label, seed) + 0.1)
    ours, theirs = (task_of(root).signal("train", 0) for root in (folder, quiet))
    assert float(ours.abs().max()) == 1 and float((ours - theirs).abs().max()) < 2e-3


def test_what_augments_is_exact_in_every_view(folder, codec):
    """A clip moved by a patch, or turned over, is read as what is stored of it, moved or turned over."""
    task, made = task_of(folder), cml.create_codec(codec)
    x = task.signal("train", 0)
    later = torch.nn.functional.pad(x, (PATCH, -PATCH))
    for view, name in (("latent", codec), ("resample", "resample:factor=4"), ("spectrogram", "identity:ndim=1")):
        made = cml.create_codec(name)
        seen, moved, turned = (
            sound_protocols.see(view, made, task, PATCH, signal).values.float() for signal in (x, later, -x)
        )
        step = PATCH * seen.shape[1] // SIZE
        inner = slice(3 * seen.shape[1] // 16, -3 * seen.shape[1] // 16)
        close = 2 if view == "latent" else 64 if view == "spectrogram" else 1
        assert float((moved[:, step:] - seen[:, :-step])[:, inner].abs().max()) <= close
        back = turned if view == "spectrogram" else -turned
        assert float((back - seen).abs().max()) <= 1


def test_a_batch_moves_and_turns_over():
    values = torch.tensor([[[[1, 2, 3, -128]]]], dtype=torch.int8).expand(1, 2, 1, 4)
    inputs = ModelInputs(values, torch.tensor([2.0]), torch.tensor([1.0]), torch.zeros(2), ("none", "sign"))
    x = inputs.batch(torch.tensor([0, 1]), torch.tensor([0, 1]), (1,))
    assert x.tolist() == [[[1, 3, 5, 7]], [[1, -1, -3, -5]]]
    assert inputs.batch(torch.tensor([1]), torch.tensor([1])).tolist() == [[[-1, -3, -5, 257]]]
    assert torch.equal(inputs.targets(torch.tensor([0, 1]), torch.tensor([0, 1]), (1,)), torch.zeros(2))


@pytest.mark.parametrize(
    "stem", [StemShape(1, (4096,), 256), StemShape(16, (64,), 4), StemShape(64, (64,), 1), StemShape(2, (512,), 32)]
)
def test_the_model_hears_energy(stem):
    """Whatever a view's patch is made of: of one sign or the other, and of any length."""
    bank = FilterBank(stem, 24)
    norms = bank.start.flatten(1).norm(dim=1)
    assert norms[::2].sub(1).abs().max() < 1e-5 and (stem.patch == 1 or norms.sub(1).abs().max() < 1e-5)
    assert (bank.start[::2].abs().sum(2) > 0).sum(1).unique().tolist() == [1]  # each pair listens to one channel
    model = SoundNet(stem, 3).eval()
    x = torch.randn(2, stem.channels, *stem.grid)
    assert model(x).shape == (2, 3) and torch.allclose(model(x), model(-x), atol=1e-5)
    assert model(x[..., : stem.patch]).shape == (2, 3)


def test_a_pair_of_filters_hears_a_tone_wherever_it_begins():
    bank = FilterBank(StemShape(1, (2048,), 1024), 64)
    heard = []
    for begin in range(0, 40, 5):
        energies = bank(tone(600)[None, :, begin : begin + 1024]).unflatten(1, (-1, 2)).square().sum(2)[0, :, 0]
        heard.append(energies)
    loudest = torch.stack(heard)[:, int(heard[0].argmax())].detach()
    assert float(loudest.max() / loudest.min()) < 1.2


def test_adapt_reads_sound(codec):
    made = cml.create_codec(codec)
    model = cml.adapt("cml:sound", made.spec, num_classes=5, size=SAMPLES, patch=256)
    z = made.encode(clip(0, 0)).to_float()
    assert model(z[None]).shape == (1, 5) and model.stem.patch == 8
    assert cml.adapt("cml:sound", CodecSpec("wave", 1, (1, 2)), num_classes=2, size=4096).stem.patch == 1024
    both = cml.adapt("cml:sound", CodecSpec("wave", 1, (1, 2)), num_classes=2, size=(4096,), channels=2)
    assert both(torch.zeros(1, 2, 4096)).shape == (1, 2)


@pytest.mark.parametrize(
    ("backbone", "spec", "options", "sentence"),
    [
        ("cml:small", CodecSpec("a", 1, (1,)), {"size": 4096}, "sound has cml:sound"),
        ("timm:resnet18", CodecSpec("a", 1, (1,)), {"size": 4096}, "sound has cml:sound"),
        ("cml:sound", CodecSpec("a", 2, (3,)), {}, "pictures have cml:small"),
        ("cml:sound", CodecSpec("a", 1, (1,)), {}, "How long"),
        ("cml:sound", CodecSpec("a", 1, (1,)), {"size": (4, 4)}, "1 numbers"),
        ("cml:sound", CodecSpec("a", 1, (1,)), {"size": 100}, "larger than a signal of 100"),
        ("cml:sound", CodecSpec("a", 3, (1,)), {}, "3 axes"),
        ("cml:sound", CodecSpec("a", 1, (1,), 4, 64), {"size": 4096, "patch": 100}, "take a patch of 128"),
        ("cml:loud", CodecSpec("a", 1, (1,)), {"size": 4096}, "Unknown backbone"),
        ("cml:sound", CodecSpec("a", 1, (1,)), {"size": 4096, "features": True}, "does not show its feature maps"),
        ("timm:resnet18", CodecSpec("a", 1, (1,)), {"size": 4096, "pretrained": True}, "of sound"),
    ],
)
def test_models_that_do_not_go_together(backbone, spec, options, sentence):
    if options.get("pretrained"):
        spec = cml.create_codec("mono_f64c64")
    with pytest.raises(CmlError, match=sentence):
        cml.adapt(backbone, spec, num_classes=2, **options)


def test_log_mel_of_a_sine_and_of_silence():
    rate, hop, bands = 16000, 256, 40
    levels = log_mel(tone(1000, 8192, rate), rate, hop, bands)
    assert levels.shape == (1, bands, 32)
    assert abs(float(levels[0, :, 8:-8].amax())) < 0.5  # a full-scale sine
    assert levels[0, :, 8:-8].argmax(0).unique().numel() == 1
    assert torch.allclose(log_mel(torch.zeros(2, 1000), rate, hop, bands), torch.tensor(math.log(LEAST)))
    click = torch.zeros(1, 2048)
    click[0, 5 * hop + hop // 2] = 1
    assert int(log_mel(click, rate, hop, bands)[0].mean(0).argmax()) == 5  # a window is around its column
    for samples in (1, hop - 1, hop, hop + 1):
        assert log_mel(torch.rand(samples), 96000, hop, bands).shape == (bands, math.ceil(samples / hop))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"codecs": ["jpeg:quality=10"]}, "takes pictures"),
        ({"codecs": ["opus:kbps=12"]}, f"add the option rate={RATE}"),
        ({"codecs": ["stereo_f256c32"]}, "the data has 1"),
        ({"views": ["pixels"]}, "Unknown view"),
        ({"views": ["latent"], "codecs": ["resample:factor=4"]}, "None of the codecs"),
        ({"patch": 500}, "whole number of patches"),
        ({"patch": 1}, "even"),
        ({"codecs": ["resample:factor=2.5"], "views": ["resample"]}, "whole factor"),
        ({"codecs": ["resample:factor=3"], "views": ["resample"]}, "not a multiple"),
        ({"backbone": "cml:small"}, "sound has cml:sound"),
        ({"size": 10_000}, "can be kept"),
        ({"size": 1}, "can be kept"),
        ({"epochs": 0}, "1 epoch"),
    ],
)
def test_bad_requests_fail_before_anything_runs(folder, codec, tmp_path, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        toy(folder, codec, tmp_path / "run", **{"views": None} | options)
    assert not (tmp_path / "run").exists()


def test_pictures_have_no_codecs_of_sound(picture_folder, tmp_path):
    with pytest.raises(CmlError, match="has pictures, and resample:factor=2 takes sound"):
        cml.compare("classification", f"folder:{picture_folder}", codecs=["resample:factor=2"], size=32, out=tmp_path)


def test_a_clip_of_one_sample(tmp_path, codec):
    folder = sound_folder(tmp_path / "short", lambda label, seed: torch.ones(1, 1) / (2 + label), count=4)
    with pytest.raises(CmlError, match="A sound of 1 samples"):
        toy(folder, codec, tmp_path / "run", size=None)


def test_silence_is_only_silent(tmp_path, codec):
    folder = sound_folder(tmp_path / "silent", lambda label, seed: torch.zeros(1, SAMPLES), count=4)
    table = toy(folder, codec, tmp_path / "run", seeds=1, epochs=1, views=VIEWS[:6])
    assert not table.attrs["failed"] and (table["accuracy"] == 0.5).all()


@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_file_with_nan_is_named(tmp_path, codec):
    folder = sound_folder(tmp_path / "nan", count=4)
    import soundfile

    soundfile.write(folder / "low" / "1.wav", np.full(SAMPLES, np.nan, np.float32), RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"1\.wav holds NaN"):
        toy(folder, codec, tmp_path / "run")


def test_no_class_folders(tmp_path, codec):
    write_sound(tmp_path / "loose" / "a.wav", clip(0, 0), RATE)
    with pytest.raises(DataError, match="one folder a class"):
        toy(tmp_path / "loose", codec, tmp_path / "run")
    with pytest.raises(DataError, match="folder"):
        toy(tmp_path / "nowhere", codec, tmp_path / "run")


def test_dry_run_knows_the_cells(folder, codec, tmp_path):
    request = matrix.Matrix(
        "sound", f"folder:{folder}", ("resample:factor=4", codec), size=SIZE, patch=PATCH, epochs=2, seeds=2
    )  # fmt: skip
    plans = dry_run(request.resolve(), Run(tmp_path))
    assert [plan.condition.view for plan in plans] == [*VIEWS[:5], *["reconstruction"] * 2]
    assert all(plan.todo == 2 and plan.seconds > 0 and not plan.error for plan in plans)


def test_the_run_can_be_made_again(finished):
    out, _ = finished
    stored = json.loads((out / "run.json").read_text())
    assert stored["request"]["size"] == SIZE and stored["about"]["size"] == [SIZE]
    assert (out / "matrix.yaml").read_text().startswith("task: sound\n")
