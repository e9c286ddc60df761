"""Products of float32 in the matrix unit of a processor that multiplies tiles of bytes (AMX), in whole numbers.

The numbers of a row of A, multiplied by a power of two, are rounded to whole numbers of 24 bits, and these cut into
three *digits* of a byte with sign: q = d1 * 2^16 + d2 * 2^8 + d3; the columns of B likewise. Of the nine products of
two numbers' digits the six largest matter; what is left out, and what rounding takes, is below 2^-20 of the product of
the row's and the column's largest numbers, and mostly far below. Sums of digits' products are whole numbers: exact, and
so the same in any order: a row alone, for which vector registers are faster (VNNI), has the bits of a row of a batch.
(Ootomo, Ozaki, Yokota: DGEMM on integer matrix multiplication unit, 2024, after Ozaki, Ogita, Oishi, Rump: Error-free
transformations of matrix multiplication by using fast routines of matrix multiplication, 2012.)

Features of x may differ in size by much, and weights make up for it. So that the small ones are not lost beside the
large, each k is *balanced* first: A's is multiplied, and B's divided, by a power of two of about the mean weight of
that k. (By the largest, a single large weight would take digits from all other columns; so it does from its own.)

A *stretch* is `STRETCH` steps of k. One tile instruction adds, for 16 rows and 16 columns, the products of a stretch.
Tiles of digits are 1 KiB: of A by rows, [row of 16][k], of B by fours of k, [four][column][k].

    A: [16 rows][stretch][digit]        B: [gate][stretch][digit]

Sums of products of equal weight share a tile of C, of 32-bit words: three for each 16 rows and gate. Vector registers
multiply bytes without sign by bytes with sign: a single row's digits lie as 128 more, and what that adds to each sum,
its *excess*, is subtracted.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from fastlstm.simd.amx import amx, configure
from fastlstm.simd.emit import BYTE, I32, I64, advance, call, fma_value, splat_value, typed, vector
from fastlstm.simd.isa import DIGITS, PANEL, SIDE, STRETCH, TILE, TILE_ROW

FLOAT = types.float32
WORDS = ir.VectorType(I32, SIDE)
UNIT = 2**22  # what the largest power of two in a row becomes, or half of that if its first digit were too large
LARGEST = 127 * (2**16 + 2**8)  # number whose first digit fits a byte


def _same(value: int) -> ir.Constant:
    return ir.Constant(WORDS, [value] * SIDE)


@intrinsic
def larger(typingctx, sizes, value):
    """The larger ones of sizes and |value|, of which a NaN is the largest."""

    def codegen(context, builder, sig, args):
        bits = [builder.bitcast(a, WORDS) for a in args]
        size = builder.and_(bits[1], _same(0x7FFFFFFF))
        found = call(builder, f"llvm.smax.v{SIDE}i32", WORDS, [bits[0], size])
        return builder.bitcast(found, args[0].type)

    return sizes(sizes, value), codegen


@intrinsic
def largest(typingctx, sizes):
    """The largest element of what `larger` found."""

    def codegen(context, builder, sig, args):
        bits = builder.bitcast(args[0], WORDS)
        return builder.bitcast(call(builder, f"llvm.vector.reduce.smax.v{SIDE}i32", I32, [bits]), ir.FloatType())

    return FLOAT(sizes), codegen


@intrinsic
def power(typingctx, sizes):
    """The powers of two at or below sizes, which are 2^-126 at least, infinite or NaN; infinity for these."""

    def codegen(context, builder, sig, args):
        bits, mask = (I32, I32(0x7F800000)) if sizes == FLOAT else (WORDS, _same(0x7F800000))
        return builder.bitcast(builder.and_(builder.bitcast(args[0], bits), mask), args[0].type)

    return sizes(sizes), codegen


@intrinsic
def inverse(typingctx, powers):
    """One over such powers of two, up to 2^126; minus infinity for infinity."""

    def codegen(context, builder, sig, args):
        return builder.bitcast(builder.sub(_same(254 << 23), builder.bitcast(args[0], WORDS)), args[0].type)

    return powers(powers), codegen


def _digits(builder, value, factors):
    """The digits of a vector times factors, side by side in each lane's word: the last one in the lowest byte. With 128
    more of the lower two, no digit takes from the one above; these come off again.
    """
    every, nearest = ir.IntType(SIDE)(-1), I32(8)
    scaled = [builder.fmul(value, factors), ir.Constant(WORDS, None), every, nearest]
    found = call(builder, "llvm.x86.avx512.mask.cvtps2dq.512", WORDS, scaled)
    return builder.xor(builder.add(found, _same(0x8080)), _same(0x8080))


def _store(builder, lines: list, to) -> None:
    """Write a line of each digit, the first digit's first, to `to` and a tile further each."""
    for digit, line in enumerate(lines):
        where = typed(builder, advance(builder, to, I64(digit * TILE)), line.type)
        builder.store(line, where).align = TILE_ROW


def _shuffled(builder, a, b, lanes: list):
    """Some lanes of a and of b, which follow those of a."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), lanes))


@intrinsic
def store_digits(typingctx, first, second, third, fourth, factor, to):
    """Write the digits of four vectors times a factor, a line of bytes, to the address `to` and a tile further each."""

    def codegen(context, builder, sig, args):
        *values, factor, to = args
        factors = splat_value(builder, factor, SIDE)
        bytes_, quarters = ir.VectorType(BYTE, TILE_ROW), range(0, SIDE, 4)
        # Each quarter of a vector by digits, then those of all vectors by quarters, in order.
        by_digit = [16 * quarter + 4 * k + digit for quarter in range(4) for digit in range(4) for k in range(4)]
        low = [q + k for q in quarters for k in (0, SIDE, 1, SIDE + 1)]
        high = [q + k for q in quarters for k in (2, SIDE + 2, 3, SIDE + 3)]
        former = [q + k for q in quarters for k in (0, 1, SIDE, SIDE + 1)]
        latter = [q + k for q in quarters for k in (2, 3, SIDE + 2, SIDE + 3)]
        turned = [4 * quarter + vector for vector in range(4) for quarter in range(4)]
        words = []
        for value in values:
            found = builder.bitcast(_digits(builder, value, factors), bytes_)
            words.append(builder.bitcast(_shuffled(builder, found, ir.Constant(bytes_, ir.Undefined), by_digit), WORDS))
        lows, highs = ([_shuffled(builder, *words[k : k + 2], half) for k in (0, 2)] for half in (low, high))
        lines = [_shuffled(builder, *pair, half) for pair, half in ((highs, former), (lows, latter), (lows, former))]
        undefined = ir.Constant(WORDS, ir.Undefined)
        to = builder.inttoptr(to, BYTE.as_pointer())
        _store(builder, [_shuffled(builder, line, undefined, turned) for line in lines], to)
        return context.get_dummy_value()

    return types.none(first, first, first, first, FLOAT, types.intp), codegen


@intrinsic
def add_128(typingctx, at):
    """To each byte of a line of digits at an address 128, for the vector registers."""

    def codegen(context, builder, sig, args):
        line = typed(builder, builder.inttoptr(args[0], BYTE.as_pointer()), WORDS)
        builder.store(builder.xor(builder.load(line, align=TILE_ROW), _same(0x80808080)), line, align=TILE_ROW)
        return context.get_dummy_value()

    return types.none(types.intp), codegen


@intrinsic
def store_fours(typingctx, first, second, third, fourth, factors, to):
    """Write the digits of four vectors times factors, a word of four bytes for each lane, to the address `to` and a
    tile further each.
    """

    def codegen(context, builder, sig, args):
        *values, factors, to = args
        bytes_, halves = _same(0x00FF00FF), _same(0x0000FFFF)

        def merged(low, high, mask):
            """The bits of `low` in a mask, and those of `high` in the rest."""
            rest = builder.xor(mask, _same(-1))
            return builder.or_(builder.and_(low, mask), builder.and_(high, rest))

        even, odd = [], []  # bytes 0 and 2, and bytes 1 and 3, of two vectors in turn
        for a, b in (values[:2], values[2:]):
            a, b = _digits(builder, a, factors), _digits(builder, b, factors)
            even.append(merged(a, builder.shl(b, _same(8)), bytes_))
            odd.append(merged(builder.lshr(a, _same(8)), b, bytes_))
        lines = [
            merged(builder.lshr(even[0], _same(16)), even[1], halves),
            merged(odd[0], builder.shl(odd[1], _same(16)), halves),
            merged(even[0], builder.shl(even[1], _same(16)), halves),
        ]
        _store(builder, lines, builder.inttoptr(to, BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.none(first, first, first, first, first, types.intp), codegen


@intrinsic
def configure_digits(typingctx, rows):
    """Make the tiles ready for `multiply_digits`, of so many rows, at most 16."""

    def codegen(context, builder, sig, args):
        configure(builder, [args[0]] * 6 + [I64(SIDE)] * 2)
        return context.get_dummy_value()

    return types.none(types.intp), codegen


def _function(module: ir.Module, single: bool) -> ir.Function:
    """The LLVM function of one tile of rows by one vector over all stretches or, `single`, by some vectors over one
    stretch, whose A is loaded once: C in tiles 0 to 2, A in 3 to 5, B in 6 and 7 by turns.
    """
    name = "fastlstm_digits_single" if single else "fastlstm_digits"
    if name in module.globals:
        return module.globals[name]
    pointer = BYTE.as_pointer()
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, pointer, pointer, pointer]), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    count, a, b, c = fn.args
    entry, loop, done = (ir.IRBuilder(fn.append_basic_block(n)) for n in ("entry", "loop", "done"))

    def tile(number):
        return ir.IntType(8)(number)

    def each(builder, do, first, base):
        for digit in range(DIGITS):
            amx(builder, do, tile(first + digit), advance(builder, base, I64(digit * TILE)), I64(TILE_ROW))

    def clear(builder):
        for total in range(DIGITS):
            amx(builder, "tilezero", tile(total))

    each(entry, "tileloadd64", DIGITS, a) if single else clear(entry)
    entry.branch(loop.block)
    left, offset = loop.phi(I64), loop.phi(I64)
    clear(loop) if single else each(loop, "tileloadd64", DIGITS, advance(loop, a, offset))
    for of_b in range(DIGITS):
        held = tile(6 + of_b % 2)
        amx(loop, "tileloadd64", held, advance(loop, b, loop.add(offset, I64(of_b * TILE))), I64(TILE_ROW))
        for of_a in range(DIGITS - of_b):
            amx(loop, "tdpbssd", tile(of_a + of_b), tile(DIGITS + of_a), held)
    if single:
        each(loop, "tilestored64", 0, advance(loop, c, offset))
    fewer, further = loop.sub(left, I64(1)), loop.add(offset, I64(DIGITS * TILE))
    for phi, initial, following in ((left, count, fewer), (offset, I64(0), further)):
        phi.add_incoming(initial, entry.block)
        phi.add_incoming(following, loop.block)
    loop.cbranch(loop.icmp_signed(">", fewer, I64(0)), loop.block, done.block)
    if not single:
        each(done, "tilestored64", 0, c)
    done.ret_void()
    return fn


def _caller(single: bool):
    """Code that calls it with addresses."""

    def codegen(context, builder, sig, args):
        count, *places = args
        places = [builder.inttoptr(place, BYTE.as_pointer()) for place in places]
        builder.call(_function(builder.module, single), [count, *places])
        return context.get_dummy_value()

    return codegen


@intrinsic
def multiply_digits(typingctx, stretches, a, b, c):
    """The three sums of products of digits, for at most 16 rows and one vector; addresses of tiles."""
    return types.none(*[types.intp] * 4), _caller(False)


@intrinsic
def multiply_stretch(typingctx, vectors, a, b, c):
    """The same for some vectors, one after another, of a single stretch."""
    return types.none(*[types.intp] * 4), _caller(True)


def _row_function(module: ir.Module) -> ir.Function:
    """The LLVM function of one row by the four vectors of a panel: twelve sums in registers."""
    name = "fastlstm_digits_row"
    if name in module.globals:
        return module.globals[name]
    pointer = BYTE.as_pointer()
    fn = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64, pointer, pointer, I64, pointer, pointer, I64]), name)
    fn.linkage = "internal"
    fn.attributes.add("noinline")
    stretches, a, b, gate_bytes, excess, c, c_step = fn.args
    entry, loop, done = (fn.append_basic_block(n) for n in ("entry", "loop", "done"))
    places = [(gate, total) for gate in range(PANEL) for total in range(DIGITS)]

    def load(builder, base, offset, ty=WORDS):
        value = builder.load(typed(builder, advance(builder, base, offset), ty))
        value.align = 4
        return value

    builder = ir.IRBuilder(entry)
    starts = [
        builder.sub(_same(0), load(builder, excess, I64((gate * DIGITS + total) * TILE_ROW))) for gate, total in places
    ]
    gates = [advance(builder, b, builder.mul(gate_bytes, I64(gate))) for gate in range(PANEL)]
    fours = builder.mul(stretches, I64(STRETCH // 4))
    builder.branch(loop)

    builder = ir.IRBuilder(loop)
    four = builder.phi(I64)
    phis = [builder.phi(WORDS) for _ in places]
    sums = dict(zip(places, phis, strict=True))
    stretch = builder.mul(builder.lshr(four, I64(4)), I64(DIGITS * TILE))
    within = builder.and_(four, I64(STRETCH // 4 - 1))
    a_at = builder.add(stretch, builder.mul(within, I64(4)))
    b_at = builder.add(stretch, builder.mul(within, I64(TILE_ROW)))
    of_a = []
    for digit in range(DIGITS):
        of_a.append(splat_value(builder, load(builder, a, builder.add(a_at, I64(digit * TILE)), I32), SIDE))
    for gate in range(PANEL):
        for digit in range(DIGITS):
            weights = load(builder, gates[gate], builder.add(b_at, I64(digit * TILE)))
            for other in range(DIGITS - digit):
                operands = [sums[gate, digit + other], of_a[other], weights]
                sums[gate, digit + other] = call(builder, "llvm.x86.avx512.vpdpbusd.512", WORDS, operands)
    following = builder.add(four, I64(1))
    builder.cbranch(builder.icmp_signed("<", following, fours), loop, done)
    for phi, initial, found in ((four, I64(0), following), *zip(phis, starts, sums.values(), strict=True)):
        phi.add_incoming(initial, entry)
        phi.add_incoming(found, loop)

    builder = ir.IRBuilder(done)
    for (gate, total), found in sums.items():
        where = advance(builder, c, builder.mul(c_step, I64(gate * DIGITS + total)))
        builder.store(found, typed(builder, where, WORDS)).align = TILE_ROW
    builder.ret_void()
    return fn


@intrinsic
def multiply_row(typingctx, stretches, a, b, gate_bytes, excess, c, c_step):
    """The sums of one row, to whose digits `add_128` was applied, by a panel, [gate][sum] `c_step` bytes apart, which
    is `TILE` where `multiply_digits` would have them; `gate_bytes` from gate to gate of b. The excess,
    [gate][sum][column], is what zeros give without one.
    """
    ints = types.intp

    def codegen(context, builder, sig, args):
        stretches, a, b, gate_bytes, excess, c, c_step = args
        a, b, excess, c = (builder.inttoptr(place, BYTE.as_pointer()) for place in (a, b, excess, c))
        builder.call(_row_function(builder.module), [stretches, a, b, gate_bytes, excess, c, c_step])
        return context.get_dummy_value()

    return types.none(ints, ints, ints, ints, ints, ints, ints), codegen


@intrinsic
def add_sums(typingctx, sums, row, columns, factor, start):
    """start + a row of the product, from the row of each sum at an address: the row's factor, by those of the
    columns.
    """

    def codegen(context, builder, sig, args):
        sums, row, columns, factor, start = args
        at = advance(builder, builder.inttoptr(sums, BYTE.as_pointer()), builder.mul(row, I64(TILE_ROW)))
        floats = vector(FLOAT)
        high, middle, low = (
            builder.sitofp(builder.load(typed(builder, advance(builder, at, I64(total * TILE)), WORDS)), floats)
            for total in range(DIGITS)
        )
        steps = ir.Constant(floats, [256.0] * SIDE)
        total = fma_value(builder, FLOAT, fma_value(builder, FLOAT, high, steps, middle), steps, low)
        scaled = builder.fmul(total, columns)
        return fma_value(builder, FLOAT, scaled, splat_value(builder, factor, SIDE), start)

    return start(types.intp, types.intp, columns, FLOAT, start), codegen
