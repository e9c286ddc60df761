"""A square of as many rows as a vector has lanes, turned over in registers: what packing weights consists of."""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.simd.emit import I32, I64, advance, call, first_lanes, overloaded, typed, vector, width


def _interleaved(builder, rows: list) -> list:
    """The transpose: each round interleaves the rows of the first half with those of the second."""
    n = len(rows)
    low = [k // 2 + n * (k % 2) for k in range(n)]
    for _ in range(n.bit_length() - 1):
        rows = [
            builder.shuffle_vector(
                rows[i], rows[i + n // 2], ir.Constant(ir.VectorType(I32, n), [k + half for k in low])
            )
            for i in range(n // 2)
            for half in (0, n // 2)
        ]
    return rows


@intrinsic
def transpose(typingctx, a, a_row, out, out_row, rows=None, columns=None):
    """out[k, r] = a[r, k] for a square of `lanes` rows and columns; with `rows` and `columns`, for so many of them, and
    zero for the other rows. Strides are in elements.
    """
    dtype = a.dtype
    part = isinstance(rows, types.Integer)
    sizes = (types.intp, types.intp) if part else (types.none, types.none)

    def codegen(context, builder, sig, args):
        a, a_row, out, out_row, rows, columns = args
        count, size, ty = width(dtype), dtype.bitwidth // 8, vector(dtype)
        zero, align = ir.Constant(ty, None), I32(size)
        a_row, out_row = (builder.mul(stride, I64(size)) for stride in (a_row, out_row))

        bits = ir.VectorType(ir.IntType(1), count)
        none, every = ir.Constant(bits, None), ir.Constant(bits, [1] * count)
        first = first_lanes(builder, columns, count) if part else every

        found = []
        for r in range(count):
            where = typed(builder, advance(builder, a, builder.mul(a_row, I64(r))), ty)
            if part:
                lanes = builder.select(builder.icmp_signed("<", I64(r), rows), first, none)
                name = overloaded("llvm.masked.load", dtype) + ".p0"
                found.append(call(builder, name, ty, [where, align, lanes, zero]))
            else:
                found.append(builder.load(where))
                found[-1].align = size
        for k, value in enumerate(_interleaved(builder, found)):
            where = typed(builder, advance(builder, out, builder.mul(out_row, I64(k))), ty)
            if part:
                lanes = builder.select(builder.icmp_signed("<", I64(k), columns), every, none)
                name = overloaded("llvm.masked.store", dtype) + ".p0"
                call(builder, name, ir.VoidType(), [value, where, align, lanes])
            else:
                builder.store(value, where).align = size
        return context.get_dummy_value()

    return types.none(a, types.intp, out, types.intp, *sizes), codegen
