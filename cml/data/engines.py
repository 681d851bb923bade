"""Where shards are encoded: threads of this process, or the workers of a Ray cluster. One function does the work."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

import torch

from cml.data.cluster import connect
from cml.data.encode_shard import Job, Written, encode_shard
from cml.errors import CmlError, DataError

Shards = Sequence[tuple[str, int]]
ENGINES = ("local", "ray")


def run_local(job: Job, shards: Shards, workers: int | None, on_sample: Callable[[int], None]) -> Iterator[Written]:
    """One shard after the other; codecs and picture decoding release the interpreter lock, so threads are enough.

    Args:
        job: the encoding.
        shards: (split, number) of those to encode.
        workers: threads; None for as many as torch uses.
        on_sample: called with the number of samples of the open shard that are done.
    """
    for split, number in shards:
        yield encode_shard(job, split, number, workers or torch.get_num_threads(), on_sample)


def run_ray(job: Job, shards: Shards, address: str | None, workers: int | None) -> Iterator[Written]:
    """A shard a worker, as they finish; a worker that dies is replaced, and goes on where the other one stopped.

    Every worker needs cml, the source's files and the output.

    Args:
        job: the encoding.
        shards: (split, number) of those to encode.
        address, workers: as `cml.data.cluster.connect` takes them.
    """
    with connect(address, workers) as count:
        import ray
        import ray.data

        items = [{"split": split, "number": number} for split, number in shards]
        rows = ray.data.from_items(items, override_num_blocks=len(items))
        pool = ray.data.TaskPoolStrategy(size=min(count, len(items)))
        with _quiet(ray.data.DataContext.get_current()):
            for row in rows.map(partial(_work, job=ray.put(job)), num_cpus=1, compute=pool).iter_rows():
                outcome = json.loads(row["outcome"])
                if "error" in outcome:
                    raise DataError(outcome["error"])
                yield Written.from_dict(outcome)


@contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Without the progress bars of Ray Data, whose rows are not samples, nor its word that they are off."""
    log = logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])


def _work(row: Mapping[str, Any], job: Any) -> dict[str, str]:
    """Encode one shard in a process of Ray. Errors are data: only the death of a process is tried again."""
    torch.set_num_threads(1)
    try:
        outcome = asdict(encode_shard(_fetch(job), str(row["split"]), int(row["number"])))
    except CmlError as error:
        outcome = {"error": str(error)}
    return {"outcome": json.dumps(outcome)}


@lru_cache(maxsize=1)
def _fetch(job: Any) -> Job:
    import ray

    return ray.get(job)  # once a process, with its codec
