"""Pictures to encode, and what lies in the folder of an encoding."""

from pathlib import Path
from typing import Any

from helpers import photo

import cml
from cml.data import encode_shard
from cml.data.latent_files import read_manifest, read_shard
from cml.data.spool import Spool

CODEC = "rgb_f8c12:entropy=order0"
COUNT, SHARD = 22, 8


def make_photos(root: Path) -> Path:
    """Pictures of two classes: 17 in train, three shards, and 5 in test."""
    for number in range(COUNT):
        split = "test" if number >= 17 else "train"
        path = root / split / "ab"[number % 2] / f"{number:02d}.png"
        cml.write_image(path, photo((24 + number, 40), 3, number).float() / 127.5 - 1)
    return root


def files(root: Path) -> dict[str, bytes]:
    """All of a folder, hidden files included."""
    return {path.name: path.read_bytes() for path in root.iterdir()}


def rows(root: Path) -> list[dict[str, Any]]:
    """All samples of a data set, in order."""
    return [
        row
        for split in read_manifest(root).splits.values()
        for shard in split.shards
        for row in read_shard(root, shard).to_pylist()
    ]


def spooled(out: Path, split: str = "train") -> list[int]:
    """Positions in the listing of the samples that lie in spools."""
    found = []
    for path in sorted(out.glob(f".{split}-*.part")):
        with Spool(path, encode_shard._spool_schema()) as open_shard:
            found += open_shard.table()["index"].to_pylist()
    return found
