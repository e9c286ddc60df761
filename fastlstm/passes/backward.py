"""The backward pass of one layer: gradients of a loss with respect to x, the initial state and every parameter, from
those of y and the last state.

Backward through time, a step computes dh = dy_t + dG_{t+1} W_hh by the tile and from it dG_t, the gradient of the
gates' pre-activations. After each chunk of steps dx = dG W_ih and dW += dG^T [x, h] follow as products over all rows
of the chunk, whose dG is still in the caches: dx cut by rows, dW by columns between the threads, so that the order of
every sum is the same at any thread count.

The plain cell in a dense call does not keep h on its tape: o tanh(c) is at hand at step t, where it is needed for the
product with dG_{t+1}; so dW runs one step behind. Others keep the h that went into the gates.
"""

from __future__ import annotations

from fastlstm.kernels.gemm import NEXT, SAME, cut, gemm, panel_count, vectors_of
from fastlstm.passes.backward_step import initial_state, step_by_panel
from fastlstm.passes.backward_whole import step_by_row
from fastlstm.passes.blocks import block_count, cut_block, cut_tiles
from fastlstm.passes.digits import multiply_dg, of_dg, split
from fastlstm.passes.frames import BACKWARD_BYTES, ZEROS, Backward
from fastlstm.passes.meeting import all_run, come, go, meet
from fastlstm.passes.rows import copy, first, lot_of, place, rank, rows_at, step_of
from fastlstm.passes.weight_gradient import (
    clear,
    special_gradient,
    unit_gradient,
    unpack,
    weight_gradient,
)
from fastlstm.runtime.jit import choose, kernel, read, word
from fastlstm.simd.amx import release
from fastlstm.simd.atomic import called_off, flush_denormals, restore_mode
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import lanes, load, pointer, splat, store


def step(
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
    """One step of the rows row .. row + rows and the panels panel .. last of dh; `known` rows of the lot took the step
    `following` too, `older` ones the step `preceding`; the chunk begins with row `base` of the tape.
    """


@choose(step, forceinline=False)
def _step(v):
    return (step_by_row if v.whole else step_by_panel).py_func


@kernel
def write_dx(v, f, t, row, rows, column, width, z, z_row):
    """Some rows of dx, from a column on, to where the caller has them; the first one is `row` of those that begin with
    step t.
    """
    count, base = lanes(z), first(v, f, t)
    for k in range(row, row + rows):
        if v.ragged:
            while first(v, f, t + 1) <= base + k:
                t += 1
            here = base + k - first(v, f, t)
            if f.dx_packed:
                to = (base + k) * f.dx_row
            else:
                to = t * f.dx_step + word(f.order, here) * f.dx_row
        else:
            to = (t + k // f.B) * f.dx_step + k % f.B * f.dx_row
        dx = pointer(f.dx, v) + (to + column)
        for u in range(0, width, count):
            store(dx + u, load(z + ((k - row) * z_row + u)), f.I - column - u)


@kernel
def hand_on(v, f, lot, t, unit, end, source, to):
    """Copy the units unit .. end of dG of step t, of the rows of a part."""
    for r in range(lot.row, lot.row + rows_at(v, f, lot, t)):
        at = rank(v, lot, r) * f.dg_row
        for gate in range(PANEL):
            copy(source + (at + gate * f.H), unit, end, to + (at + gate * f.H))


@kernel
def keep(f, dz, base, row, row_end, to):
    """Copy the rows row .. row_end of a chunk's dG, which begins with the row `base` of the tape, to where it stays."""
    for r in range(row, row_end):
        copy(dz + r * f.dg_row, 0, 4 * f.H, to + (base + r) * 4 * f.H)


@kernel
def input_gradient(v, f, t, dg, row, row_end, scratch):
    """dx = dG W_ih for the rows row .. row_end of a chunk, which begins with step t: by blocks of whole tiles, whose dG
    stays in L2 while all of W_ih passes.
    """
    count, K = lanes(scratch), 4 * f.H
    z = scratch + ZEROS * count
    p = of_dg(f, f.digits_ih, f.dx_rows, z + f.dx_rows * PANEL * count)
    blocks = (row_end - row + f.dx_rows - 1) // f.dx_rows
    for block in range(blocks):
        r = row + cut_tiles(row_end - row, blocks, block)
        rows = row + cut_tiles(row_end - row, blocks, block + 1) - r
        of_rows = dg + r * f.dg_row
        if v.amx and f.digits_ih != 0:
            split(p, rows, of_rows, f.dg_row)
        for column in range(0, f.I, PANEL * count):
            vectors = vectors_of(f.I, column, count, 1)
            w, z_row = pointer(f.w_ih, v) + K * column, vectors * count
            if v.amx and f.digits_ih != 0:
                multiply_dg(p, rows, vectors, column // (PANEL * count), of_rows, f.dg_row, w, scratch, z, z_row)
            else:
                gemm(rows, vectors, K, of_rows, f.dg_row, NEXT, w, SAME, scratch, SAME, z, z_row)
            write_dx(v, f, t, r, rows, column, z_row, z, z_row)


@kernel
def begin(v, f, lot, unit, end, scratch):
    """Zeros in a part's scratch, and dc_n of its rows where dc will be."""
    count = lanes(scratch)
    for k in range(ZEROS):
        store(scratch + k * count, splat(0.0, scratch))
    for r in range(lot.row, lot.row + lot.size):
        source, dc = pointer(f.dc_n, v) + place(v, f, lot, r) * f.H, pointer(f.dc, v) + r * f.c_row
        for u in range(unit, end, count):
            store(dc + u, load(source + u, f.H - u))


@kernel
def parameter_gradients(v, f, part, lowest, steps, behind, dg, waiting, digits, scratch):
    """What a chunk of steps, the first in time `lowest`, adds to the gradients of the parameters, in a part's columns
    of each; whether digits did for dW. `behind` is 1 if the step before the chunk waits for its h.
    """
    base, rows = first(v, f, lowest), first(v, f, lowest + steps) - first(v, f, lowest)
    columns, panels = panel_count(4 * f.H, lanes(v)), panel_count(f.H, lanes(v))
    column, column_end = cut(columns, f.parts, part), cut(columns, f.parts, part + 1)
    if v.keeps:
        h = pointer(f.inputs, v) + base * f.P
        digits = weight_gradient(v, f, column, column_end, dg, base, rows, h, f.P, digits, scratch)
        if v.whole or v.diagonal:
            special_gradient(v, f, column, column_end, pointer(f.dz, v) if v.normed else dg, rows, scratch)
            unit_gradient(v, f, cut(panels, f.parts, part), cut(panels, f.parts, part + 1), rows, scratch)
    elif steps - 1 + behind > 0:
        # h_t of this chunk belongs to dG of the step after: one later in time, or earlier in reverse; the last step has
        # none.
        skip = 1 - behind if f.reverse else 0
        row = (lowest + (skip - 1 if f.reverse else 1)) * f.B
        dg = waiting if f.chunk == 1 else dg + (row - base) * f.dg_row
        h, rows = pointer(f.h, v) + skip * f.B * f.h_row, (steps - 1 + behind) * f.B
        digits = weight_gradient(v, f, column, column_end, dg, row, rows, h, f.h_row, digits, scratch)
    return digits


@kernel
def backward(v, part, frame):
    """One part of the backward pass; parts of a second direction follow those of the first, as its frame follows
    the first's.
    """
    f = read(frame, Backward)
    seat = part
    come(f.meeting, f.parties, seat)
    if part >= f.parts:
        frame += BACKWARD_BYTES
        f = read(frame, Backward)
        part -= f.parts
    if f.parts > 1:
        if not all_run(f, seat):
            return
    mode = flush_denormals()
    width, lot = PANEL * lanes(v), lot_of(f, part)
    columns, panel, panel_end = panel_count(4 * f.H, lanes(v)), 0, panel_count(f.H, lanes(v))
    column, column_end = cut(columns, f.parts, part), cut(columns, f.parts, part + 1)
    if f.by_units:
        panel, panel_end = cut(panel_end, f.parts, part), cut(panel_end, f.parts, part + 1)
    unit, unit_end = panel * width, min(panel_end * width, f.H)
    scratch = pointer(f.scratch, v) + part * f.scratch_part
    begin(v, f, lot, unit, unit_end, scratch)
    clear(v, f, column, column_end)
    arrivals = 0
    s = f.T - 1
    digits = True  # whether digits, where there is a matrix unit, did for dW so far
    behind = 0  # steps whose dG waits for its h: the last one of the chunk before
    dg_after = pointer(f.dg, v)
    while s >= 0 and not called_off(f.sync):
        steps = min(f.chunk, s + 1)
        lowest = f.T - 1 - s if f.reverse else s - steps + 1
        base = first(v, f, lowest)
        chunk_rows = first(v, f, lowest + steps) - base
        # dG of the step before, which may wait for its h, moves next to the chunk's: before it in reverse, else behind.
        # Chunks of one step take turns.
        slot, waiting = s & 1 if f.chunk == 1 else f.reverse, dg_after
        dg = pointer(f.dg, v) + slot * f.B * f.dg_row
        if s + 1 < f.T and f.chunk > 1:
            following = step_of(f, s + 1)
            waiting = dg + (first(v, f, following) - base) * f.dg_row
            hand_on(v, f, lot, following, unit, unit_end, dg_after, waiting)
            if f.by_units or v.ragged:  # where others need it, or have rows of other steps where it was
                arrivals = meet(f, arrivals)
        dg_after = waiting
        for k in range(steps):
            t, following, preceding = step_of(f, s), step_of(f, s + 1), step_of(f, s - 1)
            dg_before, dg_after = dg_after, dg + (first(v, f, t) - base) * f.dg_row
            h = pointer(f.h, v) + (t - lowest) * f.B * f.h_row
            rows = rows_at(v, f, lot, t)
            known = rows_at(v, f, lot, following) if s + 1 < f.T else 0
            older = rows_at(v, f, lot, preceding) if s > 0 else 0
            blocks = block_count(v, f, rows)
            for block in range(blocks):
                r = lot.row + cut_block(v, f, rows, blocks, block)
                here = lot.row + cut_block(v, f, rows, blocks, block + 1) - r
                step(
                    v, f, lot, panel, panel_end, r, here, t, following, preceding, known, older, base,
                    dg_before, dg_after, h, scratch,
                )  # fmt: skip
            s -= 1
            if f.by_units and (k + 1 < steps or older < rows):
                arrivals = meet(f, arrivals)
            if older < rows:
                blocks = block_count(v, f, rows - older)
                for block in range(blocks):
                    r = lot.row + older + cut_block(v, f, rows - older, blocks, block)
                    here = lot.row + older + cut_block(v, f, rows - older, blocks, block + 1) - r
                    initial_state(v, f, lot, panel, panel_end, r, here, t, dg_after, scratch)
        arrivals = meet(f, arrivals)
        share, share_end = cut_tiles(chunk_rows, f.parts, part), cut_tiles(chunk_rows, f.parts, part + 1)
        input_gradient(v, f, lowest, pointer(f.du, v) if v.normed else dg, share, share_end, scratch)
        if f.kept != 0:
            keep(f, pointer(f.dz, v) if v.normed else dg, base, share, share_end, pointer(f.kept, v))
        digits = parameter_gradients(v, f, part, lowest, steps, behind, dg, waiting, digits, scratch)
        behind = 1
        arrivals = meet(f, arrivals)
    if not v.keeps:
        t = f.T - 1 if f.reverse else 0
        weight_gradient(v, f, column, column_end, dg_after, t * f.B, f.B, pointer(f.h_0, v), f.P, digits, scratch)
    unpack(v, f, column, column_end)
    go(f.meeting, f.parties, seat)
    if v.amx:
        release()
    restore_mode(mode)
