"""Parts of a call on processors of their own, and threads that may run wherever they could before."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from kernel_case import compiled

import fastlstm
from fastlstm.runtime.memory import MASK
from fastlstm.simd.placing import SIZE, processor, settle, unsettle


@compiled
def run_settle(places, parts, part, saved):
    settle(places, parts, part, saved)
    return processor()


@compiled
def run_unsettle(saved):
    unsettle(saved)


class Call:
    """The words of a call of so many parts, in which part 0 is this thread."""

    def __init__(self, parts: int) -> None:
        self.parts = parts
        self.places = np.zeros(parts, np.int64)
        self.saved = np.full(MASK // 8 + 1, -7, np.int64)

    def settle(self) -> int:
        return run_settle(self.places.ctypes.data, self.parts, 0, self.saved.ctypes.data)

    def unsettle(self) -> None:
        run_unsettle(self.saved.ctypes.data)
        assert self.saved[-1] == -7, "written beyond the mask"


@pytest.fixture(autouse=True)
def mask() -> Iterator[set[int]]:
    """The processors that this thread may use, before and after."""
    if not hasattr(os, "sched_setaffinity"):
        yield set()
        return
    before = os.sched_getaffinity(0)
    yield before
    after = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)
    assert after == before


def test_it_stays_where_it_is(mask: set[int]) -> None:
    call = Call(3)
    here = call.settle()
    if not mask:
        assert here == 0, "this system tells no processor"
        return
    assert os.sched_getaffinity(0) == {here - 1}
    assert call.places.tolist() == [here, 0, 0]
    call.unsettle()


def test_it_leaves_the_processor_of_another(mask: set[int]) -> None:
    for _ in range(20 if len(mask) > 1 else 0):
        call = Call(2)
        call.places[1] = call.settle()
        call.unsettle()
        found = call.settle()
        assert found != call.places[1]
        assert os.sched_getaffinity(0) == {found - 1}
        call.unsettle()


def test_where_there_is_no_other_one(mask: set[int]) -> None:
    if not mask:
        return
    only, call = {min(mask)}, Call(2)
    os.sched_setaffinity(0, only)
    call.places[1] = min(mask) + 1
    assert call.settle() == call.places[1]
    call.unsettle()
    assert os.sched_getaffinity(0) == only
    os.sched_setaffinity(0, mask)


@numba.njit(nogil=True)
def keep_moving(places, first, second, stop):
    """Until told to stop: a part that is on two processors by turns."""
    moves = 0
    while stop[0] == 0:
        places[0] = first if moves % 2 else second
        moves += 1
    return moves


def test_another_that_moves_meanwhile(mask: set[int]) -> None:
    """Wherever it was last, a thread that has left once, and then finds no processor free, has its mask again."""
    if len(mask) < 2:
        return
    first, second = sorted(mask)[:2]
    os.sched_setaffinity(0, {first, second})
    call, stop = Call(2), np.zeros(1, np.int64)
    keep_moving(np.zeros(1, np.int64), 1, 2, np.ones(1, np.int64))
    with ThreadPoolExecutor(1) as pool:
        moves = pool.submit(keep_moving, call.places, first + 1, second + 1, stop)
        try:
            for _ in range(20_000):
                run_settle(call.places.ctypes.data, 2, 1, call.saved.ctypes.data)
                call.unsettle()
                assert os.sched_getaffinity(0) == {first, second}
        finally:
            stop[0] = 1
    assert moves.result() > 0
    os.sched_setaffinity(0, mask)


def test_processors_beyond_the_mask(mask: set[int]) -> None:
    if not mask:
        return
    call = Call(2)
    call.places[1] = 8 * SIZE + 5
    here = call.settle()
    assert os.sched_getaffinity(0) == {here - 1}
    call.unsettle()


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=["units", "directions"])
def test_calls_leave_all_threads_as_they_were(mask: set[int], options: dict[str, bool]) -> None:
    """Those of other libraries too, which may be the same."""
    fastlstm.set_num_threads(2)
    lstm = fastlstm.LSTM(20, 128, seed=0, **options)
    x = np.ones((40, 8, 20), np.float32)
    y, _, tape = lstm.forward(x)
    lstm.backward(tape, y)
    if mask:
        for task in os.listdir("/proc/self/task"):
            assert os.sched_getaffinity(int(task)) == mask
