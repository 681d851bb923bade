"""The format of latent data sets: manifest and shards, read back by cml and by others, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cml.data import latent_files
from cml.data.latent_files import MANIFEST, Manifest, SplitFiles, read_manifest, read_shard, verify
from cml.errors import DataError

CLASSES = ("cat", "dog")


def rows(count: int) -> pa.Table:
    schema = latent_files.row_schema(True, CLASSES, {"weight": pa.float64()})
    return pa.Table.from_pylist(
        [
            {"id": f"a/{n}", "latent": bytes([n % 256]) * 100, "label": n % 2, "shape": [3, 8, n + 1],
             "source_shape": [3, 9, 9], "weight": None if n % 3 else n / 2}
            for n in range(count)
        ],
        schema,
    )  # fmt: skip


def manifest(**splits: SplitFiles) -> Manifest:
    return Manifest(
        cml="0", complete=True, codec="codec:step=0.5", codec_id="0123456789ab", codec_config={"step": 0.5}, ndim=2,
        channels=3, latent_channels=2, patch=8, mean=(0.1, 0.25), std=(1.0, 2.0), source={"name": "n", "revision": "r"},
        preprocessing={"size": [8, 8], "channels": 3}, shard_samples=600, classes=CLASSES, splits=splits,
        skipped=({"id": "b", "error": "Bad."},),
    )  # fmt: skip


def write(root: str | Path) -> Manifest:
    fs, base = latent_files.open_root(root)
    names = (latent_files.shard_name("train", number) for number in range(2))
    shards = [
        latent_files.write_parquet(fs, f"{base}/{name}", rows(n)) for name, n in zip(names, (600, 5), strict=True)
    ]
    whole = manifest(train=SplitFiles(605, 60500, 9, tuple(shards)))
    latent_files.write_manifest(root, whole)
    return whole


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_what_is_written_is_read(place, tmp_path):
    root = tmp_path / "out" if place == "folder" else "memory://some/out"
    whole = write(root)
    assert read_manifest(root) == whole
    shards = whole.splits["train"].shards
    assert read_shard(root, shards[0]).equals(rows(600))
    assert read_shard(root, shards[1], ["label", "id"]).column_names == ["label", "id"]
    verify(root)


def test_equal_rows_give_equal_bytes_and_containers_lie_there_as_they_are(tmp_path):
    first, second = (write(tmp_path / name).splits["train"].shards for name in "ab")
    assert first == second
    path = tmp_path / "a" / first[0].file
    assert rows(600)["latent"][300].as_py() in path.read_bytes()
    groups = pq.ParquetFile(path).metadata
    assert [groups.row_group(n).num_rows for n in range(3)] == [256, 256, 88]
    latent = groups.row_group(0).column(1)
    assert (latent.path_in_schema, latent.compression, latent.has_dictionary_page) == ("latent", "UNCOMPRESSED", False)
    assert not latent.is_stats_set


def test_a_note_travels_with_a_shard(tmp_path):
    fs, base = latent_files.open_root(tmp_path)
    latent_files.write_parquet(fs, f"{base}/x.parquet", rows(3), {"skipped": [], "bytes": 7})
    assert latent_files.read_note(fs, f"{base}/x.parquet") == {"skipped": [], "bytes": 7}
    assert pq.read_table(f"{base}/x.parquet").schema.metadata[b"huggingface"]


def test_manifests_that_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no manifest\.json"):
        read_manifest(tmp_path)
    whole = write(tmp_path)
    latent_files.write_manifest(tmp_path, replace(whole, complete=False))
    with pytest.raises(DataError, match="has not finished"):
        read_manifest(tmp_path)
    assert read_manifest(tmp_path, complete=False) == replace(whole, complete=False)
    text = (tmp_path / MANIFEST).read_text()
    damaged = {
        text[:100]: "is damaged",
        "[1, 2]": "is not that of",
        json.dumps(json.loads(text) | {"version": 9}): "version 9",
        json.dumps({key: value for key, value in json.loads(text).items() if key != "codec_id"}): "codec_id",
        json.dumps(json.loads(text) | {"splits": {"train": {"samples": 3}}}): "is damaged",
    }  # fmt: skip
    for content, sentence in damaged.items():
        (tmp_path / MANIFEST).write_text(content)
        with pytest.raises(DataError, match=sentence):
            read_manifest(tmp_path)
    with pytest.raises(DataError, match="Cannot open"):
        read_manifest("nothing9://bucket/x")


def test_a_shard_that_is_missing_cut_or_changed_is_named(tmp_path):
    first, second = write(tmp_path).splits["train"].shards
    path = tmp_path / second.file
    good = path.read_bytes()
    place = good.index(b"\x01" * 100) + 50  # in the container of a sample
    path.write_bytes(good[:place] + b"\xff" + good[place + 1 :])
    for read in (lambda: read_shard(tmp_path, second), lambda: verify(tmp_path)):
        with pytest.raises(DataError, match=second.file):
            read()
    path.write_bytes(good[:-1])
    with pytest.raises(DataError, match=rf"{second.file} has {len(good) - 1} bytes, the manifest says {len(good)}"):
        read_shard(tmp_path, second)
    path.write_bytes(b"\0" * len(good))
    with pytest.raises(DataError, match=rf"{second.file} is damaged"):
        read_shard(tmp_path, second)
    path.write_bytes(good)
    with pytest.raises(DataError, match="has 5 samples and the manifest says 6"):
        read_shard(tmp_path, replace(second, samples=6))
    path.unlink()
    with pytest.raises(DataError, match=rf"{second.file} is missing"):
        read_shard(tmp_path, second)
    with pytest.raises(DataError, match=rf"Cannot read .*{second.file}"):
        verify(tmp_path)
    assert len(read_shard(tmp_path, first)) == 600


def test_counts_that_do_not_agree_are_told(tmp_path):
    whole = write(tmp_path)
    latent_files.write_manifest(tmp_path, replace(whole, splits={"train": replace(whole.splits["train"], samples=604)}))
    with pytest.raises(DataError, match="not the sum"):
        verify(tmp_path)


def test_a_schema_without_labels_or_names():
    assert "label" not in latent_files.row_schema(False).names
    assert latent_files.row_schema(True).metadata is None
