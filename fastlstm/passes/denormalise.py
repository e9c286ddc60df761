"""Layer normalisation of the gates, backward: with dG the gradient of gain_ih u + gain_hh v + bias, where u and v are
W x and R h normalised, those of W x and R h, and of both gains.

The gradient of W x, of n gates of a row, is (d - mean(d) - u mean(d u)) / deviation with d = gain_ih dG (Ba et al.
2016), and likewise for R h. Both means of each row are kept, so that a product which needs a column of it works it out
anew from what it reads for the gains.
"""

from __future__ import annotations

from fastlstm.passes.frames import MEANS, MOMENTS, Backward
from fastlstm.runtime.jit import inline, kernel, read
from fastlstm.simd.vector import fma, lanes, leading, load, pointer, splat, store, total

ROWS_AT_ONCE = 16  # rows of a panel's four lines a row that are read before the next column of vectors


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
def denormalise(v, frame, here, base, sum_d_ih, sum_du_ih, sum_d_hh, sum_du_hh, dg_after):
    """One row from its sums: the gradient of W x to du, that of R h to where the next step takes it."""
    f = read(frame, Backward)
    count, columns = lanes(dg_after), 4 * f.H
    n = f.H * (3 if v.coupled else 4)
    means = pointer(f.means, v) + (here - base) * MEANS
    mean_d_ih, mean_du_ih, mean_d_hh, mean_du_hh = (
        total(sum_d_ih) / n, total(sum_du_ih) / n, total(sum_d_hh) / n, total(sum_du_hh) / n
    )  # fmt: skip
    means[0] = mean_d_ih
    means[1] = mean_du_ih
    means[2] = mean_d_hh
    means[3] = mean_du_hh
    m_d_ih, m_du_ih = splat(mean_d_ih, dg_after), splat(mean_du_ih, dg_after)
    m_d_hh, m_du_hh = splat(mean_d_hh, dg_after), splat(mean_du_hh, dg_after)
    moments = pointer(f.moments, v) + here * MOMENTS
    inverse_ih, inverse_hh = splat(moments[0], dg_after), splat(moments[1], dg_after)
    dz, du = pointer(f.gates, v) + here * columns, pointer(f.du, v) + (here - base) * columns
    units_ih, units_hh = pointer(f.units_ih, v) + here * columns, pointer(f.units_hh, v) + here * columns
    gain_ih, gain_hh = pointer(f.gain_ih, v), pointer(f.gain_hh, v)
    for u in range(0, columns, count):
        k = columns - u
        d = load(dz + u, k)
        store(du + u, denormalised(d, load(gain_ih + u, k), load(units_ih + u, k), m_d_ih, m_du_ih, inverse_ih), k)
        dv = denormalised(d, load(gain_hh + u, k), load(units_hh + u, k), m_d_hh, m_du_hh, inverse_hh)
        store(dg_after + u, dv, k)


@kernel
def pack_denormalised(v, frame, row, first, depth, column, width, packed_ih, packed_hh):
    """From `depth` rows of dG, from `row` of the tape on, `first` of the chunk: both gradients for `width` columns from
    `column` on, packed as [k][vectors]; db and the gradients of both gains grow by their sums.
    """
    f = read(frame, Backward)
    count, columns = lanes(packed_ih), 4 * f.H
    for block in range(0, depth, ROWS_AT_ONCE):
        end = min(block + ROWS_AT_ONCE, depth)
        for u in range(0, width, count):
            at = column + u
            n = columns - at
            gain_ih, gain_hh = load(pointer(f.gain_ih, v) + at, n), load(pointer(f.gain_hh, v) + at, n)
            db = load(pointer(f.db, v) + at, n)
            dgain_ih, dgain_hh = load(pointer(f.dgain_ih, v) + at, n), load(pointer(f.dgain_hh, v) + at, n)
            for i in range(block, end):
                here = (row + i) * columns + at
                d = load(pointer(f.gates, v) + here, n)
                units_ih, units_hh = load(pointer(f.units_ih, v) + here, n), load(pointer(f.units_hh, v) + here, n)
                means = pointer(f.means, v) + (first + i) * MEANS
                moments = pointer(f.moments, v) + (row + i) * MOMENTS
                db = db + d
                dgain_ih, dgain_hh = fma(d, units_ih, dgain_ih), fma(d, units_hh, dgain_hh)
                to = i * width + u
                store(packed_ih + to, denormalised(d, gain_ih, units_ih, means[0], means[1], moments[0]))
                store(packed_hh + to, denormalised(d, gain_hh, units_hh, means[2], means[3], moments[1]))
            store(pointer(f.db, v) + at, db, n)
            store(pointer(f.dgain_ih, v) + at, dgain_ih, n)
            store(pointer(f.dgain_hh, v) + at, dgain_hh, n)
