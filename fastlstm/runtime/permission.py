"""What the operating system must be asked for before a process may use the processor's matrix unit."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import cache

ARCH_PRCTL = 158  # the number of the system call on x86-64
REQUEST, TILE_DATA = 0x1023, 18  # ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA (Linux, Documentation/arch/x86/xstate.rst)


@cache
def may_use_tiles() -> bool:
    """Ask Linux for the tiles' registers, for all threads of this process and its children; False if it says no."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or sys.maxsize < 2**32:
        return False
    return ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST, TILE_DATA) == 0
