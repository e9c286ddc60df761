"""Weights stored in fewer bits than they are computed with: how they lie in a panel, and how they widen to a register.

A Numba type stands for the format. Of int8 the vectors of one k lie side by side. Of bfloat16, the upper half of a
float32, which NumPy and Numba do not have and `uint16` stands for, two vectors lie interleaved, the first one in the
lower halves of 32-bit words: a shift makes one of them, a mask the other, and both take one load. Side by side each
would take a load, a widening and a shift.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.simd.emit import BYTE, I32, I64, advance, typed, vector, width
from fastlstm.simd.isa import PANEL
from fastlstm.simd.vector import Pointer

BFLOAT16 = types.uint16
UPPER = 0xFFFF0000


@intrinsic
def weights_pointer(typingctx, address, v):
    """The pointer to packed weights at an integer address, as the variant v stores them."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], BYTE.as_pointer())

    return Pointer(v.stored)(types.intp, v), codegen


def b_vector(builder, dtype: types.Type, stored: types.Type, address, v: int):
    """Vector number v of a step of k that begins at an address, widened to vectors of `dtype`."""
    lanes = width(dtype)
    size = stored.bitwidth // 8

    def load(ty, at):
        value = builder.load(typed(builder, advance(builder, address, I64(at)), ty))
        value.align = size
        return value

    if stored == types.int8:
        narrow = load(ir.VectorType(BYTE, lanes), v * lanes)
        return builder.sitofp(builder.sext(narrow, ir.VectorType(I32, lanes)), vector(dtype))
    if stored == BFLOAT16:
        words = ir.VectorType(I32, lanes)
        pair = load(words, v // 2 * lanes * 4)  # LLVM loads it once for both
        bits = (
            builder.and_(pair, ir.Constant(words, [UPPER] * lanes))
            if v % 2
            else builder.shl(pair, ir.Constant(words, [16] * lanes))
        )
        return builder.bitcast(bits, vector(dtype))
    return load(vector(dtype), v * lanes * size)


@intrinsic
def widen_step(typingctx, b, to):
    """Widen one step of k of a panel of four vectors."""

    def codegen(context, builder, sig, args):
        dtype, size = to.dtype, width(to.dtype) * to.dtype.bitwidth // 8
        for v in range(PANEL):
            value = b_vector(builder, dtype, b.dtype, args[0], v)
            where = typed(builder, advance(builder, args[1], I64(v * size)), value.type)
            builder.store(value, where).align = dtype.bitwidth // 8
        return context.get_dummy_value()

    return types.none(b, to), codegen
