"""`cml train codec`: train a codec from a recipe."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cml.cli.app import console, errors

if TYPE_CHECKING:
    pass

train = typer.Typer(no_args_is_help=True, help="Train a codec.")


@train.command("codec")
def codec(
    recipe: Annotated[Path, typer.Argument(help="A recipe (.yaml), or a bundled codec for its recipe.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The codec's folder.  [default: the recipe's name]")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", help="Folder of pictures, instead of the recipe's; may be repeated.")
    ] = None,
    iterations: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
) -> None:
    """Train a codec from its closed form; run again, an interrupted training goes on.

    Under `accelerate launch -m cml train codec ...` it trains on many processes or GPUs.
    """
    from dataclasses import replace

    import torch

    from cml.codecs.neural import WaveletCodec
    from cml.files import write_atomic
    from cml.train.codec import Progress, train_codec
    from cml.train.recipes import dump_recipe, load_recipe
    from cml.train.validation import picture, read_pictures, validate

    plan = load_recipe(recipe)
    if data:
        plan = replace(plan, data=tuple(data))
    if iterations:
        plan = replace(plan, iterations=iterations)
    folder = Path(plan.name) if output is None else output
    plan = replace(plan, name=folder.name)
    if threads:
        torch.set_num_threads(threads)
    signals, tests = read_pictures(plan)
    first: list[WaveletCodec] = []

    def line(progress: "Progress") -> None:
        left = (plan.iterations - progress.iteration) * plan.batch / progress.rate
        status.update(
            f"{progress.iteration}/{plan.iterations}  loss {progress.loss:.4f}  {progress.bpp:.3f} bpp (estimate)  "
            f"{progress.psnr:.2f} dB  {progress.rate:.1f} crops/s  {left / 60:.0f} min left"
        )

    def report(iteration: int, trained: WaveletCodec) -> None:
        points = validate(trained, tests, plan.steps)
        shown = "  ".join(f"{p.bpp:.3f} bpp {p.psnr:.2f} dB" for p in points)
        console.print(f"{iteration}/{plan.iterations}  held-out pictures: {shown}", highlight=False, soft_wrap=True)
        if tests:
            write_atomic(folder / "validation.png", picture(tests[0], first[0], trained, plan.steps))

    with errors.status("reading the closed form") as status:
        trained = train_codec(plan, signals, folder, first.append, line, report)
    write_atomic(folder / "recipe.yaml", dump_recipe(plan))
    console.print(f"{folder}: {trained.spec.name}, fingerprint {trained.codec_id}", soft_wrap=True)
