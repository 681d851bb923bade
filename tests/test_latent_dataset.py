"""Latent data sets from memory: what was encoded comes back, and what is wrong with one is said."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_sets import SIZES, containers, gray, write_set
from torch.utils.data import Subset

import cml
from cml.data.latent_files import read_manifest, write_manifest
from cml.data.loading import latent_loader
from cml.errors import BitstreamError, CodecError, DataError

COUNT = 30


@pytest.fixture
def root(tmp_path) -> Path:
    write_set(tmp_path, {"train": containers(COUNT), "test": containers(5)}, shard=8)
    return tmp_path


@pytest.mark.parametrize("place", ["folder", "memory"])
def test_what_was_encoded_comes_back(tmp_path, place):
    root = str(tmp_path / "set") if place == "folder" else "memory://some/set"
    blobs, names = containers(COUNT), tuple(f"class {number}" for number in range(COUNT))
    write_set(root, {"train": blobs, "test": blobs[:5]}, shard=8, classes=names)
    data, codec = cml.LatentDataset(root), gray()
    assert (len(data), data.classes, data.labels.tolist()) == (COUNT, names, list(range(COUNT)))
    assert data.ids == [f"train/{number:05d}" for number in range(COUNT)]
    expected = [codec.unpack(blob) for blob in blobs]
    for number in (0, 7, 8, 29, -1):
        latent, label = data[number]
        assert (
            label == number % COUNT
            and latent.original_shape == (1, *SIZES[0])
            and latent.codec_id == codec.spec.codec_id
        )
        assert torch.equal(latent.to_float(), expected[number].to_float())
        assert torch.equal(codec.decode(latent), codec.decompress(blobs[number]))
    batch = data.__getitems__([29, 0, 8])
    assert torch.equal(batch.to_float(), torch.stack([expected[number].to_float() for number in (29, 0, 8)]))
    assert batch.labels.tolist() == [29, 0, 8]
    assert [data._read(number) for number in range(COUNT)] == list(blobs)
    with pytest.raises(IndexError):
        data[COUNT]
    assert len(cml.LatentDataset(root, "test")) == 5


def test_the_codec_may_be_given_at_any_step_but_not_another_one(root):
    assert len(cml.LatentDataset(root, codec=gray(step=0.7))) == COUNT
    with pytest.raises(CodecError, match=r"was encoded by gray_f8c4.*, not by gray_f8c16.*: give that codec, or none"):
        cml.LatentDataset(root, codec=cml.create_codec("gray_f8c16"))


def test_labels_may_be_absent(tmp_path):
    write_set(tmp_path, {"train": containers(5)}, labelled=False)
    data = cml.LatentDataset(tmp_path)
    assert data.classes == () and data.labels.tolist() == [-1] * 5 and data[0][1] == -1
    (batch,) = latent_loader(data.stream(), 5)
    assert batch.labels.tolist() == [-1] * 5


def test_metadata_are_a_table(root):
    data = cml.LatentDataset(root)
    table = data.table()
    assert table.columns.tolist() == ["id", "label", "shape", "source_shape", "place"] and len(table) == COUNT
    assert table["id"].tolist() == data.ids and table["place"].tolist()[9] == "room 2"
    assert data.table(["place", "latent"])["latent"].tolist() == list(containers(COUNT))
    with pytest.raises(DataError, match="no column 'colour'; it has id, latent, label"):
        data.table(["colour"])


def test_forked_workers_share_what_was_read(root):
    loader = latent_loader(cml.LatentDataset(root), 7, workers=2)
    loader.multiprocessing_context = "fork"
    for shard in root.glob("*.parquet"):
        shard.unlink()
    assert torch.cat([batch.labels for batch in loader]).tolist() == list(range(COUNT))


def test_containers_do_not_travel_to_spawned_workers(root):
    data = cml.LatentDataset(root)
    before = len(pickle.dumps(data))
    data.load()
    sent = pickle.dumps(data)
    assert len(sent) == before
    assert torch.equal(pickle.loads(sent)[3][0].symbols, data[3][0].symbols)


def test_sizes_are_known_from_the_columns(tmp_path):
    write_set(tmp_path, {"train": containers(9, sizes=3)}, shard=4)
    data = cml.LatentDataset(tmp_path)
    assert data.grids().tolist() == [[3, 5], [2, 5], [5, 3]] * 3
    assert np.array_equal(data.grids(), super(cml.LatentDataset, data).grids())
    batches = list(latent_loader(Subset(data, [4, 0, 1, 3, 8]), 2, sizes="bucket"))
    assert [batch.labels.tolist() for batch in batches] == [[4, 1], [0, 3], [8]]
    assert [batch.symbols.shape[2:] for batch in batches] == [(2, 5), (3, 5), (5, 3)]


def test_data_sets_that_cannot_be_opened(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("other")
    with pytest.raises(DataError, match=r"no latent data set: it has no manifest\.json"):
        cml.LatentDataset(elsewhere)
    with pytest.raises(DataError, match=r"no split 'validation'; it has train, test"):
        cml.LatentDataset(root, "validation")
    manifest = read_manifest(root)
    write_manifest(root, replace(manifest, complete=False))
    with pytest.raises(DataError, match="has not finished"):
        cml.LatentDataset(root)
    empty = replace(manifest.splits["test"], samples=0, shards=())
    write_manifest(root, replace(manifest, splits={**manifest.splits, "test": empty}))
    with pytest.raises(DataError, match=r"The split 'test' of .* holds no samples"):
        cml.LatentDataset(root, "test")


def test_shards_that_are_missing_or_damaged_are_named(root):
    shard = root / "train-00002.parquet"
    whole = shard.read_bytes()
    data = cml.LatentDataset(root)
    shard.write_bytes(whole[:-40])
    with pytest.raises(DataError, match=r"train-00002\.parquet has \d+ bytes, the manifest says \d+"):
        cml.LatentDataset(root)
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00002\.parquet is missing: fetch it again"):
        cml.LatentDataset(root)
    with pytest.raises(DataError, match=r"train-00002\.parquet is missing"):
        data[0]
    for place in range(0, len(whole), 97):
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with pytest.raises(DataError, match=r"train-00002\.parquet is damaged"):
            latent_loader(cml.LatentDataset(root), 4)
    shard.write_bytes(whole)
    assert data[0][1] == 0


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", ["rows", "stream"])
def test_a_damaged_container_is_named_in_one_sentence(tmp_path, kind, workers):
    blobs = list(containers(20))
    blobs[13] = blobs[13][:-5]
    write_set(tmp_path, {"train": blobs}, shard=8)
    data = cml.LatentDataset(tmp_path)
    loader = latent_loader(data if kind == "rows" else data.stream(), 5, workers=workers)
    with pytest.raises(BitstreamError) as caught:
        list(loader)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/train-00001.parquet, sample train/00013: The container is damaged")
    assert "Traceback" not in said and "\n" not in said


def test_containers_of_another_codec_among_the_rows_are_named(tmp_path):
    blobs = list(containers(3))
    blobs[1] = cml.create_codec("gray_f8c16").compress(torch.zeros(1, *SIZES[0]))
    write_set(tmp_path, {"train": blobs})
    with pytest.raises(BitstreamError, match=r"sample train/00001 was written by codec .*, not by gray_f8c4"):
        cml.LatentDataset(tmp_path).batch([0, 1])
    blobs[1] = gray(channels=3).compress(torch.zeros(1, *SIZES[0]))
    write_set(tmp_path, {"train": blobs})
    with pytest.raises(DataError, match=r"sample train/00001 holds 3 latent channels and manifest\.json 4"):
        cml.LatentDataset(tmp_path).batch([0, 1])
