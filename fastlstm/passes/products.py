"""The products of which dW consists, A^T B of rows of the tape: in vector registers, and in the matrix unit in digits
or, where these would lose small numbers beside large ones, in pieces.

Which way is taken depends on a product's numbers alone, not on who computes it: that is decided for all columns of a
group of [x, h], then for each panel of dG.
"""

from __future__ import annotations

from fastlstm.kernels.column_digits import (
    TOO_LARGE,
    add_products,
    cut_columns,
    cut_transposed,
    even,
    measure,
)
from fastlstm.kernels.digits import SUMS, configure_digits, digit_bytes
from fastlstm.kernels.gemm import BLOCK_ROWS, NEXT, SAME, cut, gemm, pack_strips, vectors_of
from fastlstm.kernels.pieces import matrix_gemm, row_bytes, split_columns, split_transposed
from fastlstm.passes.frames import ZEROS, room_of
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.isa import PRODUCT_COLUMNS, PRODUCT_ROWS, SIDE
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import address, lanes, load, pointer, store

PANELS_TO_PACK = 6  # panels of dW in a part from which on packing [x, h] pays


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
    """Every column's sum added to `sums`: four vectors side by side, whose sums do not wait for each other."""
    count = lanes(source)
    for u in range(0, columns, PANEL * count):
        from_, to = source + u, sums + u
        n_0, n_1, n_2, n_3 = columns - u, columns - u - count, columns - u - 2 * count, columns - u - 3 * count
        total_0, total_1 = load(to, n_0), load(to + count, n_1)
        total_2, total_3 = load(to + 2 * count, n_2), load(to + 3 * count, n_3)
        for i in range(rows):
            at = from_ + i * row
            total_0, total_1 = total_0 + load(at, n_0), total_1 + load(at + count, n_1)
            total_2, total_3 = total_2 + load(at + 2 * count, n_2), total_3 + load(at + 3 * count, n_3)
        store(to, total_0, n_0)
        store(to + count, total_1, n_1)
        store(to + 2 * count, total_2, n_2)
        store(to + 3 * count, total_3, n_3)


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
    packed = scratch
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
            pack_panel_and_sum(dg, f.dg_row, depth, columns, column, packed, pointer(f.db, v))
        else:
            pack_panel(dg, f.dg_row, depth, columns, column, packed)
        dw = pointer(f.dw, v) + (begin * f.dw_row + column)
        accumulate(x_columns, vectors, depth, x, x_row, packed, dw, f.dw_row)
        accumulate(h_columns, vectors, depth, h, h_row, packed, dw + x_columns * f.dw_row, f.dw_row)


@kernel
def product_in_pieces(v, f, first, last, dg, row, depth, h, h_row, begin, end, scratch):
    """The same in the matrix unit, in pieces; in registers what cannot be split."""
    count, columns = lanes(scratch), 4 * f.H
    pieces = address(scratch + PRODUCT_ROWS * PANEL * count)
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
        if not split_columns(depth, vectors, columns - column, dg + column, f.dg_row, pieces):
            product(v, f, panel, panel + 1, dg, row, depth, h, h_row, begin, end, scratch)
            continue
        if sums_here(v, begin):
            add_rows(dg + column, f.dg_row, depth, min(columns - column, vectors * count), pointer(f.db, v) + column)
        dw = pointer(f.dw, v) + (begin * f.dw_row + column)
        matrix_gemm(x_columns, vectors, depth, x_strips, pieces, dw, f.dw_row, dw, f.dw_row)
        dw = dw + x_columns * f.dw_row
        matrix_gemm(h_columns, vectors, depth, h_strips, pieces, dw, f.dw_row, dw, f.dw_row)


@kernel
def products_in_pieces(v, f, first, last, dg, row, depth, h, h_row, begin, end, scratch):
    """`product_in_pieces` by so many rows as it has room for."""
    for k in range(0, depth, PRODUCT_ROWS):
        from_, here = dg + k * f.dg_row, h + k * h_row
        rows = min(PRODUCT_ROWS, depth - k)
        product_in_pieces(v, f, first, last, from_, row + k, rows, here, h_row, begin, end, scratch)


compiled_room_of = inline(room_of)


@inline
def room(f, scratch):
    """What lies behind the zeros of a part's scratch."""
    return compiled_room_of(f.H, f.product_rows, scratch + ZEROS * SIDE)


@kernel
def product_in_digits(v, f, first, last, dg, dg_sizes, row, depth, h, h_row, begin, end, scratch):
    """The same in digits, in pieces the panels that these do not do for; False, and nothing done, if they do not do for
    [x, h]. The `Room` has what was measured of dG.
    """
    m, columns, width, each = room(f, scratch), 4 * f.H, PANEL * SIDE, digit_bytes(depth)
    x_columns, h_columns, x, from_h = inputs(v, f, row, h, begin, end)
    x_sizes = measure(depth, x_columns, x, f.x_row, m.x_sizes, m.x_rows, m.sums)
    h_sizes = measure(depth, h_columns, from_h, h_row, m.h_sizes, m.h_rows, m.sums)
    if (
        min(x_sizes, h_sizes) == TOO_LARGE
        or not even(depth, x_columns, x, f.x_row, m.x_sizes, m.dg_rows, dg_sizes)
        or not even(depth, h_columns, from_h, h_row, m.h_sizes, m.dg_rows, dg_sizes)
    ):
        return False
    sums = address(m.rest)
    panel_digits = sums + SUMS
    tile = panel_digits + PANEL * each
    x_digits = tile + each
    h_digits = x_digits + (x_columns + SIDE - 1) // SIDE * each
    cut_transposed(depth, x_columns, x, f.x_row, m.x_sizes, m.x_factors, x_digits, tile)
    cut_transposed(depth, h_columns, from_h, h_row, m.h_sizes, m.h_factors, h_digits, tile)
    configure_digits(SIDE)
    for panel in range(first, last):
        column = panel * width
        here, sizes, n = dg + column, m.sizes + column, min(width, columns - column)
        vectors = vectors_of(columns, column, SIDE, 1)
        fits = even(depth, n, here, f.dg_row, sizes, m.x_rows, x_sizes)
        fits = fits and even(depth, n, here, f.dg_row, sizes, m.h_rows, h_sizes)
        m.fits[panel] = 1.0 if fits else 0.0
        if fits:
            cut_columns(depth, vectors, n, here, f.dg_row, sizes, m.factors, panel_digits)
            if sums_here(v, begin):
                add_rows(here, f.dg_row, depth, n, pointer(f.db, v) + column)
            dw = pointer(f.dw, v) + (begin * f.dw_row + column)
            add_products(x_columns, vectors, depth, x_digits, m.x_factors, panel_digits, m.factors, dw, f.dw_row, sums)
            dw = dw + x_columns * f.dw_row
            add_products(h_columns, vectors, depth, h_digits, m.h_factors, panel_digits, m.factors, dw, f.dw_row, sums)
    panel = first
    while panel < last:
        stop = panel
        while stop < last and m.fits[stop] == 0.0:
            stop += 1
        if stop > panel:
            products_in_pieces(v, f, panel, stop, dg, row, depth, h, h_row, begin, end, m.rest)
        panel = stop + 1
    return True


@kernel
def products(v, f, first, last, dg, row, depth, h, h_row, begin, end, digits, scratch):
    """`product` by groups of columns of [x, h], whose strips stay in L2 while all panels pass over them: above H = 256
    all of them do not, and would come from L3 for each panel. Digits are tried where they did before; whether they do.
    """
    groups, columns, dg_sizes = (end - begin + PRODUCT_COLUMNS - 1) // PRODUCT_COLUMNS, 4 * f.H, TOO_LARGE
    if v.amx and f.in_unit != 0:
        m = room(f, scratch)
        if digits:
            dg_sizes = measure(depth, columns, dg, f.dg_row, m.sizes, m.dg_rows, m.sums)
        digits = dg_sizes != TOO_LARGE
    for group in range(groups):
        from_, to = begin + cut(end - begin, groups, group), begin + cut(end - begin, groups, group + 1)
        if v.amx and f.in_unit != 0:
            if digits:
                digits = product_in_digits(
                    v, f, first, last, dg, dg_sizes, row, depth, h, h_row, from_, to, scratch
                )  # fmt: skip
            if not digits:
                products_in_pieces(v, f, first, last, dg, row, depth, h, h_row, from_, to, m.rest)
        else:
            product(v, f, first, last, dg, row, depth, h, h_row, from_, to, scratch + ZEROS * lanes(scratch))
    return digits
