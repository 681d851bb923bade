"""The rate-distortion benchmark of sound on a few short clips: numbers, resume, what is left out, report, command."""

import json
import math
from collections import Counter

import pandas as pd
import pytest
import torch
from cml.eval import sound_rd as module
from cml.eval import sound_rd_report
from cml.eval.rd_points import LADDERS, STEPS_OF_SOUND, points_of
from cml.eval.rd_rows import Rows
from cml.eval.sound_metrics import log_spectral_distance, psnr, si_sdr
from cml.eval.sound_rd import SoundRow, clips_of, sound_rd
from cml.eval.sound_rd_report import at_rates, bd_rates, quality
from helpers import hum
from typer.testing import CliRunner

import cml
from cml.cli import app
from cml.errors import CmlError

pytest.importorskip("av")
pytest.importorskip("soundfile")
RATE = 16000
CODECS = ["opus:kbps=12", "opus:kbps=32", "resample:factor=2"]
CLIPS = {"a.wav": 8000, "deep/b.flac": 6001}


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    root = tmp_path_factory.mktemp("sounds")
    for seed, (name, length) in enumerate(CLIPS.items()):
        (root / name).parent.mkdir(exist_ok=True)
        cml.write_sound(root / name, hum(length, seed), RATE)
    return root


@pytest.fixture
def calls(monkeypatch):
    """The operating points and clips that are measured, as they are."""
    seen: list[tuple[str, str]] = []
    original = module._measure_one

    def counted(plan, point, name, key, x):
        seen.append((point.codec.spec.name, name))
        return original(plan, point, name, key, x)

    monkeypatch.setattr(module, "_measure_one", counted)
    return seen


def test_numbers_are_those_of_direct_computation(sounds, tmp_path):
    table = sound_rd(str(sounds), CODECS, out=tmp_path / "r").set_index("point")
    assert list(table["curve"]) == ["opus", "opus", "resample"]
    assert list(table.index) == ["opus:kbps=12,rate=16000", "opus:kbps=32,rate=16000", "resample:factor=2"]
    for point in table.index:
        codec, want = cml.create_codec(point), dict.fromkeys(("kbps", "si_sdr", "psnr", "lsd"), 0.0)
        for name in CLIPS:
            x = cml.read_sound(sounds / name).samples
            blob = codec.compress(x)
            x_hat = codec.decompress(blob)
            values = (
                8 * len(blob) / (x.shape[1] / RATE) / 1000, si_sdr(x, x_hat), psnr(x, x_hat),
                log_spectral_distance(x, x_hat, RATE),
            )  # fmt: skip
            for key, value in zip(want, values, strict=True):
                want[key] += value / len(CLIPS)
        for key, value in want.items():
            assert table.loc[point, key] == pytest.approx(value, rel=1e-6), (point, key)
        assert min(*table["encode_x"], *table["decode_x"]) > 1
    csv = pd.read_csv(tmp_path / "r.csv")
    assert len(csv) == 6 and set(csv["clip"]) == set(CLIPS) and all(csv["dnsmos"].isna())


def test_only_what_is_missing_is_measured(sounds, tmp_path, calls):
    sound_rd(str(sounds), CODECS[:1], out=tmp_path / "r")
    assert len(calls) == 2
    file = tmp_path / "r.csv"
    file.write_bytes(file.read_bytes()[:-20])  # killed in the middle of a line
    calls.clear()
    assert len(sound_rd(str(sounds), CODECS, out=tmp_path / "r")) == 3
    assert len(calls) == 1 + 2 * 2
    calls.clear()
    sound_rd(str(sounds), CODECS, out=tmp_path / "r")
    assert not calls
    # Other samples under the same name are another measurement.
    other = tmp_path / "other"
    (other / "deep").mkdir(parents=True)
    cml.write_sound(other / "a.wav", hum(8000, 7), RATE)
    cml.write_sound(other / "deep" / "b.flac", hum(6001, 1), RATE)
    sound_rd(str(other), CODECS[:1], out=tmp_path / "r")
    assert calls == [("opus:kbps=12,rate=16000", "a.wav")]


def test_an_interrupt_keeps_what_is_finished(sounds, tmp_path, monkeypatch):
    original, count = module._measure_one, 0

    def interrupted(*arguments):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(module, "_measure_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sound_rd(str(sounds), CODECS, out=tmp_path / "r")
    assert len(Rows(tmp_path / "r.csv", SoundRow).read()) == 3


def test_a_silent_clip_is_left_out_of_a_mean_and_named(sounds, tmp_path):
    for name in CLIPS:
        cml.write_sound(tmp_path / "in" / name, cml.read_sound(sounds / name).samples, RATE)
    cml.write_sound(tmp_path / "in" / "still.wav", torch.zeros(1, 3000), RATE)
    with_it = sound_rd(str(tmp_path / "in"), CODECS[:1], out=tmp_path / "r")
    without = sound_rd(str(sounds), CODECS[:1], out=tmp_path / "s")
    assert list(with_it["si_sdr"]) == pytest.approx(list(without["si_sdr"]))
    assert max(with_it["lsd"]) < min(without["lsd"])
    assert any("still.wav" in note for note in with_it.attrs["notes"])
    assert "still.wav" in (tmp_path / "r.md").read_text()


def test_clips_of_a_set_are_its_test_split(tmp_path):
    for number in range(8):
        cml.write_sound(tmp_path / "train" / "low" / f"{number}.wav", hum(900, number), RATE)
    cml.write_sound(tmp_path / "test" / "low" / "x.wav", hum(900, 9), RATE)
    assert len(clips_of(f"folder:{tmp_path}")) == 1
    assert len(clips_of(str(tmp_path))) == 9
    assert clips_of(str(tmp_path)).rate == RATE


def test_channels_have_measures_of_their_own(tmp_path):
    x = torch.cat([hum(5000, seed) for seed in range(4)])
    cml.write_sound(tmp_path / "in" / "foa.wav", x, 48000)
    table = sound_rd(str(tmp_path / "in"), ["opus:kbps=128", "opus:kbps=512"], out=tmp_path / "r")
    coarse, fine = table["covariance_error"]
    assert coarse > fine > 0 <= min(table["level_error"])
    assert "covariances" in (tmp_path / "r.md").read_text()
    notes: list[str] = []
    names = module.default_codecs(4, 48000, notes)
    assert {"opus", "vorbis", "resample"} <= set(names) and not {"mp3", "aac"} & set(names)
    assert any("mp3 does not take 4 channels" in note for note in notes)
    assert any(name.startswith("foa_") for name in names)


def test_speech_codecs_are_for_speech():
    for rate in (RATE, 44100):
        found = [name for name in module.default_codecs(1, rate, []) if name.startswith("speech")]
        assert bool(found) == (rate == RATE)


def test_bad_requests_get_a_sentence(sounds, tmp_path):
    for data, codecs, sentence in (
        (sounds, ["opuss"], "did you mean opus"), (sounds, ["jpeg"], "is no codec of sound"),
        (sounds, ["stereo_f64c128"], "does not take the 1 channel"), (tmp_path / "none", CODECS, "no set of sounds"),
        ("esc10:nowhere", CODECS, "nowhere"),
    ):  # fmt: skip
        with pytest.raises(CmlError, match=sentence):
            sound_rd(str(data), codecs, out=tmp_path / "r")


# curves


def test_ladders_stand_for_a_codec():
    points = points_of(["opus", "mono_f64c64", "bits:ndim=1", "resample"], 48000)
    counts = Counter(point.curve for point in points)
    assert counts["opus"] == len(LADDERS["opus"]) and counts["mono_f64c64"] == len(STEPS_OF_SOUND)
    assert counts["bits:ndim=1"] == 6 and counts["resample"] == len(LADDERS["resample"])
    assert points[0].codec.spec.name == "opus:kbps=6,rate=48000"
    mixed = points_of(["vorbis", "vorbis:inside=16000", "opus:kbps=7,rate=8000"], 48000)
    assert {point.curve for point in mixed} == {"vorbis", "vorbis:inside=16000", "opus:rate=8000"}


def table_of(curves: dict[str, list[tuple[float, float, float]]]) -> pd.DataFrame:
    rows = [
        {"curve": name, "point": f"{name}:{i}", "kbps": kbps, "si_sdr": first, "lsd": second, "encode_x": 100.0,
         "decode_x": 300.0, **dict.fromkeys(("psnr", "dnsmos", "level_error", "covariance_error"), math.nan)}
        for name, points in curves.items()
        for i, (kbps, first, second) in enumerate(points)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table.attrs.update(rate=RATE, channels=2)
    return table


def test_half_the_bits_are_minus_50_percent_whether_more_or_less_is_better():
    line = [(kbps, 10 * math.log10(kbps), 10 - 2 * math.log2(kbps)) for kbps in (8.0, 16.0, 32.0, 64.0, 128.0)]
    table = table_of({"opus": line, "half": [(kbps / 2, first, second) for kbps, first, second in line]})
    rates = bd_rates(table, "opus").set_index("codec")
    assert list(rates.columns) == ["SI-SDR", "LSD"]
    assert rates.loc["half"].tolist() == pytest.approx([-50, -50], abs=1e-6)
    assert quality(table, "lsd")[0] == -table["lsd"][0]
    lsd = at_rates(table, "lsd").set_index("codec")
    assert lsd.loc["opus", "24 kbit/s"] == pytest.approx(10 - 2 * math.log2(24), abs=0.1)
    assert math.isnan(lsd.loc["opus", "6 kbit/s"])
    shown = sound_rd_report.points(table)
    assert shown["encode, M samples/s"].iloc[0] == "3.2"  # 100 times real time, 2 channels of 16 kHz
    assert "encode, M samples/s" not in sound_rd_report.points(table, narrow=True)


def test_the_report_has_its_command_and_pictures(sounds, tmp_path):
    ladder = [f"opus:kbps={kbps}" for kbps in (8, 16, 32, 64)]
    sound_rd(str(sounds), ladder, out=tmp_path / "r")
    text = (tmp_path / "r.md").read_text()
    assert f"cml rd {sounds} -c opus:kbps=8" in text and "| opus | +0.0 | +0.0 | +0.0 |" in text
    assert "2 clips" in text and "16000 Hz, 1 channel(s)" in text and "![Curves](r.png)" in text
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    settings = next(line for line in text.splitlines() if line.startswith("| opus:kbps=8,rate=16000 | `"))
    assert json.loads(settings.split("`")[1])["encoder"] == "libopus"


# the command line


def run(*arguments: object, expect: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == expect, result.output
    return " ".join(result.output.split())


def test_one_command_looks_at_what_the_folder_holds(sounds, tmp_path):
    points = [part for point in CODECS for part in ("-c", point)]
    text = run("rd", sounds, *points, "-o", tmp_path / "r")
    for part in ("SI-SDR", "BD-rate against opus", "resample:factor=2", "r.md"):
        assert part in text
    assert "6 done before" in run("rd", sounds, *points, "-o", tmp_path / "r")
    cml.write_image(tmp_path / "both" / "a.png", torch.zeros(3, 8, 8))
    cml.write_sound(tmp_path / "both" / "a.wav", hum(100), RATE)
    for arguments, sentence in (
        ((tmp_path / "both",), "holds pictures and sounds"), ((tmp_path / "none",), "no folder"),
        ((sounds, "--printed"), "leave them out for sound"), (("esc11:x",), "no set of sounds"),
    ):  # fmt: skip
        with pytest.raises(CmlError, match=sentence):
            CliRunner().invoke(app, ["rd", *map(str, arguments)], catch_exceptions=False)
