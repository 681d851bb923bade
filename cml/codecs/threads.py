"""Work spread over threads that stay: a picture takes milliseconds, the start of a thread a tenth of one."""

import os
import threading
from collections.abc import Callable
from functools import cache
from queue import SimpleQueue
from typing import TypeVar

_Result = TypeVar("_Result")


def each(work: Callable[[int], _Result], count: int, threads: int) -> list[_Result]:
    """Results of work(0) ... work(count - 1), by the calling thread and as many others as make `threads`.

    `work` should hold the interpreter for a small part of its time only. It must not call `each` itself.
    """
    threads = min(threads, count)
    if threads <= 1:
        return [work(number) for number in range(count)]
    numbers = iter(range(count))  # one of the threads gets each
    results: dict[int, _Result] = {}
    ended: SimpleQueue[BaseException | None] = SimpleQueue()

    def share() -> None:
        error: BaseException | None = None
        try:
            for number in numbers:
                results[number] = work(number)
        except BaseException as caught:
            error = caught
        ended.put(error)

    tasks = _crew(threads - 1)
    for _ in range(threads - 1):
        tasks.put(share)
    share()
    for error in [ended.get() for _ in range(threads)]:
        if error is not None:
            raise error
    return [results[number] for number in range(count)]


@cache
def _crew(threads: int) -> "SimpleQueue[Callable[[], None]]":
    """The tasks of so many threads that wait for them.

    Plain queues: what an executor does for each task would take a tenth of the time of a small picture.
    """
    tasks: SimpleQueue[Callable[[], None]] = SimpleQueue()

    def serve() -> None:
        while True:
            tasks.get()()

    for _ in range(threads):
        threading.Thread(target=serve, name="cml", daemon=True).start()
    return tasks


if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork: a child that was given their queue would wait for them for ever.
    os.register_at_fork(after_in_child=_crew.cache_clear)
