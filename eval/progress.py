"""Progress of a comparison: two bars on a terminal, one line a finished cell everywhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress:
    """A bar over the cells, and one over the items or epochs of the current step.

    Args:
        todo: cells that will run.
        total: cells of the comparison.
    """

    def __init__(self, todo: int, total: int, console: Console | None = None):
        # In a notebook rich would ask for ipywidgets.
        self._console = console or Console(stderr=True, force_jupyter=False)
        self._bars = Bars(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
            TimeRemainingColumn(), console=self._console, transient=True,
        )  # fmt: skip
        self._todo, self._total, self._done = todo, total, 0
        self._start = time.monotonic()

    def __enter__(self) -> "Progress":
        self._console.print(f"{self._total} cells, {self._total - self._todo} done before, {self._todo} to run")
        self._bars.start()
        self._cells = self._bars.add_task("cells", total=self._todo)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    @contextmanager
    def step(self, title: str, total: int) -> Iterator[Callable[[], None]]:
        """A bar for one step; yields what to call after each of its parts."""
        bar = self._bars.add_task(title, total=total)
        try:
            yield lambda: self._bars.advance(bar)
        finally:
            self._bars.remove_task(bar)

    def finished(self, title: str, seed: int, outcome: str) -> None:
        """A cell is done."""
        self._done += 1
        self._bars.advance(self._cells)
        elapsed = time.monotonic() - self._start
        line = f"[{self._done}/{self._todo}, {elapsed:.0f} s] {title}, seed {seed}: {outcome}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
