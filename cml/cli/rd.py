"""`cml rd`: the rate-distortion benchmark, of pictures, of sound, and of volumes, cubes and video."""

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
            help="A folder of pictures, of sounds, or of scans, hyperspectral cubes or videos, searched with its "
            "subfolders; or a set, of which the test split is taken: of sounds esc10:PATH, slakh:PATH, stems:PATH, "
            "ambisonic:PATH, of signals of three axes volumes:PATH, jasper:PATH, frames:PATH, video:PATH."
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
        typer.Option(
            help="The codec that BD-rates are against.  \\[default: jpeg2000, opus, slices-jpeg2000, or x264]",
            show_default=False,
        ),
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
    """Measure rate, distortion and speed of codecs: table, curves and BD-rates.

    PSNR, SSIM and MS-SSIM of pictures, SI-SDR, PSNR and log-spectral distance of sound, PSNR and SSIM of volumes, video
    and cubes of bands, and the spectral angle of these, at real bytes, and how fast one thread is. Each measurement is
    kept as soon as it is taken: run it again, after an interruption or with more codecs, and only what is missing is
    measured.
    """
    target = out or Path("runs") / f"rd-{Path(data.rpartition(':')[2]).resolve().name}"
    kind = _kind(data)
    if kind != "pictures" and printed is not None:
        raise CmlError(f"--printed and --no-printed are about the pictures of Kodak; leave them out for {kind}.")
    if kind == "sound":
        table = _sound(data, codec, target, anchor, perceptual)
    elif kind == "pictures":
        table = _pictures(data, codec, target, anchor, printed, perceptual)
    elif perceptual:
        raise CmlError(f"--perceptual is about pictures and speech; leave it out for {kind}.")
    else:
        table = _signals(data, codec, target, anchor)
    for note in table.attrs["notes"]:
        errors.print(f"cml: {note}", markup=False, highlight=False, soft_wrap=True)
    if len(table):
        console.print(f"Report: {target}.md, curves: {target}.png, measurements: {target}.csv", soft_wrap=True)
    for sentence in table.attrs["failed"]:
        errors.print(f"cml: failed: {sentence}", markup=False, highlight=False, soft_wrap=True)
    if table.attrs["failed"]:
        raise typer.Exit(1)


_SETS = ("volumes", "jasper", "frames", "video")
_SIGNALS = "signals of three axes"


def _kind(data: str) -> str:
    """What a folder or a named set holds: pictures, sound, or signals of three axes."""
    if not Path(data).is_dir():
        return _SIGNALS if data.partition(":")[0] in _SETS else "sound" if ":" in data else "pictures"
    from cml.data.signal_files import find_signals, kind_of
    from cml.data.signals import find_images
    from cml.data.sound import find_sounds

    # A raster of many bands has the suffix of a picture, and a video that of a sound.
    signals = {file for file in find_signals(data) if kind_of(file) != "picture"}
    found = [_SIGNALS] if signals else []
    for kind, find in (("pictures", find_images), ("sounds", find_sounds)):
        try:
            files = find(data)
        except DataError:
            continue
        found += [kind] if set(files) - signals else []
    if len(found) > 1:
        raise DataError(f"{data} holds {' and '.join(found)}: name a folder of one kind.")
    return "sound" if found == ["sounds"] else found[0] if found else "pictures"


def _signals(data: str, codec: list[str] | None, target: Path, anchor: str | None) -> "pd.DataFrame":
    from cml.eval import volume_rd, volume_rd_report

    table = volume_rd.volume_rd(data, codec, out=target, anchor=anchor)
    volume_rd_report.print_tables(table, console)
    return table


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
