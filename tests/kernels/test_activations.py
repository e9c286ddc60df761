"""Activations and their slopes on vectors: the reference's."""

from __future__ import annotations

import numba
import numpy as np
import pytest
from reference_case import PARAMETERS, kind

from fastlstm import reference
from fastlstm.cell import ACTIVATIONS
from fastlstm.kernels.activations import activate, slope
from fastlstm.runtime.linking import WHOLE
from fastlstm.runtime.variant import Function
from fastlstm.simd.vector import lanes, load, pointer, store

X = np.array([-60, -9, -2.5, -1, -0.6, -1e-3, 0, 1e-3, 0.05, 0.11, 0.7, 1, 2.5, 9, 30, np.nan])


def evaluate(name: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The activation and its slope at x, by compiled code."""
    activation = kind(name)
    function = Function(activation.name, activation.alpha, activation.beta)

    @numba.njit(**WHOLE)
    def run(like, source, values, slopes, n):
        for k in range(0, n, lanes(like)):
            v = load(pointer(source, like) + k, n - k)
            store(pointer(values, like) + k, activate(function, v), n - k)
            store(pointer(slopes, like) + k, slope(function, v), n - k)

    values, slopes = np.empty_like(x), np.empty_like(x)
    run(x[:0], x.ctypes.data, values.ctypes.data, slopes.ctypes.data, len(x))
    return values, slopes


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str, dtype: str) -> None:
    assert set(PARAMETERS) <= set(ACTIVATIONS)
    x = X.astype(dtype)
    values, slopes = evaluate(name, x)
    with np.errstate(over="ignore", invalid="ignore"):
        expected, steep = (f(kind(name), x.astype(np.float64)) for f in (reference.activate, reference.slope))
    tolerance = {"float32": 1e-6, "float64": 2e-15}[dtype]
    np.testing.assert_allclose(values, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(slopes[:-1], steep[:-1], rtol=tolerance, atol=tolerance)
