"""`cml compare`: what representations of a signal are worth to a machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cml.cli.app import console, errors


def compare(
    matrix: Annotated[
        Path | None,
        typer.Argument(help="A yaml file of these options, such as the matrix.yaml of a run; options given here win."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="What the machine does: a name of cml list.  \\[default: classification]")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="elpv, or folder:PATH (one folder a class, or train/ and test/ of them); folder-seg:PATH or "
            "hf:NAME[,CONFIG] for segmentation, sroie:PATH for documents and receipts, docvqa:PATH for docvqa; "
            "esc10:PATH[,fold=5] or folder:PATH for sound, slakh:PATH, musdb:PATH or stems:PATH for separation; "
            "indian-pines[:PATH] or cube:CUBE,LABELS for hyperspectral, mricron:PATH or scans:PATH for volumes, "
            "folder-seg:PATH of numbered frames for video.  \\[default: elpv]"
        ),
    ] = None,
    codecs: Annotated[
        str | None, typer.Option(help='Operating points, space-separated: "resize:factor=4 rgb_f8c12 jpeg:quality=10".')
    ] = None,
    views: Annotated[
        str | None,
        typer.Option(
            help="Of pixels, bigpatch, resize, latent, reconstruction, retrained, space-separated; of sound waveform "
            "and resample are for pixels and resize, and there is spectrogram; hyperspectral has pca.  "
            "\\[default: all but retrained]"
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="cml:small, timm:NAME, hf:NAME; for imagenet efficientnet-lite0, timm:NAME, hf:NAME; for docvqa "
            "hf:NAME, Donut or a chat model that takes pictures; cml:sound for sound, cml:separator or demucs:NAME for "
            "separation; cml:spectral or sklearn:svm for hyperspectral, cml:volume for volumes and video.  "
            "\\[default: the task's]"
        ),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="Trainings per condition; three or more give a spread to trust.  \\[default: 1]"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Side, or height, to which pictures are resized, whole; for docvqa the longer side of a page "
            "at most.  \\[default: the data's]"
        ),
    ] = None,
    patch: Annotated[
        int | None, typer.Option(help="Pixels, or samples, a token along each axis.  \\[default: the task's]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each training.  \\[default: the task's]")] = None,
    quick: Annotated[
        bool | None, typer.Option("--quick", help="Small pictures, few epochs: the whole in a minute or two.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run.  \\[default: runs/DATA]")] = None,
    engine: Annotated[
        str, typer.Option(help="local, or ray: the cells over many workers, of this machine or of a cluster.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, HOST:PORT or auto.  \\[default: workers of this machine]")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Of Ray, one thread each.  \\[default: one a core]")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and roughly how long they take; run and write nothing.")
    ] = False,
) -> None:
    """Compare what representations of a signal are worth to a machine, at which rate and at which cost.

    Pixels, larger patches, true downsampling, quantized latents and decoded pictures, of our codecs and of those people
    already use, through one training recipe. Finished cells are kept: run it again, or after an interruption, and only
    what is missing is computed.
    """
    from cml.eval import report
    from cml.eval.dry_run import dry_run as plan
    from cml.eval.dry_run import print_plan
    from cml.eval.harness import run_matrix
    from cml.eval.matrix import Matrix, default_folder
    from cml.eval.matrix_file import read_matrix
    from cml.eval.results import Run

    given: dict[str, Any] = {
        "task": task, "data": data, "codecs": _words(codecs), "views": _words(views), "backbone": backbone,
        "seeds": seeds, "size": size, "patch": patch, "epochs": epochs, "quick": quick, "out": out,
    }  # fmt: skip
    settings = read_matrix(matrix) if matrix else {}
    settings |= {key: value for key, value in given.items() if value is not None}
    folder = settings.pop("out", None)
    request = Matrix(**settings)
    folder = folder or default_folder(request.data, request.quick)
    if dry_run:
        print_plan(plan(request.resolve(), Run(folder)), console)
        return
    table = run_matrix(request, folder, engine=engine, address=address, workers=workers)
    report.print_table(table, console)
    out = table.attrs["folder"]
    console.print(f"Page: {out}/report.html; table and pictures: {out}/report.md", highlight=False, soft_wrap=True)
    failed = table.attrs["failed"]
    for result in failed:
        errors.print(f"cml: failed: {result.view} {result.codec}, seed {result.seed}: {result.error}", markup=False)
    if failed:
        raise typer.Exit(1)


def _words(names: str | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names.split())
