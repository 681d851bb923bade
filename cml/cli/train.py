"""`cml train codec`: train a codec from a recipe."""

import time
from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console, errors
from cml.errors import CmlError

LOG_SECONDS = 30

train = typer.Typer(no_args_is_help=True, help="Train a codec.")


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

    Under `accelerate launch -m cml train codec ...` it trains on many processes or GPUs.
    """
    from dataclasses import replace

    import torch
    from accelerate import PartialState

    from cml.codecs.neural import WaveletCodec
    from cml.files import write_atomic
    from cml.train.codec import Progress, train_codec
    from cml.train.recipes import load_recipe
    from cml.train.validation import picture, read_pictures, validate

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
    signals, tests = read_pictures(plan)
    first: list[WaveletCodec] = []
    shown_at = time.monotonic()

    def line(progress: Progress) -> None:
        nonlocal shown_at
        left = (plan.iterations - progress.iteration) * plan.batch / progress.rate
        text = (
            f"{progress.iteration}/{plan.iterations}  loss {progress.loss:.4f}  {progress.bpp:.3f} bpp (estimate)  "
            f"{progress.psnr:.2f} dB  {progress.rate:.1f} crops/s  {left / 60:.0f} min left"
        )
        status.update(text)
        if not errors.is_terminal and time.monotonic() - shown_at > LOG_SECONDS:  # a log file has no line to redraw
            errors.print(text, highlight=False, soft_wrap=True)
            shown_at = time.monotonic()

    def report(iteration: int, trained: WaveletCodec) -> None:
        points = validate(trained, tests, plan.steps)
        shown = "  ".join(f"{p.bpp:.3f} bpp {p.psnr:.2f} dB" for p in points)
        console.print(f"{iteration}/{plan.iterations}  held-out pictures: {shown}", highlight=False, soft_wrap=True)
        if tests:
            write_atomic(folder / "validation.png", picture(tests[0], first[0], trained, plan.steps))

    with errors.status("reading the closed form") as status:
        trained = train_codec(plan, signals, folder, first.append, line, report)
    if PartialState().is_main_process:
        console.print(f"{folder}: {trained.spec.name}, fingerprint {trained.codec_id}", soft_wrap=True)


def _spare(folder: Path) -> None:
    """Never write into a folder that holds something else."""
    from cml.hub import CONFIG
    from cml.train.codec import CHECKPOINT

    if folder.exists() and not folder.is_dir():
        raise CmlError(f"{folder} is a file; give a folder with -o.")
    ours = (folder / CHECKPOINT).exists() or (folder / CONFIG).exists()
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise CmlError(f"The folder {folder} holds something else; give an empty or new one with -o.")
