"""Small kernels over the library's vectors, so that a test can call them with NumPy arrays."""

from __future__ import annotations

import numba
import numpy as np

from fastlstm.kernels.column_digits import TOO_LARGE, add_products, cut_columns, cut_transposed, even, measure
from fastlstm.kernels.digits import add_product, configure_digits, pack_columns, pack_digits, panel_of, split_rows
from fastlstm.kernels.gemm import gemm
from fastlstm.kernels.pack import pack_gates
from fastlstm.kernels.pieces import matrix_gemm, split_columns, split_transposed
from fastlstm.runtime.linking import WHOLE
from fastlstm.simd.amx import release
from fastlstm.simd.atomic import flush_denormals, restore_mode
from fastlstm.simd.exact import exact_tile, to_planes
from fastlstm.simd.math import sigmoid_below, tanh_ratio
from fastlstm.simd.tile import PANEL, lying_tile, tile
from fastlstm.simd.vector import copysign, fma, lanes, load, magnitude, pointer, splat, store, where_less

LIKE = {
    "float32": np.zeros(0, np.float32),
    "float64": np.zeros(0, np.float64),
}  # the first argument of each kernel: it has the dtype
compiled = numba.njit(**WHOLE)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


@compiled
def copy_lanes(v, source, target, n_load, n_store):
    """One vector: the first lanes loaded, the first lanes stored."""
    store(pointer(target, v), load(pointer(source, v), n_load), n_store)


@compiled
def copy_vector(v, source, target):
    store(pointer(target, v), load(pointer(source, v)))


@compiled
def arithmetic(v, a, b, c, out):
    """One row of `out` for each operation of three vectors."""
    count = lanes(v)
    x, y, z, to = load(pointer(a, v)), load(pointer(b, v)), load(pointer(c, v)), pointer(out, v)
    store(to, x + y)
    store(to + count, x - y)
    store(to + 2 * count, x * y)
    store(to + 3 * count, x / y)
    store(to + 4 * count, -x)
    store(to + 5 * count, fma(x, y, z))
    store(to + 6 * count, where_less(x, y, z, x))
    store(to + 7 * count, magnitude(x))
    store(to + 8 * count, copysign(x, y))
    store(to + 9 * count, splat(1.5, x))
    store(to + 10 * count, 2.0 - x)
    store(to + 11 * count, fma(x, 0.5, z))


@compiled
def tanh_into(v, x, above, below, n):
    """Numerator and denominator of tanh, element by element."""
    for k in range(0, n, lanes(v)):
        p, q = tanh_ratio(load(pointer(x, v) + k, n - k))
        store(pointer(above, v) + k, p, n - k)
        store(pointer(below, v) + k, q, n - k)


@compiled
def sigmoid_into(v, x, below, n):
    """What the sigmoid is one over."""
    for k in range(0, n, lanes(v)):
        store(pointer(below, v) + k, sigmoid_below(load(pointer(x, v) + k, n - k)), n - k)


@compiled
def run_stored_tile(v, stored, rows, vectors, depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row):
    """The tile, with a B that is stored as the elements of the array `stored`."""
    to = pointer(b, stored)
    tile(
        rows,
        vectors,
        depth,
        pointer(a, v),
        a_row,
        a_step,
        to,
        b_panel,
        pointer(start, v),
        start_row,
        pointer(c, v),
        c_row,
        to,
    )


@compiled
def run_tile(v, rows, vectors, depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row):
    run_stored_tile(v, v, rows, vectors, depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row)


@compiled
def run_exact_tile(v, stored, rows, vectors, depth, h, planes, plane, b, b_panel, start, scales, add, c):
    """h (rows, depth) to planes, and their products with b; whether all of h was small enough."""
    fits, row = True, vectors * lanes(v)
    for r in range(rows):
        for k in range(0, depth, lanes(v)):
            here = load(pointer(h, v) + (r * depth + k), depth - k)
            if not to_planes(here, pointer(planes, stored) + (3 * r * plane + k), plane):
                fits = False
    exact_tile(
        rows,
        vectors,
        (depth + 3) // 4,
        pointer(planes, stored),
        3 * plane,
        plane,
        pointer(b, stored),
        b_panel,
        pointer(start, v),
        pointer(scales, v),
        pointer(add, v),
        row,
        pointer(c, v),
        row,
    )
    return fits


@compiled
def run_lying_tile(v, rows, vectors, depth, a, a_row, a_step, b, b_row, start, start_row, c, c_row):
    to = pointer(c, v)
    lying_tile(
        rows,
        vectors,
        depth,
        pointer(a, v),
        a_row,
        a_step,
        pointer(b, v),
        b_row,
        pointer(start, v),
        start_row,
        to,
        c_row,
    )


@compiled
def run_gemm(v, rows, vectors, depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row):
    gemm(
        rows,
        vectors,
        depth,
        pointer(a, v),
        a_row,
        a_step,
        pointer(b, v),
        b_panel,
        pointer(start, v),
        start_row,
        pointer(c, v),
        c_row,
    )


@compiled
def run_pieces(v, rows, vectors, depth, a, a_row, b, start, c, c_row, a_pieces, b_pieces, scratch):
    """C = start + A B in the matrix unit, `a` being A transposed, and B one panel; whether both could be split."""
    columns = vectors * lanes(v)
    mode = flush_denormals()
    fits = split_transposed(rows, depth, pointer(a, v), a_row, a_pieces, scratch)
    fits = split_columns(depth, vectors, columns, pointer(b, v), columns, b_pieces) and fits
    matrix_gemm(rows, vectors, depth, a_pieces, b_pieces, pointer(start, v), columns, pointer(c, v), c_row)
    release()
    restore_mode(mode)
    return fits


@compiled
def run_column_digits(
    v, rows, vectors, depth, a, a_row, b, b_row, left, c, c_row, sizes, others, factors, sums, a_digits, b_digits, tile
):
    """C += A^T B of A (depth, rows) and B (depth, left) in whole numbers; -1, and nothing done, where numbers are too
    large, else 1 if A is even beside B, and 2 more if B is beside A.
    """
    a, b, sizes, others, sums = pointer(a, v), pointer(b, v), pointer(sizes, v), pointer(others, v), pointer(sums, v)
    b_sizes, b_others = sizes + (rows + 4 * lanes(v)), others + depth
    factors = pointer(factors, v)
    b_factors = factors + (rows + lanes(v))
    mode = flush_denormals()
    of_a = measure(depth, rows, a, a_row, sizes, others, sums)
    of_b = measure(depth, left, b, b_row, b_sizes, b_others, sums)
    found = -1
    if min(of_a, of_b) != TOO_LARGE:
        found = 1 if even(depth, rows, a, a_row, sizes, b_others, of_b) else 0
        if even(depth, left, b, b_row, b_sizes, others, of_a):
            found += 2
        cut_transposed(depth, rows, a, a_row, sizes, factors, a_digits, tile)
        cut_columns(depth, vectors, left, b, b_row, b_sizes, b_factors, b_digits)
        configure_digits(lanes(v))
        add_products(rows, vectors, depth, a_digits, factors, b_digits, b_factors, pointer(c, v), c_row, tile)
        release()
    restore_mode(mode)
    return found


@compiled
def run_digits(
    v, rows, depth, hidden, a, a_row, w, start, start_row, c, c_row, a_digits, factors, b, b_digits, scratch, sums
):
    """The product of A (rows, depth) with the transpose of w (4H, depth) in whole numbers, all panels side by side."""
    a, w, b = pointer(a, v), pointer(w, v), pointer(b, v)
    width = 4 * lanes(v)
    mode = flush_denormals()
    pack_gates(w, hidden, depth, b, 0, depth)
    pack_digits(w, hidden, depth, b_digits, scratch)
    split_rows(rows, depth, a, a_row, pointer(b_digits, v), a_digits, pointer(factors, v))
    configure_digits(min(rows, lanes(v)))
    for panel in range((hidden + lanes(v) - 1) // lanes(v)):
        add_product(
            rows, PANEL, depth, a, a_row, a_digits, pointer(factors, v), b + panel * depth * width,
            panel_of(b_digits, depth, panel), pointer(start, v) + panel * width, start_row,
            pointer(c, v) + panel * width, c_row, sums,
        )  # fmt: skip
    release()
    restore_mode(mode)


@compiled
def run_columns(
    v, rows, depth, columns, a, a_row, b, start, start_row, c, c_row, a_digits, factors, b_digits, scratch, sums
):
    """The product of A (rows, depth) with packed columns in whole numbers, all panels side by side."""
    a, b = pointer(a, v), pointer(b, v)
    width = 4 * lanes(v)
    mode = flush_denormals()
    pack_columns(b, depth, columns, b_digits, scratch)
    split_rows(rows, depth, a, a_row, pointer(b_digits, v), a_digits, pointer(factors, v))
    configure_digits(min(rows, lanes(v)))
    for column in range(0, columns, width):
        add_product(
            rows, min(width, columns - column) // lanes(v), depth, a, a_row, a_digits, pointer(factors, v),
            b + column * depth, panel_of(b_digits, depth, column // width), pointer(start, v) + column, start_row,
            pointer(c, v) + column, c_row, sums,
        )  # fmt: skip
    release()
    restore_mode(mode)
