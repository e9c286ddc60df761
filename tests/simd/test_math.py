"""tanh and the sigmoid: the stated errors over dense grids; NaN, infinities, signed zeros and denormals."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from kernel_case import LIKE, address, sigmoid_into, tanh_into

DTYPES = ["float32", "float64"]


def grid(dtype: str) -> np.ndarray:
    """Arguments of both signs.

    Evenly over the range in which something happens, and by powers over all that the dtype has, denormals included.
    """
    information = np.finfo(dtype)
    powers = np.geomspace(float(information.smallest_subnormal), float(information.max) / 2, 200_000)
    positive = np.concatenate(
        [np.linspace(0, 25, 500_001), powers, 0.625 + np.arange(-50, 50) * float(information.eps)]
    ).astype(dtype)
    return np.concatenate([positive, -positive])


def tanh_parts(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    above, below = np.empty_like(x), np.empty_like(x)
    tanh_into(LIKE[x.dtype.name], address(x), address(above), address(below), x.size)
    return above, below


def sigmoid(x: np.ndarray) -> np.ndarray:
    below = np.empty_like(x)
    sigmoid_into(LIKE[x.dtype.name], address(x), address(below), x.size)
    assert not (below < 1).any()
    return 1 / below


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh(dtype: str) -> None:
    x = grid(dtype)
    above, below = tanh_parts(x)
    found, exact = above / below, np.tanh(x.astype(np.longdouble))
    assert abs(found - exact).max() <= tolerances.TANH[dtype]
    assert abs(found).max() <= 1
    assert (below >= 1).all() and (below < 2**14).all()
    normal = abs(x) > np.finfo(dtype).tiny
    assert abs(found[normal] / exact[normal] - 1).max() <= tolerances.TANH[dtype] * (1 if dtype == "float32" else 2)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(x))
    half = x.size // 2
    np.testing.assert_array_equal(found[:half], -found[half:], err_msg="tanh is odd")


@pytest.mark.parametrize("dtype", DTYPES)
def test_sigmoid(dtype: str) -> None:
    x = grid(dtype)
    found = sigmoid(x)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-x.astype(np.longdouble)))
    assert abs(found - exact).max() <= tolerances.SIGMOID[dtype]
    assert (found > 0).all() and (found <= 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values(dtype: str) -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, -np.nan], dtype)
    above, below = tanh_parts(x)
    found = above / below
    np.testing.assert_allclose(found, [np.nan, 1, -1, 0, 0, np.nan], rtol=0, atol=tolerances.TANH[dtype])
    np.testing.assert_array_equal(np.signbit(found[3:5]), [False, True])
    np.testing.assert_allclose(sigmoid(x), [np.nan, 1, 0, 0.5, 0.5, np.nan], rtol=0, atol=tolerances.SIGMOID[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
def test_three_denominators_stay_finite(dtype: str) -> None:
    """The state update multiplies those of two sigmoids and a tanh."""
    x = np.array([-np.finfo(dtype).max, -1e4, -1e3, -100, np.finfo(dtype).max], dtype)
    largest = (1 / sigmoid(x)).max()
    assert np.isfinite(largest * largest * tanh_parts(x)[1].max())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_nan_in_one_lane_stays_there(dtype: str) -> None:
    x = np.linspace(-3, 3, 67).astype(dtype)
    clean = [*tanh_parts(x), sigmoid(x)]
    x[5] = x[66] = np.nan
    for with_nan, without in zip([*tanh_parts(x), sigmoid(x)], clean, strict=True):
        others = np.delete(np.arange(67), [5, 66])
        np.testing.assert_array_equal(with_nan[others], without[others])
    assert np.isnan(tanh_parts(x)[0][[5, 66]]).all() and np.isnan(sigmoid(x)[[5, 66]]).all()
