"""Stored latents to batches: the same floats one by one and batch by batch, whatever reads them."""

import gzip
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import photo
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Subset

import cml
from cml.codecs.bitstream import Container
from cml.codecs.entropy import BACKENDS
from cml.data.batches import LatentBatch
from cml.data.loading import latent_loader
from cml.data.stored import LatentFolder, LatentShards, write_shard
from cml.errors import BitstreamError, CodecError, DataError

NAMES = ("cat", "dog")
COUNT = 10


def codec(**options):
    return cml.create_codec("rgb_f8c12", **{"entropy": "zstd", **options})


def blobs(size=(40, 56), **options) -> list[bytes]:
    return codec(**options).compress([photo(size, 3, seed) for seed in range(COUNT)])


def write_folder(root: Path, containers: list[bytes]) -> Path:
    for number, blob in enumerate(containers):
        path = root / NAMES[number % 2] / "deeper" / f"{number:02d}.cml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(blob)
    return root


def write_shards(root: Path, containers: list[bytes]) -> list[Path]:
    paths = [root / "a.tar", root / "b.tar"]
    for shard, path in enumerate(paths):
        chosen = range(shard, len(containers), 2)
        write_shard(path, [(f"{NAMES[shard]}/{number:02d}", containers[number], shard) for number in chosen])
    return paths


@pytest.fixture
def folder(tmp_path) -> LatentFolder:
    return LatentFolder(write_folder(tmp_path / "latents", blobs()), codec())


@pytest.mark.parametrize("entropy", BACKENDS)
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_batches_are_what_to_float_gives_one_by_one(tmp_path, entropy, kind):
    containers = blobs(entropy=entropy)
    if kind == "folder":
        data = LatentFolder(write_folder(tmp_path, containers), codec())
        assert data.classes == NAMES
    else:
        data = LatentShards(write_shards(tmp_path, containers), codec())
    assert data.labels.tolist() == [0] * 5 + [1] * 5
    order = [*range(0, COUNT, 2), *range(1, COUNT, 2)]
    batches = list(latent_loader(data, 4))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert all(batch.symbols.dtype == torch.int8 for batch in batches)
    floats = torch.cat([batch.to_float("cpu") for batch in batches])
    assert torch.equal(floats, torch.stack([codec().unpack(containers[number]).to_float() for number in order]))
    assert torch.equal(floats, torch.stack([latent.to_float() for latent, _ in (data[i] for i in range(COUNT))]))
    assert torch.cat([batch.labels for batch in batches]).tolist() == [data[i][1] for i in range(COUNT)]


def test_a_single_item_is_the_latent_itself(folder):
    latent, label = folder[-1]
    assert label == 1 and latent.original_shape == (3, 40, 56) and latent.codec_id == codec().spec.codec_id
    assert torch.equal(codec().decode(latent), codec().decompress(blobs()[9]))
    with pytest.raises(IndexError):
        folder[COUNT]


@pytest.mark.parametrize(("kind", "start"), [("folder", "fork"), ("shards", "fork"), ("shards", "spawn")])
def test_workers_give_the_same_batches(tmp_path, kind, start):
    if kind == "folder":
        data = LatentFolder(write_folder(tmp_path, blobs()), codec())
    else:
        data = LatentShards(write_shards(tmp_path, blobs()), codec())
    alone, helped = latent_loader(data, 4, shuffle=True), latent_loader(data, 4, shuffle=True, workers=2)
    helped.multiprocessing_context = start
    for _ in range(2):
        for one, other in zip(alone, helped, strict=True):
            assert torch.equal(one.to_float(), other.to_float())
            assert torch.equal(one.labels, other.labels) and torch.equal(one.steps, other.steps)


def test_large_batches_come_whole_from_workers(folder):
    """Past half a megabyte symbols travel through shared memory."""
    many = Subset(folder, [number % COUNT for number in range(1500)])
    (one,), (other,) = list(latent_loader(many, 1500)), list(latent_loader(many, 1500, workers=1))
    assert one.symbols.nbytes > 2**19 and torch.equal(one.symbols, other.symbols)


def test_a_batch_moves_as_integers(folder):
    batch = folder.__getitems__([0, 9, 4]).to("meta")
    assert {batch.symbols.device.type, batch.steps.device.type, batch.labels.device.type} == {"meta"}
    assert batch.symbols.dtype == torch.int8 and len(batch) == 3
    assert batch.to_float().shape == (3, 12, 5, 7) and batch.to_float().device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_pinned_batches(folder):
    for workers in (0, 1):
        (batch,) = latent_loader(folder, COUNT, device="cuda", workers=workers)
        assert batch.symbols.is_pinned()
        assert torch.allclose(batch.to_float("cuda").cpu(), batch.to_float(), atol=1e-6)


def test_shuffling_hangs_on_the_seed_alone(folder):
    def epochs(seed, shuffle=True):
        loader = latent_loader(folder, 3, shuffle=shuffle, seed=seed)
        return [torch.cat([batch.symbols for batch in loader]) for _ in range(2)]

    first, again, other, plain = epochs(1), epochs(1), epochs(2), epochs(1, shuffle=False)
    assert all(map(torch.equal, first, again))
    assert torch.equal(*plain)
    assert not torch.equal(*first) and not torch.equal(first[0], other[0]) and not torch.equal(first[0], plain[0])
    assert torch.equal(first[0].unique(dim=0), plain[0].unique(dim=0))


def test_the_order_leaves_the_global_generator_alone(folder):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(latent_loader(folder, 3, shuffle=True))
    assert torch.equal(torch.rand(3), expected)


def test_a_smaller_last_batch_can_be_left_out(folder):
    assert [len(batch) for batch in latent_loader(folder, 4, drop_last=True)] == [4, 4]
    part = Subset(folder, [7, 1])
    assert [batch.labels.tolist() for batch in latent_loader(part, 4)] == [[1, 0]]


def test_steps_and_widths_may_differ_within_a_batch(tmp_path):
    steps = (0.0003, 0.2, 0.7)
    items = [codec(step=step, entropy=e).encode(photo((24, 24))) for step, e in zip(steps, BACKENDS, strict=False)]
    assert [latent.symbols.dtype for latent in items] == [torch.int16, torch.int8, torch.int8]
    packed = [codec(entropy=e).pack(latent) for latent, e in zip(items, BACKENDS, strict=False)]
    write_shard(tmp_path / "mixed.tar", [(f"{number}", blob, None) for number, blob in enumerate(packed)])
    (batch,) = latent_loader(LatentShards(tmp_path / "mixed.tar", codec()), 3)
    assert batch.symbols.dtype == torch.int16 and batch.labels.tolist() == [-1, -1, -1]
    assert batch.steps.tolist() == [latent.step for latent in items]
    assert torch.equal(batch.to_float(), torch.stack([latent.to_float() for latent in items]))


def test_sizes_of_one_grid_share_a_batch_and_others_are_refused(tmp_path):
    sizes = [(40, 56), (33, 50), (41, 56)]
    containers = [codec().compress(photo(size)) for size in sizes]
    data = LatentFolder(write_folder(tmp_path, containers), codec())  # cat: 0, 2; dog: 1
    assert data.__getitems__([0, 2]).symbols.shape == (2, 12, 5, 7)
    with pytest.raises(DataError, match=r"00\.cml has a grid of 5x7, .*02\.cml of 6x7; encode"):
        data.__getitems__([0, 1])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("entropy", ["zstd", "order0"])
def test_sizes_may_be_padded(tmp_path, entropy, workers):
    sizes = [(40, 56), (16, 80), (40, 56), (72, 8)]
    containers = [codec(entropy=entropy).compress(photo(size)) for size in sizes]
    containers[3] = codec(step=0.0003, entropy="zstd").compress(photo(sizes[3]))  # int16
    write_shard(tmp_path / "x.tar", [(f"{number}", blob, number) for number, blob in enumerate(containers)])
    data = LatentShards(tmp_path / "x.tar", codec())
    (batch,) = latent_loader(data, 4, sizes="pad", workers=workers)
    assert batch.symbols.shape == (4, 12, 9, 10) and batch.symbols.dtype == torch.int16
    assert batch.grids is not None and batch.grids.tolist() == [[5, 7], [2, 10], [5, 7], [9, 1]]
    values, mask = batch.to_float(), batch.mask()
    for number, blob in enumerate(containers):
        expected = codec().unpack(blob)
        height, width = expected.symbols.shape[1:]
        inside = torch.zeros(9, 10, dtype=torch.bool)
        inside[:height, :width] = True
        assert torch.equal(mask[number], inside)
        assert torch.equal(values[number, :, :height, :width], expected.to_float())
        assert torch.equal(batch.symbols[number, :, :height, :width], expected.symbols.to(torch.int16))
        assert not values[number][:, ~inside].any() and not batch.symbols[number][:, ~inside].any()
    equal = data.batch([0, 2], pad=True)
    assert equal.grids is None and equal.mask().shape == (2, 5, 7) and equal.mask().all()
    assert torch.equal(equal.to_float(), data.batch([0, 2]).to_float())
    assert batch.to("meta").to_float().shape == (4, 12, 9, 10)


@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=3), min_size=1, max_size=4))
def test_masks_in_any_dimension(grids):
    grids = [grid[: len(min(grids, key=len))] for grid in grids]
    full = torch.tensor(grids).amax(0).tolist()
    symbols = torch.ones(len(grids), 2, *full, dtype=torch.int8)
    batch = LatentBatch(
        symbols, torch.ones(len(grids)), torch.zeros(len(grids)), torch.zeros(2), 1.0, torch.tensor(grids)
    )
    expected = torch.zeros(len(grids), *full, dtype=torch.bool)
    for row, grid in zip(expected, grids, strict=True):
        row[tuple(map(slice, grid))] = True
    assert torch.equal(batch.mask(), expected)
    assert torch.equal(batch.to_float(), expected[:, None].expand(symbols.shape).float())


def test_sizes_may_go_into_buckets(tmp_path):
    sizes = [(40, 56), (16, 80), (33, 50), (16, 73), (40, 49)]
    containers = [codec().compress(photo(size)) for size in sizes]
    data = LatentFolder(write_folder(tmp_path, containers), codec())  # cat: 0, 2, 4; dog: 1, 3
    assert data.grids().tolist() == [[5, 7]] * 3 + [[2, 10]] * 2
    batches = list(latent_loader(data, 2, sizes="bucket"))
    assert [batch.symbols.shape for batch in batches] == [(2, 12, 5, 7), (1, 12, 5, 7), (2, 12, 2, 10)]
    assert all(batch.grids is None for batch in batches)
    orders = set()
    loader = latent_loader(data, 2, sizes="bucket", shuffle=True)
    for _ in range(8):
        shuffled = [tuple(batch.symbols.shape) for batch in loader]
        assert sorted(shuffled) == sorted(tuple(batch.symbols.shape) for batch in batches)
        orders.add(tuple(shuffled))
    assert len(orders) > 1


def test_other_codecs_and_other_channels_are_refused(tmp_path):
    containers = blobs()
    containers[3] = cml.create_codec("rgb_f16c12").compress(photo((40, 56)))
    with pytest.raises(BitstreamError, match=r"03\.cml was written by codec .*, not by rgb_f8c12"):
        list(latent_loader(LatentFolder(write_folder(tmp_path / "one", containers), codec()), 4))
    with pytest.raises(BitstreamError, match=r"00\.cml: The container was written by codec"):
        LatentFolder(tmp_path / "one", cml.create_codec("rgb_f8c48"))
    containers[3] = codec(channels=5).compress(photo((40, 56)))
    with pytest.raises(DataError, match=r"03\.cml holds 5 latent channels and .*00\.cml 12"):
        list(latent_loader(LatentFolder(write_folder(tmp_path / "two", containers), codec()), 4))
    with pytest.raises(CodecError, match="no latents"):
        LatentFolder(tmp_path / "one", cml.create_codec("jpeg"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_container_is_named(tmp_path, workers):
    containers = blobs()
    containers[5] = containers[5][:-9]
    data = LatentShards(write_shards(tmp_path, containers), codec())
    with pytest.raises(BitstreamError, match=r"b\.tar, member dog/05\.cml: The container is damaged"):
        list(latent_loader(data, 4, workers=workers))


@pytest.mark.parametrize("entropy", sorted(BACKENDS.keys() - {"ctx"}))  # which decodes anything to something
def test_a_payload_that_does_not_decode_is_named(tmp_path, entropy):
    """Its checksum holds: what the back-end refuses is named all the same, also where it decodes many at once."""
    containers = blobs(entropy=entropy)
    broken = Container.unpack(containers[4])
    containers[4] = replace(broken, payload=broken.payload[: len(broken.payload) // 2]).pack()
    data = LatentFolder(write_folder(tmp_path, containers), codec())
    with pytest.raises(BitstreamError, match=rf"04\.cml: The {entropy} payload"):
        list(latent_loader(data, 4))


def test_folders_that_cannot_be_loaded(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        LatentFolder(tmp_path / "nowhere", codec())
    with pytest.raises(DataError, match=r"holds no \.cml files; `cml encode"):
        LatentFolder(tmp_path, codec())
    containers = blobs()
    (tmp_path / "loose.cml").write_bytes(containers[0])
    (tmp_path / "empty").mkdir()
    data = LatentFolder(tmp_path, codec())
    assert (len(data), data.classes, data.labels.tolist()) == (1, (), [-1])
    write_folder(tmp_path, containers)
    with pytest.raises(DataError, match="both loose and in class folders"):
        LatentFolder(tmp_path, codec())


def test_a_file_that_vanishes_is_named(folder):
    os.unlink(folder.source(3))
    with pytest.raises(DataError, match=r"06\.cml"):
        list(latent_loader(folder, 4))


def test_a_shard_is_a_tar_file_in_the_convention_of_webdataset(tmp_path):
    containers = blobs()
    items = [(f"some folder.d/{number:05d}", blob, 3) for number, blob in enumerate(containers)]
    write_shard(tmp_path / "x.tar", iter(items))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames()[:2] == ["some folder.d/00000.cml", "some folder.d/00000.cls"]
        for key, blob, label in items:
            members = [tar.extractfile(f"{key}.{extension}") for extension in ("cml", "cls")]
            assert [member and member.read() for member in members] == [blob, str(label).encode()]
    first = (tmp_path / "x.tar").read_bytes()
    write_shard(tmp_path / "x.tar", iter(items))
    assert (tmp_path / "x.tar").read_bytes() == first
    data = LatentShards(str(tmp_path / "x.tar"), codec(), classes=["a", "b", "c", "d"])
    assert [data._read(number) for number in range(COUNT)] == containers
    assert data.classes[data[0][1]] == "d"


def test_shards_of_others_are_read(tmp_path):
    """Foreign members are left alone, names are long, the label comes first."""
    containers, key = blobs(), "deep/" * 60 + "ключ"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for extension, payload in (("jpg", b"no"), ("cls", b"7\n"), ("json", b"{}"), ("cml", containers[0])):
            (tmp_path / "member").write_bytes(payload)
            tar.add(tmp_path / "member", f"{key}.{extension}")
    data = LatentShards(tmp_path / "x.tar", codec())
    assert (len(data), data.labels.tolist()) == (1, [7]) and data.source(0).endswith("ключ.cml")
    assert torch.equal(data[0][0].symbols, codec().unpack(containers[0]).symbols)


def test_shards_that_cannot_be_read(tmp_path):
    containers = blobs()
    path = tmp_path / "x.tar"
    with pytest.raises(DataError, match=r"There is no file .*x\.tar"):
        LatentShards(path, codec())
    write_shard(path, [])
    with pytest.raises(DataError, match=r"hold no \.cml members"):
        LatentShards([path], codec())
    with pytest.raises(DataError, match=r"hold no \.cml members"):
        LatentShards([], codec())
    write_shard(path, [("a", containers[0], 1), ("b", containers[1], None)])
    with pytest.raises(DataError, match=r"b\.cml has no \.cls beside it"):
        LatentShards(path, codec())
    write_shard(path, [("a", containers[0], 1)])
    cut = path.read_bytes()[:700]
    write_shard(path, [("a", containers[0], "dog")])  # pyright: ignore[reportArgumentType]
    named = path.read_bytes()
    for broken in (cut, named, gzip.compress(named), b"not a tar file" * 100):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="not a whole, uncompressed tar file"):
            LatentShards(path, codec())


@pytest.mark.parametrize("keys", [["a.b"], [""], ["a/"], ["a", "a"]])
def test_keys_that_a_shard_cannot_hold_leave_no_file(tmp_path, keys):
    with pytest.raises(DataError, match="unique and have no dot"):
        write_shard(tmp_path / "x.tar", [(key, b"", 0) for key in keys])
    assert not list(tmp_path.iterdir())
