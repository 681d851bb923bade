"""The command line as a person uses it: in a process of its own."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from command_line import run
from helpers import photo
from PIL import Image
from typer.testing import CliRunner

import cml
from cml import cli
from cml.errors import CmlError

COMMANDS = ["", "compare", "report", "rd", "bench", "encode", "decode", "info", "export", "fit", "data", "list"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    result = CliRunner().invoke(cli.app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0 and "Usage" in result.output


@pytest.mark.parametrize("size", [(1, 1), (3, 300), (64, 64), (101, 67)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_encode_info_decode(tmp_path, size, mode):
    x = photo(size, 1 if mode == "L" else 3)
    cml.write_image(tmp_path / "photo.png", x.float() / 127.5 - 1)
    assert "bpp" in run("encode", tmp_path / "photo.png", "-o", tmp_path / "photo.cml")
    text = run("info", tmp_path / "photo.cml")
    assert ("gray_f8c16" if mode == "L" else "rgb_f8c48") in text and "ctx" in text and str(size[0]) in text
    run("decode", tmp_path / "photo.cml", "-o", tmp_path / "back.png")
    assert cml.read_image(tmp_path / "back.png").shape == x.shape


def test_16_bits_come_back_as_16_bits(tmp_path):
    deep = np.linspace(2000, 60000, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    run("encode", tmp_path / "deep.png", "-o", tmp_path / "deep.cml", "-c", "gray_f8c16:step=0.01")
    run("decode", tmp_path / "deep.cml", "-o", tmp_path / "back.png")
    back = cml.read_image(tmp_path / "back.png")
    assert back.dtype == torch.uint16
    assert np.abs(back[0].numpy().astype(float) - deep).mean() < 300


def test_conventional_codecs_write_their_own_files(tmp_path):
    cml.write_image(tmp_path / "a.png", photo((20, 30)).float() / 127.5 - 1)
    for codec, name in (("jpeg:quality=40", "a.jpg"), ("webp", "a.webp"), ("avif", "a.avif"), ("jpeg2000", "a.j2k")):
        run("encode", tmp_path / "a.png", "-o", tmp_path / name, "-c", codec)
        with Image.open(tmp_path / name) as picture:
            assert picture.size == (30, 20)
        assert "(3, 20, 30)" in run("info", tmp_path / name)
        run("decode", tmp_path / name, "-o", tmp_path / "back.png")


def test_jpeg_xl_files(tmp_path):
    cml.write_image(tmp_path / "in" / "a.png", photo((20, 30)).float() / 127.5 - 1)
    run("encode", tmp_path / "in", "-o", tmp_path / "out", "-c", "jpegxl:quality=90")
    assert (tmp_path / "out" / "a.jxl").read_bytes()[:2] == b"\xff\x0a"
    assert "(3, 20, 30)" in run("info", tmp_path / "out" / "a.jxl")
    assert "1 of 1" in run("decode", tmp_path / "out", "-o", tmp_path / "back")
    assert cml.read_image(tmp_path / "back" / "a.png").shape == (3, 20, 30)


def test_encode_to_a_rate_or_a_size(tmp_path):
    cml.write_image(tmp_path / "in" / "a.png", photo((96, 128)))
    for codec in ("rgb_f8c48", "jpeg", "jpegxl"):
        run("encode", tmp_path / "in" / "a.png", "-o", tmp_path / "a.bin", "-c", codec, "--max-bytes", 1800)
        assert 1600 < (tmp_path / "a.bin").stat().st_size <= 1800
    run("encode", tmp_path / "in" / "a.png", "-o", tmp_path / "a.cml", "--bpp", 1)
    assert 1400 < (tmp_path / "a.cml").stat().st_size < 1700
    assert "1 of 1" in run("encode", tmp_path / "in", "-o", tmp_path / "out", "--bpp", 1)
    assert (tmp_path / "out" / "a.cml").read_bytes() == (tmp_path / "a.cml").read_bytes()


def test_rd_prints_tables_and_says_what_failed(tmp_path, monkeypatch):
    cml.write_image(tmp_path / "in" / "a.png", photo((64, 80)))
    points = [part for quality in (10, 30, 60, 90) for part in ("-c", f"jpeg:quality={quality}")]
    text = run("rd", tmp_path / "in", *points, "-o", tmp_path / "r", "--anchor", "jpeg")
    for part in ("jpeg:quality=60", "BD-rate against jpeg", "MS-SSIM is left out", "r.md"):
        assert part in text
    assert "4 done before" in run("rd", tmp_path / "in", *points, "-o", tmp_path / "r", "--anchor", "jpeg")

    def broken(*arguments):
        raise CmlError("It rains.")

    monkeypatch.setattr("cml.eval.rd._measure_one", broken)
    text = run("rd", tmp_path / "in", *points, "-c", "webp:quality=3", "-o", tmp_path / "r", expect=1)
    assert "failed: webp:quality=3 on a.png: It rains." in text


def test_folders(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    cml.write_image(tmp_path / "in" / "a.png", photo((20, 30)).float() / 127.5 - 1)
    cml.write_image(tmp_path / "in" / "deep" / "b.png", photo((9, 9), 1).float() / 127.5 - 1)
    assert "2 of 2" in run("encode", tmp_path / "in", "-o", tmp_path / "out")
    assert "2 of 2" in run("decode", tmp_path / "out", "-o", tmp_path / "back")
    assert cml.read_image(tmp_path / "back" / "deep" / "b.png").shape == (1, 9, 9)
    (tmp_path / "in" / "bad.png").write_text("no picture")
    text = run("encode", tmp_path / "in", "-o", tmp_path / "out", expect=2)
    assert "2 of 3" in text and "bad.png" in text
    cml.write_image(tmp_path / "in" / "a.bmp", photo((20, 30)).float() / 127.5 - 1)
    assert "would become" in run("encode", tmp_path / "in", "-o", tmp_path / "out", expect=2)


def test_fit_and_use_by_path(tmp_path):
    for number in range(6):
        (tmp_path / "photos").mkdir(exist_ok=True)
        cml.write_image(tmp_path / "photos" / f"{number}.png", photo((80, 96), 3, number).float() / 127.5 - 1)
    mine = tmp_path / "mine"
    assert "fingerprint" in run("fit", tmp_path / "photos", "--channels", 8, "--levels", 2, "-o", mine)
    photo_file = tmp_path / "photos" / "0.png"
    run("encode", photo_file, "-o", tmp_path / "0.cml", "-c", f"{mine}:step=0.2")
    assert "8" in run("info", mine)
    # A codec made on another machine is not known here by its fingerprint: its folder must be named.
    other = [sys.executable, "-m", "cml", "decode", str(tmp_path / "0.cml"), "-o", str(tmp_path / "back.png")]
    refused = subprocess.run(other, capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "not bundled" in refused.stderr and "Traceback" not in refused.stderr
    subprocess.run([*other, "--codec", str(mine)], check=True, capture_output=True)
    assert cml.read_image(tmp_path / "back.png").shape == (3, 80, 96)


def test_list():
    text = run("list")
    for name in ("rgb_f8c48", "jpeg2000", "elpv", "classification", "bigpatch", "timm"):
        assert name in text
    assert "jpeg" not in run("list", "rgb_*").split("data sets")[0]


def test_list_shows_a_codec_whose_package_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    text = run("list")
    assert "jpegxl" in text and "cml-toolkit" in text and "webp" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["encode", "none.png", "-o", "x.cml"], "no file none.png"),
        (["decode", "none.cml", "-o", "x.png"], "Cannot read none.cml"),
        (["info", "nothing"], "Unknown codec 'nothing'"),
        (["info", "jpgg"], "did you mean jpeg"),
        (["compare", "--data", "folder:nowhere"], "none at 'nowhere'"),
        (["compare", "--task", "classify"], "did you mean classification"),
        (["compare", "--codecs", "gray_f8c4:step=x"], "positive number"),
        (["fit", "nowhere", "-o", "x"], "no folder nowhere"),
        (["rd", "nowhere", "-o", "x"], "no folder nowhere"),
        (["encode", "a.png", "-o", "x", "--bpp", "1", "--max-bytes", "9"], "give one of them"),
        (["nonsense"], "No such command"),
        (["encode"], "Missing argument"),
    ],
)
def test_errors_are_one_sentence_and_exit_code_2(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = run(*arguments, expect=2)
    assert sentence in text and "Traceback" not in text


def test_compare_prints_the_table(picture_folder, tmp_path):
    arguments = [
        "--data",
        f"folder:{picture_folder}",
        "--size",
        32,
        "--epochs",
        1,
        "--codecs",
        "gray_f8c16 jpeg:quality=20",
    ]
    text = run("compare", *arguments, "--out", tmp_path / "r")
    assert "pixels" in text and "latent" in text and "report.md" in text


def test_nothing_is_written_over_its_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cml.write_image("a.png", photo((20, 30)))
    (tmp_path / "photos").mkdir()
    Image.fromarray(photo((20, 30))[0].numpy()).save("photos/b.jpg")
    original = (tmp_path / "photos" / "b.jpg").read_bytes()
    assert "is the input" in run("encode", "a.png", "-o", "a.png", expect=2)
    assert "is the input" in run("encode", "photos", "-o", "photos", "-c", "jpeg:quality=5", expect=2)
    assert (tmp_path / "photos" / "b.jpg").read_bytes() == original
    assert "holds something else" in run("fit", "photos", "-o", ".", expect=2)


def test_fit_names_its_folder_and_checks_its_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cml.write_image("photos/a.png", photo((200, 200)))
    run("fit", "photos", "--channels", 4, "--levels", 2)
    assert cml.create_codec("./photos_f4c4").spec.latent_channels == 4
    for arguments, sentence in (
        (["--levels", 10], "fewer levels"), (["--levels", -1], "0 or more"), (["--step", 0], "positive number"),
    ):  # fmt: skip
        assert sentence in run("fit", "photos", "-o", "x", *arguments, expect=2)
