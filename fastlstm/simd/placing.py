"""Threads of one call on processors of their own, each kept on its own while the call runs.

Linux may wake a thread on the processor of another one that is about to work. As both then sleep in turn, at the
barrier of every step, it never sees two that could use two processors: a call of 12 ms took 35 ms, as long as that went
on. (In virtual machines above all, whose idle processors look as if they were taken.) So a part that finds another on
its processor asks for any but those of the others; and who sleeps in the midst of a call wakes where it was.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastlstm.runtime import futex
from fastlstm.runtime.futex import has_futex
from fastlstm.runtime.jit import kernel, set_word, word
from fastlstm.runtime.memory import MASK
from fastlstm.simd.atomic import ask_system, fetch_add, load_acquire
from fastlstm.simd.emit import I32, I64, call

SIZE = MASK - 8  # bytes of a mask, a bit for each processor, behind a word that tells how many of them are used
WORDS = ir.ArrayType(I64, SIZE // 8)


@intrinsic
def processor(typingctx):
    """The number of the processor that this thread runs on, plus one; 0 where it is not known."""

    def codegen(context, builder, sig, args):
        if not has_futex():
            return I64(0)
        return builder.sext(builder.add(call(builder, "sched_getcpu", I32, []), I32(1)), I64)

    return types.int64(), codegen


def _about_mask(builder, number: int, size, mask):
    """A system call about this thread's mask, at an address; what it returns."""
    return ask_system(builder, number, I64(0), size, mask)


def _bit(builder, mask, cpu):
    """The word of a mask, and in it the bit, of a processor."""
    return builder.gep(mask, [I64(0), builder.lshr(cpu, I64(6))]), builder.shl(I64(1), builder.and_(cpu, I64(63)))


@intrinsic
def remember(typingctx, saved):
    """Write the mask of this thread to an address, `MASK` bytes; whether it is known."""

    def codegen(context, builder, sig, args):
        if not has_futex():
            return ir.IntType(1)(0)
        size = _about_mask(builder, futex.GET_AFFINITY, I64(SIZE), builder.add(args[0], I64(8)))
        builder.store(size, builder.inttoptr(args[0], I64.as_pointer()))
        return builder.icmp_signed(">", size, I64(0))

    return types.boolean(types.int64), codegen


@intrinsic
def leave(typingctx, saved, taken, count):
    """Go to a processor of the mask that was remembered which is not among the `count` taken ones, numbers plus one in
    words at an address; whether there is one.
    """

    def codegen(context, builder, sig, args):
        if not has_futex():
            return ir.IntType(1)(0)
        saved, taken, count = args
        others = cgutils.alloca_once(builder, WORDS)
        mask = builder.inttoptr(builder.add(saved, I64(8)), WORDS.as_pointer())
        builder.store(builder.load(mask), others)
        place = builder.inttoptr(taken, I64.as_pointer())
        with cgutils.for_range(builder, count) as loop:
            cpu = builder.sub(builder.load(builder.gep(place, [loop.index])), I64(1))
            with builder.if_then(builder.icmp_unsigned("<", cpu, I64(8 * SIZE))):
                at, bit = _bit(builder, others, cpu)
                builder.store(builder.and_(builder.load(at), builder.not_(bit)), at)
        size = builder.load(builder.inttoptr(saved, I64.as_pointer()))
        moved = _about_mask(builder, futex.SET_AFFINITY, size, builder.ptrtoint(others, I64))
        return builder.icmp_signed("==", moved, I64(0))

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def stay(typingctx, saved, number):
    """Keep this thread on one processor, by its number plus one."""

    def codegen(context, builder, sig, args):
        if has_futex():
            saved, number = args
            cpu = builder.sub(number, I64(1))
            with builder.if_then(builder.icmp_unsigned("<", cpu, I64(8 * SIZE))):
                single = cgutils.alloca_once(builder, WORDS)
                builder.store(ir.Constant(WORDS, None), single)
                at, bit = _bit(builder, single, cpu)
                builder.store(bit, at)
                size = builder.load(builder.inttoptr(saved, I64.as_pointer()))
                _about_mask(builder, futex.SET_AFFINITY, size, builder.ptrtoint(single, I64))
        return context.get_dummy_value()

    return types.none(types.int64, types.int64), codegen


@intrinsic
def restore(typingctx, saved):
    """Give this thread the mask again that was remembered."""

    def codegen(context, builder, sig, args):
        if has_futex():
            size = builder.load(builder.inttoptr(args[0], I64.as_pointer()))
            _about_mask(builder, futex.SET_AFFINITY, size, builder.add(args[0], I64(8)))
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@kernel
def move_in(places, part, here):
    """Tell the others of a processor, before this part looks where they are."""
    fetch_add(places + 8 * part, here - load_acquire(places + 8 * part))


@kernel
def unsettle(saved):
    """Let this thread run wherever it could before."""
    if word(saved, 0) > 0:
        restore(saved)


@kernel
def settle(places, parts, part, saved):
    """Find a processor that no other part has, whose numbers are in words at an address, and stay on it until
    `unsettle`; where there is none, nothing.
    """
    here = processor()
    if here == 0 or not remember(saved):
        set_word(saved, 0)
        return
    move_in(places, part, here)
    for attempt in range(parts):
        alone = True
        for other in range(parts if attempt == 0 else part):  # of two that have left for the same one, one stays there
            if other != part and load_acquire(places + 8 * other) == here:
                alone = False
        if alone:
            break
        if not leave(saved, places, parts):
            unsettle(saved)  # it may have left before
            set_word(saved, 0)
            return
        here = processor()
        move_in(places, part, here)
    stay(saved, here)
