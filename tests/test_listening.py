"""The page to listen to: what is heard is what the codec did, and the site plays it."""

import io
import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from cml.eval import listening, spectrogram
from helpers import ROOT
from page_shot import browser, chromium
from PIL import Image

import cml
from cml.data.sound import read_sound, write_sound
from cml.errors import CmlError

RATE, SAMPLES = 8000, 4000
OURS = ("mono_f64c64:step=0.4", "mono_f64c64:step=0.1")


def clip(seed: int = 0) -> torch.Tensor:
    time = torch.arange(SAMPLES) / RATE
    noise = torch.randn(SAMPLES, generator=torch.Generator().manual_seed(seed))
    return (0.5 * torch.sin(2 * math.pi * (300 + 40 * seed) * time) * (1 - time) + 0.02 * noise)[None]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder of a page of two clips, made by the command."""
    folder = tmp_path_factory.mktemp("docs")
    sources = [folder / f"{name}.wav" for name in ("bell", "pad")]
    for number, source in enumerate(sources):
        # two channels, and longer than what is wanted
        write_sound(source, torch.cat([clip(number), clip(number)], 1).repeat(2, 1), RATE)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["listening", "bell.wav", "--about", "Bells & pads."])
        listening.main(
            sources, folder / "results" / "listening", "Bells & pads.", " ".join(OURS), "resample mp3", seconds=0.5
        )
    return folder


def rows(text: str, heading: str) -> list[list[str]]:
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines]


def test_rows_say_what_the_sounds_are(written):
    text = (written / "results" / "listening.md").read_text()
    assert "Bells & pads." in text and "python -m cml.eval.listening bell.wav --about 'Bells & pads.'\n" in text
    for name in ("bell", "pad"):
        table = rows(text, name)
        assert table[0][0] == "original" and len(table) == 1 + 2 + 2 + 1
        rates = [float(row[1]) for row in table[1:]]
        assert rates == sorted(rates) and float(table[0][1]) == 16 * RATE / 1000
        for place, row in enumerate(table):
            heard = read_sound(written / "results" / "listening" / f"{name}-{place}.flac")
            assert heard.rate == RATE and heard.samples.shape == (1, SAMPLES)
            wanted = read_sound(written / f"{name}.wav", channels=1).samples[:, :SAMPLES]
            if place:
                codec = cml.create_codec(row[0])
                blob = codec.compress(wanted)
                assert float(row[1]) == pytest.approx(8 * len(blob) * RATE / SAMPLES / 1000, rel=0.01)
                wanted = codec.decompress(blob)
            assert float((heard.samples - wanted).abs().max()) <= 2**-15
        assert {"mp3", "resample", "mono_f64c64"} == {row[0].split(":")[0] for row in table[1:]}


def test_rivals_come_as_near_as_they_can():
    original, *heard = listening.listen(clip(), RATE, OURS, ("resample", "opus"))
    assert math.isnan(original.si_sdr) and torch.equal(original.sound, clip())
    ours = sorted(each.kbps for each in heard if each.name.startswith("mono"))
    resampled = sorted(each.kbps for each in heard if each.name.startswith("resample"))
    opus = [each for each in heard if each.name.startswith("opus")]
    assert len(ours) == len(resampled) == 2 and len(opus) == 1 and f"rate={RATE}" in opus[0].name
    for mine, theirs in zip(ours, resampled, strict=True):
        whole = [8 * len(cml.create_codec("resample", factor=factor).compress(clip())) / 500 for factor in range(1, 65)]
        assert abs(theirs - mine) == pytest.approx(min(abs(rate - mine) for rate in whole))


def test_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(listening, "MOST", 20_000)
    with pytest.raises(CmlError, match="take fewer seconds"):
        listening.write({"a": (clip(), RATE)}, tmp_path / "page", "", "", ours=OURS[:1], rivals=("resample",))
    assert not any(tmp_path.iterdir())
    with pytest.raises(CmlError, match=r"failed: .*1 channel"):
        listening.listen(clip().repeat(2, 1), RATE, OURS, ())
    with pytest.raises(CmlError, match="one rate only"):
        listening.listen(clip(), RATE, OURS, ("flac",))


def test_pictures_have_axes_and_all_colours():
    with Image.open(io.BytesIO(listening._picture(clip(), RATE))) as picture:
        drawn = np.asarray(picture.convert("RGB"))
    assert (drawn.reshape(-1, 3) == 255).all(1).mean() > 0.1  # paper around the axes
    # the bar beside it has every colour of the map; its first and last may be under its frame
    assert all((drawn == colour).all(2).any() for colour in spectrogram.PALETTE[1:-1])


def test_the_site_plays_them(written):
    pytest.importorskip("playwright", reason="needs the package playwright")
    pytest.importorskip("mkdocs", reason="needs the package mkdocs")
    if chromium() is None:
        pytest.skip("needs Chromium (apt-get install chromium), or its path in CHROMIUM")
    (written / "results" / "README.md").write_text("# Results\n")
    site = written.parent / "site"
    (written.parent / "mkdocs.yml").write_text(
        f"site_name: x\ndocs_dir: {written}\nsite_dir: {site}\ntheme: {{name: mkdocs}}\nstrict: true\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "-f", str(written.parent / "mkdocs.yml")],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    page = site / "results" / "listening" / "index.html"
    with browser() as started:
        tab = started.new_page()
        tab.goto(page.as_uri())
        durations = tab.evaluate(
            """() => Promise.all([...document.querySelectorAll("audio")].map((node) => new Promise((done) => {
                 node.addEventListener("loadedmetadata", () => done(node.duration));
                 node.preload = "metadata";
                 node.load();
               })))"""
        )
        assert durations == pytest.approx([SAMPLES / RATE] * 12, abs=0.01)
        assert all(
            source.endswith(".flac")
            for source in tab.locator("audio").evaluate_all("all => all.map((n) => n.currentSrc)")
        )
        widths = tab.locator("td img").evaluate_all(
            "all => Promise.all(all.map((n) => n.decode().then(() => n.naturalWidth)))"
        )
        assert widths == [420] * 12
        links = tab.locator("td a").evaluate_all("all => all.map((n) => n.href)")
        assert all((page.parent / re.split("/", link)[-1]).exists() for link in links) and len(links) == 12
