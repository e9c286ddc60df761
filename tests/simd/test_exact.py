"""Sums in whole numbers: those of Python's integers, over odd depths, and what does not fit is told."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_case import LIKE, address, run_exact_tile

import fastlstm
from fastlstm.simd.exact import LARGEST, SHAPES, UNIT
from fastlstm.simd.isa import PANEL, multiplies_bytes, target


def without() -> bool:
    """Whether the target does not multiply bytes: it has no such tile then, and layers do without."""
    if multiplies_bytes():
        return False
    assert not fastlstm.LSTM(3, 5).quantize()._variant.exact
    return True


def run(rows: int, vectors: int, h: np.ndarray, q: np.ndarray, scales: np.ndarray, add: np.ndarray) -> tuple:
    """The tile's C, and whether h fitted; q (depth, columns)."""
    depth, columns = q.shape
    lanes = target().lanes("float32")
    fours = np.pad(q, [(0, -depth % 4), (0, 0)]).reshape(-1, 4, columns).transpose(0, 2, 1)
    panels = [fours[:, k : k + PANEL * lanes].ravel() for k in range(0, columns, PANEL * lanes)]
    b, plane = np.concatenate(panels), -(-depth // lanes) * lanes
    planes, c = np.full(rows * 3 * plane, 77, np.int8), np.empty((rows, columns), np.float32)
    start = -128 * q.sum(axis=0, dtype=np.int32)
    fits = run_exact_tile(
        LIKE["float32"], np.zeros(0, np.int8), rows, vectors, depth, address(h), address(planes), plane,
        address(b), panels[0].size, *(address(a) for a in (start, scales, add, c)),
    )  # fmt: skip
    return c, fits


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("depth", [1, 4, 15, 16, 131, 1030])
def test_whole_numbers(shape: tuple[int, int], depth: int) -> None:
    if without():
        return
    (rows, vectors), rng = shape, np.random.default_rng(depth)
    columns = vectors * target().lanes("float32")
    h = rng.uniform(-1, 1, (rows, depth)).astype(np.float32)
    h[0, 0], h[-1, -1] = -1, LARGEST / UNIT
    q = rng.integers(-127, 128, (depth, columns)).astype(np.int8)
    q[:, 0], h[0, : depth // 2] = 127, 1  # the largest sums
    scales, add = rng.uniform(0.001, 0.01, columns).astype(np.float32), rng.standard_normal((rows, columns), np.float32)
    whole = np.rint((h * np.float32(UNIT)).astype(np.float64)).astype(np.int64) @ q.astype(np.int64)
    found, fits = run(rows, vectors, h, q, scales, add)
    assert fits
    product = whole / UNIT * scales.astype(np.float64)
    assert (abs(found - (product + add)) <= 3 * np.finfo(np.float32).eps * (abs(product) + abs(add))).all()


@pytest.mark.parametrize("value", [1.001, -1.001, np.inf, -np.inf, np.nan])
def test_what_does_not_fit(value: float) -> None:
    if without():
        return
    depth, columns = 21, PANEL * target().lanes("float32")
    for k in (0, 20):
        h = np.zeros((1, depth), np.float32)
        h[0, k] = value
        q, ones = np.ones((depth, columns), np.int8), np.ones((1, columns), np.float32)
        assert not run(1, PANEL, h, q, ones, ones)[1]
