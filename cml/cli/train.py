"""`cml train`: a codec from a recipe, a classifier from a latent data set."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console, errors
from cml.errors import CmlError

LOG_SECONDS = 30

train = typer.Typer(
    no_args_is_help=True,
    help="Train a codec, or a classifier of latents. `accelerate launch -m cml.train ...` trains on many processes.",
)


@train.command("codec")
def codec(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.yaml), or a bundled codec for its recipe.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The codec's folder.  [default: NAME-trained]")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Folder of pictures, instead of the recipe's; may be repeated.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train a codec from its closed form; run again, an interrupted training goes on.

    Under `accelerate launch -m cml.train codec ...` it trains on many processes or GPUs, with the same result.
    """
    from dataclasses import replace

    import torch
    from accelerate import PartialState

    from cml.codecs.neural import WaveletCodec
    from cml.files import write_atomic
    from cml.train.codec import Progress, train_codec
    from cml.train.material import read_signals
    from cml.train.recipes import load_recipe
    from cml.train.validation import picture, validate

    plan = load_recipe(recipe)
    if data:
        plan = replace(plan, data=tuple(data))
    if iterations is not None:
        plan = replace(plan, iterations=iterations)
    folder = Path(f"{plan.name}-trained") if output is None else output
    _spare(folder)
    plan = replace(plan, name=folder.resolve().name)
    if threads:
        torch.set_num_threads(threads)
    signals, tests = read_signals(plan)
    first: list[WaveletCodec] = []

    def line(progress: Progress) -> None:
        left = (plan.iterations - progress.iteration) * plan.batch / progress.rate
        show(
            f"{progress.iteration}/{plan.iterations}  loss {progress.loss:.4f}  {progress.bpp:.3f} bpp (estimate)  "
            f"{progress.psnr:.2f} dB  {progress.rate:.1f} crops/s  {left / 60:.0f} min left"
        )

    def report(iteration: int, trained: WaveletCodec) -> None:
        if not tests:
            return
        points = validate(trained, tests, plan.steps)
        shown = "  ".join(f"{p.bpp:.3f} bpp {p.psnr:.2f} dB" for p in points)
        console.print(f"{iteration}/{plan.iterations}  held out: {shown}", highlight=False, soft_wrap=True)
        write_atomic(folder / "validation.png", picture(tests[0], first[0], trained, plan.steps))

    with _progress("reading the closed form") as show:
        trained = train_codec(plan, signals, folder, first.append, line, report)
    if PartialState().is_main_process:
        console.print(f"{folder}: {trained.spec.name}, fingerprint {trained.codec_id}", soft_wrap=True)


@train.command("classifier")
def classifier(
    dataset: Annotated[str, typer.Argument(help="A latent data set: a folder, or a URL (see `cml encode-dataset`).")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The model's folder.")],
    backbone: Annotated[str, typer.Option(help="cml:small, timm:NAME or hf:NAME.")] = "cml:small",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training split.")] = 8,
    batch: Annotated[int, typer.Option(min=1, help="Samples a step, over all processes together.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate of AdamW.")] = 2e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, order and flips.")] = 0,
    patch: Annotated[int, typer.Option(min=1, help="Pixels a token, along each axis.")] = 16,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror half of the samples, as latents.")] = False,
    workers: Annotated[int, typer.Option(min=0, help="Loading processes, for each training process.")] = 0,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Train a classifier that reads latents, and test it; run again, an interrupted training goes on.

    Under `accelerate launch -m cml.train classifier ...` it trains on many processes or GPUs, with the same result.
    """
    import torch
    from accelerate import PartialState

    from cml.train.classifier import ClassifierPlan, Progress, train_classifier
    from cml.train.loop import Recipe

    _spare(output)
    if threads:
        torch.set_num_threads(threads)
    plan = ClassifierPlan(backbone, Recipe(epochs, batch, lr), patch, flip, seed)

    def line(p: Progress) -> None:
        left = (p.steps - p.step) * batch / p.rate
        show(
            f"{p.step}/{p.steps}  epoch {p.epoch + 1}/{epochs}  loss {p.loss:.4f}  {p.rate:,.0f} samples/s  "
            f"{left / 60:.0f} min left"
        )

    with _progress("reading the latents") as show:
        trained = train_classifier(dataset, output, plan, workers=workers, every=every, on_progress=line)
    if PartialState().is_main_process:
        scored = "no test split"
        if trained.accuracy is not None:
            scored = f"accuracy {trained.accuracy:.4f} on {trained.tested:,} test samples"
        console.print(f"{output}: {backbone}, {scored}", highlight=False, soft_wrap=True)


@contextmanager
def _progress(begin: str) -> Iterator[Callable[[str], None]]:
    """A line that is redrawn; in a log file, which has none to redraw, one now and then."""
    shown_at = time.monotonic()

    def show(text: str) -> None:
        nonlocal shown_at
        status.update(text)
        if not errors.is_terminal and time.monotonic() - shown_at > LOG_SECONDS:
            errors.print(text, highlight=False, soft_wrap=True)
            shown_at = time.monotonic()

    with errors.status(begin) as status:
        yield show


def _spare(folder: Path) -> None:
    """Never write into a folder that holds something else."""
    from cml.hub import CONFIG
    from cml.train.checkpoint import CHECKPOINT, LOSSES

    if folder.exists() and not folder.is_dir():
        raise CmlError(f"{folder} is a file; give a folder with -o.")
    ours = any((folder / name).exists() for name in (CHECKPOINT, CONFIG, LOSSES))
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise CmlError(f"The folder {folder} holds something else; give an empty or new one with -o.")
