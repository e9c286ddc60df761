"""The backward pass of one layer: gradients of a loss with respect to x, the initial state and every parameter, from
those of y and the last state.

Backward through time, a step computes dh = dy_t + dG_{t+1} W_hh by the tile and from it dG_t, the gradient of the
gates' pre-activations, which overwrites the gates on the tape. After each chunk of steps dx = dG W_ih and dW +=
dG^T [x, h] follow as products over all rows of the chunk: dx cut by rows, dW by columns between the threads, so
that the order of every sum is the same at any thread count.

h itself is not on the tape: o tanh(c) is at hand at step t, where it is needed for the product with dG_{t+1}; so dW
runs one step behind.
"""

from __future__ import annotations

from typing import NamedTuple

from fastlstm.kernels.gates import cell_bwd
from fastlstm.kernels.gemm import BLOCK_ROWS, NEXT, SAME, cut, gemm, pack_strips, panels_at_once
from fastlstm.runtime.jit import inline, kernel, read
from fastlstm.simd.atomic import LINE, barrier, flush_denormals, rendezvous, restore_mode
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import lanes, load, pointer, splat, store

PRODUCT_ROWS = 512  # rows of x and h to one product for dW: dW is loaded and stored once for so many
PANELS_TO_PACK = 6  # panels of dW in a part from which on packing [x, h] pays
ZEROS = 4 * PANEL  # vectors of zeros at the head of each part's scratch: the start of sums, as wide as the widest tile


class Backward(NamedTuple):
    """Arguments of one direction of one layer: sizes, addresses of contiguous arrays, strides in elements."""

    T: int
    B: int
    I: int
    H: int
    parts: int  # threads that share this direction
    by_units: int  # whether they split units rather than rows in the steps
    chunk: int  # steps between two products for dx and dW
    reverse: int  # whether the forward pass ran from T - 1 to 0
    x: int  # (T * B, I), rows x_row apart
    x_row: int
    gates: int  # tape: (T, B, 4, H) of i, f, g, o; becomes dG
    cells: int  # tape: (T, B, H) of c
    h_0: int  # (B, H)
    c_0: int  # (B, H)
    dy: int  # (T, B, H), last axis contiguous
    dy_step: int
    dy_row: int
    dh_n: int  # (B, H)
    dc_n: int  # (B, H)
    w_hh: int  # packed columns: K = 4H, N = H
    w_ih: int  # packed columns: K = 4H, N = I
    dx: int  # (T, B, I), last axis contiguous
    dx_step: int
    dx_row: int
    dh_0: int  # (B, H)
    dc_0: int  # (B, H)
    dw_ih: int  # (4H, I)
    dw_hh: int  # (4H, H)
    db: int  # (4H,)
    dw: int  # workspace: (I + H, dw_row), the gradients of both matrices, transposed
    dw_row: int
    dg: int  # workspace: two times (B, dg_row), dG of the step after and of this one
    dg_row: int
    dc: int  # workspace: (B, h_row)
    h: int  # workspace: (chunk * B, h_row)
    h_row: int
    scratch: (
        int  # workspace of each part: zeros, then a block of rows, or a packed panel of dG and all strips of [x, h]
    )
    scratch_part: int
    parties: int  # threads of the whole call, both directions
    meeting: int  # where they meet once: arrivals and, on a line of its own, the verdict
    sync: int  # barrier of the parts


@inline
def update(v, f, s, t, row, unit, z, dg_after, h):
    """The cell backward on one vector of units of one row: dG over the gates and into dg_after, the new dc, h_t."""
    n = f.H - unit
    gates = pointer(f.gates, v) + ((t * f.B + row) * 4 * f.H + unit)
    cell = (t * f.B + row) * f.H + unit
    step = -f.B * f.H if f.reverse else f.B * f.H  # from the step before to this one
    before = pointer(f.c_0, v) + (row * f.H + unit) if s == 0 else pointer(f.cells, v) + (cell - step)
    dc = pointer(f.dc, v) + (row * f.h_row + unit)
    dh = load(z, n) + load(pointer(f.dy, v) + (t * f.dy_step + row * f.dy_row + unit), n)
    dz_i, dz_f, dz_g, dz_o, dc_before, h_here = cell_bwd(
        v,
        load(gates, n),
        load(gates + f.H, n),
        load(gates + 2 * f.H, n),
        load(gates + 3 * f.H, n),
        load(before, n),
        load(pointer(f.cells, v) + cell, n),
        dh,
        load(dc),
    )
    store(dc, dc_before)
    store(h + (row * f.h_row + unit), h_here)
    to = dg_after + (row * f.dg_row + unit)
    store(gates, dz_i, n)
    store(gates + f.H, dz_f, n)
    store(gates + 2 * f.H, dz_g, n)
    store(gates + 3 * f.H, dz_o, n)
    store(to, dz_i, n)
    store(to + f.H, dz_f, n)
    store(to + 2 * f.H, dz_g, n)
    store(to + 3 * f.H, dz_o, n)


@inline
def vectors_of(columns, first, count, at_once):
    """Vectors that `at_once` panels of four hold from column `first` on."""
    return min(at_once * PANEL, (columns - first + count - 1) // count)


@inline
def panel_count(columns, count):
    """Panels of four vectors that hold so many columns."""
    return (columns + PANEL * count - 1) // (PANEL * count)


@inline
def fitting(f, at_once, panel, last, count):
    """How many of `at_once` panels can be taken together from `panel` on: full ones only, but for a single one."""
    while at_once > 1 and (
        panel + at_once > last or (panel + at_once) * PANEL * count > (f.H + count - 1) // count * count
    ):
        at_once //= 2
    return at_once


@kernel
def step(v, f, first, last, row, rows, s, t, dg_before, dg_after, h, scratch):
    """One step of the rows row .. row + rows and the panels first .. last of dh."""
    count = lanes(scratch)
    z = scratch + ZEROS * count
    panel = first
    at_once = panels_at_once(rows, last - first)
    while panel < last:
        at_once = fitting(f, at_once, panel, last, count)
        unit = panel * PANEL * count
        vectors = vectors_of(f.H, unit, count, at_once)
        z_row = vectors * count
        if s == f.T - 1:
            for r in range(rows):
                for u in range(0, vectors * count, count):
                    n = f.H - unit - u
                    store(z + (r * z_row + u), load(pointer(f.dh_n, v) + ((row + r) * f.H + unit + u), n))
        else:
            w = pointer(f.w_hh, v) + 4 * f.H * unit
            gemm(
                rows,
                vectors,
                4 * f.H,
                dg_before + row * f.dg_row,
                f.dg_row,
                NEXT,
                w,
                4 * f.H * PANEL * count,
                scratch,
                SAME,
                z,
                z_row,
            )
        for r in range(rows):
            for u in range(0, vectors * count, count):
                update(v, f, s, t, row + r, unit + u, z + (r * z_row + u), dg_after, h)
        panel += at_once


@kernel
def initial_state(v, f, first, last, row, rows, dg, scratch):
    """dh_0 = dG_0 W_hh, and dc_0, for the rows row .. row + rows and the panels first .. last."""
    count = lanes(scratch)
    z = scratch + ZEROS * count
    for panel in range(first, last):
        unit = panel * PANEL * count
        vectors = vectors_of(f.H, unit, count, 1)
        z_row = vectors * count
        w = pointer(f.w_hh, v) + 4 * f.H * unit
        gemm(rows, vectors, 4 * f.H, dg + row * f.dg_row, f.dg_row, NEXT, w, SAME, scratch, SAME, z, z_row)
        for r in range(rows):
            for u in range(0, z_row, count):
                n, to = f.H - unit - u, (row + r) * f.H + unit + u
                store(pointer(f.dh_0, v) + to, load(z + (r * z_row + u)), n)
                store(pointer(f.dc_0, v) + to, load(pointer(f.dc, v) + ((row + r) * f.h_row + unit + u)), n)


@kernel
def input_gradient(v, f, t, first, last, scratch):
    """dx = dG W_ih for the rows first .. last of the steps from t on."""
    count = lanes(scratch)
    z = scratch + ZEROS * count
    blocks = (last - first + BLOCK_ROWS - 1) // BLOCK_ROWS
    for block in range(blocks):
        row = first + cut(last - first, blocks, block)
        rows = first + cut(last - first, blocks, block + 1) - row
        for column in range(0, f.I, PANEL * count):
            vectors = vectors_of(f.I, column, count, 1)
            z_row = vectors * count
            dg = pointer(f.gates, v) + (t * f.B + row) * 4 * f.H
            gemm(
                rows,
                vectors,
                4 * f.H,
                dg,
                4 * f.H,
                NEXT,
                pointer(f.w_ih, v) + 4 * f.H * column,
                SAME,
                scratch,
                SAME,
                z,
                z_row,
            )
            for r in range(rows):
                at, b = t + (row + r) // f.B, (row + r) % f.B
                dx = pointer(f.dx, v) + (at * f.dx_step + b * f.dx_row + column)
                for u in range(0, z_row, count):
                    store(dx + u, load(z + (r * z_row + u)), f.I - column - u)


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


@inline
def accumulate(rows, vectors, depth, w, row, packed, dw, dw_row):
    """dw += w^T packed, where w has rows `row` elements apart or, if that is 0, was packed by `pack_blocks`."""
    blocks = row_blocks(rows)
    for block in range(blocks):
        r = cut(rows, blocks, block)
        a = w + (r * depth if row == 0 else r)
        c = dw + r * dw_row
        gemm(cut(rows, blocks, block + 1) - r, vectors, depth, a, NEXT, row, packed, SAME, c, dw_row, c, dw_row)


@kernel
def weight_gradient(v, f, first, last, t, rows, h, h_row, scratch):
    """dW += [x, h]^T dG and db += sum of dG over so many rows from step t on, for the panels first .. last of the
    4H columns; h holds h_{t-1}.
    """
    count = lanes(scratch)
    packed = scratch + ZEROS * count
    strips = packed + PRODUCT_ROWS * PANEL * count
    db = pointer(f.db, v)
    for k in range(0, rows, PRODUCT_ROWS):
        depth = min(PRODUCT_ROWS, rows - k)
        dg = pointer(f.gates, v) + (t * f.B + k) * 4 * f.H
        x_here, x_row, h_here, h_here_row = pointer(f.x, v) + (t * f.B + k) * f.x_row, f.x_row, h + k * h_row, h_row
        if last - first >= PANELS_TO_PACK:
            pack_blocks(x_here, depth, f.I, x_row, strips)
            pack_blocks(h_here, depth, f.H, h_row, strips + f.I * depth)
            x_here, x_row, h_here, h_here_row = strips, SAME, strips + f.I * depth, SAME
        for panel in range(first, last):
            column = panel * PANEL * count
            vectors = vectors_of(4 * f.H, column, count, 1)
            width = vectors * count
            for u in range(0, width, count):
                n = 4 * f.H - column - u
                total = load(db + (column + u), n)
                for i in range(depth):
                    value = load(dg + (i * 4 * f.H + column + u), n)
                    store(packed + (i * width + u), value)
                    total = total + value
                store(db + (column + u), total, n)
            dw = pointer(f.dw, v) + column
            accumulate(f.I, vectors, depth, x_here, x_row, packed, dw, f.dw_row)
            accumulate(f.H, vectors, depth, h_here, h_here_row, packed, dw + f.I * f.dw_row, f.dw_row)


@kernel
def clear(v, f, first, last):
    """Set dW and db to zero in the panels first .. last of their columns."""
    count = lanes(v)
    for column in range(first * PANEL * count, min(last * PANEL * count, 4 * f.H), count):
        n = 4 * f.H - column
        zero = splat(0.0, pointer(f.dw, v))
        store(pointer(f.db, v) + column, zero, n)
        for row in range(f.I + f.H):
            store(pointer(f.dw, v) + (row * f.dw_row + column), zero)


@kernel
def unpack(v, f, first, last):
    """Write the panels first .. last of the transposed dW into dw_ih (4H, I) and dw_hh (4H, H)."""
    count = lanes(v)
    dw = pointer(f.dw, v)
    end = min(last * PANEL * count, 4 * f.H)
    for row in range(0, f.I + f.H, count):  # squares that stay in L1
        for column in range(first * PANEL * count, end):
            for r in range(row, min(row + count, f.I + f.H)):
                value = dw[r * f.dw_row + column]
                if r < f.I:
                    pointer(f.dw_ih, v)[column * f.I + r] = value
                else:
                    pointer(f.dw_hh, v)[column * f.H + r - f.I] = value


@inline
def meet(f, arrivals):
    """Wait for all parts."""
    if f.parts > 1:
        barrier(f.sync, arrivals + f.parts)
    return arrivals + f.parts


@kernel
def backward(v, part, address):
    """One part of the backward pass; parts of a second direction follow those of the first, as its frame follows
    the first's.
    """
    f = read(address, Backward)
    if part >= f.parts:
        f = read(address + 8 * len(f), Backward)
        part -= f.parts
    if f.parts > 1:
        if not rendezvous(f.meeting, f.meeting + LINE, f.parties):
            return
    mode = flush_denormals()
    count = lanes(v)
    panels, columns = panel_count(f.H, count), panel_count(4 * f.H, count)
    column, column_end = cut(columns, f.parts, part), cut(columns, f.parts, part + 1)
    row, row_end, first, last = 0, f.B, 0, panels
    if f.by_units:
        first, last = cut(panels, f.parts, part), cut(panels, f.parts, part + 1)
    else:
        row, row_end = cut(f.B, f.parts, part), cut(f.B, f.parts, part + 1)
    blocks = (row_end - row + BLOCK_ROWS - 1) // BLOCK_ROWS
    scratch = pointer(f.scratch, v) + part * f.scratch_part
    for k in range(ZEROS):
        store(scratch + k * count, splat(0.0, scratch))
    for r in range(row, row_end):
        for unit in range(first * PANEL * count, min(last * PANEL * count, f.H), count):
            store(pointer(f.dc, v) + (r * f.h_row + unit), load(pointer(f.dc_n, v) + (r * f.H + unit), f.H - unit))
    clear(v, f, column, column_end)
    state = f.B * f.dg_row
    arrivals = 0
    s = f.T - 1
    behind = 0  # steps whose dG waits for its h: the last one of the chunk before
    while s >= 0:
        steps = min(f.chunk, s + 1)
        lowest = f.T - 1 - s if f.reverse else s - steps + 1
        for k in range(steps):
            t = f.T - 1 - s if f.reverse else s
            dg_before = pointer(f.dg, v) + ((s + 1) & 1) * state
            dg_after = pointer(f.dg, v) + (s & 1) * state
            h = pointer(f.h, v) + (t - lowest) * f.B * f.h_row
            for block in range(blocks):
                r = row + cut(row_end - row, blocks, block)
                rows = row + cut(row_end - row, blocks, block + 1) - r
                step(v, f, first, last, r, rows, s, t, dg_before, dg_after, h, scratch)
            s -= 1
            if f.by_units and k + 1 < steps:
                arrivals = meet(f, arrivals)
        arrivals = meet(f, arrivals)
        share, share_end = cut(steps * f.B, f.parts, part), cut(steps * f.B, f.parts, part + 1)
        input_gradient(v, f, lowest, share, share_end, scratch)
        # h_t of this chunk belongs to dG of the step after: one later in time, or earlier in reverse; the last step
        # has none.
        shifted = steps - 1 + behind
        if shifted > 0:
            if f.reverse:
                skip = 1 - behind
                h = pointer(f.h, v) + skip * f.B * f.h_row
                weight_gradient(v, f, column, column_end, lowest + skip - 1, shifted * f.B, h, f.h_row, scratch)
            else:
                weight_gradient(v, f, column, column_end, lowest + 1, shifted * f.B, pointer(f.h, v), f.h_row, scratch)
        behind = 1
        arrivals = meet(f, arrivals)
    t = f.T - 1 if f.reverse else 0
    weight_gradient(v, f, column, column_end, t, f.B, pointer(f.h_0, v), f.H, scratch)
    unpack(v, f, column, column_end)
    dg = pointer(f.dg, v)
    for block in range(blocks):
        r = row + cut(row_end - row, blocks, block)
        initial_state(v, f, first, last, r, row + cut(row_end - row, blocks, block + 1) - r, dg, scratch)
    restore_mode(mode)
