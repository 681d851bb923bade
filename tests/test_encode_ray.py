"""The same encoding by the workers of a Ray cluster on this machine, one of which is killed on the way."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGKILL

import numpy as np
import pytest
import torch

import cml
from cml.data import encode_shard
from cml.data.encode_dataset import encode_dataset
from cml.data.spool import Spool
from cml.errors import DataError

ray = pytest.importorskip("ray", reason="needs the extra `ray`")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of its own parts, on each other
CODEC, COUNT, SHARD = "rgb_f8c48:step=0.05", 16, 4  # slow, so that there is time to kill


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(COUNT):
        noise = torch.from_numpy(rng.uniform(-1, 1, (3, 300, 400)).astype(np.float32))
        cml.write_image(root / f"{number:02d}.png", noise)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir()}


def writer_of(path: Path) -> int | None:
    """The process that has a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link) == str(path):
                return int(link.parts[2])
        except OSError:
            continue
    return None


def kill_a_writer(out: Path, killed: list[tuple[str, int]]) -> None:
    """Kill the first worker that is seen in the middle of a shard; note which, and how many samples it had done."""
    end = time.monotonic() + 120
    while not killed and time.monotonic() < end:
        time.sleep(0.01)
        for path in out.glob(".*.part"):
            worker = writer_of(path) if path.stat().st_size > 20_000 else None
            if worker in (None, os.getpid()):
                continue
            os.kill(worker, SIGKILL)
            with Spool(path, encode_shard._spool_schema()) as spool:
                killed.append((path.name, len(spool.table())))
            return


def test_a_worker_is_killed_and_the_files_are_those_of_the_local_engine(cluster, photos, tmp_path):
    encode_dataset(photos, tmp_path / "local", CODEC, shard_samples=SHARD)
    out, killed, seen = tmp_path / "ray", [], []
    watcher = threading.Thread(target=kill_a_writer, args=(out, killed))
    watcher.start()
    encode_dataset(
        photos, out, CODEC, shard_samples=SHARD, engine="ray", workers=2,
        on_sample=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    watcher.join()
    assert len(killed) == 1 and 0 < killed[0][1] < SHARD, "nobody was killed in the middle of a shard"
    assert files(out) == files(tmp_path / "local")
    assert seen[0] == (0, COUNT) and seen[-1] == (COUNT, COUNT)


def test_a_bad_sample_is_one_sentence_from_another_machine(cluster, photos, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for path in sorted(photos.iterdir())[:3]:
        (source / path.name).symlink_to(path)
    (source / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"The sample bad\.png cannot be encoded: Cannot read"):
        encode_dataset(source, tmp_path / "out", "rgb_f8c12", engine="ray", workers=1)
    manifest = encode_dataset(source, tmp_path / "out", "rgb_f8c12", engine="ray", workers=1, on_error="skip")
    assert [entry["id"] for entry in manifest.skipped] == ["bad.png"] and manifest.splits["train"].samples == 3
