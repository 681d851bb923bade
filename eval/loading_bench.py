"""How fast a data set comes into training batches: as picture files, and as latents; and how fast a model then trains.

    python -m cml.eval.loading_bench folder:CML_DATA/clothing -o docs/results/loading

    picture files --Pillow: decode, resize--> uint8 --to the device--> float32 batch
    .cml files, tar shard --entropy decoding--> int8 --to the device--> float32 batch

Every way goes through the same `DataLoader`, with the same workers, batch size and order, over the whole training split
from the page cache; all ways take turns, pass by pass, and ratios are taken within a pass.
"""

import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pandas as pd
import PIL
import torch
import typer
from cml.eval.cells import environment
from cml.tasks.classification import Classification
from PIL import Image, features
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from cml.codecs.base import Codec
from cml.codecs.factory import create_codec
from cml.data.batches import portable
from cml.data.datasets import Split
from cml.data.latents import ModelInputs, map_items
from cml.data.loading import latent_loader
from cml.data.stored import LatentFolder, LatentShards, write_shard
from cml.errors import CmlError
from cml.files import write_atomic
from cml.models.adapters import stem_shape
from cml.models.backbones import StemShape
from cml.train.loop import fit

POINTS = ("rgb_f8c12:entropy=order0", "rgb_f8c12:entropy=zstd", "rgb_f8c12")
FACTOR = 4  # of the downsample: as many values less as the latents of rgb_f8c12 have, 16 times
PATCH = 16  # pixels a token along each axis, as in `cml compare`
RESIZED, DRAFT, WHOLE = "decode, resize", "draft, resize", "decode"
MEMORY = ", from memory"
REFERENCES = {"over_resize": RESIZED, "over_draft": DRAFT, "over_decode": WHOLE}

# epoch -> its batches, (inputs, labels) each
Batches = Callable[[int], Iterator[tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class PixelBatch:
    """uint8 (B, H, W, C) and int64 (B,): the pixels' `LatentBatch`."""

    values: Tensor
    labels: Tensor

    def __reduce__(self) -> tuple[Any, ...]:
        return _pixel_batch, (portable(self.values), portable(self.labels))

    def pin_memory(self) -> "PixelBatch":
        return PixelBatch(self.values.pin_memory(), self.labels.pin_memory())

    def to_float(self, device: str | torch.device) -> Tensor:
        """float32 (B, C, H, W) on the device, to about unit variance, as the views of pixels are."""
        x = self.values.to(device, non_blocking=True).permute(0, 3, 1, 2)
        return x.to(torch.float32).mul_(2 / 127.5).sub_(2)


def _pixel_batch(values: Any, labels: Any) -> PixelBatch:
    return PixelBatch(torch.as_tensor(values), torch.as_tensor(labels))


class Pictures(Dataset[Any]):
    """Picture files through Pillow, nothing between the file and the batch that a hand-written loader would not have.

    Args:
        split: files and labels.
        size: (height, width) of the batch.
        draft: let libjpeg decode at the smallest of 1, 1/2, 1/4, 1/8 of the size that is not below `size`.
    """

    def __init__(self, split: Split, size: tuple[int, int], draft: bool = False):
        self.split, self.size, self.draft = split, size, draft
        self.mode = "L" if split.channels == 1 else "RGB"

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, indices: Sequence[int]) -> PixelBatch:
        values = np.empty((len(indices), *self.size, self.split.channels), np.uint8)
        for row, index in zip(values, indices, strict=True):
            row[...] = self._picture(index)
        return PixelBatch(torch.from_numpy(values), torch.from_numpy(self.split.labels[list(indices)]))

    def _picture(self, index: int) -> np.ndarray:
        height, width = self.size
        with Image.open(self.split.paths[index]) as picture:
            if self.draft:
                picture.draft(self.mode, (width, height))
            picture.load()
            out = picture if picture.mode == self.mode else picture.convert(self.mode)
            # Bilinear: the cheapest of Pillow's antialiased filters that people train with.
            out = out if out.size == (width, height) else out.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(out).reshape(height, width, -1)


@dataclass(frozen=True)
class Source:
    """One way to the batch.

    Attributes:
        name: for the table.
        dataset: what the loader reads.
        size: mean bytes of a sample on disk.
        stem: what a model reads of it.
    """

    name: str
    dataset: Dataset[Any]
    size: float
    stem: StemShape


def sources(task: Classification, points: Sequence[str], folder: Path) -> list[Source]:
    """Every way to load a task's training split; containers and shards are written into the folder."""
    split = task.data.train
    small = (task.size[0] // FACTOR, task.size[1] // FACTOR)
    size = statistics.fmean(os.path.getsize(path) for path in split.paths)
    resized = stem_shape(task.channels, FACTOR, task.size, PATCH)
    found = [
        Source(RESIZED, Pictures(split, small), size, resized),
        Source(DRAFT, Pictures(split, small, draft=True), size, resized),
        Source(WHOLE, Pictures(split, task.size), size, stem_shape(task.channels, 1, task.size, PATCH)),
    ]
    for number, point in enumerate(points):
        codec = create_codec(point)
        if codec.spec.latent_channels is None or codec.spec.patch is None:
            raise CmlError(f"{point} has no latents; the loading benchmark takes neural codecs.")
        stem = stem_shape(codec.spec.latent_channels, codec.spec.patch, task.size, PATCH)
        size = _store(task, codec, folder / f"{number}", folder / f"{number}.tar")
        found.append(Source(f"latents {point}, .cml files", LatentFolder(folder / f"{number}", codec), size, stem))
        found.append(Source(f"latents {point}, shard", LatentShards(folder / f"{number}.tar", codec), size, stem))
    return found


def _store(task: Classification, codec: Codec, folder: Path, shard: Path) -> float:
    """Write the training split as containers, twice: a file each, and a shard. Returns mean bytes of a container."""
    split = task.data.train
    blobs = map_items(lambda index: codec.compress(task.signal("train", index)), len(split))
    width = len(str(len(task.data.classes)))
    keys = [f"{label:0{width}d}/{index:07d}" for index, label in enumerate(split.labels)]
    for key, blob in zip(keys, blobs, strict=True):
        write_atomic(folder / f"{key}.cml", blob)
    write_shard(shard, zip(keys, blobs, split.labels.tolist(), strict=True))
    return statistics.fmean(map(len, blobs))


def load_pass(loader: DataLoader[Any], device: torch.device) -> float:
    """Samples a second of one pass, each batch as floats on the device."""
    start, seen = time.perf_counter(), 0
    for batch in loader:
        seen += len(batch.to_float(device))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return seen / (time.perf_counter() - start)


def from_disk(source: Source, workers: int, batch_size: int, device: torch.device) -> Batches:
    """The batches of an epoch, read and decoded each time."""
    loader = latent_loader(source.dataset, batch_size, shuffle=True, workers=workers, device=device, drop_last=True)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in loader:
            x = batch.to_float(device).contiguous(memory_format=torch.channels_last)
            yield x, batch.labels.to(device, non_blocking=True)

    return batches


def from_memory(source: Source, count: int, batch_size: int, device: torch.device) -> Batches:
    """The batches of an epoch from the integers in memory, as `cml compare` makes them."""
    batch: Any = next(iter(latent_loader(source.dataset, count)))
    if isinstance(batch, PixelBatch):
        values = batch.values.permute(0, 3, 1, 2).contiguous()
        scale = torch.full((values.shape[1],), 2 / 127.5)
        offset = torch.full_like(scale, -2)
    else:
        values, scale = batch.symbols, torch.full_like(batch.mean, float(batch.steps[0]) / batch.scale)
        offset = -batch.mean / batch.scale
    inputs = ModelInputs(values[None], scale, offset, batch.labels)
    generator = torch.Generator().manual_seed(0)

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(count, generator=generator)
        for indices in order[: count // batch_size * batch_size].split(batch_size):
            yield inputs.batch(indices).to(device), inputs.labels[indices].to(device)

    return batches


def mixup_loss(task: Classification) -> Callable[..., Tensor]:
    """The loss of `cml compare` without its class weights, which cost nothing."""
    draw = np.random.default_rng(0)

    def loss(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
        share = draw.beta(task.mixup, task.mixup)
        other = torch.randperm(len(x), device=x.device)
        logits = model(x.lerp(x[other], 1 - share))
        first = F.cross_entropy(logits, labels, label_smoothing=task.smoothing)
        second = F.cross_entropy(logits, labels[other], label_smoothing=task.smoothing)
        return share * first + (1 - share) * second

    return loss


def loading_table(
    data: str,
    points: Sequence[str] = POINTS,
    *,
    workers: Sequence[int] = (0, 2),
    passes: int = 5,
    epochs: int = 3,
    device: str = "cpu",
    backbone: str = "cml:small",
) -> pd.DataFrame:
    """Measure every way to load a data set's training split, and training from it.

    Args:
        data: a classification data set, "folder:PATH".
        points: operating points of codecs with latents; the first one is also trained on.
        workers: how many loading processes, one number after the other; training takes the last.
        passes: over the data, after one to warm up.
        epochs: of training, after one to warm up.
        device: where batches go and models train.
        backbone: the model that is trained.

    Returns:
        A row a way: measure ("images/s" or "epochs/s"), workers, input, bytes (mean of a sample on disk), median, low
        and high over the passes, and the ratios to the three pixel inputs (`over_*`, median of the passes, the first
        with its own low and high).
    """
    if passes < 1 or epochs < 1 or not workers or min(workers) < 0:
        raise CmlError("The loading benchmark takes one pass, one epoch and one number of workers or more.")
    task, target = Classification(data, backbone), torch.device(device)
    batch_size = min(task.recipe.batch_size, task.count("train"))
    with tempfile.TemporaryDirectory() as folder:
        found = sources(task, points, Path(folder))
        sizes = {source.name: source.size for source in found}
        rows = []
        for count in workers:
            loaders = {
                s.name: latent_loader(s.dataset, batch_size, shuffle=True, workers=count, device=target) for s in found
            }
            rates = take_turns(passes, {name: partial(load_pass, x, target) for name, x in loaders.items()})
            rows += _rows("images/s", count, rates, sizes)
            del loaders  # and with them their workers
        rates = take_turns(epochs, _trainings(task, found, workers[-1], batch_size, target))
        rows += _rows("epochs/s", workers[-1], rates, sizes)
    return pd.DataFrame(rows)


def _trainings(
    task: Classification, found: Sequence[Source], workers: int, batch_size: int, device: torch.device
) -> dict[str, Callable[[], float]]:
    """Name -> one epoch of training, which returns epochs a second."""
    loss, steps = mixup_loss(task), task.count("train") // batch_size

    def epoch(model: nn.Module, batches: Batches) -> float:
        return 1 / fit(model, batches, steps, loss, replace(task.recipe, epochs=1)).seconds

    works: dict[str, Callable[[], float]] = {}
    shard = next(source for source in found if isinstance(source.dataset, LatentShards))
    for source in (*found[:3], shard):
        model = task.build(source.stem, seed=0)[0].to(device)
        works[source.name] = partial(epoch, model, from_disk(source, workers, batch_size, device))
        if source.name != DRAFT:
            memory = from_memory(source, task.count("train"), batch_size, device)
            works[f"{source.name}{MEMORY}"] = partial(epoch, model, memory)
    return works


def take_turns(passes: int, works: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Name -> what its work returned in each pass; a first pass warms caches and workers up and is dropped."""
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(passes + 1):
        for name, work in works.items():
            rates[name].append(work())
    return {name: values[1:] for name, values in rates.items()}


def _rows(
    measure: str, workers: int, rates: Mapping[str, Sequence[float]], sizes: Mapping[str, float]
) -> Iterator[dict[str, Any]]:
    for name, values in rates.items():
        row = {"measure": measure, "workers": workers, "input": name, "bytes": sizes[name.removesuffix(MEMORY)]}
        row |= {"median": statistics.median(values), "low": min(values), "high": max(values)}
        ratios = {
            column: [mine / theirs for mine, theirs in zip(values, rates[other], strict=True)]
            for column, other in REFERENCES.items()
        }
        row |= {column: statistics.median(ratio) for column, ratio in ratios.items()}
        yield row | {"over_resize_low": min(ratios["over_resize"]), "over_resize_high": max(ratios["over_resize"])}


def markdown(table: pd.DataFrame, data: str, command: str, device: str) -> str:
    """The table for people, with what it was made by and on."""
    lines = [
        f"# Loading {Path(data.partition(':')[2] or data).name} into training batches",
        "",
        "The training split from the page cache, whole passes into float batches on the device, inputs taking turns;",
        f"median [lowest, highest]; ratios are taken pass by pass. `{WHOLE}` is the picture at full size, `{RESIZED}`",
        f"{FACTOR} times smaller along each side (Pillow, bilinear), as many values as `rgb_f8c12` has; `draft` lets",
        "libjpeg decode at a smaller size first. All go one way, integers from workers to the device, floats there.",
        "Models read them at equal tokens, with mixup and without the encoded flips and the shifts of `cml compare`.",
        "",
    ]
    titles = {"images/s": "Loading", "epochs/s": "Training `cml compare`'s classifier"}
    for part, rows in table.groupby(["measure", "workers"], sort=False):
        measure, workers = cast(tuple[str, int], part)
        where = {0: "in the main process", 1: "1 worker"}.get(workers, f"{workers} workers")
        lines += [f"## {titles[measure]}, {where}", ""]
        lines += [f"| input | bytes | {measure} | over {RESIZED} | over {DRAFT} | over {WHOLE} |"]
        lines += ["|---|--:|--:|--:|--:|--:|"]
        digits = 0 if measure == "images/s" else 3
        for row in rows.to_dict("records"):
            speed = f"{row['median']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
            ratio = f"{row['over_resize']:.2f} [{row['over_resize_low']:.2f}, {row['over_resize_high']:.2f}]"
            others = f"{row['over_draft']:.2f} | {row['over_decode']:.2f}"
            lines.append(f"| {row['input']} | {row['bytes']:.0f} | {speed} | {ratio} | {others} |")
        lines.append("")
    made = environment() | {"device": device, "cores": os.cpu_count(), "pillow": PIL.__version__}
    made["libjpeg_turbo"] = features.version("libjpeg_turbo")
    return "\n".join([*lines, "## Made by", "", "```", command, "```", "", f"`{json.dumps(made)}`", ""])


def main(
    data: Annotated[str, typer.Argument(help="A classification data set: folder:PATH.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write, without suffix.")],
    codec: Annotated[
        list[str] | None, typer.Option("-c", "--codec", help="Operating points; the first is trained on.")
    ] = None,
    workers: Annotated[int, typer.Option(help="Loading processes, beside none; training takes these.")] = 2,
    passes: Annotated[int, typer.Option(help="Passes over the data, after one to warm up.")] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs of training, after one to warm up.")] = 3,
    device: Annotated[str, typer.Option(help="Where batches go and models train.")] = "cpu",
) -> None:
    """Measure loading and training of a data set as picture files and as latents; writes OUT.md and OUT.csv."""
    table = loading_table(
        data, codec or POINTS, workers=sorted({0, workers}), passes=passes, epochs=epochs, device=device
    )
    command = shlex.join(["python", "-m", "cml.eval.loading_bench", *sys.argv[1:]])
    text = markdown(table, data, command, device)
    write_atomic(f"{out}.csv", table.to_csv(index=False, float_format="%.4f"))
    write_atomic(f"{out}.md", text)
    print(text)


if __name__ == "__main__":
    typer.run(main)
