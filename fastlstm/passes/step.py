"""One step forward, and a few steps of a few rows backward, from the weights as they lie.

The long passes pack the weights, which is paid again after every update of the parameters, and backward they add dW up
in a transposed buffer and turn that over at the end: each costs more than all the products of a step or two. Here
weights are read where they are, and dW is written once. Sums are the long passes', and so are the bits.
"""

from __future__ import annotations

from fastlstm.kernels.digits import (
    NOTHING,
    SUMS,
    balance,
    digit_bytes,
    holds,
    multiply,
    pack_panel,
    panel_of,
)
from fastlstm.kernels.gates import memory_bwd, memory_fwd, output_bwd, output_fwd
from fastlstm.kernels.gemm import DEPTH, NEXT, SAME, TILE_ROWS
from fastlstm.kernels.pack import pack_units
from fastlstm.passes.digits import end_of, placed, split, whole_lines
from fastlstm.passes.frames import WIDE, StepBackward, StepForward
from fastlstm.passes.rows import load_gates, store_gates
from fastlstm.runtime.jit import inline, kernel, read
from fastlstm.simd.amx import release
from fastlstm.simd.atomic import flush_denormals, restore_mode
from fastlstm.simd.tile import PANEL, lying_tile
from fastlstm.simd.vector import address, lanes, load, pointer, splat, store


@inline
def vectors_at_once(rows, left):
    """How many of the vectors left a tile of so many rows takes."""
    if rows > 1 and left >= PANEL:
        return PANEL
    return WIDE if left >= WIDE else PANEL if left >= PANEL else 2 if left >= 2 else 1


@inline
def tiles(rows, vectors, depth, a, a_row, a_step, b, b_row, start, start_row, c, c_row):
    """c = start + a b for so many vectors: all rows a tile takes at once, or, without four vectors, row by row."""
    if vectors == PANEL:
        lying_tile(rows, vectors, depth, a, a_row, a_step, b, b_row, start, start_row, c, c_row)
    else:
        for r in range(rows):
            lying_tile(
                1,
                vectors,
                depth,
                a + r * a_row,
                a_row,
                a_step,
                b,
                b_row,
                start + r * start_row,
                SAME,
                c + r * c_row,
                SAME,
            )


@kernel
def times(rows, columns, depth, a, a_row, b, b_row, c, c_row, scratch):
    """c = a b, with b (depth, columns) as it lies; scratch holds `WIDE` vectors of zeros, and what columns beyond the
    last whole vector take.
    """
    count = lanes(c)
    whole = columns // count
    number = (rows + TILE_ROWS - 1) // TILE_ROWS
    height, taller = rows // number, rows % number
    vector = 0
    while vector < whole:
        at_once = vectors_at_once(rows, whole - vector)
        here = vector * count
        to, start, start_row = c + here, scratch, SAME
        for k in range(0, depth, DEPTH):  # a block of b stays in L1 while all rows pass over it
            deep = min(DEPTH, depth - k)
            r = 0
            for i in range(number):
                high = height + 1 if i < taller else height
                tiles(
                    high, at_once, deep, a + (r * a_row + k), a_row, NEXT, b + (k * b_row + here), b_row,
                    start + r * start_row, start_row, to + r * c_row, c_row,
                )  # fmt: skip
                r += high
            start, start_row = to, c_row
        vector += at_once
    left = columns - whole * count
    if left > 0:
        to = scratch + WIDE * count
        packed = to + count
        for k in range(depth):
            store(packed + k * count, load(b + (k * b_row + whole * count), left))
        for r in range(rows):
            lying_tile(1, 1, depth, a + r * a_row, SAME, NEXT, packed, count, scratch, SAME, to, SAME)
            store(c + (r * c_row + whole * count), load(to), left)


@kernel
def outer(rows, columns, first, depth, a, b, b_row, c, scratch):
    """c (rows, columns) = a^T b for few steps of k, those from `first` on before the others; scratch as in `times`."""
    count = lanes(c)
    whole = columns // count
    left = columns - whole * count
    to = scratch + WIDE * count
    packed = to + TILE_ROWS * count
    if left > 0:
        for k in range(depth):
            store(packed + k * count, load(b + (k * b_row + whole * count), left))
    late, b_late, packed_late = a + first * rows, b + first * b_row, packed + first * count
    for r in range(0, rows, TILE_ROWS):
        high = min(TILE_ROWS, rows - r)
        vector = 0
        while vector < whole:
            at_once = vectors_at_once(high, whole - vector)
            here = vector * count
            at = c + (r * columns + here)
            tiles(high, at_once, depth - first, late + r, NEXT, rows, b_late + here, b_row, scratch, SAME, at, columns)
            if first > 0:
                tiles(high, at_once, first, a + r, NEXT, rows, b + here, b_row, at, columns, at, columns)
            vector += at_once
        if left > 0:
            tiles(high, 1, depth - first, late + r, NEXT, rows, packed_late, count, scratch, SAME, to, count)
            if first > 0:
                tiles(high, 1, first, a + r, NEXT, rows, packed, count, to, count, to, count)
            for k in range(high):
                store(c + ((r + k) * columns + whole * count), load(to + k * count), left)


@inline
def copy(rows, columns, a, a_row, b, b_row):
    """b[:rows, :columns] = a, up to whole vectors of b."""
    for r in range(rows):
        for unit in range(0, columns, lanes(a)):
            store(b + (r * b_row + unit), load(a + (r * a_row + unit), columns - unit))


@kernel
def cells(v, f, t, z, dc, dg, h_after, row):
    """The cell backward for all rows of a step: dG, the new dc, and h_t; z holds what dh has from the step after."""
    before = pointer(f.c_0, v) if t == 0 else pointer(f.cells, v) + (t - 1) * f.B * f.H
    here = pointer(f.cells, v) + t * f.B * f.H
    for r in range(f.B):
        for unit in range(0, f.H, lanes(z)):
            n, at, to = f.H - unit, r * f.H + unit, r * row + unit
            gates = pointer(f.gates, v) + ((t * f.B + r) * 4 * f.H + unit)
            dh = load(z + to) + load(pointer(f.dy, v) + (t * f.dy_step + r * f.dy_row + unit), n)
            i, g_f, g, o = load_gates(gates, f.H, n)
            c_before, c = load(before + at, n), load(here + at, n)
            dz_o, dc_here, h = output_bwd(v, o, c_before, c, c, dh, load(dc + to), z)
            dz_i, dz_f, dz_g, dc_before = memory_bwd(v, i, g_f, g, dz_o, c_before, dc_here, z)
            store(dc + to, dc_before)
            store(h_after + to, h)
            store_gates(dg + (r * 4 * f.H + unit), f.H, n, dz_i, dz_f, dz_g, dz_o)


@kernel
def step_backward(v, frame):
    """The whole backward pass of a layer with one direction."""
    f = read(frame, StepBackward)
    mode = flush_denormals()
    count = lanes(v)
    row = (f.H + count - 1) // count * count
    zeros = pointer(f.space, v)
    for k in range(0, WIDE * count, count):
        store(zeros + k, splat(0.0, zeros))
    z = zeros + (WIDE + TILE_ROWS + max(4 * f.H, f.T * f.B)) * count
    dc = z + f.B * row
    h = dc + f.B * row  # h_0, then h of each step
    dg, w_hh = h + (f.T + 1) * f.B * row, pointer(f.w_hh, v)
    copy(f.B, f.H, pointer(f.dh_n, v), f.H, z, row)
    copy(f.B, f.H, pointer(f.dc_n, v), f.H, dc, row)
    copy(f.B, f.H, pointer(f.h_0, v), f.H, h, row)
    for s in range(f.T):
        t = f.T - 1 - s
        if s > 0:
            times(f.B, f.H, 4 * f.H, dg + (t + 1) * f.B * 4 * f.H, 4 * f.H, w_hh, f.H, z, row, zeros)
        cells(v, f, t, z, dc, dg + t * f.B * 4 * f.H, h + (t + 1) * f.B * row, row)
    times(f.B, f.H, 4 * f.H, dg, 4 * f.H, w_hh, f.H, pointer(f.dh_0, v), f.H, zeros)
    for r in range(f.B):
        for unit in range(0, f.H, count):
            store(pointer(f.dc_0, v) + (r * f.H + unit), load(dc + (r * row + unit)), f.H - unit)
    rows, x = f.T * f.B, pointer(f.x, v)
    times(rows, f.I, 4 * f.H, dg, 4 * f.H, pointer(f.w_ih, v), f.I, pointer(f.dx, v), f.I, zeros)
    # The long pass has h one step behind, and so adds the first step last.
    first = f.B if f.T > 1 else 0
    outer(4 * f.H, f.I, first, rows, dg, x, f.I, pointer(f.dw_ih, v), zeros)
    outer(4 * f.H, f.H, first, rows, dg, h, row, pointer(f.dw_hh, v), zeros)
    for unit in range(0, 4 * f.H, count):
        total = splat(0.0, zeros)
        for k in range(rows):
            r = (first + k) % rows
            total = total + load(dg + (r * 4 * f.H + unit), 4 * f.H - unit)
        store(pointer(f.db, v) + unit, total, 4 * f.H - unit)
    restore_mode(mode)


@inline
def add_product(f, panel, w, depth, a, start, start_row, packed, z):
    """z = start + a w^T for one vector of units and its four gates: w (4H, depth) is packed by blocks into L1."""
    count = lanes(z)
    width = PANEL * count
    for k in range(0, depth, DEPTH):
        deep = min(DEPTH, depth - k)
        for gate in range(4):
            rows = w + ((gate * f.H + panel * count) * depth + k)
            pack_units(rows, depth, min(count, f.H - panel * count), deep, packed + gate * count, width)
        for r in range(0, f.B, TILE_ROWS):
            high = min(TILE_ROWS, f.B - r)
            at, first, to = a + (r * depth + k), start + r * start_row, z + r * width
            lying_tile(high, PANEL, deep, at, depth, NEXT, packed, width, first, start_row, to, width)
        start, start_row = z, width


@inline
def in_digits(f, z):
    """W x and R h in digits, with room for a panel of each matrix, and where 16 rows of one are cut: behind two blocks
    of z.
    """
    w_hh = whole_lines(address(z + 2 * f.B * PANEL * lanes(z)))
    w_ih = panel_of(w_hh, f.H, 1)
    scratch = panel_of(w_ih, f.I, 1)
    sums = scratch + max(digit_bytes(f.I), digit_bytes(f.H))
    h = placed(f.H, SAME, w_hh, f.B, sums, sums + SUMS)
    x = placed(f.I, SAME, w_ih, f.B, sums, end_of(h, f.B))
    return x, h, scratch


@kernel
def balance_and_split(f, p, w, a):
    """Cut all rows into digits, before any panel is multiplied with them."""
    balance(w, 4 * f.H, p.depth, pointer(p.packed, w))
    split(p, f.B, a, p.depth)


@kernel
def add_in_digits(f, p, panel, w, a, start, start_row, packed, z, scratch):
    """As `add_product`, in whole numbers."""
    width = PANEL * lanes(z)
    factors, b = pointer(p.factors, z), panel_of(p.packed, p.depth, 0)
    pack_panel(w, f.H, p.depth, panel, pointer(p.packed, z), b, scratch)
    if not holds(b):
        add_product(f, panel, w, p.depth, a, start, start_row, packed, z)
        return
    other = z + f.B * width  # of rows that could not be split
    for r in range(f.B):
        if factors[r] == NOTHING:
            add_product(f, panel, w, p.depth, a, start, start_row, packed, other)
            break
    multiply(f.B, PANEL, p.depth, p.digits, factors, b, start, start_row, z, width, p.sums)
    for r in range(f.B):
        if factors[r] == NOTHING:
            copy(1, width, other + r * width, width, z + r * width, width)


@kernel
def step_forward(v, frame):
    """One step of a layer with one direction."""
    f = read(frame, StepForward)
    mode = flush_denormals()
    count = lanes(v)
    width = PANEL * count
    bias = pointer(f.space, v)
    packed = bias + width
    z = packed + DEPTH * width
    w_ih, w_hh = pointer(f.w_ih, v), pointer(f.w_hh, v)
    x, h_0 = pointer(f.x, v), pointer(f.h_0, v)
    if v.amx:
        of_x, of_h, scratch = in_digits(f, z)
        if f.digits_ih != 0:
            balance_and_split(f, of_x, w_ih, x)
        if f.digits_hh != 0:
            balance_and_split(f, of_h, w_hh, h_0)
    for panel in range((f.H + count - 1) // count):
        unit = panel * count
        n = f.H - unit
        for gate in range(4):
            at = gate * f.H + unit
            store(bias + gate * count, load(pointer(f.b_ih, v) + at, n) + load(pointer(f.b_hh, v) + at, n))
        if v.amx and f.digits_ih != 0:
            add_in_digits(f, of_x, panel, w_ih, x, bias, SAME, packed, z, scratch)
        else:
            add_product(f, panel, w_ih, f.I, x, bias, SAME, packed, z)
        if v.amx and f.digits_hh != 0:
            add_in_digits(f, of_h, panel, w_hh, h_0, z, width, packed, z, scratch)
        else:
            add_product(f, panel, w_hh, f.H, h_0, z, width, packed, z)
        for r in range(f.B):
            at, here = r * f.H + unit, z + r * width
            c_before = load(pointer(f.c_0, v) + at, n)
            i, g_f, g, c = memory_fwd(v, load(here), load(here + count), load(here + 2 * count), c_before, here)
            o, h = output_fwd(v, load(here + 3 * count), c_before, c, c, here)
            store(pointer(f.c_n, v) + at, c, n)
            store(pointer(f.h_n, v) + at, h, n)
            store(pointer(f.y, v) + at, h, n)
            if f.gates != 0:
                gates = pointer(f.gates, v) + (4 * r * f.H + unit)
                store_gates(gates, f.H, n, i, g_f, g, o)
                store(pointer(f.cells, v) + at, c, n)
    if v.amx and f.digits_hh != 0:
        release()
    restore_mode(mode)
