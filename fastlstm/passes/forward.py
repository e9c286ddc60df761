"""The forward pass of one layer over a whole sequence, for inference and, with a tape, for training.

For every step and every panel (one vector of units, its four gates): z = bias + W x_t + R h' by the tile, then the
cell, while z is in L1. Rows are independent, so threads that split rows never meet; threads that split units meet
at one barrier a step. W x is either computed for a chunk of steps beforehand (few rows: W is then read once a
chunk) or as more steps of k of the same product (many rows). The order in which an element's products are added is
the same in all these ways: bias, x_0 .. x_{I-1}, h_0 .. h_{H-1}.
"""

from __future__ import annotations

from typing import NamedTuple

from fastlstm.kernels.gates import cell_fwd
from fastlstm.kernels.gemm import BLOCK_ROWS, FULL, NEXT, SAME, cut, gemm, panels_at_once
from fastlstm.runtime.jit import inline, kernel, read
from fastlstm.simd.atomic import LINE, barrier, flush_denormals, rendezvous, restore_mode
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import lanes, load, pointer, store


class Forward(NamedTuple):
    """Arguments of one direction of one layer: sizes, addresses of contiguous arrays, strides in elements."""

    T: int
    B: int
    I: int
    H: int
    parts: int  # threads that share this direction
    by_units: int  # whether they split units rather than rows
    chunk: int  # steps whose W x is computed beforehand; 0: with each step
    reverse: int  # whether time runs from T - 1 to 0
    x: int  # (T, B, I), last axis contiguous
    x_step: int
    x_row: int
    weights: int  # [panel][I + H][gate][lane]
    bias: int  # [panel][gate][lane]
    h_0: int  # (B, H)
    c_0: int  # (B, H)
    y: int  # (T, B, H), last axis contiguous
    y_step: int
    y_row: int
    h_n: int  # (B, H)
    c_n: int  # (B, H)
    gates: int  # tape: (T, B, 4, H) of i, f, g, o
    cells: int  # tape: (T, B, H) of c
    h: int  # workspace: two times (B, h_row), h of the step before and of this one; x stands before each row
    c: int  # workspace: (B, h_row)
    h_row: int
    scratch: int  # workspace of each part: z of a block of rows, then W x of a chunk
    scratch_part: int
    parties: int  # threads of the whole call, both directions
    meeting: int  # where they meet once: arrivals and, on a line of its own, the verdict
    sync: int  # barrier of the parts


@kernel
def project(v, f, first, last, t, steps, z):
    """z = bias + W x for the panels first .. last and all rows of the steps t .. t + steps: (steps * B, panels, 4
    vectors).
    """
    x = pointer(f.x, v) + t * f.x_step
    width = PANEL * lanes(z)
    row = (last - first) * width
    rows = steps * f.B
    blocks = (rows + BLOCK_ROWS - 1) // BLOCK_ROWS
    for panel in range(first, last):
        weights = pointer(f.weights, v) + panel * (f.I + f.H) * width
        bias = pointer(f.bias, v) + panel * width
        for block in range(blocks):
            r = cut(rows, blocks, block)
            count = cut(rows, blocks, block + 1) - r
            gemm(
                count,
                FULL,
                f.I,
                x + r * f.x_row,
                f.x_row,
                NEXT,
                weights,
                SAME,
                bias,
                SAME,
                z + (r * row + (panel - first) * width),
                row,
            )


@kernel
def stage(v, f, t, row, rows, to):
    """Copy x_t of the rows row .. row + rows to where h of the step before stands: just before it, so that [x, h]
    is one row of A.
    """
    x = pointer(f.x, v) + t * f.x_step
    count = lanes(x)
    for r in range(row, row + rows):
        for k in range(0, f.I, count):
            store(to + (r * f.h_row + k), load(x + (r * f.x_row + k), f.I - k), f.I - k)


@inline
def update(v, f, t, row, panel, z, h):
    """The cell on one vector of units of one row: from z to c, h, y and the tape."""
    count = lanes(z)
    unit = panel * count
    n = f.H - unit
    state = row * f.h_row + unit
    c = pointer(f.c, v) + state
    i, g_f, g, o, c_new, h_new = cell_fwd(
        v, load(z), load(z + count), load(z + 2 * count), load(z + 3 * count), load(c)
    )
    store(c, c_new)
    store(h + state, h_new)
    store(pointer(f.y, v) + (t * f.y_step + row * f.y_row + unit), h_new, n)
    if v.training:
        gates = pointer(f.gates, v) + ((t * f.B + row) * 4 * f.H + unit)
        store(gates, i, n)
        store(gates + f.H, g_f, n)
        store(gates + 2 * f.H, g, n)
        store(gates + 3 * f.H, o, n)
        store(pointer(f.cells, v) + ((t * f.B + row) * f.H + unit), c_new, n)


@kernel
def step(v, f, first, last, row, rows, t, h_before, h_after, projected, projected_row, scratch):
    """One step of the rows row .. row + rows and the panels first .. last; `projected` holds their W x where a
    chunk was computed beforehand.
    """
    count = lanes(scratch)
    width = PANEL * count
    total = f.I + f.H
    skip = f.I if f.chunk > 0 else SAME
    a = h_before + (row * f.h_row - f.I + skip)
    at_once = panels_at_once(rows, last - first)
    panel = first
    while panel < last:
        while panel + at_once > last:
            at_once //= 2
        z_row = at_once * width
        b = pointer(f.weights, v) + (panel * total + skip) * width
        if f.chunk > 0:
            start, start_row = projected + (panel - first) * width, projected_row
        else:
            start, start_row = pointer(f.bias, v) + panel * width, SAME
        gemm(rows, at_once * PANEL, total - skip, a, f.h_row, NEXT, b, total * width, start, start_row, scratch, z_row)
        for r in range(rows):
            for p in range(at_once):
                update(v, f, t, row + r, panel + p, scratch + (r * z_row + p * width), h_after)
        panel += at_once


@inline
def move_state(v, f, row, rows, first, last, h_from, c_from, from_row, h_to, c_to, to_row):
    """Copy h and c of the rows row .. row + rows and the units first .. last."""
    for r in range(row, row + rows):
        for unit in range(first, last, lanes(h_from)):
            n = last - unit
            store(h_to + (r * to_row + unit), load(h_from + (r * from_row + unit), n), n)
            store(c_to + (r * to_row + unit), load(c_from + (r * from_row + unit), n), n)


@kernel
def forward(v, part, address):
    """One part of the forward pass; parts of a second direction follow those of the first, as its frame follows
    the first's.
    """
    f = read(address, Forward)
    if part >= f.parts:
        f = read(address + 8 * len(f), Forward)
        part -= f.parts
    h = pointer(f.h, v)
    count = lanes(h)
    panels = (f.H + count - 1) // count
    row, row_end, first, last = 0, f.B, 0, panels
    if f.by_units:
        if not rendezvous(f.meeting, f.meeting + LINE, f.parties):
            return
        first, last = cut(panels, f.parts, part), cut(panels, f.parts, part + 1)
    else:
        row, row_end = cut(f.B, f.parts, part), cut(f.B, f.parts, part + 1)
    mode = flush_denormals()
    state = f.B * f.h_row
    units, units_end = first * count, min(last * count, f.H)
    move_state(
        v,
        f,
        row,
        row_end - row,
        units,
        units_end,
        pointer(f.h_0, v),
        pointer(f.c_0, v),
        f.H,
        h,
        pointer(f.c, v),
        f.h_row,
    )
    scratch = pointer(f.scratch, v) + part * f.scratch_part
    projected = scratch + BLOCK_ROWS * PANEL * count
    projected_row = (last - first) * PANEL * count
    blocks = (row_end - row + BLOCK_ROWS - 1) // BLOCK_ROWS
    arrivals = 0
    mine, mine_end = row, row_end  # rows whose x this part copies
    if f.by_units:
        mine, mine_end = cut(f.B, f.parts, part), cut(f.B, f.parts, part + 1)
    if f.chunk == 0:
        stage(v, f, f.T - 1 if f.reverse else 0, mine, mine_end - mine, h - f.I)
    if f.by_units:  # h_0 must be whole before anybody reads it
        arrivals += f.parts
        barrier(f.sync, arrivals)
    lowest = 0  # the earliest step of the current chunk
    for s in range(f.T):
        t = f.T - 1 - s if f.reverse else s
        if f.chunk > 0:
            if s % f.chunk == 0:
                steps = min(f.chunk, f.T - s)
                lowest = t - steps + 1 if f.reverse else t
                project(v, f, first, last, lowest, steps, projected)
        h_before, h_after = h + (s & 1) * state, h + (1 - (s & 1)) * state
        for block in range(blocks):
            r = row + cut(row_end - row, blocks, block)
            rows = row + cut(row_end - row, blocks, block + 1) - r
            z = projected + ((t - lowest) * f.B + r) * projected_row
            step(v, f, first, last, r, rows, t, h_before, h_after, z, projected_row, scratch)
        if f.chunk == 0 and s + 1 < f.T:
            stage(v, f, t - 1 if f.reverse else t + 1, mine, mine_end - mine, h_after - f.I)
        if f.by_units:
            arrivals += f.parts
            barrier(f.sync, arrivals)
    h = h + (f.T & 1) * state
    move_state(
        v,
        f,
        row,
        row_end - row,
        units,
        units_end,
        h,
        pointer(f.c, v),
        f.h_row,
        pointer(f.h_n, v),
        pointer(f.c_n, v),
        f.H,
    )
    restore_mode(mode)
