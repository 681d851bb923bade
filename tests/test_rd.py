"""The rate-distortion benchmark on two tiny pictures: numbers, resume, what is left out, the report."""

import math

import pandas as pd
import pytest
import torch
from cml.eval import rd as rd_module
from cml.eval import rd_report
from cml.eval.metrics import ms_ssim, psnr, ssim
from cml.eval.printed import KODAK, is_kodak
from cml.eval.rd import rd
from cml.eval.rd_points import STEPS, curve_of, points_of
from cml.eval.rd_rows import COLUMNS, Row, Rows
from helpers import photo

import cml
from cml.codecs.base import to_uint8
from cml.errors import CmlError, DataError

SIZES = {"a.png": (176, 200), "deep/b.png": (200, 176)}
CODECS = ["jpeg:quality=20", "jpeg:quality=80", "webp:quality=50"]
LADDER = [f"jpeg:quality={q}" for q in (10, 30, 60, 90)] + [f"jpeg2000:rate={r}" for r in (60, 30, 12, 6)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    for seed, (name, size) in enumerate(SIZES.items()):
        cml.write_image(root / name, photo(size, 3, seed))
    return root


@pytest.fixture
def calls(monkeypatch):
    """The operating points and pictures that are measured, as they are."""
    seen: list[tuple[str, str]] = []
    original = rd_module._measure_one

    def counted(plan, point, name, key, x):
        seen.append((point.codec.spec.name, name))
        return original(plan, point, name, key, x)

    monkeypatch.setattr(rd_module, "_measure_one", counted)
    return seen


def test_numbers_are_those_of_direct_computation(pictures, tmp_path):
    table = rd(pictures, CODECS, out=tmp_path / "r", anchor="jpeg").set_index("point")
    assert list(table["curve"]) == ["jpeg", "jpeg", "webp"]
    for point in CODECS:
        codec = cml.create_codec(point)
        want = {"bpp": 0.0, "psnr": 0.0, "ssim": 0.0, "ms_ssim": 0.0}
        for name in SIZES:
            x = cml.read_image(pictures / name)
            blob = codec.compress(x)
            x_hat = to_uint8(codec.decompress(blob))
            want["bpp"] += 8 * len(blob) / (176 * 200) / 2
            for measure in (psnr, ssim, ms_ssim):
                want[measure.__name__] += measure(x, x_hat, data_range=255) / 2
        for name, value in want.items():
            assert table.loc[point, name] == pytest.approx(value, rel=1e-6), (point, name)
        assert table.loc[point, "encode_mps"] > 0 and table.loc[point, "decode_mps"] > 0
    csv = pd.read_csv(tmp_path / "r.csv")
    assert tuple(csv.columns) == COLUMNS and len(csv) == 6 and set(csv["image"]) == set(SIZES)


def test_only_what_is_missing_is_measured(pictures, tmp_path, calls, monkeypatch):
    first = rd(pictures, CODECS[:1], out=tmp_path / "r", anchor="jpeg")
    assert len(calls) == 2
    # Killed in the middle of a line, then run with more codecs.
    file = tmp_path / "r.csv"
    file.write_bytes(file.read_bytes()[:-20])
    calls.clear()
    second = rd(pictures, CODECS, out=tmp_path / "r", anchor="jpeg")
    assert sorted(calls) == sorted([(CODECS[0], "deep/b.png"), *((p, n) for p in CODECS[1:] for n in SIZES)])
    assert list(second["bpp"])[:1] == list(first["bpp"]) and len(second) == 3
    calls.clear()
    rd(pictures, CODECS, out=tmp_path / "r", anchor="jpeg")
    assert not calls
    # Other contents under the same name are another measurement.
    other = tmp_path / "other"
    for seed, (name, size) in enumerate(SIZES.items()):
        cml.write_image(other / name, photo(size, 3, seed + 5 * (name == "a.png")))
    rd(other, CODECS, out=tmp_path / "r", anchor="jpeg")
    assert sorted(set(calls)) == sorted((point, "a.png") for point in CODECS)


def test_an_interrupt_keeps_what_is_finished(pictures, tmp_path, monkeypatch):
    original, count = rd_module._measure_one, 0

    def interrupted(*args):
        nonlocal count
        count += 1
        if count == 4:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(rd_module, "_measure_one", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rd(pictures, CODECS, out=tmp_path / "r", anchor="jpeg")
    assert len(Rows(tmp_path / "r.csv", Row).read()) == 3


def test_a_failure_is_named_and_the_rest_goes_on(pictures, tmp_path, monkeypatch):
    original = rd_module._measure_one

    def failing(plan, point, name, key, x):
        if point.codec.spec.name == CODECS[0] and name == "a.png":
            raise ValueError("no luck")
        return original(plan, point, name, key, x)

    monkeypatch.setattr(rd_module, "_measure_one", failing)
    table = rd(pictures, CODECS, out=tmp_path / "r", anchor="jpeg")
    assert table.attrs["failed"] == ["jpeg:quality=20 on a.png: ValueError: no luck"]
    assert list(table["point"]) == CODECS[1:]
    assert "no luck" in (tmp_path / "r.md").read_text()


def test_names_become_ladders_and_points_are_taken_as_given():
    points = points_of(["avif:speed=8", "jpeg:quality=3", "webp", "jpeg:quality=4", "identity", "rgb_f8c12:step=0.3"])
    curves = [point.curve for point in points]
    assert curves == ["avif:speed=8"] * 8 + ["jpeg"] * 2 + ["webp"] * 8 + ["identity", "rgb_f8c12"]
    assert all("speed=8" in point.codec.spec.name for point in points[:8])
    assert [point.codec.spec.name for point in points[8:10]] == ["jpeg:quality=3", "jpeg:quality=4"]
    assert len(points_of(["rgb_f8c48"])) == len(STEPS)
    assert curve_of("jpeg:quality=3,subsampling=4:4:4") == "jpeg:subsampling=4:4:4"


def test_the_report(pictures, tmp_path):
    table = rd(pictures, LADDER, out=tmp_path / "runs" / "r", printed=True)
    rates = rd_report.bd_rates(table, "jpeg2000").set_index("codec")
    assert list(rates.columns) == ["PSNR", "SSIM", "MS-SSIM"]
    assert rates.loc["jpeg2000", "PSNR"] == pytest.approx(0, abs=1e-9) and abs(rates.loc["jpeg", "PSNR"]) > 1
    text = (tmp_path / "runs" / "r.md").read_text()
    points = " ".join(f"-c {point}" for point in LADDER)
    assert f"cml rd {pictures} {points} -o {tmp_path / 'runs' / 'r'} --printed" in text
    for part in ("| jpeg | ", "WaLLoC f8c12 | 0.6171 | 30.56", "| WaLLoC (printed) | -27.6 |", "not the 24 pictures"):
        assert part in text
    assert (tmp_path / "runs" / "r.png").stat().st_size > 10_000
    without = rd(pictures, LADDER, out=tmp_path / "runs" / "r")
    assert "WaLLoC" not in (tmp_path / "runs" / "r.md").read_text() and len(without) == 8


def test_our_numbers_at_the_printed_ones():
    table = pd.DataFrame({"curve": ["x"] * 3, "bpp": [0.3, 0.6171, 1.2], "psnr": [27.0, 30.0, 30.56]})
    walloc = [row for row in KODAK if row.model == "WaLLoC"]
    at_rate, at_quality = rd_report.against_printed(table, walloc)
    assert list(at_rate["x"]) == pytest.approx([30.0, math.nan], nan_ok=True)
    assert list(at_quality["x"]) == pytest.approx([1.2, math.nan], nan_ok=True)


def test_the_authors_bd_rates_follow_from_their_rows():
    """The check of the typed numbers and of the method: they print -64.0 % for AVIF against their JPEG 2000."""
    rows = [row for row in KODAK if row.model == "AVIF"]
    table = pd.DataFrame({"curve": "avif", "bpp": [row.bpp for row in rows], "psnr": [row.psnr for row in rows]})
    got = rd_report.against_printed_anchor(table, KODAK).set_index("codec").loc["avif", "PSNR"]
    assert got == pytest.approx(-64.0, abs=1.5)


def test_kodak_is_known_by_its_sizes():
    assert is_kodak([(512, 768)] * 18 + [(768, 512)] * 6)
    assert not is_kodak([(512, 768)] * 24) and not is_kodak([(512, 768)] * 18)


def test_the_anchor_is_measured_too(pictures, tmp_path, calls):
    table = rd(pictures, CODECS[2:], out=tmp_path / "r", anchor="jpeg:quality=30")
    assert list(table["curve"]) == ["jpeg", "webp"]


def test_what_small_pictures_and_missing_packages_leave_out(tmp_path, monkeypatch):
    cml.write_image(tmp_path / "small" / "a.png", photo((40, 50)))
    table = rd(tmp_path / "small", CODECS, out=tmp_path / "r", anchor="jpeg")
    assert rd_report.measured(table) == ["psnr", "ssim"]
    assert [note.partition(":")[0] for note in table.attrs["notes"]] == ["MS-SSIM is left out"]
    # Without the optional packages: no jpegxl among the defaults, and PSNR alone.
    for name in ("piq", "imagecodecs"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    notes: list[str] = []
    assert "jpegxl" not in rd_module.default_codecs(notes) and "cml-toolkit[bench]" in notes[0]
    table = rd(tmp_path / "small", CODECS, out=tmp_path / "r", anchor="jpeg")
    assert rd_report.measured(table) == ["psnr"] and "piq" in table.attrs["notes"][0]


def test_perceptual_measures_are_left_out_with_a_sentence(pictures, tmp_path, monkeypatch):
    def missing(name):
        raise CmlError(f"{name} needs a file.")

    monkeypatch.setattr(rd_module, "load_perceptual", missing)
    table = rd(pictures, CODECS[:1], out=tmp_path / "r", anchor="jpeg", perceptual=True)
    assert table.attrs["notes"] == [f"{name} needs a file. It is left out." for name in ("LPIPS", "DISTS")]
    monkeypatch.setattr(rd_module, "load_perceptual", lambda name: lambda x, y: 7.5)
    table = rd(pictures, CODECS[:1], out=tmp_path / "r", anchor="jpeg", perceptual=True)
    assert list(table["lpips_db"]) == list(table["dists_db"]) == [7.5]


def test_bad_requests_get_a_sentence(pictures, tmp_path):
    cml.write_image(tmp_path / "deep" / "a.png", torch.full((1, 64, 64), 500, dtype=torch.uint16))
    for arguments, sentence in (
        ((tmp_path / "none", CODECS), "no folder"),
        ((pictures, ["jpgg"]), "did you mean jpeg"),
        ((pictures, ["rgb_f8c12", "gray_f8c4"]), "measure them apart"),
        ((tmp_path / "deep", ["gray_f8c4"]), "16 bits"),
    ):
        with pytest.raises(CmlError, match=sentence):
            rd(*arguments, out=tmp_path / "r", anchor="jpeg")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="not a table"):
        rd(pictures, CODECS, out=tmp_path / "other", anchor="jpeg")
    (tmp_path / "bad.csv").write_text(",".join(COLUMNS) + "\n1,2\n")
    with pytest.raises(DataError, match="line 2"):
        rd(pictures, CODECS, out=tmp_path / "bad", anchor="jpeg")


def test_what_steers_a_rate_is_not_in_the_name_of_a_curve():
    assert curve_of("vq:patch=4,codes=64") == curve_of("vq:patch=8,codes=256") == "vq"
    assert curve_of("jpeg:quality=5,subsampling=4:4:4") == "jpeg:subsampling=4:4:4"
    assert curve_of("compressai:mbt2018,quality=3,metric=ms-ssim") == "compressai:mbt2018:metric=ms-ssim"
