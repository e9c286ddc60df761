"""W x and R h of a step, and backward dG by both matrices, in whole numbers, where the processor has a matrix unit for
bytes (`kernels.digits`): rows are cut into digits once, for all panels.
"""

from __future__ import annotations

from typing import NamedTuple

from fastlstm.kernels.digits import (
    NOTHING,
    SUMS,
    add_product,
    all_hold,
    configure_digits,
    digit_bytes,
    end_rows,
    pack_digits,
    panel_of,
    row_of,
    split_row,
    split_rows,
)
from fastlstm.kernels.gemm import SAME, panels_gemm
from fastlstm.passes.rows import at, copy
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.atomic import flush_denormals, restore_mode
from fastlstm.simd.isa import SIDE, TILE_ROW
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import address, lanes, pointer


class Factors(NamedTuple):
    """A product with one of the two matrices, of a block of rows."""

    depth: int
    before: int  # steps of k of a panel in registers that come before
    packed: int  # the matrix in digits
    digits: int  # addresses in the scratch of a part: the rows in digits,
    factors: int  # a factor for each of them,
    sums: int  # and the sums of a panel


@inline
def whole_lines(size):
    """So many bytes, or an address, rounded up to whole lines."""
    return (size + TILE_ROW - 1) // TILE_ROW * TILE_ROW


@inline
def placed(depth, before, packed, rows, sums, at):
    """A product whose factors, then digits, of so many rows begin at an address."""
    return Factors(depth, before, packed, at + whole_lines(4 * rows), at, sums)


@inline
def end_of(p, rows):
    """Where the digits of so many rows end."""
    return p.digits + (rows + SIDE - 1) // SIDE * digit_bytes(p.depth)


@inline
def of_h(f, rows, scratch):
    """R h of so many rows."""
    sums = whole_lines(address(scratch + f.split))
    return placed(f.P, f.I, f.digits_hh, rows, sums, sums + SUMS)


@inline
def of_x(f, rows, scratch):
    """W x of so many rows; its scratch follows that of h."""
    h = of_h(f, rows, scratch)
    return placed(f.I, SAME, f.digits_ih, rows, h.sums, end_of(h, rows))


@inline
def of_dg(f, packed, rows, room):
    """dG of so many rows by one of the matrices, packed for the backward pass; its scratch begins at `room`."""
    sums = whole_lines(address(room))
    return placed(4 * f.H, SAME, packed, rows, sums, sums + SUMS)


@kernel
def split(p, rows, a, a_row):
    """Cut rows into digits, before any panel is multiplied with them."""
    split_rows(rows, p.depth, a, a_row, pointer(p.packed, a), p.digits, pointer(p.factors, a))
    configure_digits(min(rows, SIDE))


@kernel
def add(v, f, p, rows, panel, panels, a, a_row, start, start_row, start_panel, z, z_row):
    """z = start + a b for some panels; `start_panel` is the distance between their starts."""
    width = PANEL * lanes(z)
    for k in range(panels):
        weights = pointer(f.weights, v) + ((panel + k) * (f.I + f.P) + p.before) * width
        add_product(
            rows, PANEL, p.depth, a, a_row, p.digits, pointer(p.factors, z), weights,
            panel_of(p.packed, p.depth, panel + k), start + k * start_panel, start_row, z + k * width, z_row, p.sums,
        )  # fmt: skip


@kernel
def multiply_dg(p, rows, vectors, panel, dg, dg_row, w, zeros, z, z_row):
    """z = dG by so many vectors of a panel; of rows that were split before, w being the panel in registers' order."""
    add_product(
        rows, vectors, p.depth, dg, dg_row, p.digits, pointer(p.factors, z), w, panel_of(p.packed, p.depth, panel),
        zeros, SAME, z, z_row, p.sums,
    )  # fmt: skip


@kernel
def wants_x(v, f, panels):
    """Whether x of a step is to stand before its h, for registers: not if digits are cut where the caller has it."""
    if f.chunk > 0:
        return False
    if v.amx and f.digits_ih != 0:
        return not all_hold(f.digits_ih, f.I, panels)
    return True


@kernel
def split_x(v, f, lot, row, rows, t, h, p):
    """Cut x_t of a block of rows into digits, where the caller has them; registers find those that cannot be split
    before their h.
    """
    scales, factors = pointer(p.packed, h), pointer(p.factors, h)
    for r in range(rows):
        x = pointer(f.x, v) + at(v, f, lot, t, row + r, f.x_packed, f.x_step, f.x_row)
        factor = split_row(f.I, x, scales, row_of(p.digits, f.I, r))
        factors[r] = factor
        if factor == NOTHING:
            copy(x, 0, f.I, h + (r * f.h_row - f.I))
    end_rows(rows, f.I, p.digits)


@kernel
def prepare(v, f, lot, row, rows, t, h, scratch):
    """Cut h of a block of rows, and x_t where it is multiplied with each step, into digits."""
    if f.chunk == 0 and f.digits_ih != 0:
        split_x(v, f, lot, row, rows, t, h, of_x(f, rows, scratch))
    split(of_h(f, rows, scratch), rows, h, f.h_row)


@kernel
def add_x(v, f, rows, panel, panels, x, x_row, start, start_row, start_panel, z, z_row, scratch):
    """z = start + W x for some panels, in digits or, of few features, in registers."""
    if f.digits_ih != 0:
        p = of_x(f, rows, scratch)
        add(v, f, p, rows, panel, panels, x, x_row, start, start_row, start_panel, z, z_row)
    else:
        b_panel = (f.I + f.P) * PANEL * lanes(z)
        b = pointer(f.weights, v) + panel * b_panel
        panels_gemm(rows, panels, f.I, x, x_row, b, b_panel, start, start_row, start_panel, z, z_row)


@kernel
def add_h(v, f, rows, panel, panels, h, start, start_row, start_panel, z, z_row, scratch):
    """z = start + R h for some panels."""
    p = of_h(f, rows, scratch)
    add(v, f, p, rows, panel, panels, h, f.h_row, start, start_row, start_panel, z, z_row)


@kernel
def add_both(v, f, rows, panel, panels, h, start, start_row, start_panel, z, z_row, scratch):
    """z = start + W x + R h for some panels; `start` holds W x where a chunk was computed beforehand."""
    if f.chunk == 0:
        add_x(v, f, rows, panel, panels, h - f.I, f.h_row, start, start_row, start_panel, z, z_row, scratch)
        start, start_row, start_panel = z, z_row, PANEL * lanes(z)
    add_h(v, f, rows, panel, panels, h, start, start_row, start_panel, z, z_row, scratch)


@kernel
def pack(v, f):
    """The matrices in digits, those that are wanted so."""
    if v.amx:
        mode = flush_denormals()  # as steps that read the weights where they lie
        if f.digits_ih != 0:
            pack_digits(pointer(f.w_ih, v), f.H, f.I, f.digits_ih, f.scratch)
        if f.digits_hh != 0:
            pack_digits(pointer(f.w_hh, v), f.H, f.P, f.digits_hh, f.scratch)
        restore_mode(mode)
