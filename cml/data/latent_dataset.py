"""Latent data sets as `cml encode-dataset` writes them: parquet shards and a manifest, from a folder or a URL.

manifest.json --codec's statistics--> LatentFormat: no codec is needed
SPLIT-*.parquet --LatentDataset: containers in memory--> data[i], data.labels, batches in any order
                --LatentStream: one row group after the other--> batches, shuffled in a window
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from cml.codecs.base import Codec, Latent
from cml.data.batches import LatentFormat
from cml.data.latent_files import MANIFEST, Manifest, Shard, SplitFiles, open_root, read_manifest, read_shard
from cml.data.latent_stream import LatentStream, label_column, missing
from cml.data.stored import StoredLatents
from cml.errors import CodecError, DataError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_READERS = 8  # threads, for the latency of object stores; on a disk they do no harm


@dataclass(frozen=True, eq=False)
class _Rows:
    """A split in memory.

    Attributes:
        parts: container bytes, end to end, in pieces as Arrow read them.
        places: int64 (N, 3), part, begin and end of each container.
        labels: int64 (N,).
        ids: of the samples.
        shapes: int32 (N, D + 1), of the encoded signals.
    """

    parts: list[memoryview]
    places: np.ndarray
    labels: np.ndarray
    ids: "pa.ChunkedArray"
    shapes: np.ndarray


class LatentDataset(StoredLatents):
    """One split of a latent data set, map-style: any sample in any order, from memory.

    The containers are read whole when the first of them, or a label, is asked for (`latent_loader` does it before it
    starts workers, and forked workers share the memory; a spawned one reads for itself), and every shard is compared
    with its checksum. They are small: a million
    pictures of 160 x 160 in `rgb_f8c12` take 1.3 GB. What does not fit streams: `stream`, for which nothing is read.

    Args:
        root: folder or URL of the data set.
        split: which part of it.
        codec: if given, it must be the one that wrote the data set; none is needed.

    Raises:
        CodecError: the codec is another one.
        DataError: there is no such data set or split, its encoding has not finished, or a shard is missing or damaged.
        BitstreamError: a container is damaged; the message names shard and sample.
    """

    def __init__(self, root: str | Path, split: str = "train", codec: Codec | None = None):
        self.root, self.split, self.manifest = str(root), split, read_manifest(root)
        self._files = _files(self.root, self.manifest, split)
        self.form = _format(self.root, self.manifest, codec)
        self.classes = self.manifest.classes or ()

    def __len__(self) -> int:
        return self._files.samples

    @property
    def labels(self) -> np.ndarray:
        return self._rows.labels

    @cached_property
    def ids(self) -> list[str]:
        """The samples' names, in order."""
        return self._rows.ids.to_pylist()

    def table(self, columns: Sequence[str] | None = None) -> "pd.DataFrame":
        """The rows as pandas sees them, read from the shards.

        Args:
            columns: which; None for all but the containers.
        """
        import pyarrow as pa

        shards = self._files.shards
        known = read_shard(self.root, shards[0]).column_names
        columns = [name for name in known if name != "latent"] if columns is None else list(columns)
        if unknown := [name for name in columns if name not in known]:
            raise DataError(f"{self.root} has no column {unknown[0]!r}; it has {', '.join(known)}.")
        return pa.concat_tables([read_shard(self.root, shard, columns) for shard in shards]).to_pandas()

    def stream(self, buffer: int = 4096) -> LatentStream:
        """The same split for `latent_loader`, read as it goes: memory for `buffer` containers a worker, not for all."""
        return LatentStream(self.root, self._files, self.form, self.classes, buffer)

    def load(self) -> None:
        self._rows  # noqa: B018 - a cached property: reading it once loads the shards, before workers are forked

    def source(self, index: int) -> str:
        ends = np.cumsum([shard.samples for shard in self._files.shards])
        shard = self._files.shards[np.searchsorted(ends, index, "right")]
        return f"{self.root}/{shard.file}, sample {self._rows.ids[index].as_py()}"

    def grids(self) -> np.ndarray:
        """int64 (N, D), the latent grid of each sample."""
        shapes, which = np.unique(self._rows.shapes, axis=0, return_inverse=True)
        return np.array([self.form.grid(tuple(shape)) for shape in shapes.tolist()], np.int64)[which.reshape(-1)]

    def _read(self, index: int) -> bytes:
        rows = self._rows
        part, begin, end = rows.places[index].tolist()
        return bytes(rows.parts[part][begin:end])

    @cached_property
    def _rows(self) -> _Rows:
        import pyarrow as pa

        with ThreadPoolExecutor(_READERS) as pool:
            table = pa.concat_tables(pool.map(partial(_read_checked, self.root), self._files.shards))
        parts, places = [], []
        for number, chunk in enumerate(table["latent"].chunks):
            _, offsets, data = chunk.buffers()
            edges = np.frombuffer(offsets, np.int32)[chunk.offset : chunk.offset + len(chunk) + 1].astype(np.int64)
            places.append(np.stack([np.full(len(chunk), number), edges[:-1], edges[1:]], 1))
            parts.append(memoryview(data))
        return _Rows(parts, np.concatenate(places), label_column(table), table["id"], _matrix(table["shape"]))

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()  # gigabytes do not go through a pipe: a spawned worker reads anew
        state.pop("_rows", None)
        return state


def _files(root: str, manifest: Manifest, split: str) -> SplitFiles:
    """The shards of a split, which must all be there, with the sizes that the manifest says."""
    if split not in manifest.splits:
        raise DataError(f"{root} has no split {split!r}; it has {', '.join(manifest.splits) or 'none'}.")
    files = manifest.splits[split]
    if not files.samples:
        raise DataError(f"The split {split!r} of {root} holds no samples.")
    fs, base = open_root(root)
    paths = [f"{base}/{shard.file}" for shard in files.shards]
    try:
        sizes = fs.sizes(paths)
    except FileNotFoundError as error:
        lost = next((path for path in paths if not fs.exists(path)), base)
        raise missing(lost) from error
    except OSError as error:
        raise DataError(f"Cannot read {root}: {error.strerror or error}.") from error
    for path, size, shard in zip(paths, sizes, files.shards, strict=True):
        if size != shard.bytes:
            raise DataError(f"{path} has {size} bytes, the manifest says {shard.bytes}: fetch it or encode it again.")
    return files


def _read_checked(root: str, shard: Shard) -> "pa.Table":
    """What is kept of a shard, which must be the very file that the manifest describes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, base = open_root(root)
    path = f"{base}/{shard.file}"
    try:
        with fs.open(path, "rb") as file:
            data = cast(bytes, file.read())
    except FileNotFoundError as error:
        raise missing(path) from error
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    if hashlib.sha256(data).hexdigest() != shard.sha256:
        raise DataError(
            f"{path} is damaged, its checksum is not the manifest's: fetch it again, or remove it and run the same "
            "`cml encode-dataset` again."
        )
    return pq.ParquetFile(pa.BufferReader(data)).read(["id", "latent", "label", "shape"], use_threads=False)


def _format(root: str, manifest: Manifest, codec: Codec | None) -> LatentFormat:
    if codec is not None and codec.spec.codec_id != manifest.codec_id:
        raise CodecError(
            f"{root} was encoded by {manifest.codec} ({manifest.codec_id}), not by {codec.spec.name} "
            f"({codec.spec.codec_id}): give that codec, or none."
        )
    mean, std = (torch.tensor(values, dtype=torch.float32) for values in (manifest.mean, manifest.std))
    empty = torch.empty((len(mean), *[0] * manifest.ndim), dtype=torch.int8)
    like = Latent(empty, (manifest.channels, *[0] * manifest.ndim), manifest.codec_id, 1.0, mean, std)
    return LatentFormat(manifest.codec, manifest.cell, like, MANIFEST)


def _matrix(column: "pa.ChunkedArray") -> np.ndarray:
    """A column of lists of one length, (N, length)."""
    return column.combine_chunks().flatten().to_numpy().reshape(len(column), -1)
