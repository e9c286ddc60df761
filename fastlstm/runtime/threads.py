"""How the parts of one call get to threads: one parallel region a call, the GIL released, and a way back to serial.

The region is Numba's (`parallel=True`), compiled once for all passes: it hands a part number to a worker's address.
A caller's own thread count is kept here; Numba's, torch's and NumPy's settings are left alone.
"""

from __future__ import annotations

import os
import threading
from functools import cache

import numba
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.runtime.cache import folder
from fastlstm.runtime.jit import Variant
from fastlstm.runtime.workers import Worker, worker

_limit: int | None = None
_launched_by: int | None = None  # the process that started the threading layer
_first = threading.Lock()
_serialised = threading.Lock()  # the workqueue layer aborts the process when two threads enter it at once


@cache
def _idle() -> Worker:
    """A worker that does nothing: the first region starts the threads with it."""
    return worker("idle", Variant())


def cores() -> int:
    """Processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def set_num_threads(n: int) -> None:
    """Set how many threads a call of this library uses at the most.

    Parameters
    ----------
    n
        1 or more; beyond `numba.config.NUMBA_NUM_THREADS`, the most that Numba starts, it counts as that.

    Raises
    ------
    TypeError, ValueError
        If n is no integer, or less than 1.
    """
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n must be an integer, but was {n!r}")
    if (n := n.__index__()) < 1:
        raise ValueError(f"n must be at least 1, but was {n}")
    global _limit
    _limit = n


def get_num_threads() -> int:
    """How many threads a call of this library uses at the most; the processors available to the process unless set."""
    most = numba.config.NUMBA_NUM_THREADS
    return min(_limit if _limit is not None else cores(), most)


@intrinsic
def _call(typingctx, address, part, frame):
    def codegen(context, builder, sig, args):
        word = ir.IntType(64)
        function = ir.FunctionType(ir.VoidType(), [word, word]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), args[1:])
        return context.get_dummy_value()

    return types.none(types.intp, types.intp, types.intp), codegen


def _region(parts, address, frame):
    for part in numba.prange(parts):
        _call(address, part, frame)


@cache
def _compiled_region():
    return numba.njit("void(intp, intp, intp)", parallel=True, nogil=True, cache=folder() is not None)(_region)


def fan_out(task: Worker, parts: int, frame: int) -> bool:
    """Run the parts of a call, each on a thread of its own where there are so many; False if there is no region to run
    them in.

    That is so in a child forked after the threads were started, which has none of them, and, under the workqueue
    layer, while another Python thread is in the region.
    """
    global _launched_by
    if parts == 1:
        task.run(0, frame)
        return True
    if _launched_by not in (None, os.getpid()):
        return False
    if _launched_by is None:
        with _first:
            # On a thread of its own: OpenMP's default count, which Numba sets as it starts its threads, is that of the
            # calling thread, and torch's too.
            starter = threading.Thread(target=lambda: _compiled_region()(1, _idle().address, 0))
            starter.start()
            starter.join()
            _launched_by = os.getpid()
    region = _compiled_region()
    if numba.threading_layer() != "workqueue":
        region(parts, task.address, frame)
        return True
    if not _serialised.acquire(blocking=False):
        return False
    try:
        region(parts, task.address, frame)
    finally:
        _serialised.release()
    return True
