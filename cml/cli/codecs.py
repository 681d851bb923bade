"""`cml list` and `cml fit`: the codecs there are, and one of your own."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cml.cli.app import console, progress_bar
from cml.errors import CmlError


def list_names(pattern: Annotated[str, typer.Argument(help='Shell pattern, such as "rgb_*".')] = "*") -> None:
    """List codecs, data sets, tasks, views and backbones."""
    from cml.codecs.factory import create_codec, list_codecs
    from cml.data.datasets import DATASETS
    from cml.eval.protocols import VIEWS, views_of
    from cml.models.backbones import BACKBONES
    from cml.tasks.base import TASKS

    view = Table(title="codecs")
    for column in ("name", "default operating point", "latents", "reduction", "views"):
        view.add_column(column)
    for name in list_codecs(pattern):
        try:
            codec = create_codec(name)
        except Exception as error:  # its package is missing, or a plug-in is broken: the codec exists all the same
            view.add_row(name, Text(str(error) or type(error).__name__))
            continue
        spec = codec.spec
        latents = f"{spec.latent_channels} at 1/{spec.patch}" if spec.latent_channels else ""
        reduction = f"{spec.dimension_reduction:g}x" if spec.dimension_reduction else ""
        view.add_row(name, spec.name, latents, reduction, ", ".join(views_of(codec)))
    console.print(view)
    console.print(
        "by path: a folder, hf:OWNER/NAME, vae:, cosmos:, taef2, compressai:MODEL, walloc:, livecodec:, encodec:, "
        "dac:, mimi:, lyra, command:",
        highlight=False,
    )
    console.print(
        f"data sets: {', '.join(DATASETS.names())} (folder:PATH), folder-seg:PATH, hf:NAME, sroie:PATH, docvqa:PATH",
        highlight=False,
    )
    console.print("tasks: " + ", ".join(TASKS.names()), highlight=False)
    console.print("views: " + ", ".join(VIEWS), highlight=False)
    console.print("backbones: cml:small, timm:NAME, hf:NAME (" + ", ".join(BACKBONES.names()) + ")", highlight=False)


def fit(
    source: Annotated[Path, typer.Argument(help="A folder of pictures, or of sounds, searched with its subfolders.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The codec's folder; its path is its name.  [default: SOURCE_f8c48]"),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="Latent channels.  [default: 48; of sound 16 for each of its channels]")
    ] = None,
    levels: Annotated[
        int | None, typer.Option(help="Wavelet levels J; the patch is 2^J samples.  [default: 3; of sound 8]")
    ] = None,
    gray: Annotated[bool, typer.Option("--gray", help="Fit to luma instead of RGB.")] = False,
    step: Annotated[float | None, typer.Option(help="Default quantization step.  [default: 0.5; of sound 0.2]")] = None,
) -> None:
    """Fit a codec to your pictures or sounds in closed form: seconds, no training."""
    from cml.cli.sound_files import find_files, is_sound
    from cml.codecs.fit import fit_codec
    from cml.data.signals import read_image
    from cml.data.sound import read_sound
    from cml.hub import CONFIG

    files = find_files(source)
    sound = is_sound(files[0])
    if sound and gray:
        raise CmlError("--gray is for pictures; a codec of sound has the channels of its files.")
    signal_channels = len(read_sound(files[0]).samples) if sound else 1 if gray else 3
    levels = (8 if sound else 3) if levels is None else levels
    channels = (16 * signal_channels if sound else 48) if channels is None else channels
    step = (0.2 if sound else 0.5) if step is None else step
    if output is None:
        output = Path(f"{source.resolve().name}_{'gray_' if gray else ''}f{2**levels}c{channels}")
    if output.is_dir() and any(output.iterdir()) and not (output / CONFIG).exists():
        raise CmlError(f"The folder {output} holds something else; give an empty or new one with -o.")
    shown = f"cml fit {source.name} --channels {channels} --levels {levels}{' --gray' if gray else ''} --step {step:g}"
    data = f"{source.name}, {len(files)} {'sounds' if sound else 'pictures'}"
    with progress_bar(len(files)) as advance:

        def signals():
            for path in files:
                yield read_sound(path, channels=signal_channels).samples if sound else read_image(path, signal_channels)
                advance()

        codec = fit_codec(
            signals(), name=output.name, ndim=1 if sound else 2, channels=signal_channels, levels=levels,
            latent_channels=channels, step=step, level="peak" if sound else "absolute",
            provenance={"data": data, "command": shown},
        )  # fmt: skip
    codec.save(output, _card(output.name, shown, data, codec.spec.name))
    console.print(
        f"{output}: {codec.spec.name}, {codec.spec.dimension_reduction:g}x dimension reduction, "
        f"fingerprint {codec.codec_id}",
        soft_wrap=True,
    )


def _card(name: str, command: str, data: str, point: str) -> str:
    return (
        f"# {name}\n\nA linear wavelet codec of cml, fitted in closed form: the eigenvectors of the covariance of CDF "
        f"9/7 wavelet packets (see `cml/codecs/fit.py`). Default operating point `{point}`.\n\n"
        f"- data: {data}\n- recipe: `{command}`\n- training: none beyond the closed form\n"
    )
