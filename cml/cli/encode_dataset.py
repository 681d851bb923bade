"""`cml encode-dataset`: a data set encoded once, to learn from ever after."""

import re
import time
from typing import Annotated

import typer

from cml.cli.app import console, errors
from cml.errors import CmlError


def encode_dataset(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder (flat, of class folders, or with train, test, val), elpv, folder:PATH, hf:NAME[,CONFIG] or "
            'wds:PATTERN, such as "wds:train-{000..146}.tar".'
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="The folder, or a URL such as s3://BUCKET/NAME.")],
    codec: Annotated[
        str | None,
        typer.Option(
            "--codec",
            "-c",
            help="A codec with latents (see `cml list`).  \\[default: rgb_f8c48 or gray_f8c16 with entropy=order0]",
        ),
    ] = None,
    op: Annotated[str | None, typer.Option(help='Its options: "step=0.5,entropy=order0".')] = None,
    size: Annotated[
        str | None, typer.Option(help="Side, or HxW, to which whole pictures are resized.  \\[default: as they are]")
    ] = None,
    shard_samples: Annotated[int, typer.Option(min=1, help="Samples in a shard.")] = 1024,
    on_error: Annotated[str, typer.Option(help="At a bad sample: stop, or skip and list it.")] = "stop",
    engine: Annotated[str, typer.Option(help="local, or ray.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, or auto.  \\[default: one on this machine]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads, or processes of Ray.  \\[default: one a CPU]")
    ] = None,
) -> None:
    """Encode a data set once: parquet shards of containers, labels and metadata, with a manifest.

    Run again, after an interruption of any kind, it goes on where it stopped and nothing is encoded twice. `cml info
    OUTPUT` describes and verifies the result; `cml.LatentDataset`, Hugging Face `datasets`, pandas and DuckDB read it.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from cml.data.encode_dataset import encode_dataset as encode

    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bars:
        task = bars.add_task("", total=None, pace="listing")
        begun: list[tuple[float, int]] = []
        last = 0

        def show(done: int, total: int) -> None:
            nonlocal last
            now, last = time.monotonic(), done
            begun[:] = begun or [(now, done)]
            bars.update(task, completed=done, total=total, pace=f"{_pace(begun[0], now, done):,.0f}/s")

        manifest = encode(
            source, output, codec, op=op, size=_size(size), shard_samples=shard_samples, on_error=on_error,
            engine=engine, address=address, workers=workers, on_sample=show,
        )  # fmt: skip
    for entry in manifest.skipped:
        errors.print(f"cml: skipped: {entry['id']}: {entry['error']}", markup=False, highlight=False, soft_wrap=True)
    splits = manifest.splits.values()
    samples, stored = sum(split.samples for split in splits), sum(split.bytes for split in splits)
    taken = sum(split.source_bytes for split in splits)
    speed = f" ({_pace(begun[0], time.monotonic(), last):,.0f}/s)" if begun and last > begun[0][1] else ""
    saved = f", {taken / stored:.3g} times fewer" if taken and stored else ""
    console.print(
        f"{output}: {samples:,} samples{speed}, {stored / 1e6:,.2f} MB of containers against {taken / 1e6:,.2f} MB of "
        f"the source{saved}",
        highlight=False,
        soft_wrap=True,
    )


def _pace(begun: tuple[float, int], now: float, done: int) -> float:
    return (done - begun[1]) / max(now - begun[0], 1e-3)


def _size(text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text)
    if not match:
        raise CmlError(f"--size is a side or HEIGHTxWIDTH in pixels, such as 160 or 120x160, not {text!r}.")
    height, width = match.groups()
    return (int(height), int(width)) if width else int(height)
