"""Sound in reports: spectrograms, players of clips and stems, and the page of a run in a real browser."""

import inspect
import io
import json
import math
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
import torch
from cml.eval import answers, gallery, page, sound_answers, sound_gallery, spectrogram
from cml.eval.sound_protocols import SeparationTask
from cml.tasks.base import Sounds, Task
from cml.tasks.sound_measures import si_sdr
from page_run import SAMPLES, SAMPLING_RATE, SOUND_RATES, make_run
from page_shot import browser, chromium
from PIL import Image

import cml
from cml.data.sound import read_sound

STEMS = ("drums", "bass")
PICTURE = (96, -(-SAMPLES // -(-SAMPLES // 320)) - 1)
"""Rows and columns of a spectrogram of a whole clip."""


def tone(hertz: float, samples: int = SAMPLES, rate: int = SAMPLING_RATE, peak: float = 0.5) -> torch.Tensor:
    time = torch.arange(samples) / rate
    return peak * torch.sin(2 * math.pi * hertz * time)[None]


def music(seed: int, samples: int = SAMPLES) -> torch.Tensor:
    """A chord that dies away, and some noise."""
    noise = torch.randn(1, samples, generator=torch.Generator().manual_seed(seed))
    chord = sum(tone(hertz * (1 + seed / 8), samples) for hertz in (220, 330, 440))
    return (chord * torch.linspace(1, 0, samples) + 0.02 * noise) / 2


class Clips:
    """As much of a task on sound as the gallery asks for."""

    size, rate, channels, main_score = (SAMPLES,), SAMPLING_RATE, 1, "accuracy"

    def signal(self, split, index):
        return music(index)

    def labels(self, split):
        return torch.tensor([0, 1, 1])


def clips() -> Any:
    return Clips()


def mixtures() -> Any:
    """A task that takes sound apart, as far as its looks go."""
    bases = [vars(base) for base in inspect.getmro(SeparationTask)[:-1]]
    names = {name for base in bases for name in (*base, *base.get("__annotations__", {})) if name[0] != "_"}
    return type("Mixtures", (Clips,), {name: "" for name in names - set(dir(Clips))})()


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def stored(path) -> torch.Tensor:
    return read_sound(path).samples


def same(sound: torch.Tensor, wanted: torch.Tensor, parts: int = 1) -> bool:
    """Equal but for the rounding to 16 bits, of a sum that of its parts too."""
    return sound.shape == wanted.shape and float((sound - wanted).abs().max()) <= parts * 2**-16 + 1e-7


def loudest_row(hertz: float, rate: int) -> int:
    colours = spectrogram.levels(tone(hertz, rate, rate, 1.0), rate)
    row, column = np.unravel_index(colours.argmax(), colours.shape)
    assert colours[row, column] == colours.max() == -spectrogram.FLOOR // 3  # a full-scale sine is 0 dB
    return int(row)


@pytest.mark.parametrize("rate", [8000, 44100, 96000])
def test_a_sine_lies_beside_its_tick(rate):
    rows = spectrogram.SIZE[0]
    for text, place in spectrogram.ticks(rate):
        assert abs(rows * (1 - place) - loudest_row(1000 * float(text), rate)) <= 2
    height, width = spectrogram.levels(tone(1000, rate, rate), rate).shape
    assert height == rows and spectrogram.SIZE[1] - 2 <= width <= spectrogram.SIZE[1]


def test_level_and_silence():
    full, quiet = (spectrogram.levels(tone(1000, peak=peak), SAMPLING_RATE).max() for peak in (1.0, 0.1))
    assert abs((int(full) - int(quiet)) * 3 - 20) <= 3  # dB
    assert spectrogram.levels(torch.zeros(2, 5000), 44100).max() == 0
    assert spectrogram.levels(torch.ones(1, 1), 44100).shape == (96, 1)
    long = spectrogram.levels(tone(1000, 2**19), SAMPLING_RATE)
    assert long.shape == spectrogram.SIZE and len(set(long.argmax(0))) == 1
    picture = pixels(spectrogram.png(tone(1000), SAMPLING_RATE))
    assert picture.shape == PICTURE and len(spectrogram.colours()) == 7


def test_clips_are_kept_without_loss(tmp_path, monkeypatch):
    codecs = [
        cml.create_codec(name) for name in ("identity:ndim=1", "mono_f64c64", "resample:factor=4", "identity:ndim=1")
    ]
    broken = cml.create_codec("resample:factor=2")
    monkeypatch.setattr(broken, "_compress", lambda *_: 1 / 0)
    (tmp_path / "old.flac").write_bytes(b"")
    gallery.keep(clips(), [*codecs, broken], tmp_path)
    index = json.loads((tmp_path / gallery.INDEX).read_text())
    assert index["rate"] == SAMPLING_RATE and not (tmp_path / "old.flac").exists()
    first = index["clips"][0]
    assert [clip["index"] for clip in index["clips"]] == [1, 0] and first["label"] == 1
    assert first["shown"] == first["seconds"] == SAMPLES / SAMPLING_RATE
    ours, resampled, failed = first["codecs"]
    x = music(1)
    blob = codecs[1].compress(x)
    decoded = codecs[1].decompress(blob)
    assert same(stored(tmp_path / first["file"]), x) and same(stored(tmp_path / ours["file"]), decoded)
    assert ours["kbps"] == pytest.approx(8 * len(blob) / 0.75 / 1000)
    assert ours["si_sdr"] == pytest.approx(si_sdr(x, decoded)) and not resampled["lossless"]
    assert pixels((tmp_path / ours["latent"]).read_bytes()).shape == (64, -(-SAMPLES // 64))
    assert pixels((tmp_path / ours["spectrogram"]).read_bytes()).shape == PICTURE
    assert "latent" not in index["clips"][1]["codecs"][0]
    assert "division by zero" in failed["error"] and "file" not in failed


def test_long_clips_are_cut_to_what_a_page_has_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(sound_gallery, "LONGEST", 0.7)
    monkeypatch.setattr(sound_gallery, "SHORTEST", 0.2)
    monkeypatch.setattr(sound_gallery, "BUDGET", 120_000)
    sizes = {}
    for name, task in (("sounds", clips()), ("stems", mixtures())):
        gallery.keep(task, [cml.create_codec("flac:rate=8000")], tmp_path / name)
        clip = json.loads((tmp_path / name / gallery.INDEX).read_text())["clips"][0]
        heard = stored(tmp_path / name / clip["file"])
        assert same(heard, music(1)[:, : round(clip["shown"] * SAMPLING_RATE)]) and clip["codecs"][0]["lossless"]
        sizes[name] = clip["shown"], clip["label"]
    # with stems to hear as well there is less room, and a number is no class
    assert sizes["sounds"] == (0.7, 1) and 0.2 <= sizes["stems"][0] < 0.6 and sizes["stems"][1] is None


def test_many_channels_are_heard_by_their_first():
    files: dict[str, bytes] = {}
    scene = torch.stack([tone(200.0 * (n + 1))[0] for n in range(4)])
    names = sound_gallery.add_sound(files, "scene", scene, SAMPLING_RATE)
    assert same(stored(files[names["file"]]), scene[:1])
    names = sound_gallery.add_sound(files, "stereo", scene[:2], SAMPLING_RATE)
    assert same(stored(files[names["file"]]), scene[:2])


def test_the_picture_has_every_codec(tmp_path):
    names = ["mono_f64c64:step=0.3", "mono_f64c64:step=0.1", "resample:factor=4", "flac:rate=8000"]
    codecs = [cml.create_codec(name) for name in ("identity:ndim=1", *names)]
    table = pd.DataFrame({"view": "reconstruction", "codec": names, "bpp": [0.5, 1.0, 2.0, 9.0]})
    gallery.draw(clips(), codecs, table, tmp_path / "gallery.png")
    with Image.open(tmp_path / "gallery.png") as picture:
        assert picture.width > picture.height > 100  # original, ours, resampled, flac: two rows of three
    steered = sound_gallery._steered(codecs[1], music(1), 1.5)
    assert 8 * len(steered.compress(music(1))) / SAMPLES == pytest.approx(1.5, rel=0.05)
    assert sound_gallery._steered(codecs[-1], music(1), 1.5) is codecs[-1]


def stems_of(run, louder: float = 1.0) -> Sounds:
    """Two stems that sound together in the last second only; the answers have some of the other stem."""
    truth = torch.zeros(1, 2, 1, 5 * SAMPLING_RATE)
    truth[0, 0, :, :] = 0.4 * tone(300, truth.shape[-1])
    truth[0, 1, :, 4 * SAMPLING_RATE :] = 0.4 * tone(900, SAMPLING_RATE)
    answer = truth + 0.1 * louder * truth.flip(1)
    return Sounds(truth, answer, [7], STEMS, SAMPLING_RATE)


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """A run on sound with clips and answers, and its page."""
    folder = tmp_path_factory.mktemp("sounds")
    run = make_run(folder, SOUND_RATES, sound=True)
    codecs = [cml.create_codec(name) for name in ("resample:factor=4", "mono_f256c16", "mono_f64c64")]
    gallery.keep(clips(), codecs, folder / "gallery")
    results = [result for result in run.results().values() if result.status == "ok"]
    for result in results:
        if result.view in ("bigpatch", "latent"):
            answers.keep(run, result.key, stems_of(run, louder=1 if result.view == "latent" else 3))
    table = pd.DataFrame([{"view": r.view, "codec": r.codec, "bpp": r.bpp} for r in results]).drop_duplicates()
    task = cast(Task, clips())
    answers.draw(run, task, table, results, folder / "answers.png")
    return page.write(folder)


def test_answers_are_an_excerpt_where_all_stems_sound(heard):
    said = json.loads((heard.parent / "answers" / sound_answers.INDEX).read_text())
    assert (
        said["start"] == 2 and said["index"] == 7 and said["shown"] == 3
    )  # the only start with all of the last second
    assert [(each["view"], each["codec"]) for each in said["conditions"]] == [
        ("latent", "mono_f256c16:step=3"), ("bigpatch", "identity:ndim=1"),
    ]  # fmt: skip
    folder, whole = heard.parent / "answers", stems_of(None)
    truth = whole.truth[0][..., 2 * SAMPLING_RATE :]
    assert same(stored(folder / said["mixture"]["file"]), truth.sum(0), parts=3)
    for number in range(2):
        assert same(stored(folder / said["stems"][number]["file"]), truth[number])
        answer = said["conditions"][0]["stems"][number]
        assert same(stored(folder / answer["file"]), whole.answer[0, number][..., 2 * SAMPLING_RATE :])
        assert answer["si_sdr"] == pytest.approx(
            si_sdr(truth[number], whole.answer[0, number, :, 2 * SAMPLING_RATE :]), abs=0.1
        )
    assert said["conditions"][0]["kbps"] == pytest.approx(0.6 * SAMPLING_RATE / 1000)
    assert (heard.parent / "answers.png").stat().st_size > 5000


def test_loud_and_silent_stems_are_kept(tmp_path):
    loud = stems_of(None)
    truth = torch.cat([4 * loud.truth, torch.zeros_like(loud.truth[:, :1])], 1)
    sounds = Sounds(truth, 3 * truth, [0], (*STEMS, "winds"), SAMPLING_RATE)
    sound_answers.keep(tmp_path / "loud.npz", sounds)
    about, excerpt = sound_answers._read(tmp_path / "loud.npz")
    loudest = float(truth.sum(1).abs().max())
    assert excerpt.truth.shape == (3, 1, 3 * SAMPLING_RATE) and about["names"] == [*STEMS, "winds"]
    assert float(excerpt.truth.sum(0).abs().max()) == pytest.approx(1, abs=0.01) and loudest > 1
    assert float(excerpt.answer.max()) <= 1 and not excerpt.answer[2].any()


def test_stems_of_two_channels_become_one_and_a_small_page_has_fewer_conditions(tmp_path, monkeypatch):
    run = make_run(tmp_path, SOUND_RATES, sound=True)
    whole = stems_of(None)
    noise = 0.1 * torch.randn(whole.truth.shape, generator=torch.Generator().manual_seed(0))
    stereo = torch.cat([whole.truth, 0.5 * whole.truth], 2), torch.cat([noise, 0.5 * noise], 2)
    cells = [result for result in run.results().values() if result.status == "ok" and result.seed == 0][:3]
    files = {cell.key: tmp_path / f"{cell.key}.npz" for cell in cells}
    for path in files.values():
        sound_answers.keep(path, Sounds(*stereo, [0], STEMS, SAMPLING_RATE))
    _, excerpt = sound_answers._read(files[cells[0].key])
    assert same(excerpt.truth[:, 0], 0.75 * whole.truth[0, :, 0, 2 * SAMPLING_RATE :])
    assert same(excerpt.answer[:, 0], 0.75 * noise[0, :, 0, 2 * SAMPLING_RATE :])
    table = pd.DataFrame([{"view": cell.view, "codec": cell.codec, "bpp": 1.0} for cell in cells])
    told = {}
    for budget in (1_900_000, 275_000, 100_000):
        monkeypatch.setattr(sound_answers, "BUDGET", budget)
        sound_answers.draw(files, cells, table, "accuracy", tmp_path / "answers.png", tmp_path / "answers")
        said = json.loads((tmp_path / "answers" / sound_answers.INDEX).read_text())
        told[budget] = len(said["conditions"]), said["shown"]
    assert told[1_900_000] == (3, 3.0) and told[275_000][0] == 2 and 1.5 <= told[275_000][1] < 3
    assert told[100_000][0] == 1 and 0.5 <= told[100_000][1] < 1.5


def test_every_view_is_heard_before_a_second_of_one(tmp_path):
    run = make_run(tmp_path, SOUND_RATES | {"mono_f64c64": (0.1,)}, seeds=1, sound=True)
    cells = [result for result in run.results().values() if result.status == "ok"]
    cells.sort(key=lambda cell: ("latent", "bigpatch", "reconstruction", "waveform").index(cell.view))
    ordered = sound_answers._in_order(cells, "accuracy")
    assert [cell.view for cell in ordered[:4]] == ["latent", "bigpatch", "reconstruction", "waveform"]
    latents = [cell.metrics["accuracy"] for cell in ordered if cell.view == "latent"]
    assert len(latents) == 4 and latents == sorted(latents, reverse=True) and len(ordered) == len(cells)


@pytest.fixture(scope="module")
def chrome():
    pytest.importorskip("playwright", reason="needs the package playwright")
    if chromium() is None:
        pytest.skip("needs Chromium (apt-get install chromium), or its path in CHROMIUM")
    with browser() as started:
        yield started


@pytest.fixture
def tab(chrome, heard):
    """The page, opened; at the end nothing was fetched and nothing went wrong."""
    opened = chrome.new_page(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(heard.as_uri())
    opened.wait_for_selector("#gallery audio")
    yield opened
    assert not complaints
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [heard.as_uri()]
    opened.close()


DURATIONS = """selector => Promise.all([...document.querySelectorAll(selector)].map((node) =>
  new Promise((done, fail) => {
    const tell = () => done(node.duration);
    if (node.readyState) tell();
    node.addEventListener("loadedmetadata", tell);
    node.addEventListener("error", () => fail(node.error.message));
  })))"""
WIDTHS = "nodes => Promise.all(nodes.map((node) => node.decode().then(() => [node.naturalHeight, node.naturalWidth])))"


def test_players_play_what_their_pictures_show(tab):
    durations = tab.evaluate(DURATIONS, "#gallery audio")
    assert len(durations) == 4 and durations == pytest.approx([SAMPLES / SAMPLING_RATE] * 4, abs=0.01)
    assert tab.locator("#gallery .picture img").evaluate_all(WIDTHS) == [list(PICTURE)] * 4
    text = tab.inner_text("#gallery")
    assert "frequency, kHz" in text and "time, s" in text and "0 dB, a full-scale sine" in text and "−90 dB" in text
    said = tab.locator("#gallery .said").all_inner_texts()
    assert said[0].startswith("original") and all("kbit/s" in each and "SI-SDR" in each for each in said[1:])
    rates = [float(each.split("kbit/s")[0].split()[-1]) for each in said[1:]]
    assert rates == sorted(rates)
    before = tab.locator("#gallery audio").first.get_attribute("src")
    tab.locator("#gallery select").select_option("1")
    assert tab.locator("#gallery audio").first.get_attribute("src") != before
    assert tab.evaluate(DURATIONS, "#gallery audio") == pytest.approx([SAMPLES / SAMPLING_RATE] * 4, abs=0.01)
    assert tab.locator("#gallery .sheets img").evaluate_all(WIDTHS) == [
        [16, -(-SAMPLES // 256)],
        [64, -(-SAMPLES // 64)],
    ]


def test_one_player_at_a_time_and_a_click_goes_there(tab):
    first, second = (f"document.querySelectorAll('#gallery audio')[{n}]" for n in range(2))
    tab.locator("#gallery .picture").first.click(position={"x": 100, "y": 20})
    width = tab.locator("#gallery .picture").first.bounding_box()["width"]
    assert tab.evaluate(f"{first}.currentTime") == pytest.approx(100 / width * 0.75, abs=0.02)
    # a machine without loudspeakers may never get on, so what counts is the wish to play
    start = "node => new Promise((done) => { node.addEventListener('play', done); node.play().catch(() => {}); })"
    tab.evaluate(f"({start})({first})")
    assert not tab.evaluate(f"{first}.paused")
    tab.evaluate(f"({start})({second})")
    assert tab.evaluate(f"{first}.paused") and not tab.evaluate(f"{second}.paused")


def test_stems_have_players(tab):
    durations = tab.evaluate(DURATIONS, "#answers audio")
    assert durations == pytest.approx([3.0] * (1 + 2 * 3), abs=0.01)
    assert tab.locator("#answers h3").all_inner_texts() == list(STEMS)
    said = tab.locator("#answers .said").all_inner_texts()
    # the other stem sounds in one of three seconds, and a tenth of it is left: 10 log10(3) and 20 dB
    assert "the mixture's SI-SDR is 4.8 dB" in said[1] and "Answers" in tab.inner_text("#nav")
    assert "4.80 kbit/s" in said[2] and "SI-SDR 24.8 dB, 20.0 dB above the mixture's" in said[2]


def test_a_page_of_sound_speaks_of_sound(tab, heard):
    content = page.payload(page.Run(heard.parent))
    row = next(row for row in content["rows"] if row["view"] == "latent")
    assert row["kbps"] == pytest.approx(row["bpp"] * SAMPLING_RATE / 1000)
    shown = {column["key"]: column for column in content["columns"] if column["shown"]}
    assert shown["kbps"]["label"] == "kbit/s" and shown["encode_mps"]["label"] == "encode MS/s" and "bpp" not in shown
    assert ["size", "0.75 s, 6000 samples at 8 kHz, before any codec"] in content["facts"]
    assert "waveform" in content["findings"][0]["detail"] and "kbit/s" in content["findings"][0]["detail"]
    assert tab.locator("#chart-rate .axes").text_content().count("kbit/s") == 1
    assert tab.locator("#chart-rate g.reference.waveform line").count() == 1
    assert "test clips" in tab.inner_text("#table") and "pictures" not in tab.inner_text("main").lower()
    assert heard.stat().st_size < 3_000_000
    tab.set_viewport_size({"width": 320, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 320
