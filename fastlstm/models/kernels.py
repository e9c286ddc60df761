"""Kernels of training, one pass over flat memory each; compiled when first called and kept with the kernels of the
LSTM. Optimizers take denormals as zero: a mean that decays stays at the least of them, and a step over such means took
thirty times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numba
import numpy as np

from fastlstm.runtime import compiling  # noqa: F401  tells Numba where to keep them
from fastlstm.runtime.cache import folder
from fastlstm.simd.atomic import flush_denormals, restore_mode


@cache
def compiled(function: Callable) -> Callable:
    """The function compiled by Numba: on a thread, elementwise operations in the written order."""
    return numba.njit(cache=folder() is not None, error_model="numpy", nogil=True)(function)


def add_rows(index, rows, out):
    """out[index[k]] += rows[k], in the order of k; an index below 0 is skipped."""
    for k in range(index.size):
        to = index[k]
        if to >= 0:
            for j in range(rows.shape[1]):
                out[to, j] += rows[k, j]


def take_rows(rows, index, out):
    """out[k] = rows[index[k]]; zeros for an index below 0."""
    for k in range(index.size):
        at = index[k]
        if at >= 0:
            for j in range(rows.shape[1]):
                out[k, j] = rows[at, j]
        else:
            for j in range(rows.shape[1]):
                out[k, j] = 0


def sgd(p, g, rate):
    """p -= rate g."""
    mode = flush_denormals()
    for k in range(p.size):
        p[k] -= rate * g[k]
    restore_mode(mode)


def sgd_momentum(p, g, m, rate, momentum, nesterov):
    """m = momentum m - rate g; p += m, or with Nesterov's step p += momentum m - rate g."""
    mode = flush_denormals()
    if nesterov:
        for k in range(p.size):
            m[k] = momentum * m[k] - rate * g[k]
            p[k] += momentum * m[k] - rate * g[k]
    else:
        for k in range(p.size):
            m[k] = momentum * m[k] - rate * g[k]
            p[k] += m[k]
    restore_mode(mode)


def adam(p, g, m, v, rate, one_minus_beta_1, one_minus_beta_2, epsilon, keep):
    """Kingma and Ba 2015 as their section 2 ends: both corrections stand in the rate. `keep` is what weight decay
    leaves of p.
    """
    mode = flush_denormals()
    for k in range(p.size):
        m[k] += (g[k] - m[k]) * one_minus_beta_1
        v[k] += (g[k] * g[k] - v[k]) * one_minus_beta_2
        p[k] = p[k] * keep - rate * m[k] / (np.sqrt(v[k]) + epsilon)
    restore_mode(mode)


def adam_amsgrad(p, g, m, v, greatest, rate, one_minus_beta_1, one_minus_beta_2, epsilon, keep):
    """Adam divided by the greatest v so far (Reddi et al. 2018)."""
    mode = flush_denormals()
    for k in range(p.size):
        m[k] += (g[k] - m[k]) * one_minus_beta_1
        v[k] += (g[k] * g[k] - v[k]) * one_minus_beta_2
        greatest[k] = max(greatest[k], v[k])
        p[k] = p[k] * keep - rate * m[k] / (np.sqrt(greatest[k]) + epsilon)
    restore_mode(mode)


def rmsprop(p, g, v, mean, m, rate, rho, one_minus_rho, momentum, epsilon):
    """Hinton's RMSprop; `mean` (of g, for the centred form) and `m` (momentum) have no elements where they are not
    used.
    """
    mode = flush_denormals()
    centred, heavy = mean.size > 0, m.size > 0
    for k in range(p.size):
        v[k] = rho * v[k] + one_minus_rho * g[k] * g[k]
        below = v[k]
        if centred:
            mean[k] = rho * mean[k] + one_minus_rho * g[k]
            below -= mean[k] * mean[k]
        step = rate * g[k] / np.sqrt(below + epsilon)
        if heavy:
            m[k] = momentum * m[k] + step
            step = m[k]
        p[k] -= step
    restore_mode(mode)
