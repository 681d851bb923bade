"""`cml rd`: the rate-distortion benchmark."""

from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console, errors


def rd(
    data: Annotated[Path, typer.Argument(help="A folder of pictures, searched with its subfolders.")],
    codec: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            "-c",
            help="A codec (a ladder of operating points) or an operating point (taken as given; several of one codec "
            "are one curve); as often as wanted.  \\[default: jpeg2000 jpeg webp avif jpegxl, bundled rgb codecs]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="OUT.csv, OUT.md, OUT.png.  \\[default: runs/rd-DATA]")
    ] = None,
    anchor: Annotated[str, typer.Option(help="The codec that BD-rates are against.")] = "jpeg2000",
    printed: Annotated[
        bool | None,
        typer.Option(
            "--printed/--no-printed",
            help="Show what the authors of WaLLoC and LiVeAction print for Kodak.  \\[default: where DATA is Kodak]",
        ),
    ] = None,
    perceptual: Annotated[
        bool,
        typer.Option("--perceptual", help="LPIPS and DISTS too: seconds a picture, 530 MB of weights, fetched once."),
    ] = False,
) -> None:
    """Measure rate, distortion and speed of codecs on pictures: table, curves and BD-rates.

    PSNR, SSIM and MS-SSIM at real bytes, and megapixels a second on one thread. Each measurement is kept as soon as it
    is taken: run it again, after an interruption or with more codecs, and only what is missing is measured.
    """
    from cml.eval import rd_report
    from cml.eval.rd import curve_of
    from cml.eval.rd import rd as run

    target = out or Path("runs") / f"rd-{data.resolve().name}"
    table = run(data, codec, out=target, anchor=anchor, printed=printed, perceptual=perceptual)
    rd_report.print_tables(table, curve_of(anchor), console)
    for note in table.attrs["notes"]:
        errors.print(f"cml: {note}", markup=False, highlight=False, soft_wrap=True)
    if len(table):
        console.print(f"Report: {target}.md, curves: {target}.png, measurements: {target}.csv", soft_wrap=True)
    for sentence in table.attrs["failed"]:
        errors.print(f"cml: failed: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if table.attrs["failed"]:
        raise typer.Exit(1)
