"""`cml list`: the codecs there are."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cml.cli.app import console


def list_names(pattern: Annotated[str, typer.Argument(help='Shell pattern, such as "rgb_*".')] = "*") -> None:
    """List codecs, data sets, tasks, views and backbones."""
    from cml.cli.info import patch_words
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
        latents = f"{spec.latent_channels} at 1/{patch_words(spec.cell)}" if spec.latent_channels else ""
        reduction = f"{spec.dimension_reduction:g}x" if spec.dimension_reduction else ""
        view.add_row(name, spec.name, latents, reduction, ", ".join(views_of(codec)))
    console.print(view)
    console.print(
        "by path: a folder, hf:OWNER/NAME, vae:, cosmos:, taef2, compressai:MODEL, walloc:, livecodec:, encodec:, "
        "dac:, mimi:, lyra, command:",
        highlight=False,
    )
    console.print(
        f"data sets: {', '.join(DATASETS.names())} (folder:PATH), folder-seg:PATH, hf:NAME, sroie:PATH, docvqa:PATH; "
        "of sound esc10:PATH, slakh:PATH, stems:PATH, musdb:PATH, ambisonic:PATH; of three axes "
        "volumes:PATH, jasper:PATH, frames:PATH, video:PATH",
        highlight=False,
    )
    console.print("tasks: " + ", ".join(TASKS.names()), highlight=False)
    console.print("views: " + ", ".join(VIEWS), highlight=False)
    console.print(
        "backbones: cml:small, cml:sound, timm:NAME, hf:NAME (" + ", ".join(BACKBONES.names()) + ")", highlight=False
    )
