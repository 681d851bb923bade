"""Ablations: one small training, with one thing changed at a time, compared by BD-rate on held-out pictures.

    python -m cml.eval.ablations docs/results/ablations -o runs/ablations

trains every recipe of the folder (a finished one is not trained again) and writes the table beside the folder.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from cml.eval.curves import bd_quality, bd_rate
from rich.console import Console

import cml
from cml.errors import CmlError
from cml.files import write_atomic
from cml.train.codec import train_codec
from cml.train.material import read_signals
from cml.train.recipes import CodecRecipe, load_recipe
from cml.train.validation import validate

BASE = "base"
POINTS = 5


def run(recipe: CodecRecipe, out: Path) -> pd.DataFrame:
    """Train a recipe, or find it trained, and measure it: columns step, bpp, psnr."""
    measured, done = out / "validation.csv", out / "measured.json"
    identity = json.dumps(recipe.key() | {"cml": cml.__version__, "points": POINTS}, sort_keys=True)
    if not (measured.exists() and done.exists() and done.read_text() == identity):
        signals, held_out = read_signals(recipe)
        console = Console(stderr=True)
        with console.status(recipe.name) as status:
            codec = train_codec(
                recipe,
                signals,
                out,
                on_progress=lambda p: status.update(f"{recipe.name} {p.iteration}/{recipe.iterations}"),
            )
        points = pd.DataFrame([vars(point) for point in validate(codec, held_out, recipe.steps, POINTS)])
        parameters = {
            "encoder": sum(p.numel() for p in codec.encoder.parameters()),
            "decoder": sum(p.numel() for p in codec.decoder.parameters()),
        }
        write_atomic(measured, points.assign(**parameters).to_csv(index=False))
        write_atomic(done, identity)
    return pd.read_csv(measured)


def table(runs: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a run: BD-rate and BD-PSNR against the base over the range that both reach, and where its curve lies."""
    base = runs[BASE]
    rows = []
    for name, points in runs.items():
        try:
            pairs = (base.bpp, base.psnr, points.bpp, points.psnr)
            rate, quality = bd_rate(*pairs), bd_quality(*pairs)
        except CmlError:  # no overlap: the curve itself tells
            rate = quality = float("nan")
        curve = "  ".join(f"{b:.3f}/{q:.2f}" for b, q in zip(points["bpp"], points["psnr"], strict=True))
        rows.append(
            {
                "recipe": name, "BD-rate %": rate, "BD-PSNR dB": quality, "encoder": points.encoder[0],
                "decoder": points.decoder[0], "bpp/dB": curve,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cml.eval.ablations", description=__doc__)
    parser.add_argument("recipes", type=Path, help="folder of recipes; base.yaml is what the others are compared with")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the trained codecs")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    options = parser.parse_args(arguments)
    try:
        _run_all(options)
    except CmlError as error:
        sys.exit(f"cml: {error}")


def _run_all(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    paths = sorted(options.recipes.glob("*.yaml"), key=lambda path: (path.stem != BASE, path.stem))
    if not paths or paths[0].stem != BASE:
        raise CmlError(f"{options.recipes} holds no {BASE}.yaml to compare with.")
    runs = {path.stem: run(load_recipe(path), options.output / path.stem) for path in paths}
    result = table(runs)
    write_atomic(options.recipes.with_suffix(".csv"), result.to_csv(index=False, float_format="%.4g"))
    Console().print(result.to_string(index=False, float_format="{:.2f}".format), highlight=False)


if __name__ == "__main__":
    main()
