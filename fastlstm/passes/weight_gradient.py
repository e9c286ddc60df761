"""Gradients of the parameters: products, and sums, over all rows of a chunk of steps, cut by columns between the
threads so that the order of every sum is the same at any thread count.
"""

from __future__ import annotations

from fastlstm.kernels.gemm import BLOCK_ROWS, NEXT, SAME, cut, gemm, pack_strips
from fastlstm.kernels.pieces import matrix_gemm, row_bytes, split_columns, split_transposed
from fastlstm.passes.denormalise import gain_gradient
from fastlstm.passes.frames import ZEROS
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.isa import PRODUCT_COLUMNS, PRODUCT_ROWS, SIDE
from fastlstm.simd.tile import PANEL
from fastlstm.simd.transpose import transpose
from fastlstm.simd.vector import address, fma, lanes, load, pointer, splat, store

PANELS_TO_PACK = 6  # panels of dW in a part from which on packing [x, h] pays
SQUARES = 4  # squares of a vector's lanes side by side that dW is turned over by


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
    n = columns - column
    width = vectors_of(columns, column, count, 1) * count
    for i in range(depth):
        for u in range(0, width, count):
            store(packed + (i * width + u), load(source + (i * row + column + u), n - u))


@kernel
def add_rows(source, row, rows, columns, sums):
    """Every column's sum added to `sums`."""
    for u in range(0, columns, lanes(source)):
        total = load(sums + u, columns - u)
        for i in range(rows):
            total = total + load(source + (i * row + u), columns - u)
        store(sums + u, total, columns - u)


@kernel
def pack_whole_panel(source, row, depth, packed, sums):
    """`pack_panel` for four whole vectors, and every column's sum added to `sums`."""
    count = lanes(packed)
    total_0, total_1, total_2, total_3 = load(sums), load(sums + count), load(sums + 2 * count), load(sums + 3 * count)
    for i in range(depth):
        from_, to = source + i * row, packed + i * PANEL * count
        value_0, value_1 = load(from_), load(from_ + count)
        value_2, value_3 = load(from_ + 2 * count), load(from_ + 3 * count)
        store(to, value_0)
        store(to + count, value_1)
        store(to + 2 * count, value_2)
        store(to + 3 * count, value_3)
        total_0, total_1, total_2, total_3 = total_0 + value_0, total_1 + value_1, total_2 + value_2, total_3 + value_3
    store(sums, total_0)
    store(sums + count, total_1)
    store(sums + 2 * count, total_2)
    store(sums + 3 * count, total_3)


@kernel
def pack_panel_and_sum(source, row, depth, columns, column, packed, sums):
    """`pack_panel`, and every column's sum added to `sums`."""
    count = lanes(packed)
    n = columns - column
    if n >= PANEL * count:
        pack_whole_panel(source + column, row, depth, packed, sums + column)
    else:
        pack_panel(source, row, depth, columns, column, packed)
        add_rows(packed, vectors_of(columns, column, count, 1) * count, depth, n, sums + column)


@kernel
def sum_products(a, a_row, b, b_row, depth, columns, sums):
    """Every column's sum of a * b added to `sums`."""
    for u in range(0, columns, lanes(a)):
        n = columns - u
        total = load(sums + u, n)
        for i in range(depth):
            total = fma(load(a + (i * a_row + u), n), load(b + (i * b_row + u), n), total)
        store(sums + u, total, n)


@inline
def inputs(v, f, row, h, begin, end):
    """The columns begin .. end of [x, h]: how many there are of x and of h, and the first ones, x's in a row of the
    tape.
    """
    x_columns = max(min(end, f.I) - begin, 0)
    x = pointer(f.x, v) + (row * f.x_row + begin)
    return x_columns, end - begin - x_columns, x, h + max(begin - f.I, 0)


@inline
def sums_here(v, begin):
    """Whether a product's dG is added to db: with the first columns of [x, h]; normalised, `gain_gradient` does it."""
    return begin == 0 and not v.normed


@kernel
def product(v, f, first, last, dg, row, depth, h, h_row, begin, end, scratch):
    """The rows begin .. end of dW += [x, h]^T dG, in the panels first .. last of the 4H columns, for `depth` rows, of x
    from `row` of the tape on.
    """
    count, columns = lanes(scratch), 4 * f.H
    packed = scratch + ZEROS * count
    strips = packed + PRODUCT_ROWS * PANEL * count
    x_columns, h_columns, x, h = inputs(v, f, row, h, begin, end)
    x_row = f.x_row
    if last - first >= PANELS_TO_PACK:
        pack_blocks(x, depth, x_columns, x_row, strips)
        pack_blocks(h, depth, h_columns, h_row, strips + x_columns * depth)
        x, x_row, h, h_row = strips, SAME, strips + x_columns * depth, SAME
    for panel in range(first, last):
        column = panel * PANEL * count
        vectors = vectors_of(columns, column, count, 1)
        if sums_here(v, begin):
            pack_panel_and_sum(dg, columns, depth, columns, column, packed, pointer(f.db, v))
        else:
            pack_panel(dg, columns, depth, columns, column, packed)
        dw = pointer(f.dw, v) + (begin * f.dw_row + column)
        accumulate(x_columns, vectors, depth, x, x_row, packed, dw, f.dw_row)
        accumulate(h_columns, vectors, depth, h, h_row, packed, dw + x_columns * f.dw_row, f.dw_row)


@kernel
def product_in_pieces(v, f, first, last, dg, row, depth, h, h_row, begin, end, scratch):
    """The same in the matrix unit; in registers what cannot be split."""
    count, columns = lanes(scratch), 4 * f.H
    pieces = address(scratch + (ZEROS + PRODUCT_ROWS * PANEL) * count)
    tile = pieces + PANEL * row_bytes(PRODUCT_ROWS)
    x_columns, h_columns, x, from_h = inputs(v, f, row, h, begin, end)
    x_strips = tile + row_bytes(1)
    h_strips = x_strips + (x_columns + SIDE - 1) // SIDE * row_bytes(depth)
    x_fits = split_transposed(x_columns, depth, x, f.x_row, x_strips, tile)
    h_fits = split_transposed(h_columns, depth, from_h, h_row, h_strips, tile)
    if not (x_fits and h_fits):
        product(v, f, first, last, dg, row, depth, h, h_row, begin, end, scratch)
        return
    for panel in range(first, last):
        column = panel * PANEL * count
        vectors = vectors_of(columns, column, count, 1)
        if not split_columns(depth, vectors, columns - column, dg + column, columns, pieces):
            product(v, f, panel, panel + 1, dg, row, depth, h, h_row, begin, end, scratch)
            continue
        if sums_here(v, begin):
            add_rows(dg + column, columns, depth, min(columns - column, vectors * count), pointer(f.db, v) + column)
        dw = pointer(f.dw, v) + (begin * f.dw_row + column)
        matrix_gemm(x_columns, vectors, depth, x_strips, pieces, dw, f.dw_row, dw, f.dw_row)
        dw = dw + x_columns * f.dw_row
        matrix_gemm(h_columns, vectors, depth, h_strips, pieces, dw, f.dw_row, dw, f.dw_row)


@kernel
def products(v, f, first, last, dg, row, depth, h, h_row, begin, end, scratch):
    """`product` by groups of columns of [x, h], whose strips stay in L2 while all panels pass over them: above H = 256
    all of them do not, and would come from L3 for each panel.
    """
    groups = (end - begin + PRODUCT_COLUMNS - 1) // PRODUCT_COLUMNS
    for group in range(groups):
        from_, to = begin + cut(end - begin, groups, group), begin + cut(end - begin, groups, group + 1)
        if v.amx and f.in_pieces != 0:
            product_in_pieces(v, f, first, last, dg, row, depth, h, h_row, from_, to, scratch)
        else:
            product(v, f, first, last, dg, row, depth, h, h_row, from_, to, scratch)


@kernel
def weight_gradient(v, f, first, last, row, rows, h, h_row, scratch):
    """dW += [x, h]^T dG and db += sum of dG over so many rows of the tape from `row` on, for the panels first .. last
    of the 4H columns; h holds h of the step before each. Normalised, the rows are a chunk's, and dG is another for x
    than for h.
    """
    for k in range(0, rows, PRODUCT_ROWS):
        depth, here, at = min(PRODUCT_ROWS, rows - k), h + k * h_row, k * 4 * f.H
        if v.normed:
            gain_gradient(v, f, first, last, row + k, depth)
            du, dv = pointer(f.du, v) + at, pointer(f.dv, v) + at
            products(v, f, first, last, du, row + k, depth, here, h_row, 0, f.I, scratch)
            products(v, f, first, last, dv, row + k, depth, here, h_row, f.I, f.I + f.P, scratch)
        else:
            dg = pointer(f.gates, v) + (row * 4 * f.H + at)
            products(v, f, first, last, dg, row + k, depth, here, h_row, 0, f.I + f.P, scratch)


@kernel
def special_gradient(v, f, first, last, row, rows, scratch):
    """The same for the parameters that the plain cell does not have; rows of the workspace of chunks begin with
    `row` of the tape.
    """
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
