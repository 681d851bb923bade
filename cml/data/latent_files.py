"""The files of a latent data set: parquet shards, one row a sample, and the manifest that describes them.

    OUT/manifest.json                                  which codec, source and preprocessing; shards and checksums
    OUT/train-00000.parquet ... test-00000.parquet     id, latent (container bytes), label, shape, source_shape, ...

OUT is a local folder or any URL that fsspec opens. Hugging Face `datasets`, pandas and DuckDB read the shards as they
are; class names travel in the schema, as `datasets` writes them.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cml.errors import DataError
from cml.files import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem

MANIFEST = "manifest.json"
FORMAT, VERSION = "cml-latents", 1
ROWS = 256  # of a row group: what is read at once
COLUMNS = ("id", "latent", "label", "shape", "source_shape")
_NOTE = b"cml"  # key in a shard's schema metadata


@dataclass(frozen=True)
class Shard:
    """One parquet file.

    Attributes:
        file: its name in the folder.
        samples: rows.
        bytes: size of the file.
        sha256: of the file, hexadecimal.
    """

    file: str
    samples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SplitFiles:
    """The shards of one split, in the order of the samples.

    Attributes:
        samples: rows of all shards.
        bytes: sum of the containers.
        source_bytes: sum of the source's own files of these samples.
        shards: the files.
    """

    samples: int
    bytes: int
    source_bytes: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Manifest:
    """What a latent data set is.

    Attributes:
        cml: version that wrote it.
        complete: False while the encoding has not finished.
        codec: operating point (`CodecSpec.name`).
        codec_id: fingerprint of configuration and weights.
        codec_config: `CodecSpec.settings`.
        ndim, channels: D and C of the encoded signals.
        latent_channels, patch: c and F, of the last axis where they differ.
        mean, std: (c,) as in `Latent`.
        source: `name` and `revision`.
        preprocessing: `size`, [H, W] or None for signals as they are, and `channels`.
        shard_samples: samples of the source in a shard.
        classes: names in the order of the labels, None where the source names none.
        splits: name -> files.
        skipped: `id` and `error` of each sample that could not be encoded.
        axis_patches: F of each axis, where they differ.
    """

    cml: str
    complete: bool
    codec: str
    codec_id: str
    codec_config: Mapping[str, Any]
    ndim: int
    channels: int
    latent_channels: int
    patch: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: Mapping[str, str]
    preprocessing: Mapping[str, Any]
    shard_samples: int
    classes: tuple[str, ...] | None
    splits: Mapping[str, SplitFiles]
    skipped: tuple[Mapping[str, str], ...]
    axis_patches: tuple[int, ...] = ()

    @property
    def cell(self) -> tuple[int, ...]:
        """Samples of each axis behind one position of the latents."""
        return self.axis_patches or (self.patch,) * self.ndim


def open_root(root: str | Path) -> "tuple[AbstractFileSystem, str]":
    """The file system of a folder or URL and the path in it."""
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(str(root))
    except (ValueError, ImportError) as error:
        raise DataError(f"Cannot open {root}: {str(error).rstrip('.')}.") from error
    return fs, path.rstrip("/")


def is_local(fs: "AbstractFileSystem") -> bool:
    """Whether paths of a file system are those of the operating system."""
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(fs, LocalFileSystem)


def write_whole(fs: "AbstractFileSystem", path: str, data: bytes) -> None:
    """Write a file whole or not at all; its folder is made when it is missing.

    Local files go through a temporary name; elsewhere one `put` is all or nothing by itself.
    """
    if is_local(fs):
        write_atomic(path, data)
        return
    try:
        fs.makedirs(path.rpartition("/")[0], exist_ok=True)
        fs.pipe_file(path, data)
    except OSError as error:
        raise DataError(f"Cannot write {path}: {error.strerror or error}.") from error


def read_manifest(root: str | Path, complete: bool = True) -> Manifest:
    """The manifest of a latent data set.

    Args:
        root: folder or URL.
        complete: refuse a data set whose encoding has not finished.

    Raises:
        DataError: there is none, it is damaged or of another version, or the encoding has not finished.
    """
    fs, path = open_root(root)
    try:
        raw = json.loads(fs.cat_file(f"{path}/{MANIFEST}"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(
            f"{root} is no latent data set: it has no {MANIFEST}; `cml encode-dataset SOURCE -o {root}` makes one."
        ) from error
    except OSError as error:
        raise DataError(f"Cannot read {root}/{MANIFEST}: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"{root}/{MANIFEST} is damaged: {error}; fetch it again, or encode again.") from error
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise DataError(f"{root}/{MANIFEST} is not that of a latent data set.")
    if raw.get("version") != VERSION:
        raise DataError(
            f"{root} has version {raw.get('version')} of the format, this cml reads {VERSION}: take the cml that wrote "
            f"it ({raw.get('cml')}), or encode again."
        )
    try:
        manifest = _from_json(raw)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{root}/{MANIFEST} is damaged ({error!r}); fetch it again, or encode again.") from error
    if complete and not manifest.complete:
        raise DataError(
            f"The encoding of {root} has not finished: run the same `cml encode-dataset` again, it goes on where it "
            "stopped."
        )
    return manifest


def _from_json(raw: dict[str, Any]) -> Manifest:
    # Manifests of before codecs had a patch for each axis do not name them.
    whole: dict[str, Any] = {"axis_patches": (), **raw}
    values = {name: whole[name] for name in Manifest.__dataclass_fields__}
    values["splits"] = {
        name: SplitFiles(**split | {"shards": tuple(Shard(**shard) for shard in split["shards"])})
        for name, split in raw["splits"].items()
    }
    for name in ("mean", "std", "skipped", "axis_patches"):
        values[name] = tuple(whole[name])
    values["classes"] = None if raw["classes"] is None else tuple(raw["classes"])
    return Manifest(**values)


def write_manifest(root: str | Path, manifest: Manifest) -> None:
    """Write the manifest, whole or not at all."""
    fs, path = open_root(root)
    text = json.dumps({"format": FORMAT, "version": VERSION} | asdict(manifest), indent=1)
    write_whole(fs, f"{path}/{MANIFEST}", text.encode() + b"\n")


def row_schema(
    labelled: bool, classes: Sequence[str] | None = None, metadata: "Mapping[str, pa.DataType] | None" = None
) -> "pa.Schema":
    """The columns of a shard.

    Args:
        labelled: whether there is a column `label`.
        classes: names in the order of the labels, which make it a ClassLabel of `datasets`.
        metadata: further columns.
    """
    import pyarrow as pa

    sizes = pa.list_(pa.int32())
    fields = {"id": pa.string(), "latent": pa.binary()} | ({"label": pa.int64()} if labelled else {})
    fields |= {"shape": sizes, "source_shape": sizes} | dict(metadata or {})
    if not (labelled and classes):
        return pa.schema(list(fields.items()))
    features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
    hint = json.dumps({"info": {"features": features}})
    return pa.schema(list(fields.items()), metadata={"huggingface": hint})


def shard_name(split: str, number: int) -> str:
    """SPLIT-NUMBER.parquet."""
    return f"{split}-{number:05d}.parquet"


def write_parquet(
    fs: "AbstractFileSystem", path: str, table: "pa.Table", note: Mapping[str, Any] | None = None
) -> Shard:
    """Write a shard, whole or not at all; equal rows give equal bytes.

    Containers are stored as they are: they are dense, and neither compression, dictionary nor statistics gain anything.

    Args:
        fs, path: where.
        table: rows of `row_schema`, at most two gigabytes of containers.
        note: facts about the shard that its schema carries along (`read_note`).
    """
    import pyarrow.parquet as pq

    if note is not None:
        table = table.replace_schema_metadata(
            (table.schema.metadata or {}) | {_NOTE: json.dumps(note, sort_keys=True).encode()}
        )
    leaves = [f"{name}.list.element" if name in COLUMNS[3:] else name for name in table.column_names]
    others = [name for name in leaves if name != "latent"]
    by_column: Any = {  # as pyarrow takes it, and its annotations do not know
        "compression": {name: "zstd" for name in others} | {"latent": "none"},
        "use_dictionary": [name for name in others if name != "id"],
        "write_statistics": others,
    }
    buffer = io.BytesIO()
    pq.write_table(table.combine_chunks(), buffer, row_group_size=ROWS, write_page_checksum=True, **by_column)
    data = buffer.getvalue()
    write_whole(fs, path, data)
    return Shard(path.rpartition("/")[2], table.num_rows, len(data), hashlib.sha256(data).hexdigest())


def read_note(fs: "AbstractFileSystem", path: str) -> dict[str, Any]:
    """What `write_parquet` was given as note."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with fs.open(path, "rb") as file:
            return json.loads((pq.read_schema(file).metadata or {})[_NOTE])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def read_shard(root: str | Path, shard: Shard, columns: Sequence[str] | None = None) -> "pa.Table":
    """The rows of a shard, in order.

    Args:
        root: the data set.
        shard: one of its manifest.
        columns: of the row; None for all.

    Raises:
        DataError: the file is missing, damaged, or not as large as the manifest says; the message names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    fs, base = open_root(root)
    path = f"{base}/{shard.file}"
    try:
        size = fs.size(path)
        if size != shard.bytes:
            raise DataError(f"{path} has {size} bytes, the manifest says {shard.bytes}: fetch it or encode it again.")
        with fs.open(path, "rb") as file:
            table = pq.ParquetFile(file, page_checksum_verification=True).read(columns)
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: fetch it again, or run the same `cml encode-dataset` again.") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if table.num_rows != shard.samples:
        raise DataError(f"{path} has {table.num_rows} samples and the manifest says {shard.samples}: encode it again.")
    return table


def verify(root: str | Path) -> None:
    """Compare every shard with its checksum, and the counts with each other.

    Raises:
        DataError: a shard is missing or changed; the message names the first.
    """
    fs, base = open_root(root)
    for name, split in read_manifest(root).splits.items():
        for shard in split.shards:
            if hash_file(fs, f"{base}/{shard.file}") != (shard.bytes, shard.sha256):
                raise DataError(
                    f"{base}/{shard.file} has changed since it was written: fetch it again, or remove it and run the "
                    "same `cml encode-dataset` again."
                )
        if split.samples != sum(shard.samples for shard in split.shards):
            raise DataError(f"{root}/{MANIFEST} is damaged: the samples of {name} are not the sum of its shards.")


def hash_file(fs: "AbstractFileSystem", path: str) -> tuple[int, str]:
    """Size and sha256 of a file."""
    digest, size = hashlib.sha256(), 0
    try:
        file: Any
        with fs.open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    return size, digest.hexdigest()


def _damaged(path: str, error: Exception) -> DataError:
    return DataError(
        f"{path} is damaged ({' '.join(str(error).split())[:200]}): fetch it again, or remove it and run the same "
        "`cml encode-dataset` again."
    )
