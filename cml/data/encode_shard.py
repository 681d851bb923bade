"""One shard of a latent data set: what every worker of every engine does, and what it leaves behind when it dies."""

import errno
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cml.codecs.base import Codec, to_uint8, to_unit
from cml.codecs.bitstream import attach
from cml.codecs.resample import resize_image
from cml.data.latent_files import (
    COLUMNS,
    Shard,
    hash_file,
    is_local,
    open_root,
    read_note,
    row_schema,
    shard_name,
    write_parquet,
)
from cml.data.latents import single_threaded
from cml.data.sources import Source
from cml.data.spool import Spool
from cml.errors import CmlError, DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from fsspec import AbstractFileSystem

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Job:
    """What is encoded, how, and where to; it pickles.

    Attributes:
        source: of the samples.
        codec: with latents.
        out: folder or URL.
        channels: of every signal that is encoded.
        size: (height, width) of every picture; None for signals as they are.
        shard_samples: samples of the listing in a shard.
        skip: leave bad samples out instead of stopping.
    """

    source: Source
    codec: Codec
    out: str
    channels: int
    size: tuple[int, int] | None
    shard_samples: int
    skip: bool

    def shards(self) -> list[tuple[str, int]]:
        """(split, number) of every shard, in order."""
        return [
            (split, number)
            for split, table in self.source.splits.items()
            for number in range(-(-len(table) // self.shard_samples))
        ]

    def indices(self, split: str, number: int) -> range:
        """Which samples of the listing a shard holds."""
        start = number * self.shard_samples
        return range(start, min(start + self.shard_samples, len(self.source.splits[split])))


@dataclass(frozen=True)
class Written:
    """A finished shard.

    Attributes:
        split, number: which.
        shard: the file.
        bytes: of its containers.
        source_bytes: of the files behind them.
        skipped: `id` and `error` of the samples that it lacks.
    """

    split: str
    number: int
    shard: Shard
    bytes: int
    source_bytes: int
    skipped: tuple[Mapping[str, str], ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Written":
        """What `asdict` made a dictionary, through json or not."""
        return cls(**dict(values) | {"shard": Shard(**values["shard"]), "skipped": tuple(values["skipped"])})


def inspect_shard(job: Job, split: str, number: int, known: Mapping[str, Shard]) -> Written | None:
    """A shard that lies there, and None where there is none, or a damaged one: that is encoded again.

    Args:
        job: the encoding.
        split, number: which shard.
        known: by file, what the manifest says; a file of that size is not read whole for its checksum.
    """
    fs, base = open_root(job.out)
    path = f"{base}/{shard_name(split, number)}"
    if not fs.exists(path):
        return None
    try:
        note = read_note(fs, path)
        shard = known.get(shard_name(split, number))
        if shard is None or fs.size(path) != shard.bytes:
            shard = Shard(shard_name(split, number), note["samples"], *hash_file(fs, path))
        return Written(split, number, shard, note["bytes"], note["source_bytes"], tuple(note["skipped"]))
    except (DataError, KeyError):
        return None


def encode_shard(
    job: Job, split: str, number: int, threads: int = 1, on_sample: Callable[[int], None] = lambda count: None
) -> Written:
    """Encode what a shard still lacks, and write it.

        listing --read, channels, size, compress: in threads--> spool, a record a sample --all there--> parquet, renamed

    Where the output is no local folder there is no appending, and a shard that was open is encoded from its start.

    Args:
        job: the encoding.
        split, number: which shard.
        threads: for samples side by side.
        on_sample: called with the number of samples of this shard that are done: once at the start, then for each.

    Raises:
        DataError: a sample is bad and is not to be skipped, or there is no space left; what is done is kept.
    """
    fs, base = open_root(job.out)
    path = f"{base}/{shard_name(split, number)}"
    with saying_how_to_go_on(job.out):
        if not is_local(fs):
            rows: list[Mapping[str, Any]] = []
            _encode_missing(job, split, job.indices(split, number), threads, rows.append, 0, on_sample)
            return _write(job, split, number, fs, path, _table(rows))
        with Spool(f"{base}/.{split}-{number:05d}.part", _spool_schema()) as spool:
            done = set(spool.table()["index"].to_pylist())
            missing = [index for index in job.indices(split, number) if index not in done]
            _encode_missing(job, split, missing, threads, spool.append, len(done), on_sample)
            for left in fs.glob(f"{base}/.{shard_name(split, number)}.*"):
                fs.rm_file(left)  # by a kill while it was written
            written = _write(job, split, number, fs, path, spool.table())
            spool.remove()
            return written


def _spool_schema() -> "pa.Schema":
    import pyarrow as pa

    sizes = pa.list_(pa.int32())
    fields = {
        "index": pa.int64(), "latent": pa.binary(), "shape": sizes, "source_shape": sizes, "source_bytes": pa.int64(),
        "sampling_rate": pa.int32(), "error": pa.string(),
    }  # fmt: skip
    return pa.schema(list(fields.items()))


def _table(rows: list[Mapping[str, Any]]) -> "pa.Table":
    import pyarrow as pa

    return pa.Table.from_pylist(rows, _spool_schema())


def _encode_missing(
    job: Job,
    split: str,
    missing: Iterable[int],
    threads: int,
    append: Callable[[Mapping[str, Any]], None],
    done: int,
    on_sample: Callable[[int], None],
) -> None:
    on_sample(done)
    with ThreadPoolExecutor(threads) as pool, single_threaded():
        waiting = [pool.submit(_encode_one, job, split, index) for index in missing]
        try:
            for finished in as_completed(waiting):
                append(finished.result())
                done += 1
                on_sample(done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _encode_one(job: Job, split: str, index: int) -> dict[str, Any]:
    try:
        sample = job.source.read(split, index)
        signal = prepare(sample.signal, job.channels, job.size)
        latent = job.codec.compress(signal)
        if sample.facts:
            latent = attach(latent, sample.facts)
    except Exception as error:  # of whatever reads the files of others; errors of cml are sentences already
        if isinstance(error, OSError) and error.errno in _FULL:
            raise
        sentence = str(error) if isinstance(error, CmlError) else f"{type(error).__name__}: {error}"
        sentence = re.sub(r" at 0x[0-9a-fA-F]+", "", sentence)  # addresses differ from run to run
        if job.skip:
            return {"index": index, "error": sentence}
        raise DataError(
            f"The sample {job.source.identify(split, index)} cannot be encoded: {sentence.rstrip('.')}. Repair or "
            "remove it, or go on without such samples: --on-error skip."
        ) from error
    return {
        "index": index,
        "latent": latent,
        "shape": tuple(signal.shape),
        "source_shape": tuple(sample.signal.shape),
        "source_bytes": sample.source_bytes,
        "sampling_rate": sample.sampling_rate,
    }


def prepare(x: Tensor, channels: int, size: tuple[int, int] | None = None) -> Tensor:
    """A signal as it is encoded.

    Args:
        x: (C, *spatial), uint8, uint16 or float32.
        channels: that it gets: pictures turn grey or RGB as Pillow does it, sound becomes the mean of its channels;
            what cannot be converted stays, and the codec says what is wrong.
        size: (height, width); whole pictures are resized, antialiased, and rounded to the bits that they had.
    """
    if len(x) != channels and x.dim() == 3 and x.dtype == torch.uint8 and {len(x), channels} == {1, 3}:
        x = x.expand(3, -1, -1) if channels == 3 else _grey(x)
    elif channels == 1 and x.dim() == 2:
        x = x.mean(0, keepdim=True)
    if size is None or tuple(x.shape[1:]) == size:
        return x
    resized = resize_image(to_unit(x), size)
    if x.dtype == torch.uint16:
        return ((resized + 1) * 32767.5).round().to(torch.uint16)
    return to_uint8(resized)


def _write(job: Job, split: str, number: int, fs: "AbstractFileSystem", path: str, spooled: "pa.Table") -> Written:
    import pyarrow as pa
    import pyarrow.compute as pc

    spooled = spooled.sort_by("index").combine_chunks()
    bad = spooled["error"].is_valid()
    skipped = tuple(
        {"id": job.source.identify(split, row["index"]), "error": row["error"]}
        for row in spooled.filter(bad).select(["index", "error"]).to_pylist()
    )
    spooled = spooled.filter(spooled["error"].is_null())
    listed = job.source.splits[split].take(spooled["index"])
    columns = {name: listed[name] for name in listed.column_names}
    columns |= {name: spooled[name] for name in ("latent", "shape", "source_shape")}
    if job.codec.spec.ndim == 1:
        columns["sampling_rate"] = spooled["sampling_rate"]
    extra = {name: column.type for name, column in columns.items() if name not in COLUMNS}
    schema = row_schema("label" in columns, job.source.classes, extra)
    table = pa.table([columns[name] for name in schema.names], schema=schema)
    facts = {
        "samples": len(spooled),
        "bytes": sum(pc.call_function("binary_length", [spooled["latent"]]).to_pylist()),
        "source_bytes": sum(spooled["source_bytes"].to_pylist()),
        "skipped": skipped,
    }
    shard = write_parquet(fs, path, table, facts)
    return Written(split, number, shard, facts["bytes"], facts["source_bytes"], skipped)


def _grey(x: Tensor) -> Tensor:
    picture = Image.fromarray(x.permute(1, 2, 0).numpy()).convert("L")
    return torch.from_numpy(np.array(picture))[None]


@contextmanager
def saying_how_to_go_on(out: str) -> Iterator[None]:
    """A full disk becomes a sentence that says what is kept."""
    try:
        yield
    except DataError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _FULL:
            raise DataError(
                f"There is no space left for {out}: all that was encoded is kept; free some, or move the folder, "
                "hidden files included, to a larger disk, and run the same command again."
            ) from error
        raise
