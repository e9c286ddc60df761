"""Workers: the passes as C functions of a part and a frame, compiled when first asked for and kept on disk.

Python calls a worker through ctypes, which costs half a microsecond and releases the GIL; no argument is typed or
unboxed at run time, so a worker is compiled once for each `Variant`, whatever the layout of the caller's arrays.
"""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from fastlstm.runtime import cache as kernels
from fastlstm.runtime import machine
from fastlstm.runtime.variant import Variant

_compiling = threading.RLock()
LOCKS = (_compiling,)


class Worker(NamedTuple):
    """A compiled worker: callable as `run(part, frame)` without the GIL, and its address for other compiled code."""

    run: Callable[[int, int], None]
    address: int


@cache
def _made(name: str, variant: Variant) -> Worker:
    symbol = f"{name}_{hashlib.sha256(repr((variant, machine.processor())).encode()).hexdigest()[:24]}"
    code = kernels.load(symbol)
    if code is None:
        from fastlstm.runtime.compiling import compiled

        with kernels.compiling(symbol):
            code = kernels.load(symbol)
            if code is None:
                code = compiled(name, variant, symbol)
                kernels.save(symbol, code)
    address = machine.load(code, symbol)
    return Worker(ctypes.CFUNCTYPE(None, ctypes.c_ssize_t, ctypes.c_ssize_t)(address), address)


def worker(name: str, variant: Variant) -> Worker:
    """The worker `name` of `passes.entries` for a variant."""
    with _compiling:
        return _made(name, variant)
