"""`cml rd`: the rate-distortion benchmark, of pictures and of sound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cml.cli.app import console, errors
from cml.errors import CmlError, DataError

if TYPE_CHECKING:
    import pandas as pd


def rd(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of pictures or of sounds, searched with its subfolders; or a set of sounds, of which the "
            "test split is taken: esc10:PATH, slakh:PATH, stems:PATH, ambisonic:PATH."
        ),
    ],
    codec: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            "-c",
            help="A codec (a ladder of operating points) or an operating point (taken as given; several of one codec "
            "are one curve); as often as wanted.  \\[default: those people use, bundled ones]",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="OUT.csv, OUT.md, OUT.png.  \\[default: runs/rd-DATA]")
    ] = None,
    anchor: Annotated[
        str | None,
        typer.Option(help="The codec that BD-rates are against.  \\[default: jpeg2000, or opus]", show_default=False),
    ] = None,
    printed: Annotated[
        bool | None,
        typer.Option(
            "--printed/--no-printed",
            help="Show what the authors of WaLLoC and LiVeAction print for Kodak.  \\[default: where DATA is Kodak]",
        ),
    ] = None,
    perceptual: Annotated[
        bool,
        typer.Option(
            "--perceptual",
            help="LPIPS and DISTS too (seconds a picture, 530 MB of weights, fetched once); of speech, DNSMOS.",
        ),
    ] = False,
) -> None:
    """Measure rate, distortion and speed of codecs on pictures or on sound: table, curves and BD-rates.

    PSNR, SSIM and MS-SSIM of pictures, SI-SDR, PSNR and log-spectral distance of sound, at real bytes, and how fast one
    thread is. Each measurement is kept as soon as it is taken: run it again, after an interruption or with more codecs,
    and only what is missing is measured.
    """
    target = out or Path("runs") / f"rd-{Path(data.rpartition(':')[2]).resolve().name}"
    if _is_sound(data):
        if printed is not None:
            raise CmlError("--printed and --no-printed are about the pictures of Kodak; leave them out for sound.")
        table = _sound(data, codec, target, anchor, perceptual)
    else:
        table = _pictures(data, codec, target, anchor, printed, perceptual)
    for note in table.attrs["notes"]:
        errors.print(f"cml: {note}", markup=False, highlight=False, soft_wrap=True)
    if len(table):
        console.print(f"Report: {target}.md, curves: {target}.png, measurements: {target}.csv", soft_wrap=True)
    for sentence in table.attrs["failed"]:
        errors.print(f"cml: failed: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if table.attrs["failed"]:
        raise typer.Exit(1)


def _is_sound(data: str) -> bool:
    """Whether a folder holds sounds, or a name is one of a set of them."""
    from cml.data.signals import find_images
    from cml.data.sound import find_sounds

    if not Path(data).is_dir():
        return ":" in data
    found = []
    for find in (find_images, find_sounds):
        try:
            found.append(bool(find(data)))
        except DataError:
            found.append(False)
    pictures, sounds = found
    if pictures and sounds:
        raise DataError(f"{data} holds pictures and sounds: name a folder of one kind.")
    return sounds


def _sound(data: str, codec: list[str] | None, target: Path, anchor: str | None, perceptual: bool) -> "pd.DataFrame":
    from cml.eval import sound_rd, sound_rd_report
    from cml.eval.rd_points import curve_of

    anchor = anchor or sound_rd.ANCHOR
    table = sound_rd.sound_rd(data, codec, out=target, anchor=anchor, perceptual=perceptual)
    sound_rd_report.print_tables(table, curve_of(anchor), console)
    return table


def _pictures(
    data: str, codec: list[str] | None, target: Path, anchor: str | None, printed: bool | None, perceptual: bool
) -> "pd.DataFrame":
    from cml.eval import rd_report
    from cml.eval.rd import rd as run
    from cml.eval.rd_points import curve_of

    anchor = anchor or "jpeg2000"
    table = run(data, codec, out=target, anchor=anchor, printed=printed, perceptual=perceptual)
    rd_report.print_tables(table, curve_of(anchor), console)
    return table
