"""The microkernel: a block of C kept in registers while K runs, written as LLVM vector IR.

    c[r, v] = start[r, v] + sum over k = 0 .. K-1, in this order, of a[r, k] * b[k, v]

Every element has one accumulator and adds its products in the order of k, whatever the tile: that is why a result
has the same bits in any batch and at any thread count. A is addressed by two strides (row and step of k), so that
one tile serves x W, dG W and x^T dG. B is packed: the vectors of one k lie side by side; a wide tile for few rows
takes several panels of four vectors at once. B may be stored in fewer bits, which widen as they are loaded
(`simd.stored`).

On AVX-512 the loop of the 6 x 4 tile is 24 FMAs, 4 loads and 6 broadcasts a step of k, without a spill, at 97 % of
the FMA peak from L1. A 12 x 2 tile spills the row addresses, 7 x 4 the accumulators.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.simd.emit import (
    BYTE,
    I64,
    advance,
    call_by_shape,
    element,
    fma_value,
    prefetch_value,
    splat_value,
    typed,
    vector,
    width,
)
from fastlstm.simd.isa import PANEL, target
from fastlstm.simd.stored import b_vector

ADDRESS = BYTE.as_pointer()


def shapes() -> list[tuple[int, int]]:
    """The tiles (rows, vectors) that the target's registers carry."""
    rows = target().tile_rows
    narrow = [(r, v) for r in range(1, rows + 1) for v in range(1, PANEL + 1)]
    # Few rows: more vectors, so that the FMAs' latency is covered by at least eight accumulators.
    wide = [(1, 2 * PANEL), (1, 4 * PANEL), (2, 2 * PANEL), (3, 2 * PANEL)] if rows == 6 else [(1, 2 * PANEL)]
    return narrow + wide


def tile_function(
    module: ir.Module, dtype: types.Type, stored: types.Type, rows: int, vectors: int, lying: bool = False
) -> ir.Function:
    """The LLVM function of one tile shape, of a B that is stored so; strides are in bytes. `lying`: B is no panel but a
    matrix as it lies, and one more argument tells how far apart its rows are; a constant where it is a panel, which is
    up to 4 % faster.
    """
    name = f"fastlstm_tile_{dtype}_{stored}_{rows}x{vectors}{'_lying' * lying}"
    if name in module.globals:
        return module.globals[name]
    arguments = [I64, ADDRESS, I64, I64, ADDRESS, I64, ADDRESS, I64, ADDRESS, I64, ADDRESS, *[I64] * lying]
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), arguments), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row, ahead = fn.args[:11]
    size = target().bits // 8
    packed = size * stored.bitwidth // dtype.bitwidth  # bytes of a vector of B
    step = fn.args[11] if lying else I64(min(vectors, PANEL) * packed)  # bytes of one k in a panel
    vec = vector(dtype)
    entry, loop, done = (fn.append_basic_block(n) for n in ("entry", "loop", "done"))

    def row(builder, base, stride, r):
        return advance(builder, base, builder.mul(stride, I64(r))) if r else base

    def load(builder, address, ty, align):
        value = builder.load(typed(builder, address, ty))
        value.align = align
        return value

    align = dtype.bitwidth // 8
    builder = ir.IRBuilder(entry)
    first = [
        [
            load(builder, advance(builder, row(builder, start, start_row, r), I64(v * size)), vec, align)
            for v in range(vectors)
        ]
        for r in range(rows)
    ]
    a_rows = [row(builder, a, a_row, r) for r in range(rows)]
    panels = [row(builder, b, b_panel, p) for p in range((vectors + PANEL - 1) // PANEL)]
    builder.branch(loop)

    builder = ir.IRBuilder(loop)
    left, a_offset, b_offset, line = (builder.phi(I64) for _ in range(4))
    acc = [[builder.phi(vec) for _ in range(vectors)] for _ in range(rows)]

    at_k = [advance(builder, panel, b_offset) for panel in panels]

    def column(v):
        return b_vector(builder, dtype, stored, at_k[v // PANEL], v % PANEL)

    def scalar(r):
        value = load(builder, advance(builder, a_rows[r], a_offset), element(dtype), align)
        return splat_value(builder, value, width(dtype))

    # One line a step of what comes after this block, into L2: above H = 256 the panels come from L3 and cost up to a
    # third of the peak otherwise. A few rows only stream B: there the processor's own prefetching reaches 90 % of the
    # cache's bandwidth, and ours takes from it.
    if rows > 3 and not lying:
        prefetch_value(builder, advance(builder, ahead, line))
    # Where accumulators and all vectors of B would not leave a register for A, one vector of B is there at a time, and
    # A's scalars wait: 3 x 4 then fits 16 registers, and runs at 58 % of the peak of AVX2 with four vectors of B there.
    # AVX-512 has room, or takes B from memory.
    if target().name != "avx512" and (rows + 1) * vectors >= target().registers:
        scalars = [scalar(r) for r in range(rows)]
        columns = []
        for v in range(vectors):
            b_here = column(v)
            columns.append([fma_value(builder, dtype, scalars[r], b_here, acc[r][v]) for r in range(rows)])
        after = [list(row) for row in zip(*columns, strict=True)]
    else:
        row_of_b = [column(v) for v in range(vectors)]
        after = []
        for r in range(rows):
            a_here = scalar(r)
            after.append([fma_value(builder, dtype, a_here, row_of_b[v], acc[r][v]) for v in range(vectors)])
    fewer = builder.sub(left, I64(1))
    for phi, initial, following in (
        (left, depth, fewer),
        (a_offset, I64(0), builder.add(a_offset, a_step)),
        (b_offset, I64(0), builder.add(b_offset, step)),
        (line, I64(0), builder.add(line, I64(64 * stored.bitwidth // dtype.bitwidth))),
        *((acc[r][v], first[r][v], after[r][v]) for r in range(rows) for v in range(vectors)),
    ):
        phi.add_incoming(initial, entry)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), loop, done)

    builder = ir.IRBuilder(done)
    for r in range(rows):
        for v in range(vectors):
            where = advance(builder, row(builder, c, c_row, r), I64(v * size))
            builder.store(after[r][v], typed(builder, where, vec)).align = align
    builder.ret_void()
    return fn


@intrinsic
def tile(typingctx, rows, vectors, depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row, ahead):
    """Run the tile of `rows` x `vectors` over `depth` >= 1 steps of k; strides are in elements, and `ahead` is
    prefetched.
    """
    dtype, stored = c.dtype, b.dtype
    ints, p = types.intp, c
    sig = types.none(ints, ints, ints, p, ints, ints, b, ints, p, ints, p, ints, b)

    def codegen(context, builder, sig, args):
        rows, vectors, depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row, ahead = args
        size = I64(dtype.bitwidth // 8)
        a_row, a_step, start_row, c_row = (builder.mul(s, size) for s in (a_row, a_step, start_row, c_row))
        b_panel = builder.mul(b_panel, I64(stored.bitwidth // 8))
        rest = [depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row, ahead]
        found = shapes() if stored == dtype else whole_panels()
        functions = {shape: tile_function(builder.module, dtype, stored, *shape) for shape in found}
        call_by_shape(builder, rows, vectors, functions, rest)
        return context.get_dummy_value()

    return sig, codegen


def whole_panels() -> list[tuple[int, int]]:
    """The tiles (rows, vectors) of a B in fewer bits."""
    return [(rows, vectors) for rows, vectors in shapes() if vectors % PANEL == 0]


def lying_shapes() -> list[tuple[int, int]]:
    """The tiles (rows, vectors) of a matrix as it lies: a row of up to eight vectors, or a few rows of four."""
    return [(1, 2 * PANEL), (1, PANEL), (1, 2), (1, 1), *((r, PANEL) for r in range(2, target().tile_rows + 1))]


@intrinsic
def lying_tile(typingctx, rows, vectors, depth, a, a_row, a_step, b, b_row, start, start_row, c, c_row):
    """As `tile`, of the shapes of `lying_shapes`, with a B whose rows are `b_row` elements apart."""
    dtype = c.dtype
    ints, p = types.intp, c
    sig = types.none(ints, ints, ints, p, ints, ints, p, ints, p, ints, p, ints)

    def codegen(context, builder, sig, args):
        rows, vectors, depth, a, a_row, a_step, b, b_row, start, start_row, c, c_row = args
        size = I64(dtype.bitwidth // 8)
        a_row, a_step, b_row, start_row, c_row = (
            builder.mul(s, size) for s in (a_row, a_step, b_row, start_row, c_row)
        )
        panel = I64(PANEL * target().bits // 8)  # the next four vectors follow
        rest = [depth, a, a_row, a_step, b, panel, start, start_row, c, c_row, b, b_row]
        functions = {shape: tile_function(builder.module, dtype, dtype, *shape, lying=True) for shape in lying_shapes()}
        call_by_shape(builder, rows, vectors, functions, rest)
        return context.get_dummy_value()

    return sig, codegen
