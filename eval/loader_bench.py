"""An epoch of the default classifier, end to end: from a latent data set, and from the JPEG files that it was made of.

    python -m cml.eval.loader_bench folder:CML_DATA/clothing -o docs/results/loader

    JPEG files --encode_dataset, once--> parquet shards --entropy decoding--> int8 --floats--> model, at equal tokens
    JPEG files ------------------------Pillow: decode, resize--> uint8 ------------floats--> model, at equal tokens

One optimizer, loss, batch size and number of loading workers for all; the ways take turns, epoch by epoch, and ratios
are taken within a turn. How fast batches come without a model, and by other ways, is `loading_bench`.
"""

import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import PIL
import torch
import typer
from cml.eval.cells import environment
from cml.eval.loading_bench import DRAFT, FACTOR, PATCH, RESIZED, WHOLE, Source, from_disk, mixup_loss, take_turns
from cml.eval.loading_bench import sources as picture_sources
from cml.tasks.classification import Classification
from PIL import features

from cml.data.encode_dataset import encode_dataset
from cml.data.latent_dataset import LatentDataset
from cml.errors import CmlError, DataError
from cml.files import write_atomic
from cml.models.adapters import stem_shape
from cml.train.loop import fit

POINT = "rgb_f8c12:entropy=order0"
LATENTS, STREAM = "latents", "latents, streamed"
TITLES = {
    LATENTS: "latent data set, containers in memory",
    STREAM: "latent data set, shards read anew",
    WHOLE: "JPEG, whole pictures",
    RESIZED: "JPEG, decoded and made smaller",
    DRAFT: "JPEG, decoded smaller (draft)",
}


@dataclass(frozen=True)
class Facts:
    """What the table is about.

    Attributes:
        data, codec: names.
        samples: of the training split, one epoch.
        size: (height, width) of every picture, as it is encoded and read.
        tokens: (height, width) that the model makes of a picture, whatever it reads.
        encoding: pictures a second, of both splits, encoded once.
        reading: seconds that the shards of the training split take into memory, once.
    """

    data: str
    codec: str
    samples: int
    size: tuple[int, int]
    tokens: tuple[int, int]
    encoding: float
    reading: float


def epochs_table(
    data: str,
    codec: str = POINT,
    *,
    workers: Sequence[int] = (0, 2),
    epochs: int = 3,
    device: str = "cpu",
    backbone: str = "cml:small",
) -> tuple[pd.DataFrame, Facts]:
    """Encode a data set of JPEG files, and train epochs from its latents and from its files.

    Args:
        data: a classification data set, "folder:PATH", of JPEG files.
        codec: operating point of a codec with latents.
        workers: how many loading processes, one number after the other.
        epochs: of each way, after one to warm up.
        device: where batches go and the model trains.
        backbone: the model.

    Returns:
        A row for each number of workers and input: bytes (of the training split on disk), images/s, median, low and
        high over the epochs, and by which factor the latents in memory are faster (`slower`, `slower_low`,
        `slower_high`) and smaller (`larger`).
    """
    if epochs < 1 or not workers or min(workers) < 0:
        raise CmlError("The loader benchmark takes one epoch and one number of workers or more.")
    task, target = Classification(data, backbone), torch.device(device)
    odd = [path for path in task.data.train.paths if path.suffix.lower() not in (".jpg", ".jpeg")]
    if odd:
        raise DataError(f"The loader benchmark compares with JPEG files, and {odd[0]} is none: take a folder of them.")
    batch_size = min(task.recipe.batch_size, task.count("train"))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        found, encoding = _sources(task, data, codec, Path(folder))
        start = time.perf_counter()
        _dataset(found[0]).load()
        reading = time.perf_counter() - start
        for count in workers:
            works = {source.name: _epoch(task, source, count, batch_size, target) for source in found}
            rates = take_turns(epochs, works)
            rows += [_row(source, count, rates, found[0]) for source in found]
    stem = found[0].stem
    tokens = (stem.grid[0] // stem.patch, stem.grid[1] // stem.patch)
    facts = Facts(data, codec, task.count("train"), task.size, tokens, encoding, reading)
    return pd.DataFrame(rows), facts


def _sources(task: Classification, data: str, codec: str, folder: Path) -> tuple[list[Source], float]:
    """The latents first, then the files; and pictures encoded a second."""
    start = time.perf_counter()
    manifest = encode_dataset(data, folder, codec, size=task.size)
    encoding = (task.count("train") + task.count("test")) / (time.perf_counter() - start)
    dataset = LatentDataset(folder)
    if len(dataset) != task.count("train"):
        raise DataError(f"{data} has {task.count('train')} samples to train on, and {len(dataset)} were encoded.")
    size = sum(shard.bytes for shard in manifest.splits["train"].shards) / len(dataset)
    stem = stem_shape(manifest.latent_channels, manifest.patch, task.size, PATCH)
    stream = dataset.stream()
    latents = [Source(LATENTS, dataset, size, stem), Source(STREAM, stream, size, stem)]
    files = {source.name: source for source in picture_sources(task, (), folder)}
    return [*latents, *(files[name] for name in (WHOLE, RESIZED, DRAFT))], encoding


def _dataset(source: Source) -> LatentDataset:
    assert isinstance(source.dataset, LatentDataset)
    return source.dataset


def _epoch(
    task: Classification, source: Source, workers: int, batch_size: int, device: torch.device
) -> Callable[[], float]:
    """An epoch of training, which returns images a second."""
    model = task.build(source.stem, seed=0)[0].to(device)
    batches, steps = from_disk(source, workers, batch_size, device), task.count("train") // batch_size
    loss, recipe = mixup_loss(task), replace(task.recipe, epochs=1)
    return lambda: fit(model, batches, steps, loss, recipe).rate


def _row(source: Source, workers: int, rates: Mapping[str, Sequence[float]], latents: Source) -> dict[str, Any]:
    mine = rates[source.name]
    slower = [ours / theirs for ours, theirs in zip(rates[LATENTS], mine, strict=True)]
    return {
        "workers": workers,
        "input": source.name,
        "bytes": round(source.size * len(_dataset(latents))),
        "median": statistics.median(mine),
        "low": min(mine),
        "high": max(mine),
        "slower": statistics.median(slower),
        "slower_low": min(slower),
        "slower_high": max(slower),
        "larger": source.size / latents.size,
    }


def markdown(table: pd.DataFrame, facts: Facts, command: str, device: str) -> str:
    """The table for people, with what it was made by and on."""
    height, width = facts.size
    tokens = f"{facts.tokens[1]}x{facts.tokens[0]}"
    best: dict[str, float] = {}
    rows = table.to_dict("records")
    for row in rows:
        best[row["input"]] = max(row["median"], best.get(row["input"], 0.0))
    faster = {name: f"{best[LATENTS] / best[name]:.2f} times" for name in (WHOLE, RESIZED, DRAFT)}
    smaller = next(row["larger"] for row in rows if row["input"] == WHOLE)
    lines = [
        f"# An epoch from latents, and from JPEG files: {Path(facts.data.partition(':')[2]).name}",
        "",
        f"From latents of `{facts.codec}` the default classifier trains on {faster[WHOLE]} the images a second that",
        f"it trains on from JPEG files at equal tokens; {faster[RESIZED]} where the pictures are decoded and made",
        f"smaller, to as many values as the latents have, {faster[DRAFT]} where libjpeg decodes them smaller. Each",
        f"goes with the number of workers that is best for it. On disk the latents take {smaller:.2f} times fewer",
        "bytes.",
        "",
        f"An epoch is {facts.samples:,} pictures of {width}x{height}. The model makes {tokens} tokens of each in every",
        f"case: whole pictures go through larger patches, and the smaller ones have 1/{FACTOR} of the side (Pillow,",
        "bilinear). Loop, mixup and full batches are those of `cml compare`. Files lie in the page cache.",
        "Median [lowest, highest] of epochs that take turns; ratios are taken within a turn.",
        f"Encoding ran once, at {facts.encoding:,.0f} pictures/s. `{TITLES[LATENTS]}`: the shards were read once,",
        f"in {facts.reading:.3f} s, and decoded in every epoch.",
        "",
    ]
    places = {0: "Loading in the training process", 1: "1 loading worker"}
    for workers in dict.fromkeys(row["workers"] for row in rows):
        lines += [f"## {places.get(workers, f'{workers} loading workers')}", ""]
        lines += ["| input | MB on disk | images/s | latents are faster by | and smaller by |", "|---|--:|--:|--:|--:|"]
        for row in (row for row in rows if row["workers"] == workers):
            speed = f"{row['median']:,.0f} [{row['low']:,.0f}, {row['high']:,.0f}]"
            ratio = f"{row['slower']:.2f} [{row['slower_low']:.2f}, {row['slower_high']:.2f}]"
            size = f"{row['bytes'] / 1e6:.2f}"
            lines.append(f"| {TITLES[row['input']]} | {size} | {speed} | {ratio} | {row['larger']:.2f} |")
        lines.append("")
    made = environment() | {"device": device, "cores": os.cpu_count(), "pillow": PIL.__version__}
    made["libjpeg_turbo"] = features.version("libjpeg_turbo")
    return "\n".join([*lines, "## Made by", "", "```", command, "```", "", f"`{json.dumps(made)}`", ""])


def main(
    data: Annotated[str, typer.Argument(help="A classification data set of JPEG files: folder:PATH.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write, without suffix.")],
    codec: Annotated[str, typer.Option("-c", "--codec", help="Operating point of a codec with latents.")] = POINT,
    workers: Annotated[
        list[int] | None, typer.Option(help="Loading processes; may be repeated.  [default: 0 and 2]")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of each way, after one to warm up.")] = 3,
    device: Annotated[str, typer.Option(help="Where batches go and the model trains.")] = "cpu",
) -> None:
    """Measure epochs of training from a latent data set and from JPEG files; writes OUT.md and OUT.csv."""
    table, facts = epochs_table(data, codec, workers=workers or (0, 2), epochs=epochs, device=device)
    command = shlex.join(["python", "-m", "cml.eval.loader_bench", *sys.argv[1:]])
    text = markdown(table, facts, command, device)
    write_atomic(f"{out}.csv", table.to_csv(index=False, float_format="%.4f"))
    write_atomic(f"{out}.md", text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
