"""`cml compare --dry-run`: the cells of a comparison, and roughly how long they will take."""

import copy
import json
import warnings
from dataclasses import dataclass, replace
from functools import partial
from statistics import mean
from typing import Any

import torch
from cml.eval.cells import Condition, context_key
from cml.eval.complexity import timed
from cml.eval.matrix import Comparison
from cml.eval.protocols import REUSED, blank_inputs, carrier, original, prepared_items, taken, view_stem
from cml.eval.results import Result, Run
from cml.tasks.base import Task
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cml.codecs.factory import create_codec
from cml.models.backbones import StemShape

_ITEMS = 16  # that a model is timed with
_SPEED_SECONDS, _SPEED_CALLS = 0.6, 64  # what measuring a codec's speed takes: the longer of the two


@dataclass(frozen=True)
class Planned:
    """A condition, and what is left to do of it.

    Attributes:
        condition: a view of a codec.
        done, todo: cells, one a seed.
        seconds: that the cells to do will take, roughly.
        measured: whether that is from cells of the run, rather than from a few calls here.
        error: why it will fail, where a call already does.
    """

    condition: Condition
    done: int
    todo: int
    seconds: float = 0.0
    measured: bool = False
    error: str = ""


def dry_run(comparison: Comparison, run: Run) -> list[Planned]:
    """Every condition with its cells and the time that they will take.

    The time is the mean of finished cells of the run where they are of the same task and view (and codec, if there are
    any); else a picture is coded and a few samples are trained on and scored, here and now, on the machine as it is.
    """
    task, clock = comparison.task, _Clock(comparison)
    settings = _plain(task.key)
    known = [
        result
        for result in run.results().values()
        if result.status == "ok" and result.seconds and settings.items() <= _plain(result.context).items()
    ]
    plans = []
    for condition in comparison.conditions:
        keep = condition.view in REUSED and not task.frozen
        keys = [context_key(task, condition, seed, comparison.patch) for seed in comparison.seeds]
        done = sum(run.finished(key, model=keep) for key in keys)
        plan = Planned(condition, done, len(keys) - done)
        if plan.todo:
            like = _like(condition, known)
            try:
                seconds = plan.todo * mean(like) if like else clock.condition(condition, plan.todo)
                plan = replace(plan, seconds=seconds, measured=bool(like))
            except Exception as error:  # so it will in the run, where the others go on
                plan = replace(plan, error=str(error) or type(error).__name__)
        plans.append(plan)
    return plans


def print_plan(plans: list[Planned], console: Console) -> None:
    """A row a condition, and the sum."""
    todo, done = sum(plan.todo for plan in plans), sum(plan.done for plan in plans)
    guessed = any(plan.todo and not plan.measured for plan in plans)
    caption = (
        f"{todo + done} cells, {done} done before, {todo} to run: roughly {_time(sum(p.seconds for p in plans))} on "
        "this machine as it is now. "
        + ("~ is from a few calls; the rest is from finished cells." if guessed else "From finished cells of the run.")
    )
    view = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=caption if todo else f"All {done} cells are done.")
    for name in ("view", "codec", "seeds", "done", "to run", "time"):
        view.add_column(name, justify="left" if name in ("view", "codec") else "right", no_wrap=name != "codec")
    for plan in plans:
        time = ("" if plan.measured else "~") + _time(plan.seconds) if plan.todo else ""
        counts = map(str, (plan.done + plan.todo, plan.done, plan.todo))
        view.add_row(plan.condition.view, plan.condition.codec.spec.name, *counts, "fails" if plan.error else time)
    console.print(view)
    for plan in plans:
        if plan.error:
            text = f"{plan.condition.view} {plan.condition.codec.spec.name} will fail: {plan.error}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _plain(settings: object) -> dict[str, str]:
    """As they come back from a file, and comparable."""
    return {key: json.dumps(value, sort_keys=True) for key, value in json.loads(json.dumps(settings)).items()}


def _like(condition: Condition, known: list[Result]) -> list[float]:
    """Seconds of the cells that are most like those of a condition."""
    view = [result for result in known if result.view == condition.view]
    same = [result for result in view if result.codec == condition.codec.spec.name]
    return [result.seconds for result in same or view]


class _Clock:
    """Times a few calls, each kind once."""

    def __init__(self, comparison: Comparison):
        self._task, self._patch = comparison.task, comparison.patch
        self._models: dict[tuple[StemShape, bool], float] = {}

    def condition(self, condition: Condition, seeds: int) -> float:
        """Seconds of some seeds of a condition."""
        task, view = self._task, condition.view
        codec = carrier(view, condition.codec, task)
        decodes = view in ("reconstruction", "retrained")

        def code() -> None:
            blob = codec.compress(taken(codec, task.signal("test", 0)))
            if decodes:
                codec.decompress(blob)

        code()  # the first call may compile
        _, one = timed(code, 0.05)
        trains = view != "reconstruction" and not task.frozen
        cell = self._model(condition, trains)
        if view == "reconstruction" and not task.frozen:  # the model of the ceiling looks, too
            cell += self._model(Condition(task.views[0], create_codec(original(task))), False)
        items = prepared_items(view, task)
        return items * one / torch.get_num_threads() + max(_SPEED_SECONDS, _SPEED_CALLS * one) + seeds * cell

    def _model(self, condition: Condition, trains: bool) -> float:
        """Seconds to train, if it trains, and to score."""
        stem = view_stem(condition.view, condition.codec, self._task, self._patch)
        if (stem, trains) not in self._models:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # scores of so few samples may be undefined
                self._models[stem, trains] = _model_seconds(self._task, condition, self._patch, stem, trains)
        return self._models[stem, trains]


def _short(task: Task) -> Task:
    """A task that trains for one epoch, where an epoch is long: of signals of three axes, which are few and large."""
    recipe = getattr(task, "recipe", None)
    if len(task.size) < 3 or recipe is None:
        return task
    short: Any = copy.copy(task)
    short.recipe = replace(recipe, epochs=1)
    return short


def _model_seconds(task: Task, condition: Condition, patch: int, stem: StemShape, trains: bool) -> float:
    inputs = partial(blank_inputs, condition.view, condition.codec, task, patch)
    model, _ = task.build(stem, 0)
    test = inputs("test", _ITEMS)
    score = partial(task.score, model, test)
    score()
    seconds = timed(score, 0.05)[1] * task.count("test") / len(test)
    if trains:
        spent = _short(task).train(model, inputs("train", _ITEMS), 0, 0, lambda epoch, loss: None)
        seconds += task.epochs * task.count("train") / spent.rate
    return seconds
