"""One step of the forward pass, for cells whose units need all others of their row: normalised, projected, or with full
peepholes. Each stage runs over all units of a block of rows before the next.
"""

from __future__ import annotations

from fastlstm.cell import LAYER_NORM_EPS
from fastlstm.kernels.gates import memory_fwd, output_fwd
from fastlstm.kernels.gemm import NEXT, SAME, gemm, panels_gemm
from fastlstm.passes.blocks import WHOLE_ROWS
from fastlstm.passes.digits import add_both, add_h, add_x, prepare
from fastlstm.passes.forward_step import carried, emit, goes_past, tape_cell
from fastlstm.passes.frames import MOMENTS
from fastlstm.passes.rows import taped
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import fma, lanes, leading, load, pointer, root, splat, store, stream, total


@inline
def spread(z, mean, n, sums):
    """The squares of a vector's distances from the mean, added to their sums."""
    d = leading(load(z) - mean, n)
    return fma(d, d, sums)


@kernel
def gate_moments(v, f, z):
    """The mean of all gates of a row of W x or R h, z (panels, 4, lanes), and one over their standard deviation.

    A sum for each gate, which do not wait for each other.
    """
    count = lanes(z)
    n = f.H * (3 if v.coupled else 4)
    zero = splat(0.0, z)
    i, g_f, g, o = zero, zero, zero, zero
    for k in range(0, f.H, count):
        at, here = z + k * PANEL, f.H - k
        i, g = i + leading(load(at), here), g + leading(load(at + 2 * count), here)
        o = o + leading(load(at + 3 * count), here)
        if not v.coupled:
            g_f = g_f + leading(load(at + count), here)
    mean = total((i + g_f) + (g + o)) / n
    i, g_f, g, o = zero, zero, zero, zero
    for k in range(0, f.H, count):
        at, here = z + k * PANEL, f.H - k
        i, g, o = (
            spread(at, mean, here, i),
            spread(at + 2 * count, mean, here, g),
            spread(at + 3 * count, mean, here, o),
        )
        if not v.coupled:
            g_f = spread(at + count, mean, here, g_f)
    return mean, 1.0 / root(total((i + g_f) + (g + o)) / n + LAYER_NORM_EPS)


@kernel
def moments(c, n):
    """The mean of n values, and one over their standard deviation."""
    count = lanes(c)
    sums = splat(0.0, c)
    for k in range(0, n, count):
        sums = sums + load(c + k, n - k)
    mean = total(sums) / n
    sums = splat(0.0, c)
    for k in range(0, n, count):
        d = leading(load(c + k) - mean, n - k)
        sums = fma(d, d, sums)
    return mean, 1.0 / root(total(sums) / n + LAYER_NORM_EPS)


@kernel
def normalised(v, f, lot, t, row, u, z):
    """z = gain_ih LN(u) + gain_hh LN(z) + bias, one row; both normalised values go to the tape."""
    count = lanes(z)
    mean_u, inverse_u = gate_moments(v, f, u)
    mean_z, inverse_z = gate_moments(v, f, z)
    here = taped(v, f, lot, t, row)
    if f.moments != 0:
        moments_at = pointer(f.moments, v) + here * MOMENTS
        moments_at[0] = inverse_u
        moments_at[1] = inverse_z
    for k in range(0, f.H, count):
        for gate in range(PANEL):
            at = k * PANEL + gate * count
            unit_u, unit_z = (load(u + at) - mean_u) * inverse_u, (load(z + at) - mean_z) * inverse_z
            if f.moments != 0:
                to = (here * PANEL + gate) * f.H + k
                units_ih, units_hh = pointer(f.units_ih, v) + to, pointer(f.units_hh, v) + to
                if goes_past(f.tape_past, units_ih, units_hh):
                    stream(units_ih, unit_u)
                    stream(units_hh, unit_z)
                else:
                    store(units_ih, unit_u, f.H - k)
                    store(units_hh, unit_z, f.H - k)
            start = fma(unit_u, load(pointer(f.gain_ih, v) + at), load(pointer(f.bias, v) + at))
            store(z + at, fma(unit_z, load(pointer(f.gain_hh, v) + at), start))


@kernel
def memories(v, f, row, z, inner):
    """i, f, g over their pre-activations, and the new c, of one row."""
    count = lanes(z)
    for k in range(0, f.H, count):
        at = z + k * PANEL
        c = load(pointer(f.c, v) + (row * f.c_row + k))
        peep = pointer(f.peep, v) + k * PANEL
        i, g_f, g, c_new = memory_fwd(v, load(at), load(at + count), load(at + 2 * count), c, peep)
        store(at, i)
        store(at + count, g_f)
        store(at + 2 * count, g)
        store(inner + k, c_new)


@kernel
def outputs(v, f, lot, t, following, row, z, inner, r, h_after):
    """o, and h from the new c, of one row; h goes on, or waits in r for its projection."""
    count = lanes(z)
    mean, inverse = 0.0, 1.0
    if v.normed:
        mean, inverse = moments(inner, f.H)
        if f.moments != 0:
            moments_at = pointer(f.moments, v) + taped(v, f, lot, t, row) * MOMENTS
            moments_at[2] = inverse
            moments_at[3] = mean
    for k in range(0, f.H, count):
        at = z + k * PANEL
        c_at = pointer(f.c, v) + (row * f.c_row + k)
        c_before, c = load(c_at), load(inner + k)
        n = c
        if v.normed:
            gain, shift = load(pointer(f.gain_c, v) + k, f.H - k), load(pointer(f.shift_c, v) + k, f.H - k)
            n = fma((c - mean) * inverse, gain, shift)
        o, h_new = output_fwd(v, load(at + 3 * count), c_before, c, n, pointer(f.peep, v) + k * PANEL)
        c_on = carried(v, f, lot, t, row, k, c_before, c)
        store(c_at, c_on)
        tape_cell(v, f, lot, t, row, k, load(at), load(at + count), load(at + 2 * count), o, c_on)
        if v.projected:
            store(r + k, h_new)
        else:
            emit(v, f, lot, t, following, row, k, h_new, h_after)


@kernel
def step_by_row(
    v, f, lot, first, last, row, rows, t, following, h_before, h_after, projected, projected_row, scratch
):
    """One step of the rows row .. row + rows, all units; the arguments are those of `step_by_panel`."""
    count = lanes(scratch)
    width = PANEL * count
    panels = (f.H + count - 1) // count
    z_row, c_row, depth = panels * width, f.c_row, f.I + f.P
    z = scratch + width
    u = z + WHOLE_ROWS * z_row
    inner = u + (WHOLE_ROWS * z_row if v.normed else 0)
    weights = pointer(f.weights, v)
    a = h_before + (row * f.h_row - f.I)
    if v.normed or v.projected:  # zeros, as the start of sums
        for k in range(0, width, count):
            store(scratch + k, splat(0.0, scratch))
    if v.amx and f.digits_hh != 0:
        h = a + f.I
        prepare(v, f, lot, row, rows, t, h, scratch)
        if v.normed:
            add_x(v, f, rows, 0, panels, a, f.h_row, scratch, SAME, SAME, u, z_row, scratch)
            add_h(v, f, rows, 0, panels, h, scratch, SAME, SAME, z, z_row, scratch)
        else:
            start, start_row = pointer(f.bias, v), SAME
            if f.chunk > 0:
                start, start_row = projected, projected_row
            add_both(v, f, rows, 0, panels, h, start, start_row, width, z, z_row, scratch)
    elif v.normed:
        panels_gemm(rows, panels, f.I, a, f.h_row, weights, depth * width, scratch, SAME, SAME, u, z_row)
        weights = weights + f.I * width
        panels_gemm(rows, panels, f.P, a + f.I, f.h_row, weights, depth * width, scratch, SAME, SAME, z, z_row)
    elif f.chunk > 0:
        weights = weights + f.I * width
        panels_gemm(
            rows, panels, f.P, a + f.I, f.h_row, weights, depth * width, projected, projected_row, width, z, z_row
        )
    else:
        panels_gemm(rows, panels, depth, a, f.h_row, weights, depth * width, pointer(f.bias, v), SAME, width, z, z_row)
    if v.normed:
        for r in range(rows):
            normalised(v, f, lot, t, row + r, u + r * z_row, z + r * z_row)
    if v.full:
        c = pointer(f.c, v) + row * c_row
        panels_gemm(rows, panels, f.H, c, c_row, pointer(f.w_ch, v), f.H * width, z, z_row, width, z, z_row)
    for r in range(rows):
        memories(v, f, row + r, z + r * z_row, inner + r * c_row)
    if v.full and v.output_new:
        panels_gemm(rows, panels, f.H, inner, c_row, pointer(f.w_ch_new, v), f.H * width, z, z_row, width, z, z_row)
    for r in range(rows):
        outputs(v, f, lot, t, following, row + r, z + r * z_row, inner + r * c_row, inner + r * c_row, h_after)
    if v.projected:
        for column in range(0, f.P, width):
            vectors = min(PANEL, (f.P - column + count - 1) // count)
            h_row = vectors * count
            w = pointer(f.w_hr, v) + f.H * column
            gemm(rows, vectors, f.H, inner, c_row, NEXT, w, SAME, scratch, SAME, z, h_row)
            for r in range(rows):
                for k in range(0, h_row, count):
                    emit(v, f, lot, t, following, row + r, column + k, load(z + (r * h_row + k)), h_after)
