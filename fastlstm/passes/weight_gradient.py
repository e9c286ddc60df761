"""Gradients of the parameters: products, and sums, over all rows of a chunk of steps, cut by columns between the
threads so that the order of every sum is the same at any thread count.
"""

from __future__ import annotations

from fastlstm.kernels.gemm import vectors_of
from fastlstm.passes.denormalise import gain_gradient
from fastlstm.passes.frames import ZEROS
from fastlstm.passes.products import accumulate, pack_panel, products
from fastlstm.runtime.jit import kernel
from fastlstm.simd.isa import PRODUCT_ROWS
from fastlstm.simd.tile import PANEL
from fastlstm.simd.transpose import transpose
from fastlstm.simd.vector import fma, lanes, load, pointer, splat, store

SQUARES = 4  # squares of a vector's lanes side by side that dW is turned over by


@kernel
def sum_products(a, a_row, b, b_row, depth, columns, sums):
    """Every column's sum of a * b added to `sums`."""
    for u in range(0, columns, lanes(a)):
        n = columns - u
        total = load(sums + u, n)
        for i in range(depth):
            total = fma(load(a + (i * a_row + u), n), load(b + (i * b_row + u), n), total)
        store(sums + u, total, n)


@kernel
def weight_gradient(v, f, first, last, dg, row, rows, h, h_row, digits, scratch):
    """dW += [x, h]^T dG and db += sum of dG over so many rows, of which the first is `row` of the tape, for the panels
    first .. last of the 4H columns; h holds h of the step before each. Normalised, the rows are a chunk's, and dG is
    another for x than for h. Whether digits, where they were tried, do for the next rows too.
    """
    for k in range(0, rows, f.product_rows):
        depth, here, at = min(f.product_rows, rows - k), h + k * h_row, k * f.dg_row
        if v.normed:
            gain_gradient(v, f, first, last, pointer(f.dz, v) + at, row + k, depth)
            du = pointer(f.du, v) + at
            digits = products(v, f, first, last, du, row + k, depth, here, h_row, 0, f.I, digits, scratch)
            digits = products(v, f, first, last, dg + at, row + k, depth, here, h_row, f.I, f.I + f.P, digits, scratch)
        else:
            digits = products(v, f, first, last, dg + at, row + k, depth, here, h_row, 0, f.I + f.P, digits, scratch)
    return digits


@kernel
def special_gradient(v, f, first, last, dz, rows, scratch):
    """The same for the parameters that the plain cell does not have, of a chunk's rows."""
    count = lanes(scratch)
    packed = scratch + ZEROS * count
    H, columns = f.H, 4 * f.H
    before, after = pointer(f.before, v), pointer(f.after, v)
    start, end = first * PANEL * count, min(last * PANEL * count, columns)
    if v.diagonal:
        for gate in range(PANEL):
            unit, unit_end = max(start - gate * H, 0), min(end - gate * H, H)
            if unit < unit_end:
                c = after if gate == 3 and v.output_new else before
                to = pointer(f.dw_ch, v) + (gate * H + unit)
                sum_products(dz + (gate * H + unit), f.dg_row, c + unit, H, rows, unit_end - unit, to)
    if v.full:
        for k in range(0, rows, PRODUCT_ROWS):
            depth = min(PRODUCT_ROWS, rows - k)
            for panel in range(first, last):
                column = panel * PANEL * count
                vectors = vectors_of(columns, column, count, 1)
                pack_panel(dz + k * f.dg_row, f.dg_row, depth, columns, column, packed)
                accumulate(H, vectors, depth, before + k * H, H, packed, pointer(f.dw_ch, v) + column, f.dw_row)
                if v.output_new:
                    accumulate(H, vectors, depth, after + k * H, H, packed, pointer(f.dw_ch_new, v) + column, f.dw_row)


@kernel
def unit_gradient(v, f, first, last, rows, scratch):
    """The same for the parameters by units, for the panels first .. last of the H columns."""
    count = lanes(scratch)
    packed = scratch + ZEROS * count
    H, unit = f.H, first * PANEL * count
    n = min(last * PANEL * count, H) - unit
    if v.normed and n > 0:
        dn, units = pointer(f.dn, v) + unit, pointer(f.units_c, v) + unit
        dgain, dshift = pointer(f.dgain_c, v) + unit, pointer(f.dshift_c, v) + unit
        for u in range(0, n, count):
            product, total = load(dgain + u, n - u), load(dshift + u, n - u)
            for i in range(rows):
                d = load(dn + (i * H + u), n - u)
                product, total = fma(d, load(units + (i * H + u), n - u), product), total + d
            store(dgain + u, product, n - u)
            store(dshift + u, total, n - u)
    if v.projected:
        for k in range(0, rows, PRODUCT_ROWS):
            depth = min(PRODUCT_ROWS, rows - k)
            for panel in range(first, last):
                column = panel * PANEL * count
                pack_panel(pointer(f.r, v) + k * H, H, depth, H, column, packed)
                vectors = vectors_of(H, column, count, 1)
                dh = pointer(f.dh, v) + k * f.h_row
                accumulate(f.P, vectors, depth, dh, f.h_row, packed, pointer(f.dw_hr, v) + column, f.dw_hr_row)


@kernel
def clear(v, f, first, last):
    """Set dW and db to zero in the panels first .. last of their columns."""
    count = lanes(v)
    zero = splat(0.0, pointer(f.dw, v))
    columns = range(first * PANEL * count, min(last * PANEL * count, 4 * f.H), count)
    for column in columns:
        store(pointer(f.db, v) + column, zero, 4 * f.H - column)
    for row in range(f.I + f.P):
        for column in columns:
            store(pointer(f.dw, v) + (row * f.dw_row + column), zero)


@kernel
def turn(dw, dw_row, rows, first, end, out):
    """The columns first .. end of dw, of so many rows, as rows of `out`, `rows` elements apart."""
    count = lanes(dw)
    for row in range(0, rows, SQUARES * count):  # the lines of a row of out follow one another
        for column in range(first, end, count):
            for r in range(row, min(row + SQUARES * count, rows), count):
                if r + count <= rows and column + count <= end:
                    transpose(dw + (r * dw_row + column), dw_row, out + (column * rows + r), rows)
                else:
                    for c in range(column, min(column + count, end)):
                        for k in range(r, min(r + count, rows)):
                            out[c * rows + k] = dw[k * dw_row + c]


@kernel
def unpack(v, f, first, last):
    """Write the panels first .. last of the transposed dW into dw_ih (4H, I) and dw_hh (4H, P)."""
    column, end = first * PANEL * lanes(v), min(last * PANEL * lanes(v), 4 * f.H)
    dw = pointer(f.dw, v)
    turn(dw, f.dw_row, f.I, column, end, pointer(f.dw_ih, v))
    turn(dw + f.I * f.dw_row, f.dw_row, f.P, column, end, pointer(f.dw_hh, v))
