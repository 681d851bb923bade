"""A data set encoded once: every sample of a source to its container, in parquet shards with a manifest.

    source --listing--> shards k n ... (k + 1) n --engine: local threads, or Ray--> OUT/*.parquet --> OUT/manifest.json

Which sample lies in which shard follows from the listing alone, so the files are the same for any engine, any number
of workers and any number of interruptions. Run again, an encoding goes on where it was killed, to the sample.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

import cml
from cml.codecs.base import Codec
from cml.codecs.factory import create_codec, parse_operating_point
from cml.data.encode_shard import Job, Written, inspect_shard, saying_how_to_go_on
from cml.data.engines import ENGINES, run_local, run_ray
from cml.data.latent_files import (
    MANIFEST,
    Manifest,
    SplitFiles,
    is_local,
    open_root,
    read_manifest,
    write_manifest,
    write_whole,
)
from cml.data.sources import KINDS, Source, open_source
from cml.errors import CodecError, DataError

CARD = "README.md"
_OURS = re.compile(r"\.(\w+-\d+\.part$|(\w+-\d+\.parquet|manifest\.json|README\.md)\.)")


def encode_dataset(
    source: str | Path | Source,
    out: str | Path,
    codec: str | Codec | None = None,
    *,
    op: str | None = None,
    size: int | tuple[int, int] | None = None,
    shard_samples: int = 1024,
    on_error: str = "stop",
    engine: str = "local",
    address: str | None = None,
    workers: int | None = None,
    on_sample: Callable[[int, int], None] = lambda done, total: None,
) -> Manifest:
    """Encode a data set, or go on with an encoding that was interrupted.

    Shards that are whole are kept. In a local folder the samples of an open shard are kept, too, each as soon as it is
    encoded; at a URL there is no appending, and the open shard is encoded again.

    Args:
        source: a folder, or what `cml.data.sources` names ("elpv", "hf:NAME", "wds:PATTERN").
        out: an empty or new folder or URL, or that of the same encoding.
        codec: with latents; None for rgb_f8c48 or gray_f8c16, as the pictures are, with entropy=order0, which loads
            fastest.
        op: its options, such as "step=0.5,entropy=order0"; they win over those in its name.
        size: side, or (height, width), to which whole pictures are resized; None to encode signals as they are.
        shard_samples: samples in a shard.
        on_error: what a bad sample does: "stop", or "skip", which lists it in the manifest.
        engine: "local", or "ray".
        address: of the Ray cluster; None for one on this machine.
        workers: threads, or processes of Ray; None for one a CPU.
        on_sample: called with the number of samples that are done and the number of all: at the start, then as they
            are done (with Ray, shard by shard).

    Raises:
        DataError: nothing to encode, ids that occur twice, a bad sample, no space left, or an output that holds
            something else or another encoding.
        CodecError: the codec has no latents.
    """
    if engine not in ENGINES or on_error not in ("stop", "skip"):
        raise DataError(f"engine is {' or '.join(ENGINES)} and on_error stop or skip, not {engine} and {on_error}.")
    if shard_samples < 1 or (workers is not None and workers < 1):
        raise DataError("A shard holds 1 sample or more, and 1 worker or more encodes it.")
    job = _plan(source, out, codec, op, _sides(size), shard_samples, on_error == "skip")
    plan = _describe(job)
    old = _agreeing(out, plan)
    known = {shard.file: shard for split in old.splits.values() for shard in split.shards} if old else {}
    written = {}
    for split, number in job.shards():
        shard = inspect_shard(job, split, number, known)
        if shard is not None:
            written[split, number] = shard
    missing = [shard for shard in job.shards() if shard not in written]
    if old is not None and old.complete and not missing:
        return old
    with saying_how_to_go_on(str(out)):
        write_manifest(out, plan)
        done = sum(len(job.indices(*shard)) for shard in written)
        on_sample(done, len(job.source))
        if engine == "local":
            results = run_local(job, missing, workers, lambda count: on_sample(done + count, len(job.source)))
        else:
            results = run_ray(job, missing, address, workers)
        for result in results if missing else ():
            written[result.split, result.number] = result
            done += len(job.indices(result.split, result.number))
            on_sample(done, len(job.source))
        return _finish(job, plan, written)


def _plan(
    source: str | Path | Source,
    out: str | Path,
    codec: str | Codec | None,
    op: str | None,
    size: tuple[int, int] | None,
    shard_samples: int,
    skip: bool,
) -> Job:
    options = parse_operating_point(f"codec:{op}")[1] if op else {}
    if op and not options:
        raise CodecError(f"Cannot read the operating point {op!r}: options look like key=value,key=value.")
    if isinstance(codec, str):
        codec = create_codec(codec, **options)
    elif isinstance(codec, Codec) and options:
        raise CodecError("An operating point is given with the name of a codec, or in a codec, not beside it.")
    if isinstance(source, (str, Path)):
        source = open_source(source, codec.spec.ndim if codec else 2)
    if codec is None:
        name = "gray_f8c16" if source.channels() == 1 else "rgb_f8c48"
        codec = create_codec(name, **{"entropy": "order0"} | options)
    spec = codec.spec
    if spec.latent_channels is None or spec.patch is None:
        raise CodecError(f"{spec.name} has no latents to store: take a codec that has (cml list).")
    if source.ndim != spec.ndim:
        raise DataError(f"{source.name} holds {KINDS[source.ndim]}, and {spec.name} takes {KINDS[spec.ndim]}.")
    if size is not None and spec.ndim != 2:
        raise DataError(f"Only pictures are resized; leave the size out to encode {KINDS[spec.ndim]}.")
    first, *others = spec.channels
    channels = source.channels() if others and spec.ndim == 2 else first
    fs, path = open_root(out)
    return Job(source, codec, path if is_local(fs) else str(out), channels, size, shard_samples, skip)


def _sides(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise DataError(f"Pictures are resized to 1 pixel a side or more, not {height}x{width}.")
    return height, width


def _describe(job: Job) -> Manifest:
    """The manifest of an encoding that has not begun."""
    spec = job.codec.spec
    assert spec.latent_channels is not None and spec.patch is not None
    # The statistics belong to the codec, and any latent of its brings them.
    like = job.codec.encode(torch.zeros(job.channels, *spec.cell))
    return Manifest(
        cml=cml.__version__,
        complete=False,
        codec=spec.name,
        codec_id=spec.codec_id,
        codec_config=json.loads(json.dumps(dict(spec.settings))),
        ndim=spec.ndim,
        channels=job.channels,
        latent_channels=spec.latent_channels,
        patch=spec.patch,
        axis_patches=spec.axis_patches,
        mean=tuple(like.mean.tolist()),
        std=tuple(like.std.tolist()),
        source={"name": job.source.name, "revision": job.source.revision},
        preprocessing={"size": job.size and list(job.size), "channels": job.channels},
        shard_samples=job.shard_samples,
        classes=job.source.classes,
        splits={},
        skipped=(),
    )


def _agreeing(out: str | Path, plan: Manifest) -> Manifest | None:
    """The manifest of the same encoding that lies there already; None where nothing lies there."""
    fs, path = open_root(out)
    if fs.isfile(path):
        raise DataError(f"{out} is a file: give a folder.")
    if not fs.exists(f"{path}/{MANIFEST}"):
        names = [entry.rstrip("/").rpartition("/")[2] for entry in fs.ls(path, detail=False)] if fs.exists(path) else []
        if others := [name for name in names if not name.startswith(f".{MANIFEST}.")]:
            raise DataError(f"{out} holds something else ({sorted(others)[0]}): give an empty or new folder.")
        return None
    old = read_manifest(out, complete=False)
    facts: dict[str, Callable[[Manifest], Mapping[str, object]]] = {
        "source": lambda m: m.source,
        "codec": lambda m: {"codec": m.codec.partition(":")[0], "fingerprint": m.codec_id},
        "operating point": lambda m: m.codec_config,
        "preprocessing": lambda m: m.preprocessing,
        "shard size": lambda m: {"samples": m.shard_samples},
    }
    for name, fact in facts.items():
        before, now = fact(old), fact(plan)
        if differ := [key for key in now if before.get(key) != now[key]]:
            shown = ", ".join(f"{key} {before.get(key)}, now {now[key]}" for key in differ)
            raise DataError(f"{out} was begun with another {name} ({shown}): give the same, or another folder.")
    return old


def _finish(job: Job, plan: Manifest, written: Mapping[tuple[str, int], Written]) -> Manifest:
    splits: dict[str, SplitFiles] = {}
    shards = [written[shard] for shard in job.shards()]
    for split in job.source.splits:
        mine = [shard for shard in shards if shard.split == split]
        splits[split] = SplitFiles(
            samples=sum(one.shard.samples for one in mine),
            bytes=sum(one.bytes for one in mine),
            source_bytes=sum(one.source_bytes for one in mine),
            shards=tuple(one.shard for one in mine),
        )
    skipped = tuple(entry for shard in shards for entry in shard.skipped)
    if not any(split.samples for split in splits.values()):
        raise DataError(f"None of the {len(skipped)} samples can be encoded; the first: {skipped[0]['error']}")
    manifest = replace(plan, complete=True, splits=splits, skipped=skipped)
    fs, path = open_root(job.out)
    write_whole(fs, f"{path}/{CARD}", _card(manifest).encode())
    write_manifest(job.out, manifest)
    if is_local(fs):
        for left in Path(path).glob(".*"):  # by kills between a file and the end of what it was made from
            if _OURS.match(left.name):
                left.unlink()
    return manifest


def _card(manifest: Manifest) -> str:
    """What tells `datasets` and the hub which files are which split, and people what they hold."""
    files = "".join(f"  - split: {split}\n    path: {split}-*.parquet\n" for split in manifest.splits)
    counts = ", ".join(f"{split} {files.samples:,}" for split, files in manifest.splits.items())
    return (
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}---\n# {manifest.source['name']}, as latents\n\n"
        f"Encoded by cml {manifest.cml} with `{manifest.codec}` (fingerprint {manifest.codec_id}); samples: {counts}. "
        "The column `latent` holds containers; `cml.LatentDataset` reads them.\n"
    )
