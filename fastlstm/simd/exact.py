"""Sums over int8 weights in whole numbers: without rounding, and three instructions where float32 takes twelve.

h lies between -1 and 1, so that a whole number of 24 bits over `UNIT` is it to within an eps of 1 at most, as far off
as the roundings of a float32 sum of such products are. Its three bytes lie in three *planes*; the processor multiplies
four bytes of a plane by four weights and adds them to a 32-bit sum at once (VNNI). Weights lie by fours of k,
[four][gate][lane][k]. Bytes are without sign, so the highest is 128 more than it should be: its sum starts at -128
times the sum of the weights.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.simd.emit import (
    BYTE,
    I32,
    I64,
    advance,
    call,
    call_by_shape,
    fma_value,
    splat_value,
    typed,
    vector,
    width,
)
from fastlstm.simd.isa import PANEL
from fastlstm.simd.vector import Pointer

PLANES = 3
UNIT = 2.0**23 - 2.0**8  # leaves room for an h that rounding has left a little over 1
LARGEST = 2.0**23 - 1
FLOAT = types.float32
SHAPES = ((1, PANEL), (1, 2 * PANEL), (2, PANEL))  # tiles (rows, vectors), with three sums to each vector of a row
AT = BYTE.as_pointer()
ARGUMENTS = [I64, AT, I64, I64, AT, I64, AT, AT, AT, I64, AT, I64]


def _same(ty: ir.VectorType, value) -> ir.Constant:
    return ir.Constant(ty, [value] * ty.count)


@intrinsic
def as_bytes(typingctx, p):
    """The same address as a pointer to bytes."""
    return Pointer(types.int8)(p), lambda context, builder, sig, args: args[0]


@intrinsic
def to_planes(typingctx, h, planes, plane):
    """Write a vector of h to three planes, `plane` bytes apart; whether all of it was small enough."""

    def codegen(context, builder, sig, args):
        h, planes, plane = args
        floats, lanes = vector(FLOAT), width(FLOAT)
        words, bytes_ = ir.VectorType(I32, lanes), ir.VectorType(BYTE, lanes)
        name = f"v{lanes}f32"
        units = builder.fmul(h, _same(floats, UNIT))
        size = call(builder, f"llvm.fabs.{name}", floats, [units])
        fits = builder.fcmp_ordered("<=", size, _same(floats, LARGEST))  # not so for a NaN
        units = builder.select(fits, units, ir.Constant(floats, None))
        whole = builder.fptosi(call(builder, f"llvm.rint.{name}", floats, [units]), words)
        whole = builder.add(whole, _same(words, 1 << 23))
        for k in range(PLANES):
            part = builder.trunc(builder.lshr(whole, _same(words, 8 * k)), bytes_)
            where = advance(builder, planes, builder.mul(plane, I64(k)))
            builder.store(part, typed(builder, where, bytes_)).align = 1
        return builder.icmp_signed("==", builder.bitcast(fits, ir.IntType(lanes)), ir.IntType(lanes)(-1))

    return types.boolean(h, planes, types.intp), codegen


def _tile_function(module: ir.Module, rows: int, vectors: int) -> ir.Function:
    """The LLVM function of one tile; strides are in bytes."""
    name = f"fastlstm_exact_{rows}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), ARGUMENTS), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    fours, a, a_row, plane, b, b_panel, start, scales, add, add_row, c, c_row = fn.args
    floats, lanes = vector(FLOAT), width(FLOAT)
    words, size = ir.VectorType(I32, lanes), 4 * lanes
    entry, loop, done = (fn.append_basic_block(n) for n in ("entry", "loop", "done"))

    def load(builder, address, ty):
        value = builder.load(typed(builder, address, ty))
        value.align = 4
        return value

    def row(builder, base, stride, r):
        return advance(builder, base, builder.mul(stride, I64(r))) if r else base

    builder = ir.IRBuilder(entry)
    nothing = ir.Constant(words, None)
    starts = [load(builder, advance(builder, start, I64(v * size)), words) for v in range(vectors)]
    panels = [row(builder, b, b_panel, p) for p in range(vectors // PANEL)]
    a_planes = [
        [advance(builder, row(builder, a, a_row, r), builder.mul(plane, I64(k))) for k in range(PLANES)]
        for r in range(rows)
    ]
    builder.branch(loop)

    builder = ir.IRBuilder(loop)
    left, a_offset, b_offset = (builder.phi(I64) for _ in range(3))
    sums = [[[builder.phi(words) for _ in range(PLANES)] for _ in range(vectors)] for _ in range(rows)]
    factors = [
        [splat_value(builder, load(builder, advance(builder, at, a_offset), I32), lanes) for at in planes]
        for planes in a_planes
    ]
    fewer = builder.sub(left, I64(1))
    left.add_incoming(fours, entry)
    left.add_incoming(fewer, loop)
    for phi, stride in ((a_offset, 4), (b_offset, PANEL * size)):
        phi.add_incoming(I64(0), entry)
        phi.add_incoming(builder.add(phi, I64(stride)), loop)
    after = [[[nothing] * PLANES for _ in range(vectors)] for _ in range(rows)]
    for v in range(vectors):
        at = advance(builder, panels[v // PANEL], b_offset)
        weights = load(builder, advance(builder, at, I64(v % PANEL * size)), words)
        for r in range(rows):
            for k in range(PLANES):
                phi, operands = sums[r][v][k], [sums[r][v][k], factors[r][k], weights]
                after[r][v][k] = call(builder, "llvm.x86.avx512.vpdpbusd.512", words, operands)
                phi.add_incoming(starts[v] if k == PLANES - 1 else nothing, entry)
                phi.add_incoming(after[r][v][k], loop)
    builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), loop, done)

    builder = ir.IRBuilder(done)
    for r in range(rows):
        for v in range(vectors):
            low, middle, high = after[r][v]
            middle = builder.add(middle, builder.ashr(low, _same(words, 8)))
            high = builder.add(high, builder.ashr(middle, _same(words, 8)))
            middle = builder.shl(builder.and_(middle, _same(words, 255)), _same(words, 8))
            rest = builder.or_(middle, builder.and_(low, _same(words, 255)))
            total = fma_value(
                builder, FLOAT, builder.sitofp(high, floats), _same(floats, 65536.0), builder.sitofp(rest, floats)
            )
            total = builder.fmul(total, _same(floats, 1 / UNIT))
            scale = load(builder, advance(builder, scales, I64(v * size)), floats)
            added = load(builder, advance(builder, row(builder, add, add_row, r), I64(v * size)), floats)
            where = advance(builder, row(builder, c, c_row, r), I64(v * size))
            builder.store(fma_value(builder, FLOAT, total, scale, added), typed(builder, where, floats)).align = 4
    builder.ret_void()
    return fn


@intrinsic
def exact_tile(typingctx, rows, vectors, fours, a, a_row, plane, b, b_panel, start, scales, add, add_row, c, c_row):
    """c = add + scales * (sums over the planes a and the weights b) / `UNIT`, of one of `SHAPES`; start has the bits of
    32-bit integers; the strides of a are in bytes.
    """
    i, byte, p = types.intp, Pointer(types.int8), c
    sig = types.none(i, i, i, byte, i, i, byte, i, p, p, p, i, p, i)

    def codegen(context, builder, sig, args):
        rows, vectors, *rest = args
        for k in (9, 11):  # the strides of add and c
            rest[k] = builder.mul(rest[k], I64(4))
        functions = {shape: _tile_function(builder.module, *shape) for shape in SHAPES}
        call_by_shape(builder, rows, vectors, functions, rest)
        return context.get_dummy_value()

    return sig, codegen


@intrinsic
def add_four(typingctx, total, b, a, n):
    """total + the weights of a four of k times the first n of four numbers, in float32."""

    def codegen(context, builder, sig, args):
        total, b, a, n = args
        floats, lanes = vector(FLOAT), width(FLOAT)
        words = ir.VectorType(I32, lanes)
        fours = builder.load(typed(builder, b, words))
        fours.align = 1
        for k in range(4):
            inside = builder.icmp_signed("<", I64(k), n)
            at = builder.select(inside, advance(builder, a, I64(4 * k)), a)
            value = builder.select(inside, builder.load(typed(builder, at, ir.FloatType())), ir.FloatType()(0.0))
            top = builder.shl(fours, _same(words, 24 - 8 * k))
            weights = builder.sitofp(builder.ashr(top, _same(words, 24)), floats)
            total = fma_value(builder, FLOAT, splat_value(builder, value, lanes), weights, total)
        return total

    return total(total, b, a, types.intp), codegen
