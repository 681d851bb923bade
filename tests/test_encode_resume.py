"""What an encoding survives: kills at any moment, a full disk, a second one, and what it leaves alone."""

import errno
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from signal import SIGKILL

import pyarrow.parquet as pq
import pytest
from encoding import CODEC, COUNT, SHARD, files, make_photos, spooled

from cml.data import encode_shard, spool
from cml.data.encode_dataset import encode_dataset
from cml.data.latent_files import read_manifest, verify
from cml.data.source_folder import FolderSource
from cml.errors import DataError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures, encoded without an interruption."""
    out = tmp_path_factory.mktemp("whole") / "out"
    encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    return out


# For each line "OUT LOG MOMENT" encodes in a fork that kills itself at that moment, and says how it ended: one start of
# Python for all kills, and forks inherit what is imported and compiled.
_CHILD = """
import os, pathlib, signal, sys
import fsspec.implementations.local, pyarrow.compute, pyarrow.parquet
import cml
from cml.data import spool
from cml.data.encode_dataset import encode_dataset
from cml.data.source_folder import FolderSource

source, codec = sys.argv[1:]
cml.create_codec(codec).compress(cml.read_image(next(pathlib.Path(source).rglob("*.png"))))
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

def encode(out, log, moment):
    read, replace = FolderSource.read, os.replace
    def logged(self, split, index):
        with open(log, "a") as file:
            file.write(self.identify(split, index) + "\\n")
        return read(self, split, index)
    FolderSource.read = logged
    if moment == "writing":
        os.replace = lambda source, target: die() if str(target).endswith(".parquet") else replace(source, target)
    if moment == "written":  # the shard has its name, and its spool is still there
        spool.Spool.remove = die
    if moment == "described":  # all shards are whole, the manifest says that they are not
        os.replace = lambda source, target: die() if str(target).endswith("README.md") else replace(source, target)
    dies_at = int(moment) if moment.isdigit() else -1
    encode_dataset(source, out, codec, shard_samples=8, workers=2,
                   on_sample=lambda done, total: done == dies_at and die())

for line in sys.stdin:
    child = os.fork()
    if not child:
        encode(*line.split())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_files_and_does_nothing_twice(photos, whole, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    names = FolderSource(photos, 2).splits["train"]["id"].to_pylist()
    finished: list[str] = []
    command = [sys.executable, "-c", _CHILD, str(photos), CODEC]
    # A fork of a process whose OpenMP threads have started may wait for them for ever.
    quiet = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=quiet) as child:
        assert child.stdin and child.stdout
        for moment in ("5", "writing", "written", "19", "described"):
            child.stdin.write(f"{out} {log} {moment}\n")
            child.stdin.flush()
            assert child.stdout.readline() == f"{-SIGKILL}\n"
            again = log.read_text().split() if log.exists() else []
            assert not set(again) & set(finished), "what had been finished was read again"
            log.unlink(missing_ok=True)
            finished = [names[index] for index in spooled(out)]
            finished += [name for path in out.glob("*.parquet") for name in pq.read_table(path)["id"].to_pylist()]
            with pytest.raises(DataError, match="has not finished"):
                read_manifest(out)
            for path in out.glob(".*.part"):  # a record that the kill cut off
                with open(path, "ab") as file:
                    file.write(path.read_bytes()[-90:-7])
    assert len(set(finished)) == COUNT
    assert files(out).keys() > files(whole).keys() - {"README.md"}, "temporary files are left by the kills"
    encode_dataset(photos, out, CODEC, shard_samples=SHARD, workers=1)
    assert files(out) == files(whole)


def test_a_finished_data_set_is_left_alone_and_what_was_removed_comes_back(photos, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    assert before == {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    (out / "train-00001.parquet").unlink()
    (out / "test-00000.parquet").write_bytes(b"damaged")
    encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    assert files(out) == files(whole)
    assert out.joinpath("train-00000.parquet").stat().st_mtime_ns == before["train-00000.parquet"]


def test_no_space_left(photos, whole, tmp_path, monkeypatch):
    """In the middle of a record, and of a shard: a sentence, nothing lost, nothing half-written under a final name."""
    out, write, mkstemp = tmp_path / "out", spool.Spool._write, tempfile.mkstemp
    room = [5]
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def append(self, data):
        room[0] -= 1
        if room[0] < 0:
            self._file.write(memoryview(data)[:40])
            raise full
        write(self, data)

    def temporary(**options):
        if ".parquet." in options["prefix"]:
            raise full
        return mkstemp(**options)

    monkeypatch.setattr(spool.Spool, "_write", append)
    with pytest.raises(DataError, match=r"no space left for .* run the same command again"):
        encode_dataset(photos, out, CODEC, shard_samples=SHARD, workers=2)
    assert len(spooled(out)) == 4  # five records, one of them the schema
    monkeypatch.setattr(spool.Spool, "_write", write)
    monkeypatch.setattr(tempfile, "mkstemp", temporary)
    with pytest.raises(DataError, match="no space left"):
        encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    assert len(spooled(out)) == SHARD and not list(out.glob("*.parquet"))
    monkeypatch.undo()
    seen: list[int] = []
    encode_dataset(photos, out, CODEC, shard_samples=SHARD, on_sample=lambda done, total: seen.append(done))
    assert seen[1] == SHARD and files(out) == files(whole)


def test_a_small_disk_that_is_made_larger(photos, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        for size in ("8k", "16k", "24k"):  # full before the first shard is whole, then with one and with three of four
            subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)
            with pytest.raises(DataError, match="no space left"):
                encode_dataset(photos, disk / "out", CODEC, shard_samples=SHARD)
            for path in (disk / "out").glob("*.parquet"):
                assert path.read_bytes() == (whole / path.name).read_bytes()
        subprocess.run(["mount", "-o", "remount,size=10m", str(disk)], check=True)
        encode_dataset(photos, disk / "out", CODEC, shard_samples=SHARD)
        assert files(disk / "out") == files(whole)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_encodings_into_one_folder(photos, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(spool, "_PATIENCE", 1)
    (out / "manifest.json").write_text(
        json.dumps(json.loads((whole / "manifest.json").read_text()) | {"complete": False})
    )
    first = spool.Spool(out / ".train-00000.part", encode_shard._spool_schema())
    with first, pytest.raises(DataError, match="Another process is encoding into"):
        encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    encode_dataset(photos, out, CODEC, shard_samples=SHARD)
    assert files(out) == files(whole)


def test_an_object_store(photos, whole):
    """No appending there: whole shards are kept, the open one is encoded again."""
    import fsspec

    root, fs = "memory://bucket/set", fsspec.filesystem("memory")

    def stop(done: int, total: int) -> None:
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_dataset(photos, root, CODEC, shard_samples=SHARD, on_sample=stop)
    seen: list[int] = []
    encode_dataset(photos, root, CODEC, shard_samples=SHARD, on_sample=lambda done, total: seen.append(done))
    assert seen[0] == 8
    assert {Path(path).name: fs.cat_file(path) for path in fs.ls("/bucket/set", detail=False)} == files(whole)
    verify(root)
