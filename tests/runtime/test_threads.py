"""Threads: counts, threading layers, forked children, concurrent callers, and what belongs to others left alone."""

from __future__ import annotations

import hashlib
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from layer_case import LayerCase

import fastlstm
from fastlstm.runtime import threads

CASES = [
    LayerCase(T=40, B=8, I=33, H=96),
    LayerCase(T=30, B=1, I=16, H=256, bidirectional=True),
    LayerCase(T=30, B=1, I=16, H=256),
]


def fingerprint() -> str:
    """A hash of all results of `CASES`."""
    total = hashlib.sha256()
    for case in CASES:
        for name, array in sorted(
            (case.found() | {f"inferred {name}": array for name, array in case.inferred().items()}).items()
        ):
            total.update(name.encode() + array.tobytes())
    return total.hexdigest()


def python(script: str, **environment: str) -> list[str]:
    """The words that a script prints in a process of its own; it finds the tests' modules."""
    here = Path(__file__).parent
    environment |= {"PYTHONPATH": os.pathsep.join([str(here.parent), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.run(
        [sys.executable, "-c", script],
        cwd=here,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.split()


def test_counts() -> None:
    most = numba.config.NUMBA_NUM_THREADS
    for n in (1, 2, np.int64(3), np.uint8(4)):
        fastlstm.set_num_threads(n)
        assert fastlstm.get_num_threads() == min(n, most)
    fastlstm.set_num_threads(10**6)
    assert fastlstm.get_num_threads() == most


def test_default_is_the_processors_of_this_process() -> None:
    script = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import fastlstm
print(fastlstm.get_num_threads())
"""
    if not hasattr(os, "sched_setaffinity"):
        assert fastlstm.get_num_threads() <= os.cpu_count()
        return
    assert python(script, NUMBA_NUM_THREADS="4") == ["1"]


def test_nobody_elses_count_is_touched() -> None:
    """Numba sets OpenMP's default count as it starts its threads, which is torch's too.

    Numba's own is asked last, since the question itself does so.
    """
    pytest.importorskip("torch")
    script = """
import torch
torch.set_num_threads(3)
import test_threads, fastlstm, numba
fastlstm.set_num_threads(2)
test_threads.fingerprint()
print(torch.get_num_threads(), numba.threading_layer(), numba.get_num_threads())
"""
    assert python(script, NUMBA_THREADING_LAYER="omp", NUMBA_NUM_THREADS="4") == ["3", "omp", "4"]


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_each_threading_layer_gives_the_same_bits(layer: str) -> None:
    """Also from many Python threads at once, which would abort the process if they met inside the workqueue layer."""
    fastlstm.set_num_threads(1)
    expected = fingerprint()
    script = """
import numba, threading
import test_threads, fastlstm
fastlstm.set_num_threads(2)
found = [test_threads.fingerprint()]
def run():
    found.append(test_threads.fingerprint())
pool = [threading.Thread(target=run) for _ in range(4)]
for thread in pool: thread.start()
for thread in pool: thread.join()
print(numba.threading_layer(), len(found), *set(found))
"""
    assert python(script, NUMBA_THREADING_LAYER=layer) == [layer, "5", expected]


def test_a_forked_child_works() -> None:
    """A child forked after the threads were started has none of them: GNU OpenMP would end it.

    It computes alone, to the same bits.
    """
    if not hasattr(os, "fork"):
        return
    script = """
import os, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
import test_threads, fastlstm
fastlstm.set_num_threads(2)
first = test_threads.fingerprint()
child = os.fork()
if child == 0:
    os._exit(0 if test_threads.fingerprint() == first else 3)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(status, first == test_threads.fingerprint())
"""
    assert python(script, NUMBA_THREADING_LAYER="omp") == ["0", "True"]


def test_a_child_forked_before_the_first_call_works() -> None:
    if not hasattr(os, "fork"):
        return
    script = """
import os
import test_threads, fastlstm
fastlstm.set_num_threads(2)
child = os.fork()
first = test_threads.fingerprint()
if child == 0:
    os._exit(0 if len(first) == 64 else 3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert python(script) == ["0"]


def test_parts_beyond_the_threads_fall_back_to_one() -> None:
    """More parts than threads can never meet.

    The rendezvous is given up, and the call done serially, to the same bits.
    """
    script = """
import fastlstm.layer_call as layer
from fastlstm.plan import Plan
import test_threads, fastlstm
fastlstm.set_num_threads(1)
first, planned = test_threads.fingerprint(), (layer.plan_forward, layer.plan_backward)
layer.plan_forward = lambda *a, **k: planned[0](*a, **k)._replace(parts=5, by_units=True, chunk=0)
layer.plan_backward = lambda *a, **k: planned[1](*a, **k)._replace(parts=5, by_units=True)
print(first == test_threads.fingerprint())
"""
    assert python(script, NUMBA_NUM_THREADS="2") == ["True"]


def test_one_part_needs_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "_started", lambda: pytest.fail("a region was entered"))
    monkeypatch.setattr(threads, "_region", None)
    fastlstm.set_num_threads(1)
    CASES[0].inferred()


def test_threads_that_cannot_start_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_layer() -> None:
        raise ValueError("no threading layer could be loaded")

    monkeypatch.setattr(threads.region, "start", no_layer)
    monkeypatch.setattr(threads, "_region", None)
    with pytest.raises(ValueError, match="no threading layer could be loaded"):
        threads._started()


def test_calls_stay_alone_for_a_while_after_threads_had_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    """In two calls running, the first one after such a while forgiven too; twice as long each time, up to a second or
    eight calls' time, and one good call forgets them. One that does not meet tells nothing.
    """
    now = [1000.0]
    monkeypatch.setattr(threads.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threads, "_wait_until", 0.0)
    monkeypatch.setattr(threads, "_wait_factor", threads.FIRST_WAIT)
    monkeypatch.setattr(threads, "_slept", False)

    def wait(seconds: float = 0.01) -> float:
        threads._met(seconds, 2, 0.7 * seconds)
        began = now[0]
        while threads._crowded():
            now[0] += 0.001
        return now[0] - began

    found = [round(wait(), 2) for _ in range(14)]
    assert found[::2] == [0.0] * 7
    assert found[1::2] == [0.16, 0.32, 0.64, 1.0, 1.0, 1.0, 1.0]
    threads._met(0.01, 2, 0.006)
    assert not threads._crowded()
    assert [round(wait(), 2) for _ in range(2)] == [0.0, 0.16]
    threads._met(0.01, 16, 0.14)  # two of sixteen threads are more than one
    assert [round(wait(1.0), 2) for _ in range(2)] == [0.0, 8.0]
    for _ in range(3000):
        threads._met(0.01, 2, math.inf)
    assert threads._wait_until == now[0] + 1.0


def test_calls_tell_how_long_they_waited_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where their threads meet; others are left out, so that what lies between two that do does not make them fine."""
    if numba.config.NUMBA_NUM_THREADS < 2:
        return
    fastlstm.set_num_threads(2)
    noted: list[tuple[float, int, float]] = []
    monkeypatch.setattr(threads, "_met", lambda *told: noted.append(told))
    rng = np.random.default_rng(0)
    layer, x = fastlstm.LSTM(30, 96, seed=1), rng.standard_normal((20, 64, 30), dtype=np.float32)
    monkeypatch.setattr(threads, "_wait_until", 0.0)
    y, _, tape = layer.forward(x)
    assert noted == [] or math.inf in noted[0]  # a thread that never came
    noted.clear()
    layer.backward(tape, y)
    assert len(noted) == 1
    seconds, parts, asleep = noted[0]
    assert parts == 2
    assert 0 <= asleep < 2 * seconds or asleep == math.inf


@pytest.mark.parametrize("limit", [{"OMP_THREAD_LIMIT": "1"}, {}])
def test_threads_that_never_run_are_not_waited_for(limit: dict[str, str]) -> None:
    """A team smaller than asked for takes parts one after another; threads whose cores are taken away share one."""
    if not hasattr(os, "sched_setaffinity"):
        return
    script = """
import os
import test_threads, fastlstm
from fastlstm.runtime import threads
fastlstm.set_num_threads(2)
first = test_threads.fingerprint()
for task in os.listdir("/proc/self/task"):
    os.sched_setaffinity(int(task), {min(os.sched_getaffinity(0))})
threads._wait_until, noted, met = 0.0, [], threads._met
threads._met = lambda seconds, parts, asleep: noted.append(asleep) or met(seconds, parts, asleep)
print(first == test_threads.fingerprint(), max(noted) > 0)
"""
    fastlstm.set_num_threads(1)
    assert python(script, NUMBA_THREADING_LAYER="omp", NUMBA_NUM_THREADS="2", **limit) == ["True", "True"]


def test_a_process_that_is_stopped_goes_on() -> None:
    """As by a shell or a debugger, in the midst of calls whose threads meet at every step."""
    if not hasattr(signal, "SIGSTOP"):
        return
    script = """
import test_threads, fastlstm
fastlstm.set_num_threads(2)
first = test_threads.fingerprint()
print("started", flush=True)
print(all(test_threads.fingerprint() == first for _ in range(50)))
"""
    environment = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "started\n"
        while process.poll() is None:
            for what in (signal.SIGSTOP, signal.SIGCONT):
                process.send_signal(what)
                time.sleep(0.02)
        assert process.stdout.read() == "True\n"


def test_a_call_beside_others_stays_on_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the same bits, and counted no longer than it lasts."""
    fastlstm.set_num_threads(2)
    first = fingerprint()
    monkeypatch.setattr(threads, "_busy", [None] * 100)
    if threads._region is not None:
        monkeypatch.setattr(threads, "_region", threads._region._replace(enter=lambda *a: pytest.fail("entered")))
    assert fingerprint() == first
    assert len(threads._busy) == 100
