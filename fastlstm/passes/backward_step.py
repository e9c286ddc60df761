"""One step of the backward pass, for cells whose units need nothing of each other: dh by the tile, and from it dG."""

from __future__ import annotations

from fastlstm.kernels.gates import inner, memory_bwd, output_bwd
from fastlstm.kernels.gemm import BLOCK_ROWS, NEXT, SAME, gemm, panels_at_once, vectors_of
from fastlstm.passes.blocks import next_panels, turns
from fastlstm.passes.digits import multiply_dg, of_dg, split
from fastlstm.passes.frames import ZEROS
from fastlstm.passes.rows import apart, at, load_gates, place, rank, reset_at, store_gates, taped
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import lanes, load, pointer, splat, store


@inline
def factor(v, f, lot, address, step, row_stride, t, row, unit, n):
    """A mask (T, B, n) of the caller at one vector of units of one row."""
    return load(pointer(address, v) + (t * step + place(v, f, lot, row) * row_stride + unit), n)


@inline
def c_before_at(v, f, lot, t, preceding, older, row, unit):
    """c with which a row took step t: of the `older` rows the one that the step before left, else the initial one."""
    n = f.H - unit
    if v.ragged and f.resets != 0 and reset_at(v, f, lot, t, row):
        return load(pointer(f.c_reset, v) + (place(v, f, lot, row) * f.H + unit), n)
    if row - lot.row >= older:
        return load(pointer(f.c_0, v) + (place(v, f, lot, row) * f.H + unit), n)
    return load(pointer(f.cells, v) + (taped(v, f, lot, preceding, row) * f.H + unit), n)


@inline
def c_inner_at(v, f, lot, t, row, unit, c_before):
    """c as it went into the output of step t."""
    n, here = f.H - unit, taped(v, f, lot, t, row)
    if v.zoned_c:
        gates = pointer(f.gates, v) + (here * 4 * f.H + unit)
        return inner(v, load(gates, n), load(gates + f.H, n), load(gates + 2 * f.H, n), c_before)
    return load(pointer(f.cells, v) + (here * f.H + unit), n)


@inline
def from_after(v, f, lot, t, row, unit, z):
    """What h before step t has of that step's gradient: z by its gates, and what zoneout handed on; nothing where the
    row began anew.
    """
    n = f.P - unit
    if v.ragged and f.resets != 0 and reset_at(v, f, lot, t, row):
        return splat(0.0, z)
    dh = load(z, n)
    if v.masked:
        dh = dh * factor(v, f, lot, f.mask, f.mask_step, f.mask_row, t, row, unit, n)
    if v.zoned_h:
        dh = dh + load(pointer(f.carry, v) + (row * f.h_row + unit), n)
    return dh


@inline
def arrived(v, f, lot, t, following, fresh, row, unit, z):
    """dh of step t: from the step after or, for a `fresh` row, from the caller, and from y; what zoneout hands on
    directly is put aside.
    """
    n = f.P - unit
    if fresh:
        dh = load(pointer(f.dh_n, v) + (place(v, f, lot, row) * f.P + unit), n)
    else:
        dh = from_after(v, f, lot, following, row, unit, z)
    dh = dh + load(pointer(f.dy, v) + (at(v, f, lot, t, row, f.dy_packed, f.dy_step, f.dy_row) + unit), n)
    if v.zoned_h:
        mask = factor(v, f, lot, f.zone_h, f.zone_h_step, f.zone_h_row, t, row, unit, n)
        store(pointer(f.carry, v) + (row * f.h_row + unit), mask * dh)
        dh = (1.0 - mask) * dh
    return dh


@inline
def keep_cells(v, f, lot, t, base, row, unit, c_before, c):
    """Put both c aside for the gradients of the peephole."""
    if v.diagonal or v.full:
        to = (taped(v, f, lot, t, row) - base) * f.H + unit
        store(pointer(f.before, v) + to, c_before, f.H - unit)
        store(pointer(f.after, v) + to, c, f.H - unit)


@inline
def update(v, f, lot, t, following, preceding, older, fresh, base, row, unit, z, dg, h):
    """The cell backward on one vector of units of one row: its dG, the new dc, h_t."""
    n, H = f.H - unit, f.H
    gates = pointer(f.gates, v) + (taped(v, f, lot, t, row) * 4 * H + unit)
    dc_at = pointer(f.dc, v) + (row * f.c_row + unit)
    peep = pointer(f.peep, v) + unit * PANEL
    dh, dc = arrived(v, f, lot, t, following, fresh, row, unit, z), load(dc_at)
    dc_on = dc
    if v.zoned_c:
        mask = factor(v, f, lot, f.zone_c, f.zone_c_step, f.zone_c_row, t, row, unit, n)
        dc_on, dc = mask * dc, (1.0 - mask) * dc
    i, g_f, g, o = load_gates(gates, H, n)
    c_before = c_before_at(v, f, lot, t, preceding, older, row, unit)
    c = c_inner_at(v, f, lot, t, row, unit, c_before)
    dz_o, dc, h_here = output_bwd(v, o, c_before, c, c, dh, dc, peep)
    dz_i, dz_f, dz_g, dc_before = memory_bwd(v, i, g_f, g, dz_o, c_before, dc, peep)
    if v.zoned_c:
        dc_before = dc_before + dc_on
    store(dc_at, dc_before)
    store_gates(dg + (rank(v, lot, row) * f.dg_row + unit), H, n, dz_i, dz_f, dz_g, dz_o)
    if v.keeps:
        keep_cells(v, f, lot, t, base, row, unit, c_before, c)
    else:
        store(h + (row * f.h_row + unit), h_here)


@kernel
def cut_off(v, f, lot, t, row, rows, unit, end, zero):
    """No gradient of c goes past a reset; that of h, `from_after` leaves out."""
    for r in range(row, row + rows):
        if reset_at(v, f, lot, t, r):
            for u in range(unit, end, lanes(zero)):
                store(pointer(f.dc, v) + (r * f.c_row + u), zero, end - u)


@inline
def room_of_dg(scratch):
    """Where what is needed of dG in digits begins: behind zeros and z of a block of rows."""
    return scratch + (ZEROS + BLOCK_ROWS * PANEL) * lanes(scratch)


@kernel
def state_gradient(v, f, p, rows, unit, vectors, dg, dg_row, zeros, z, z_row):
    """z = dG W_hh for some rows of dG, where the matrix unit multiplies split before, and so many vectors of units."""
    K, w = 4 * f.H, pointer(f.w_hh, v) + 4 * f.H * unit
    if v.amx and f.digits_hh != 0:
        multiply_dg(p, rows, vectors, unit // (PANEL * lanes(z)), dg, dg_row, w, zeros, z, z_row)
    else:
        gemm(rows, vectors, K, dg, dg_row, NEXT, w, K * PANEL * lanes(z), zeros, SAME, z, z_row)


@kernel
def step_by_panel(
    v,
    f,
    lot,
    first,
    last,
    row,
    rows,
    t,
    following,
    preceding,
    known,
    older,
    base,
    dg_before,
    dg_after,
    h,
    scratch,
):
    """One step of the rows row .. row + rows and the panels first .. last of dh."""
    count = lanes(scratch)
    z = scratch + ZEROS * count
    unit_first, unit_end = first * PANEL * count, min(last * PANEL * count, f.H)
    most = panels_at_once(rows, last - first)
    here = min(max(known - (row - lot.row), 0), rows)  # rows that took the step after too
    dg, dg_row = dg_before + rank(v, lot, row) * f.dg_row, apart(v, lot) * f.dg_row
    p = of_dg(f, f.digits_hh, rows, room_of_dg(scratch))
    if v.amx and f.digits_hh != 0:
        most = 1
        if here > 0:
            split(p, here, dg, dg_row)
    whole = (f.H + count - 1) // count // PANEL
    left, down = last - first, turns(f, t, rows)
    while left > 0:
        panel, at_once = next_panels(down, first, last, left, most, whole)
        left -= at_once
        unit = panel * PANEL * count
        vectors = vectors_of(f.H, unit, count, at_once)
        z_row = vectors * count
        if here > 0:
            state_gradient(v, f, p, here, unit, vectors, dg, dg_row, scratch, z, z_row)
        for r in range(rows):
            for u in range(0, vectors * count, count):
                update(
                    v, f, lot, t, following, preceding, older, r >= here, base, row + r, unit + u,
                    z + (r * z_row + u), dg_after, h,
                )  # fmt: skip
    if v.ragged and f.resets != 0:
        cut_off(v, f, lot, t, row, rows, unit_first, unit_end, splat(0.0, z))


@kernel
def initial_state(v, f, lot, panel, last, row, rows, t, dg, scratch):
    """dh_0 = dG W_hh, and dc_0, for the rows row .. row + rows, whose first step is t, and the panels panel .. last."""
    count = lanes(scratch)
    z = scratch + ZEROS * count
    dg, dg_row = dg + rank(v, lot, row) * f.dg_row, apart(v, lot) * f.dg_row
    p = of_dg(f, f.digits_hh, rows, room_of_dg(scratch))
    if v.amx and f.digits_hh != 0:
        split(p, rows, dg, dg_row)
    for unit in range(panel * PANEL * count, min(last * PANEL * count, f.P), PANEL * count):
        vectors = vectors_of(f.P, unit, count, 1)
        z_row = vectors * count
        state_gradient(v, f, p, rows, unit, vectors, dg, dg_row, scratch, z, z_row)
        for r in range(row, row + rows):
            to = place(v, f, lot, r) * f.P
            for u in range(unit, unit + z_row, count):
                dh = from_after(v, f, lot, t, r, u, z + ((r - row) * z_row + u - unit))
                store(pointer(f.dh_0, v) + (to + u), dh, f.P - u)
    for r in range(row, row + rows):
        to = place(v, f, lot, r) * f.H
        for u in range(panel * PANEL * count, min(last * PANEL * count, f.H), count):
            store(pointer(f.dc_0, v) + (to + u), load(pointer(f.dc, v) + (r * f.c_row + u)), f.H - u)
