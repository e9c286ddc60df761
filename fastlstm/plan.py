"""How one call of one layer is cut: threads, rows or units, steps of a chunk, and the workspace that follows."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastlstm.simd.isa import PANEL, PRODUCT_ROWS, multiplies_tiles, target

L2 = 1 << 20  # bytes of the second cache that a plan counts on: what the smallest of today's server cores has
REGION_US = 6.0  # microseconds of entering a parallel region
BARRIER_US = 0.3
# Serial microseconds below which threads are not made to meet: on a busy machine a thread that waits for one without a
# core loses milliseconds.
MEETING_US = 150.0
# What one core is taken to do, to weigh work against a region or a barrier, and the rows from which on it does: with
# fewer, the tile waits for weights, or the matrix unit's is partly empty.
GFLOPS, FULL_ROWS = 100.0, 4
UNIT_GFLOPS, UNIT_ROWS = 250.0, 8
# Hidden units from which on, or units times features, the matrix unit multiplies (`simd.digits`): with fewer, to split
# takes longer, first of all a single row. Then W x of so many features is in digits too.
DIGIT_UNITS, DIGIT_WORK, DIGIT_FEATURES = 64, 1 << 13, 20
MOST_SUMMED = 1 << 15  # products of digits up to which sums of them fit 32 bits
ROWS = 32  # T * B up to which weights are read where they lie
# Up to so many rows W x is computed for a chunk of steps beforehand; in the matrix unit, whose weights come from L3 for
# less time than registers', up to more.
FEW_ROWS, FEW_UNIT_ROWS, CHUNK_ROWS = 12, 32, 96


class Plan(NamedTuple):
    """The cut of one layer's pass."""

    parts: int  # threads to each direction
    by_units: bool  # threads split hidden units, and meet once a step, rather than rows
    chunk: int  # steps whose W x (forward) or dW, dx (backward) are computed at once; 0: with each step
    reason: str
    in_unit: bool  # whether the matrix unit multiplies: in digits (`simd.digits`), and for dW in pieces (`simd.amx`)
    expected_us: float  # microseconds that the model expects of it, where a core does `GFLOPS`, or `UNIT_GFLOPS`

    def explain(self) -> str:
        """The plan in words."""
        cut = (
            "one thread to a direction"
            if self.parts == 1
            else f"{self.parts} threads split {'units' if self.by_units else 'rows'}"
        )
        unit = "; products in the matrix unit" if self.in_unit else ""
        return f"{cut}; chunk of {self.chunk} steps; {self.reason}{unit}"


def _share(
    B: int,
    H: int,
    flops: float,
    threads: int,
    D: int,
    vectors: int,
    weights: int,
    T: int,
    meet: bool,
    unit: bool = False,
) -> tuple[int, bool, str, float]:
    """Parts, whether they split units, why, and the microseconds expected; `vectors` are the units that can be split,
    in vectors, `meet` tells whether parts of rows meet too, and `unit` whether the matrix unit does it all.
    """
    per_direction = max(1, threads // D)
    gflops, full = (UNIT_GFLOPS, UNIT_ROWS) if unit else (GFLOPS, FULL_ROWS)
    serial_us = flops / gflops / 1e3
    side = 1 / min(threads, D)  # directions side by side
    if per_direction == 1 or serial_us < (MEETING_US if meet else 3 * REGION_US):
        reason = "one thread is enough" if per_direction > 1 else "one thread"
        return 1, False, reason, serial_us / min(1.0, B / full) * side
    by_rows, by_units = min(per_direction, B), min(per_direction, vectors)
    # Splitting rows, every thread reads all weights at each step; splitting units, its share, which may fit its own
    # L2, but they meet at each step.
    rows, units = -(-B // by_rows), -(-vectors // by_units)  # of the longest part
    rows_us = serial_us * rows / B / min(1.0, rows / full) * (1.15 if weights > L2 and rows < 64 else 1.0)
    units_us = serial_us * units / vectors / min(1.0, B / full) + T * BARRIER_US * by_units
    if by_units == 1 or serial_us < MEETING_US:
        units_us = math.inf
    alone_us = serial_us / min(1.0, B / full)
    if min(rows_us, units_us) + REGION_US > alone_us:  # emptier tiles, or meetings, cost what threads gain
        return 1, False, "one thread is as fast", alone_us * side
    if units_us < rows_us:
        return by_units, True, "few rows: each thread keeps its share of the weights", units_us * side
    return by_rows, False, "rows are independent", rows_us * side


def unit_pays(I: int, H: int) -> bool:
    """Whether layers of so many features and units are for the matrix unit, if there is one."""
    return H <= MOST_SUMMED if H >= DIGIT_UNITS else DIGIT_WORK <= I * H and I <= MOST_SUMMED


@lru_cache(maxsize=256)
def plan_forward(
    T: int,
    B: int,
    I: int,
    H: int,
    D: int,
    dtype,
    threads: int,
    uniform: bool,
    whole: bool = False,
    unit: bool = False,
) -> Plan:
    """The plan of a forward pass; `uniform`: the rows of x are equally far apart over steps and batch; `whole`: units
    need all others of their row, so that threads cannot split them; `unit`: the matrix unit multiplies.
    """
    item, lanes = np.dtype(dtype).itemsize, target().lanes(dtype)
    flops = 8.0 * H * (I + H) * T * B
    vectors = -(-H // lanes)
    few, room = (FEW_UNIT_ROWS, L2) if unit else (FEW_ROWS, L2 // 4)
    unit = unit and B > 1  # a single row stays in vector registers
    parts, by_units, reason, us = _share(
        B, H, flops * D, threads, D, 1 if whole else vectors, 4 * H * (I + H) * item, T, meet=False, unit=unit
    )
    chunk = 0
    if uniform and (by_units or parts == 1) and B <= few and T > 1:
        chunk = max(1, min(T, room // (4 * vectors * lanes * item * B), -(-CHUNK_ROWS // B)))
    return Plan(parts, by_units, chunk, reason, unit, us)


@lru_cache(maxsize=256)
def plan_backward(T: int, B: int, I: int, H: int, D: int, dtype, threads: int, whole: bool = False) -> Plan:
    """The plan of a backward pass; `whole` as in `plan_forward`."""
    item, lanes = np.dtype(dtype).itemsize, target().lanes(dtype)
    flops = 16.0 * H * (I + H) * T * B
    vectors = -(-H // (PANEL * lanes))
    parts, by_units, reason, us = _share(
        B, H, flops * D, threads, D, 1 if whole else vectors, 4 * H * H * item, T, meet=True
    )
    # Calls of few rows have a way of their own (`passes.step`), with the bits of registers.
    large = unit_pays(I, H) and 4 * H <= MOST_SUMMED and T * B > ROWS
    in_unit = np.dtype(dtype) == np.float32 and large and multiplies_tiles()
    rows = PRODUCT_ROWS // 2 if whole else PRODUCT_ROWS  # that stay in L2, with all that such cells keep of them
    return Plan(parts, by_units, max(1, min(T, rows // max(B, 1))), reason, in_unit, us)
