"""Tables at equal rate, equal tokens and over whole curves, from results whose scores are known."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from cml.eval.report import summarize
from cml.eval.results import Result, Run
from cml.eval.tables import (
    anchor_of,
    bjontegaard,
    bundled_against_others,
    curves_of,
    markdown,
    rate_matched,
    token_matched,
    trained_on,
    write,
)

ITEMS = 400
BPP = {5: 0.1, 10: 0.2, 30: 0.4, 60: 0.8}


def cell(run, view, codec, bpp, right, seed=0, psnr=None, tokens=4):
    """A good result; its right items are the first ones, so that every better model is right where a worse one is."""
    key = f"{view}{codec}{seed}".translate(str.maketrans(":=,", "___"))
    run.save_items(key, {"correct": np.arange(ITEMS) < right})
    result = Result(
        key=key, view=view, codec=codec, seed=seed, status="ok", metrics={"accuracy": right / ITEMS}, bpp=bpp,
        psnr=psnr, tokens=tokens, train_ips=9, dimensions=100, stem_macs=5, backbone_macs=7, chance=0.1,
    )  # fmt: skip
    run.append(result)
    return result


@pytest.fixture
def finished(tmp_path):
    """JPEG gets 25 % to 55 % of the items, latents 10 % of the items more at half the rate; WebP has two points."""
    run = Run(tmp_path)
    results = [cell(run, "pixels", "identity", 8.0, 320, tokens=16), cell(run, "bigpatch", "identity", 8.0, 280)]
    for number, (quality, bpp) in enumerate(BPP.items()):
        right = 100 + 40 * number
        for seed in (0, 1):
            results.append(cell(run, "reconstruction", f"jpeg:quality={quality}", bpp, right, seed, 25 + 3 * number))
        results.append(cell(run, "latent", f"gray_f8c4:step={1 / 2**number}", bpp / 2, right + 40))
    for number, quality in enumerate((5, 50)):
        results.append(cell(run, "reconstruction", f"webp:quality={quality}", (0.1, 0.8)[number], 90, psnr=30 + number))
    return run, results


def row(frame, **wanted):
    (index,) = frame.index[np.logical_and.reduce([frame[key] == value for key, value in wanted.items()])]
    return frame.loc[index]


def test_curves_are_a_codec_in_a_view(finished):
    curves = curves_of(*finished)
    assert [(c.view, c.codec, len(c.rates)) for c in curves] == [
        ("reconstruction", "jpeg", 4), ("latent", "gray_f8c4", 4), ("reconstruction", "webp", 2),
    ]  # fmt: skip
    assert curves[0].scored.scores == pytest.approx([0.25, 0.35, 0.45, 0.55])
    anchor = anchor_of(curves[::-1])
    assert anchor is curves[0] and anchor_of(curves[1:]) is curves[1] and anchor_of([]) is None


def test_options_that_do_not_steer_the_rate_make_other_curves(tmp_path):
    run = Run(tmp_path)
    names = ["jpeg:quality=5", "jpeg:quality=5,subsampling=4:4:4", "jpeg:quality=9,subsampling=4:4:4", "gone_codec:x=1"]
    curves = curves_of(run, [cell(run, "reconstruction", name, 0.1, 9) for name in names])
    assert [(c.codec, len(c.rates)) for c in curves] == [("jpeg", 1), ("jpeg:subsampling=4:4:4", 2), ("gone_codec", 1)]


def test_at_equal_rate(finished):
    curves = curves_of(*finished)
    frame = rate_matched(curves, curves[0]).frame
    # 40 items more a doubling, from 35 % at 0.05 bpp: 45 % at 0.1 bpp, where JPEG has 25 %.
    gain = row(frame, bpp=0.1, codec="gray_f8c4")
    assert gain["score"] == pytest.approx(0.45) and gain["difference"] == pytest.approx(0.2)
    assert 0.15 < gain["difference_low"] < 0.2 < gain["difference_high"] < 0.25 and gain["difference_mark"] == "*"
    # Two points make a line: the one that WebP keeps is its first, so it has a score there only.
    assert row(frame, bpp=0.1, codec="webp")["difference"] == pytest.approx(90 / 400 - 0.25)
    jpeg = row(frame, bpp=0.4, codec="jpeg")
    assert jpeg["score"] == pytest.approx(0.45) and math.isnan(jpeg["difference"]) and jpeg["difference_mark"] == ""
    # At 0.05 and 0.8 bpp there is one curve, and nothing to compare it with.
    assert list(dict.fromkeys(frame["bpp"])) == [0.1, 0.2, 0.4]


def test_over_whole_curves(finished):
    curves = curves_of(*finished)
    frame = bjontegaard(curves, curves[0]).frame
    assert list(frame["codec"]) == ["gray_f8c4", "webp"]
    latent, webp = frame.loc[0], frame.loc[1]
    assert latent["bd_accuracy"] == pytest.approx(0.2) and latent["bd_accuracy_mark"] == "*"
    # 20 % more of the items at 10 % a doubling: a quarter of the rate.
    assert latent["bd_rate"] == pytest.approx(-75) and latent["bd_rate_high"] < 0
    assert math.isnan(latent["bd_rate_psnr"])
    assert math.isnan(webp["bd_accuracy"]) and "4 operating points" in webp["why_not"]


def test_bd_rate_of_psnr(tmp_path):
    run = Run(tmp_path)
    results = [
        cell(run, "reconstruction", f"{codec}:quality={quality}", bpp * factor, 50 + quality, psnr=25.0 + quality)
        for codec, factor in (("jpeg", 1), ("avif", 0.5))
        for quality, bpp in BPP.items()
    ]
    curves = curves_of(run, results)
    assert bjontegaard(curves, curves[0]).frame["bd_rate_psnr"].tolist() == pytest.approx([-50])


def test_at_equal_tokens(finished):
    run, results = finished
    named = token_matched(summarize(results, run, "accuracy"), "accuracy")
    frame = named.frame
    assert frame["tokens"].tolist() == [4] * 11 + [16] and frame["codec"].iloc[-1] == "identity"
    jpeg = row(frame, codec="jpeg:quality=60")
    assert (jpeg["gain"], jpeg["gain_mark"]) == (pytest.approx(-0.15), "*") and jpeg["accuracy_sd"] == 0
    same = row(frame, codec="gray_f8c4:step=0.125")
    assert same["gain"] == pytest.approx(-0.05) and same["gain_mark"] == "*"
    assert math.isnan(row(frame, view="bigpatch")["gain"])
    assert "bigpatch" in named.notes[1] and "per comparison" in named.notes[1]


def test_files_and_report(finished):
    run, results = finished
    write(run, summarize(results, run, "accuracy"), results, "accuracy")
    text = (run.folder / "tables" / "bd.csv").read_text()
    assert text.startswith("# Whole curves, against jpeg (reconstruction)\n# Against jpeg")
    frame = pd.read_csv(run.folder / "tables" / "bd.csv", comment="#")
    assert frame["bd_accuracy"].tolist()[0] == pytest.approx(0.2)
    pairs = pd.read_csv(run.folder / "tables" / "bd_pairs.csv", comment="#", index_col=0)
    assert pairs.loc["gray_f8c4 (latent)", "jpeg (reconstruction)"] == "+0.2000*"
    assert pairs.loc["jpeg (reconstruction)", "gray_f8c4 (latent)"] == "-0.2000*"
    assert pairs.isna().to_numpy().diagonal().all()
    lines = markdown(run.folder)
    assert [line.removeprefix("## ") for line in lines if line.startswith("## ")] == [
        "At equal rate",
        "Whole curves, against jpeg (reconstruction)",
        "Whole curves, each against each other",
        "At equal tokens",
    ]
    (cells,) = [line for line in lines if line.startswith("| latent | gray_f8c4 | +0.2 [")]
    assert "]*" in cells


def test_a_run_without_curves_has_no_such_table(tmp_path):
    run = Run(tmp_path)
    results = [cell(run, "bigpatch", "identity", 8.0, 320)]
    write(run, summarize(results, run, "accuracy"), results, "accuracy")
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["token_matched.csv"]
    write(run, summarize([], run), [], "accuracy")


def test_bundled_codecs_against_the_others(finished):
    run, results = finished
    for number, bpp in enumerate((0.1, 0.2, 0.4, 0.8)):
        results.append(cell(run, "reconstruction", f"gray_f8c16:step={1 / 2**number}", bpp, 120 + 40 * number))
    table = bundled_against_others(curves_of(run, results)).frame
    ours = row(table, codec="gray_f8c16", against="jpeg")
    assert ours["bd_accuracy"] == pytest.approx(0.05) and ours["bd_accuracy_mark"] == "*"
    assert "webp" not in set(table["against"]) and set(table["codec"]) == {"gray_f8c16"}


def test_trained_on_originals_or_on_decoded_pictures(finished):
    run, results = finished
    again = cell(run, "retrained", "jpeg:quality=10", 0.2, 220)
    again = replace(again, metrics={**again.metrics, "on_originals": 0.65})
    table = summarize([*results, again], run, "accuracy")
    (only,) = trained_on(table, "accuracy").frame.to_dict("records")
    assert only["codec"] == "jpeg:quality=10" and only["originals_on_originals"] == 0.7
    assert (only["originals_on_decoded"], only["decoded_on_decoded"], only["decoded_on_originals"]) == (
        0.35,
        0.55,
        0.65,
    )
    assert only["loss"] == pytest.approx(-0.35) and only["loss_retrained"] == pytest.approx(-0.15)
    assert only["loss_retrained_mark"] == "*"
    assert not len(trained_on(summarize(results, run, "accuracy"), "accuracy").frame)
