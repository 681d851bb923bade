"""Test pictures through codecs, kept for the page."""

import json
from typing import Any, cast

import numpy as np
import torch
from cml.eval import gallery
from cml.tasks.base import Task
from helpers import photo
from PIL import Image

import cml


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


class Pictures:
    """As much of a task as the gallery asks for."""

    def __init__(self, size: tuple[int, int]):
        self.size = size
        self.pictures = [photo(size, 3, seed) for seed in range(3)]

    def signal(self, split, index):
        return self.pictures[index]

    def labels(self, split):
        return torch.tensor([0, 1, 1])


def task(size: tuple[int, int]) -> Task:
    return cast(Any, Pictures(size))


def test_pictures_are_kept_without_loss(tmp_path, monkeypatch):
    codecs = [
        cml.create_codec(name) for name in ("identity", "jpeg:quality=10", "rgb_f8c12:step=0.5", "jpeg:quality=10")
    ]
    broken = cml.create_codec("webp:quality=10")
    monkeypatch.setattr(broken, "_compress", lambda *_: 1 / 0)
    (tmp_path / "old.webp").write_bytes(b"")
    gallery.keep(task((60, 84)), [*codecs, broken], tmp_path)
    pictures = json.loads((tmp_path / gallery.INDEX).read_text())["pictures"]
    assert [picture["index"] for picture in pictures] == [1, 0] and not (tmp_path / "old.webp").exists()
    jpeg, ours, failed = pictures[0]["codecs"]
    x = Pictures((60, 84)).signal("test", 1)
    blob = codecs[1].compress(x)
    decoded = ((codecs[1].decompress(blob) + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels(tmp_path / jpeg["file"]), decoded)
    assert np.array_equal(pixels(tmp_path / pictures[0]["file"]), x.permute(1, 2, 0).numpy())
    assert jpeg["bpp"] == 8 * len(blob) / (60 * 84) and 20 < jpeg["psnr"] < 40
    assert ours["channels"] == 12 and ours["grid"] == [8, 11]
    assert pixels(tmp_path / ours["latent"]).shape == (3 * 9 - 1, 4 * 12 - 1)
    assert "division by zero" in failed["error"] and "file" not in failed


def test_large_pictures_show_their_middle(tmp_path, monkeypatch):
    monkeypatch.setattr(gallery, "_BUDGET", 150_000)
    gallery.keep(task((300, 200)), [cml.create_codec("jpeg:quality=95")], tmp_path)
    first = json.loads((tmp_path / gallery.INDEX).read_text())["pictures"][0]
    height, width = first["shown"]
    assert first["size"] == [300, 200] and 96 <= width <= height < 300
    assert sum(path.stat().st_size for path in tmp_path.glob("*.webp")) <= 150_000
    middle = Pictures((300, 200)).signal("test", 1)[:, (300 - height) // 2 :, (200 - width) // 2 :][:, :height, :width]
    assert np.array_equal(pixels(tmp_path / first["file"]), middle.permute(1, 2, 0).numpy())
