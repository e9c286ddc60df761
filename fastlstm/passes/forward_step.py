"""One step of the forward pass, for cells whose units need nothing of each other: products, and the cell while z is in
L1.
"""

from __future__ import annotations

from fastlstm.kernels.gates import memory_fwd, output_fwd
from fastlstm.kernels.gemm import BLOCK_ROWS, NEXT, SAME, gemm, panels_at_once
from fastlstm.passes.frames import ZEROS, Forward
from fastlstm.passes.rows import at, place, taped
from fastlstm.runtime.jit import inline, kernel, read
from fastlstm.simd.stored import weights_pointer
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import fma, lanes, load, pointer, store


@inline
def first_of_sums(v, f, panel):
    """Where the sums of a panel start: its bias, or, where sums are scaled before that is added, zeros."""
    bias = pointer(f.bias, v)
    return bias if v.scaled else bias + panel * PANEL * lanes(bias)


@inline
def scales_at(f, kind, panel, bias):
    """Where the bias (kind 0), the scales of W (1) or those of R (2) of a panel stand behind the zeros."""
    count = lanes(bias)
    panels = (f.H + count - 1) // count
    return bias + (ZEROS + (kind * panels + panel) * PANEL) * count


@kernel
def scale_x(v, frame, rows, panel, vectors, z, z_row):
    """z = bias + s z, rows of so many vectors from a panel on: sums over W in int8 become W x."""
    f = read(frame, Forward)
    bias, scales = scales_at(f, 0, panel, pointer(f.bias, v)), scales_at(f, 1, panel, pointer(f.bias, v))
    for r in range(rows):
        for k in range(0, vectors * lanes(z), lanes(z)):
            at = z + (r * z_row + k)
            store(at, fma(load(at), load(scales + k), load(bias + k)))


@kernel
def scale_h(v, frame, rows, panel, vectors, z, z_row, start, start_row):
    """z = start + s z: the same for R h."""
    f = read(frame, Forward)
    scales = scales_at(f, 2, panel, pointer(f.bias, v))
    for r in range(rows):
        for k in range(0, vectors * lanes(z), lanes(z)):
            at = z + (r * z_row + k)
            store(at, fma(load(at), load(scales + k), load(start + (r * start_row + k))))


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
def emit(v, f, lot, t, following, row, unit, h_new, h_after):
    """h of one vector of units of one row: to y and, as the next step will see it, to the workspace."""
    n = f.P - unit
    if v.zoned_h:
        mask = pointer(f.zone_h, v) + (t * f.zone_h_step + place(v, f, lot, row) * f.zone_h_row + unit)
        h_new = mixed(load(mask, n), load(pointer(f.held, v) + (row * f.h_row + unit)), h_new)
    store(pointer(f.y, v) + (at(v, f, lot, t, row, f.y_packed, f.y_step, f.y_row) + unit), h_new, n)
    if v.holds:
        store(pointer(f.held, v) + (row * f.h_row + unit), h_new)
    if v.masked:
        mask = pointer(f.mask, v) + (following * f.mask_step + place(v, f, lot, row) * f.mask_row + unit)
        h_new = h_new * load(mask, n)
    store(h_after + (row * f.h_row + unit), h_new)


@inline
def tape_cell(v, f, lot, t, row, unit, i, g_f, g, o, c):
    """Keep the gates and c of one vector of units of one row."""
    if v.training:
        n, here = f.H - unit, taped(v, f, lot, t, row)
        gates = pointer(f.gates, v) + (here * 4 * f.H + unit)
        store(gates, i, n)
        store(gates + f.H, g_f, n)
        store(gates + 2 * f.H, g, n)
        store(gates + 3 * f.H, o, n)
        store(pointer(f.cells, v) + (here * f.H + unit), c, n)


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
def scaled_gemm(v, frame, rows, panel, vectors, a, b, b_panel, start, start_row, z, z_row):
    """z = R h + W x + bias in two sums, since two matrices have two scales; `start` holds W x + bias where a chunk was
    computed beforehand.
    """
    f = read(frame, Forward)
    width = PANEL * lanes(z)
    zeros = first_of_sums(v, f, panel)
    if f.chunk == 0:
        start, start_row = z + BLOCK_ROWS * width, z_row
        gemm(rows, vectors, f.I, a, f.h_row, NEXT, b, b_panel, zeros, SAME, start, z_row)
        scale_x(v, frame, rows, panel, vectors, start, z_row)
        a, b = a + f.I, b + f.I * width
    gemm(rows, vectors, f.P, a, f.h_row, NEXT, b, b_panel, zeros, SAME, z, z_row)
    scale_h(v, frame, rows, panel, vectors, z, z_row, start, start_row)


@kernel
def step_by_panel(
    v, frame, lot, first, last, row, rows, t, following, h_before, h_after, projected, projected_row, scratch
):
    """One step of the rows row .. row + rows and the panels first .. last; `projected` holds their W x where a
    chunk was computed beforehand.
    """
    f = read(frame, Forward)
    count = lanes(scratch)
    width = PANEL * count
    total = f.I + f.P
    skip = f.I if f.chunk > 0 else SAME
    a = h_before + (row * f.h_row - f.I + skip)
    at_once = panels_at_once(rows, last - first)
    panel = first
    while panel < last:
        while panel + at_once > last:
            at_once //= 2
        z_row = at_once * width
        b = weights_pointer(f.weights, v) + (panel * total + skip) * width
        if f.chunk > 0:
            start, start_row = projected + (panel - first) * width, projected_row
        else:
            start, start_row = first_of_sums(v, f, panel), SAME
        if v.scaled:
            scaled_gemm(v, frame, rows, panel, at_once * PANEL, a, b, total * width, start, start_row, scratch, z_row)
        else:
            gemm(
                rows, at_once * PANEL, total - skip, a, f.h_row, NEXT, b, total * width, start, start_row, scratch,
                z_row,
            )  # fmt: skip
        for r in range(rows):
            for p in range(at_once):
                update(v, f, lot, t, following, row + r, panel + p, scratch + (r * z_row + p * width), h_after)
        panel += at_once
