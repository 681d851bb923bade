"""A data set encoded once: what comes out, who reads it, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from encoding import CODEC, COUNT, SHARD, make_photos, rows, spooled
from helpers import photo
from typer.testing import CliRunner

import cml
from cml.cli import app
from cml.codecs.bitstream import attach, facts
from cml.codecs.fit import fit_codec
from cml.data import encode_shard
from cml.data.encode_dataset import encode_dataset
from cml.data.latent_files import read_manifest, verify
from cml.errors import CodecError, DataError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, encoded."""
    out = tmp_path_factory.mktemp("whole") / "out"
    encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    return out


def test_every_sample_is_there_as_the_codec_compresses_it(photos, whole):
    manifest = read_manifest(whole)
    codec = cml.create_codec(CODEC)
    found = {row["id"]: row for row in rows(whole)}
    paths = sorted(photos.rglob("*.png"))
    assert sorted(found) == [path.relative_to(photos).as_posix() for path in paths]
    for path in paths:
        row, x = found[path.relative_to(photos).as_posix()], cml.read_image(path)
        assert row["latent"] == codec.compress(x)
        assert row["shape"] == row["source_shape"] == list(x.shape)
        assert manifest.classes is not None and manifest.classes[row["label"]] == path.parent.name
    train = manifest.splits["train"]
    assert [shard.samples for shard in train.shards] == [8, 8, 1] and train.samples == 17
    assert train.bytes == sum(len(row["latent"]) for name, row in found.items() if name.startswith("train"))
    assert train.source_bytes == sum(path.stat().st_size for path in paths if "train" in path.parts)
    z = codec.encode(cml.read_image(paths[0]))
    assert torch.equal(torch.tensor(manifest.mean), z.mean) and torch.equal(torch.tensor(manifest.std), z.std)
    assert (manifest.codec, manifest.codec_id) == (codec.spec.name, codec.spec.codec_id)
    assert not [path for path in whole.iterdir() if path.name.startswith(".")]
    verify(whole)


def test_pictures_are_resized_whole_as_tasks_do_it(picture_folder, tmp_path):
    from cml.tasks.classification import Classification

    task = Classification(f"folder:{picture_folder}", size=24)
    manifest = encode_dataset(f"folder:{picture_folder}", tmp_path / "out", "gray_f8c4", size=24, op="step=0.7")
    assert manifest.preprocessing == {"size": [24, 24], "channels": 1} and manifest.codec == "gray_f8c4:step=0.7"
    codec = cml.create_codec("gray_f8c4:step=0.7")
    found = {row["id"]: row for row in rows(tmp_path / "out")}
    for index, path in enumerate(task.data.test.paths):
        row = found[path.relative_to(picture_folder).as_posix()]
        assert row["latent"] == codec.compress(task.signal("test", index))
        assert (row["shape"], row["source_shape"]) == ([1, 24, 24], [1, 40, 40])


def test_channels_follow_the_codec(tmp_path):
    x = photo((16, 24))
    grey = encode_shard.prepare(x, 1)
    cml.write_image(tmp_path / "x.png", x.float() / 127.5 - 1)
    assert torch.equal(grey, cml.read_image(tmp_path / "x.png", 1))
    assert torch.equal(encode_shard.prepare(grey, 3), grey.expand(3, -1, -1))
    deep = torch.full((1, 8, 8), 40000, dtype=torch.uint16)
    assert encode_shard.prepare(deep, 3).shape == (1, 8, 8)  # the codec then refuses it
    assert torch.equal(encode_shard.prepare(deep, 1, (4, 6)), torch.full((1, 4, 6), 40000, dtype=torch.uint16))


def test_the_default_codec_follows_the_pictures(photos, picture_folder, tmp_path):
    colour = encode_dataset(photos, tmp_path / "colour")
    assert colour.codec.startswith("rgb_f8c48") and "entropy=order0" in colour.codec
    grey = encode_dataset(picture_folder, tmp_path / "grey", op="entropy=zstd,step=1")
    assert grey.codec == "gray_f8c16:step=1.0,entropy=zstd"


def test_another_encoding_is_refused(photos, whole, picture_folder):
    same = {"codec": CODEC, "shard_samples": SHARD}
    for change, sentence in (
        ({"codec": "rgb_f8c48"}, "another codec"),
        ({"op": "step=0.5"}, r"another operating point \(step 0\.25, now 0\.5\)"),
        ({"size": 16}, r"another preprocessing \(size None, now \[16, 16\]\)"),
        ({"shard_samples": 9}, "another shard size"),
        ({"source": picture_folder}, "another source"),
    ):
        with pytest.raises(DataError, match=sentence):
            options: dict[str, Any] = {"source": photos, "out": whole} | same | change
            encode_dataset(**options)
    verify(whole)


def test_a_bad_sample_stops_or_is_skipped_and_listed(photos, tmp_path):
    import shutil

    source, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(photos, source)
    (source / "train" / "a" / "04.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"sample train/a/04\.png cannot be encoded: Cannot read .* --on-error skip"):
        encode_dataset(source, out, CODEC, shard_samples=SHARD)
    kept = len(spooled(out)) + 8 * len(list(out.glob("*.parquet")))
    seen: list[int] = []
    manifest = encode_dataset(
        source, out, CODEC, shard_samples=SHARD, on_error="skip", on_sample=lambda done, total: seen.append(done)
    )
    assert seen[0] <= kept <= seen[1] and seen[-1] == COUNT
    assert [entry["id"] for entry in manifest.skipped] == ["train/a/04.png"]
    assert "Cannot read" in manifest.skipped[0]["error"] and "0x" not in manifest.skipped[0]["error"]
    assert manifest.splits["train"].samples == 16 and len(rows(out)) == COUNT - 1
    assert read_manifest(out) == manifest
    (out / "test-00000.parquet").unlink()  # what was skipped is remembered by the shards that lack it
    assert encode_dataset(source, out, CODEC, shard_samples=SHARD).skipped == manifest.skipped
    for path in source.rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="None of the 22 samples can be encoded; the first: "):
        encode_dataset(source, tmp_path / "none", CODEC, on_error="skip")


def test_outputs_codecs_and_options_that_are_refused(photos, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    for keys, kind, sentence in (
        ({"out": tmp_path / "full"}, DataError, r"holds something else \(thesis\.txt\)"),
        ({"out": tmp_path / "full" / "thesis.txt"}, DataError, "is a file"),
        ({"codec": "jpeg"}, CodecError, "has no latents to store"),
        ({"source": tmp_path / "empty"}, DataError, "holds no pictures"),
        ({"size": 0}, DataError, "1 pixel"),
        ({"engine": "spark"}, DataError, "local or ray"),
        ({"on_error": "pray"}, DataError, "stop or skip"),
        ({"shard_samples": 0}, DataError, "1 sample or more"),
        ({"op": "fast"}, CodecError, "key=value"),
    ):
        with pytest.raises(kind, match=sentence):
            options: dict[str, Any] = {"source": photos, "out": tmp_path / "out", "codec": CODEC} | keys
            encode_dataset(**options)
    assert not (tmp_path / "out").exists() and (tmp_path / "full" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("ndim", [1, 3])
def test_sound_and_volumes(ndim, tmp_path):
    rng = np.random.default_rng(0)
    shape = {1: (2000,), 3: (16, 12, 20)}[ndim]
    signals = [torch.from_numpy(rng.uniform(-0.5, 0.5, (1, *shape)).astype(np.float32)) for _ in range(3)]
    fit = fit_codec(signals, name="tiny", ndim=ndim, channels=1, levels=2, latent_channels=3)
    fit.save(tmp_path / "tiny", "# tiny")
    for number, x in enumerate(signals):
        if ndim == 1:
            soundfile = pytest.importorskip("soundfile")
            soundfile.write(tmp_path / f"{number}.wav", np.repeat(x.numpy().T, 2, 1), 8000, subtype="FLOAT")
        else:
            np.save(tmp_path / f"{number}.npy", x.numpy()[0])
    (tmp_path / "x.png").write_bytes(b"not asked for")
    manifest = encode_dataset(tmp_path, tmp_path.with_name(f"out{ndim}"), str(tmp_path / "tiny"), op="entropy=order0")
    assert (manifest.ndim, manifest.channels, manifest.patch, manifest.latent_channels) == (ndim, 1, 4, 3)
    codec = cml.create_codec(str(tmp_path / "tiny"), entropy="order0")
    found = rows(tmp_path.with_name(f"out{ndim}"))
    told = {1: {}, 3: {"kind": "volume", "format": "numpy", "dtype": "float32", "axes": 3}}[ndim]
    assert [facts(row["latent"]) for row in found] == [told] * 3
    assert [row["latent"] for row in found] == [attach(blob, told) for blob in codec.compress(signals)]
    assert [row.get("sampling_rate") for row in found] == ([8000] * 3 if ndim == 1 else [None] * 3)
    assert [row["source_shape"][0] for row in found] == [2 if ndim == 1 else 1] * 3
    with pytest.raises(DataError, match="Only pictures are resized"):
        encode_dataset(tmp_path, tmp_path / "out", str(tmp_path / "tiny"), size=8)


def test_others_read_it(whole, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    expected = [row for row in rows(whole) if row["id"].startswith("train")]
    shards = datasets.load_dataset("parquet", data_files=str(whole / "train-*.parquet"), split="train")
    folder = datasets.load_dataset(str(whole))
    streamed = datasets.load_dataset(str(whole), split="train", streaming=True)
    datasets.enable_progress_bars()
    assert list(folder) == ["train", "test"] and len(folder["test"]) == 5
    for found in (shards, folder["train"], list(streamed)):
        assert list(found) == expected
    assert shards.features["label"].names == ["a", "b"]
    codec = cml.create_codec(CODEC)
    tensors = shards.map(lambda row: {"z": codec.unpack(row["latent"]).to_float()}).with_format("torch")
    assert torch.equal(tensors[0]["z"], codec.unpack(expected[0]["latent"]).to_float())
    import pandas as pd

    assert pd.read_parquet(whole / "train-00000.parquet")["id"].tolist() == [row["id"] for row in expected[:8]]
    duckdb = pytest.importorskip("duckdb")
    counted = duckdb.sql(f"SELECT label, count(*) FROM '{whole}/*.parquet' GROUP BY label ORDER BY label").fetchall()
    assert counted == [(0, 11), (1, 11)]


def test_the_command(photos, tmp_path):
    out = tmp_path / "out"
    arguments = ["encode-dataset", str(photos), "-o", str(out), "-c", CODEC, "--size", "16x24", "--shard-samples", "8"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0 and "22 samples (" in done.stdout and "times fewer" in done.stdout
    assert read_manifest(out).preprocessing["size"] == [16, 24]
    again = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert again.exit_code == 0 and "22 samples," in again.stdout
    described = CliRunner().invoke(app, ["info", str(out)], catch_exceptions=False)
    assert "17 samples in 3 shards" in described.stdout and "all shards are as they were" in described.stdout
    with pytest.raises(cml.CmlError, match="--size is a side"):
        CliRunner().invoke(app, [*arguments, "--size", "big"], catch_exceptions=False)
    (out / "train-00000.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="has changed"):
        CliRunner().invoke(app, ["info", str(out)], catch_exceptions=False)


def test_cells_that_differ_along_the_axes(tmp_path):
    """Manifest and batches know the patch of each axis, and the containers what their files say of themselves."""
    rng = np.random.default_rng(0)
    (tmp_path / "scans" / "a").mkdir(parents=True)
    for number in range(3):
        np.save(tmp_path / "scans" / "a" / f"{number}.npy", rng.normal(size=(9, 20, 17)).cumsum(2).astype(np.float32))
    x = [np.load(path)[None] for path in sorted((tmp_path / "scans" / "a").iterdir())]
    codec = fit_codec(
        [torch.from_numpy(signal) for signal in x], name="scans", ndim=3, channels=1, levels=(1, 2, 2),
        latent_channels=4, step=0.1, level="peak",
    )  # fmt: skip
    codec.save(tmp_path / "codec", "of a test")
    manifest = encode_dataset(str(tmp_path / "scans"), str(tmp_path / "out"), codec=str(tmp_path / "codec"))
    assert manifest.axis_patches == manifest.cell == (2, 4, 4)
    data = cml.LatentDataset(str(tmp_path / "out"))
    batch = next(iter(cml.latent_loader(data, batch_size=3)))
    assert batch.symbols.shape == (3, 4, 5, 5, 5)
    for row, name in enumerate(data.ids):
        assert torch.equal(batch.symbols[row], codec.encode(x[int(Path(name).stem)]).symbols)
    blob = pq.read_table(next((tmp_path / "out").glob("*.parquet")))["latent"][0].as_py()
    assert facts(blob)["dtype"] == "float32"
