"""The cell: from gate pre-activations to the new state, forward and backward, on one vector of units of one row.

In two halves each, since a normalised cell needs all units of a row in between: `memory` is c = f c' + i g, `output`
is h = o tanh(c). The plain cell has no peephole, and tanh and sigmoids; `peep` holds, for the others, the peephole's
four vectors.
"""

from __future__ import annotations

from fastlstm.kernels.activations import activate, clamp, slope, within
from fastlstm.runtime.jit import choose, inline, kernel
from fastlstm.simd.math import sigmoid_below, tanh_ratio
from fastlstm.simd.vector import fma, lanes, load, splat, store


def memory_fwd(v, z_i, z_f, z_g, c, peep):
    """What the tape keeps of i, f and g, and the new c.

    The plain cell keeps the gates; one with other activations, or a clip, what went into them.
    """


def output_fwd(v, z_o, c_before, c, n, peep):
    """What the tape keeps of o, and h; n is what the output activation sees: c, or c normalised."""


def output_bwd(v, o, c_before, c, n, dh, dn, peep):
    """Gradients of z_o and of n, to which dn is added, and h (before projection) anew."""


def memory_bwd(v, i, f, g, dz_o, c_before, dc, peep):
    """Gradients of z_i, z_f, z_g and of the c before, from those of z_o and the new c."""


@inline
def memory_linear(v, z_i, z_f, z_g, c, peep):
    return z_i, z_f, z_g, fma(z_f, c, z_i * z_g)


@inline
def output_linear(v, z_o, c_before, c, n, peep):
    return z_o, z_o * c


@inline
def output_linear_bwd(v, o, c_before, c, n, dh, dn, peep):
    return dh * c, fma(dh, o, dn), o * c


@inline
def memory_linear_bwd(v, i, f, g, dz_o, c_before, dc, peep):
    return dc * g, dc * c_before, dc * i, dc * f


@inline
def memory_plain(v, z_i, z_f, z_g, c, peep):
    """c' = s(z_f) c + s(z_i) tanh(z_g) with every factor kept as a ratio: one division, where one for each factor would
    take three. A caller that leaves i, f, g unused pays nothing for them.
    """
    i_below, f_below = sigmoid_below(z_i), sigmoid_below(z_f)
    g_above, g_below = tanh_ratio(z_g)
    ig_below = i_below * g_below
    inverse = 1.0 / (ig_below * f_below)
    c_new = fma(c, ig_below, g_above * f_below) * inverse
    return g_below * f_below * inverse, ig_below * inverse, g_above * i_below * f_below * inverse, c_new


@inline
def output_plain(v, z_o, c_before, c, n, peep):
    """h = s(z_o) tanh(c), one division."""
    above, below = tanh_ratio(n)
    inverse = 1.0 / (below * sigmoid_below(z_o))
    return below * inverse, above * inverse


@inline
def output_plain_bwd(v, o, c_before, c, n, dh, dn, peep):
    """Greff et al. 2017, appendix A, as is `memory_plain_bwd`."""
    above, below = tanh_ratio(n)
    tanh_n = above / below
    return dh * tanh_n * o * (1.0 - o), fma(dh * o, 1.0 - tanh_n * tanh_n, dn), o * tanh_n


@inline
def memory_plain_bwd(v, i, f, g, dz_o, c_before, dc, peep):
    return dc * g * i * (1.0 - i), dc * c_before * f * (1.0 - f), dc * i * (1.0 - g * g), dc * f


@inline
def memory_gates(v, i, f, g):
    """i, f and g from what the tape keeps of them."""
    if not v.standard:
        i, g = activate(v.gates, clamp(v, i)), activate(v.candidate, clamp(v, g))
        f = 1.0 - i if v.coupled else activate(v.gates, clamp(v, f))
    return i, f, g


@inline
def inner(v, i, f, g, c_before):
    """c anew from what the tape keeps of i, f and g."""
    i, f, g = memory_gates(v, i, f, g)
    return fma(f, c_before, i * g)


@kernel
def open_gates(v, rows, H, gates):
    """The gates (rows, 4, H) from what the tape keeps of them, in their place."""
    for row in range(rows):
        for u in range(0, H, lanes(gates)):
            at, n = gates + (row * 4 * H + u), H - u
            i, f, g = memory_gates(v, load(at, n), load(at + H, n), load(at + 2 * H, n))
            o = load(at + 3 * H, n)
            if not v.standard:
                o = activate(v.gates, clamp(v, o))
            store(at, i, n)
            store(at + H, f, n)
            store(at + 2 * H, g, n)
            store(at + 3 * H, o, n)


# --- all other cells --------------------------------------------------------------------------------------------------


@inline
def memory_special(v, z_i, z_f, z_g, c, peep):
    if v.diagonal:
        count = lanes(peep)
        z_i = fma(load(peep), c, z_i)
        z_f = fma(load(peep + count), c, z_f)
        z_g = fma(load(peep + 2 * count), c, z_g)
    i, g = activate(v.gates, clamp(v, z_i)), activate(v.candidate, clamp(v, z_g))
    f = 1.0 - i if v.coupled else activate(v.gates, clamp(v, z_f))
    c_new = fma(f, c, i * g)
    if v.standard:
        return i, f, g, c_new
    return z_i, z_f, z_g, c_new


@inline
def output_special(v, z_o, c_before, c, n, peep):
    if v.diagonal:
        z_o = fma(load(peep + 3 * lanes(peep)), c if v.output_new else c_before, z_o)
    o = activate(v.gates, clamp(v, z_o))
    h = o * activate(v.output, n)
    if v.standard:
        return o, h
    return z_o, h


@inline
def output_special_bwd(v, o, c_before, c, n, dh, dn, peep):
    if v.standard:
        s, d = o, o * (1.0 - o)
    else:
        s, d = activate(v.gates, clamp(v, o)), within(v, o, slope(v.gates, clamp(v, o)))
    a = activate(v.output, n)
    return dh * a * d, fma(dh * s, slope(v.output, n), dn), s * a


@inline
def memory_special_bwd(v, i, f, g, dz_o, c_before, dc, peep):
    count = lanes(peep)
    if v.diagonal and v.output_new:
        dc = fma(load(peep + 3 * count), dz_o, dc)
    if v.standard:
        slope_i, slope_f, slope_g = i * (1.0 - i), f * (1.0 - f), 1.0 - g * g
    else:
        slope_i = within(v, i, slope(v.gates, clamp(v, i)))
        slope_f = within(v, f, slope(v.gates, clamp(v, f)))
        slope_g = within(v, g, slope(v.candidate, clamp(v, g)))
        i, f, g = memory_gates(v, i, f, g)
    di = dc * g
    if v.coupled:
        dz_i = fma(dc, -c_before, di) * slope_i
        dz_f = splat(0.0, dz_i)
    else:
        dz_i, dz_f = di * slope_i, dc * c_before * slope_f
    dz_g = dc * i * slope_g
    dc_before = dc * f
    if v.diagonal:
        dc_before = fma(load(peep), dz_i, dc_before)
        dc_before = fma(load(peep + count), dz_f, dc_before)
        dc_before = fma(load(peep + 2 * count), dz_g, dc_before)
        if not v.output_new:
            dc_before = fma(load(peep + 3 * count), dz_o, dc_before)
    return dz_i, dz_f, dz_g, dc_before


@choose(memory_fwd)
def _memory_fwd(v):
    return (memory_special if v.special else memory_linear if v.linear else memory_plain).py_func


@choose(output_fwd)
def _output_fwd(v):
    return (output_special if v.special else output_linear if v.linear else output_plain).py_func


@choose(output_bwd)
def _output_bwd(v):
    return (output_special_bwd if v.special else output_linear_bwd if v.linear else output_plain_bwd).py_func


@choose(memory_bwd)
def _memory_bwd(v):
    return (memory_special_bwd if v.special else memory_linear_bwd if v.linear else memory_plain_bwd).py_func
