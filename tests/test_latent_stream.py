"""Latent data sets that stream: every sample once an epoch, little memory, and the exact position."""

from collections import Counter
from itertools import islice, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from latent_sets import containers, write_set
from torch.utils.data import DataLoader

import cml
from cml.data.latent_files import ROWS
from cml.data.latent_stream import LatentStream, StreamBatches
from cml.data.loading import latent_loader
from cml.data.order import Layout
from cml.errors import DataError

COUNT = 1500  # shards of 600: row groups of 256, 256, 88, 256, 256, 88, 256, 44
GROUPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> cml.LatentDataset:
    root = tmp_path_factory.mktemp("set")
    write_set(root, {"train": containers(COUNT, different=4)})
    return cml.LatentDataset(root)


@pytest.fixture
def reads(monkeypatch) -> list[tuple[int, int]]:
    """Shard and group of each row group as it is read, in this process."""
    seen, original = [], LatentStream._read_group

    def read(self, shard, group, count):
        seen.append((shard, group))
        return original(self, shard, group, count)

    monkeypatch.setattr(LatentStream, "_read_group", read)
    return seen


def batches(loader):
    return [batch.labels.tolist() for batch in loader]


def flat(lists):
    return [item for part in lists for item in part]


def loaders(data, size, world, workers=0, buffer=300, **options):
    stream = data.stream(buffer)
    return [
        latent_loader(stream, size, workers=workers, rank=rank, world=world, **{"shuffle": True, **options})
        for rank in range(world)
    ]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 0), (2, 1), (3, 2), (64, 0)])
def test_every_sample_comes_once_an_epoch(data, world, workers, drop_last):
    size = 7
    ranks = [batches(loader) for loader in loaders(data, size, world, workers, drop_last=drop_last)]
    assert len({len(rank) for rank in ranks}) == 1
    assert len(ranks[0]) == len(loaders(data, size, world, drop_last=drop_last)[0])
    assert {len(batch) for rank in ranks for batch in rank[:-1]} == {size}
    seen = Counter(flat(flat(ranks)))
    left_out = COUNT % (size * world)
    expected = COUNT - (left_out if drop_last or left_out < world else 0)
    assert set(seen.values()) == {1} and len(seen) == expected
    last = [len(rank[-1]) for rank in ranks]
    assert max(last) - min(last) <= 1 and min(last) > 0


@settings(max_examples=200)
@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 5), st.integers(0, 5), st.booleans())
def test_lanes_cover_the_epoch_and_come_in_turn(count, size, world, workers, drop_last):
    """Without files: what each worker of each process reads is a part of one sequence, in batches that all have."""
    stream = LatentStream.__new__(LatentStream)
    stream._samples = count
    ends = []
    try:
        for rank in range(world):
            cut = StreamBatches(stream, Layout(size, True, 0, drop_last, rank, world), workers, False)
            lanes = [cut._range(lane) for lane in range(max(workers, 1))]
            assert all(one[1] == other[0] for one, other in pairwise(lanes))
            assert lanes[0][0] == (ends[-1] if ends else 0)
            ends.append(lanes[-1][1])
            in_turn = [-(-(end - begin) // size) for begin, end in lanes]
            assert sum(in_turn) == len(cut) and in_turn == sorted(in_turn, reverse=True)
            assert max(in_turn) - min(in_turn) <= 1
    except DataError:
        assert not ends and (count < world or (drop_last and count < size * world))
        return
    assert count - ends[-1] < (size * world if drop_last else world)


def test_epochs_are_mixed_and_follow_from_the_seed(data):
    def epochs(**options):
        (loader,) = loaders(data, 50, 1, **options)
        return [flat(batches(loader)) for _ in range(2)]

    first, second = epochs()
    assert (first, second) == tuple(epochs()) and first != second
    assert epochs(seed=1)[0] != first
    # The order of row groups changes, and rows are mixed across their borders.
    assert [number // ROWS for number in first[::ROWS]] != [number // ROWS for number in second[::ROWS]]
    jumps = [abs(one - other) for one, other in pairwise(first)]
    assert sum(jump > 2 * ROWS for jump in jumps) > 100
    assert epochs(shuffle=False) == [list(range(COUNT))] * 2


def test_a_window_and_a_row_group_are_all_that_is_read_ahead(data, reads):
    (loader,) = loaders(data, 10, 1, buffer=200)
    for number, _ in enumerate(loader):
        # Groups of the windows up to this batch: at least 44 rows each, and one that lies across the end.
        assert len(reads) <= (number // 20 + 1) * 200 // 44 + 1
        if number == 0:
            assert len(reads) <= 5
    assert len(reads) == len(set(reads)) == GROUPS
    reads.clear()
    parts = [batches(loader) for loader in loaders(data, 10, 4, buffer=200)]
    assert parts and GROUPS <= len(reads) <= GROUPS + 3  # where two lanes meet in a group, both read it


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (1, 2), (2, 1)])
def test_a_stream_goes_on_where_it_was(data, world, workers):
    whole, loader = (loaders(data, 40, world, workers)[-1] for _ in range(2))
    epochs, steps = [batches(whole) for _ in range(3)], len(whole)
    for step in (1, steps // 2 + 1, steps):
        loader.load_state_dict(loader.state_dict() | {"epoch": 1, "samples": 0})
        state = [loader.state_dict() for _ in islice(loader, step)][-1]
        assert state["samples"] == min(40 * world * step, COUNT)
        for restored in (loaders(data, 40, world, workers)[-1], loader):  # a new one, and one whose workers live on
            restored.load_state_dict(state)
            assert batches(restored) == epochs[1][step:]
            assert batches(restored) == epochs[2]


def test_what_lies_before_a_position_is_not_read(data, reads):
    (loader,) = loaders(data, 50, 1, buffer=256)
    loader.load_state_dict(loader.state_dict() | {"samples": 1300})
    assert len(batches(loader)) == 4
    assert len(reads) <= 4  # 1280 rows are whole windows that are gone; 220 rows are left


def test_a_position_of_another_layout_is_refused(data):
    state = loaders(data, 8, 1, 2)[0].state_dict()
    for options, sentence in [
        ({"world": 2, "size": 4, "workers": 2}, "world 1, this one has 2"),
        ({"world": 1, "size": 8, "workers": 0}, "workers 2, this one has 0"),
        ({"world": 1, "size": 8, "workers": 2, "buffer": 10}, "buffer 300, this one has 10"),
    ]:
        with pytest.raises(DataError, match=sentence):
            loaders(data, **options)[0].load_state_dict(state)
    with pytest.raises(DataError, match="kind 'stream', this one has 'samples'"):
        latent_loader(data, 8, shuffle=True).load_state_dict(state)


def test_workers_that_are_spawned_hear_of_the_position(data):
    expected, (loader,) = batches(loaders(data, 300, 1, 1)[0]), loaders(data, 300, 1, 1)
    loader.multiprocessing_context = "spawn"
    assert batches(loader) == expected
    loader.load_state_dict(loader.state_dict() | {"epoch": 0, "samples": 600})
    assert batches(loader) == expected[2:]


@pytest.mark.parametrize("workers", [0, 2])
def test_without_batches_a_stream_gives_the_samples_in_order(tmp_path, workers):
    write_set(tmp_path, {"train": containers(20)}, shard=8)
    data = cml.LatentDataset(tmp_path)
    stream = DataLoader(data.stream(), batch_size=None, num_workers=workers, collate_fn=lambda item: item)
    found = {label: latent for latent, label in stream}
    assert len(found) == len(data.stream()) == 20 and (workers or list(found) == list(range(20)))
    assert all(torch.equal(data[label][0].symbols, latent.symbols) for label, latent in found.items())


def test_sizes_of_a_stream(tmp_path):
    write_set(tmp_path, {"train": containers(9, sizes=3)})
    data = cml.LatentDataset(tmp_path)
    (batch,) = latent_loader(data.stream(), 9, sizes="pad")
    assert torch.equal(batch.to_float(), data.batch(range(9), pad=True).to_float())
    with pytest.raises(DataError, match=r"grid of 3x5, .*train/00001 of 2x5"):
        list(latent_loader(data.stream(), 9))
    with pytest.raises(DataError, match="cannot sort samples by size"):
        latent_loader(data.stream(), 9, sizes="bucket")


def test_what_is_wrong_while_it_streams_is_named(tmp_path):
    write_set(tmp_path, {"train": containers(30)}, shard=10)
    data, shard = cml.LatentDataset(tmp_path), tmp_path / "train-00001.parquet"
    with pytest.raises(DataError, match="mixes one sample or more, not 0"):
        data.stream(0)
    with pytest.raises(DataError, match="30 samples make no batch of 31 on each of 1 processes"):
        latent_loader(data.stream(), 31, drop_last=True)
    loader = latent_loader(data.stream(), 10)
    whole = shard.read_bytes()
    shard.write_bytes(whole.replace(containers(30)[12], bytes(len(containers(30)[12]))))
    with pytest.raises(DataError, match=r"train-00001\.parquet is damaged \(.*: fetch it again"):
        list(loader)
    write_set(tmp_path / "other", {"train": containers(9)}, shard=9)
    shard.write_bytes((tmp_path / "other" / "train-00000.parquet").read_bytes())
    with pytest.raises(DataError, match=r"Row group 0 of .*train-00001\.parquet has 9 rows, not 10"):
        list(loader)
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00001\.parquet is missing"):
        list(loader)
