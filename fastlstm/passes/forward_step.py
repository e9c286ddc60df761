"""One step of the forward pass, for cells whose units need nothing of each other: products, and the cell while z is in
L1.
"""

from __future__ import annotations

from fastlstm.kernels.gates import memory_fwd, output_fwd
from fastlstm.kernels.gemm import SAME, panels_at_once
from fastlstm.passes.blocks import next_panels, turns
from fastlstm.passes.digits import add_both, prepare
from fastlstm.passes.narrow import depth_of, first_of_sums, prepare_h, product, scaled_product
from fastlstm.passes.rows import at, place, store_gates, taped
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.isa import target
from fastlstm.simd.stored import weights_pointer
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import address, lanes, load, pointer, store, stream

VECTOR = target().bits // 8  # bytes


@inline
def mixed(mask, old, new):
    """What zoneout leaves of a state."""
    return mask * old + (1.0 - mask) * new


@inline
def carried(v, f, lot, t, row, unit, c_before, c):
    """The c that goes on to the next step."""
    if v.zoned_c:
        mask = pointer(f.zone_c, v) + (t * f.zone_c_step + place(v, f, lot, row) * f.zone_c_row + unit)
        return mixed(load(mask, f.H - unit), c_before, c)
    return c


@inline
def goes_past(past, one, other):
    """Whether vectors are written past the caches: `one`, `other` and all those that follow these."""
    return past != 0 and (address(one) | address(other)) % VECTOR == 0


@inline
def emit(v, f, lot, t, following, row, unit, h_new, h_after):
    """h of one vector of units of one row: to y and, as the next step will see it, to the workspace."""
    n = f.P - unit
    if v.zoned_h:
        mask = pointer(f.zone_h, v) + (t * f.zone_h_step + place(v, f, lot, row) * f.zone_h_row + unit)
        h_new = mixed(load(mask, n), load(pointer(f.held, v) + (row * f.h_row + unit)), h_new)
    y = pointer(f.y, v) + (at(v, f, lot, t, row, f.y_packed, f.y_step, f.y_row) + unit)
    if goes_past(f.y_past, y, y):
        stream(y, h_new)
    else:
        store(y, h_new, n)
    if v.holds:
        store(pointer(f.held, v) + (row * f.h_row + unit), h_new)
    if v.masked:
        mask = pointer(f.mask, v) + (following * f.mask_step + place(v, f, lot, row) * f.mask_row + unit)
        h_new = h_new * load(mask, n)
    store(h_after + (row * f.h_row + unit), h_new)


@inline
def tape_cell(v, f, lot, t, row, unit, i, g_f, g, o, c):
    """Keep the gates and c of one vector of units of one row."""
    if f.gates != 0:
        n, H, here = f.H - unit, f.H, taped(v, f, lot, t, row)
        gates, cells = pointer(f.gates, v) + (here * 4 * H + unit), pointer(f.cells, v) + (here * H + unit)
        if goes_past(f.tape_past, gates, cells):
            stream(gates, i)
            stream(gates + H, g_f)
            stream(gates + 2 * H, g)
            stream(gates + 3 * H, o)
            stream(cells, c)
        else:
            store_gates(gates, H, n, i, g_f, g, o)
            store(cells, c, n)


@inline
def update(v, f, lot, t, following, row, panel, z, h_after):
    """The cell on one vector of units of one row: from z to c, h, y and the tape."""
    count = lanes(z)
    unit = panel * count
    c_at = pointer(f.c, v) + (row * f.c_row + unit)
    peep = pointer(f.peep, v) + unit * PANEL
    c_before = load(c_at)
    i, g_f, g, c_new = memory_fwd(v, load(z), load(z + count), load(z + 2 * count), c_before, peep)
    o, h_new = output_fwd(v, load(z + 3 * count), c_before, c_new, c_new, peep)
    c_on = carried(v, f, lot, t, row, unit, c_before, c_new)
    store(c_at, c_on)
    emit(v, f, lot, t, following, row, unit, h_new, h_after)
    tape_cell(v, f, lot, t, row, unit, i, g_f, g, o, c_on)


@kernel
def step_by_panel(
    v, f, lot, first, last, row, rows, t, following, h_before, h_after, projected, projected_row, scratch
):
    """One step of the rows row .. row + rows and the panels first .. last; `projected` holds their W x where a
    chunk was computed beforehand.
    """
    count = lanes(scratch)
    width = PANEL * count
    total = depth_of(v, f)
    skip = f.I if f.chunk > 0 else SAME
    a = h_before + (row * f.h_row - f.I + skip)
    most = panels_at_once(rows, last - first)
    h = h_before + row * f.h_row
    if v.amx and f.digits_hh != 0:
        prepare(v, f, lot, row, rows, t, h, scratch)
    if v.exact:
        prepare_h(v, f, rows, h, scratch)
    left, down = last - first, turns(f, t, rows)
    while left > 0:
        panel, at_once = next_panels(down, first, last, left, most, last)
        left -= at_once
        z_row = at_once * width
        b = weights_pointer(f.weights, v) + (panel * total + skip) * width
        if f.chunk > 0:
            start, start_row = projected + (panel - first) * width, projected_row
        else:
            start, start_row = first_of_sums(v, f, panel), SAME
        if v.amx and f.digits_hh != 0:
            add_both(v, f, rows, panel, at_once, h, start, start_row, width, scratch, z_row, scratch)
        elif v.scaled:
            scaled_product(v, f, rows, panel, at_once, a, b, start, start_row, scratch, z_row)
        else:
            product(
                v, rows, at_once * PANEL, total - skip, a, f.h_row, b, total * width, start, start_row, scratch, z_row,
                scratch,
            )  # fmt: skip
        for r in range(rows):
            for p in range(at_once):
                update(v, f, lot, t, following, row + r, panel + p, scratch + (r * z_row + p * width), h_after)
