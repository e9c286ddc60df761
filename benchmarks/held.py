"""Calls whose threads are kept from running: how many a second, the median, and the longest.

    python benchmarks/held.py [--threads N] [--seconds 2]

As it is, under whatever limits it is started with (`taskset -c 0`, a container's quota); with all threads moved to one
core; with busy programs, one on each core; with one on the core of a worker that yields to all others; and with the
workers stopped, as a debugger does, for the first half of the time. Every result must have the bits of one thread.
Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np

import fastlstm

SHAPES = [(512, 1, 128), (50, 64, 128)]  # (T, B, H): units split, threads meet at each step; rows split
PR_SET_PTRACER, ANYBODY = 0x59616D61, ctypes.c_ulong(-1)
STOP = """
import ctypes, os, sys, time
trace = ctypes.CDLL(None).ptrace
trace.argtypes = [ctypes.c_long] * 4
seconds, *threads = map(float, sys.argv[1:])
for thread in map(int, threads):
    assert trace(0x4206, thread, 0, 0) == 0 and trace(0x4207, thread, 0, 0) == 0  # PTRACE_SEIZE, PTRACE_INTERRUPT
    os.waitpid(thread, 0x40000000)  # __WALL
print("stopped", flush=True)
time.sleep(seconds)
"""


def threads() -> set[int]:
    """Those of this process."""
    return set(map(int, os.listdir("/proc/self/task")))


@contextlib.contextmanager
def held(how: str, workers: set[int], seconds: float) -> Iterator[None]:
    """Keep threads from running."""
    cores = sorted(os.sched_getaffinity(0))
    programs = []

    def busy(core: int) -> None:
        programs.append(subprocess.Popen(["taskset", "-c", str(core), sys.executable, "-c", "while True: pass"]))

    if how == "on one core":
        for thread in threads():
            os.sched_setaffinity(thread, cores[:1])
    elif how == "beside busy programs":
        for core in cores:
            busy(core)
    elif how == "a worker that yields to all":
        os.sched_setaffinity(0, cores[:1])
        for worker in workers:
            os.sched_setaffinity(worker, cores[-1:])
            os.sched_setscheduler(worker, os.SCHED_IDLE, os.sched_param(0))
        busy(cores[-1])
    elif how == "a worker stopped":
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ANYBODY, 0, 0, 0)
        command = [sys.executable, "-c", STOP, str(seconds / 2), *map(str, workers)]
        programs.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert programs[0].stdout is not None
        assert programs[0].stdout.readline() == b"stopped\n"
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def measure(how: str, count: int, seconds: float) -> bool:
    """Print a line for each shape; whether all results were right."""
    layers = [fastlstm.LSTM(H, H, seed=0) for _, _, H in SHAPES]
    xs = [np.random.default_rng(0).standard_normal((T, B, H), dtype=np.float32) for T, B, H in SHAPES]
    fastlstm.set_num_threads(1)
    expected = [layer(x)[0] for layer, x in zip(layers, xs, strict=True)]
    fastlstm.set_num_threads(count)
    before, right = threads(), True
    for _ in range(3):
        for layer, x in zip(layers, xs, strict=True):
            layer(x)
    workers = threads() - before
    for layer, x, y, shape in zip(layers, xs, expected, SHAPES, strict=True):
        times: list[float] = []
        if how == "as it is" or workers:
            with held(how, workers, seconds):
                end = time.perf_counter() + seconds
                while (began := time.perf_counter()) < end:
                    right &= np.array_equal(layer(x)[0], y)
                    times.append(time.perf_counter() - began)
            print(
                f"{how}, {count} thread(s), T, B, H = {shape}: {len(times) / sum(times):.0f} a second, median "
                f"{np.median(times) * 1e3:.2f}, longest {max(times) * 1e3:.1f} ms{'' if right else '; WRONG'}",
                flush=True,
            )
    return right


def main() -> None:
    """Each in a process of its own, since what was moved stays so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=fastlstm.get_num_threads())
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--how", help="this one alone")
    given = parser.parse_args()
    if given.how:
        sys.exit(not measure(given.how, given.threads, given.seconds))
    every = ["as it is", "on one core", "beside busy programs", "a worker that yields to all", "a worker stopped"]
    command = [sys.executable, __file__, "--threads", str(given.threads), "--seconds", str(given.seconds), "--how"]
    sys.exit(any([subprocess.run([*command, how], check=False).returncode for how in every]))


if __name__ == "__main__":
    main()
