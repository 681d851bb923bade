"""`cml compare`: what representations of a signal are worth to a machine."""

from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console, errors


def compare(
    task: Annotated[str, typer.Option(help="What the machine does.")] = "classification",
    data: Annotated[
        str, typer.Option(help="elpv, or folder:PATH (one folder a class, or train/ and test/ of them).")
    ] = "elpv",
    codecs: Annotated[
        str | None, typer.Option(help='Operating points, space-separated: "resize:factor=4 rgb_f8c12 jpeg:quality=10".')
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(help="Of pixels, bigpatch, resize, latent, reconstruction, space-separated.  [default: all]"),
    ] = None,
    backbone: Annotated[str, typer.Option(help="cml:small, or timm:NAME.")] = "cml:small",
    seeds: Annotated[int, typer.Option(help="Trainings per condition; three or more give a spread to trust.")] = 1,
    size: Annotated[
        int | None, typer.Option(help="Side to which pictures are resized, whole.  [default: the data's]")
    ] = None,
    patch: Annotated[int, typer.Option(help="Pixels a token along each axis.")] = 16,
    epochs: Annotated[int | None, typer.Option(help="Of each training.  [default: 8]")] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small pictures, few epochs: the whole in a minute or two.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.  [default: runs/DATA]")] = None,
) -> None:
    """Compare what representations of a picture are worth to a machine, at which rate and at which cost.

    Pixels, larger patches, true downsampling, quantized latents and decoded pictures, of our codecs and of those people
    already use, through one training recipe. Finished cells are kept: run it again, or after an interruption, and only
    what is missing is computed.
    """
    from cml.eval import report
    from cml.eval.harness import compare as run

    table = run(
        task, data, codecs, views,
        backbone=backbone, seeds=seeds, size=size, patch=patch, epochs=epochs, quick=quick, out=out,
    )  # fmt: skip
    report.print_table(table, console)
    console.print(f"Report, table and pictures: {table.attrs['folder']}/report.md", highlight=False, soft_wrap=True)
    failed = table.attrs["failed"]
    for result in failed:
        errors.print(f"cml: failed: {result.view} {result.codec}, seed {result.seed}: {result.error}", markup=False)
    if failed:
        raise typer.Exit(1)
