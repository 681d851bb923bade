"""`compare` on Ray: a real cluster of two workers, which are killed mid-run; several processes that add to one run."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cml.eval import cells, matrix, ray_cells
from cml.eval.results import Result, Run

import cml
from cml.data.cluster import connect
from cml.errors import CmlError

ray = pytest.importorskip("ray")

CODECS = ["gray_f8c4:step=0.25", "jpeg:quality=20"]
CELLS = 10  # two seeds of pixels, bigpatch, latent, and two reconstructions

# A worker that is in the midst of its line.
WRITE = """
import sys
from cml.eval.results import Run, _lock
with open(Run(sys.argv[1]).file, "ab", buffering=0) as file:
    _lock(file)
    file.write(b'{"key": "theirs", "view": "latent", ')
    print("half", flush=True)
    sys.stdin.readline()
    file.write(b'"codec": "c", "seed": 0, "status": "ok"}\\n')
"""


@pytest.fixture(scope="module")
def cluster():
    with connect(workers=2):
        yield


def toy(folder, out, **options):
    settings = {"size": 32, "epochs": 3, "seeds": 2, "codecs": CODECS, "out": out} | options
    return cml.compare("classification", f"folder:{folder}", **settings)


def lines(out):
    path = Path(out) / "results.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def same(ours: Run, theirs: Run) -> None:
    mine, wanted = ours.results(), theirs.results()
    assert mine.keys() == wanted.keys() and len(mine) == CELLS
    for key, result in wanted.items():
        assert mine[key].status == result.status == "ok"
        assert (mine[key].metrics, mine[key].bpp, mine[key].psnr) == (result.metrics, result.bpp, result.psnr)
        for name, values in theirs.items(key).items():
            assert np.array_equal(ours.items(key)[name], values)


def kill_workers(out: Path, killed: list[int]) -> None:
    """SIGKILL what runs cells, as soon as the first seed of a latent is finished and the second is not."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and not killed:
        if sum(b'"view": "latent"' in line for line in _read(out / "results.jsonl").splitlines()) == 1:
            for place in Path("/proc").glob("[0-9]*"):
                if b"ray::_work" in _read(place / "cmdline") and os.getpid() in _ancestors(int(place.name)):
                    os.kill(int(place.name), signal.SIGKILL)
                    killed.append(int(place.name))
        time.sleep(0.005)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def _ancestors(pid: int) -> list[int]:
    status = _read(Path(f"/proc/{pid}/stat"))
    parent = int(status.rpartition(b")")[2].split()[1]) if status else 0
    return [parent, *_ancestors(parent)] if parent > 1 else []


def test_with_workers_killed_the_run_is_that_of_this_process(cluster, picture_folder, tmp_path, capsys):
    table = toy(picture_folder, tmp_path / "local", epochs=8)  # slow enough to be caught in the midst of it
    capsys.readouterr()
    killed: list[int] = []
    killer = threading.Thread(target=kill_workers, args=(tmp_path / "ray", killed))
    killer.start()
    spread = toy(picture_folder, tmp_path / "ray", epochs=8, engine="ray", workers=2)
    killer.join()
    assert killed
    same(Run(tmp_path / "ray"), Run(tmp_path / "local"))
    assert len(lines(tmp_path / "ray")) == CELLS, "a cell ran twice"
    assert {line["environment"]["threads"] for line in lines(tmp_path / "ray")} == {1}
    assert spread["accuracy"].tolist() == table["accuracy"].tolist()
    shown = capsys.readouterr().err
    assert f"{CELLS} cells, 0 done before, {CELLS} to run" in shown
    assert f"[{CELLS}/{CELLS}, " in shown and shown.count("accuracy 0") + shown.count("accuracy 1") == CELLS
    ours, theirs = ((tmp_path / run / "matrix.yaml").read_text() for run in ("ray", "local"))
    assert ours.replace("/ray", "/local") == theirs


def test_what_kills_every_worker_is_recorded_and_the_rest_goes_on(cluster, picture_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cells, "_RETRIES", 0)
    (tmp_path / "deadly.sh").write_text("grep -q ray:: /proc/$PPID/cmdline && kill -9 $PPID; exit 1\n")
    (tmp_path / "deadly.yaml").write_text(
        "encode: sh {here}/deadly.sh {input} {output}\ndecode: sh {here}/deadly.sh {input} {output}\n"
    )
    codecs = [f"command:{tmp_path / 'deadly.yaml'}", "jpeg"]
    table = toy(
        picture_folder, tmp_path / "run", engine="ray", codecs=codecs, views=["reconstruction"], epochs=1, seeds=1
    )
    (failed,) = table.attrs["failed"]
    assert failed.codec.startswith("command:") and "worker of this cell died" in failed.error
    assert Counter(line["status"] for line in lines(tmp_path / "run")) == {"ok": 3, "error": 1}


def test_workers_that_would_make_other_results_are_refused(cluster, picture_folder, tmp_path):
    make = partial(matrix.TASKS.get("classification"), f"folder:{picture_folder}")
    task, engine = make(size=32), ray_cells.RayEngine(partial(make, size=16))
    with pytest.raises(CmlError, match="would make other results"):
        cells.execute(task, matrix.plan(task, [], ["pixels"], 16), [0], 16, Run(tmp_path), engine)
    assert not lines(tmp_path)


@pytest.mark.parametrize("dies", [False, True])
def test_a_line_that_another_process_writes_is_whole_or_gone(tmp_path, dies):
    run = Run(tmp_path)
    run.append(Result("before", "latent", "c", 0, "ok"))
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "half\n"
        ours = [threading.Thread(target=run.append, args=(Result("ours", "latent", "c", 0, "ok"),))]
        ours.append(threading.Thread(target=Run(tmp_path).news))
        for thread in ours:
            thread.start()
        time.sleep(0.2)  # for one that does not wait its turn
        assert all(thread.is_alive() for thread in ours)
        if dies:
            other.kill()
        else:
            other.communicate("\n")
    for thread in ours:
        thread.join()
    assert [line["key"] for line in lines(tmp_path)] == ["before", *([] if dies else ["theirs"]), "ours"]
    assert [result.key for result in run.news()] == [line["key"] for line in lines(tmp_path)]


def test_seeds_are_split_where_conditions_are_few(picture_folder):
    task = matrix.TASKS.get("classification")(f"folder:{picture_folder}", size=32)
    conditions = matrix.plan(task, ["jpeg"], ["reconstruction"], 16)
    missing = {condition: [0, 1] for condition in conditions}
    whole, split = (ray_cells._units(missing, workers) for workers in (3, 4))
    assert [unit.seeds for unit in whole] == [[0, 1]] * 3
    assert [unit.seeds for unit in split] == [[0], [1]] * 3
    *_, last = split
    assert [unit.condition.view for unit in split if last.waits_for(unit)] == ["pixels", "bigpatch"]
    assert not any(split[0].waits_for(unit) for unit in split)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"engine": "rey"}, "did you mean ray"),
        ({"workers": 2}, "--engine ray"),
        ({"engine": "ray", "workers": 0}, "1 worker"),
    ],
)
def test_bad_requests_fail_before_anything_runs(picture_folder, tmp_path, options, sentence):
    with pytest.raises(CmlError, match=sentence):
        toy(picture_folder, tmp_path / "run", **options)
    assert not (tmp_path / "run" / "results.jsonl").exists()


def test_ray_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CmlError, match=r"pip install 'cml-toolkit\[ray\]'"), connect():
        pass


@pytest.mark.parametrize(("address", "sentence"), [("127.0.0.1:9", "refused"), ("here", "HOST:PORT")])
def test_an_address_that_nobody_answers_is_one_sentence(monkeypatch, address, sentence):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(CmlError, match=rf"join the Ray cluster at {address} .*{sentence}"), connect(address):
        pass
