"""Small latent data sets, written as the format says: the label of a sample is its number, its id tells it, too."""

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from helpers import photo

import cml
from cml.codecs.base import Codec
from cml.codecs.bitstream import Container
from cml.data.latent_files import Manifest, SplitFiles, open_root, row_schema, shard_name, write_manifest, write_parquet

SIZES = ((24, 40), (16, 33), (40, 24))  # grids of gray_f8c4: 3x5, 2x5, 5x3


def gray(**options: Any) -> Codec:
    return cml.create_codec("gray_f8c4", **{"entropy": "zstd", **options})


@cache
def containers(count: int, sizes: int = 1, different: int = 12) -> tuple[bytes, ...]:
    """`count` containers of the first `sizes` of SIZES in turn; after `different` of them they come again."""
    blobs = gray().compress([photo(SIZES[n % sizes], 1, n) for n in range(different)])
    return tuple(blobs[n % different] for n in range(count))


def write_set(
    root: str | Path,
    splits: Mapping[str, Sequence[bytes]],
    shard: int = 600,
    labelled: bool = True,
    classes: tuple[str, ...] | None = None,
    **changes: Any,
) -> Manifest:
    """Write a data set; `changes` are of the manifest."""
    codec = gray()
    latent, files = codec.unpack(containers(1)[0]), {}
    fs, base = open_root(root)
    schema = row_schema(labelled, classes, {"place": pa.string()})
    for split, blobs in splits.items():
        rows = [_row(split, number, blob) for number, blob in enumerate(blobs)]
        shards = [
            write_parquet(
                fs,
                f"{base}/{shard_name(split, number)}",
                pa.Table.from_pylist(rows[shard * number :][:shard], schema),
            )
            for number in range(-(-len(rows) // shard))
        ]
        files[split] = SplitFiles(len(rows), sum(map(len, blobs)), 2 * sum(map(len, blobs)), tuple(shards))
    spec = codec.spec
    assert spec.latent_channels and spec.patch
    fields: dict[str, Any] = {
        "cml": cml.__version__, "complete": True, "codec": spec.name, "codec_id": spec.codec_id,
        "codec_config": dict(spec.settings), "ndim": 2, "channels": 1, "latent_channels": spec.latent_channels,
        "patch": spec.patch, "mean": tuple(latent.mean.tolist()), "std": tuple(latent.std.tolist()),
        "source": {"name": "photos", "revision": ""}, "preprocessing": {"size": None, "channels": 1},
        "shard_samples": shard, "classes": classes, "splits": files, "skipped": (),
    }  # fmt: skip
    manifest = Manifest(**fields | changes)
    write_manifest(root, manifest)
    return manifest


def _row(split: str, number: int, blob: bytes) -> dict[str, Any]:
    try:
        shape = list(Container.unpack(blob).shape)
    except cml.BitstreamError:
        shape = [1, *SIZES[0]]
    row = {"id": f"{split}/{number:05d}", "latent": blob, "label": number, "shape": shape, "source_shape": [3, 50, 60]}
    return row | {"place": f"room {number % 7}"}
