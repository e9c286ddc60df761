"""Rounding to bfloat16 and int8: to the nearest, within the bounds that follow, and back."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fastlstm.rounding import relative_error, rounded, widened

FINITE = st.floats(-(2.0**100), 2.0**100, width=32)
MATRICES = arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=FINITE)


def bfloat16(w: np.ndarray) -> np.ndarray:
    return widened(rounded("w", w, "bfloat16"))


def test_bfloat16_is_ml_dtypes() -> None:
    """Every upper half with a lower half below, at, and above the tie."""
    upper = np.arange(1 << 16, dtype=np.uint32) << 16
    w = np.stack([upper | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)]).view(np.float32)
    with np.errstate(invalid="ignore"):
        wanted = w.astype(ml_dtypes.bfloat16).astype(np.float32)
    np.testing.assert_array_equal(bfloat16(w), wanted)
    np.testing.assert_array_equal(np.signbit(bfloat16(w))[w == 0], np.signbit(w)[w == 0])


def test_bfloat16_ties_go_to_even() -> None:
    w = np.array([[0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7FC00001]], np.uint32).view(np.float32)
    found = bfloat16(w)
    np.testing.assert_array_equal(found[0, :3], np.array([0x3F800000, 0x3F820000, 0x7F800000], np.uint32).view("f4"))
    assert np.isnan(found[0, 3])


@given(MATRICES)
def test_bounds(w: np.ndarray) -> None:
    """Of bfloat16 half of 2^-7 of each weight, of int8 half a step of each row, which has 127 to its largest weight."""
    assert (abs(bfloat16(w) - w) <= abs(w) * 2**-8 + 1e-40).all()
    found = rounded("w", w, "int8")
    assert found.codes.dtype == np.int8 and found.scales is not None and found.scales.dtype == np.float32
    assert abs(found.codes.astype(int)).max() <= 127
    largest = abs(w).max(axis=1, keepdims=True).astype(np.float64)
    assert (abs(widened(found).astype(np.float64) - w) <= largest * (0.5 / 127 + 1e-6) + 2e-43).all()
    again = widened(rounded("w", widened(found), "int8"))
    np.testing.assert_allclose(again, widened(found), rtol=1e-6)


def test_int8_by_rows() -> None:
    w = np.array([[0.0, 0.0], [127.0, -64.5], [1e-3, 127e-3]], np.float32)
    found = rounded("w", w, "int8")
    np.testing.assert_array_equal(found.codes, [[0, 0], [127, -64], [1, 127]])
    np.testing.assert_allclose(found.scales, [0, 1, 1e-3], rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_int8_refuses_what_is_not_finite(value: float) -> None:
    w = np.ones((3, 4), np.float32)
    w[2, 1] = value
    with pytest.raises(ValueError, match=rf"weight must be finite to be rounded to int8, but is {value} at \(2, 1\)"):
        rounded("weight", w, "int8")


def test_relative_error() -> None:
    error = relative_error(np.array([1.0, 2.5]), np.array([1.0, 2.0]))
    assert error.max == pytest.approx(0.25) and error.rms == pytest.approx(0.5 / 5**0.5)
    assert relative_error(np.zeros(3), np.zeros(3)) == (0, 0)
