"""A codec and a task from another package: found, listed, used; broken ones say so and break nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cml.errors import CmlError
from cml.registry import Registry

MODULE = '''
import zlib

import numpy as np
import torch
from cml.codecs.base import Codec, CodecSpec, fingerprint
from cml.codecs.bitstream import Container
from cml.errors import BitstreamError
from cml.tasks.classification import Classification


class Coarse(Codec):
    """Keep the upper bits of each sample, deflated."""

    def __init__(self, bits: int = 4):
        self.bits = bits

    @property
    def spec(self) -> CodecSpec:
        codec_id = fingerprint({"codec": "coarse", "version": 1})
        return CodecSpec(name=f"coarse:bits={self.bits}", ndim=2, channels=(1, 3), codec_id=codec_id)

    def _compress(self, x, bit_depth):
        levels = ((x + 1) / 2 * (2**self.bits - 1)).round().to(torch.uint8)
        payload = zlib.compress(levels.numpy().tobytes())
        return Container(self.spec.codec_id, self.bits, tuple(x.shape), 0, bit_depth, 0, False, payload).pack()

    def _decompress(self, blob):
        container = Container.unpack(blob)
        if container.codec_id != self.spec.codec_id:
            raise BitstreamError("These bytes were not written by coarse.")
        levels = np.frombuffer(zlib.decompress(container.payload), np.uint8).reshape(container.shape)
        return torch.from_numpy(levels.astype(np.float32)) / (2**int(container.parameter) - 1) * 2 - 1


class Upright(Classification):
    """Classification of what must not be flipped."""

    name = "upright"
    flips = ("none",)
'''


def package(site: Path, name: str, entry_points: str, module: str | None = None) -> None:
    """Install a package the way pip leaves it: a module, and a folder that describes it."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    if module is not None:
        (site / f"{name}.py").write_text(module)


@pytest.fixture
def site(tmp_path):
    entry_points = "[cml.codecs]\ncoarse = coarse_codec:Coarse\n[cml.tasks]\nupright = coarse_codec:Upright\n"
    package(tmp_path / "site", "coarse_codec", entry_points, MODULE)
    return tmp_path / "site"


def python(site, *arguments, expect=0):
    """What a process with those packages prints."""
    environment = os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == expect, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join((done.stdout + done.stderr).split())


def break_some(site):
    """A package whose modules are missing, and one that takes names that are taken."""
    package(site, "hollow", "[cml.codecs]\nhollow = hollow_inside:Codec\n[cml.tasks]\nhollow = hollow:Task\n", "")
    package(site, "second", "[cml.codecs]\ntwice = math:pi\njpeg = math:pi\n")
    package(site, "third", "[cml.codecs]\ntwice = math:e\n")


def test_the_codec_is_made_and_found_from_its_bytes(site):
    break_some(site)  # finding the codec of some bytes asks all of them
    code = (
        "import cml, torch\n"
        "x = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8)\n"
        "codec = cml.create_codec('coarse:bits=3')\n"
        "blob = codec.compress(x)\n"
        "x_hat = cml.decompress(blob)\n"
        "assert codec.spec.name == 'coarse:bits=3' and x_hat.shape == x.shape\n"
        "assert (x_hat - (x / 127.5 - 1)).abs().max() <= 1 / 7 + 1e-6\n"
        "assert torch.equal(codec.decompress(blob), x_hat)\n"
        "print('found')"
    )
    assert python(site, "-c", code) == "found"


def test_all_are_listed_the_unusable_ones_with_a_sentence(site):
    break_some(site)
    text = python(site, "-m", "cml", "list")
    for part in ("coarse:bits=4", "upright", "package hollow does not load", "'twice' is taken twice", "webp:quality"):
        assert part in text


def test_both_run_through_a_comparison(site, picture_folder, tmp_path):
    text = python(
        site, "-m", "cml", "compare", "--task", "upright", "--codecs", "coarse:bits=1 coarse:bits=3", "--data",
        f"folder:{picture_folder}", "--size", 32, "--epochs", 1, "--out", tmp_path / "run",
    )  # fmt: skip
    assert "coarse:bits=1" in text and "coarse:bits=3" in text
    assert "# upright on" in (tmp_path / "run" / "report.md").read_text()
    assert "task: upright" in (tmp_path / "run" / "matrix.yaml").read_text()


def test_an_unusable_one_says_so_when_it_is_asked_for(site, monkeypatch):
    break_some(site)
    monkeypatch.syspath_prepend(str(site))
    codecs, tasks = Registry("codec", {"jpeg": "math:tau"}), Registry("task", {})
    assert codecs.names() == ["coarse", "hollow", "jpeg", "twice"] and tasks.names() == ["hollow", "upright"]
    for registry, name, sentence in (
        (codecs, "hollow", "package hollow does not load .ModuleNotFoundError: .*: repair or uninstall"),
        (tasks, "hollow", "The task 'hollow' of the package hollow does not load .AttributeError"),
        (
            codecs,
            "twice",
            "taken twice, by the package (second|third) and by the package (second|third): uninstall one",
        ),
        (codecs, "jpeg", "taken twice, by cml itself and by the package second"),
    ):
        with pytest.raises(CmlError, match=sentence):
            registry.get(name)
    assert [thing.__name__ for thing in codecs.loadable()] == ["Coarse"]
