"""A digest of memory at the speed at which it is read: tells whether parameters changed since they were packed."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.simd.emit import BYTE, I32, I64, advance, typed
from fastlstm.simd.isa import STREAMS, target

ODD = 0x9E3779B1  # 2^32 over the golden ratio
TURN, TURN_FOLLOWING = 13, 7


def _mix(builder, state, word, following):
    """(turned(state ^ word) + turned(following)) * odd: a changed word changes the state, and goes on changing it.

    Both are turned, and not as far: a sign is the topmost bit, which the product leaves at its place, where that of
    another word could undo it.
    """
    ty = state.type

    def constant(value):
        return ir.Constant(ty, [value] * ty.count if isinstance(ty, ir.VectorType) else value)

    def turned(value, bits):
        return builder.or_(builder.shl(value, constant(bits)), builder.lshr(value, constant(32 - bits)))

    state = turned(builder.xor(state, word), TURN)
    return builder.mul(builder.add(state, turned(following, TURN_FOLLOWING)), constant(ODD))


@intrinsic
def absorb(typingctx, address, nbytes, digest):
    """Mix `nbytes` (a multiple of 4) at an address into the digest at another."""

    def codegen(context, builder, sig, args):
        vec, size = ir.VectorType(I32, target().bits // 32), target().bits // 8
        base, out = (builder.inttoptr(args[k], BYTE.as_pointer()) for k in (0, 2))
        half = STREAMS * size
        group = 2 * half
        whole = builder.sub(args[1], builder.urem(args[1], I64(group)))

        def at(builder, pointer, offset, ty):
            return typed(builder, advance(builder, pointer, offset), ty)

        def loop(name, begin, end, step, ty, slots):
            """Mix the words of ty from begin to end, `step` bytes a turn, into the states at `slots`."""
            before = builder.block
            body, done = builder.append_basic_block(name), builder.append_basic_block(name + ".end")
            first = []
            for slot in slots:
                value = builder.load(at(builder, out, I64(slot), ty))
                value.align = 4
                first.append(value)
            builder.cbranch(builder.icmp_unsigned("<", begin, end), body, done)
            builder.position_at_end(body)
            offset = builder.phi(I64)
            states = [builder.phi(ty) for _ in slots]
            after = []
            for k, state in enumerate(states):
                place = builder.add(offset, I64(k * size))
                word = builder.load(at(builder, base, place, ty))
                word.align = 4
                second = ir.Constant(ty, 1)
                if ty is vec:
                    second = builder.load(at(builder, base, builder.add(place, I64(half)), ty))
                    second.align = 4
                after.append(_mix(builder, state, word, second))
            following = builder.add(offset, I64(step))
            for phi, a, b in zip([offset, *states], [begin, *first], [following, *after], strict=True):
                phi.add_incoming(a, before)
                phi.add_incoming(b, body)
            builder.cbranch(builder.icmp_unsigned("<", following, end), body, done)
            builder.position_at_end(done)
            last_states = [builder.phi(ty) for _ in slots]
            for last, a, b in zip(last_states, first, after, strict=True):
                last.add_incoming(a, before)
                last.add_incoming(b, body)
            for slot, last in zip(slots, last_states, strict=True):
                builder.store(last, at(builder, out, I64(slot), ty)).align = 4

        loop("groups", I64(0), whole, group, vec, [k * size for k in range(STREAMS)])
        loop("rest", whole, args[1], 4, I32, [STREAMS * size])
        return context.get_dummy_value()

    return types.none(types.int64, types.int64, types.int64), codegen
