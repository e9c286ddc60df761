"""The limits that a case runs against: the multiply-add peak, and the cache that the recurrent weights come from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import NamedTuple

from .cases import ITEM_BYTES, Case


class Bound(NamedTuple):
    """What a run cannot be faster than, on one machine at one thread count."""

    compute_s: float  # all multiply-adds at the peak
    memory_s: float  # the recurrent weights read in each step, from the cache that a thread's share of them fits in
    bandwidth_gbs: float  # of that cache, all threads together

    @property
    def limit_s(self) -> float:
        """The longer of the two."""
        return max(self.compute_s, self.memory_s)

    @property
    def name(self) -> str:
        """Which of the two it is."""
        return "multiply-adds" if self.compute_s >= self.memory_s else "reading the recurrent weights"


def recurrent_bytes(case: Case, dtype: str) -> int:
    """The recurrent weights of one layer and direction."""
    return 4 * case.H * case.H * ITEM_BYTES[dtype]


def bytes_read(case: Case, mode: str, dtype: str) -> int:
    """Recurrent weights read in one run: in each step of each layer and direction, and again backward."""
    passes = 2 if mode == "training" else 1
    return passes * case.steps(mode) * case.layers * case.directions * recurrent_bytes(case, dtype)


def intensity(case: Case, mode: str, dtype: str) -> float:
    """Floating-point operations a byte of recurrent weights."""
    return case.flops(mode) / bytes_read(case, mode, dtype)


def bandwidth_at(measured: Mapping[int, float], nbytes: float) -> float:
    """The bandwidth at a buffer size, between the measured sizes by their logarithms."""
    sizes = sorted(measured)
    if nbytes <= sizes[0]:
        return measured[sizes[0]]
    for small, large in itertools.pairwise(sizes):
        if nbytes <= large:
            part = math.log(nbytes / small) / math.log(large / small)
            return measured[small] * (measured[large] / measured[small]) ** part
    return measured[sizes[-1]]


def bound(case: Case, mode: str, dtype: str, threads: int, peak_gflops: float, measured: Mapping[int, float]) -> Bound:
    """The bound of a case; units are shared out over threads, so that each reads its part of the weights."""
    bandwidth = bandwidth_at(measured, recurrent_bytes(case, dtype) / threads)
    return Bound(case.flops(mode) / peak_gflops / 1e9, bytes_read(case, mode, dtype) / bandwidth / 1e9, bandwidth)
