"""Gradients of the parameters: products, and sums, over all rows of a chunk of steps, cut by columns between the
threads so that the order of every sum is the same at any thread count.
"""

from __future__ import annotations

from fastlstm.kernels.gemm import BLOCK_ROWS, NEXT, SAME, cut, gemm, pack_strips
from fastlstm.passes.denormalise import pack_denormalised
from fastlstm.passes.frames import ZEROS, Backward
from fastlstm.runtime.jit import inline, kernel, read
from fastlstm.simd.isa import PRODUCT_ROWS
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import fma, lanes, load, pointer, splat, store

PANELS_TO_PACK = 6  # panels of dW in a part from which on packing [x, h] pays


@inline
def vectors_of(columns, first, count, at_once):
    """Vectors that `at_once` panels of four hold from column `first` on."""
    return min(at_once * PANEL, (columns - first + count - 1) // count)


@inline
def panel_count(columns, count):
    """Panels of four vectors that hold so many columns."""
    return (columns + PANEL * count - 1) // (PANEL * count)


@inline
def row_blocks(rows):
    """Blocks of rows of dW that stay in L2 while all of k passes over them."""
    return (rows + BLOCK_ROWS - 1) // BLOCK_ROWS


@inline
def pack_blocks(w, depth, rows, row, out):
    """`pack_strips` for every block of rows of dW."""
    blocks = row_blocks(rows)
    for block in range(blocks):
        r = cut(rows, blocks, block)
        pack_strips(w + r, depth, cut(rows, blocks, block + 1) - r, row, out + r * depth)


@kernel
def accumulate(rows, vectors, depth, w, row, packed, dw, dw_row):
    """dw += w^T packed, where w has rows `row` elements apart or, if that is 0, was packed by `pack_blocks`."""
    blocks = row_blocks(rows)
    for block in range(blocks):
        r = cut(rows, blocks, block)
        a = w + (r * depth if row == 0 else r)
        c = dw + r * dw_row
        gemm(cut(rows, blocks, block + 1) - r, vectors, depth, a, NEXT, row, packed, SAME, c, dw_row, c, dw_row)


@kernel
def pack_panel(source, row, depth, columns, column, packed):
    """Rows of `source` from a column on to [k][vectors], at most four vectors of them."""
    count = lanes(packed)
    width = vectors_of(columns, column, count, 1) * count
    for u in range(0, width, count):
        n = columns - column - u
        for i in range(depth):
            store(packed + (i * width + u), load(source + (i * row + column + u), n))


@kernel
def pack_panel_and_sum(source, row, depth, columns, column, packed, sums):
    """`pack_panel`, and every column's sum added to `sums`."""
    count = lanes(packed)
    width = vectors_of(columns, column, count, 1) * count
    for u in range(0, width, count):
        n = columns - column - u
        total = load(sums + (column + u), n)
        for i in range(depth):
            value = load(source + (i * row + column + u), n)
            store(packed + (i * width + u), value)
            total = total + value
        store(sums + (column + u), total, n)


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
def weight_gradient(v, frame, first, last, row, rows, h, h_row, scratch):
    """dW += [x, h]^T dG and db += sum of dG over so many rows of the tape from `row` on, for the panels first .. last
    of the 4H columns; h holds h of the step before each.
    """
    f = read(frame, Backward)
    count = lanes(scratch)
    packed = scratch + ZEROS * count
    strips = packed + (2 if v.normed else 1) * PRODUCT_ROWS * PANEL * count
    db = pointer(f.db, v)
    for k in range(0, rows, PRODUCT_ROWS):
        depth = min(PRODUCT_ROWS, rows - k)
        dg = pointer(f.gates, v) + (row + k) * 4 * f.H
        x_here, x_row, h_here, h_here_row = pointer(f.x, v) + (row + k) * f.x_row, f.x_row, h + k * h_row, h_row
        if last - first >= PANELS_TO_PACK:
            pack_blocks(x_here, depth, f.I, x_row, strips)
            pack_blocks(h_here, depth, f.P, h_row, strips + f.I * depth)
            x_here, x_row, h_here, h_here_row = strips, SAME, strips + f.I * depth, SAME
        for panel in range(first, last):
            column = panel * PANEL * count
            vectors = vectors_of(4 * f.H, column, count, 1)
            dw = pointer(f.dw, v) + column
            if v.normed:
                packed_hh = packed + PRODUCT_ROWS * PANEL * count
                pack_denormalised(v, frame, row + k, k, depth, column, vectors * count, packed, packed_hh)
            else:
                packed_hh = packed
                pack_panel_and_sum(dg, 4 * f.H, depth, 4 * f.H, column, packed, db)
            accumulate(f.I, vectors, depth, x_here, x_row, packed, dw, f.dw_row)
            accumulate(f.P, vectors, depth, h_here, h_here_row, packed_hh, dw + f.I * f.dw_row, f.dw_row)


@kernel
def special_gradient(v, frame, first, last, row, rows, scratch):
    """The same for the parameters that the plain cell does not have; rows of the workspace of chunks begin with
    `row` of the tape.
    """
    f = read(frame, Backward)
    count = lanes(scratch)
    packed = scratch + ZEROS * count
    H = f.H
    gates, columns = pointer(f.gates, v) + row * 4 * H, 4 * H
    before, after = pointer(f.before, v), pointer(f.after, v)
    start, end = first * PANEL * count, min(last * PANEL * count, columns)
    if v.diagonal:
        for gate in range(PANEL):
            unit, unit_end = max(start - gate * H, 0), min(end - gate * H, H)
            if unit < unit_end:
                c = after if gate == 3 and v.output_new else before
                to = pointer(f.dw_ch, v) + (gate * H + unit)
                sum_products(gates + (gate * H + unit), columns, c + unit, H, rows, unit_end - unit, to)
    if v.full:
        for k in range(0, rows, PRODUCT_ROWS):
            depth = min(PRODUCT_ROWS, rows - k)
            for panel in range(first, last):
                column = panel * PANEL * count
                vectors = vectors_of(columns, column, count, 1)
                pack_panel(gates + k * columns, columns, depth, columns, column, packed)
                accumulate(H, vectors, depth, before + k * H, H, packed, pointer(f.dw_ch, v) + column, f.dw_row)
                if v.output_new:
                    accumulate(H, vectors, depth, after + k * H, H, packed, pointer(f.dw_ch_new, v) + column, f.dw_row)


@kernel
def unit_gradient(v, frame, first, last, rows, scratch):
    """The same for the parameters by units, for the panels first .. last of the H columns."""
    f = read(frame, Backward)
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
def clear(v, frame, first, last):
    """Set dW and db to zero in the panels first .. last of their columns."""
    f = read(frame, Backward)
    count = lanes(v)
    zero = splat(0.0, pointer(f.dw, v))
    for column in range(first * PANEL * count, min(last * PANEL * count, 4 * f.H), count):
        store(pointer(f.db, v) + column, zero, 4 * f.H - column)
        for row in range(f.I + f.P):
            store(pointer(f.dw, v) + (row * f.dw_row + column), zero)


@kernel
def unpack(v, frame, first, last):
    """Write the panels first .. last of the transposed dW into dw_ih (4H, I) and dw_hh (4H, P)."""
    f = read(frame, Backward)
    count = lanes(v)
    dw = pointer(f.dw, v)
    end = min(last * PANEL * count, 4 * f.H)
    for row in range(0, f.I + f.P, count):  # squares that stay in L1
        for column in range(first * PANEL * count, end):
            for r in range(row, min(row + count, f.I + f.P)):
                value = dw[r * f.dw_row + column]
                if r < f.I:
                    pointer(f.dw_ih, v)[column * f.I + r] = value
                else:
                    pointer(f.dw_hh, v)[column * f.P + r - f.I] = value
