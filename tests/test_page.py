"""The page of a run, in a real browser: charts, table, pictures, downloads, colours, a phone, no network."""

import csv
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from cml.eval import page
from cml.eval.page_findings import findings
from cml.eval.report import PICTURES
from cml.eval.results import Run
from helpers import photo
from page_run import ITEMS, RATES, add_gallery, make_run
from page_shot import browser, chromium
from PIL import Image
from typer.testing import CliRunner

from cml import cli
from cml.errors import DataError

CODED = sum(map(len, RATES.values()))  # operating points
LATENT = len(RATES["rgb_f8c12"])


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    add_gallery(folder)
    return page.write(folder)


@pytest.fixture(scope="module")
def chrome():
    pytest.importorskip("playwright", reason="needs the package playwright")
    if chromium() is None:
        pytest.skip("needs Chromium (apt-get install chromium), or its path in CHROMIUM")
    with browser() as started:
        yield started


@pytest.fixture
def tab(chrome, report):
    """The page, opened; at the end nothing was fetched and nothing went wrong."""
    opened = chrome.new_page(viewport={"width": 1200, "height": 900}, color_scheme="light", reduced_motion="reduce")
    complaints, requests = [], []
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(report.as_uri())
    opened.wait_for_selector("#chart-front svg")
    yield opened
    assert not complaints
    assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [report.as_uri()]
    opened.close()


def count(tab, selector):
    return tab.locator(selector).count()


def first_column(tab, number=2):
    return tab.locator(f"#table tbody tr > :nth-child({number})").all_inner_texts()


def test_charts_show_every_condition(tab):
    both = CODED + LATENT
    assert count(tab, "#chart-rate .point") == both  # the originals are lines across
    assert tab.locator("#chart-rate g.reference text").first.text_content().startswith("pixels 0.")
    assert count(tab, "#chart-rate g.reference line") == 2
    assert count(tab, "#chart-rate .line") == len(RATES) + 1
    assert count(tab, "#chart-rate .whisker") == both
    assert count(tab, "#chart-distortion .point") == CODED
    assert count(tab, "#chart-speed .point") == both + 2
    assert count(tab, "#chart-dimension .point") == LATENT + 2  # not the decoded pictures
    assert count(tab, "#chart-front .point") == both + 2
    paths = tab.locator("#chart-rate .line").evaluate_all("nodes => nodes.map((n) => n.getAttribute('d'))")
    assert all(re.fullmatch(r"M[\d.]+,[\d.]+(L[\d.]+,[\d.]+){2}", path) for path in paths)


def test_points_lie_where_the_numbers_say(tab, report):
    rows = [row for row in page.payload(Run(report.parent))["rows"] if row["codec"] != "identity"]
    places = {}
    for point in tab.locator("#chart-rate .point").all():
        x, y = re.findall(r"[\d.]+", point.get_attribute("transform"))
        places[point.get_attribute("data-name")] = float(x), float(y)
    names = [f"{row['view']} {row['codec']}" for row in rows]
    assert set(places) == set(names)
    for axis, values in enumerate((np.log10([r["bpp"] for r in rows]), np.array([r["accuracy"] for r in rows]))):
        drawn = np.array([places[name][axis] for name in names])
        assert np.allclose(drawn, np.polyval(np.polyfit(values, drawn, 1), values), atol=0.1)
        assert np.sign(np.polyfit(values, drawn, 1)[0]) == (1, -1)[axis]


def test_the_front_is_not_beaten(tab, report):
    rows = page.payload(Run(report.parent))["rows"]

    def beaten(row, x, y, sign):
        return any(
            other is not row
            and (sign * other[x] <= sign * row[x] and other[y] >= row[y])
            and (other[x], other[y]) != (row[x], row[y])
            for other in rows
        )

    for cost, sign in (("bpp", 1), ("encode_mps", -1)):
        tab.locator("#chart-front select").nth(1).select_option(cost)
        wanted = {f"{r['view']} {r['codec']}" for r in rows if not beaten(r, cost, "accuracy", sign)}
        shown = tab.locator("#chart-front .front").evaluate_all("nodes => nodes.map((n) => n.dataset.name)")
        assert {name.removesuffix(" identity") for name in wanted} == set(shown)


def test_legend_axes_and_intervals(tab):
    tab.click(".entry >> text=webp")
    assert count(tab, "#chart-rate .point") == CODED + LATENT - len(RATES["webp"])
    tab.click(".entry >> text=latent")
    assert count(tab, "#chart-rate .point") == CODED - len(RATES["webp"])
    tab.click("text=show all")
    assert count(tab, "#chart-rate .point") == CODED + LATENT
    before = tab.locator("#chart-rate .point").last.get_attribute("transform")
    tab.locator("#chart-rate").get_by_label("log x").uncheck()
    second = tab.locator("#chart-rate .point").nth(3).get_attribute("transform")
    assert tab.locator("#chart-rate .point").last.get_attribute("transform") == before and second != before
    tab.get_by_label("intervals").uncheck()
    assert count(tab, ".whisker") == 0
    tab.locator("#chart-rate select").select_option("gain")
    assert "against bigpatch" in tab.locator("#chart-rate .name").last.text_content()


def test_points_tell_what_they_are(tab):
    point = tab.locator("#chart-rate .point").first
    point.scroll_into_view_if_needed()
    point.hover()
    assert "rgb_f8c12:step=1" in tab.inner_text("#tip") and "0.100" in tab.inner_text("#tip")
    tab.mouse.move(5, 5)
    assert tab.locator("#tip").is_hidden()
    point.focus()
    first = tab.inner_text("#tip")
    tab.keyboard.press("ArrowRight")
    assert tab.locator("#tip").is_visible() and tab.inner_text("#tip") != first
    focused = tab.evaluate("document.activeElement.getAttribute('aria-label')")
    assert re.match(r"\w+ \w+:\w+=\d: accuracy 0\.\d{3} ±", focused)
    assert count(tab, "#chart-rate .point[tabindex='0']") == 1
    tab.keyboard.press("Escape")
    assert tab.locator("#tip").is_hidden()


def test_table_sorts_by_click_and_by_key(tab):
    names = first_column(tab)
    assert names[:2] == ["identity", "identity"] and len(names) == CODED + LATENT + 2
    head = tab.locator("#table th[data-key=bpp] button")
    head.click()
    rates = [float(text) for text in first_column(tab, 3)]
    assert rates == sorted(rates, reverse=True) and rates[0] == 24
    assert tab.locator("#table th[aria-sort]").get_attribute("aria-sort") == "descending"
    head.focus()
    tab.keyboard.press("Enter")
    rates = [float(text) for text in first_column(tab, 3)]
    assert rates == sorted(rates)
    assert tab.locator("#table th[aria-sort]").get_attribute("aria-sort") == "ascending"
    tab.locator("#table th[data-key=psnr] button").click()
    column = tab.locator("#table th").evaluate_all("nodes => nodes.map((n) => n.dataset.key)").index("psnr") + 1
    assert first_column(tab, column)[-1] == "–"  # missing ones last


def test_table_filters_and_chooses_columns(tab):
    tab.fill("#table input[type=search]", "latent STEP=2")
    assert first_column(tab) == ["rgb_f8c12:step=2"]
    assert f"1 of {CODED + LATENT + 2}" in tab.inner_text("#table .count")
    tab.fill("#table input[type=search]", "")
    tab.locator("#table .views").get_by_label("reconstruction").uncheck()
    assert len(first_column(tab)) == LATENT + 2
    assert count(tab, "#table th[data-key=macro_f1]") == 0
    tab.click("#table summary")
    tab.locator("#table .choices").get_by_label("F1").check()
    assert count(tab, "#table th[data-key=macro_f1]") == 1


def test_marks_stand_only_where_the_interval_excludes_zero(tab, report):
    rows = page.payload(Run(report.parent))["rows"]
    assert {row["mark"] for row in rows} == {-1, 0, 1}
    for mark, name in ((1, "better"), (-1, "worse")):
        wanted = sum(row["gain_low"] > 0 if mark > 0 else row["gain_high"] < 0 for row in rows)
        assert count(tab, f"#table .gain.{name} .mark:not(:empty)") == wanted > 0
    unmarked = sum(row["gain_low"] <= 0 <= row["gain_high"] for row in rows if row["view"] != "bigpatch")
    assert count(tab, "#table .mark:empty") == unmarked > 0


def test_slider_uncovers_by_key_and_by_pointer(tab):
    clip = "document.querySelector('.before').style.clipPath"
    slider = tab.locator(".compare input")
    slider.focus()
    assert tab.evaluate(clip) == "inset(0px 50% 0px 0px)"
    tab.keyboard.press("ArrowLeft")
    assert tab.evaluate(clip) == "inset(0px 51% 0px 0px)"
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    tab.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
    assert float(re.findall(r"[\d.]+(?=%)", tab.evaluate(clip))[0]) == pytest.approx(10, abs=3)
    first = tab.locator(".compare img").first.get_attribute("src")
    tab.click(".panel >> text=rgb_f8c12:step=2")
    assert tab.locator(".compare img").first.get_attribute("src") != first
    assert "lossless" in tab.inner_text(".panel[aria-pressed=true]")
    assert "read right by" in tab.inner_text(".panel[aria-pressed=true]")
    tab.locator("#gallery select").first.select_option("1")
    images = (
        "Promise.all([...document.querySelectorAll('#gallery img')].map((n) => n.decode().then(() => n.naturalWidth)))"
    )
    loaded = tab.evaluate(images)
    assert loaded == [64, 64, 20]
    assert "avif:quality=3 failed" in tab.inner_text("#gallery") and "middle 64x48 of 64x96" in tab.inner_text(
        "#gallery"
    )


def test_dark_and_light(tab, chrome, report):
    paper = "getComputedStyle(document.body).backgroundColor"
    light = tab.evaluate(paper)
    tab.click("#theme")
    dark = tab.evaluate(paper)
    assert sum(map(int, re.findall(r"\d+", dark))) < 120 < 600 < sum(map(int, re.findall(r"\d+", light)))
    tab.click("#theme")
    assert tab.evaluate(paper) == light
    other = chrome.new_page(color_scheme="dark")
    other.goto(report.as_uri())
    assert other.evaluate(paper) == dark
    other.close()


@pytest.mark.parametrize("width", [320, 390, 700])
def test_no_sideways_scroll_on_a_phone(tab, width):
    tab.set_viewport_size({"width": width, "height": 800})
    tab.click("#made summary")
    tab.click("text=open or close all")
    tab.wait_for_timeout(100)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("#table .scroll").evaluate("node => node.scrollWidth > node.clientWidth")
    assert tab.locator("#chart-rate svg").bounding_box()["width"] <= width


def saved(tab, label):
    with tab.expect_download() as waiting:
        tab.click(f"#table .downloads >> text={label}")
    return waiting.value.suggested_filename, waiting.value.path().read_text()


def test_downloads(tab):
    tab.fill("#table input[type=search]", "latent")
    name, text = saved(tab, "CSV")
    frame = pd.read_csv(io.StringIO(text))
    assert name == "comparison.csv" and list(frame["view"]) == ["latent"] * LATENT
    assert {"accuracy", "accuracy_sd", "gain_low", "stem_macs", "retention"} <= set(frame)
    name, text = saved(tab, "JSON")
    content = json.loads(text)
    assert len(content["rows"]) == LATENT and content["settings"] and "gallery" not in content
    name, text = saved(tab, "LaTeX")
    assert name == "comparison.tex" and text.count("\\\\") == LATENT + 1 and "rgb\\_f8c12:step=1" in text
    columns = len(re.findall(r"tabular}{(\w+)}", text)[0])
    assert all(line.count(" & ") == columns - 1 for line in text.splitlines() if line.endswith("\\\\"))
    assert text.count("\\begin") == text.count("\\end") == 2 and text.isascii()


def test_other_tables_failures_and_settings(tab):
    extra = tab.locator("#extra")
    assert extra.locator("h2").inner_text() == "At equal rate"
    assert extra.locator("th button").all_inner_texts() and extra.locator("thead th").count() == 3
    assert "[−0.08, −0.02]" in extra.inner_text() and extra.locator("b").all_inner_texts() == ["*"]
    assert "fell over: </script><b>1 < 2</b> & more." in tab.inner_text("#failed")
    assert "Failed" in tab.inner_text("#nav")
    assert "cml compare --task classification" in tab.locator("#command").text_content()
    text = tab.locator("#settings").text_content()
    assert "cml:small" in text and "2.11.0" in text and "latent rgb_f8c12:step=2" in text
    keys = list(Run.results(Run(tab_folder(tab))))
    assert all(key in text for key in keys if key != "bad")


def tab_folder(tab):
    return tab.url.removeprefix("file://").removesuffix("/report.html")


def test_a_trained_model_has_fewer_views(chrome, tmp_path):
    """One seed, no bigpatch, no latents, a main score that is not the first by name, no pictures kept."""
    make_run(tmp_path, seeds=1, score="top1", frozen=True)
    content = page.payload(Run(tmp_path))
    assert content["score"] == "top1" and content["control"] == "pixels" and content["gallery"] == []
    row = next(row for row in content["rows"] if row["view"] == "reconstruction")
    half = 1.96 * np.sqrt(row["top1"] * (1 - row["top1"]) / ITEMS)
    assert row["high"] - row["low"] == pytest.approx(2 * half, rel=0.15) and row["interval"] == "95 % bootstrap"
    assert not re.search("--(size|epochs|seeds)", content["command"])
    opened = chrome.new_page()
    problems = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.goto(page.write(tmp_path).as_uri())
    opened.wait_for_selector("#chart-front svg")
    assert count(opened, "#chart-rate .whisker") == CODED and opened.locator("#gallery").is_hidden()
    assert count(opened, "#chart-dimension") == 0 and "top-1" in opened.text_content("#chart-rate .axes")
    assert not problems
    opened.close()


def test_answers_stand_with_their_caption(chrome, report, tab, tmp_path):
    assert tab.locator("#answers").is_hidden() and "Answers" not in tab.inner_text("#nav")
    make_run(tmp_path)
    Image.fromarray(photo((60, 900), 3).permute(1, 2, 0).numpy()).save(tmp_path / "answers.png")
    opened = chrome.new_page(viewport={"width": 390, "height": 800})
    opened.goto(page.write(tmp_path).as_uri())
    opened.wait_for_selector("#answers img")
    size = "node => node.decode().then(() => [node.naturalWidth, node.naturalHeight])"
    assert opened.locator("#answers img").evaluate(size) == [900, 60]
    assert opened.inner_text("#answers figcaption") == PICTURES["answers.png"] and "Answers" in opened.inner_text(
        "#nav"
    )
    assert opened.locator("#answers .scroll").evaluate("node => node.scrollWidth > node.clientWidth")
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.close()


def test_only_failures_still_make_a_page(tmp_path):
    run = make_run(tmp_path)
    lines = run.file.read_text().splitlines()
    run.file.write_text(lines[-1] + "\n")
    (tmp_path / "run.json").unlink()
    content = page.payload(run)
    assert content["rows"] == [] and len(content["failed"]) == 1
    assert page.write(tmp_path).stat().st_size > 10_000


def test_an_unfinished_run_shows_its_latest_cells(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "run.json").unlink()
    content = page.payload(run)
    assert len(content["rows"]) == CODED + LATENT + 2 and content["command"] == "" and content["score"] == "accuracy"


def test_the_command(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    result = CliRunner().invoke(cli.app, ["report", str(tmp_path / "run"), "-o", str(tmp_path / "page.html")])
    assert result.exit_code == 0 and "page.html" in result.output.replace("\n", "")
    text = (tmp_path / "page.html").read_text()
    assert "{{" not in text and text.count("</script>") == 2
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", text)
    with pytest.raises(DataError, match=r"no results.*cml compare"):
        page.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_copied_in_part_is_named(tmp_path):
    run = make_run(tmp_path)
    gone = next((tmp_path / "items").iterdir())
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone.name} is missing; a page needs the whole folder"):
        page.write(run.folder)


def test_findings_by_hand():
    table = pd.DataFrame({
        "view": ["pixels", "bigpatch", "latent", "reconstruction"], "codec": ["identity", "identity", "a", "b"],
        "bpp": [24.0, 24.0, 0.5, 0.1], "acc": [0.9, 0.8, 0.88, 0.6], "acc_sd": [0.01, 0.01, 0.02, np.nan],
        "retention": [1, 0.9, 0.97, 0.6], "gain": [0.1, 0, 0.08, -0.2], "gain_low": [0.05, 0, 0.01, -0.3],
        "gain_high": [0.15, 0, 0.12, -0.1],
    })  # fmt: skip
    tiles = {tile["value"]: tile["label"] + ", " + tile["detail"] for tile in findings(table, "acc", "bigpatch", 1, 9)}
    assert "the ceiling" in tiles["0.900 ±0.010"]
    assert "latent a, 48 times fewer than raw" in tiles["0.500 bpp"]
    assert "reconstruction b, 0.100 bpp" in tiles["0.600"]
    assert "of 2 conditions" in tiles["1 ▲ 1 ▼"] and "0 show no difference" in tiles["1 ▲ 1 ▼"]
    assert "of 9 cells" in tiles["1"]


def test_tables_are_read_as_they_are(tmp_path):
    (tmp_path / "bare.csv").write_text("a,b\n1,\n")
    (table,) = page._tables(tmp_path)
    assert table == {"name": "bare", "title": "bare", "notes": [], "columns": ["a", "b"], "rows": [["1", ""]]}
    assert list(csv.reader(["a,b"])) == [table["columns"]]


def test_scripts_are_short():
    files = [*page.ASSETS.iterdir()]
    assert {path.name for path in files if path.suffix == ".js"} == set(page.SCRIPTS)
    assert all(len(path.read_text().splitlines()) <= 400 for path in files)
