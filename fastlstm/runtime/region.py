"""One parallel region a call: Numba's threads, entered without Numba's compiler.

A threading layer of Numba (omp, tbb, workqueue) brings a C function that calls a kernel once for each of `count` steps
of a loop, spread over so many threads. A compiled `prange` ends there too; but to compile one takes Numba longer than
all our passes of a call, and its counts of threads would be those of the program that we are part of.
"""

from __future__ import annotations

import ctypes
import importlib
import platform
from collections.abc import Callable
from typing import NamedTuple

from fastlstm.runtime import futex
from fastlstm.runtime.machine import assemble

POOLS = {"omp": "omppool", "tbb": "tbbpool", "workqueue": "workqueue"}
# `kernel` is the gufunc inner loop that the layer calls: the number of a part travels as the address of an argument,
# whose stride is 1. What the parts share, %task, is a worker, its frame, and how many parts there are, have begun and
# are done, how often one that was done slept before all had begun, and how long it spins where they have. The layer
# leaves its count of threads with the caller, whose own is put back.
TEXT = """
define internal void @kernel(ptr %arguments, ptr %counts, ptr %strides, ptr %task) {
entry:
  %worker = load ptr, ptr %task
  %place = getelementptr i64, ptr %task, i64 1
  %frame = load i64, ptr %place
  %first = load i64, ptr %arguments
  %count = load i64, ptr %counts
  %begun = getelementptr i64, ptr %task, i64 3
  atomicrmw add ptr %begun, i64 %count seq_cst
  br label %loop
loop:
  %k = phi i64 [0, %entry], [%next, %loop]
  %part = add i64 %first, %k
  call void %worker(i64 %part, i64 %frame)
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  call void @finish(ptr %task, i64 %count)
  ret void
}

define i64 @fastlstm_region(i64 %threads, i64 %parts, ptr %worker, i64 %frame, i64 %spins) {
  %task = alloca [7 x i64]
  store [7 x i64] zeroinitializer, ptr %task
  %patience = getelementptr i64, ptr %task, i64 6
  store i64 %spins, ptr %patience
  store ptr %worker, ptr %task
  %place = getelementptr i64, ptr %task, i64 1
  store i64 %frame, ptr %place
  %all = getelementptr i64, ptr %task, i64 2
  store i64 %parts, ptr %all
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
  %slept = getelementptr i64, ptr %task, i64 5
  %sleeps = load i64, ptr %slept
  ret i64 %sleeps
}
"""
# A thread that is done waits for the others here, asleep after a while. OpenMP's own wait keeps the core for
# milliseconds, and the thread that is waited for may have been woken on the same core: a call of 50 us then took 6 ms
# whenever the threads had slept since the last one. A team may be smaller than it should be, and its threads take
# parts one after another: while some have not begun, the wait ends after PATIENCE sleeps.
PATIENCE = 5
# Where all parts have begun, each on a processor of its own (`simd.placing`), they end soon after each other: who
# sleeps until then may be woken on another's, which OpenMP's wait then keeps.
LONG_SPINS = 20 * futex.SPINS
PAUSE = "aarch64.hint(i32 1)" if platform.machine() == "aarch64" else "x86.sse2.pause()"
WAITING = f"""
declare i64 @syscall(i64, ...)
declare void @llvm.{PAUSE.replace("1", "")}

define internal void @finish(ptr %task, i64 %count) {{
entry:
  %place = getelementptr i64, ptr %task, i64 2
  %parts = load i64, ptr %place
  %begun = getelementptr i64, ptr %task, i64 3
  %done = getelementptr i64, ptr %task, i64 4
  %slept = getelementptr i64, ptr %task, i64 5
  %time = alloca [2 x i64]
  store [2 x i64] [i64 0, i64 1000000], ptr %time
  %before = atomicrmw add ptr %done, i64 %count seq_cst
  %after = add i64 %before, %count
  %last = icmp eq i64 %after, %parts
  br i1 %last, label %wake, label %spin
wake:
  call i64 (i64, ...) @syscall(i64 {futex.NUMBER}, ptr %done, i64 {futex.WAKE}, i64 {futex.ALL}, i64 0, i64 0, i64 0)
  ret void
spin:
  %spins = phi i64 [0, %entry], [%spun, %again]
  %seen = load atomic i64, ptr %done acquire, align 8
  %met = icmp eq i64 %seen, %parts
  br i1 %met, label %out, label %again
again:
  call void @llvm.{PAUSE}
  %spun = add i64 %spins, 1
  %there = load atomic i64, ptr %begun acquire, align 8
  %working = icmp eq i64 %there, %parts
  %patient = getelementptr i64, ptr %task, i64 6
  %long = load i64, ptr %patient
  %limit = select i1 %working, i64 %long, i64 {futex.SPINS}
  %tired = icmp uge i64 %spun, %limit
  br i1 %tired, label %wait, label %spin
wait:
  %sleeps = phi i64 [0, %again], [%longer, %slumber]
  %now = load atomic i64, ptr %done acquire, align 8
  %over = icmp eq i64 %now, %parts
  br i1 %over, label %out, label %patience
patience:
  %running = load atomic i64, ptr %begun acquire, align 8
  %everyone = icmp eq i64 %running, %parts
  %absent = xor i1 %everyone, true
  %lost = zext i1 %absent to i64
  %longer = add i64 %sleeps, %lost
  %vain = icmp sgt i64 %longer, {PATIENCE}
  br i1 %vain, label %out, label %slumber
slumber:
  atomicrmw add ptr %slept, i64 %lost seq_cst
  call i64 (i64, ...) @syscall(i64 {futex.NUMBER}, ptr %done, i64 {futex.WAIT}, i64 %now, ptr %time, i64 0, i64 0)
  br label %wait
out:
  ret void
}}
"""
NOT_WAITING = """
define internal void @finish(ptr %task, i64 %count) {
  ret void
}
"""


class Region(NamedTuple):
    """A threading layer that was started."""

    layer: str
    most: int  # threads it has
    enter: Callable[[int, int, int, int, int], int]  # (threads, parts, address of a worker, frame, spins at the end)

    def run(self, threads: int, parts: int, worker: int, frame: int, placed: bool) -> int:
        """Run the parts of a call on so many threads, at most those there are; `placed` tells whether each finds a
        processor of its own. How often one of them slept, done, while others had not begun.
        """
        return self.enter(min(threads, self.most), parts, worker, frame, LONG_SPINS if placed else futex.SPINS)


def start() -> Region:
    """Start the threads of the layer that Numba chooses (`NUMBA_THREADING_LAYER`), unless somebody has."""
    from numba.np.ufunc import parallel

    parallel._launch_threads()
    layer = parallel.threading_layer()
    pool = importlib.import_module(f"numba.np.ufunc.{POOLS[layer]}")
    text = TEXT + (WAITING if layer == "omp" and futex.has_futex() else NOT_WAITING)
    for name in ("parallel_for", "get_num_threads", "set_num_threads"):
        text = text.replace(name.upper(), str(getattr(pool, name)))
    enter = ctypes.CFUNCTYPE(ctypes.c_ssize_t, *[ctypes.c_ssize_t] * 5)(assemble(text, "fastlstm_region"))
    return Region(layer, parallel.NUM_THREADS, enter)
