"""Latents augmented as they are, against encoding the augmented pictures: error, symbols and time.

    python -m cml.eval.augment_bench FOLDER -o docs/results/augment

    pictures --encode--> z --operator------------------------------------> latents  \
    pictures --augment--> --encode--> latents                                        > compared
    pictures --encode--> symbols --decode--> --augment--> --encode--> latents       /

The third way is what a user without the operators does with stored symbols, with the whole decoder of each codec.
"""

import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from cml.eval.cells import environment
from torch import Tensor

from cml import hub
from cml.codecs.base import to_unit
from cml.codecs.factory import create_codec
from cml.codecs.neural import WaveletCodec
from cml.data.augment import LatentOperators
from cml.data.latents import single_threaded
from cml.data.signals import find_images, read_image
from cml.errors import CmlError
from cml.files import write_atomic

COARSER = 2.0  # times the step
SHARE = 0.7


@dataclass(frozen=True)
class Operation:
    """One operation, on latents (B, c, h, w) and on pictures (B, C, H, W)."""

    name: str
    latents: Callable[[LatentOperators, Tensor], Tensor]
    pictures: Callable[[Tensor], Tensor]
    coarser: float = 1.0


def _middle(x: Tensor) -> Tensor:
    """The half of each side in the middle, at whole positions of the grid and patches alike."""
    height, width = (n // 4 for n in x.shape[-2:])
    return x[..., height:-height, width:-width]


OPERATIONS = (
    Operation("flip, horizontal", lambda o, z: o.flip(z, -1), lambda x: x.flip(-1)),
    Operation("flip, vertical", lambda o, z: o.flip(z, -2), lambda x: x.flip(-2)),
    Operation("transposition", lambda o, z: o.transpose(z), lambda x: x.mT),
    Operation("quarter turn", lambda o, z: o.quarter_turn(z), lambda x: torch.rot90(x, 1, (-2, -1))),
    Operation("half turn", lambda o, z: o.quarter_turn(z, 2), lambda x: x.flip((-2, -1))),
    Operation("crop, half of each side", lambda o, z: _middle(z), _middle),
    Operation("mixup", lambda o, z: o.mix(z, z.roll(1, 0), SHARE), lambda x: SHARE * x + (1 - SHARE) * x.roll(1, 0)),
    Operation("twice the step", lambda o, z: z, lambda x: x, COARSER),
)


def augment_table(pictures: Sequence[Tensor], codecs: Sequence[str], *, repeats: int = 5) -> pd.DataFrame:
    """Error, symbols and time of every operation on every codec.

    Args:
        pictures: uint8 (3, side, side), all of one side, a multiple of 64.
        codecs: names of wavelet codecs; grey ones see the mean of the colours.
        repeats: of which the median time counts, after one to warm up.

    Returns:
        A row for each codec and operation.

        - error: of latents that were never rounded against those of the augmented picture, root mean square over
          that of the latents about each picture's and channel's mean;
        - rounding: the same for the codec's own symbols against latents that were never rounded, the yardstick;
        - symbols_error, decoded_error: of the operator on symbols, and of decoding, augmenting and encoding again,
          against the unrounded latents of the augmented picture;
        - same, decoded_same: symbols that equal those of the augmented picture, in percent;
        - ms, decoded_ms: a batch of all pictures, one thread.

    Raises:
        CmlError: there are no pictures.
    """
    if not pictures:
        raise CmlError("There are no pictures to measure.")
    with single_threaded(), torch.no_grad():
        return pd.DataFrame([row for name in codecs for row in _rows(name, torch.stack(list(pictures)), repeats)])


def _rows(name: str, pictures: Tensor, repeats: int) -> Iterator[dict[str, Any]]:
    codec = create_codec(name)
    if not isinstance(codec, WaveletCodec):
        raise CmlError(f"{name} is no wavelet codec; this benchmark takes those with a linear encoder.")
    if codec.spec.channels[0] == 1:
        pictures = pictures.float().mean(1, keepdim=True).round().to(torch.uint8)
    operators, x = LatentOperators(codec, normalize=False), to_unit(pictures)
    z, latents = codec.analysis(x)[:, : codec.channels], codec.encode(list(pictures))
    symbols = torch.stack([latent.symbols for latent in latents])
    stored = symbols * codec.step
    for operation in OPERATIONS:
        target = codec if operation.coarser == 1 else codec.at(codec.step * operation.coarser)
        step = target.step

        def operate(z: Tensor, operation: Operation = operation, step: float = step) -> Tensor:
            out = operation.latents(operators, z)
            return operators.requantize(out, step) if operation.coarser != 1 else out

        def through_pixels(operation: Operation = operation, target: WaveletCodec = target) -> Tensor:
            augmented = operation.pictures(torch.stack(codec.decode(latents)))
            return torch.stack([latent.symbols for latent in target.encode(list(augmented))])

        augmented = operation.pictures(x).contiguous()
        reference = codec.analysis(augmented)[:, : codec.channels]
        wanted = torch.stack([latent.symbols for latent in target.encode(list(augmented))])
        ours, decoded = operate(stored), through_pixels()
        yield {
            "codec": codec.spec.name,
            "operation": operation.name,
            "error": _error(operate(z), reference),
            "rounding": _error(wanted * step, reference),
            "symbols_error": _error(ours, reference),
            "decoded_error": _error(decoded * step, reference),
            "same": 100 * float(((ours / step).round() == wanted).float().mean()),
            "decoded_same": 100 * float((decoded == wanted).float().mean()),
            "ms": _median(lambda operate=operate: operate(stored), repeats),
            "decoded_ms": _median(through_pixels, repeats),
        }


def _error(z: Tensor, reference: Tensor) -> float:
    return float((z - reference).norm() / (reference - reference.mean((2, 3), keepdim=True)).norm())


def _median(work: Callable[[], object], repeats: int) -> float:
    """Milliseconds of this thread's own time, so that what else the machine does is not counted."""
    times = []
    for _ in range(repeats + 1):
        start = time.thread_time()
        work()
        times.append(1e3 * (time.thread_time() - start))
    return statistics.median(times[1:])


def markdown(table: pd.DataFrame, pictures: Sequence[Tensor], command: str) -> str:
    """The table for people, codec by codec."""
    lines = [
        "# Latents augmented as they are",
        "",
        f"The operators of `cml.data.augment` on {len(pictures)} pictures of {pictures[0].shape[-1]} pixels a side,",
        "against encoding the augmented pictures. Errors are root mean squares in percent of that of the latents",
        "about their means. *Unrounded* is the operator's own error; *rounding* is what the codec's quantizer",
        "alone costs, the yardstick. *Symbols* starts from stored symbols, as training does, and so does",
        "*decoded*: decode (with the whole decoder), augment, encode again. *Same* are symbols that equal those of",
        "the augmented picture, once the result is rounded. Times are of one CPU thread for the whole batch. A",
        "crop is exact but for the 4 positions next to the cut, where the cut picture mirrors and the cut latents",
        "know what was there.",
        "",
    ]  # fmt: skip
    for codec, rows in table.groupby("codec", sort=False):
        lines += [f"## {codec}", ""]
        lines += ["| operation | unrounded | rounding | symbols | decoded | same | same, decoded | ms | ms, decoded |"]
        lines += ["|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
        for row in rows.to_dict("records"):
            errors = [f"{100 * row[key]:.2f}" for key in ("error", "rounding", "symbols_error", "decoded_error")]
            same = [f"{row[key]:.1f} %" for key in ("same", "decoded_same")]
            cells = [row["operation"], *errors, *same, f"{row['ms']:.2f}", f"{row['decoded_ms']:.0f}"]
            lines.append("| " + " | ".join(cells) + " |")
        lines.append("")
    made = environment() | {"cores": os.cpu_count()}
    return "\n".join([*lines, "## Made by", "", "```", command, "```", "", f"`{json.dumps(made)}`", ""])


def main(
    folder: Annotated[Path, typer.Argument(help="Pictures, searched with subfolders; their middle is used.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write, without suffix.")],
    codec: Annotated[list[str] | None, typer.Option("-c", "--codec", help="Operating points; all bundled.")] = None,
    side: Annotated[int, typer.Option(help="Side of the pictures, a multiple of 64.")] = 256,
    count: Annotated[int, typer.Option(help="Pictures, evenly from the folder.")] = 32,
) -> None:
    """Measure augmentation of latents on pictures; writes OUT.md and OUT.csv."""
    try:
        pictures = _read(folder, side, count)
        table = augment_table(pictures, codec or hub.bundled_names())
    except CmlError as error:
        typer.echo(f"cml: {error}", err=True)
        raise typer.Exit(2) from error
    text = markdown(table, pictures, shlex.join(["python", "-m", "cml.eval.augment_bench", *sys.argv[1:]]))
    write_atomic(f"{out}.csv", table.to_csv(index=False, float_format="%.5f"))
    write_atomic(f"{out}.md", text)
    print(text)


def _read(folder: Path, side: int, count: int) -> list[Tensor]:
    """The middle of those that are large enough."""
    if side < 64 or side % 64:
        raise CmlError(f"The side is a multiple of 64, not {side}.")
    pictures = []
    files = find_images(folder)
    for file in files[:: max(len(files) // count, 1)]:
        x = read_image(file, 3)
        height, width = x.shape[1:]
        if min(height, width) >= side and len(pictures) < count:
            top, left = (height - side) // 2, (width - side) // 2
            pictures.append(x[:, top : top + side, left : left + side])
    if not pictures:
        raise CmlError(f"{folder} holds no picture of {side} pixels a side or more; take a smaller --side.")
    return pictures


if __name__ == "__main__":
    typer.run(main)
