"""`cml data`: data sets that are made, not downloaded."""

from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console, errors

data = typer.Typer(no_args_is_help=True, help="Make data sets.")


@data.callback()
def _group() -> None:
    """Make data sets."""


@data.command("slakh")
def slakh(
    output: Annotated[Path, typer.Argument(help="The folder: one below it a piece, and index.json.")],
    pieces: Annotated[int, typer.Option(min=2, help="How many; every fifth is test.")] = 50,
    seconds: Annotated[float, typer.Option(min=0.1, help="The length of each.")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, help="Of everything left to chance.")] = 0,
    rate: Annotated[int, typer.Option(min=8000, max=96000, help="Samples a second.")] = 44100,
    channels: Annotated[int, typer.Option(min=1, max=2, help="2, or 1 for their mean.")] = 2,
    soundfont: Annotated[
        Path | None, typer.Option(help="A .sf2 or .sf3 file of General MIDI.  \\[default: MuseScore General]")
    ] = None,
) -> None:
    """Render real scores into exact stems: drums, bass, keys, strings, winds, whose sum is the mixture.

    The scores are those of music21's corpus, the program fluidsynth plays them; the drums are patterns of our own. Read
    the folder with `--data slakh:OUTPUT`. Run again, it goes on where it stopped; with more pieces, it grows.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from cml.data.render import FluidSynth
    from cml.data.scores import Corpus
    from cml.data.slakh import build_slakh

    renderer = FluidSynth(soundfont)
    with Progress(BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=errors, transient=True) as bars:
        task = bars.add_task("", total=pieces)
        index = build_slakh(
            output, pieces, seconds, Corpus(), renderer, seed, rate, channels,
            on_piece=lambda done: bars.update(task, completed=done),
        )  # fmt: skip
    test = sum(piece["split"] == "test" for piece in index["pieces"])
    console.print(
        f"{output}: {pieces - test} pieces to train on and {test} to test, {seconds:g} s each, stems "
        f"{', '.join(index['stems'])}; {index['drums']}",
        highlight=False,
        soft_wrap=True,
    )
