"""Workers: the passes as C functions of a part and a frame, compiled when first asked for and kept on disk.

Python calls a worker as a built-in function, which releases the GIL (`simd.objects`); no argument is typed or unboxed
at run time, so a worker is compiled once for each `Variant`, whatever the layout of the caller's arrays.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from fastlstm.runtime import cache as kernels
from fastlstm.runtime import machine
from fastlstm.runtime.built_in import built_in
from fastlstm.runtime.memory import LAYOUT_HOLDS, PLAIN, address
from fastlstm.runtime.variant import Variant

_compiling = threading.RLock()
LOCKS = (_compiling,)

Call = Callable[..., object]


class Worker(NamedTuple):
    """A compiled worker, and its address for other compiled code.

    `run(part, frame)` calls it without the GIL. `run(part, frame, at, *what)` writes into the frame first, from a byte
    on: of arrays the addresses, and integers as they are.
    """

    run: Call
    address: int


@cache
def _code(name: str, variant: Variant) -> int:
    """The address of an entry's code, which is loaded, or compiled and kept."""
    symbol = f"{name}_{hashlib.sha256(repr((variant, machine.processor())).encode()).hexdigest()[:24]}"
    code = kernels.load(symbol)
    if code is None:
        from fastlstm.runtime.compiling import compiled

        with kernels.compiling(symbol):
            code = kernels.load(symbol)
            if code is None:
                code = compiled(name, variant, symbol)
                kernels.save(symbol, code)
    return machine.load(code, symbol)


def _with_addresses(run: Call) -> Call:
    """`run` for arrays that keep their addresses elsewhere."""

    def with_addresses(part: int, frame: int, at: int = 0, *what: Any) -> object:
        return run(part, frame, at, *[address(it) if isinstance(it, np.ndarray) else it for it in what])

    return with_addresses


@cache
def _made(name: str, variant: Variant) -> Worker:
    place = _code(name, variant)
    run = built_in("run", _code("call", Variant()), place)
    return Worker(run if LAYOUT_HOLDS else _with_addresses(run), place)


def worker(name: str, variant: Variant) -> Worker:
    """The worker `name` of `passes.entries` for a variant."""
    with _compiling:
        return _made(name, variant)


def _alike(like: np.ndarray, *others: Any) -> bool:
    def fits(a: Any) -> bool:
        return type(a) is np.ndarray and (a.dtype, a.shape) == (like.dtype, like.shape) and a.flags.num & PLAIN == PLAIN

    return all(map(fits, others))


@cache
def _likeness() -> Call:
    return built_in("alike", _code("alike", Variant()), None) if LAYOUT_HOLDS else _alike


def likeness() -> Call:
    """A function of an array and others: whether these are arrays of its dtype and shape that a pass can read as they
    lie, aligned and in C order.
    """
    with _compiling:
        return _likeness()
