"""The rate-distortion benchmark of signals of three axes on tiny ones: numbers, resume, report, command."""

import math
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cml.eval import rd_figure, volume_gallery, volume_metrics, volume_rd_report
from cml.eval import volume_rd as module
from cml.eval.rd_points import LADDERS, STEPS_OF_VOLUMES, curve_of, points_of
from cml.eval.rd_rows import Rows
from cml.eval.volume_rd import volume_rd
from cml.eval.volume_rd_report import at_equal_bits, reached, speeds
from cml.eval.volume_rows import VolumeRow, defaults, nearest
from helpers import photo
from typer.testing import CliRunner

import cml
from cml.cli import app
from cml.codecs.base import CodecSpec
from cml.codecs.factory import parse_operating_point
from cml.codecs.fit import fit_codec
from cml.codecs.rate import steering
from cml.data import signal_sets
from cml.data.samples import restore
from cml.data.signal_files import read_signal
from cml.errors import CmlError

CODECS = ["slices-jpeg2000:rate=24", "slices-jpeg2000:rate=8", "identity:ndim=3"]
SIZES = {"a": (12, 48, 40), "b": (9, 40, 44)}


def scan(size: tuple[int, int, int], seed: int) -> np.ndarray:
    """int16, with values below zero, that changes slowly from slice to slice."""
    slices = [photo(size[1:], 1, seed)[0].numpy() * (1 - 0.03 * z) for z in range(size[0])]
    return (np.stack(slices) * 8 - 1000).astype(np.int16)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    root = tmp_path_factory.mktemp("scans")
    for seed, (name, size) in enumerate(SIZES.items()):
        np.save(root / f"{name}.npy", scan(size, seed))
    return root


@pytest.fixture(scope="module")
def ours(tmp_path_factory, scans):
    """A codec of volumes in a folder, its step an operating point of its ladder."""
    folder = tmp_path_factory.mktemp("ours") / "small_f4c8"
    signals = [read_signal(scans / f"{name}.npy").samples for name in SIZES]
    codec = fit_codec(
        signals, name="small", ndim=3, channels=1, levels=2, latent_channels=8, step=0.1, level="peak"
    )  # fmt: skip
    codec.save(folder, "A codec for a test.")
    return str(folder)


@pytest.fixture
def calls(monkeypatch):
    """The operating points and signals that are measured, as they are."""
    seen: list[tuple[str, str]] = []
    original = module._measure_one

    def counted(plan, point, name, key, signal):
        seen.append((point.codec.spec.name, name))
        return original(plan, point, name, key, signal)

    monkeypatch.setattr(module, "_measure_one", counted)
    return seen


@pytest.fixture
def undrawn(monkeypatch):
    """The pictures of the report, which take most of the time, are names alone."""
    drawn: list[str] = []
    monkeypatch.setattr(rd_figure, "finish", lambda figure, axes, path: drawn.append(path.name))
    monkeypatch.setattr(volume_gallery, "draw", lambda rows, shipped, signal, path: drawn.append(path.name))
    return drawn


def test_numbers_are_those_of_direct_computation(scans, tmp_path, undrawn):
    table = volume_rd(str(scans), CODECS, out=tmp_path / "r").set_index("point")
    assert list(table["curve"]) == ["slices-jpeg2000", "slices-jpeg2000", "identity:ndim=3"]
    assert list(table.index) == CODECS
    for point in CODECS[:2]:
        codec, want = cml.create_codec(point), dict.fromkeys(("bpv", "psnr", "ssim"), 0.0)
        for name, size in SIZES.items():
            original = np.load(scans / f"{name}.npy")[None]
            signal = read_signal(scans / f"{name}.npy")
            blob = codec.compress(signal.samples)
            x_hat = restore(codec.decompress(blob), signal.facts)
            low, span = float(original.min()), float(original.max()) - float(original.min())
            error = np.mean((original.astype(float) - x_hat) ** 2)
            want["bpv"] += 8 * len(blob) / math.prod(size) / 2
            want["psnr"] += 10 * math.log10(span**2 / error) / 2
            want["ssim"] += volume_metrics.ssim(original, x_hat, low, span) / 2
        for key, value in want.items():
            assert table.loc[point, key] == pytest.approx(value, rel=1e-6), (point, key)
    assert table.loc["identity:ndim=3", "psnr"] == math.inf and set(table["stored"]) == {16}
    assert table.loc["identity:ndim=3", "bpv"] == pytest.approx(16, rel=0.01)
    assert min(*table["encode_mvps"], *table["decode_mvps"]) > 0
    csv = pd.read_csv(tmp_path / "r.csv")
    assert len(csv) == 6 and set(csv["signal"]) == set(SIZES) and all(csv["sam"].isna())


def test_only_what_is_missing_is_measured(scans, tmp_path, calls, undrawn):
    volume_rd(str(scans), CODECS[:1], out=tmp_path / "r")
    assert len(calls) == 2 and undrawn == ["r.png", "r-slices.png"]
    file = tmp_path / "r.csv"
    file.write_bytes(file.read_bytes()[:-20])  # killed in the middle of a line
    calls.clear()
    assert len(volume_rd(str(scans), CODECS, out=tmp_path / "r")) == 3
    assert len(calls) == 1 + 2 * 2
    (tmp_path / "r-slices.png").touch()
    calls.clear()
    undrawn.clear()
    volume_rd(str(scans), CODECS, out=tmp_path / "r")
    assert not calls and undrawn == ["r.png"]
    # Other samples under the same name are another measurement.
    other = tmp_path / "other"
    other.mkdir()
    np.save(other / "a.npy", scan(SIZES["a"], 7))
    np.save(other / "b.npy", scan(SIZES["b"], 1))
    volume_rd(str(other), CODECS[:1], out=tmp_path / "r")
    assert calls == [(CODECS[0], "a")]


def test_an_interrupt_keeps_what_is_finished_and_a_failure_is_named(scans, tmp_path, monkeypatch, undrawn):
    original, count, broken = module._measure_one, 0, KeyboardInterrupt

    def interrupted(*arguments):
        nonlocal count
        count += 1
        if count == 4:
            raise broken("no luck")
        return original(*arguments)

    monkeypatch.setattr(module, "_measure_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        volume_rd(str(scans), CODECS, out=tmp_path / "r")
    assert len(Rows(tmp_path / "r.csv", VolumeRow).read()) == 3
    count, broken = 3, ValueError
    table = volume_rd(str(scans), CODECS, out=tmp_path / "r")
    assert table.attrs["failed"] == [f"{CODECS[1]} on b: ValueError: no luck"]
    assert list(table["point"]) == [CODECS[0], CODECS[2]] and "no luck" in (tmp_path / "r.md").read_text()


def test_the_report_compares_ours_at_equal_bits(scans, ours, tmp_path):
    ladder = [f"slices-jpeg2000:rate={rate}" for rate in (40, 20, 10, 5)]
    table = volume_rd(str(scans), [*ladder, ours], out=tmp_path / "r")
    text = (tmp_path / "r.md").read_text()
    assert f"cml rd {scans} -c slices-jpeg2000:rate=40" in text and "| slices-jpeg2000 | +0.0 | +0.0 |" in text
    assert "2 signal(s)" in text and "| a | 12 x 48 x 40 | 16 | 1 |" in text
    assert f"{ours}:step=0.1, DR 8: " in text and "| gain on slices-jpeg2000 | " in text
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("r.png", "r-slices.png"))
    assert sum(table["curve"] == ours) == len(STEPS_OF_VOLUMES)


def test_cubes_have_spectral_angles_and_codecs_of_two_axes(tmp_path, undrawn):
    scipy = pytest.importorskip("scipy.io")
    rng = np.random.default_rng(0)
    light = 200 + 100 * np.sin(np.arange(40)[:, None] / 9) * np.cos(np.arange(36) / 7)
    cube = (light[..., None] * np.linspace(1, 3, 16) + rng.normal(0, 3, (40, 36, 16))).astype(np.uint16)
    scipy.savemat(tmp_path / "field.mat", {"cube": cube})
    signal = read_signal(tmp_path / "field.mat")
    bands = signal.samples.shape[1]
    options = {"latent_channels": 4, "step": 0.05, "level": "peak"}
    flat = fit_codec([signal.samples[0]], name="flat", ndim=2, channels=bands, levels=1, **options)
    deep = fit_codec([signal.samples], name="deep", ndim=3, channels=1, levels=1, **options)
    for codec in (flat, deep):
        codec.save(tmp_path / codec.spec.name.partition(":")[0], "A codec for a test.")
    points = [f"{tmp_path}/{name}:step={step}" for name in ("flat", "deep") for step in (0.4, 0.05)]
    folder = tmp_path / "cubes"
    folder.mkdir()
    (tmp_path / "field.mat").rename(folder / "field.mat")
    table = volume_rd(str(folder), points, out=tmp_path / "r").set_index("point")
    coarse, fine = (table.loc[f"{tmp_path}/flat:step={step}"] for step in (0.4, 0.05))
    blob = flat.compress(signal.samples[0])
    x_hat = restore(flat.decompress(blob)[None], signal.facts)
    assert fine["sam"] == pytest.approx(volume_metrics.spectral_angle(restore(signal.samples, signal.facts), x_hat))
    assert fine["bpv"] == pytest.approx(8 * len(blob) / cube.size)
    assert coarse["sam"] > fine["sam"] > 0 and table.attrs["anchor"] == "slices-jpeg2000"
    assert volume_rd_report.quality(table, "sam")[0] == -table["sam"].iloc[0]
    assert "spectra of a pixel" in (tmp_path / "r.md").read_text()
    # Bands that a codec of two axes was not made for.
    scipy.savemat(folder / "field.mat", {"cube": cube[..., :5]})
    with pytest.raises(CmlError, match="does not take the signals"):
        volume_rd(str(folder), points[:1], out=tmp_path / "s")


def test_video_is_measured_in_frames(tmp_path, undrawn):
    for number in range(8):
        frame = photo((48, 64), 3, 3).roll(number, 2)
        cml.write_image(tmp_path / "in" / f"f{number:02}.png", frame)
    table = volume_rd(f"frames:{tmp_path / 'in'}", ["slices-jpeg2000:rate=10"], out=tmp_path / "r", anchor=CODECS[1])
    assert table.attrs["kind"] == "video" and table.attrs["anchor"] == "slices-jpeg2000"
    row = table.iloc[0]
    assert row["stored"] == 24 and row["encode_fps"] == pytest.approx(row["encode_mvps"] * 1e6 / (48 * 64))
    signal = signal_sets.load_signals(f"frames:{tmp_path / 'in'}").test[0].read()
    codec = cml.create_codec("slices-jpeg2000:rate=10")
    x_hat = restore(codec.decompress(codec.compress(signal.samples)), signal.facts)
    error = np.mean((signal.samples.numpy().astype(float) - x_hat) ** 2)
    assert row["psnr"] == pytest.approx(10 * math.log10(255**2 / error))
    text = (tmp_path / "r.md").read_text()
    assert "encode frames/s" in text and "bits a pixel" in text and "against 255" in text


def test_small_slices_have_no_ssim(tmp_path, undrawn):
    np.save(tmp_path / "a.npy", scan((12, 9, 40), 0))
    table = volume_rd(str(tmp_path), CODECS[:1], out=tmp_path / "out" / "r")
    assert all(table["ssim"].isna()) and volume_rd_report.measured(table) == ["psnr"]
    assert [note.partition(":")[0] for note in table.attrs["notes"]] == ["SSIM is left out"]


def test_bad_requests_get_a_sentence(scans, tmp_path):
    for data, codecs, sentence in (
        (scans, ["slices-jpg2000"], "did you mean slices-jpeg2000"), (scans, ["jpeg"], "does not take the signals"),
        (tmp_path / "none", CODECS, "no folder"), ("volumes:nowhere", CODECS, "nowhere"),
    ):  # fmt: skip
        with pytest.raises(CmlError, match=sentence):
            volume_rd(str(data), codecs, out=tmp_path / "r")


# codecs


def test_ladders_stand_for_a_codec(ours):
    points = points_of(["slices-jpeg2000", ours, "slices-jpeg2000:psnr=30"])
    counts = Counter(point.curve for point in points)
    assert counts["slices-jpeg2000"] == len(LADDERS["slices-jpeg2000"]) and counts[ours] == len(STEPS_OF_VOLUMES)
    assert counts["slices-jpeg2000:psnr"] == 1 and curve_of("slices-jpeg2000:rate=7") == "slices-jpeg2000"
    assert [spec.name for spec in defaults(points)] == [f"{ours}:step=0.1"]
    assert [spec.name for spec in defaults(points_of([f"{ours}:step={s}" for s in (0.3, 0.2, 0.9)]))] == [
        f"{ours}:step=0.2"
    ]


@pytest.mark.parametrize("kind", list(module.RIVALS))
def test_rivals_are_those_of_the_kind(kind):
    for package in ("av", "imagecodecs"):
        pytest.importorskip(package)
    notes: list[str] = []
    names = module.default_codecs(kind, [(3 if kind == "video" else 1, 24, 64, 48)], notes)
    assert not notes and names[: len(module.RIVALS[kind])] == list(module.RIVALS[kind])
    assert module.ANCHORS[kind] in names
    for point in points_of(names):
        steer = steering(point.codec.spec.name)
        if steer is not None:
            value = parse_operating_point(point.codec.spec.name)[1][steer.option]
            assert min(steer.low, steer.high) <= value <= max(steer.low, steer.high)


def test_what_cannot_be_made_here_is_left_out_with_a_note(monkeypatch):
    monkeypatch.setattr(module, "RIVALS", {"volume": ("identity:ndim=3", "slices-jpegxxl", "jpeg")})
    notes: list[str] = []
    names = module.default_codecs("volume", [(1, 24, 64, 48)], notes)
    assert names[:1] == ["identity:ndim=3"] and not {"slices-jpegxxl", "jpeg"} & set(names)
    assert len(notes) == 1 and "slices-jpegxxl" in notes[0] and notes[0].endswith("It is left out.")


def test_a_light_decoder_is_measured_without_its_network_too():
    for name, other in (("rgb_f8c12", ["rgb_f8c12:decoder=linear"]), ("mono_f64c64", [])):
        assert module._linear(name, cml.create_codec(name)) == other


# tables


def row_of(curve: str, bpv: float, psnr: float, **other: Any) -> VolumeRow:
    values: dict[str, Any] = {
        "key": "", "signal": "s", "curve": curve, "point": f"{curve}:{bpv:g}", "channels": 1, "slices": 10,
        "height": 100, "width": 100, "bit_depth": 16, "bytes": round(bpv * 12500), "ssim": math.nan, "sam": math.nan,
        "encode_mvps": 2.0, "decode_mvps": 4.0,
    }  # fmt: skip
    return VolumeRow(bpv=bpv, psnr=psnr, **(values | other))


def spec_of(point: str) -> CodecSpec:
    return CodecSpec(point, 3, (1,), 8, 8)


LINE = [row_of("anchor", bpv, 30 + 10 * math.log10(bpv)) for bpv in (0.1, 0.2, 0.4, 0.8)]


def test_between_points_is_interpolated_and_beyond_is_a_bound():
    at = reached(LINE, 0.3)
    assert at.value == pytest.approx(30 + 10 * math.log10(0.3), abs=0.01) and at.sign == ""
    assert str(reached(LINE, 0.05)) == "< 20.00" and str(reached(LINE, 2.0)) == "> 29.03"
    assert str(reached([row_of("lossless", 4.0, math.inf)], 2.0)) == ""


def test_the_gain_is_at_the_same_bits():
    rows = [
        *LINE,
        row_of("ours", 0.4, 33.0),
        row_of("ours", 0.05, 24.5),
        row_of("linear", 0.4, 32.0),
        row_of("no", 1.6, 9),
    ]
    shipped = [spec_of(name) for name in ("ours:0.4", "linear:0.4", "ours:0.05", "no:1.6", "gone:1")]
    table = at_equal_bits(rows, shipped, "anchor").set_index("codec")
    # The decoder of the second leaves the bytes as they are, so that its column would be the first again.
    assert list(table.columns) == [
        "ours:0.4, DR 64: 0.4 bits, 40:1", "ours:0.05, DR 64: 0.05 bits, 320:1", "no:1.6, DR 64: 1.6 bits, 10:1"
    ]  # fmt: skip
    first, second, third = (table[name].map(str).to_dict() for name in table.columns)
    assert first["ours"] == "33.00" and first["anchor"] == "26.02" and first["gain on anchor"] == "6.98"
    assert first["linear"] == "32.00"
    assert second["anchor"] == "< 20.00" and second["gain on anchor"] == "> 4.50"
    assert third["anchor"] == "> 29.03" and third["gain on anchor"] == "< -20.03"
    gains = volume_rd_report._gains({"one": table.reset_index(), "two": table.reset_index()})
    assert gains.map(str).to_numpy().tolist() == [
        ["ours:0.4, DR 64", "6.98", "6.98", "2"], ["ours:0.05, DR 64", "> 4.50", "> 4.50", "2"],
        ["no:1.6, DR 64", "< -20.03", "< -20.03", "2"],
    ]  # fmt: skip


def test_speeds_are_at_about_one_rate_and_by_the_size_of_frames():
    rows = [*LINE, row_of("ours", 0.5, 30), row_of("ours", 0.15, 28)]
    assert nearest(rows, 0.16) == {"anchor": "anchor:0.2", "ours": "ours:0.15"}
    table = speeds(rows, 0.16, "volume")
    assert list(table["encode Mvoxel/s"]) == ["2", "2"] and list(table["bits"]) == ["0.2000", "0.1500"]
    large = [row_of("x264", 0.2, 30, height=200), row_of("x264", 0.2, 30)]
    table = speeds(large, 0.2, "video")
    row = table.to_dict("records")[0]
    assert row["decode 100x100, frames/s"] == "400" and row["decode 100x200, frames/s"] == "200"


# the command line


def run(*arguments: object, expect: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, result.output
    return " ".join(result.output.split())


def test_one_command_looks_at_what_the_folder_holds(scans, tmp_path, undrawn):
    points = [part for point in CODECS for part in ("-c", point)]
    text = run("rd", scans, *points, "-o", tmp_path / "r")
    for part in ("BD-rate against slices-jpeg2000", "identity:ndim=3", "millions of voxels a second", "r.md"):
        assert part in text
    assert "6 done before" in run("rd", scans, *points, "-o", tmp_path / "r")
    both = tmp_path / "both"
    cml.write_image(both / "a.png", torch.zeros(3, 8, 8))
    np.save(both / "a.npy", scan((9, 9, 9), 0))
    for arguments, sentence in (
        ((both,), "holds signals of three axes and pictures"), ((scans, "--printed"), "leave them out for signals"),
        ((scans, "--perceptual"), "leave it out for signals"), (("jasper:nowhere",), "nowhere"),
    ):  # fmt: skip
        with pytest.raises(CmlError, match=sentence):
            CliRunner().invoke(app, ["rd", *map(str, arguments)], catch_exceptions=False)


def test_every_set_of_signals_is_one_for_the_command():
    import importlib

    rd = importlib.import_module("cml.cli.rd")
    assert set(rd._SETS) == set(signal_sets._SETS)
