"""Work over threads: every item once, in order; errors come through; a forked child has threads of its own."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest

from cml.codecs.threads import _Crew, each
from cml.codecs.waiting import wait_awake


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_are_in_order_and_of_each_item_once(threads):
    seen: list[int] = []

    def work(number: int) -> int:
        seen.append(number)
        return number**2

    assert each(work, 40, threads) == [number**2 for number in range(40)]
    assert sorted(seen) == list(range(40))
    assert each(work, 0, threads) == []


def test_items_run_side_by_side():
    both = threading.Barrier(2, timeout=20)
    assert len(each(lambda number: both.wait(), 2, 2)) == 2


@pytest.mark.parametrize("bad", [0, 1])
def test_errors_come_through_when_all_have_ended(bad):
    ended: list[int] = []
    both = threading.Barrier(2, timeout=20)

    def work(number: int) -> None:
        both.wait()
        if number == bad:
            raise ValueError(f"item {number}")
        ended.append(number)

    with pytest.raises(ValueError, match=f"item {bad}"):
        each(work, 2, 2)
    assert ended == [1 - bad]


def test_the_crew_grows_to_the_largest_number_asked_for_and_no_further():
    crew, ran = _Crew(), SimpleQueue()
    for times in (3, 5, 2, 4, 5):
        crew.call(lambda: ran.put(threading.current_thread()), times)
    assert len({ran.get(timeout=20) for _ in range(19)}) <= 5
    together = threading.Barrier(5, timeout=20)
    crew.call(lambda: ran.put(together.wait()), 5)
    assert sorted(ran.get(timeout=20) for _ in range(5)) == [0, 1, 2, 3, 4]


def test_who_waits_awake_sees_the_others_end_and_gives_up_in_time():
    flags = np.zeros(3, np.int64)
    assert not wait_awake(flags)
    flags[:] = 1
    assert wait_awake(flags)
    flags[1] = 0
    with ThreadPoolExecutor(1) as pool:  # while this thread waits, the other needs the interpreter
        waits = 0
        pool.submit(flags.__setitem__, 1, 1)
        while not wait_awake(flags):
            waits += 1
            assert waits < 100_000


def test_items_that_take_long_are_waited_for_asleep():
    assert each(lambda number: time.sleep(0.02 * number), 3, 3) == [None, None, None]


def test_many_callers_at_once():
    with ThreadPoolExecutor(6) as pool:
        sums = list(pool.map(lambda start: sum(each(lambda k: start + k, 9, 3)), range(300)))
    assert sums == [9 * start + 36 for start in range(300)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_threads_that_are_not_there():
    assert each(abs, 4, 2) == [0, 1, 2, 3]
    child = os.fork()
    if child == 0:
        os._exit(0 if each(abs, 4, 2) == [0, 1, 2, 3] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
