"""Matrix products in the processor's matrix unit in whole numbers, C += A^T B, of matrices whose rows are steps of k:
each column of A and B is cut into digits by its own largest number (`simd.digits` has the arithmetic and the layouts).

What is left out of a product is relative to the largest numbers of its two columns. Beside numbers that are some ten
times as large it may be more than what the small ones have to add up: digits are for columns that are *even*. With
|b| the sum of a row and size the largest number of a column, a column of A must have

    size_i (sum_k |b_k| + K sum_j size_j) + sum_k |a_ki| sum_j size_j  <=  EVEN sum_k |a_ki| |b_k|

over all of B, and a column of B the same with A. Rounding takes about 2^-24 of the first and the last term, and the
three products of digits that are left out, which have either sign, are of the size of the root of K by 2^-24 size_i
size_j each; K in place of the root holds them to the same share of a sum whose terms have either sign too. Of normal
numbers the left side is some 30 times as much as the sum on the right, of dG of normal dy up to 92. Errors then are
within 6e-6 of the norm of a row or column of dW, and at 1e-6 for normal numbers.
"""

from __future__ import annotations

import numpy as np

from fastlstm.kernels.digits import BLOCK, ONE, SMALLEST, digit_bytes, scales_of, whole_depth
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.digits import add_sums, larger, largest, multiply_digits, store_fours
from fastlstm.simd.isa import PANEL, SIDE, STRETCH, TILE, TILE_ROW
from fastlstm.simd.transpose import transpose
from fastlstm.simd.vector import fma, load, magnitude, pointer, splat, store, total, where_at_most, where_less

EVEN = np.float32(96.0)
BOUND = np.float32(2.0**40)  # of numbers, so that no product of sums overflows
TOO_LARGE = np.float32(-1.0)
ZERO, MET = np.float32(0.0), np.float32(1.0)


@inline
def at_least(sizes):
    """The largest numbers of columns as they count: of tiny ones the least that digits are made by, but zero."""
    least, zero = splat(SMALLEST, sizes), splat(ZERO, sizes)
    return where_less(zero, sizes, where_less(sizes, least, least, sizes), sizes)


@kernel
def measure(depth, columns, a, a_row, sizes, rows, sums):
    """The largest number, without sign, of each column of a (depth, columns), in whole panels; each row's sum;
    and the sum of the largest numbers, or `TOO_LARGE`. `sums` is room for `depth` vectors.
    """
    most, found = splat(ZERO, a), splat(ZERO, a)
    for k in range(depth):
        store(sums + k * SIDE, most)
    for u in range(0, columns, PANEL * SIDE):
        n_0, n_1, n_2, n_3 = columns - u, columns - u - SIDE, columns - u - 2 * SIDE, columns - u - 3 * SIDE
        size_0, size_1, size_2, size_3 = splat(ZERO, a), splat(ZERO, a), splat(ZERO, a), splat(ZERO, a)
        for k in range(depth):
            at, to = a + (k * a_row + u), sums + k * SIDE
            value_0, value_1 = magnitude(load(at, n_0)), magnitude(load(at + SIDE, n_1))
            value_2, value_3 = magnitude(load(at + 2 * SIDE, n_2)), magnitude(load(at + 3 * SIDE, n_3))
            size_0, size_1 = larger(size_0, value_0), larger(size_1, value_1)
            size_2, size_3 = larger(size_2, value_2), larger(size_3, value_3)
            store(to, load(to) + ((value_0 + value_1) + (value_2 + value_3)))
        size_0, size_1, size_2, size_3 = at_least(size_0), at_least(size_1), at_least(size_2), at_least(size_3)
        store(sizes + u, size_0)
        store(sizes + (u + SIDE), size_1)
        store(sizes + (u + 2 * SIDE), size_2)
        store(sizes + (u + 3 * SIDE), size_3)
        most = larger(larger(most, larger(size_0, size_1)), larger(size_2, size_3))
        found = found + ((size_0 + size_1) + (size_2 + size_3))
    if not largest(most) <= BOUND:  # not so for a NaN
        return TOO_LARGE
    for k in range(depth):
        rows[k] = total(load(sums + k * SIDE))
    return total(found)


@kernel
def even(depth, columns, a, a_row, sizes, others, other_sizes):
    """Whether all columns of a are even beside a matrix whose rows have the sums `others`, and whose columns' largest
    numbers have the sum `other_sizes`.
    """
    zero, most = splat(ZERO, a), splat(other_sizes, a)
    left_out = splat(np.float32(depth) * other_sizes, a)
    for u in range(0, columns, PANEL * SIDE):
        n_0, n_1, n_2, n_3 = columns - u, columns - u - SIDE, columns - u - 2 * SIDE, columns - u - 3 * SIDE
        sum_0, sum_1, sum_2, sum_3, met_0, met_1, met_2, met_3 = zero, zero, zero, zero, zero, zero, zero, zero
        every = left_out
        for k in range(depth):
            at, other = a + (k * a_row + u), splat(others[k], a)
            value_0, value_1 = magnitude(load(at, n_0)), magnitude(load(at + SIDE, n_1))
            value_2, value_3 = magnitude(load(at + 2 * SIDE, n_2)), magnitude(load(at + 3 * SIDE, n_3))
            sum_0, sum_1, sum_2, sum_3 = sum_0 + value_0, sum_1 + value_1, sum_2 + value_2, sum_3 + value_3
            met_0, met_1 = fma(value_0, other, met_0), fma(value_1, other, met_1)
            met_2, met_3 = fma(value_2, other, met_2), fma(value_3, other, met_3)
            every = every + other
        at = sizes + u
        whole = met(load(at), every, sum_0, most, met_0) + met(load(at + SIDE), every, sum_1, most, met_1)
        whole = whole + met(load(at + 2 * SIDE), every, sum_2, most, met_2)
        whole = whole + met(load(at + 3 * SIDE), every, sum_3, most, met_3)
        if total(whole) != PANEL * SIDE:
            return False
    return True


@inline
def met(size, every, own, most, products):
    """1 in the lanes of columns that are even, 0 in others."""
    return where_at_most(fma(size, every, own * most), products * EVEN, splat(MET, size), splat(ZERO, size))


@inline
def place_of(digits, k):
    """Where the digits of a vector's k to k + 4 begin, in B."""
    return digits + k // STRETCH * BLOCK + k % STRETCH // 4 * TILE_ROW


@kernel
def cut_columns(depth, vectors, left, b, b_row, sizes, factors, to):
    """So many vectors of b (depth, left), each column by its largest number, to digits at the address `to`, as B; and
    what makes numbers of a column's digits.
    """
    each = digit_bytes(depth)
    for v in range(vectors):
        n, column, size = left - v * SIDE, b + v * SIDE, load(sizes + v * SIDE)
        scales = scales_of(where_less(splat(ZERO, b), size, size, splat(ONE, b)), factors + v * SIDE)
        whole = depth // 4 * 4
        for k in range(0, whole, 4):
            at = column + k * b_row
            store_fours(
                load(at, n), load(at + b_row, n), load(at + 2 * b_row, n), load(at + 3 * b_row, n), scales,
                place_of(to + v * each, k),
            )  # fmt: skip
        for k in range(whole, whole_depth(depth), 4):
            at = column + k * b_row
            store_fours(
                load(at, n if k < depth else 0), load(at + b_row, n if k + 1 < depth else 0),
                load(at + 2 * b_row, n if k + 2 < depth else 0), splat(ZERO, b), scales, place_of(to + v * each, k),
            )  # fmt: skip


@kernel
def cut_transposed(depth, columns, a, a_row, sizes, factors, to, scratch):
    """The columns of a (depth, columns) to digits at the address `to`, as rows of A; scratch takes those of 16."""
    tiles, turned, each = pointer(scratch, a), pointer(to, a), digit_bytes(depth) // 4
    for u in range(0, columns, SIDE):
        cut_columns(depth, 1, columns - u, a + u, a_row, sizes + u, factors + u, scratch)
        for tile in range(0, each, TILE // 4):
            transpose(tiles + tile, SIDE, turned + (u // SIDE * each + tile), SIDE)


@kernel
def add_products(rows, vectors, depth, a, a_factors, b, b_factors, c, c_row, sums):
    """c[:rows] += a b, of a in digits by so many vectors of b; `sums` takes those of a tile. Tiles are configured."""
    each = digit_bytes(depth)
    for r in range(0, rows, SIDE):
        for v in range(vectors):
            multiply_digits(each // BLOCK, a + r // SIDE * each, b + v * each, sums)
            scale, to = load(b_factors + v * SIDE), c + (r * c_row + v * SIDE)
            for i in range(min(SIDE, rows - r)):
                store(to + i * c_row, add_sums(sums, i, scale, a_factors[r + i], load(to + i * c_row)))
