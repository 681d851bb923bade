"""The cells of a comparison over many Ray workers: each runs the local engine on one condition, into the one folder.

    driver:  missing cells -> units (a condition with its seeds) --those whose models are there--> Ray
    worker:  unit -> `cells.execute`, with one thread -> results.jsonl, items/ and models/ of the run
    driver:  results.jsonl -> a line for each new result

What the machines share is a file system: the run's folder, the data and the files of codecs have one path everywhere.
Nothing else is sent back, so whatever dies, a finished cell is on the disk, and is found there by its key.
"""

import os
import pickle
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from cml.eval.cells import REUSED, Condition, context_key, execute, failure, show
from cml.eval.progress import Progress
from cml.eval.results import Run
from cml.tasks.base import Task
from rich.console import Console

from cml.data.cluster import connect
from cml.errors import CmlError

if TYPE_CHECKING:
    from ray import ObjectRef

_POLL = 0.5  # seconds between two looks at the results
_RETRIES = 3  # of a unit whose worker died
Recipe = Callable[[], Task]
"""Makes a task again: tasks hold models and sessions that cannot be sent, what they are made of can."""


@dataclass(frozen=True)
class _Unit:
    """What one Ray task runs: seeds of a condition, which share its encoding."""

    condition: Condition
    seeds: Sequence[int]

    def waits_for(self, other: "_Unit") -> bool:
        """Whether the other's models are needed here."""
        mine, others = self.condition.view == "reconstruction", other.condition.view in REUSED
        return mine and others and not set(self.seeds).isdisjoint(other.seeds)


@dataclass(frozen=True)
class RayEngine:
    """Runs cells on Ray workers, one thread each; an `Engine`.

    A worker that dies is replaced, and its unit goes on behind its last finished cell; after some deaths the unit's
    other cells are recorded as failed. An interrupt stops the workers.

    Args:
        recipe: of the task.
        address, workers: as `connect` takes them.
    """

    recipe: Recipe
    address: str | None = None
    workers: int | None = None

    def __call__(
        self, task: Task, missing: Mapping[Condition, Sequence[int]], patch: int, run: Run, progress: Progress
    ) -> None:
        with connect(self.address, self.workers) as workers:
            run.share()
            _Driver(self.recipe, task, patch, run, progress, self.workers).run(_units(missing, workers))


def _units(missing: Mapping[Condition, Sequence[int]], workers: int) -> list[_Unit]:
    """Conditions whole, where there are enough of them: seeds by themselves encode the same pictures again."""
    if len(missing) >= workers:
        return [_Unit(condition, seeds) for condition, seeds in missing.items()]
    return [_Unit(condition, [seed]) for condition, seeds in missing.items() for seed in seeds]


class _Driver:
    """Hands out units, and shows what came of them."""

    def __init__(self, recipe: Recipe, task: Task, patch: int, run: Run, progress: Progress, limit: int | None):
        import ray

        self._ray, self._task, self._patch, self._run, self._progress = ray, task, patch, run, progress
        self._limit = limit
        self._recipe = ray.put(recipe)
        self._remote = ray.remote(num_cpus=1, max_retries=_RETRIES)(_work)
        self._pending: set[str] = set()  # keys of cells without a result yet
        run.news()

    def run(self, units: list[_Unit]) -> None:
        """Returns when every unit has ended."""
        waiting, running = list(units), dict[Any, _Unit]()
        self._pending = {key for unit in units for key in self._keys(unit)}
        limit = self._limit or len(units)
        try:
            while waiting or running:
                wanted = [u for u in [*waiting, *running.values()] if u.condition.view in REUSED]
                ready = [u for u in waiting if not any(map(u.waits_for, wanted))]
                for unit in ready[: limit - len(running)]:
                    waiting.remove(unit)
                    self._start(unit, running)
                ended, _ = self._ray.wait(list(running), timeout=_POLL) if running else ([], [])
                self._show_news()
                for ref in ended:
                    self._end(ref, running.pop(ref))
        finally:
            for ref in running:  # only where something went wrong
                self._ray.cancel(ref, force=True)

    def _start(self, unit: _Unit, running: dict[Any, _Unit]) -> None:
        # The recipe goes in a list: Ray would hand over what a bare reference stands for, again for every unit.
        where = (str(Path.cwd()), str(self._run.folder))
        try:
            ref = self._remote.remote([self._recipe], unit, self._keys(unit), self._patch, *where)
        except (TypeError, AttributeError, pickle.PicklingError) as error:
            self._give_up(unit, CmlError(f"{unit.condition.codec.spec.name} cannot be sent to a worker: {error}"))
        else:
            running[ref] = unit

    def _end(self, ref: Any, unit: _Unit) -> None:
        errors = self._ray.exceptions
        try:
            host = self._ray.get(ref)
        except errors.RayTaskError as error:  # not of a cell, which would be recorded: nothing can go on
            raise (error.cause if isinstance(error.cause, CmlError) else error) from None
        except errors.RayError as error:
            reason = str(error).strip().split("\n")[0].rstrip(".")
            self._give_up(unit, CmlError(f"The Ray worker of this cell died, again and again ({reason})."))
            return
        self._show_news()
        if not self._pending.isdisjoint(self._keys(unit)):
            raise CmlError(
                f"The worker on {host} is done with cells that are not in {self._run.file.resolve()}: the folder of "
                "the run must be on a file system that all workers share, at the same path."
            )

    def _give_up(self, unit: _Unit, error: CmlError) -> None:
        for seed, key in zip(unit.seeds, self._keys(unit), strict=True):
            if key in self._pending:
                self._run.append(failure(self._task, unit.condition, seed, self._patch, error))
        self._show_news()

    def _show_news(self) -> None:
        for result in self._run.news():
            if result.key in self._pending:
                self._pending.remove(result.key)
                show(result, self._task.main_score, self._progress)

    def _keys(self, unit: _Unit) -> list[str]:
        return [context_key(self._task, unit.condition, seed, self._patch) for seed in unit.seeds]


def _work(recipe: list["ObjectRef"], unit: _Unit, keys: list[str], patch: int, place: str, folder: str) -> str:
    """Run a unit in a worker; returns the worker's host.

    Args:
        recipe: reference to the recipe of the task.
        unit: what to run; cells that are finished, by a worker that died later, are not run again.
        keys: of its cells, as the driver has them.
        patch: pixels a token.
        place: where the driver runs, from where its paths count.
        folder: of the run.
    """
    host = socket.gethostname()
    try:
        os.chdir(place)
    except OSError as error:
        raise CmlError(
            f"{host} has no folder {place}, where this command runs: the machines must share a file system, with the "
            "same paths."
        ) from error
    torch.set_num_threads(1)
    task = _task(recipe[0])
    if [context_key(task, unit.condition, seed, patch) for seed in unit.seeds] != keys:
        raise CmlError(
            f"The worker on {host} would make other results than this machine: its data, its device or its versions of "
            "cml, torch, timm, pillow, numpy or scikit-learn are different; take the same everywhere."
        )
    execute(task, [unit.condition], unit.seeds, patch, Run(folder), console=Console(quiet=True))
    return host


@lru_cache(1)
def _task(recipe: "ObjectRef") -> Task:
    """The task with its data, made once in each worker."""
    import ray

    return ray.get(recipe)()
