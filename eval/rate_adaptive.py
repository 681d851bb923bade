"""One model for every rate of a codec, against one model for each.

    python -m cml.eval.rate_adaptive --task segmentation --data folder-seg:PATH --codec rgb_f8c48 -o docs/results/rates

    latents at steps a, b, c --a step drawn for each sample--> one model  -.
    latents at step a, at step b, at step c -----------------> a model each -> every model scored at every step

All models are trained alike: one recipe, as many samples seen. Latents without their step are the same thing at every
rate, only rounded more or less, so a model can serve all of them. The scores of a finished training are kept in the
folder OUT, beside OUT.md and OUT.csv: started again, after a kill too, only what is missing is trained.
"""

import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from cml.eval.cells import Condition, context_of, environment
from cml.eval.protocols import Prepared, prepare
from cml.eval.results import Result, Run, cell_key
from cml.eval.statistics import outcome_of, paired_bootstrap
from cml.tasks.base import TASKS, Task
from torch import Tensor

from cml.codecs.base import Codec
from cml.codecs.factory import create_codec
from cml.data.latents import ModelInputs
from cml.errors import CmlError
from cml.files import write_atomic

MIXED = "all steps"


@dataclass(frozen=True)
class MixedInputs(ModelInputs):
    """The same samples at several steps; every sample of every batch is taken at one that is drawn for it."""

    parts: tuple[ModelInputs, ...] = ()
    generator: torch.Generator | None = None

    @classmethod
    def of(cls, parts: Sequence[ModelInputs], seed: int) -> "MixedInputs":
        """From the inputs of one split at each step."""
        shared = {name: getattr(parts[0], name) for name in ModelInputs.__dataclass_fields__}
        return cls(**shared, parts=tuple(parts), generator=torch.Generator().manual_seed(seed))

    def batch(self, indices: Tensor, flips: Tensor | None = None, shift: tuple[int, ...] = ()) -> Tensor:
        drawn = torch.randint(len(self.parts), indices.shape, generator=self.generator)
        at_each = [part.batch(indices, flips, shift) for part in self.parts]
        out = at_each[0]
        for number, x in enumerate(at_each):
            out[drawn == number] = x[drawn == number]
        return out


def rate_adaptive(
    task: Task, codec: str, steps: Sequence[float], seeds: int, run: Run, patch: int | None = None
) -> pd.DataFrame:
    """Train one model on all steps and one on each, and score all of them at every step.

    Args:
        task: a task that trains.
        codec: name of a codec with latents and an option `step`, without that option.
        steps: quantization steps, two or more.
        seeds: trainings of each model.
        run: where the scores of finished trainings are kept, a result for each model, seed and step; a model that has
            them all is not trained again.
        patch: pixels a token; None for the task's own.

    Returns:
        A row for each step and model: `step`, `bpp`, `trained_on` (a step, or "all steps"), the metrics with their
        standard deviation over seeds (`_sd`), and `gain` with `gain_low` and `gain_high`: the difference in score from
        the model trained on that step alone, on the same test items.

    Raises:
        CmlError: something is wrong with the request.
    """
    if task.frozen:
        raise CmlError(f"The task {task.name} trains nothing, so there is no model to adapt; take another.")
    if len(set(steps)) < 2 or seeds < 1:
        raise CmlError("A comparison of rates needs two steps or more, and one seed or more.")
    patch = patch or task.patch
    codecs = {step: _at(codec, step) for step in sorted(steps)}
    models = {MIXED: list(codecs), **{_word(step): [step] for step in codecs}}

    def context(model: str, seed: int, step: float) -> dict[str, Any]:
        specs = [codecs[trained].spec for trained in models[model]]
        scored = context_of(task, Condition("latent", codecs[step]), seed, patch)
        return scored | {"trained_on": [[spec.codec_id, dict(spec.settings)] for spec in specs]}

    trainings = [(model, seed) for model in models for seed in range(seeds)]
    keys = {(*training, step): cell_key(context(*training, step)) for training in trainings for step in codecs}
    missing = [one for one in trainings if not all(run.finished(keys[*one, step]) for step in codecs)]
    if missing:
        task.load(lambda: None)
    prepared = {step: prepare("latent", made, task, patch) for step, made in codecs.items()} if missing else {}
    for model, seed in missing:
        start = time.perf_counter()
        trained = _train(task, [prepared[step] for step in models[model]], seed)
        for step, part in prepared.items():
            score = task.score(trained, part.test)
            run.save_items(keys[model, seed, step], score.items)
            result = Result(
                key=keys[model, seed, step], view="latent", codec=codecs[step].spec.name, seed=seed, status="ok",
                metrics=score.metrics, bpp=float(np.mean(part.bits)) / (task.size[0] * task.size[1]),
                context=context(model, seed, step), environment=environment(),
            )  # fmt: skip
            run.append(result)
        print(f"{model}, seed {seed}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    done = run.results()
    return _table(
        {(m, step): [done[keys[m, seed, step]] for seed in range(seeds)] for step in codecs for m in models}, run
    )


def _table(results: Mapping[tuple[str, float], Sequence[Result]], run: Run) -> pd.DataFrame:
    """A row for each model and step, from the results of its seeds."""
    outcomes = {at: np.stack([outcome_of(run.items(one.key)) for one in seeds]) for at, seeds in results.items()}
    rows = []
    for (model, step), seeds in results.items():
        row: dict[str, Any] = {"step": step, "bpp": seeds[0].bpp, "trained_on": model}
        for name in seeds[0].metrics:
            values = pd.Series([one.metrics[name] for one in seeds])
            row |= {name: values.mean(), f"{name}_sd": values.std(ddof=1)}
        gain = paired_bootstrap(outcomes[model, step], outcomes[_word(step), step])
        rows.append(row | {"gain": gain.difference, "gain_low": gain.low, "gain_high": gain.high})
    return pd.DataFrame(rows)


def _word(step: float) -> str:
    return f"{step:g}"


def _at(codec: str, step: float) -> Codec:
    made = create_codec(f"{codec}{',' if '=' in codec else ':'}step={step}")
    if made.spec.latent_channels is None:
        raise CmlError(f"{codec} has no latents; take a codec that has (cml list).")
    return made


def _train(task: Task, prepared: Sequence[Prepared], seed: int) -> torch.nn.Module:
    """A model trained on one step, or on all of several."""
    inputs = [part.train for part in prepared if part.train is not None]
    model, _ = task.build(prepared[0].stem, seed)
    chosen = MixedInputs.of(inputs, seed) if len(inputs) > 1 else inputs[0]
    task.train(model, chosen, prepared[0].shift, seed, lambda epoch, loss: None)
    return model


def markdown(table: pd.DataFrame, score: str, title: str, command: str) -> str:
    """The table as a person reads it: a row a step, a column a model."""
    models = list(dict.fromkeys(table["trained_on"]))
    lines = [
        f"# One model for every rate: {title}",
        "",
        f"The {score.replace('_', ' ')} at each step (row) of a model trained on each step (column), mean over seeds ± "
        "their standard deviation. *Gain*: of the model trained on all steps over the one trained on that step alone, "
        "on the same test items, with a 95 % bootstrap interval. All models have seen as many samples.",
        "",
        "| step | bpp | " + " | ".join(models) + " | gain of all steps |",
        "|--:|--:|" + "--:|" * len(models) + "--:|",
    ]
    for step, rows in table.groupby("step"):
        by_model = {row["trained_on"]: row for row in rows.to_dict("records")}
        cells = []
        for model in models:
            row = by_model[model]
            spread = "" if pd.isna(row[f"{score}_sd"]) else f" ±{row[f'{score}_sd']:.3f}"
            cells.append(f"{row[score]:.3f}{spread}")
        mixed = by_model[MIXED]
        cells.append(f"{mixed['gain']:+.3f} [{mixed['gain_low']:+.3f}, {mixed['gain_high']:+.3f}]")
        lines.append(f"| {step:g} | {mixed['bpp']:.3f} | " + " | ".join(cells) + " |")
    lines += ["", "## Made by", "", "```", command, "```", "", f"`{json.dumps(environment())}`", ""]
    return "\n".join(lines)


def main(
    data: Annotated[str, typer.Option(help="As the task takes it.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Where to write, without suffix.")],
    task: Annotated[str, typer.Option(help="A task that trains.")] = "segmentation",
    codec: Annotated[str, typer.Option(help="A codec with latents, without its step.")] = "rgb_f8c48",
    steps: Annotated[str, typer.Option(help="Quantization steps, space-separated.")] = "0.25 0.5 1 2",
    seeds: Annotated[int, typer.Option(help="Trainings of each model.")] = 1,
    size: Annotated[int | None, typer.Option(help="As for cml compare.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each training; the task's own.")] = None,
    backbone: Annotated[str | None, typer.Option(help="As for cml compare.")] = None,
) -> None:
    """Compare one model for every rate with one model for each; writes OUT.md and OUT.csv, and keeps scores in OUT."""
    try:
        made: Task = TASKS.get(task)(data, backbone=backbone, size=size, epochs=epochs)
        table = rate_adaptive(made, codec, _numbers(steps), seeds, Run(out))
    except CmlError as error:
        typer.echo(f"cml: {error}", err=True)
        raise typer.Exit(2) from error
    command = shlex.join(["python", "-m", "cml.eval.rate_adaptive", *sys.argv[1:]])
    text = markdown(table, made.main_score, f"{task}, {made.description}, {codec}", command)
    write_atomic(f"{out}.csv", table.to_csv(index=False, float_format="%.6g"))
    write_atomic(f"{out}.md", text)
    print(text)


def _numbers(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split()]
    except ValueError as error:
        raise CmlError(f"Steps are numbers separated by spaces, not {words!r}.") from error


if __name__ == "__main__":
    typer.run(main)
