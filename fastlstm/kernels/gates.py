"""The cell: from gate pre-activations to the new state, forward and backward, on one vector of units of one row."""

from __future__ import annotations

from fastlstm.runtime.jit import inline
from fastlstm.simd.math import sigmoid_below, tanh_ratio
from fastlstm.simd.vector import fma


@inline
def cell_fwd(v, z_i, z_f, z_g, z_o, c):
    """i, f, g, o and the new c and h.

    c' = s(z_f) c + s(z_i) tanh(z_g) and h = s(z_o) tanh(c') with every factor kept as a ratio: two divisions in
    all, where one for each factor would take five. A caller that leaves i, f, g, o unused pays nothing for them.
    """
    if v.linear:
        c_new = fma(z_f, c, z_i * z_g)
        return z_i, z_f, z_g, z_o, c_new, z_o * c_new
    i_below, f_below, o_below = sigmoid_below(z_i), sigmoid_below(z_f), sigmoid_below(z_o)
    g_above, g_below = tanh_ratio(z_g)
    ig_below = i_below * g_below
    inverse = 1.0 / (ig_below * f_below)
    c_new = fma(c, ig_below, g_above * f_below) * inverse
    above, below = tanh_ratio(c_new)
    inverse_o = 1.0 / (below * o_below)
    h = above * inverse_o
    i = g_below * f_below * inverse
    f = ig_below * inverse
    g = g_above * i_below * f_below * inverse
    o = below * inverse_o
    return i, f, g, o, c_new, h


@inline
def cell_bwd(v, i, f, g, o, c_before, c, dh, dc):
    """Gradients of z_i, z_f, z_g, z_o and of the c before, and h anew, from those of h and c (Greff et al. 2017,
    appendix A).
    """
    if v.linear:
        dc = fma(dh, o, dc)
        return dc * g, dc * c_before, dc * i, dh * c, dc * f, o * c
    above, below = tanh_ratio(c)
    tanh_c = above / below
    dz_o = dh * tanh_c * o * (1.0 - o)
    dc = fma(dh * o, 1.0 - tanh_c * tanh_c, dc)
    dz_i = dc * g * i * (1.0 - i)
    dz_f = dc * c_before * f * (1.0 - f)
    dz_g = dc * i * (1.0 - g * g)
    return dz_i, dz_f, dz_g, dz_o, dc * f, o * tanh_c
