"""Which samples make which batch: whole epochs, every process its part, and the position that carries over."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from latent_sets import containers, write_set
from torch.utils.data import Subset

import cml
from cml.data.loading import latent_loader
from cml.data.order import EpochOrder, Layout
from cml.errors import DataError

COUNT = 37


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> cml.LatentDataset:
    root = tmp_path_factory.mktemp("set")
    write_set(root, {"train": containers(COUNT, sizes=3)}, shard=16)
    return cml.LatentDataset(root)


def by_rank(count, size, world, epoch=0, samples=0, shuffle=True, drop_last=False, buckets=None):
    """Each process's batches, step by step, and the positions after them."""
    found = []
    for rank in range(world):
        order = EpochOrder(Layout(size // world, shuffle, 3, drop_last, rank, world), count, buckets)
        ends = order.begin(epoch, samples)
        batches = list(order)
        assert len(batches) == len(ends) and (samples or len(order) == len(ends))
        found.append((ends, batches))
    assert all(ends == found[0][0] for ends, _ in found)
    return found[0][0], list(zip(*(batches for _, batches in found), strict=True))


@given(st.data(), st.integers(1, 200), st.integers(0, 4), st.booleans(), st.booleans(), st.booleans())
def test_processes_share_global_batches_and_positions(draw, count, epoch, shuffle, drop_last, bucketed):
    """The union over ranks is that of one process, whatever their number, and goes on from any position."""
    size = draw.draw(st.sampled_from([4, 8, 20]))
    buckets = np.array(draw.draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))) if bucketed else None
    options = {"epoch": epoch, "shuffle": shuffle, "drop_last": drop_last, "buckets": buckets}
    try:
        ends, alone = by_rank(count, size, 1, **options)
    except DataError:
        assert drop_last and (count < size or bucketed)
        return
    seen = Counter(index for (batch,) in alone for index in batch)
    most = 0 if not drop_last else (size - 1) * (3 if bucketed else 1)
    assert set(seen.values()) == {1} and count - most <= len(seen) <= count
    steps = dict(zip(ends, (sorted(batch) for (batch,) in alone), strict=True))
    if buckets is not None:
        assert all(len(set(buckets[batch])) == 1 for batch in steps.values())
    for world in (2, 4):
        try:
            theirs, batches = by_rank(count, size, world, **options)
        except DataError:
            assert all(len(batch) < world for batch in steps.values())
            continue
        # What is left of an epoch may be fewer samples than processes, then nobody has it.
        assert all(len(steps[end]) < world for end in steps.keys() - set(theirs))
        for end, parts in zip(theirs, batches, strict=True):
            sizes = [len(part) for part in parts]
            assert sorted(index for part in parts for index in part) == steps[end]
            assert min(sizes) > 0 and max(sizes) - min(sizes) <= 1 and max(sizes) <= size // world
    middle = draw.draw(st.sampled_from([0, *ends]))
    assert by_rank(count, size, 1, samples=middle, **options)[1] == alone[len([end for end in ends if end <= middle]) :]


def test_epochs_and_seeds_have_orders_of_their_own():
    def first(seed, epoch):
        order = EpochOrder(Layout(20, True, seed, False, 0, 1), 100)
        order.begin(epoch, 0)
        return next(iter(order))

    drawn = [first(seed, epoch) for seed in (0, 1, -1) for epoch in (0, 1)]
    assert len(set(map(tuple, drawn))) == 6 and first(1, 1) == drawn[3]


def batches(loader):
    return [batch.labels.tolist() for batch in loader]


def flat(lists):
    return [item for part in lists for item in part]


def sequence(data, workers=0, **options):
    return latent_loader(data, 4, shuffle=True, sizes="pad", workers=workers, seed=5, **options)


@pytest.mark.parametrize("sizes", ["pad", "bucket"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_where_it_was(data, sizes, workers):
    def make():
        return latent_loader(data, 4, shuffle=True, sizes=sizes, workers=workers, seed=5)

    whole = latent_loader(data, 4, shuffle=True, sizes=sizes, seed=5)
    epochs = [batches(whole) for _ in range(3)]
    assert Counter(flat(epochs[0])) == Counter(range(COUNT)) and epochs[0] != epochs[1]
    loader = make()
    assert batches(loader) == epochs[0]
    seen, states = zip(*((batch.labels.tolist(), loader.state_dict()) for batch in islice(loader, 3)), strict=True)
    seen, state = list(seen), states[-1]
    assert seen == epochs[1][:3] and state["epoch"] == 1 and state["samples"] == len(flat(seen))
    for again in (make(), loader):  # a new one, and one whose workers live on
        again.load_state_dict(state)
        assert batches(again) == epochs[1][3:]
        assert again.state_dict() == state | {"epoch": 2, "samples": 0}
        assert batches(again) == epochs[2]


def test_positions_at_the_edges_of_epochs(data):
    loader = sequence(data)
    epochs = [batches(loader) for _ in range(3)]
    loader = sequence(data)
    assert loader.state_dict()["epoch"] == loader.state_dict()["samples"] == 0
    state = [loader.state_dict() for _ in loader][-1]
    again = sequence(data)
    again.load_state_dict(state)  # saved at the last batch: what comes is the end of the epoch, and then the next one
    assert (state["epoch"], state["samples"]) == (0, COUNT)
    assert batches(again) == [] and batches(again) == epochs[1]
    again = sequence(data)
    next(iter(again))  # an epoch left early is over
    assert batches(again) == epochs[1]


def test_what_lies_before_a_position_is_not_read(data, monkeypatch):
    loader, read = sequence(data), []
    original = cml.LatentDataset._read
    monkeypatch.setattr(cml.LatentDataset, "_read", lambda self, index: read.append(index) or original(self, index))
    loader.load_state_dict(loader.state_dict() | {"samples": 28})
    assert flat(batches(loader)) == read and len(read) == COUNT - 28


@pytest.mark.parametrize("sizes", ["pad", "bucket"])
def test_a_position_carries_over_to_another_number_of_processes(data, sizes):
    def steps(size, world, state=None):
        loaders = [
            latent_loader(data, size, shuffle=True, sizes=sizes, rank=rank, world=world) for rank in range(world)
        ]
        for loader in loaders:
            if state:
                loader.load_state_dict(state)
        for parts in zip(*loaders, strict=True):
            states = [loader.state_dict() for loader in loaders]
            assert all(state == states[0] for state in states)
            yield sorted(label for part in parts for label in part.labels.tolist()), states[0]

    alone = list(steps(4, 1))
    assert [step for step, _ in steps(2, 2)] == [step for step, _ in alone if len(step) > 1]
    for step, (_, state) in enumerate(alone):
        expected = [rest for rest, _ in alone[step + 1 :] if len(rest) > 1]
        assert [rest for rest, _ in steps(2, 2, state)] == expected


def test_a_foreign_position_is_refused(data):
    state = sequence(data).state_dict()
    for name, value in [("seed", 6), ("sizes", "same"), ("global_batch", 8), ("count", 36), ("kind", "stream")]:
        with pytest.raises(DataError, match=f"belongs to a loader with {name} {value!r}, this one has"):
            sequence(data).load_state_dict(state | {name: value})
    for part in ({}, {"epoch": 1}, {**state, "samples": "ten"}):
        with pytest.raises(DataError, match="no position of a loader"):
            sequence(data).load_state_dict(part)


def test_processes_are_those_of_torch_distributed(data, monkeypatch):
    mine = batches(latent_loader(data, 4, sizes="pad", rank=1, world=2))
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert batches(latent_loader(data, 4, sizes="pad")) == mine and mine[0] == [4, 5, 6, 7]


def test_loaders_that_cannot_be_made(data):
    for options, sentence in [
        ({"rank": 2, "world": 2}, "Ranks count from 0"),
        ({"rank": 0}, "both `rank` and `world`"),
        ({"sizes": "crop"}, '"same", "pad" or "bucket", not \'crop\''),
        ({"workers": -1}, "no worker or some, not -1"),
        ({"drop_last": True, "rank": 0, "world": 10}, "37 samples make no batch of 4 on each of 10 processes"),
    ]:
        with pytest.raises(DataError, match=sentence):
            latent_loader(data, 4, **options)
    with pytest.raises(DataError, match="one sample or more, not 0"):
        latent_loader(data, 0)
    with pytest.raises(DataError, match="37 samples make no batch of 1 on each of 38"):
        latent_loader(data, 1, rank=0, world=38)
    with pytest.raises(DataError, match=r"sizes='pad' is for stored latents, not for a ConcatDataset"):
        latent_loader(data + data, 4, sizes="pad")


@pytest.mark.parametrize("sizes", ["pad", "bucket"])
def test_subsets_of_subsets(data, sizes):
    part = Subset(Subset(data, range(36, 0, -1)), [0, 3, 6])
    assert batches(latent_loader(part, 3, sizes=sizes)) == [[36, 33, 30]]
