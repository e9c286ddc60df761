"""What threads of one call share: counters, a barrier that yields, and the processor's floating-point mode.

Numba has no atomics for the CPU. Counters live in int64 words, `LINE` bytes (`runtime.memory`) apart.
"""

from __future__ import annotations

import sys

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.runtime.jit import kernel
from fastlstm.runtime.memory import LINE  # noqa: F401  for those who lay counters out
from fastlstm.simd.isa import target
from fastlstm.simd.vector import call

I64 = ir.IntType(64)
SPINS = 4000  # about 100 us of spinning before a waiting thread offers its core to others
PATIENCE = 20000  # yields (tens of ms at the least) after which a rendezvous is given up

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
def pause(typingctx):
    """Tell the core that this is a spin loop."""

    def codegen(context, builder, sig, args):
        if target().name in ("avx512", "avx2", "sse"):
            call(builder, "llvm.x86.sse2.pause", ir.VoidType(), [])
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def yield_core(typingctx):
    """Let another thread run on this core."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

    def codegen(context, builder, sig, args):
        call(builder, name, ir.IntType(32), [])
        return context.get_dummy_value()

    return types.none(), codegen


@intrinsic
def flush_denormals(typingctx):
    """Treat denormals as zero in this thread from here on; returns the mode before, for `restore_mode`."""

    def codegen(context, builder, sig, args):
        if target().name not in ("avx512", "avx2", "sse"):
            return I64(0)
        slot = builder.alloca(ir.IntType(32))
        raw = builder.bitcast(slot, ir.IntType(8).as_pointer())
        call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), [raw])
        before = builder.load(slot)
        builder.store(builder.or_(before, ir.IntType(32)(FLUSH)), slot)
        call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [raw])
        return builder.zext(before, I64)

    return types.int64(), codegen


@intrinsic
def restore_mode(typingctx, before):
    """Set the floating-point mode that `flush_denormals` returned."""

    def codegen(context, builder, sig, args):
        if target().name in ("avx512", "avx2", "sse"):
            slot = builder.alloca(ir.IntType(32))
            builder.store(builder.trunc(args[0], ir.IntType(32)), slot)
            call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), [builder.bitcast(slot, ir.IntType(8).as_pointer())])
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@kernel
def barrier(counter, arrivals):
    """Wait until the counter at an address has seen so many arrivals, this one included."""
    fetch_add(counter, 1)
    spins = 0
    while load_acquire(counter) < arrivals:
        spins += 1
        if spins < SPINS:
            pause()
        else:
            yield_core()


@kernel
def rendezvous(counter, verdict, parties):
    """Whether all parties of a call run at the same time; after a while the call is given up, by all alike.

    Only after a rendezvous may a thread wait at a barrier: a worker that was never started cannot arrive. `verdict`
    becomes 1 (go) or 2 (given up).
    """
    if fetch_add(counter, 1) == parties - 1:
        compare_exchange(verdict, 0, 1)
    waited = 0
    while load_acquire(verdict) == 0:
        waited += 1
        if waited < SPINS:
            pause()
        else:
            yield_core()
            if waited > SPINS + PATIENCE:
                compare_exchange(verdict, 0, 2)
    return load_acquire(verdict) == 1
