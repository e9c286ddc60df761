"""Products of any number of rows and steps: exact, and with bits that do not depend on the rows beside."""

from __future__ import annotations

import numpy as np
import pytest
from kernel_case import run_gemm
from product_case import Product

from fastlstm.kernels.gemm import BLOCK_ROWS, DEPTH, TILE_ROWS, cut, panels_at_once
from fastlstm.simd.tile import PANEL, shapes

ROWS = [1, 2, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1, 2 * TILE_ROWS + 1, BLOCK_ROWS]
STEPS = [1, 2, DEPTH - 1, DEPTH, DEPTH + 1, 2 * DEPTH + 1, 3 * DEPTH]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("depth", STEPS)
@pytest.mark.parametrize("rows", ROWS)
def test_exact(rows: int, depth: int, dtype: str) -> None:
    for vectors in range(1, PANEL + 1):
        for by_columns in (False, True):
            product = Product(dtype, rows, vectors, depth, by_columns=by_columns, one_start=vectors % 2 == 0)
            np.testing.assert_array_equal(product.run(run_gemm), product.exact())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows", "vectors"), [shape for shape in shapes() if shape[1] > PANEL], ids=str)
def test_several_panels(rows: int, vectors: int, dtype: str) -> None:
    for depth in STEPS:
        product = Product(dtype, rows, vectors, depth)
        np.testing.assert_array_equal(product.run(run_gemm), product.exact())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_do_not_depend_on_their_neighbours(dtype: str) -> None:
    whole = Product(dtype, 2 * TILE_ROWS + 1, PANEL, 2 * DEPTH + 1, exact=False)
    found = whole.run(run_gemm)
    for row in range(whole.rows):
        alone = Product(dtype, 1, PANEL, whole.depth, exact=False)
        alone.a, alone.b, alone.start = whole.a[row : row + 1], whole.b, whole.start[row : row + 1]
        np.testing.assert_array_equal(alone.run(run_gemm)[0], found[row])


def test_start_may_be_c_itself() -> None:
    """As where dW grows from chunk to chunk."""
    product = Product("float32", 7, 3, 40)
    twice = Product("float32", 7, 3, 40)
    twice.start = product.run(run_gemm)
    np.testing.assert_array_equal(twice.run(run_gemm), product.exact() + product.exact() - product.start)


def test_tiles_that_are_asked_for_exist() -> None:
    for rows in range(1, TILE_ROWS + 1):
        for panels in range(1, 9):
            assert (rows, panels_at_once.py_func(rows, panels) * PANEL) in shapes()


@pytest.mark.parametrize("whole", [1, 2, 7, 100])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_cuts_are_even_and_complete(whole: int, parts: int) -> None:
    edges = [int(cut.py_func(whole, parts, part)) for part in range(parts + 1)]
    sizes = np.diff(edges)
    assert (edges[0], edges[-1]) == (0, whole)
    assert sizes.max() - sizes.min() <= 1
    assert sorted(sizes, reverse=True) == sizes.tolist()
