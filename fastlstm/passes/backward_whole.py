"""One step of the backward pass, for cells whose units need all others of their row: normalised, projected, or with
full peepholes. Each stage runs over all units of a block of rows before the next.
"""

from __future__ import annotations

from fastlstm.kernels.gates import memory_bwd, output_bwd
from fastlstm.kernels.gemm import NEXT, SAME, gemm, vectors_of
from fastlstm.passes.backward_step import arrived, c_before_at, c_inner_at, cut_off, factor, keep_cells, state_gradient
from fastlstm.passes.blocks import WHOLE_ROWS
from fastlstm.passes.denormalise import denormalise, weighed_gates
from fastlstm.passes.digits import of_dg, split
from fastlstm.passes.frames import MOMENTS, ZEROS
from fastlstm.passes.rows import apart, first, load_gates, rank, store_gates, taped
from fastlstm.runtime.jit import kernel
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import fma, lanes, leading, load, pointer, splat, store, total


@kernel
def product(rows, columns, depth, a, a_row, b, start, start_row, z, z_row):
    """z = start + a b, b packed by columns; starts and results have their rows a fixed number of elements apart."""
    count = lanes(z)
    for column in range(0, columns, PANEL * count):
        vectors = vectors_of(columns, column, count, 1)
        from_ = start + (0 if start_row == 0 else column)
        gemm(rows, vectors, depth, a, a_row, NEXT, b + depth * column, SAME, from_, start_row, z + column, z_row)


@kernel
def arrive(v, f, lot, t, following, fresh, base, row, dh):
    """dh, one row of P units, made whole; put aside where a projection needs it for its gradient."""
    to = pointer(f.dh, v) + (taped(v, f, lot, t, row) - base) * f.h_row
    for u in range(0, f.P, lanes(dh)):
        value = arrived(v, f, lot, t, following, fresh, row, u, dh + u)
        store(dh + u, value)
        if v.projected:
            store(to + u, value)


@kernel
def outputs_bwd(v, f, lot, t, preceding, older, base, row, dr, dz, inner, direct):
    """dz_o and the whole dc, from dr = dh before the projection, for one row."""
    count, H, here = lanes(dr), f.H, taped(v, f, lot, t, row)
    gates, chunk_row = pointer(f.gates, v) + here * 4 * H, (here - base) * H
    zero = splat(0.0, dr)
    for u in range(0, H, count):
        c_before = c_before_at(v, f, lot, t, preceding, older, row, u)
        c = c_inner_at(v, f, lot, t, row, u, c_before)
        store(inner + u, c)
        keep_cells(v, f, lot, t, base, row, u, c_before, c)
    mean, inverse = 0.0, 1.0
    if v.normed:
        moments = pointer(f.moments, v) + here * MOMENTS
        inverse, mean = moments[2], moments[3]
    sum_dn, sum_dn_u = zero, zero
    for u in range(0, H, count):
        n = H - u
        c_before, c = c_before_at(v, f, lot, t, preceding, older, row, u), load(inner + u)
        dc_at = pointer(f.dc, v) + (row * f.c_row + u)
        dc = load(dc_at)
        if v.zoned_c:
            mask = factor(v, f, lot, f.zone_c, f.zone_c_step, f.zone_c_row, t, row, u, n)
            store(direct + u, mask * dc)
            dc = (1.0 - mask) * dc
        peep = pointer(f.peep, v) + u * PANEL
        o, dh = load(gates + (3 * H + u), n), load(dr + u, n)
        if v.normed:
            gain = load(pointer(f.gain_c, v) + u, n)
            unit = (c - mean) * inverse
            seen = fma(unit, gain, load(pointer(f.shift_c, v) + u, n))
            dz_o, dn, r = output_bwd(v, o, c_before, c, seen, dh, zero, peep)
            store(pointer(f.dn, v) + (chunk_row + u), dn, n)
            store(pointer(f.units_c, v) + (chunk_row + u), unit, n)
            dn = leading(dn * gain, n)
            sum_dn, sum_dn_u = sum_dn + dn, fma(dn, leading(unit, n), sum_dn_u)
        else:
            dz_o, dc, r = output_bwd(v, o, c_before, c, c, dh, dc, peep)
        store(dc_at, dc)
        store(dz + (3 * H + u), dz_o, n)
        if v.projected:
            store(pointer(f.r, v) + (chunk_row + u), r, n)
    if v.normed:
        mean_dn, mean_dn_u = total(sum_dn) / H, total(sum_dn_u) / H
        for u in range(0, H, count):
            n, dc_at = H - u, pointer(f.dc, v) + (row * f.c_row + u)
            dn = load(pointer(f.dn, v) + (chunk_row + u), n) * load(pointer(f.gain_c, v) + u, n)
            unit = load(pointer(f.units_c, v) + (chunk_row + u), n)
            store(dc_at, fma(dn - mean_dn - unit * mean_dn_u, splat(inverse, unit), load(dc_at)))


@kernel
def memories_bwd(v, f, lot, t, preceding, older, base, row, direct, dz, dg):
    """dz_i, dz_f and dz_g, dc of the step before and, normalised, dG as it goes to W x and R h, for one row."""
    count, H, here = lanes(direct), f.H, taped(v, f, lot, t, row)
    gates = pointer(f.gates, v) + here * 4 * H
    zero = splat(0.0, direct)
    sum_d_ih, sum_du_ih, sum_d_hh, sum_du_hh = zero, zero, zero, zero
    for u in range(0, H, count):
        n = H - u
        dc_at = pointer(f.dc, v) + (row * f.c_row + u)
        c_before = c_before_at(v, f, lot, t, preceding, older, row, u)
        i, g_f, g, _ = load_gates(gates + u, H, n)
        dz_o = load(dz + (3 * H + u), n)
        peep = pointer(f.peep, v) + u * PANEL
        dz_i, dz_f, dz_g, dc = memory_bwd(v, i, g_f, g, dz_o, c_before, load(dc_at), peep)
        if v.zoned_c:
            dc = dc + load(direct + u)
        store(dc_at, dc)
        store_gates(dz + u, H, n, dz_i, dz_f, dz_g, dz_o)
        if v.normed:
            units = here * 4 * H + u
            sum_d_ih, sum_du_ih = weighed_gates(
                dz_i, dz_f, dz_g, dz_o, pointer(f.gain_ih, v) + u, pointer(f.units_ih, v) + units, H, n,
                sum_d_ih, sum_du_ih,
            )  # fmt: skip
            sum_d_hh, sum_du_hh = weighed_gates(
                dz_i, dz_f, dz_g, dz_o, pointer(f.gain_hh, v) + u, pointer(f.units_hh, v) + units, H, n,
                sum_d_hh, sum_du_hh,
            )  # fmt: skip
    if v.normed:
        there = taped(v, f, lot, preceding, row) if row - lot.row < older else here
        denormalise(v, f, here, there, base, sum_d_ih, sum_du_ih, sum_d_hh, sum_du_hh, dz, dg)


@kernel
def step_by_row(
    v,
    f,
    lot,
    panel,
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
    """One step of the rows row .. row + rows, all units; the arguments are those of `step_by_panel`."""
    count, H = lanes(scratch), f.H
    dh = scratch + ZEROS * count
    dr = dh + WHOLE_ROWS * f.h_row
    inner, direct = dr + WHOLE_ROWS * f.c_row, dr + (WHOLE_ROWS + 1) * f.c_row
    dg_row, at = apart(v, lot) * f.dg_row, rank(v, lot, row) * f.dg_row
    dg = dg_after + at
    dz = pointer(f.dz, v) + ((first(v, f, t) - base) * f.dg_row + at) if v.normed else dg
    dc = pointer(f.dc, v) + row * f.c_row
    here = min(max(known - (row - lot.row), 0), rows)  # rows that took the step after too
    if here > 0:
        before, p = dg_before + at, of_dg(f, f.digits_hh, here, direct + WHOLE_ROWS * f.c_row)
        if v.amx and f.digits_hh != 0:
            split(p, here, before, dg_row)
        for unit in range(0, f.P, PANEL * count):
            vectors = vectors_of(f.P, unit, count, 1)
            state_gradient(v, f, p, here, unit, vectors, before, dg_row, scratch, dh + unit, f.h_row)
    for r in range(rows):
        arrive(v, f, lot, t, following, r >= here, base, row + r, dh + r * f.h_row)
    if v.projected:
        product(rows, H, f.P, dh, f.h_row, pointer(f.w_hr, v), scratch, SAME, dr, f.c_row)
    for r in range(rows):
        source = dr + r * f.c_row if v.projected else dh + r * f.h_row
        to = dz + r * dg_row
        outputs_bwd(v, f, lot, t, preceding, older, base, row + r, source, to, inner, direct + r * f.c_row)
    if v.full and v.output_new:
        product(rows, H, H, dz + 3 * H, dg_row, pointer(f.w_ch_new, v), dc, f.c_row, dc, f.c_row)
    for r in range(rows):
        of_row = r * dg_row
        memories_bwd(
            v, f, lot, t, preceding, older, base, row + r, direct + r * f.c_row, dz + of_row, dg + of_row
        )  # fmt: skip
    if v.full:
        product(rows, H, 4 * H, dz, dg_row, pointer(f.w_ch, v), dc, f.c_row, dc, f.c_row)
    if v.ragged and f.resets != 0:
        cut_off(v, f, lot, t, row, rows, 0, H, splat(0.0, dh))
