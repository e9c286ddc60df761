"""How a thread sleeps until another wakes it, and where it runs: what Linux wants to be told."""

from __future__ import annotations

import platform
import sys

# The numbers of the calls futex, sched_getaffinity, sched_setaffinity and clock_gettime; 0 where they are not known.
NUMBER, GET_AFFINITY, SET_AFFINITY, GET_TIME = {"x86_64": (202, 204, 203, 228), "aarch64": (98, 123, 122, 113)}.get(
    platform.machine() if sys.platform == "linux" else "", (0, 0, 0, 0)
)
MONOTONIC = 1  # the clock
WAIT, WAKE = 128, 129  # operations, private to this process
ALL = 2**31 - 1  # sleepers to wake
SPINS = 4000  # about 100 us of spinning before a waiting thread gives its core to others
SPUN_NS = 100_000  # that while


def has_futex() -> bool:
    """Whether there is such a sleep: on Linux, on the processors whose numbers are known."""
    return NUMBER != 0
