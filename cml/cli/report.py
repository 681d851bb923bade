"""`cml report`: the page of a run."""

from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console


def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run of `cml compare`, finished or not.")],
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where the page goes.  \\[default: RUN/report.html]")
    ] = None,
) -> None:
    """Write the page of a run: curves, table, pictures and settings in one file that needs no network.

    `cml compare` writes it at its end. Only what lies in the run's folder is read, so neither codecs nor data are
    needed any more.
    """
    from cml.eval import page

    path = page.write(run, out)
    console.print(f"Page: {path}, {path.stat().st_size / 1e6:.2f} MB", highlight=False, soft_wrap=True)
