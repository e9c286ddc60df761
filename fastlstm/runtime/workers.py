"""Workers: the passes as C functions of a part and a frame, compiled when first asked for and kept on disk."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numba

from fastlstm.runtime.cache import folder
from fastlstm.runtime.jit import WORKER, Variant
from fastlstm.runtime.linking import WholeCompiler

_compiling = threading.RLock()


class Worker(NamedTuple):
    """A compiled worker: callable as `run(part, frame)` without the GIL, and its address for other compiled code."""

    run: Callable[[int, int], None]
    address: int
    owner: object  # keeps the code alive


@cache
def _compile(name: str, variant: Variant) -> Worker:
    from fastlstm.passes import entries

    function = getattr(entries, name)(variant)
    code = numba.cfunc(WORKER, cache=folder() is not None, pipeline_class=WholeCompiler)(function)
    prototype = ctypes.CFUNCTYPE(None, ctypes.c_ssize_t, ctypes.c_ssize_t)
    return Worker(prototype(code.address), code.address, code)


def worker(name: str, variant: Variant) -> Worker:
    """The worker `name` of `passes.entries` for a variant."""
    with _compiling:
        return _compile(name, variant)
