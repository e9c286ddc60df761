"""How the parts of one call get to threads: one parallel region a call, the GIL released, and a way back to serial.

The threads are Numba's, which a program has once; they are entered by `runtime.region`. A caller's own thread count is
kept here; Numba's, torch's and NumPy's settings are left alone.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import sys
import threading
import time
from collections.abc import Callable

from fastlstm.runtime import machine, quota, region, workers
from fastlstm.runtime.workers import Worker

CROWDED = 4 / 3  # threads that were awake for less than so many times a call's time did little more than one would
# After two such calls running, calls use one thread for so many times their time, doubled each time, up to a second, or
# to so many times theirs.
FIRST_WAIT, MOST_WAIT, LONGEST_WAIT_S, LONGEST_WAIT = 16, 1 << 20, 1.0, 8

_limit: int | None = None
_region: region.Region | None = None
_lost = False  # whether this process was forked from one whose threads had been started: it has none of them
_starting = threading.Lock()
_serialised = threading.Lock()  # the workqueue layer aborts the process when two threads enter it at once
_busy: list[None] = []  # as many entries as threads that calls use now: a list grows and shrinks in one piece
_wait_until = 0.0  # when (`time.monotonic`) calls may use several threads again
_wait_factor = FIRST_WAIT
_slept = False  # whether threads slept in the last call in which they met
Jobs = queue.SimpleQueue[Callable[[], None] | None]
_patient: tuple[Jobs, set[int]] | None = None  # what the thread of long calls is to do, and the processors it may use
_LOCKS = (_starting, *workers.LOCKS, *machine.LOCKS)  # in the order in which they are taken


def cores() -> int:
    """Processors that this process may run on, and has the time of: threads beyond its quota would use it up sooner."""
    return max(1, int(min(_affinity(), quota.processors())))


def _affinity() -> int:
    """Processors that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def _most() -> int:
    """How many threads Numba starts, or will start when it is imported."""
    if config := sys.modules.get("numba.core.config"):
        return config.NUMBA_NUM_THREADS
    try:
        return int(os.environ["NUMBA_NUM_THREADS"])
    except (KeyError, ValueError):
        return _affinity()


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
    """How many threads a call of this library uses at the most; unless set, the processors that the process may run on,
    or those whose time its container's quota allows, whole ones and one at the least.
    """
    return min(_limit if _limit is not None else cores(), _most())


def _started() -> region.Region:
    """The region, its threads started by the first who asks."""
    global _region
    with _starting:
        if _region is None:
            found: list[region.Region | BaseException] = []

            def begin() -> None:
                try:
                    found.append(region.start())
                except BaseException as error:  # raised again by the caller
                    found.append(error)

            # On a thread of its own: OpenMP's default count, which Numba sets as it starts its threads, is that of the
            # calling thread, and torch's too.
            starter = threading.Thread(target=begin)
            starter.start()
            starter.join()
            if isinstance(found[0], BaseException):
                raise found[0]
            _region = found[0]
        return _region


def start() -> None:
    """Start the threads, where a call may use more than one."""
    if get_num_threads() > 1 and not _lost:
        _started()


def fan_out(task: Worker, parts: int, frame: int, asleep: Callable[[], float | None] | None = None) -> bool:
    """Run the parts of a call, each on a thread of its own where there are so many; False if there is no region to run
    them in. `asleep`, of calls whose parts may meet, tells afterwards for how many seconds threads slept while they
    waited for each other amid the call, all together; None if they did not meet.

    That is so in a child forked after the threads were started, which has none of them; while other Python threads'
    calls use the processors, or other programs do; and, under the workqueue layer, while one of them is in the region.
    """
    if parts == 1:
        alone(task, 1, frame)
        return True
    if _lost or _crowded():
        return False
    found = _region or _started()
    threads = max(parts, get_num_threads())  # the same for all calls: OpenMP ends threads that a region has no use for
    if _busy and len(_busy) + parts > found.most:
        return False
    if found.layer == "workqueue" and not _serialised.acquire(blocking=False):
        return False
    _busy.extend([None] * parts)
    began = time.perf_counter()
    try:
        slept = found.run(threads, parts, task.address, frame, placed=asleep is not None)
    finally:
        del _busy[-parts:]
        if found.layer == "workqueue":
            _serialised.release()
    seconds, lost = time.perf_counter() - began, math.inf if slept else asleep() if asleep else None
    if lost is not None:
        _met(seconds, parts, lost)
    return True


def alone(task: Worker, parts: int, frame: int) -> None:
    """Run the parts of a call one after another on this thread."""
    _busy.append(None)
    try:
        for part in range(parts):
            task.run(part, frame)
    finally:
        _busy.pop()


def patiently(run: Callable[[], None], call_off: Callable[[], None]) -> None:
    """Run a long call where Ctrl-C can end it: on another thread, since the main one, which alone takes signals, takes
    them between two lines of Python only. After one, `call_off` asks the call to end, which is waited for. It is the
    same thread each time: OpenMP starts a team of its own for every thread that enters a region.
    """
    if threading.current_thread() is not threading.main_thread():
        run()
        return
    claim, done = threading.Lock(), threading.Event()
    failed: list[BaseException] = []

    def work() -> None:
        if not claim.acquire(blocking=False):
            return  # interrupted before it was begun
        try:
            run()
        except BaseException as error:  # raised again by the caller
            failed.append(error)
        finally:
            done.set()

    try:
        _jobs().put(work)
        while not done.wait(0.5):  # Windows takes signals between two waits only
            pass
    except BaseException:
        call_off()
        if not claim.acquire(blocking=False):
            while not _quietly(done, 0.1):
                pass
        raise
    if failed:
        raise failed[0]


def _jobs() -> Jobs:
    """Where the thread of long calls takes its jobs from: another one when the caller's processors are others now."""
    global _patient
    may_use = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if _patient is not None and _patient[1] != may_use:
        _patient[0].put(None)
        _patient = None
    if _patient is None:
        jobs: Jobs = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(jobs,), name="fastlstm", daemon=True).start()
        _patient = jobs, may_use
    return _patient[0]


def _serve(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # and its arrays


def _quietly(event: threading.Event, seconds: float) -> bool:
    """Wait for an event, whatever signals come."""
    with contextlib.suppress(KeyboardInterrupt):
        return event.wait(seconds)
    return event.is_set()


def _crowded() -> bool:
    """Whether others kept the processors busy a short while ago."""
    return time.monotonic() < _wait_until


def _met(seconds: float, parts: int, asleep: float) -> None:
    """Take note of how long a call took whose parts met, and how long they slept meanwhile, all together.

    Once is forgiven: after a pause threads start late, by some ms, and the next call finds them awake. So it is after
    each while on one thread, a pause for the others: else every call after one would begin the next.
    """
    global _wait_until, _wait_factor, _slept
    before, _slept = _slept, parts * seconds - asleep < CROWDED * seconds
    if not _slept:
        _wait_factor = FIRST_WAIT
    elif before:
        _wait_until = time.monotonic() + min(_wait_factor * seconds, max(LONGEST_WAIT_S, LONGEST_WAIT * seconds))
        _wait_factor = min(2 * _wait_factor, MOST_WAIT)
        _slept = False


def _before_fork() -> None:
    """Wait until no other thread is in the midst of what a child could not finish."""
    for lock in _LOCKS:
        lock.acquire()


def _after_fork() -> None:
    for lock in reversed(_LOCKS):
        lock.release()


def _in_child() -> None:
    """A child has the threads of nobody, whether they were started by us or by other code that uses Numba."""
    global _lost, _patient
    _patient = None
    numba = sys.modules.get("numba.np.ufunc.parallel")
    _lost = _lost or _region is not None or getattr(numba, "_is_initialized", False)
    _busy.clear()
    if _serialised.locked():
        _serialised.release()
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
