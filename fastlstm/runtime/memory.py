"""Aligned arrays, and their reuse: a large array that is freed goes back to the system, and its pages are faulted
in anew at the next call.
"""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Iterable
from typing import Any

import numpy as np

ALIGNMENT = 64  # bytes: a cache line, and the widest register
MASK = 136  # bytes of a thread's processors: how many bytes of them are used, then a bit for each of 1,024
LINE = 128  # bytes between counters of several threads: two cache lines, since neighbours are fetched in pairs
KEPT = 8  # arrays kept per thread
_word = ctypes.c_ssize_t.from_address
# Where an array object keeps its type, its data pointer, its number of axes, and so on: NumPy's C structure, unchanged
# since 1.0.
DATA = object.__basicsize__
TYPE, NDIM, DIMENSIONS, DTYPE, FLAGS = DATA - 8, DATA + 8, DATA + 16, DATA + 40, DATA + 48
PLAIN = 0x101  # flags of C order and of aligned elements


def _address_by_layout(array: np.ndarray) -> int:
    return _word(id(array) + DATA).value


def _address_by_interface(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def _addresses_by_layout(arrays: Iterable[np.ndarray]) -> list[int]:
    return [_word(id(array) + DATA).value for array in arrays]


def _addresses_by_interface(arrays: Iterable[np.ndarray]) -> list[int]:
    return [_address_by_interface(array) for array in arrays]


def _layout_holds() -> bool:
    probes: list[np.ndarray] = [np.zeros(3), np.zeros((4, 5), np.float32)[1:, 2:], np.arange(7)[::-1]]
    for a in probes:
        words = [_word(id(a) + at).value for at in (TYPE, DATA, DTYPE, DIMENSIONS)]
        shape = tuple(_word(words[3] + 8 * n).value for n in range(a.ndim))
        halves = [ctypes.c_int32.from_address(id(a) + at).value for at in (NDIM, FLAGS)]
        if [*words[:3], shape] != [id(np.ndarray), _address_by_interface(a), id(a.dtype), a.shape]:
            return False
        if halves != [a.ndim, a.flags.num]:
            return False
    return True


# Where the first element of an array lies. NumPy's own ways take a microsecond and more; a call has two dozen arrays.
LAYOUT_HOLDS = _layout_holds()
if LAYOUT_HOLDS:
    address, addresses = _address_by_layout, _addresses_by_layout
else:
    address, addresses = _address_by_interface, _addresses_by_interface


def places_of(arrays: Iterable[np.ndarray | None]) -> list[int]:
    """The addresses of arrays, 0 for what is not there."""
    return [0 if array is None else address(array) for array in arrays]


def aligned(count: int, dtype) -> np.ndarray:
    """An uninitialised 1-D array whose first element begins a cache line."""
    item = np.dtype(dtype).itemsize
    raw = np.empty(count + ALIGNMENT // item, dtype)
    skip = -address(raw) % ALIGNMENT // item
    return raw[skip : skip + count]


def placed(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array that begins a cache line; as if it owned its memory, all views of it refer to it."""
    count = math.prod(shape)
    # Not made of an array's memory: its views would refer to that array.
    block: Any = (ctypes.c_char * (count * dtype.itemsize)).from_buffer(aligned(count, dtype).data)
    return np.ndarray(shape, dtype, block)


class Pool(threading.local):
    """Arrays that a thread has finished with, for its next calls."""

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []

    def take(self, count: int, dtype) -> np.ndarray:
        """An uninitialised, aligned array of `count` elements or more."""
        fitting = [a for a in self._free if a.dtype == dtype and count <= a.size <= 2 * count + 4096]
        if fitting:
            best = min(fitting, key=lambda a: a.size)
            self._free = [a for a in self._free if a is not best]
            return best
        return aligned(count, dtype)

    def give(self, array: np.ndarray) -> None:
        """Hand back what `take` gave, once nothing refers to it."""
        self._free = [*self._free[-KEPT + 1 :], array]


pool = Pool()
