"""What threads of one call share: counters, a barrier that sleeps, and the processor's floating-point mode.

Numba has no atomics for the CPU. Counters live in int64 words, `LINE` bytes (`runtime.memory`) apart.
"""

from __future__ import annotations

import sys

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastlstm.runtime import futex
from fastlstm.runtime.futex import SPINS, SPUN_NS, has_futex
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.emit import BYTE, I32, I64, call
from fastlstm.simd.isa import target

SLEEP_NS = 10_000_000  # the longest sleep

FLUSH = 0x8040  # MXCSR: flush denormal results to zero (bit 15), read denormals as zero (bit 6)


@intrinsic
def fetch_add(typingctx, address, value):
    """Add to the word at an address and return what it held; sequentially consistent."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", builder.inttoptr(args[0], I64.as_pointer()), args[1], "seq_cst")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def load_acquire(typingctx, address):
    """The word at an address, seen before anything that follows."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.inttoptr(args[0], I64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def compare_exchange(typingctx, address, expected, new):
    """Write `new` where `expected` stands; whether it stood there."""

    def codegen(context, builder, sig, args):
        result = builder.cmpxchg(builder.inttoptr(args[0], I64.as_pointer()), args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def fence(typingctx):
    """Let all that was written be seen before anything that follows."""

    def codegen(context, builder, sig, args):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def pause(typingctx):
    """Tell the core that this is a spin loop."""

    def codegen(context, builder, sig, args):
        if target().name in ("avx512", "avx2", "sse"):
            call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.none(), codegen


def _yield(builder) -> None:
    call(builder, "SwitchToThread" if sys.platform == "win32" else "sched_yield", I32, [])


def ask_system(builder, number: int, *arguments):
    """Make one of Linux's calls; what it returns."""
    given = [I64(number), *arguments]
    return call(builder, "syscall", I64, given + [I64(0)] * (7 - len(given)))  # as many each time: it is declared once


# Sleeps, or instants, after which a rendezvous is given up: tens of ms at the least.
PATIENCE = 5 if has_futex() else 20000


@intrinsic
def now(typingctx):
    """Nanoseconds since some instant; where there is no sleep of a known length, always the same."""

    def codegen(context, builder, sig, args):
        if not has_futex():
            return I64(0)
        time = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
        ask_system(builder, futex.GET_TIME, I64(futex.MONOTONIC), builder.ptrtoint(time, I64))
        seconds, rest = (builder.load(builder.gep(time, [I64(0), I64(k)])) for k in (0, 1))
        return builder.add(builder.mul(seconds, I64(1_000_000_000)), rest)

    return types.int64(), codegen


@intrinsic
def sleep_while(typingctx, address, value):
    """Let others have this core until `wake` for the address, unless its word holds another value; where there is no
    such sleep, for an instant.
    """

    def codegen(context, builder, sig, args):
        if has_futex():
            time = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))
            builder.store(ir.Constant(ir.ArrayType(I64, 2), [0, SLEEP_NS]), time)
            ask_system(builder, futex.NUMBER, args[0], I64(futex.WAIT), args[1], builder.ptrtoint(time, I64))
        else:
            _yield(builder)
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def wake(typingctx, address):
    """Wake all who sleep at an address."""

    def codegen(context, builder, sig, args):
        if has_futex():
            ask_system(builder, futex.NUMBER, args[0], I64(futex.WAKE), I64(futex.ALL))
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@intrinsic
def flush_denormals(typingctx):
    """Treat denormals as zero in this thread from here on; returns the mode before, for `restore_mode`."""

    def codegen(context, builder, sig, args):
        if target().name not in ("avx512", "avx2", "sse"):
            return I64(0)
        slot = builder.alloca(I32)
        raw = builder.bitcast(slot, BYTE.as_pointer())
        call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [raw])
        before = builder.load(slot)
        builder.store(builder.or_(before, I32(FLUSH)), slot)
        call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [raw])
        return builder.zext(before, I64)

    return types.int64(), codegen


@intrinsic
def restore_mode(typingctx, before):
    """Set the floating-point mode that `flush_denormals` returned."""

    def codegen(context, builder, sig, args):
        if target().name in ("avx512", "avx2", "sse"):
            slot = builder.alloca(I32)
            builder.store(builder.trunc(args[0], I32), slot)
            call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [builder.bitcast(slot, BYTE.as_pointer())])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@inline
def called_off(counter):
    """Whether the call was called off, which the fourth word of its barrier tells; False where it has none."""
    if counter == 0:
        return False
    return load_acquire(counter + 24) != 0


@kernel
def barrier(counter, arrivals):
    """Wait until the counter at an address has seen so many arrivals, this one included, or the call is called off. The
    word after it counts those who sleep, the next one the nanoseconds that were slept, each sleep `SPUN_NS` at least.

    Beside another program that is busy, a thread waits for one that has lost its core. If it only yielded its own, the
    two would run by turns: a call of 512 steps took 840 ms beside two such programs. Asleep, it is woken by the last to
    arrive, and takes a core at once, since it has used less of it than others: 32 ms.
    """
    if fetch_add(counter, 1) == arrivals - 1:
        if load_acquire(counter + 8) > 0:
            wake(counter)
        return
    spins = 0
    while load_acquire(counter) < arrivals and not called_off(counter):
        spins += 1
        if spins < SPINS:
            pause()
        else:
            fetch_add(counter + 8, 1)
            seen, began = load_acquire(counter), now()
            if seen < arrivals:
                sleep_while(counter, seen)
                fetch_add(counter + 16, max(now() - began, SPUN_NS))
            fetch_add(counter + 8, -1)


@kernel
def rendezvous(counter, verdict, parties):
    """Whether all parties of a call run at the same time; after a while the call is given up, by all alike.

    Only after a rendezvous may a thread wait at a barrier: a worker that was never started cannot arrive. `verdict`
    becomes 1 (go) or 2 (given up).
    """
    if fetch_add(counter, 1) == parties - 1:
        compare_exchange(verdict, 0, 1)
        wake(verdict)
    waited = 0
    while load_acquire(verdict) == 0:
        waited += 1
        if waited < SPINS:
            pause()
        elif waited < SPINS + PATIENCE:
            sleep_while(verdict, 0)
        else:
            compare_exchange(verdict, 0, 2)
            wake(verdict)
    return load_acquire(verdict) == 1
