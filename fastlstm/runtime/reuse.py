"""Large arrays in memory that earlier ones have left.

What the C library frees goes back to the system once it is much, and its pages are faulted in, and cleared, anew: of a
training step of two layers of 64 units, 32 rows and 200 steps that took a fifth.
"""

from __future__ import annotations

import math
import threading
from collections import deque

import numpy as np

from fastlstm.runtime.memory import address, aligned

LEAST = 1 << 18  # bytes from which on an array is worth it
MOST = 1 << 29  # bytes that are kept free
BLOCKS = 64  # and pieces


class Lease:
    """What an array's memory belongs to: it goes back when neither the array nor a view of it is left."""

    __slots__ = ("__array_interface__", "_block", "_give")

    def __init__(self, reuse: Reuse, block: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.__array_interface__ = {
            "shape": shape, "typestr": dtype.str, "data": (address(block), False), "version": 3,
        }  # fmt: skip
        self._block, self._give = block, reuse.give

    def __del__(self) -> None:
        self._give(self._block)


class Reuse:
    """Memory for arrays, from and for all threads; nobody waits for it."""

    most, blocks = MOST, BLOCKS  # where an array that outlives this module finds them

    def __init__(self) -> None:
        self._free: list[np.ndarray] = []  # the longest unused first
        self._returned: deque[np.ndarray] = deque()  # what came back, also in the middle of a `_take`
        self._lock = threading.Lock()  # never waited for: a child may be forked while another thread holds it

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array as of `numpy.empty`."""
        dtype = np.dtype(dtype)
        count = math.prod(shape) * dtype.itemsize
        if count < LEAST:
            return np.empty(shape, dtype)
        block = self._take(count)
        return np.asarray(Lease(self, aligned(count, np.uint8) if block is None else block, shape, dtype))

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array of zeros."""
        array = self.empty(shape, dtype)
        array.fill(0)
        return array

    def give(self, block: np.ndarray) -> None:
        """Keep memory that no array refers to."""
        self._returned.append(block)
        if self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def _take(self, count: int) -> np.ndarray | None:
        if not self._lock.acquire(blocking=False):
            return None
        try:
            self._settle()
            fitting = [(b.size, -k) for k, b in enumerate(self._free) if count <= b.size <= count + count // 4]
            return self._free.pop(-min(fitting)[1]) if fitting else None  # of several the latest: caches may have it
        finally:
            self._lock.release()

    def _settle(self) -> None:
        """Put what came back among what is free, and let go of what is too much."""
        while self._returned:
            self._free.append(self._returned.popleft())
        kept = sum(block.size for block in self._free)
        while kept > self.most or len(self._free) > self.blocks:
            kept -= self._free.pop(0).size


_reuse = Reuse()
empty, zeros = _reuse.empty, _reuse.zeros
