"""NaN, infinity and denormals.

They come out where the reference has them, leave other rows alone, and the caller's floating-point mode stays.
"""

from __future__ import annotations

import numba
import numpy as np
import pytest
import tolerances
from layer_case import LayerCase

import fastlstm

SIZES = [(5, 19), (33, 70)]
VALUES = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def classes(array: np.ndarray) -> np.ndarray:
    """0 for a finite entry, 1 and -1 for the infinities, 9 for NaN."""
    return np.where(np.isnan(array), 9, np.where(np.isinf(array), np.sign(array), 0))


def compare(case: LayerCase) -> dict[str, np.ndarray]:
    """Check y, h_n and c_n of forward and of a plain call against the reference, entry for entry; returns them."""
    with np.errstate(invalid="ignore", over="ignore"):
        found, inferred, expected = case.found(), case.inferred(), case.expected()
    for name in ("y", "h_n", "c_n"):
        np.testing.assert_array_equal(found[name], inferred[name], err_msg=name)
        np.testing.assert_array_equal(classes(found[name]), classes(expected[name]), err_msg=name)
        finite = np.isfinite(expected[name])
        allowed = tolerances.bound(case.dtype, name, case) * tolerances.scale(name, expected[name][finite])
        np.testing.assert_allclose(found[name][finite], expected[name][finite], rtol=0, atol=allowed, err_msg=name)
    return found


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("where", ["x", "h_0", "c_0"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(("I", "H"), SIZES)
def test_input_and_state(I: int, H: int, value: float, where: str, dtype: str) -> None:
    case = LayerCase(T=6, B=7, I=I, H=H, layers=2, dtype=dtype)
    clean = case.found()
    row, axis = 3, -2
    if where == "x":
        case.arrays["x"][2, row, 1] = value
    else:
        case.arrays[where][0, row, 17] = value
    found = compare(case)
    assert np.isnan(found["y"][:, row]).any() == np.isnan(value)
    if where == "x":
        np.testing.assert_array_equal(found["y"][:2], clean["y"][:2], err_msg="steps before were touched")
    others = [b for b in range(case.B) if b != row]
    for name in ("y", "h_n", "c_n", "dx", "dh_0", "dc_0"):
        np.testing.assert_array_equal(
            found[name].take(others, axis), clean[name].take(others, axis), err_msg=f"other rows of {name} were touched"
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0", "weight_ih_l1"])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_parameters(value: float, name: str, dtype: str) -> None:
    case = LayerCase(T=5, B=4, I=3, H=18, layers=2, dtype=dtype)
    gate = 2  # of the candidate: an infinite one is a plain 1 or -1
    case.lstm.parameters[name].reshape(4, case.H, -1)[gate, 17, 0] = value
    found = compare(case)
    if not np.isnan(value) and name.startswith("bias"):
        assert np.isfinite(found["y"]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("gate", range(4))
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_each_gate(value: float, gate: int, dtype: str) -> None:
    case = LayerCase(T=4, B=3, I=2, H=17, dtype=dtype)
    case.lstm.parameters["bias_ih_l0"].reshape(4, case.H)[gate, 16] = value
    compare(case)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("where", ["dy", "dh_n", "dc_n"])
def test_nan_gradients_stay_in_their_row(where: str, dtype: str) -> None:
    case = LayerCase(T=6, B=5, I=4, H=21, dtype=dtype)
    clean = case.found()
    case.arrays[where][-1, 2, 20] = np.nan
    found = case.found()
    for name in ("dx", "dh_0", "dc_0"):
        others = [0, 1, 3, 4]
        np.testing.assert_array_equal(found[name].take(others, -2), clean[name].take(others, -2), err_msg=name)
        assert np.isnan(found[name].take(2, -2)).any(), name
    assert np.isnan(found["weight_ih_l0"]).any() and np.isnan(found["weight_hh_l0"]).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("I", "H"), SIZES)
def test_the_largest_numbers(I: int, H: int, dtype: str) -> None:
    """Gates of finite weights stay finite, whatever overflows on the way to them."""
    case = LayerCase(T=5, B=3, I=I, H=H, dtype=dtype)
    case.arrays["x"][...] = np.finfo(dtype).max * np.sign(case.arrays["x"])
    case.lstm.parameters["weight_ih_l0"][...] = abs(case.lstm.parameters["weight_ih_l0"])
    case.arrays["x"][...] = abs(case.arrays["x"])  # all of one sign, so that no infinity meets another
    y, _ = case.lstm(case.arrays["x"])
    assert np.isfinite(y).all()
    assert (y > 0.7).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("I", "H"), SIZES)
def test_denormals(I: int, H: int, dtype: str) -> None:
    """Denormals count as zero or as what they are: neither can be told apart by the tolerance; none becomes a NaN."""
    tiny = np.finfo(dtype).smallest_subnormal
    case = LayerCase(T=5, B=3, I=I, H=H, dtype=dtype)
    for name in ("x", "h_0", "c_0", "dy", "dh_n", "dc_n"):
        case.arrays[name][...] = np.sign(case.arrays[name]) * (3 * tiny)
    case.lstm.parameters["weight_hh_l0"][...] = 5 * tiny
    tolerances.check(case.found(), case.expected(), case)


@numba.njit(parallel=True)
def multiplied_on_all_threads(values, factor, out):
    for k in numba.prange(len(values)):
        out[k] = values[k] * factor


def test_the_floating_point_mode_is_restored() -> None:
    """Kernels flush denormals to zero; the caller's thread, and the threads of the pool, must not do so afterwards."""
    denormals = np.full(4096, 2.0**-140, np.float32)
    expected = np.full(4096, 2.0**-141, np.float32)
    factor = np.float32(0.5)
    for threads, case in (
        (1, LayerCase(T=3, B=2)),
        (2, LayerCase(T=150, B=8, I=64, H=96)),
        (2, LayerCase(T=60, B=1, I=64, H=256)),
    ):
        fastlstm.set_num_threads(threads)
        case.found()
        case.inferred()
        case.lstm.stream(case.B).step(case.arrays["x"][0])
        np.testing.assert_array_equal(denormals * factor, expected)
        out = np.zeros_like(denormals)
        multiplied_on_all_threads(denormals, factor, out)
        np.testing.assert_array_equal(out, expected)
