"""`cml bench`: the speed benchmark."""

from pathlib import Path
from typing import Annotated

import typer

from cml.cli.app import console, errors


def bench(
    data: Annotated[
        Path | None, typer.Argument(help="A folder of photos.  \\[default: synthetic pictures]", show_default=False)
    ] = None,
    codec: Annotated[
        list[str] | None,
        typer.Option(
            "--codec",
            "-c",
            help="An operating point of a neural codec for RGB; as often as wanted.  \\[default: rgb_f8c12 and "
            "rgb_f8c48, with the linear decoder, each with the entropy back-ends order0 and ctx]",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="OUT.csv, OUT.md, OUT.png.")] = Path("runs/speed"),
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Of the pictures, separated by spaces: HEIGHTxWIDTH, or MP.  \\[default: 256x256 to 10000x10000]"
        ),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="The most at each size; slow codecs take part in fewer.  \\[default: 25]")
    ] = None,
    threads: Annotated[
        list[int] | None,
        typer.Option(help="For all codecs; given again, ours are measured with that many, too.  \\[default: 1]"),
    ] = None,
    memory: Annotated[bool, typer.Option(help="Peak memory, too, each codec in a process of its own.")] = True,
    quick: Annotated[bool, typer.Option("--quick", help="Small pictures, few rounds, no memory: a minute.")] = False,
) -> None:
    """Measure how fast codecs are: ours against JPEG, WebP, AVIF, JPEG 2000 and the papers' packages, in one run.

    Megapixels a second, stage by stage, over sizes of 0.07 to 100 megapixels; ratios taken round by round, with their
    spread; peak memory; and what bounds the encoder. Takes about ten minutes.
    """
    from cml.eval import bench_report
    from cml.eval.bench import bench as run

    table = run(
        data,
        codec,
        out=out,
        sizes=sizes.split() if sizes is not None else None,
        rounds=rounds,
        threads=threads or [1],
        memory=memory,
        quick=quick,
    )
    bench_report.print_tables(table, console)
    for note in table.attrs["notes"]:
        errors.print(f"cml: {note}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"Report: {out}.md, picture: {out}.png, measurements: {out}.csv", soft_wrap=True)
