"""Work spread over threads that stay: a picture takes milliseconds, the start of a thread a tenth of one."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
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

    def share() -> None:
        for number in numbers:
            results[number] = work(number)

    others = [_pool(threads - 1).submit(share) for _ in range(threads - 1)]
    try:
        share()
    finally:
        wait(others)
    for other in others:
        other.result()
    return [results[number] for number in range(count)]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "cml")


if hasattr(os, "register_at_fork"):
    # Threads do not survive a fork: a child that was given their pool would wait for them for ever.
    os.register_at_fork(after_in_child=_pool.cache_clear)
