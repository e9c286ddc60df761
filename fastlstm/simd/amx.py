"""Products of float32 in the matrix unit of a processor that multiplies tiles of bfloat16 (AMX).

A float32 of 24 bits is the sum of three bfloat16 of 8 bits each, its *pieces*: a = a1 + a2 + a3. Of the nine products
of two numbers' pieces six matter; what is left out is below 2^-23 of the whole, as much as a rounding to float32 (but
for products below 1e-31, whose least pieces are denormal, and count as zero). The unit adds up exact products of pieces
in float32, and six of its products take less than half the time of one product in vector registers. (Henry, Tang,
Heinecke: Leveraging the bfloat16 artificial intelligence datatype for higher-precision computations, 2019.)

A *step* is `STEP` steps of k. One tile instruction adds, for 16 rows and 16 columns, the products of a step: first the
even halves of its pairs and the odd ones each in order, then both sums to C. A pair holds k and k + 16 in one word, the
first in its lower half. Tiles are pieces of 1 KiB: of A by rows, [row of 16][pair], of B by pairs, [pair][column].

    A: [16 rows][step][piece]        B: [panel][step][vector][piece]

The bits of an element of C depend on its row and column alone. Infinity by a piece that is zero would be NaN: who
splits A or B is told of it, and of huge numbers, and takes registers for these.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastlstm.simd.emit import BYTE, I32, I64, advance, call, call_by_shape, typed, vector
from fastlstm.simd.isa import PANEL, PIECES, SIDE, TILE, TILE_ROW

FLOAT = types.float32
LARGEST = 1e17  # what is above goes through registers: sums of pieces' products must not overflow where those do not
UPPER = 0xFFFF0000
# Pieces of B and of A, the smallest products first; each A stays for the next product where it can.
PRODUCTS = ((2, 0), (1, 0), (1, 1), (0, 1), (0, 2), (0, 0))
WORDS = ir.VectorType(I32, SIDE)


def _same(value: int) -> ir.Constant:
    return ir.Constant(WORDS, [value] * SIDE)


def _rounded(builder, bits):
    """The upper halves of words, rounded to the nearest."""
    return builder.and_(builder.add(bits, _same(0x8000)), _same(UPPER))


def _pieces(builder, value):
    """The pieces of a vector, each in the upper half of its word."""
    floats = vector(FLOAT)
    first = _rounded(builder, builder.bitcast(value, WORDS))
    rest = builder.fsub(value, builder.bitcast(first, floats))
    second = _rounded(builder, builder.bitcast(rest, WORDS))
    rest = builder.fsub(rest, builder.bitcast(second, floats))
    return first, second, builder.bitcast(rest, WORDS)


def _pairs(builder, low, high):
    """The pieces of two vectors, paired."""
    return [
        builder.or_(builder.lshr(a, _same(16)), builder.and_(b, _same(UPPER)))
        for a, b in zip(_pieces(builder, low), _pieces(builder, high), strict=True)
    ]


def _fits(builder, value):
    size = call(builder, "llvm.fabs.v16f32", value.type, [value])
    return builder.fcmp_ordered("<", size, ir.Constant(value.type, [LARGEST] * SIDE))


@intrinsic
def split_pair(typingctx, low, high, to, piece):
    """Write the pieces of two vectors, paired, to the address `to` and, for the second and third one, `piece` bytes on
    each; whether all of the numbers can be split.
    """

    def codegen(context, builder, sig, args):
        low, high, to, piece = args
        to = builder.inttoptr(to, BYTE.as_pointer())
        for k, words in enumerate(_pairs(builder, low, high)):
            where = advance(builder, to, builder.mul(piece, I64(k)))
            builder.store(words, typed(builder, where, WORDS)).align = TILE_ROW
        fits = builder.and_(_fits(builder, low), _fits(builder, high))
        return builder.icmp_signed("==", builder.bitcast(fits, ir.IntType(SIDE)), ir.IntType(SIDE)(-1))

    return types.boolean(low, high, types.intp, types.intp), codegen


def amx(builder, name: str, *args) -> None:
    call(builder, f"llvm.x86.{name}", ir.VoidType(), args)


def configure(builder, rows: list) -> None:
    """Give the eight tiles their rows, of 64 bytes each."""
    room = cgutils.alloca_once(builder, ir.ArrayType(BYTE, 64))
    where = builder.bitcast(room, BYTE.as_pointer())
    builder.store(ir.Constant(ir.ArrayType(I64, 8), [1] + [0] * 7), typed(builder, where, ir.ArrayType(I64, 8)))
    widths = ir.ArrayType(ir.IntType(16), 8)
    builder.store(ir.Constant(widths, [TILE_ROW] * 8), typed(builder, advance(builder, where, I64(16)), widths))
    for tile, count in enumerate(rows):
        builder.store(builder.trunc(count, BYTE), advance(builder, where, I64(48 + tile)))
    amx(builder, "ldtilecfg", where)


@intrinsic
def configure_single(typingctx, rows):
    """Make the tiles ready for `single`, of so many rows, at most 16."""

    def codegen(context, builder, sig, args):
        configure(builder, [args[0]] * 7 + [I64(SIDE)])
        return context.get_dummy_value()

    return types.none(types.intp), codegen


@intrinsic
def configure_double(typingctx, rows):
    """Make the tiles ready for `double`: 16 rows, and so many more."""

    def codegen(context, builder, sig, args):
        first, second = I64(SIDE), args[0]
        configure(builder, [first, first, second, second, first, second, first, first])
        return context.get_dummy_value()

    return types.none(types.intp), codegen


@intrinsic
def release(typingctx):
    """Leave the tiles as they were before: not in use."""

    def codegen(context, builder, sig, args):
        amx(builder, "tilerelease")
        return context.get_dummy_value()

    return types.none(), codegen


def _tile_function(module: ir.Module, high: int, vectors: int) -> ir.Function:
    """The LLVM function of `high` tiles of rows by so many vectors of a panel; strides are in bytes."""
    name = f"fastlstm_amx_{high}x{vectors}"
    if name in module.globals:
        return module.globals[name]
    pointer = BYTE.as_pointer()
    fn = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [I64, pointer, pointer, I64, pointer, I64, pointer, I64]), name
    )
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    steps, a, b, b_step, start, start_row, c, c_row = fn.args
    entry, loop, done = (fn.append_basic_block(n) for n in ("entry", "loop", "done"))
    # C in the first tiles; then, of one tile of rows, all pieces of A and one of B; of two, one of A and B each.
    tile_c = [[r * vectors + v for v in range(vectors)] for r in range(high)] if high == 1 else [[0, 1], [2, 3]]

    def index(tile):
        return ir.IntType(8)(tile)

    def each(builder, base, row, do):
        for r in range(high):
            at = advance(builder, base, builder.mul(row, I64(r * SIDE))) if r else base
            for v in range(vectors):
                amx(builder, do, index(tile_c[r][v]), advance(builder, at, I64(v * TILE_ROW)), row)

    builder = ir.IRBuilder(entry)
    each(builder, start, start_row, "tileloadd64")
    a_rows = [advance(builder, a, builder.mul(steps, I64(r * PIECES * TILE))) if r else a for r in range(high)]
    builder.branch(loop)

    builder = ir.IRBuilder(loop)
    left, a_at, b_at = (builder.phi(I64) for _ in range(3))
    b_here = advance(builder, b, b_at)

    def fetch(tile, base, offset):
        amx(builder, "tileloadd64", index(tile), advance(builder, base, I64(offset)), I64(TILE_ROW))

    def multiply(c, a, b):
        amx(builder, "tdpbf16ps", index(c), index(a), index(b))

    if high == 1:
        at = advance(builder, a_rows[0], a_at)
        for piece in range(PIECES):
            fetch(4 + piece, at, piece * TILE)
        for v in range(vectors):
            held = None
            for b_piece, a_piece in PRODUCTS:
                if b_piece != held:
                    fetch(7, b_here, (v * PIECES + b_piece) * TILE)
                    held = b_piece
                multiply(v, 4 + a_piece, 7)
    else:
        held_a = held_b = None
        for b_piece, a_piece in PRODUCTS:
            if b_piece != held_b:
                for v in range(vectors):
                    fetch(6 + v, b_here, (v * PIECES + b_piece) * TILE)
                held_b = b_piece
            if a_piece != held_a:
                for r in range(high):
                    fetch(4 + r, advance(builder, a_rows[r], a_at), a_piece * TILE)
                held_a = a_piece
            for r in range(high):
                for v in range(vectors):
                    multiply(tile_c[r][v], 4 + r, 6 + v)
    fewer = builder.sub(left, I64(1))
    for phi, initial, following in (
        (left, steps, fewer),
        (a_at, I64(0), builder.add(a_at, I64(PIECES * TILE))),
        (b_at, I64(0), builder.add(b_at, b_step)),
    ):
        phi.add_incoming(initial, entry)
        phi.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed(">", fewer, I64(0)), loop, done)

    builder = ir.IRBuilder(done)
    each(builder, c, c_row, "tilestored64")
    builder.ret_void()
    return fn


@intrinsic
def single(typingctx, vectors, steps, a, b, b_vectors, start, start_row, c, c_row):
    """c = start + a b for at most 16 rows, made ready by `configure_single`, and `vectors` of the `b_vectors` vectors
    of a panel, at most four, over `steps` >= 1; a and b are addresses of pieces, strides in elements.
    """
    ints = types.intp
    sig = types.none(ints, ints, ints, ints, ints, start, ints, c, ints)
    return sig, _choice(1, range(1, PANEL + 1))


@intrinsic
def double(typingctx, vectors, steps, a, b, b_vectors, start, start_row, c, c_row):
    """The same for 16 rows and some more, made ready by `configure_double`, and at most two vectors."""
    ints = types.intp
    sig = types.none(ints, ints, ints, ints, ints, start, ints, c, ints)
    return sig, _choice(2, range(1, 3))


def _choice(high: int, shapes):
    """Code that calls the function for so many vectors."""

    def codegen(context, builder, sig, args):
        vectors, steps, a, b, b_vectors, start, start_row, c, c_row = args
        size = I64(4)
        a, b = (builder.inttoptr(address, BYTE.as_pointer()) for address in (a, b))
        rest = [
            steps, a, b, builder.mul(b_vectors, I64(PIECES * TILE)),
            start, builder.mul(start_row, size), c, builder.mul(c_row, size),
        ]  # fmt: skip
        functions = {(high, v): _tile_function(builder.module, high, v) for v in shapes}
        call_by_shape(builder, I64(high), vectors, functions, rest)
        return context.get_dummy_value()

    return codegen
