"""How a thread sleeps until another wakes it: what Linux wants to be told."""

from __future__ import annotations

import platform
import sys

NUMBER = {"x86_64": 202, "aarch64": 98}.get(platform.machine() if sys.platform == "linux" else "", 0)  # of the call
WAIT, WAKE = 128, 129  # operations, private to this process
ALL = 2**31 - 1  # sleepers to wake
SPINS = 4000  # about 100 us of spinning before a waiting thread gives its core to others


def has_futex() -> bool:
    """Whether there is such a sleep: on Linux, on the processors whose numbers are known."""
    return NUMBER != 0
