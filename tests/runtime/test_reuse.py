"""Large arrays in memory that earlier ones have left."""

from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from thread_case import at_once

import fastlstm
from fastlstm.runtime.reuse import BLOCKS, LEAST, MOST, Reuse

SHAPE, DTYPE = (LEAST // 16, 2, 2), np.dtype(np.float32)  # the least that is worth it


def place(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def test_the_memory_of_a_dead_array_is_used_again() -> None:
    reuse = Reuse()
    first = reuse.empty(SHAPE, DTYPE)
    assert (first.shape, first.dtype, first.flags.c_contiguous, first.flags.writeable) == (SHAPE, DTYPE, True, True)
    at = place(first)
    other = reuse.empty(SHAPE, DTYPE)
    assert place(other) != at  # the first lives
    del first
    again = reuse.zeros((LEAST // 8,), np.dtype(np.float64))  # another shape and dtype of the same size
    assert place(again) == at and not again.any()


@pytest.mark.parametrize("keep", [
    lambda a: a[1:], lambda a: a.T[::2], lambda a: a.reshape(-1).view(np.int32), memoryview, lambda a: a.base,
    lambda a: np.lib.stride_tricks.as_strided(a, (3,), (8,)), lambda a: np.frombuffer(a, np.uint8)[5:],
])  # fmt: skip
def test_what_still_refers_to_an_array_keeps_its_memory(keep) -> None:
    reuse = Reuse()
    array = reuse.empty(SHAPE, DTYPE)
    at, kept = place(array), keep(array)
    del array
    gc.collect()
    others = [reuse.empty(SHAPE, DTYPE) for _ in range(3)]
    assert at not in map(place, others)
    del kept, others
    gc.collect()
    assert at in [place(a) for a in [reuse.empty(SHAPE, DTYPE) for _ in range(4)]]


def test_small_arrays_are_ordinary() -> None:
    array = Reuse().empty((LEAST // 4 - 1,), DTYPE)
    assert array.flags.owndata
    assert Reuse().empty((0, 3), DTYPE).shape == (0, 3)


def test_much_smaller_arrays_leave_memory_for_larger_ones() -> None:
    reuse = Reuse()
    large = reuse.empty((LEAST,), DTYPE)
    at = place(large)
    del large
    small = reuse.empty((LEAST // 2,), DTYPE)
    assert place(small) != at and place(reuse.empty((LEAST - 10,), DTYPE)) == at


def test_what_is_kept_is_bounded() -> None:
    reuse = Reuse()
    arrays = [reuse.empty(SHAPE, DTYPE) for _ in range(2 * BLOCKS)]
    latest = place(arrays[-1])
    while arrays:
        arrays.pop(0)
    assert len(reuse._free) == BLOCKS and place(reuse._free[-1]) == latest
    reuse.give(np.empty(MOST + 1, np.uint8))  # pages that nobody touches
    assert not reuse._free


def test_a_copy_is_an_ordinary_array() -> None:
    array = Reuse().zeros(SHAPE, DTYPE)
    for copy in (array.copy(), pickle.loads(pickle.dumps(array))):
        np.testing.assert_array_equal(copy, array)
        assert not np.shares_memory(copy, array)


def test_an_array_that_outlives_the_module_dies_in_silence() -> None:
    program = (
        "import numpy; from fastlstm.runtime import reuse\n"
        f"kept = [reuse.empty(({LEAST},), numpy.dtype('float32'))]\n"
        "vars(reuse).update(dict.fromkeys(vars(reuse)))\n"  # as the interpreter does at its end
        "kept.clear()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_nobody_waits_while_another_is_at_it() -> None:
    reuse = Reuse()
    array = reuse.empty(SHAPE, DTYPE)
    with reuse._lock:  # as for a child that was forked just then, or for a finalizer in the middle of it
        other = reuse.empty(SHAPE, DTYPE)
        del array, other
    again = reuse.empty(SHAPE, DTYPE)
    assert again.shape == SHAPE and len(reuse._free) == 1


def test_arrays_of_many_threads_never_share_memory() -> None:
    reuse, wrong = Reuse(), []

    def work(mark: int) -> None:
        rng = np.random.default_rng(mark)
        mine: list[tuple[np.ndarray, float]] = []
        for k in range(200):
            array = reuse.empty((LEAST // 4 + int(rng.integers(1000)),), DTYPE)
            array[::4096] = mark + k
            mine.append((array, mark + k))
            if len(mine) > 3:
                old, value = mine.pop(int(rng.integers(len(mine))))
                wrong.extend([] if (old[::4096] == value).all() else [value])

    at_once([partial(work, 1000 * n) for n in range(8)])
    assert not wrong


def test_results_of_a_layer_outlast_later_calls() -> None:
    lstm = fastlstm.LSTM(16, 32, seed=0)
    x = np.random.default_rng(0).standard_normal((200, 16, 16), dtype=np.float32)
    y, _, tape = lstm.forward(x)
    assert y.nbytes >= LEAST
    part, whole = y[-1], y.copy()
    dx, _, _ = lstm.backward(tape, y)
    gradient, expected = dx[::2], dx.copy()
    del y, dx
    for _ in range(3):
        y, _, tape = lstm.forward(x + 1)
        lstm.backward(tape, y)
    np.testing.assert_array_equal(part, whole[-1])
    np.testing.assert_array_equal(gradient, expected[::2])
