"""Vectors.

Loads and stores of the first lanes touch nothing else, arithmetic is IEEE's, a NaN fails every comparison.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_case import LIKE, address, arithmetic, copy_lanes, copy_vector

from fastlstm.simd.emit import has_fma
from fastlstm.simd.isa import target

DTYPES = ["float32", "float64"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_load_and_store(dtype: str) -> None:
    lanes = target().lanes(dtype)
    source = np.arange(1, 3 * lanes + 1).astype(dtype)
    for n in range(-1, lanes + 3):
        loaded = np.full(3 * lanes, -9, dtype)
        copy_lanes(LIKE[dtype], address(source), address(loaded[lanes:]), n, lanes)
        kept = min(max(n, 0), lanes)
        np.testing.assert_array_equal(loaded[lanes : 2 * lanes], [*source[:kept], *[0] * (lanes - kept)])
        stored = np.full(3 * lanes, -9, dtype)
        copy_lanes(LIKE[dtype], address(source), address(stored[lanes:]), lanes, n)
        np.testing.assert_array_equal(stored, [*[-9] * lanes, *source[:kept], *[-9] * (2 * lanes - kept)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_vectors_at_any_element(dtype: str) -> None:
    lanes = target().lanes(dtype)
    source, found = np.arange(3 * lanes).astype(dtype), np.full(3 * lanes, -9, dtype)
    for offset in range(lanes + 1):
        found[...] = -9
        copy_vector(LIKE[dtype], address(source[offset:]), address(found[offset:]))
        np.testing.assert_array_equal(found[offset : offset + lanes], source[offset : offset + lanes])
        assert (found[:offset] == -9).all() and (found[offset + lanes :] == -9).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_arithmetic(dtype: str) -> None:
    lanes, rng = target().lanes(dtype), np.random.default_rng(0)
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, np.finfo(dtype).max, np.finfo(dtype).tiny], dtype)
    for turn in range(40):
        a, b, c = (rng.standard_normal(lanes).astype(dtype) for _ in range(3))
        if turn % 2:
            a, b = rng.choice(special, lanes), rng.choice(special, lanes)
        out = np.empty((12, lanes), dtype)
        arithmetic(LIKE[dtype], address(a), address(b), address(c), address(out))
        with np.errstate(all="ignore"):
            if not has_fma():
                fused, scaled = a * b + c, a * a.dtype.type(0.5) + c
            elif (
                dtype == "float32"
            ):  # a product of two float32 is exact in float64; its sum is rounded twice, seldom to another float32
                fused, scaled = ((a.astype(float) * y + c).astype(dtype) for y in (b, 0.5))
            else:
                fused, scaled = ((a.astype(np.longdouble) * y + c).astype(dtype) for y in (b, 0.5))
            expected = [
                a + b,
                a - b,
                a * b,
                a / b,
                -a,
                fused,
                np.where(a < b, c, a),
                abs(a),
                np.copysign(a, b),
                np.full_like(a, 1.5),
                2 - a,
                scaled,
            ]
        for k, wanted in enumerate(expected):
            if k in (5, 11) and has_fma():
                with np.errstate(all="ignore"):
                    np.testing.assert_allclose(out[k], wanted, rtol=np.finfo(dtype).eps, err_msg=str(k))
            else:
                np.testing.assert_array_equal(out[k], wanted, err_msg=str(k))
        np.testing.assert_array_equal(np.signbit(out[7]), False)
