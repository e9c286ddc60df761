"""Products of pieces in the matrix unit: bit for bit what its instructions are said to do, and as exact as in
registers; what cannot be split is told.
"""

from __future__ import annotations

import numpy as np
import pytest
from kernel_case import LIKE, address, run_gemm, run_pieces

from fastlstm.plan import plan_backward
from fastlstm.runtime.memory import aligned
from fastlstm.simd.amx import PRODUCTS
from fastlstm.simd.isa import PIECES, SIDE, STEP, TILE, multiplies_tiles

V = LIKE["float32"]
MARGIN = -77.0
ROWS = [1, SIDE - 1, SIDE, SIDE + 1, 2 * SIDE, 2 * SIDE + 1, 50]
DEPTHS = [1, 15, STEP // 2, STEP - 1, STEP, STEP + 1, 2 * STEP + STEP // 2 + 3]


def without() -> bool:
    """Whether there is no matrix unit: nothing is planned for it then."""
    if multiplies_tiles():
        return False
    assert not plan_backward(100, 64, 128, 128, 1, np.dtype("float32"), 1).in_unit
    return True


def pieces_of(a: np.ndarray) -> list[np.ndarray]:
    """Three numbers of 8 bits whose sum a is."""
    found, rest = [], a.copy()
    for _ in range(PIECES):
        piece = ((rest.view(np.uint32) + np.uint32(0x8000)) & np.uint32(0xFFFF0000)).view(np.float32)
        found.append(piece)
        rest = rest - piece
    assert (rest == 0).all()
    return found


def fused(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c with one rounding; products of pieces are exact in float64."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


def by_tiles(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> np.ndarray:
    """start + a b in the order of the instructions: those of even places in pairs and those of odd ones apart."""
    depth = a.shape[1]
    pad = -depth % STEP
    a_pieces, b_pieces = pieces_of(np.pad(a, [(0, 0), (0, pad)])), pieces_of(np.pad(b, [(0, pad), (0, 0)]))
    c = start.copy()
    for k in range(0, depth, STEP):
        for of_b, of_a in PRODUCTS:
            x, w = a_pieces[of_a][:, k : k + STEP], b_pieces[of_b][k : k + STEP]
            even, odd = np.zeros_like(c), np.zeros_like(c)
            for pair in range(STEP // 2):
                even = fused(x[:, pair, None], w[pair], even)
                odd = fused(x[:, pair + STEP // 2, None], w[pair + STEP // 2], odd)
            c = c + (even + odd)
    return c


def product(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, bool]:
    """The kernel's C, and whether A and B could be split."""
    (rows, depth), columns = a.shape, b.shape[1]
    steps = -(-depth // STEP)
    space = [aligned(n * PIECES * TILE // 4, "float32") for n in (-(-rows // SIDE) * steps, columns // SIDE * steps, 1)]
    c = np.full((rows + 1, columns + 3), MARGIN, np.float32)
    turned = np.ascontiguousarray(a.T)
    fits = run_pieces(
        V, rows, columns // SIDE, depth, address(turned), rows, address(np.ascontiguousarray(b)), address(start),
        address(c), c.shape[1], *(address(s) for s in space),
    )  # fmt: skip
    assert (c[-1] == MARGIN).all() and (c[:, columns:] == MARGIN).all(), "written beyond C"
    return c[:rows, :columns].copy(), fits


def in_registers(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> np.ndarray:
    (rows, depth), columns = a.shape, b.shape[1]
    c = np.empty((rows, columns), np.float32)
    run_gemm(
        V, rows, columns // SIDE, depth, address(a), depth, 1, address(b), columns * depth, address(start), columns,
        address(c), columns,
    )  # fmt: skip
    return c


def operands(rows: int, vectors: int, depth: int) -> list[np.ndarray]:
    rng = np.random.default_rng([rows, vectors, depth])
    shapes = ((rows, depth), (depth, vectors * SIDE), (rows, vectors * SIDE))
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_every_bit(rows: int, depth: int) -> None:
    if without():
        return
    for vectors in range(1, 5):
        a, b, start = operands(rows, vectors, depth)
        found, fits = product(a, b, start)
        assert fits
        np.testing.assert_array_equal(found, by_tiles(a, b, start))


def test_as_exact_as_registers() -> None:
    if without():
        return
    a, b, start = operands(96, 4, 512)
    true = start + a.astype(np.float64) @ b
    errors = [np.sqrt(np.mean((found - true) ** 2)) for found in (product(a, b, start)[0], in_registers(a, b, start))]
    assert errors[0] <= errors[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3.4e38, 2e17])
@pytest.mark.parametrize("where", ["a", "b"])
def test_what_cannot_be_split(where: str, value: float) -> None:
    if without():
        return
    a, b, start = operands(40, 3, 70)
    (a if where == "a" else b)[18, 5] = value
    assert not product(a, b, start)[1]
