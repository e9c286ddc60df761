"""How one call of one layer is cut: threads, rows or units, steps of a chunk, and the workspace that follows."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastlstm.simd.isa import PANEL, PRODUCT_ROWS, UNIT_PRODUCT_ROWS, multiplies_tiles, target

L2 = 1 << 20  # bytes of the second cache that a plan counts on: what the smallest of today's server cores has
REGION_US = 6.0  # microseconds of entering a parallel region
# What a step costs threads that split units: a barrier, for each of them, and what one has from another, so many bytes
# a microsecond.
BARRIER_US, HANDED_BYTES_US = 0.75, 1600.0
# Serial microseconds below which threads are not made to meet: on a busy machine a thread that waits for one without a
# core loses milliseconds. And the share of one thread's time that several must be expected to take at the most.
MEETING_US, GAIN = 150.0, 0.8
# What one core is taken to do, to weigh work against a region or a barrier, and the rows from which on it does: with
# fewer, the tile waits for weights, or the matrix unit's is partly empty; a single row has a way of its own. And how
# many bytes a microsecond it reads from L3, where what takes more than the L2 of a larger core lies.
GFLOPS, FULL_ROWS = 100.0, 4
UNIT_GFLOPS, UNIT_ROWS = 250.0, 11
ROW_GFLOPS, L3_BYTES_US, IN_L3 = 60.0, 3e4, 2 * L2
# Hidden units from which on, or units times features, the matrix unit multiplies (`simd.digits`): with fewer, to split
# takes longer, first of all a single row. Then W x of so many features is in digits too.
DIGIT_UNITS, DIGIT_WORK, DIGIT_FEATURES = 64, 1 << 13, 20
CHUNK_STEPS = 64  # of a chunk of the backward pass beyond `PRODUCT_ROWS`: Ctrl-C waits for one
LONG_S = 0.1  # seconds that a call is expected to take from which on Ctrl-C must be able to end it
MOST_SUMMED = 1 << 15  # products of digits up to which sums of them fit 32 bits
ROWS = 32  # T * B up to which weights are read where they lie
# Up to so many rows W x is computed for a chunk of steps beforehand; in the matrix unit, whose weights come from L3 for
# less time than registers', up to more.
FEW_ROWS, FEW_UNIT_ROWS, CHUNK_ROWS = 12, 32, 96


def is_long(flops: float) -> bool:
    """Whether a call of so many floating-point operations is expected to take `LONG_S`."""
    return flops / GFLOPS / 1e9 > LONG_S


class Plan(NamedTuple):
    """The cut of one layer's pass."""

    parts: int  # threads to each direction
    by_units: bool  # threads split hidden units, and meet once a step, rather than rows
    chunk: int  # steps whose W x (forward) or dW, dx (backward) are computed at once; 0: with each step
    reason: str
    in_unit: bool  # whether the matrix unit multiplies: in digits (`simd.digits`), for dW also in pieces (`simd.amx`)
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


class Work(NamedTuple):
    """What one pass has to do."""

    T: int
    B: int
    D: int
    by_step: float  # floating-point operations of a direction's products of each step,
    by_chunk: float  # and of those over many steps, for which the rows of a step do not matter
    units: int
    at_once: int  # units that threads cannot split
    weights: int  # bytes that each step reads
    handed: int  # bytes of a step that all threads that split units need
    meets: bool  # whether threads that split rows meet too, once a chunk, and so have chunks
    unit: bool  # whether the matrix unit multiplies


def _share(work: Work, threads: int) -> tuple[int, bool, str, float]:
    """Parts, whether they split units, why, and the microseconds expected."""
    T, B, D, per_direction = work.T, work.B, work.D, max(1, threads // work.D)
    gflops, full = (UNIT_GFLOPS, UNIT_ROWS) if work.unit else (GFLOPS, FULL_ROWS)

    def takes_us(rows: int, share: float, weights: float, chunked: bool = True) -> float:
        """Microseconds of a share of the work, with so many rows at once, and so many bytes of weights at each step."""
        rate = ROW_GFLOPS if rows == 1 else gflops * min(1.0, (rows + 1) / (full + 1))
        steps_us = work.by_step * share / rate / 1e3
        if weights > IN_L3:
            steps_us = max(steps_us, T * weights / L3_BYTES_US)
        return (steps_us + work.by_chunk * share / (gflops if chunked else rate) / 1e3) * D

    side = 1 / min(threads, D)  # directions side by side
    alone_us, serial_us = takes_us(B, 1.0, work.weights), (work.by_step + work.by_chunk) * D / gflops / 1e3
    if per_direction == 1 or serial_us < (MEETING_US if work.meets else 3 * REGION_US):
        return 1, False, "one thread is enough" if per_direction > 1 else "one thread", alone_us * side
    groups = -(-work.units // work.at_once)

    def by_rows_us(parts: int) -> float:
        """Every thread reads all weights at each step."""
        rows = -(-B // parts)
        slower = 1.15 if work.weights > IN_L3 and rows < 64 else 1.0
        return takes_us(rows, rows / B, work.weights, work.meets) * slower

    def by_units_us(parts: int) -> float:
        """Every thread reads its share, which may fit its own L2, but they meet at each step."""
        longest = min(1.0, -(-groups // parts) * work.at_once / work.units)
        meeting = BARRIER_US * parts + work.handed * (1 - longest) / HANDED_BYTES_US
        return takes_us(B, longest, longest * work.weights) + T * meeting

    fewer = [per_direction >> k for k in range(per_direction.bit_length() - 1)]  # down to two
    ways = [(by_rows_us(parts), False, parts) for parts in {min(n, B) for n in fewer} - {1}]
    if serial_us >= MEETING_US:
        ways += [(by_units_us(parts), True, parts) for parts in {min(n, groups) for n in fewer} - {1}]
    us, by_units, parts = min(ways, default=(math.inf, False, 1))
    if us + REGION_US > GAIN * alone_us:  # emptier tiles, or meetings, cost what threads gain
        return 1, False, "one thread is as fast", alone_us * side
    reason = "few rows: each thread keeps its share of the weights" if by_units else "rows are independent"
    return parts, by_units, reason, us * side


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
    few, room = (FEW_UNIT_ROWS, L2) if unit else (FEW_ROWS, L2 // 4)
    unit = unit and B > 1  # a single row stays in vector registers
    chunked = uniform and B <= few and T > 1
    of_x, of_h = 8.0 * H * I * T * B, 8.0 * H * H * T * B
    work = Work(
        T, B, D, of_h if chunked else of_h + of_x, of_x if chunked else 0.0, H, H if whole else lanes,
        4 * H * (H if chunked else I + H) * item, B * H * item, meets=False, unit=unit,
    )  # fmt: skip
    parts, by_units, reason, us = _share(work, threads)
    chunk = 0
    if chunked and (by_units or parts == 1):
        row = 4 * -(-H // lanes) * lanes * item
        chunk = max(1, min(T, room // (row * B), -(-CHUNK_ROWS // B)))
    return Plan(parts, by_units, chunk, reason, unit, us)


def product_rows(in_unit: bool, I: int, H: int) -> int:
    """Rows of the tape to one product for dW: in digits more of them where dW comes from L3."""
    if not in_unit:
        return PRODUCT_ROWS
    return UNIT_PRODUCT_ROWS if 16 * H * (I + H) <= L2 else 2 * UNIT_PRODUCT_ROWS


@lru_cache(maxsize=256)
def plan_backward(T: int, B: int, I: int, H: int, D: int, dtype, threads: int, whole: bool = False) -> Plan:
    """The plan of a backward pass; `whole` as in `plan_forward`."""
    item, lanes = np.dtype(dtype).itemsize, target().lanes(dtype)
    # Calls of few rows have a way of their own (`passes.step`), with the bits of registers.
    large = unit_pays(I, H) and 4 * H <= MOST_SUMMED and T * B > ROWS
    in_unit = np.dtype(dtype) == np.float32 and large and multiplies_tiles()
    work = Work(
        T, B, D, 8.0 * H * H * T * B, 8.0 * H * (2 * I + H) * T * B, H, H if whole else PANEL * lanes,
        4 * H * H * item, 4 * B * H * item, meets=True, unit=in_unit,
    )  # fmt: skip
    parts, by_units, reason, us = _share(work, threads)
    rows = product_rows(in_unit, I, H) // (2 if whole else 1)  # that stay in L2, with all that such cells keep of them
    steps = min(rows // max(B, 1), max(PRODUCT_ROWS // max(B, 1), CHUNK_STEPS))
    return Plan(parts, by_units, max(1, min(T, steps)), reason, in_unit, us)
