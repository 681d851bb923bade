"""The speed benchmark on tiny pictures: numbers, pairs, what is left out, memory, the report."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from cml.eval import bench as bench_module
from cml.eval import bench_report
from cml.eval.bench import Measurement, bench, make_plan
from cml.eval.bench_machine import machine_of, peak_of
from cml.eval.bench_memory import memory_of
from cml.eval.bench_pictures import parse_size, picture, read_photos, synthetic
from cml.eval.bench_rivals import ANCHOR, RIVALS, WALLOC, WEBP, Pillow, make_subject
from helpers import photo
from typer.testing import CliRunner

from cml import cli
from cml.codecs.factory import create_codec
from cml.data.signals import write_image
from cml.errors import CmlError

CODEC = "rgb_f8c12:entropy=zstd,decoder=linear"
SIZES = ["64x96", "96x128"]


@pytest.fixture(autouse=True)
def few_rivals(monkeypatch):
    """Only what is fast."""
    for name in set(RIVALS) - {ANCHOR, WEBP}:
        monkeypatch.delitem(RIVALS, name)
    monkeypatch.setattr(bench_module, "_MOMENT", 1e-4)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for seed, size in enumerate(((150, 120), (100, 90))):
        write_image(folder / f"{seed}.png", photo(size, 3, seed))
    return folder


def run(photos, out, **options):
    return bench(photos, [CODEC], out=out, sizes=SIZES, rounds=3, memory=False, **options)


def test_numbers(photos, tmp_path):
    table = run(photos, tmp_path / "s", threads=(1, 2))
    assert not table.attrs["notes"]
    assert all(math.isfinite(value) and value > 0 for value in table["value"])
    for size in ((64, 96), (96, 128)):
        for way in ("encode", "decode"):
            seconds = bench_report.timings(table, way, size, 1)
            assert list(seconds) == [CODEC, ANCHOR, WEBP]
            assert all(sorted(rounds) == [0, 1, 2] for rounds in seconds.values())
            assert list(bench_report.timings(table, way, size, 2)) == ([CODEC] if size == (96, 128) else [])
        for stage in ("transform", "entropy", "container"):
            assert list(bench_report.timings(table, f"encode.{stage}", size, 1)) == [CODEC]
            assert list(bench_report.timings(table, f"decode.{stage}", size, 1)) == [CODEC]
    x = picture(read_photos(photos), 96, 128)
    volume = bench_report.medians(table, "bytes", (96, 128), 1)
    assert volume[CODEC] == len(create_codec(CODEC).compress(x))
    assert volume[WEBP] == len(create_codec(WEBP).compress(x))
    assert 20 < bench_report.medians(table, "psnr", (96, 128), 1)[ANCHOR] < 60
    assert list(pd.read_csv(tmp_path / "s.csv").columns) == list(Measurement.__dataclass_fields__)


def test_ratios_are_taken_round_by_round():
    # A machine that is ten times slower in one round changes no ratio.
    ours, theirs = {0: 1.0, 1: 10.0, 2: 1.0, 3: 1.0}, {0: 2.0, 1: 20.0, 3: 4.0}
    assert bench_report.ratios(ours, theirs) == (2, 2, 3)
    assert bench_report.ratios(ours, {7: 1.0}) is None


def rows(codec, way, seconds, side=1000, threads=1):
    return [Measurement(codec, threads, side, side, n, way, value) for n, value in enumerate(seconds)]


def test_tables():
    found = [
        *rows("mine", "encode", [0.5, 0.5, 0.25]), *rows(ANCHOR, "encode", [0.25, 0.25, 0.25]),
        *rows("mine", "encode.entropy", [0.1, 0.2, 0.4]), *rows("mine", "encode", [2.5], 2000),
        *rows("mine", "bytes", [25_000]), *rows("mine", "encode", [0.25, 0.25, 0.25], threads=2),
        *rows("mine", "encode_memory", [12.4]),
    ]  # fmt: skip
    table = pd.DataFrame([vars(one) for one in found])
    view = bench_report.at_one_size(table, "encode", (1000, 1000), 1).set_index("codec")
    assert list(view.loc["mine"]) == ["2", "3", "entropy 200", "0.200", "", "0.5 [0.5, 0.75]"]
    growth = bench_report.by_size(table, "encode", 1).set_index("codec")
    assert list(growth.loc["mine"]) == ["2", "1.6", "1.25"]
    assert bench_report.by_threads(table, (1000, 1000), (1, 2))["against 1"].tolist() == ["2 [1.5, 2]"]
    assert bench_report.memory(table, 1).to_dict("records") == [{"codec": "mine", "encode 1 MP": "12"}]


def test_the_report(photos, tmp_path):
    run(photos, tmp_path / "runs" / "s", threads=(1, 2))
    text = (tmp_path / "runs" / "s.md").read_text()
    command = (
        f"cml bench {photos} -c {CODEC} --sizes '64x96 96x128' --rounds 3 --threads 1 --threads 2 --no-memory "
        f"-o {tmp_path / 'runs' / 's'}"
    )
    for part in (command, "## Encode, 96x128, one thread", "## More threads", "GB/s", f"| against {ANCHOR} |"):
        assert part in text, part
    # A pixel: 36 MACs of the transform, 36 of the product, 36 additions, and the quantizer; bytes: 3 + 12 / 64.
    assert f"| {CODEC} | 73 | 39 | 3.19 | 28.7 |" in text
    assert (tmp_path / "runs" / "s.png").stat().st_size > 10_000


def test_a_failure_is_named_and_the_rest_goes_on(photos, tmp_path, monkeypatch):
    original = Pillow.encode

    def failing(self, source):
        if self.name == WEBP and source.width == 128:
            raise ValueError("no luck")
        return original(self, source)

    monkeypatch.setattr(Pillow, "encode", failing)
    table = run(photos, tmp_path / "s")
    assert table.attrs["notes"] == [f"{WEBP} failed at 96x128: ValueError: no luck"]
    assert list(bench_report.timings(table, "encode", (64, 96), 1)) == [CODEC, ANCHOR, WEBP]
    assert list(bench_report.timings(table, "encode", (96, 128), 1)) == [CODEC, ANCHOR]
    assert "no luck" in (tmp_path / "s.md").read_text()


def test_slow_codecs_take_part_in_fewer_rounds(photos):
    plan = make_plan(photos, [CODEC], ["64x96", "1024x1024", "16"], 50, (1, 2), False)
    ours, jpeg = plan.subjects[:2]
    a_second = 1 / 4000**2
    share = int(plan.seconds)
    assert 3 < share < 50
    assert bench_module._rounds(plan, jpeg, (4000, 4000), a_second) == share
    assert bench_module._rounds(plan, jpeg, (64, 96), a_second) == 50
    assert bench_module._rounds(plan, jpeg, (1024, 1024), 1e9 * a_second) == 3
    assert bench_module._rounds(plan, ours, (4000, 4000), 1e9 * a_second) == 3
    assert bench_module._rounds(plan, plan.threaded[0], (64, 96), a_second) == 0
    assert not plan.notes
    assert bench_module._rounds(plan, jpeg, (4000, 4000), 1e3 * a_second) == 0
    assert plan.notes == [f"{ANCHOR} is left out at 4000x4000: it would take 1e+03 seconds a round."]


def test_bad_requests_get_a_sentence(photos, tmp_path):
    usual: dict[str, Any] = {"data": photos, "codecs": [CODEC], "sizes": SIZES, "out": tmp_path / "s"}
    for arguments, sentence in (
        ({"codecs": ["jpeg"]}, "jpeg is none"),
        ({"codecs": ["gray_f8c4"]}, "does not take"),
        ({"codecs": ["rgb_f8c13"]}, "did you mean"),
        ({"sizes": ["large"]}, "not 'large'"),
        ({"sizes": ["10x10"]}, "not 10x10"),
        ({"sizes": ["1x2x3"]}, "1x2x3"),
        ({"sizes": ["nan"]}, "nan"),
        ({"rounds": 0}, "1 round or more"),
        ({"threads": [0]}, r"not \[0\]"),
        ({"data": tmp_path / "none"}, "no folder"),
    ):
        both: dict[str, Any] = usual | arguments
        with pytest.raises(CmlError, match=sentence):
            bench(**both)
    write_image(tmp_path / "deep" / "a.png", torch.full((1, 64, 64), 500, dtype=torch.uint16))
    with pytest.raises(CmlError, match="16-bit"):
        bench(tmp_path / "deep", [CODEC], out=tmp_path / "s")


def test_a_missing_package_leaves_its_codec_out(photos, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "compressai.zoo", None)
    monkeypatch.setitem(RIVALS, "compressai", bench_module.make_subject.__globals__["CompressAI"])
    plan = make_plan(photos, [CODEC], SIZES, 1, (1,), False)
    assert [subject.name for subject in plan.subjects] == [CODEC, ANCHOR, WEBP]
    assert len(plan.notes) == 1 and plan.notes[0].startswith("CompressAI is not installed here")


@pytest.mark.interop
@pytest.mark.filterwarnings("ignore")
def test_walloc_and_livecodec_give_pictures_back():
    from cml.eval.bench_rivals import LiveCodec, Walloc

    x = photo((200, 216))
    for make in (Walloc, LiveCodec):
        subject = make(1)
        source = subject.take(x)
        blob = subject.encode(source)
        shown = subject.show(subject.decode(blob))
        assert shown.shape == x.shape and shown.dtype == torch.uint8
        for work in subject.stages(source, blob).values():
            work()
        if make is Walloc:
            # Its symbols are about those of the codec whose matrix it has, away from the borders.
            inner = (slice(None), slice(6, -6), slice(6, -6))
            theirs, ours = subject.symbols(source)[0][inner], create_codec("rgb_f8c12:rdo=0").encode(x).symbols[inner]
            assert subject.name == WALLOC and theirs.std() > 3
            assert (theirs - ours).abs().float().mean() < 0.2


def test_pictures(photos):
    tiles = read_photos(photos)
    assert [tuple(tile.shape) for tile in tiles] == [(3, 90, 90)] * 2
    assert torch.equal(tiles[1], photo((100, 90), 3, 1)[:, 5:95])
    x = picture(tiles, 100, 200)
    assert torch.equal(x[:, :90, :90], tiles[0])
    assert torch.equal(x[:, :90, 90:180], tiles[1].flip(2))
    assert torch.equal(x[:, 90:, 180:], tiles[1].flip(1)[:, :10, :20])
    assert torch.equal(synthetic(64, 3), synthetic(64, 3)) and not torch.equal(synthetic(64, 3), synthetic(64, 4))
    # As in photos, neighbours are alike: the differences are far below the samples' own spread.
    noise = synthetic(256, 0).float()
    assert noise.diff().std() < noise.std() / 2.5
    assert noise.std() > 20
    assert parse_size("16") == (4000, 4000) and parse_size("768X1024") == (768, 1024)


def test_memory():
    _, peak = peak_of(lambda: np.ones(60_000_000, np.uint8).sum())
    assert 55 < peak < 90
    machine = machine_of(1)
    assert machine.bandwidth > 1e8 and machine.arithmetic > 1e8 and machine.versions["libjpeg-turbo"] > "2"


def test_memory_of_a_codec(tmp_path):
    """In a process of its own: a decoder of convolutions holds feature maps, JPEG only lines."""
    np.save(tmp_path / "x.npy", photo((1024, 1024)).numpy())
    light = memory_of("rgb_f8c12", 1, tmp_path / "x.npy")
    jpeg = memory_of(ANCHOR, 1, tmp_path / "x.npy")
    # Four blocks of 96 channels on 128x128 positions, 6 MB each, and what convolutions put beside them.
    assert 12 < light["decode"] < 400
    assert 0 <= jpeg["encode"] < 12 and 0 <= jpeg["decode"] < 12
    with pytest.raises(CmlError, match=r"memory of jpgg could not be measured: .*jpgg"):
        memory_of("jpgg", 1, tmp_path / "x.npy")


def test_memory_is_measured_where_speed_was(photos, tmp_path, monkeypatch):
    asked = []

    def asked_for(codec, threads, file):
        asked.append((codec, np.load(file).shape))
        if codec == WEBP:
            raise CmlError("No memory.")
        return {"encode": 3.0, "decode": 4.0}

    monkeypatch.setattr(bench_module, "memory_of", asked_for)
    table = bench(photos, [CODEC], out=tmp_path / "s", sizes=["64x64", "64x96", "1100x1100"], rounds=1)
    shapes = [(3, 64, 96), (3, 1100, 1100)]
    assert asked == [(name, shape) for shape in shapes for name in (CODEC, ANCHOR, WEBP)]
    assert table.attrs["notes"] == ["No memory."] * 2
    assert "## Peak memory" in (tmp_path / "s.md").read_text()
    assert bench_report.medians(table, "decode_memory", (64, 96), 1) == {CODEC: 4, ANCHOR: 4}


def test_the_command(tmp_path):
    arguments = ["bench", "-c", CODEC, "--quick", "--sizes", "64x64", "--rounds", "1", "-o", str(tmp_path / "s")]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0
    assert len(pd.read_csv(tmp_path / "s.csv")) > 10
    assert f"cml {' '.join(arguments[:2])}" in (tmp_path / "s.md").read_text()


def test_subjects_take_and_give_the_same_picture():
    x = photo((70, 90))
    for name in (ANCHOR, WEBP, CODEC):
        subject = make_subject(name, 1)
        shown = subject.show(subject.decode(subject.encode(subject.take(x))))
        assert shown.shape == x.shape and (shown.float() - x).square().mean() < 150, name
