"""The forward pass of one layer over a whole sequence, for inference and, with a tape, for training.

For every step and every panel (one vector of units, its four gates): z = bias + W x_t + R h' by the tile, then the
cell. Rows are independent, so threads that split rows never meet; threads that split units meet at one barrier a
step. W x is either computed for a chunk of steps beforehand (few rows: W is then read once a chunk) or as more steps
of k of the same product (many rows). The order in which an element's products are added is the same in all these
ways: bias, x_0 .. x_{I-1}, h_0 .. h_{H-1}; in whole numbers (`passes.digits`) bias, W x, R h, whose own order is of no
matter.
"""

from __future__ import annotations

from fastlstm.kernels.gemm import BLOCK_ROWS, SAME, cut
from fastlstm.passes.blocks import block_count, cut_block, cut_tiles
from fastlstm.passes.digits import add_x, of_x, split, wants_x
from fastlstm.passes.forward_step import step_by_panel
from fastlstm.passes.forward_whole import step_by_row
from fastlstm.passes.frames import FORWARD_BYTES, Forward
from fastlstm.passes.meeting import all_run, come, go, meet
from fastlstm.passes.narrow import depth_of, first_of_sums, product, scale_x
from fastlstm.passes.rows import at, copy, first, lot_of, place, reset_at, rows_at, step_of, taped
from fastlstm.runtime.jit import choose, inline, kernel, read
from fastlstm.simd.amx import release
from fastlstm.simd.atomic import called_off, fence, flush_denormals, restore_mode
from fastlstm.simd.stored import weights_pointer
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import lanes, load, pointer, store


def step(
    v, f, lot, panel, panel_end, row, rows, t, following, h_before, h_after, projected, projected_row, scratch
):
    """One step of the rows row .. row + rows and the panels panel .. panel_end; `following` is the step taken next."""


@choose(step, forceinline=False)
def _step(v):
    return (step_by_row if v.whole else step_by_panel).py_func


@kernel
def project(v, f, panel, panel_end, t, steps, z, scratch):
    """z = bias + W x for some panels and all rows of the steps t .. t + steps: (rows, panels, 4 vectors)."""
    rows = first(v, f, t + steps) - first(v, f, t)
    x = pointer(f.x, v) + (first(v, f, t) * f.x_row if v.ragged else t * f.x_step)
    width = PANEL * lanes(z)
    row = (panel_end - panel) * width
    blocks = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    if v.amx and f.digits_ih != 0:
        for block in range(blocks):
            r = cut_tiles(rows, blocks, block)
            count = cut_tiles(rows, blocks, block + 1) - r
            here, start = x + r * f.x_row, pointer(f.bias, v) + panel * width
            split(of_x(f, count, scratch), count, here, f.x_row)
            add_x(
                v, f, count, panel, panel_end - panel, here, f.x_row, start, SAME, width, z + r * row, row, scratch
            )  # fmt: skip
        return
    for p in range(panel, panel_end):
        weights = weights_pointer(f.weights, v) + p * depth_of(v, f) * width
        bias = first_of_sums(v, f, p)
        for block in range(blocks):
            r = cut(rows, blocks, block)
            count = cut(rows, blocks, block + 1) - r
            to = z + (r * row + (p - panel) * width)
            product(v, count, PANEL, f.I, x + r * f.x_row, f.x_row, weights, SAME, bias, SAME, to, row, scratch)
            if v.scaled:
                scale_x(v, f, count, p, PANEL, to, row)


@kernel
def stage(v, f, lot, t, row, rows, to):
    """Copy x_t of the rows row .. row + rows to where h of the step before stands: just before it, so that [x, h]
    is one row of A.
    """
    for r in range(row, row + rows):
        copy(pointer(f.x, v) + at(v, f, lot, t, r, f.x_packed, f.x_step, f.x_row), 0, f.I, to + r * f.h_row)


@kernel
def enter(v, f, lot, row, row_end, unit, end, t, h, h_from, c_from):
    """Give the rows row .. row_end the state h, c of the caller, with which they take step t."""
    h_end = min(end, f.P)
    for r in range(row, row_end):
        here = place(v, f, lot, r)
        copy(pointer(c_from, v) + here * f.H, unit, end, pointer(f.c, v) + r * f.c_row)
        source = pointer(h_from, v) + here * f.P
        if v.holds:
            copy(source, unit, h_end, pointer(f.held, v) + r * f.h_row)
        if v.masked:
            mask = pointer(f.mask, v) + (t * f.mask_step + here * f.mask_row)
            for k in range(unit, h_end, lanes(h)):
                store(h + (r * f.h_row + k), load(source + k, h_end - k) * load(mask + k, h_end - k), h_end - k)
        else:
            copy(source, unit, h_end, h + r * f.h_row)


@kernel
def leave(v, f, lot, row, row_end, unit, end, h):
    """Hand the last state of the rows row .. row_end to the caller."""
    last = pointer(f.held, v) if v.holds else h
    for r in range(row, row_end):
        here = place(v, f, lot, r)
        copy(last + r * f.h_row, unit, min(end, f.P), pointer(f.h_n, v) + here * f.P)
        copy(pointer(f.c, v) + r * f.c_row, unit, end, pointer(f.c_n, v) + here * f.H)


@kernel
def begin(v, f, lot, known, t, unit, end, h):
    """Make the state ready for step t: rows beyond the `known` ones enter, others may be reset; and keep what goes into
    the gates.
    """
    rows = rows_at(v, f, lot, t)
    if known < rows:
        enter(v, f, lot, lot.row + known, lot.row + rows, unit, end, t, h, f.h_0, f.c_0)
    if v.ragged and f.resets != 0:
        for r in range(lot.row, lot.row + rows):
            if reset_at(v, f, lot, t, r):
                enter(v, f, lot, r, r + 1, unit, end, t, h, f.h_reset, f.c_reset)
    if v.keeps and f.inputs != 0:
        for r in range(lot.row, lot.row + rows):
            copy(h + r * f.h_row, unit, min(end, f.P), pointer(f.inputs, v) + taped(v, f, lot, t, r) * f.P)


@inline
def stage_mine(v, f, lot, part, t, h):
    """Copy x_t of this part's share of the rows that take step t."""
    rows, row, mine = rows_at(v, f, lot, t), lot.row, 0
    if f.by_units:
        mine = cut(rows, f.parts, part)
        rows = cut(rows, f.parts, part + 1) - mine
    stage(v, f, lot, t, row + mine, rows, h - f.I)


@kernel
def forward(v, part, frame):
    """One part of the forward pass; parts of a second direction follow those of the first, as its frame follows
    the first's.
    """
    f = read(frame, Forward)
    seat = part
    come(f.meeting, f.parties, seat)
    if part >= f.parts:
        frame += FORWARD_BYTES
        f = read(frame, Forward)
        part -= f.parts
    h = pointer(f.h, v)
    count = lanes(h)
    panels = (f.H + count - 1) // count
    panel, panel_end = 0, panels
    if f.by_units:
        if not all_run(f, seat):
            return
        panel, panel_end = cut(panels, f.parts, part), cut(panels, f.parts, part + 1)
    lot = lot_of(f, part)
    mode = flush_denormals()
    state = f.B * f.h_row
    unit, end = panel * count, min(panel_end * count, f.H)
    scratch = pointer(f.scratch, v) + part * f.scratch_part
    projected = scratch + f.projected
    projected_row = (panel_end - panel) * PANEL * count
    arrivals = 0
    t = step_of(f, 0)
    begin(v, f, lot, 0, t, unit, end, h)
    staged = wants_x(v, f, panels)
    if staged:
        stage_mine(v, f, lot, part, t, h)
    if f.by_units:  # h_0 must be whole before anybody reads it
        arrivals = meet(f, arrivals)
    lowest = 0  # the earliest step of the current chunk
    for s in range(f.T):
        if called_off(f.sync):
            break
        t = step_of(f, s)
        following = step_of(f, min(s + 1, f.T - 1))
        if f.chunk > 0:
            if s % f.chunk == 0:
                steps = min(f.chunk, f.T - s)
                lowest = t - steps + 1 if f.reverse else t
                project(v, f, panel, panel_end, lowest, steps, projected, scratch)
        h_before, h_after = h + (s & 1) * state, h + (1 - (s & 1)) * state
        rows = rows_at(v, f, lot, t)
        blocks = block_count(v, f, rows)
        for block in range(blocks):
            r = cut_block(v, f, rows, blocks, block)
            here = cut_block(v, f, rows, blocks, block + 1) - r
            z = projected + (first(v, f, t) - first(v, f, lowest) + r) * projected_row
            step(
                v, f, lot, panel, panel_end, lot.row + r, here, t, following, h_before, h_after, z, projected_row,
                scratch,
            )  # fmt: skip
        staying = rows_at(v, f, lot, following) if s + 1 < f.T else 0
        if staying < rows:
            leave(v, f, lot, lot.row + staying, lot.row + rows, unit, end, h_after)
        if s + 1 < f.T:
            if v.keeps:
                begin(v, f, lot, rows, following, unit, end, h_after)
            if staged:
                stage_mine(v, f, lot, part, following, h_after)
        if f.by_units:
            arrivals = meet(f, arrivals)
    if f.tape_past != 0 or f.y_past != 0:
        fence()
    go(f.meeting, f.parties, seat)
    if v.amx and f.digits_hh != 0:
        release()
    restore_mode(mode)
