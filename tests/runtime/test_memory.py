"""Aligned arrays and their reuse."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from fastlstm.runtime.memory import ALIGNMENT, KEPT, Pool, address, addresses, aligned, placed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("count", [1, 15, 16, 17, 1000, 123_457])
def test_aligned(count: int, dtype: str) -> None:
    for _ in range(5):
        array = aligned(count, dtype)
        assert (array.shape, array.dtype, array.ctypes.data % ALIGNMENT) == ((count,), dtype, 0)
        array[...] = 1  # the memory is there


def test_what_is_given_is_taken_again_once() -> None:
    pool = Pool()
    first = pool.take(5000, np.float32)
    pool.give(first)
    again, other = pool.take(4000, np.float32), pool.take(4000, np.float32)
    assert np.shares_memory(first, again)
    assert not np.shares_memory(first, other)


def test_an_array_of_another_dtype_or_size_is_not_taken() -> None:
    pool = Pool()
    given = pool.take(100_000, np.float32)
    pool.give(given)
    for count, dtype in ((100_000, np.float64), (100_001, np.float32), (1000, np.float32)):
        found = pool.take(count, dtype)
        assert found.size >= count and found.dtype == dtype
        assert not np.shares_memory(found, given)


def test_it_keeps_few_arrays() -> None:
    pool = Pool()
    for _ in range(3):
        for array in [pool.take(10_000, np.float32) for _ in range(2 * KEPT)]:
            pool.give(array)
    assert len(pool._free) <= KEPT


def test_threads_do_not_share() -> None:
    pool, found = Pool(), []
    given = pool.take(5000, np.float32)
    pool.give(given)
    thread = threading.Thread(target=lambda: found.append(pool.take(5000, np.float32)))
    thread.start()
    thread.join()
    assert not np.shares_memory(found[0], given)
    assert np.shares_memory(pool.take(5000, np.float32), given)


def test_views_of_a_placed_array_refer_to_it() -> None:
    array = placed((3, 5), np.dtype(np.float32))
    assert array.ctypes.data % ALIGNMENT == 0 and array.flags.writeable and array.flags.c_contiguous
    array[...] = np.arange(15).reshape(3, 5)
    views = array[1:], array.T, array.reshape(-1)[::2], array.view(np.int32)
    assert all(view.base is array for view in views)
    np.testing.assert_array_equal(views[1], np.arange(15).reshape(3, 5).T)


def test_addresses() -> None:
    a = np.arange(60.0).reshape(3, 4, 5)
    arrays = a, a[1:, ::-1], a[..., 2], np.zeros(3, np.float32), a.T
    expected = [array.__array_interface__["data"][0] for array in arrays]
    assert addresses(arrays) == expected == [address(array) for array in arrays]
