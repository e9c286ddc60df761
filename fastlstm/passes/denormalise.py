"""Layer normalisation of the gates, backward: with dG the gradient of gain_ih u + gain_hh v + bias, where u and v are
W x and R h normalised, those of W x and R h, and of both gains.

The gradient of W x, of n gates of a row, is (d - mean(d) - u mean(d u)) / deviation with d = gain_ih dG (Ba et al.
2016), and likewise for R h.
"""

from __future__ import annotations

from fastlstm.passes.frames import MOMENTS
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import fma, lanes, leading, load, pointer, prefetch, splat, store, total

ROWS_AT_ONCE = 16  # rows that are read side by side


@inline
def weighed(dz, gain, units, n, sum_d, sum_du):
    """d and d u of one vector, added to their sums."""
    d = leading(dz * load(gain, n), n)
    return sum_d + d, fma(d, load(units, n), sum_du)


@inline
def weighed_gates(dz_i, dz_f, dz_g, dz_o, gain, units, row, n, sum_d, sum_du):
    """The same of four vectors, `row` elements apart."""
    sum_d, sum_du = weighed(dz_i, gain, units, n, sum_d, sum_du)
    sum_d, sum_du = weighed(dz_f, gain + row, units + row, n, sum_d, sum_du)
    sum_d, sum_du = weighed(dz_g, gain + 2 * row, units + 2 * row, n, sum_d, sum_du)
    return weighed(dz_o, gain + 3 * row, units + 3 * row, n, sum_d, sum_du)


@inline
def denormalised(dz, gain, units, mean_d, mean_du, inverse):
    """The gradient of what was normalised, one vector."""
    return fma(units, -mean_du, fma(dz, gain, -mean_d)) * inverse


@kernel
def denormalise(v, f, here, there, base, sum_d_ih, sum_du_ih, sum_d_hh, sum_du_hh, dz, dg):
    """One row of dz from its sums: the gradient of W x to du, that of R h to dg. What is on the tape `there`, for the
    next step, is asked for meanwhile, since it comes from memory.
    """
    count, columns = lanes(dz), 4 * f.H
    n = f.H * (3 if v.coupled else 4)
    m_d_ih, m_du_ih = splat(total(sum_d_ih) / n, dz), splat(total(sum_du_ih) / n, dz)
    m_d_hh, m_du_hh = splat(total(sum_d_hh) / n, dz), splat(total(sum_du_hh) / n, dz)
    moments = pointer(f.moments, v) + here * MOMENTS
    inverse_ih, inverse_hh = splat(moments[0], dz), splat(moments[1], dz)
    gates, du = pointer(f.gates, v) + here * columns, pointer(f.du, v) + (here - base) * f.dg_row
    units_ih, units_hh = pointer(f.units_ih, v) + here * columns, pointer(f.units_hh, v) + here * columns
    gain_ih, gain_hh = pointer(f.gain_ih, v), pointer(f.gain_hh, v)
    ahead = (there - here) * columns
    for u in range(0, columns, count):
        k = columns - u
        d = load(dz + u, k)
        store(du + u, denormalised(d, load(gain_ih + u, k), load(units_ih + u, k), m_d_ih, m_du_ih, inverse_ih), k)
        store(dg + u, denormalised(d, load(gain_hh + u, k), load(units_hh + u, k), m_d_hh, m_du_hh, inverse_hh), k)
        for tape in (gates, units_ih, units_hh):
            prefetch(tape + (u + ahead))


@kernel
def gain_gradient(v, f, first, last, dz, row, rows):
    """db and the gradients of both gains, for the panels first .. last of the 4H columns, from so many rows of dz, the
    first of which is `row` of the tape.
    """
    count, columns = lanes(v), 4 * f.H
    db, dgain_ih, dgain_hh = pointer(f.db, v), pointer(f.dgain_ih, v), pointer(f.dgain_hh, v)
    begin, end = first * PANEL * count, min(last * PANEL * count, columns)
    for block in range(0, rows, ROWS_AT_ONCE):
        block_end = min(block + ROWS_AT_ONCE, rows)
        for u in range(begin, end, count):
            n = columns - u
            total_b, total_ih, total_hh = load(db + u, n), load(dgain_ih + u, n), load(dgain_hh + u, n)
            for r in range(block, block_end):
                at, d = (row + r) * columns + u, load(dz + (r * f.dg_row + u), n)
                total_b = total_b + d
                total_ih = fma(d, load(pointer(f.units_ih, v) + at, n), total_ih)
                total_hh = fma(d, load(pointer(f.units_hh, v) + at, n), total_hh)
            store(db + u, total_b, n)
            store(dgain_ih + u, total_ih, n)
            store(dgain_hh + u, total_hh, n)
