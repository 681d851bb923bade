"""Work spread over threads that stay: a picture takes milliseconds, the start of a thread a tenth of one."""

import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

_Result = TypeVar("_Result")


def each(work: Callable[[int], _Result], count: int, threads: int) -> list[_Result]:
    """Results of work(0) ... work(count - 1), by the calling thread and by others that are free, `threads` in all.

    All items are worked on, and then the error of the first that failed is raised. `work` should hold the interpreter
    for a small part of its time only, and must not call `each` itself.
    """
    threads = min(threads, count)
    if threads <= 1:
        return [work(number) for number in range(count)]
    from cml.codecs.waiting import wait_awake  # with numba, which takes as long to import as all else

    numbers = iter(range(count))  # one of the threads gets each
    ended: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
    flags = np.zeros(count, np.int64)

    def share() -> None:
        for number in numbers:
            try:
                ended.put((number, work(number), None))
            except BaseException as error:
                ended.put((number, None, error))
            flags[number] = 1

    _crew.call(share, threads - 1)
    share()
    wait_awake(flags)
    # Of items, not of shares: a share that begins late, behind those of another caller, has nothing left to do.
    items = sorted((ended.get() for _ in range(count)), key=lambda item: item[0])
    for _, _, error in items:
        if error is not None:
            raise error
    return [result for _, result, _ in items]


class _Crew:
    """Threads that wait for tasks, as many as were ever asked for at once.

    Plain queues: what an executor does for each task would take a tenth of the time of a small picture.
    """

    def __init__(self):
        self._tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0

    def call(self, task: Callable[[], None], times: int) -> None:
        """Have a task run so many times, side by side."""
        with self._lock:
            for _ in range(self._threads, times):
                threading.Thread(target=self._serve, name="cml", daemon=True).start()
            self._threads = max(self._threads, times)
        for _ in range(times):
            self._tasks.put(task)

    def _serve(self) -> None:
        while True:
            self._tasks.get()()


_crew = _Crew()

if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork: a child that put tasks before them would wait for ever, and a lock may be held.
    os.register_at_fork(after_in_child=_crew.__init__)
