"""The tile.

Every shape that the target's registers carry, exactly, for every way in which A, B and the start may lie.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_case import run_lying_tile, run_stored_tile, run_tile
from product_case import Product

from fastlstm.simd.isa import target
from fastlstm.simd.tile import PANEL, lying_shapes, shapes, whole_panels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_exact(shape: tuple[int, int], dtype: str) -> None:
    for depth in (1, 2, 3, 64, 129):
        for by_columns in (False, True):
            for one_start in (False, True):
                product = Product(dtype, *shape, depth, by_columns=by_columns, one_start=one_start)
                np.testing.assert_array_equal(product.run(run_tile), product.exact())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_element_has_the_same_bits_in_every_shape(dtype: str) -> None:
    """Products are added in the order of k, whatever the tile: real numbers tell, integers could not."""
    depth = 100
    large = {vectors: Product(dtype, 1, vectors, depth, exact=False) for _, vectors in shapes()}
    for rows, vectors in shapes():
        product = Product(dtype, rows, vectors, depth, exact=False)
        found = product.run(run_tile)
        for row in range(rows):
            alone = large[vectors]
            alone.a, alone.b, alone.start = product.a[row : row + 1], product.b, product.start[row : row + 1]
            np.testing.assert_array_equal(alone.run(run_tile)[0], found[row])
        narrow = Product(dtype, rows, 1, depth, exact=False)
        lanes = target().lanes(dtype)
        narrow.a, narrow.b, narrow.start = product.a, product.b[:, :lanes].copy(), product.start[:, :lanes].copy()
        if (rows, 1) in shapes():
            np.testing.assert_array_equal(narrow.run(run_tile), found[:, :lanes])


def test_accumulators_fit_in_the_registers() -> None:
    assert set(shapes()) >= {
        (rows, vectors) for rows in range(1, target().tile_rows + 1) for vectors in range(1, PANEL + 1)
    }
    assert all(rows * vectors < target().registers for rows, vectors in shapes())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", lying_shapes(), ids=str)
def test_a_matrix_as_it_lies_has_the_bits_of_a_packed_one(shape: tuple[int, int], dtype: str) -> None:
    assert shape in shapes()
    for depth in (1, 2, 129):
        for by_columns in (False, True):
            exact = Product(dtype, *shape, depth, by_columns=by_columns)
            np.testing.assert_array_equal(exact.run(run_lying_tile, lying=True), exact.exact())
            product = Product(dtype, *shape, depth, exact=False, by_columns=by_columns, one_start=True)
            np.testing.assert_array_equal(product.run(run_lying_tile, lying=True), product.run(run_tile))


def stored_as(b: np.ndarray, stored: str) -> np.ndarray:
    """Panels [k][vector][lane] of float32, which are integers, as int8 or as pairs of bfloat16."""
    if stored == "int8":
        return b.astype(np.int8)
    pairs = b.view(np.uint32).reshape(-1, 2, target().lanes("float32")) >> 16
    return pairs.swapaxes(1, 2).astype(np.uint16).ravel()


@pytest.mark.parametrize("stored", ["int8", "uint16"])
@pytest.mark.parametrize("shape", whole_panels(), ids=str)
def test_fewer_bits_widen(shape: tuple[int, int], stored: str) -> None:
    for depth in (1, 2, 65):
        product = Product("float32", *shape, depth, one_start=depth == 2)
        product.b *= 31 if stored == "int8" else 2.0**60
        panel = PANEL * target().lanes("float32")
        panels = [product.b[:, k : k + panel] for k in range(0, product.width, panel)]
        narrow = np.concatenate([stored_as(np.ascontiguousarray(p).ravel(), stored) for p in panels])

        def run(v, rows, vectors, depth, a, a_row, a_step, b, b_panel, *rest, narrow=narrow):
            b, b_panel = narrow.ctypes.data, depth * PANEL * target().lanes(v.dtype)
            run_stored_tile(v, narrow, rows, vectors, depth, a, a_row, a_step, b, b_panel, *rest)

        np.testing.assert_array_equal(product.run(run), product.run(run_tile))
