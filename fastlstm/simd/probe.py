"""What one core of this machine can do: multiply-adds from registers, and reads from the cache that an array fits
in.
"""

from __future__ import annotations

import itertools
import threading
import time
from functools import cache

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.simd.emit import BYTE, I32, I64, advance, fma_value, has_fma, typed, vector
from fastlstm.simd.isa import target

FACTORS = 4  # different multiplicands
SECONDS = 0.01  # one timing: long enough for the clock, short enough to fall between two disturbances


def _loop(builder, count, first, body):
    """Emit `count` turns of body(builder, i, values) -> values, starting from `first`; returns the last values."""
    entry = builder.block
    loop, done = builder.append_basic_block("loop"), builder.append_basic_block("done")
    builder.branch(loop)
    builder.position_at_end(loop)
    i = builder.phi(I64)
    phis = [builder.phi(v.type) for v in first]
    after = body(builder, i, phis)
    following = builder.add(i, I64(1))
    for phi, a, b in zip([i, *phis], [I64(0), *first], [following, *after], strict=True):
        phi.add_incoming(a, entry)
        phi.add_incoming(b, loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, done)
    builder.position_at_end(done)
    return after


def accumulators() -> int:
    """Independent chains: enough to cover the latency of two multiply-adds a cycle, few enough to stay in registers."""
    return 20 if target().registers >= 32 else 10


def _numbers(dtype) -> np.ndarray:
    """Normal random numbers for every register. A processor at its power limit multiplies constants a third faster
    than real data.
    """
    return (
        np.random.default_rng(0).standard_normal((accumulators() + 1 + FACTORS) * target().lanes(dtype)).astype(dtype)
    )


@intrinsic
def _multiply_add(typingctx, turns, numbers, dtype):
    """Chains of multiply-adds on registers that are filled once from `numbers`; every chain adds a product of its
    own.
    """
    scalar = dtype.dtype

    def codegen(context, builder, sig, args):
        base, size = builder.inttoptr(args[1], BYTE.as_pointer()), target().bits // 8
        count = accumulators()

        def number(k):
            value = builder.load(typed(builder, advance(builder, base, I64(k * size)), vector(scalar)))
            value.align = scalar.bitwidth // 8
            return value

        first, x, ys = [number(k) for k in range(count)], number(count), [number(count + 1 + k) for k in range(FACTORS)]

        # Where a product is an instruction of its own, each must be another, and change from turn to turn, or it would
        # be made once.
        changing = [] if has_fma() else [x, *ys]
        pairs = list(itertools.combinations(range(1 + FACTORS), 2))

        def body(b, i, values):
            accs, factors = values[:count], values[count:]
            if not factors:
                return [fma_value(b, scalar, x, ys[k % FACTORS], a) for k, a in enumerate(accs)]
            products = [(factors[i], factors[k]) for i, k in pairs[:count]]
            after = [fma_value(b, scalar, *product, a) for product, a in zip(products, accs, strict=True)]
            return [*after, *factors[1:], factors[0]]

        acc = _loop(builder, args[0], [*first, *changing], body)
        total = acc[0]
        for a in acc[1:count]:
            total = builder.fadd(total, a)
        return builder.extract_element(total, I32(0))

    return scalar(types.int64, types.int64, dtype), codegen


@intrinsic
def _read_lines(typingctx, address, lines):
    """Sum `lines` groups of eight registers, read in order."""

    def codegen(context, builder, sig, args):
        vec, size = vector(types.float32), target().bits // 8
        base = builder.inttoptr(args[0], BYTE.as_pointer())

        def body(b, i, accs):
            group = advance(b, base, b.mul(i, I64(8 * size)))
            return [b.fadd(a, b.load(typed(b, advance(b, group, I64(k * size)), vec))) for k, a in enumerate(accs)]

        acc = _loop(builder, args[1], [ir.Constant(vec, [0.0] * vec.count)] * 8, body)
        total = acc[0]
        for a in acc[1:]:
            total = builder.fadd(total, a)
        return builder.extract_element(total, I32(0))

    return types.float32(types.int64, types.int64), codegen


@numba.njit(nogil=True)
def _multiply_add_run(turns, numbers):
    return _multiply_add(turns, numbers.ctypes.data, numbers.dtype)


@numba.njit(nogil=True)
def _read_run(address, lines, turns):
    total = numba.float32(0)
    for _ in range(turns):
        total += _read_lines(address, lines)
    return total


def _seconds(run, threads: int) -> float:
    """Seconds until `run()` has ended on every one of `threads` threads."""
    if threads == 1:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    gate = threading.Barrier(threads + 1)

    def wait_and_run() -> None:
        gate.wait()
        run()

    pool = [threading.Thread(target=wait_and_run) for _ in range(threads)]
    for thread in pool:
        thread.start()
    gate.wait()
    start = time.perf_counter()
    for thread in pool:
        thread.join()
    return time.perf_counter() - start


@cache
def _turns_per_second(dtype: str) -> float:
    numbers = _numbers(dtype)
    _multiply_add_run(1, numbers)
    turns = 100_000
    return turns / min(_seconds(lambda: _multiply_add_run(turns, numbers), 1) for _ in range(3))


def fma_peak_gflops(dtype=np.float32, threads: int = 1) -> float:
    """GFLOP/s of multiply-adds from registers on `threads` threads at once; one timing of about 10 ms.

    Machines change their clock under load: take it beside what it is compared with.
    """
    name = np.dtype(dtype).name
    turns = max(1, int(_turns_per_second(name) * SECONDS))
    numbers = _numbers(dtype)
    seconds = _seconds(lambda: _multiply_add_run(turns, numbers), threads)
    return 2 * turns * accumulators() * target().lanes(dtype) * threads / seconds / 1e9


def read_bandwidth_gbs(nbytes: int, threads: int = 1) -> float:
    """GB/s of reading an array of `nbytes` over and over, each thread its own; one timing of about 10 ms after a
    first pass.
    """
    line = 8 * target().bits // 8
    lines = max(1, nbytes // line)
    arrays = [
        np.ones(lines * line // 4 + 64, np.float32) for _ in range(threads)
    ]  # written, so that its pages are its own
    addresses = [a.ctypes.data + -a.ctypes.data % 64 for a in arrays]
    _read_run(addresses[0], lines, 1)
    start = time.perf_counter()
    _read_run(addresses[0], lines, 2)
    turns = max(1, int(2 * SECONDS / max(time.perf_counter() - start, 1e-7)))
    queue = list(addresses)
    seconds = _seconds(lambda: _read_run(queue.pop(), lines, turns), threads)
    return lines * line * turns * threads / seconds / 1e9
