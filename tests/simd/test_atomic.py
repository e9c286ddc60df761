"""Atomics and the barrier, with real threads: each enters compiled code by ctypes, which releases the GIL."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable
from functools import partial

import numba
import numpy as np
import pytest
from numba.core import types
from thread_case import at_once

from fastlstm.runtime.futex import has_futex
from fastlstm.runtime.linking import WholeCompiler
from fastlstm.runtime.memory import LINE
from fastlstm.simd.atomic import barrier, called_off, compare_exchange, fetch_add, load_acquire, rendezvous
from fastlstm.simd.vector import pointer

SIGNATURE = types.int64(types.int64, types.int64, types.int64)


def compiled(function: Callable) -> Callable[[int, int, int], int]:
    code = numba.cfunc(SIGNATURE, pipeline_class=WholeCompiler)(function)
    run = ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 3)(code.address)
    run.owner = code
    return run


def on_threads(run: Callable[[int, int, int], int], place: int, threads: int) -> list[int]:
    """What `run(place, k, threads)` returned on thread k."""
    return at_once([partial(run, place, k, threads) for k in range(threads)])


def counters(lines: int) -> tuple[np.ndarray, int]:
    """Zeroed lines, and the address of the first."""
    words = np.zeros((lines + 1) * LINE // 8, np.int64)
    return words, words.ctypes.data + -words.ctypes.data % LINE


@pytest.fixture(scope="module")
def add_many() -> Callable:
    def worker(place, k, threads):
        for _ in range(50_000):
            fetch_add(place, k + 1)
        return load_acquire(place)

    return compiled(worker)


def test_fetch_add_loses_nothing(add_many: Callable) -> None:
    words, place = counters(1)
    found = on_threads(add_many, place, 4)
    assert words.sum() == 50_000 * (1 + 2 + 3 + 4)
    assert max(found) == words.sum()


def test_compare_exchange_is_won_once() -> None:
    def worker(place, k, threads):
        won = 0
        for turn in range(2000):
            if compare_exchange(place, turn * threads, turn * threads + k + 1):
                won += 1
            if compare_exchange(place, turn * threads + k + 1, (turn + 1) * threads):
                pass
            while load_acquire(place) < (turn + 1) * threads:
                pass
        return won

    run = compiled(worker)
    words, place = counters(1)
    assert run(place, 0, 1) == 2000 and words.sum() == 2000


STEPS = 3000


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_nobody_passes_the_barrier_alone(threads: int) -> None:
    """Before each barrier a thread writes its step into its own word; behind it, it must see that of every other."""

    def worker(place, k, threads):
        early = 0
        for step in range(STEPS):
            fetch_add(place + (1 + k) * LINE, 1)
            barrier(place, (2 * step + 1) * threads)
            for other in range(threads):
                if load_acquire(place + (1 + other) * LINE) != step + 1:
                    early += 1
            barrier(place, (2 * step + 2) * threads)
        return early

    words, place = counters(threads + 1)
    assert on_threads(compiled(worker), place, threads) == [0] * threads
    assert words[(place - words.ctypes.data) // 8] == 2 * STEPS * threads


@pytest.mark.skipif(not has_futex(), reason="sleeps have no known length")
def test_the_barrier_tells_how_long_a_thread_slept() -> None:
    def worker(place, k, threads):
        barrier(place, threads)
        return 0

    words, place = counters(1)
    run, first = compiled(worker), (place - words.ctypes.data) // 8
    thread = threading.Thread(target=lambda: run(place, 0, 2))
    thread.start()
    while words[first + 1] == 0:  # nobody sleeps yet
        time.sleep(0.001)
    time.sleep(0.1)
    assert words[first] == 1
    run(place, 1, 2)
    thread.join()
    assert words[first : first + 2].tolist() == [2, 0]
    assert 5e7 < words[first + 2] < 5e9


def test_nobody_waits_at_the_barrier_of_a_call_that_was_called_off() -> None:
    def worker(place, k, threads):
        barrier(place, threads + 1)
        return called_off(place)

    words, place = counters(1)
    run = compiled(worker)
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(run(place, 0, 1)))
    thread.start()
    words[(place - words.ctypes.data) // 8 + 3] = 1
    thread.join()
    assert results == [1]
    assert compiled(lambda place, k, threads: called_off(0))(0, 0, 0) == 0


def test_plain_writes_are_seen_behind_a_barrier() -> None:
    """What one thread stores without atomics, as h at each step, another reads after they met."""

    def worker(place, k, threads):
        stale, mine, other = (
            0,
            pointer(place + (1 + k) * LINE, types.float64),
            pointer(place + (2 - k) * LINE, types.float64),
        )
        for step in range(STEPS):
            for n in range(16):
                mine[n] = float(step + n)
            barrier(place, (2 * step + 1) * threads)
            for n in range(16):
                if other[n] != step + n:
                    stale += 1
            barrier(place, (2 * step + 2) * threads)
        return stale

    _words, place = counters(3)
    assert on_threads(compiled(worker), place, 2) == [0, 0]


def test_rendezvous() -> None:
    def worker(place, k, threads):
        return rendezvous(place, place + LINE, threads)

    def one_missing(place, k, threads):
        return rendezvous(place, place + LINE, threads + 1)

    whole, incomplete = compiled(worker), compiled(one_missing)
    verdicts = []
    for _ in range(50):
        _words, place = counters(2)
        found = on_threads(whole, place, 3)
        assert len(set(found)) == 1, "some go, some give up"
        verdicts.append(found[0])
    assert 1 in verdicts  # on a busy machine a thread may come too late for some
    words, place = counters(2)
    assert on_threads(incomplete, place, 2) == [0, 0], "without the third, all give up"
    assert incomplete(place, 0, 2) == 0, "and so does the third, who comes too late"
    assert words.max() == 3
