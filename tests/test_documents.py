"""Documents: receipts drawn with Pillow's font, read line by line, their fields found, and whole pages by PP-OCRv4."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from cml.eval.cells import context_of
from cml.eval.matrix import Matrix
from cml.eval.protocols import prepare
from cml.eval.results import Run
from cml.tasks.documents import Documents, reading_score
from cml.tasks.fields import FieldExtractor, field_scores, reading_order
from cml.tasks.receipts import PageReader, Receipts, page_score
from cml.tasks.text import anls, edit_distance
from PIL import Image, ImageDraw, ImageFont
from torch import nn

import cml
from cml.data.documents import Receipt, TextLine, line_columns, line_image, load_documents
from cml.errors import CmlError, DataError
from cml.models.backbones import StemShape
from cml.models.reader import Reader, best_path
from cml.train.loop import Recipe

SCALE = 2  # of the scans to the pictures
COMPANIES = ("OAK HARDWARE SDN BHD", "RIVER BOOKS", "MOON CAFE")
PLACES = ("12 JALAN BESAR", "7 JALAN ANGSA")


def receipt_texts(number):
    """The lines of a receipt as (text, left, top), and its fields."""
    company, place, total = COMPANIES[number % 3], PLACES[number % 2], f"{number}.{number % 10}5"
    date = f"{1 + number % 28:02d}/11/2018"
    lines = [
        (company, 30, 10), (place, 30, 34), ("43300 SELANGOR", 30, 58), (f"DATE {date}", 10, 90),
        ("TEA", 10, 120), (f"{number + 1}.00", 150, 121), ("TOTAL", 10, 150), (f"RM {total}", 150, 151),
        ("THANK YOU", 60, 190),
    ]  # fmt: skip
    return lines, {"company": company, "date": date, "address": f"{place} 43300 SELANGOR", "total": total}


@pytest.fixture(scope="module")
def sroie(tmp_path_factory):
    """Twelve receipts, number 10 and 20 of them for test."""
    root = tmp_path_factory.mktemp("receipts")
    font = ImageFont.load_default(size=16)
    for name in ("img", "box", "key"):
        (root / name).mkdir()
    sizes = {}
    for number in range(9, 21):
        lines, fields = receipt_texts(number)
        page = Image.new("L", (230 + number, 220), 240)
        draw = ImageDraw.Draw(page)
        rows = []
        for text, left, top in lines:
            draw.text((left, top), text, fill=20, font=font)
            x0, y0, x1, y1 = (SCALE * n for n in draw.textbbox((left, top), text, font=font))
            rows.append(f"{x0:.0f},{y0:.0f},{x1:.0f},{y0:.0f},{x1:.0f},{y1:.0f},{x0:.0f},{y1:.0f},{text}")
        page.save(root / "img" / f"{number:03d}.png")
        (root / "box" / f"{number:03d}.csv").write_text("\n".join(rows) + "\n")
        (root / "key" / f"{number:03d}.json").write_text(json.dumps(fields))
        sizes[f"{number:03d}"] = [SCALE * page.width, SCALE * page.height, *page.size]
    (root / "sizes.json").write_text(json.dumps(sizes))
    return root


def test_receipts_are_loaded_by_number(sroie):
    data = load_documents(f"sroie:{sroie}")
    assert [r.path.stem for r in data.test] == ["010", "020"] and len(data.train) == 10
    assert "A" in data.alphabet and "/" in data.alphabet and list(data.alphabet) == sorted(set(data.alphabet))
    first = data.test[0]
    assert first.size == (220, 240) and first.fields["total"] == "10.05" and first.lines[0].text == COMPANIES[1]
    left, top, _, bottom = first.lines[0].box
    assert left == pytest.approx(30, abs=1) and 10 <= top < bottom < 34


def test_lines_are_cut_scaled_and_padded_with_paper():
    page = torch.full((1, 40, 100), 200, dtype=torch.uint8)
    page[:, 10:20, 30:50] = 220
    page[:, 10:20, 30:34] = 0
    line = TextLine("I", (30, 10, 50, 20))
    x, columns = line_image(page, line, (20, 320))
    assert x.shape == (1, 20, 320) and columns == 40 == line_columns(line, 20)
    assert (x[:, :, :5] < 80).all() and (x[:, :, 12:] > 210).all() and (x[:, :, 40:] == 220).all()
    squeezed, columns = line_image(page, line, (20, 10))
    assert columns == 10 and squeezed[0, 10, 0] < 60 and squeezed[0, 10, 9] > 210


def spoil(root, name, change):
    file = root / name
    file.write_text(change(file.read_text()))


@pytest.mark.parametrize(
    ("break_it", "sentence"),
    [
        (lambda r: spoil(r, "box/011.csv", lambda t: t + "1,1,9,1,9,9,1,9, \n"), r"011\.csv, line 10, has an empty"),
        (lambda r: spoil(r, "box/012.csv", lambda t: "1,2,three,4,5,6,7,8,TEXT\n"), r"012\.csv, line 1, is not x1"),
        (lambda r: spoil(r, "box/012.csv", lambda t: "1,2,TEXT\n" + t), r"012\.csv, line 1, is not x1"),
        (lambda r: spoil(r, "box/013.csv", lambda t: "5,5,5,5,5,5,5,5,DOT\n"), r"013\.csv, line 1, has a box without"),
        (lambda r: spoil(r, "box/013.csv", lambda t: "\n"), r"013\.csv holds no lines"),
        (lambda r: (r / "box/014.csv").write_bytes(b"1,1,9,1,9,9,1,9,\xff\xfe"), r"014\.csv is not UTF-8"),
        (lambda r: (r / "box/015.csv").unlink(), r"Cannot read .*015\.csv"),
        (lambda r: (r / "img/016.png").unlink(), r"016\.csv has no picture"),
        (lambda r: (r / "img/016.png").rename(r / "img/x16.png"), r"016\.csv has no picture"),
        (lambda r: shutil.copy(r / "img/016.png", r / "img/copy.png"), r"copy\.png is not named by a number"),
        (lambda r: spoil(r, "key/017.json", lambda t: t[:-1]), r"017\.json is not JSON"),
        (lambda r: spoil(r, "key/017.json", lambda t: '{"total": 3}'), r"017\.json must map company"),
        (lambda r: spoil(r, "sizes.json", lambda t: t.replace('"018"', '"18"')), r"sizes\.json must give 018"),
        (lambda r: shutil.rmtree(r / "img"), "needs a folder with img"),
        (lambda r: [(r / d / f"0{n}0.{e}").unlink() for d, e in (("img", "png"), ("box", "csv")) for n in (1, 2)],
         "needs train receipts, and test"),
    ],
)  # fmt: skip
def test_wrong_files_are_named(sroie, tmp_path, break_it, sentence):
    root = tmp_path / "copy"
    shutil.copytree(sroie, root)
    break_it(root)
    with pytest.raises(DataError, match=sentence):
        load_documents(f"sroie:{root}")


def test_pictures_that_are_not_as_they_should_be(sroie, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(sroie, root)
    Image.new("L", (50, 50)).save(root / "img" / "011.png")
    (root / "img" / "012.png").write_bytes(b"no picture")
    receipts = {r.path.stem: r for r in load_documents(f"sroie:{root}").train}
    with pytest.raises(DataError, match=r"011\.png is not an 8-bit picture of 241x220"):
        receipts["011"].page()
    with pytest.raises(DataError, match=r"Cannot read .*012\.png"):
        receipts["012"].page()


def test_distances_by_hand():
    assert edit_distance("", "") == 0 and edit_distance("", "abc") == 3 and edit_distance("abc", "") == 3
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("TOTAL", "T0TAL") == 1
    assert edit_distance("ab", "ba") == 2 and edit_distance("abcd", "bcd") == 1
    assert anls("Total ", "TOTAL") == 1 and anls("TOTAL", "T0TAL") == pytest.approx(0.8)
    assert anls("ab", "ax") == 0.5 and anls("abc", "axx") == 0 and anls("", "x") == 0


def test_scores_of_reading_by_hand():
    score = reading_score(["AB", "", "9.00", "XY"], ["AB", "CD", "9.0", "xy"])
    # 0 + 2 + 1 + 2 edits in 9 characters; one line of four whole
    assert score.metrics["cer"] == pytest.approx(5 / 9) and score.metrics["character_accuracy"] == pytest.approx(4 / 9)
    assert score.metrics["line_accuracy"] == 0.25
    assert score.metrics["anls"] == pytest.approx((1 + 0 + 0.75 + 1) / 4)
    assert score.items["outcome"].mean() == pytest.approx(score.metrics["character_accuracy"])
    assert score.items["correct"].tolist() == [True, False, False, False]


def test_the_likeliest_path_by_hand():
    path = torch.tensor([[0, 1, 1, 0, 1, 2, 2, 0], [0, 0, 0, 0, 0, 0, 0, 0], [2, 1, 2, 2, 0, 2, 0, 3]])
    assert best_path(nn.functional.one_hot(path, 4).float(), "abc") == ["aab", "", "babbc"]


def test_columns_unfold_in_place():
    """The first steps see the first columns, whatever the steps a column, when nothing runs along the line."""
    torch.manual_seed(0)
    reader = Reader(StemShape(2, (4, 16), 1), classes=5, steps=2, width=8, depth=0, hidden=6).eval()
    vars(reader)["_modules"] |= {"recurrence": Steps(), "head": nn.Identity()}  # other types than the reader's
    x = torch.randn(1, 2, 4, 16)
    y = x.clone()
    y[..., 3] += 1
    changed = (reader(x) != reader(y)).any(2)[0]
    assert reader(x).shape == (1, 32, 6) and changed.nonzero().flatten().tolist() == [6, 7]


class Steps(nn.Module):
    def forward(self, x):
        return x, None


def test_labels_hold_width_and_text(sroie):
    task = Documents(f"sroie:{sroie}", size=16)
    labels = task.labels("test")
    assert labels.dtype == torch.int64 and len(labels) == task.count("test") == 18
    assert "".join(map(chr, labels[0, 1:][labels[0, 1:] > 0])) == COMPANIES[1]
    for index in range(18):
        x = task.signal("test", index)
        assert x.shape == (1, 16, 256) and (x[..., labels[index, 0] :] == x[0, 0, -1]).all()
    assert "108 lines, 4 of them squeezed" in task.description


def test_only_blank_columns_are_cut(sroie):
    task = Documents(f"sroie:{sroie}", size=16)
    for view, codec in (("pixels", "identity"), ("resize", "resize:factor=2"), ("latent", "gray_f4c4")):
        prepared = prepare(view, cml.create_codec(codec), task, 8)
        model, _ = task.build(prepared.stem, 0)
        short = task.labels("test")[:, 0].argsort()[:2]
        x = task._batch(model, prepared.test, short)
        kept = x.shape[-1] * 256 // prepared.stem.grid[1]
        widest = int(task.labels("test")[short, 0].max())
        assert widest <= kept < widest + (4 if view == "pixels" else 8)
        assert torch.equal(x, prepared.test.batch(short)[..., : x.shape[-1]])
        assert model(x).shape == (2, kept // 4, 1 + len(task.alphabet))  # one step for four pixels in every view


def test_a_reader_learns_to_read(sroie):
    task = Documents(f"sroie:{sroie}", size=16)
    task.recipe = Recipe(epochs=30, batch_size=9, lr=3e-3)
    prepared = prepare("bigpatch", cml.create_codec("identity"), task, 8)
    assert prepared.train is not None
    model, _ = task.build(prepared.stem, 0)
    losses = []
    task.train(model, prepared.train, prepared.shift, 0, lambda epoch, loss: losses.append(loss))
    score = task.score(model, prepared.test)
    assert losses[-1] < losses[0] / 10 and score.metrics["character_accuracy"] > 0.8
    assert 0.5 < score.metrics["fields"] <= 1


def test_compare_reads_every_view(sroie, tmp_path):
    codecs = ["resize:factor=2", "gray_f4c4", "gray_f8c4", "jpeg:quality=20"]
    options = {"size": 16, "epochs": 1, "codecs": codecs, "out": tmp_path}
    table = cml.compare("documents", f"sroie:{sroie}", **options)
    assert not table.attrs["failed"]
    assert list(table["view"]) == ["pixels", "bigpatch", "resize", "latent", "latent", *["reconstruction"] * 4]
    assert table["tokens"].tolist() == [256, *[64] * 8]
    assert {"character_accuracy", "cer", "line_accuracy", "anls", "fields", "company", "total"} <= set(table)
    for key, result in Run(tmp_path).results().items():
        items = Run(tmp_path).items(key)
        assert items["outcome"].mean() == pytest.approx(result.metrics["character_accuracy"])
        assert items["predicted"].shape == (18,)
    assert "--task documents" in (tmp_path / "report.md").read_text()
    again = cml.compare("documents", f"sroie:{sroie}", **options)
    assert again["character_accuracy"].tolist() == table["character_accuracy"].tolist()


def test_the_key_holds_data_and_recipe(sroie):
    comparison = Matrix("documents", f"sroie:{sroie}", ("gray_f8c4",)).resolve()
    context = context_of(comparison.task, comparison.conditions[0], 0, comparison.patch)
    assert context["data_revision"] == Documents(f"sroie:{sroie}").data.revision and context["recipe"]["epochs"] == 8
    assert comparison.patch == 8 and context["size"] == (32, 512)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"data": "elpv"}, "sroie:PATH"),
        ({"data": "sroie:nowhere"}, "there is no"),
        ({"backbone": "cml:small"}, "cml:reader"),
        ({"size": 4}, "8 pixels or more"),
        ({"epochs": 0}, "1 epoch"),
        ({"patch": 4}, "patch of 8"),
        ({"task": "receipts", "size": 64}, "no size"),
        ({"task": "receipts", "backbone": "tesseract"}, "ppocr-v4"),
        ({"task": "receipts", "views": ("latent",)}, "pixels, reconstruction"),
    ],
)
def test_bad_requests(sroie, options, sentence):
    usual = {"task": "documents", "data": f"sroie:{sroie}", "codecs": ("gray_f4c4",)}
    with pytest.raises(CmlError, match=sentence):
        Matrix(**(usual | options)).resolve()


def test_rows_are_read_from_the_left():
    a, b = TextLine("TOTAL", (0, 100, 40, 110)), TextLine("9.00", (60, 98, 90, 108))
    c, d = TextLine("CASH", (0, 115, 40, 125)), TextLine("SHOP", (20, 5, 70, 20))
    assert [line.text for line in reading_order([b, c, a, d])] == ["SHOP", "TOTAL", "9.00", "CASH"]


def test_fields_are_found_in_true_lines(sroie):
    data = load_documents(f"sroie:{sroie}")
    extract = FieldExtractor(data.train)
    found = [extract(receipt.lines) for receipt in data.test]
    assert found == [receipt.fields for receipt in data.test]
    assert field_scores(found, data.test)["fields"] == 1
    # another number behind the company, another order of lines, letters misread
    lines = [*data.test[0].lines[::-1]]
    lines[-1] = replace(lines[-1], text="R1VER BOOKS (123456-X)")
    assert extract(lines) == {**data.test[0].fields, "company": "R1VER BOOKS"}
    nothing = extract([TextLine("THANK YOU", (0, 0, 9, 9))])
    assert "date" not in nothing and "total" not in nothing


def test_scores_of_fields_by_hand(sroie):
    receipts = load_documents(f"sroie:{sroie}").test
    half = {"company": receipts[0].fields["company"], "total": "10.06"}
    scores = field_scores([half, {}], receipts)
    assert scores["company"] == 0.5 and scores["total"] == pytest.approx(0.4) and scores["date"] == 0
    assert scores["fields"] == pytest.approx(0.9 / 4)
    without = replace(receipts[1], fields={})
    assert field_scores([half, {}], [receipts[0], without])["company"] == 1


def receipt_of(*lines):
    return Receipt(path=None, size=(100, 100), lines=tuple(lines), fields={})  # pyright: ignore[reportArgumentType]


def test_scores_of_pages_by_hand():
    receipt = receipt_of(
        TextLine("9.00", (60, 10, 90, 20)), TextLine("TOTAL: (RM)", (5, 10, 55, 20)), TextLine("CASH", (5, 40, 40, 50))
    )
    # one box over two lines, with brackets of its own and a letter wrong; one line missed; one box of nothing
    found = [TextLine("T0TAL：（RM）9.00", (4, 9, 91, 21)), TextLine("LOGO", (0, 80, 50, 95))]
    score = page_score([found, []], [receipt, receipt_of(TextLine("HI", (0, 0, 9, 9)))])
    assert score.metrics["characters_read"] == pytest.approx(1 - (1 + 4 + 2) / 20)
    assert score.metrics["cer"] == pytest.approx(1 / 14) and score.metrics["lines_found"] == 0.5
    assert score.items["outcome"].mean() == pytest.approx(score.metrics["characters_read"])


def test_ppocr_reads_pages_behind_codecs(sroie, tmp_path):
    pytest.importorskip("rapidocr_onnxruntime")
    task = Receipts(f"sroie:{sroie}")
    page = task.signal("test", 0)
    assert task.size == (220, 250) and page.shape == (1, 220, 250) and (page[:, :, 240:] == 240).all()
    assert task.labels("test").tolist() == [[220, 240], [220, 250]] and task.count("train") == 0
    codecs = ["png", "jpeg:quality=1"]
    table = cml.compare("receipts", f"sroie:{sroie}", codecs, out=tmp_path)
    assert not table.attrs["failed"] and list(table["view"]) == ["pixels", "reconstruction", "reconstruction"]
    pixels, jpeg, png = (
        table.sort_values("bpp", ascending=False).iloc[0].to_dict(),
        *(table.loc[table["codec"] == name].iloc[0].to_dict() for name in ("jpeg:quality=1", "png")),
    )
    assert pixels["characters_read"] > 0.9 and pixels["lines_found"] > 0.9
    assert png["characters_read"] == pixels["characters_read"] > jpeg["characters_read"]
    assert PageReader().read(np.full((100, 100), 255, np.uint8)) == []
