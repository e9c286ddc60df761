"""Matrix products in the processor's matrix unit in whole numbers: float32 cut into digits, and C = start + A B for one
panel of B (`simd.digits` has the arithmetic and the layouts).

Packed, B is the powers of two that balance its steps of k, for A and for B, then its panels: each a line that tells
whether all of it could be split, a factor for each column, the excess of a row in vector registers, and the tiles. The
vectors of a panel are the gates of 16 units (`pack_digits`, forward) or follow one another (`pack_columns`, backward).
"""

from __future__ import annotations

import numpy as np

from fastlstm.kernels.gemm import NEXT, SAME, gemm
from fastlstm.runtime.jit import inline, kernel, set_word, word
from fastlstm.simd.digits import (
    LARGEST,
    UNIT,
    add_128,
    add_sums,
    configure_digits,
    inverse,
    larger,
    largest,
    multiply_digits,
    multiply_row,
    multiply_stretch,
    power,
    store_digits,
    store_fours,
)
from fastlstm.simd.isa import DIGITS, PANEL, SIDE, STRETCH, TILE, TILE_ROW
from fastlstm.simd.transpose import transpose
from fastlstm.simd.vector import address, fma, lanes, load, magnitude, pointer, splat, store, total, where_less

TOP, HALF, QUARTER = np.float32(LARGEST), np.float32(0.5), np.float32(0.25)
ONE = np.float32(UNIT)
BACK = np.float32(2**8)  # in each of the factors of a row and a column: the sums come without 2^16
# Rows of larger numbers, of infinity or NaN go through registers; smaller numbers count as if the row had this one.
BOUND, SMALLEST = np.float32(2.0**60), np.float32(2.0**-100)
NOTHING = np.float32(0.0)
TINY = 2.0**-126
BLOCK = DIGITS * TILE  # bytes of the digits of a tile
EXCESS = TILE_ROW + PANEL * TILE_ROW  # bytes before the excess of a panel
HEAD = EXCESS + PANEL * DIGITS * TILE_ROW  # and before its tiles
SUMS = PANEL * BLOCK  # bytes of the sums of 16 rows and a panel
DEEP = 8 * BLOCK  # digits of a tile from which on fewer rows take less time, by more than the unit takes to be told


@inline
def whole_depth(depth):
    """Steps of k in whole stretches."""
    return (depth + STRETCH - 1) // STRETCH * STRETCH


@inline
def digit_bytes(depth):
    """Bytes of the digits of 16 rows, or columns."""
    return whole_depth(depth) // STRETCH * BLOCK


@inline
def panel_bytes(depth):
    """Bytes of a panel of B."""
    return HEAD + PANEL * digit_bytes(depth)


@inline
def panel_of(packed, depth, panel):
    """The address of a panel of B."""
    return packed + 2 * 4 * whole_depth(depth) + panel * panel_bytes(depth)


@inline
def holds(panel):
    """Whether all numbers of a panel could be split."""
    return word(panel, 0) == 1


@kernel
def all_hold(packed, depth, panels):
    """Whether all numbers of all panels could be split."""
    for panel in range(panels):
        if not holds(panel_of(packed, depth, panel)):
            return False
    return True


@kernel
def balance(w, rows, depth, scales):
    """The power of two at or below a quarter of the mean magnitude of each column of w (rows, depth), 2^-126 at least,
    then one over each of them.
    """
    whole, share = whole_depth(depth), QUARTER / np.float32(rows)
    for k in range(0, whole, SIDE):
        store(scales + k, splat(0.0, w))
    for r in range(rows):
        for k in range(0, depth, SIDE):
            store(scales + k, fma(magnitude(vector_of(w + r * depth, k, depth)), share, load(scales + k)))
    to_powers(scales, whole)


@inline
def to_powers(scales, whole):
    """The powers of two at or below so many sizes in their place, 2^-126 at least, and one over them behind."""
    for k in range(0, whole, SIDE):
        powers = power(larger(splat(TINY, scales), load(scales + k)))
        store(scales + k, powers)
        store(scales + (whole + k), inverse(powers))


@inline
def vector_of(row, k, depth):
    """The vector of a row that begins with k, with zeros for what is beyond its depth."""
    return load(row + k) if k + SIDE <= depth else load(row + k, depth - k)


@inline
def balanced(a, k, n, scales):
    """A vector of a row from k on, each k multiplied by its scale, with zeros beyond n."""
    return load(a + k, n) * load(scales + k)


@inline
def split_stretch(a, n, scales, factor, to):
    """The digits of a stretch of a row, of which n steps of k are there."""
    store_digits(
        balanced(a, 0, n, scales), balanced(a, SIDE, n - SIDE, scales), balanced(a, 2 * SIDE, n - 2 * SIDE, scales),
        balanced(a, 3 * SIDE, n - 3 * SIDE, scales), factor, to,
    )  # fmt: skip


@kernel
def split_row(depth, a, scales, to):
    """A row, each k multiplied by its scale, to digits at the address `to`; the factor that makes numbers of them, or 0
    if it must not be split.
    """
    sizes, others = splat(0.0, a), splat(0.0, a)
    whole = depth // STRETCH * STRETCH
    for k in range(0, whole, 2 * SIDE):
        sizes = larger(sizes, balanced(a, k, SIDE, scales))
        others = larger(others, balanced(a, k + SIDE, SIDE, scales))
    for k in range(whole, depth, SIDE):
        sizes = larger(sizes, balanced(a, k, depth - k, scales))
    size = largest(larger(sizes, others))
    if not size <= BOUND:  # not so for a NaN
        return NOTHING
    size = max(size, SMALLEST)
    factor = ONE / power(size)
    if size * factor > TOP:
        factor = factor * HALF
    for k in range(0, whole, STRETCH):
        split_stretch(a + k, STRETCH, scales + k, factor, to)
        to += BLOCK
    if whole < depth:
        split_stretch(a + whole, depth - whole, scales + whole, factor, to)
    return BACK / factor


@inline
def row_of(digits, depth, row):
    """The address of a row in digits."""
    return digits + row // SIDE * digit_bytes(depth) + row % SIDE * TILE_ROW


@inline
def for_registers(depth, row):
    """128 more for each digit of a row."""
    for tile in range(row, row + digit_bytes(depth), TILE):
        add_128(tile)


@inline
def end_rows(rows, depth, to):
    """What is left to do when rows are cut: one that is alone in its tile is for vector registers."""
    if rows % SIDE == 1:
        for_registers(depth, row_of(to, depth, rows - 1))


@kernel
def split_rows(rows, depth, a, a_row, scales, to, factors):
    """A (rows, depth), its rows `a_row` elements apart, to digits at the address `to`, and the factor of each row."""
    for r in range(rows):
        factors[r] = split_row(depth, a + r * a_row, scales, row_of(to, depth, r))
    end_rows(rows, depth, to)


@kernel
def pack_panel(w, hidden, depth, panel, scales, to, scratch):
    """A panel of the transpose of w (4H, K) to digits at the address `to`; scratch takes the digits of 16 rows."""
    whole = 1
    factors, tiles = pointer(to + TILE_ROW, w), pointer(to + HEAD, w)
    rows, each = pointer(scratch, w), digit_bytes(depth) // 4
    for gate in range(PANEL):
        for unit in range(SIDE):
            factor = NOTHING
            if panel * SIDE + unit < hidden:
                row = w + (gate * hidden + panel * SIDE + unit) * depth
                factor = split_row(depth, row, scales + whole_depth(depth), scratch + unit * TILE_ROW)
                if factor == NOTHING:
                    whole = 0
            factors[gate * SIDE + unit] = factor
        for tile in range(0, each, TILE // 4):
            transpose(rows + tile, SIDE, tiles + (gate * each + tile), SIDE)
    set_word(to, whole)
    measure_excess(depth, to, rows)


@kernel
def measure_excess(depth, panel, scratch):
    """What digits of zero give in a panel, with scratch for them."""
    nothing, each = splat(0.0, scratch), digit_bytes(depth)
    for tile in range(0, each // 4, TILE // 4):
        store(scratch + tile, nothing)
    for_registers(depth, address(scratch))
    excess = pointer(panel + EXCESS, scratch)
    for k in range(0, PANEL * DIGITS * SIDE, SIDE):
        store(excess + k, nothing)
    multiply_row(each // BLOCK, address(scratch), panel + HEAD, each, panel + EXCESS, panel + EXCESS, TILE_ROW)


@kernel
def pack_digits(w, hidden, depth, to, scratch):
    """The transpose of w (4H, K) to digits at the address `to`; scratch takes the digits of 16 rows."""
    scales = pointer(to, w)
    balance(w, 4 * hidden, depth, scales)
    for panel in range((hidden + SIDE - 1) // SIDE):
        pack_panel(w, hidden, depth, panel, scales, panel_of(to, depth, panel), scratch)


@kernel
def balance_columns(packed, depth, columns, scales):
    """`balance` of packed columns: for each step of k."""
    share, width = QUARTER / np.float32(columns), PANEL * lanes(packed)
    for k in range(whole_depth(depth)):
        scales[k] = NOTHING
    for column in range(0, columns, width):
        here = min(width, columns - column)
        for k in range(depth):
            row = packed + (column * depth + k * here)
            sizes = magnitude(load(row))
            for u in range(SIDE, here, SIDE):
                sizes = sizes + magnitude(load(row + u))
            scales[k] = scales[k] + share * total(sizes)
    to_powers(scales, whole_depth(depth))


@inline
def scaled(b, width, k, depth, scales):
    """A vector of a step of k, or zeros beyond the last one."""
    return load(b + k * width) * scales[k] if k < depth else splat(0.0, b)


@inline
def scales_of(sizes, factors):
    """The powers of two that make whole numbers of columns with these largest numbers; `factors` takes what makes
    products of their digits.
    """
    powers = power(sizes)
    powers = where_less(splat(TOP, factors), sizes * inverse(powers) * ONE, powers + powers, powers)
    store(factors, powers * (BACK / ONE))
    return inverse(powers) * ONE


@kernel
def split_columns(depth, vectors, b, scales, to):
    """Packed columns of a panel of so many vectors, each k multiplied by its scale, to digits at the address `to`."""
    whole, width, each = 1, vectors * SIDE, digit_bytes(depth)
    for v in range(vectors):
        column, sizes = b + v * SIDE, splat(SMALLEST, b)
        for k in range(depth):
            sizes = larger(sizes, load(column + k * width) * scales[k])
        if not largest(sizes) <= BOUND:  # not so for a NaN
            whole = 0
        factors = scales_of(sizes, pointer(to + TILE_ROW, b) + v * SIDE)
        for k in range(0, whole_depth(depth), 4):
            store_fours(
                scaled(column, width, k, depth, scales), scaled(column, width, k + 1, depth, scales),
                scaled(column, width, k + 2, depth, scales), scaled(column, width, k + 3, depth, scales),
                factors, to + HEAD + v * each + k // STRETCH * BLOCK + k % STRETCH // 4 * TILE_ROW,
            )  # fmt: skip
    set_word(to, whole)


@kernel
def pack_columns(packed, depth, columns, to, scratch):
    """Packed columns, in whole vectors, to digits at the address `to`; scratch takes the digits of 16 rows."""
    scales, width = pointer(to, packed), PANEL * lanes(packed)
    balance_columns(packed, depth, columns, scales)
    for column in range(0, columns, width):
        vectors = min(width, columns - column) // SIDE
        panel = panel_of(to, depth, column // width)
        split_columns(depth, vectors, packed + column * depth, scales + whole_depth(depth), panel)
        measure_excess(depth, panel, pointer(scratch, packed))


@inline
def multiply_tile(vectors, each, a, tiles, sums):
    """The sums of at most 16 rows by so many vectors of a panel, of `each` bytes, each vector's in a block."""
    if each == BLOCK:
        multiply_stretch(vectors, a, tiles, sums)
    else:
        for v in range(vectors):
            multiply_digits(each // BLOCK, a, tiles + v * each, sums + v * BLOCK)


@kernel
def multiply(rows, vectors, depth, digits, factors, panel, start, start_row, c, c_row, sums):
    """c = start + a b: of a in `digits` by so many vectors of a panel of B that holds. Rows that could not be split,
    with a factor of 0, are left as they are; `sums` takes `SUMS` bytes. The tiles come configured for 16 rows, or for
    `rows` if these are fewer.
    """
    columns, tiles = pointer(panel + TILE_ROW, c), panel + HEAD
    each = digit_bytes(depth)
    for r in range(0, rows, SIDE):
        here = min(SIDE, rows - r)
        partial = rows > SIDE and 1 < here < SIDE and each >= DEEP
        if partial:
            configure_digits(here)
        a = digits + r // SIDE * each
        if here == 1:
            multiply_row(each // BLOCK, a, tiles, each, panel + EXCESS, sums, TILE)
        else:
            multiply_tile(vectors, each, a, tiles, sums)
        for i in range(here):
            factor, from_, to = factors[r + i], start + (r + i) * start_row, c + (r + i) * c_row
            if factor != NOTHING:
                for gate in range(vectors):
                    k = gate * SIDE
                    store(to + k, add_sums(sums + gate * BLOCK, i, load(columns + k), factor, load(from_ + k)))
        if partial:
            configure_digits(SIDE)


@kernel
def add_product(rows, vectors, depth, a, a_row, digits, factors, b, panel, start, start_row, c, c_row, sums):
    """c = start + a b as `multiply` computes it. What could not be split, of b all and of a single rows, registers
    multiply, so that a row's bits do not depend on others.
    """
    if not holds(panel):
        gemm(rows, vectors, depth, a, a_row, NEXT, b, SAME, start, start_row, c, c_row)
        return
    multiply(rows, vectors, depth, digits, factors, panel, start, start_row, c, c_row, sums)
    for r in range(rows):
        if factors[r] == NOTHING:
            from_ = start + r * start_row
            gemm(1, vectors, depth, a + r * a_row, a_row, NEXT, b, SAME, from_, SAME, c + r * c_row, c_row)
