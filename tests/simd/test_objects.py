"""What Python calls compiled code by, and what that sees of arrays."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numba
import numpy as np
import pytest
from numba.core import types

from fastlstm.runtime import workers
from fastlstm.runtime.linking import WholeCompiler
from fastlstm.runtime.memory import LINE, address
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import likeness, worker
from fastlstm.simd.atomic import barrier


def calling(function: Any) -> tuple[workers.Call, Any]:
    """A built-in function that calls a worker, and the worker's owner."""
    code = numba.cfunc(types.void(types.intp, types.intp), pipeline_class=WholeCompiler)(function)
    return workers.built_in("run", workers._code("call", Variant()), code.address), code


def idle(part, frame):
    pass


@pytest.mark.parametrize("by_layout", [True, False])
def test_arrays_and_numbers_are_written_before_the_call(by_layout: bool) -> None:
    run, _owner = calling(idle)
    run = run if by_layout else workers._with_addresses(run)
    words, array = np.full(8, -1), np.zeros((3, 4))[1:, 2:]
    references = sys.getrefcount(array)
    for _ in range(3):
        run(0, address(words), 16, array, 7, 2**62, array[1])
    assert words.tolist() == [-1, -1, address(array), 7, 2**62, address(array) + 32, -1, -1]
    run(0, address(words), 0)
    run(0, address(words))
    assert words[0] == -1
    assert sys.getrefcount(array) == references


def test_what_is_no_number_is_refused() -> None:
    run, _owner = calling(idle)
    words = np.full(2, -1)
    for arguments in (("0", address(words)), (0, None), (0, address(words), 1.5, 3), (0, 2**80)):
        with pytest.raises((TypeError, OverflowError)):
            run(*arguments)
    assert words.tolist() == [-1, -1]
    with pytest.raises(OverflowError):
        run(0, address(words), 0, 2**80, 7)


def test_others_have_the_gil_meanwhile() -> None:
    """Else nobody could come to the barrier where the first one waits."""
    words = np.zeros(2 * LINE // 8, np.int64)
    place = address(words) + -address(words) % LINE
    run, _owner = calling(lambda part, frame: barrier(frame, 2))
    met = [threading.Thread(target=run, args=(part, place), daemon=True) for part in range(2)]
    for thread in met:
        thread.start()
    for thread in met:
        thread.join(60)
    assert not any(thread.is_alive() for thread in met)
    assert type(worker("digest", Variant()).run) is type(run)


@pytest.mark.parametrize("alike", [likeness(), workers._alike])
def test_likeness(alike: Any) -> None:
    class Other(np.ndarray):
        pass

    like = np.broadcast_to(np.zeros((), np.float32), (2, 3))
    fine, read_only = np.ones((2, 3), np.float32), np.ones((2, 3), np.float32)
    read_only.flags.writeable = False
    shifted = np.frombuffer(bytearray(25), np.float32, 6, offset=1).reshape(2, 3)
    assert not shifted.flags.aligned
    others = (
        np.ones((2, 4), np.float32), np.ones((3, 3), np.float32), np.ones((2, 3, 1), np.float32), np.float32(1),
        np.ones((2, 3)), np.ones((2, 3), ">f4"), np.ones((3, 2), np.float32).T, np.ones((2, 6), np.float32)[:, ::2],
        shifted, fine.view(Other), [[1.0] * 3] * 2, None, 1,
    )  # fmt: skip
    references = sys.getrefcount(fine)
    assert alike(like)
    assert alike(like, fine)
    assert alike(like, fine, read_only, fine)
    assert alike(np.zeros((), np.float32), np.ones((), np.float32))
    for other in others:
        assert not alike(like, other)
        assert not alike(like, fine, other)
        assert not alike(like, other, fine)
    assert sys.getrefcount(fine) == references
