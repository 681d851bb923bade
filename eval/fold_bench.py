"""A trained classifier on decoded pictures, and on latents through its folded stem: accuracy, agreement and cost.

    python -m cml.eval.fold_bench FOLDER -c rgb_f8c48:step=0.25 -c rgb_f8c12:step=0.25 -o docs/results/fold

    picture --codec.encode--> latents --codec.decode, 8 bits--> normalise --stem--+
                                 |                                                +--> rest of the model --> class
                                 +----------------- folded stem -----------------+

The codec decodes by its linear decoder, whatever its name says. FOLDER holds ILSVRC pictures, as the task imagenet
reads them. Each way is measured frozen, and after one epoch of tuning on every second picture: its batch
normalizations learn to answer as the model of pixels does on the originals (whose probabilities are the target; no
label is used), their statistics and all else stay. Tuned ways are scored on the pictures that they have not seen; where
the folder holds one picture of each class, these are of classes that they have not seen either.
"""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from cml.eval.complexity import model_cost, one_thread
from cml.tasks.imagenet import ImageNet
from torch import Tensor, nn
from torch.nn import functional as F

from cml.codecs.base import Codec, Latent, to_uint8
from cml.codecs.cost import config_of, decode_costs
from cml.codecs.factory import create_codec
from cml.codecs.geometry import grid_shape
from cml.data.signals import find_images
from cml.errors import CmlError
from cml.files import write_atomic
from cml.models.backbones import StemShape
from cml.models.fold import fold_model
from cml.models.pretrained import Pretrained, load_pretrained
from cml.train.loop import Recipe, fit

REACHES = (None, 1)
RECIPE = Recipe(epochs=1, batch_size=20, lr=1e-3, weight_decay=0.0)
_BATCH = 20
_TIMED = 20  # pictures of one timed pass


@dataclass(frozen=True)
class Way:
    """From latents to logits.

    Attributes:
        name: "decoded", or "latents" and the reach of the fold.
        model: what reads `inputs`.
        inputs: (N, c, h, w) of all pictures.
        prepare: one latent to one input.
        front_macs: from latents to the first layer's output, a picture.
        macs: all of it.
    """

    name: str
    model: nn.Module
    inputs: Tensor
    prepare: Callable[[Latent], Tensor]
    front_macs: float
    macs: float


class _Steady(nn.Module):
    """A model that stays in evaluation mode while it is trained."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def train(self, mode: bool = True) -> "_Steady":
        return super().train(False)


def fold_table(
    data: str,
    codecs: Sequence[str],
    backbone: str = "efficientnet-lite0",
    reaches: Sequence[int | None] = REACHES,
    recipe: Recipe | None = RECIPE,
    on_row: Callable[[dict[str, Any]], None] = lambda row: None,
) -> pd.DataFrame:
    """One row a codec and way, frozen and tuned.

    Args:
        data: "folder:PATH" of ILSVRC pictures.
        codecs: operating points of codecs with a linear decoder.
        backbone: of `load_pretrained`.
        reaches: of the folds.
        recipe: of tuning; None for none.
        on_row: called with each finished row.

    Returns:
        Columns codec, way, tuned, bpp; top1 (of all pictures; none where tuned), top1_held (of the half that is never
        tuned on); as_decoded and as_original (of the held half: how often the class is that of the frozen model on
        decoded or original pictures); front_macs and macs (a pixel), rate (pictures a second).
    """
    task = ImageNet(data, backbone)
    loaded = load_pretrained(backbone)
    loaded.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    pictures = [task.signal("test", number) for number in range(task.count("test"))]
    labels = task.labels("test")
    originals = torch.stack([_normalized(x, loaded) for x in pictures])
    target = _logits(loaded.model, originals)
    rows = [_row("original", "pixels", False, target, labels, target, target)]
    on_row(rows[0])
    for name in codecs:
        codec = create_codec(name, decoder="linear")
        for row in _codec_rows(codec, loaded, pictures, labels, target, reaches, recipe):
            rows.append(row)
            on_row(row)
    return pd.DataFrame(rows)


def _codec_rows(
    codec: Codec,
    loaded: Pretrained,
    pictures: Sequence[Tensor],
    labels: Tensor,
    target: Tensor,
    reaches: Iterable[int | None],
    recipe: Recipe | None,
) -> Iterator[dict[str, Any]]:
    latents = [codec.encode(x) for x in pictures]
    size = pictures[0].shape[1:]
    bpp = statistics.mean(8 * len(codec.pack(latent)) / size.numel() for latent in latents)
    ways = _ways(codec, loaded, latents, reaches)
    decoded = _logits(ways[0].model, ways[0].inputs)
    for way in ways:
        logits = decoded if way is ways[0] else _logits(way.model, way.inputs)
        cost = {"bpp": bpp, "front_macs": way.front_macs / size.numel(), "macs": way.macs / size.numel()}
        cost["rate"] = _rate(way, latents[:_TIMED])
        yield _row(codec.spec.name, way.name, False, logits, labels, decoded, target) | cost
        if recipe is not None:
            tuned = _tune(way.model, way.inputs, target, recipe)
            logits = _logits(tuned, way.inputs[1::2])
            yield _row(codec.spec.name, way.name, True, logits, labels, decoded, target) | cost


def _ways(codec: Codec, loaded: Pretrained, latents: list[Latent], reaches: Iterable[int | None]) -> list[Way]:
    size = loaded.size
    spec, config = codec.spec, config_of(codec)
    if config is None or spec.latent_channels is None or spec.patch is None:
        raise CmlError(f"{spec.name} has no latents; take a codec with a linear decoder, such as rgb_f8c48.")
    grid = grid_shape(size, spec.patch)

    def decode(latent: Latent) -> Tensor:
        return _normalized(to_uint8(codec.decode(latent)), loaded)

    stages = {stage.name: stage.macs for stage in decode_costs(config)}
    decoding = (stages["decoder"] + stages["inverse transform"]) * size[0] * size[1]
    cost = model_cost(loaded.model, loaded.stem, StemShape(3, size, 1))
    front = decoding + cost.stem_macs
    inputs = torch.stack([decode(latent) for latent in latents])
    ways = [Way("decoded", loaded.model, inputs, decode, front, front + cost.backbone_macs)]
    inputs = torch.stack([latent.to_float() for latent in latents])
    for reach in reaches:
        name = "latents" if reach is None else f"latents, reach {reach}"
        model = fold_model(loaded.model, loaded.stem, codec, loaded.mean, loaded.std, reach)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        cost = model_cost(model, loaded.stem, StemShape(spec.latent_channels, (grid[0], grid[1]), 1))
        macs = cost.stem_macs + cost.backbone_macs
        ways.append(Way(name, model, inputs, Latent.to_float, cost.stem_macs, macs))
    return ways


def _normalized(x: Tensor, loaded: Pretrained) -> Tensor:
    scale, offset = loaded.normalization()
    return x.float() * scale.view(-1, 1, 1) + offset.view(-1, 1, 1)


@torch.no_grad()
def _logits(model: nn.Module, inputs: Tensor) -> Tensor:
    model.eval()
    return torch.cat([model(part.contiguous(memory_format=torch.channels_last)) for part in inputs.split(_BATCH)])


def _row(
    codec: str, way: str, tuned: bool, logits: Tensor, labels: Tensor, decoded: Tensor, target: Tensor
) -> dict[str, Any]:
    """All of all pictures, the logits of tuned models of the held half."""
    predicted = logits.argmax(1)
    held = predicted if tuned else predicted[1::2]
    wanted = {"top1_held": labels, "as_decoded": decoded.argmax(1), "as_original": target.argmax(1)}
    shares = {key: float((held == value[1::2]).double().mean()) for key, value in wanted.items()}
    top1 = float("nan") if tuned else float((predicted == labels).double().mean())
    return {"codec": codec, "way": way, "tuned": tuned, "top1": top1, **shares}


def _tune(model: nn.Module, inputs: Tensor, target: Tensor, recipe: Recipe) -> nn.Module:
    """A copy, whose batch normalizations are tuned on every second picture to answer as the target does."""
    torch.manual_seed(0)
    model = copy.deepcopy(model).requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(True)
    seen = torch.arange(0, len(inputs), 2)
    batches = seen[torch.randperm(len(seen))].split(recipe.batch_size)

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for part in batches:
            yield inputs[part].contiguous(memory_format=torch.channels_last), target[part].softmax(1)

    def loss(model: nn.Module, x: Tensor, wanted: Tensor) -> Tensor:
        return F.kl_div(model(x).log_softmax(1), wanted, reduction="batchmean")

    fit(_Steady(model), epoch, len(batches), loss, recipe)
    return model


@torch.no_grad()
def _rate(way: Way, latents: Sequence[Latent], passes: int = 3) -> float:
    """Pictures a second from symbols to logits: one thread, processor time, the median of some passes."""
    times = []
    with one_thread():
        for _ in range(passes):
            start = time.process_time()
            _logits(way.model, torch.stack([way.prepare(latent) for latent in latents]))
            times.append(time.process_time() - start)
    return len(latents) / statistics.median(times)


def write(table: pd.DataFrame, out: str | Path, command: str, pictures: int) -> None:
    """Write OUT.csv and OUT.md."""
    write_atomic(f"{out}.csv", table.to_csv(index=False, float_format="%.4f"))
    write_atomic(f"{out}.md", markdown(table, command, pictures))


def markdown(table: pd.DataFrame, command: str, pictures: int) -> str:
    """The table for people, codec by codec."""
    original = table[table.codec == "original"].iloc[0]
    lines = [
        "# A trained classifier reads latents",
        "",
        f"{pictures} pictures; `{command}`.",
        "",
        f"On the originals the model of pixels has top-1 {100 * original.top1:.1f} %, on the held half "
        f"{100 * original.top1_held:.1f} %.",
        "",
        "decoded: the codec's linear decoder, 8 bits, the model as it is. latents: its first convolution folded with",
        "that decoder, no decoder runs; reach: latent positions that the folded kernel sees beyond its own, all where",
        "none is named. tuned: one epoch on half of the pictures, batch normalizations alone, to answer as the model",
        "of pixels does on the originals; no label is used. held: the other half. as decoded, as original:",
        "how often the class is that of the frozen model on the decoded or original picture, held half. front:",
        "multiply-accumulates a pixel from latents to the first layer's output, all: to the logits. img/s: from",
        "symbols to logits, processor time of one thread.",
    ]
    for codec, rows in table.query("codec != 'original'").groupby("codec", sort=False):
        lines += ["", f"## {codec}", "", f"{rows.bpp.iloc[0]:.3f} bits a pixel.", ""]
        lines += ["| way | | top-1 | held | as decoded | as original | front | all | img/s |"]
        lines += ["|---|---|---|---|---|---|---|---|---|"]
        for row in rows.to_dict("records"):
            percents = [row[key] for key in ("top1", "top1_held", "as_decoded", "as_original")]
            shown = ["" if math.isnan(value) else f"{100 * value:.1f}" for value in percents]
            costs = [f"{row['front_macs']:,.0f}", f"{row['macs']:,.0f}", f"{row['rate']:.1f}"]
            cells = [row["way"], "tuned" if row["tuned"] else "frozen", *shown, *costs]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(
    folder: Annotated[Path, typer.Argument(help="ILSVRC pictures, named by WNID.")],
    codec: Annotated[list[str], typer.Option("-c", "--codec", help="An operating point, such as rgb_f8c48:step=0.25.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write, without suffix.")],
    tune: Annotated[bool, typer.Option(help="One epoch of tuning, too.")] = True,
) -> None:
    """A trained classifier on decoded pictures, and on latents through its folded stem."""
    chosen = " ".join(f"-c {name}" for name in codec) + ("" if tune else " --no-tune")
    command = f"python -m cml.eval.fold_bench {folder.name} {chosen} -o {out}"
    pictures = len(find_images(folder))
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(row, flush=True)
        write(pd.DataFrame(rows), out, command, pictures)  # what is there, should the rest fail

    fold_table(f"folder:{folder}", codec, recipe=RECIPE if tune else None, on_row=keep)


if __name__ == "__main__":
    typer.run(main)
