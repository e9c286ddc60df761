"""One parallel region a call: Numba's threads, entered without Numba's compiler.

A threading layer of Numba (omp, tbb, workqueue) brings a C function that calls a kernel once for each of `count` steps
of a loop, spread over so many threads. A compiled `prange` ends there too; but to compile one takes Numba longer than
all our passes of a call, and its counts of threads would be those of the program that we are part of.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable
from typing import NamedTuple

from fastlstm.runtime.machine import assemble

POOLS = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}
# `kernel` is the gufunc inner loop that the layer calls: the number of a part travels as the address of an argument,
# whose stride is 1. The layer leaves its count of threads with the caller, whose own is put back.
TEXT = """
define internal void @kernel(ptr %arguments, ptr %counts, ptr %strides, ptr %task) {
entry:
  %worker = load ptr, ptr %task
  %place = getelementptr i64, ptr %task, i64 1
  %frame = load i64, ptr %place
  %first = load i64, ptr %arguments
  %count = load i64, ptr %counts
  br label %loop
loop:
  %k = phi i64 [0, %entry], [%next, %loop]
  %part = add i64 %first, %k
  call void %worker(i64 %part, i64 %frame)
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}

define void @fastlstm_region(i64 %threads, i64 %parts, ptr %worker, i64 %frame) {
  %task = alloca [2 x i64]
  store ptr %worker, ptr %task
  %place = getelementptr i64, ptr %task, i64 1
  store i64 %frame, ptr %place
  %argument = alloca i64
  store i64 0, ptr %argument
  %count = alloca i64
  store i64 %parts, ptr %count
  %stride = alloca i64
  store i64 1, ptr %stride
  %team = trunc i64 %threads to i32
  %before = call i32 inttoptr (i64 GET_NUM_THREADS to ptr)()
  call void inttoptr (i64 PARALLEL_FOR to ptr)(
    ptr @kernel, ptr %argument, ptr %count, ptr %stride, ptr %task, i64 0, i64 1, i32 %team)
  call void inttoptr (i64 SET_NUM_THREADS to ptr)(i32 %before)
  ret void
}
"""


class Region(NamedTuple):
    """A threading layer that was started."""

    layer: str
    most: int  # threads it has
    enter: Callable[[int, int, int, int], None]  # (threads, parts, address of a worker, frame)

    def run(self, threads: int, parts: int, worker: int, frame: int) -> None:
        """Run the parts of a call on so many threads, at most those there are."""
        self.enter(min(threads, self.most), parts, worker, frame)


def start() -> Region:
    """Start the threads of the layer that Numba chooses (`NUMBA_THREADING_LAYER`), unless somebody has."""
    from numba.np.ufunc import parallel

    parallel._launch_threads()
    layer = parallel.threading_layer()
    pool = importlib.import_module(f"numba.np.ufunc.{POOLS[layer]}")
    text = TEXT
    for name in ("parallel_for", "get_num_threads", "set_num_threads"):
        text = text.replace(name.upper(), str(getattr(pool, name)))
    enter = ctypes.CFUNCTYPE(None, *[ctypes.c_ssize_t] * 4)(assemble(text, "fastlstm_region"))
    return Region(layer, parallel.NUM_THREADS, enter)
