"""Products in whole numbers in the matrix unit: bit for bit what they are said to be, as exact as digits allow, and
registers for what cannot be split.
"""

from __future__ import annotations

import numpy as np
import pytest
from digit_case import TINY, balance, by_digits, power, without
from kernel_case import LIKE, address, run_columns, run_digits, run_gemm
from product_case import check_a_row_apart

from fastlstm.kernels.digits import SUMS
from fastlstm.passes.frames import digit_elements, digits_elements
from fastlstm.runtime.memory import aligned
from fastlstm.simd.digits import UNIT
from fastlstm.simd.isa import PANEL, SIDE

V = LIKE["float32"]
WIDTH = PANEL * SIDE
MARGIN = -77.0
ROWS = [1, SIDE - 1, SIDE, SIDE + 1, 2 * SIDE + 1, 50]
DEPTHS = [1, 15, 63, 64, 65, 200]


def balance_columns(w: np.ndarray) -> np.ndarray:
    """The same of sums by vectors of columns, then of halves of a vector, then by panels."""
    share, sizes = np.float32(0.25) / np.float32(len(w)), np.zeros(w.shape[1], np.float32)
    for panel in range(0, len(w), WIDTH):
        vectors = abs(w[panel : panel + WIDTH]).reshape(-1, SIDE, w.shape[1])
        total = vectors[0]
        for vector in vectors[1:]:
            total = total + vector
        while len(total) > 1:
            total = total[: len(total) // 2] + total[len(total) // 2 :]
        sizes = sizes + share * total[0]
    return power(np.maximum(sizes, TINY))


def by_gates(columns: np.ndarray, hidden: int) -> np.ndarray:
    """(rows, 4H) from columns by [panel][gate][lane]."""
    panels = columns.reshape(len(columns), -1, PANEL, SIDE).swapaxes(1, 2).reshape(len(columns), PANEL, -1)
    return panels[..., :hidden].reshape(len(columns), -1)


def by_panels(a: np.ndarray) -> np.ndarray:
    """The other way round."""
    hidden = a.shape[1] // PANEL
    gates = np.full((len(a), PANEL, -(-hidden // SIDE) * SIDE), MARGIN, np.float32)
    gates[..., :hidden] = a.reshape(len(a), PANEL, hidden)
    return gates.reshape(len(a), PANEL, -1, SIDE).swapaxes(1, 2).reshape(len(a), -1)


def product(a: np.ndarray, w: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The kernel's C (rows, 4H) of A (rows, depth), w (4H, depth) and start, of as many rows as A or of one for all."""
    (rows, depth), hidden = a.shape, len(w) // PANEL
    started = by_panels(start)
    columns = started.shape[1]
    apart = np.full((rows, depth + 3), np.nan, np.float32)  # rows of A, and what must not be read
    apart[:, :depth] = a
    a_digits, b_digits = -(-rows // SIDE) * digit_elements(depth), digits_elements(columns // SIDE, depth)
    sizes = (a_digits, rows, columns * depth, b_digits, digit_elements(depth), SUMS // 4)
    space = [aligned(size + 1, np.float32) for size in sizes]
    for array in space:
        array.fill(MARGIN)
    c = np.full((rows + 1, columns + 3), MARGIN, np.float32)
    run_digits(
        V, rows, depth, hidden, address(apart), depth + 3, address(w), address(started),
        columns if len(start) > 1 else 0, address(c), c.shape[1], *map(address, space),
    )  # fmt: skip
    assert (c[-1] == MARGIN).all() and (c[:, columns:] == MARGIN).all(), "written beyond C"
    assert all(array[-1] == MARGIN for array in space), "written beyond the workspace"
    return by_gates(c[:rows, :columns], hidden)


def product_of_columns(a: np.ndarray, w: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The kernel's C (rows, N) for w (N, depth) in packed columns, N in whole vectors."""
    (rows, depth), columns = a.shape, len(w)
    packed = np.concatenate([w[first : first + WIDTH].T.ravel() for first in range(0, columns, WIDTH)])
    sizes = (-(-rows // SIDE) * digit_elements(depth), rows, digits_elements(columns // SIDE, depth))
    space = [aligned(size + 1, np.float32) for size in (*sizes, digit_elements(depth), SUMS // 4)]
    for array in space:
        array.fill(MARGIN)
    c = np.full((rows + 1, columns + 3), MARGIN, np.float32)
    run_columns(
        V, rows, depth, columns, address(a), depth, address(packed), address(start),
        columns if len(start) > 1 else 0, address(c), c.shape[1], *map(address, space),
    )  # fmt: skip
    assert (c[-1] == MARGIN).all() and (c[:, columns:] == MARGIN).all(), "written beyond C"
    assert all(array[-1] == MARGIN for array in space), "written beyond the workspace"
    return c[:rows, :columns].copy()


def in_registers(a: np.ndarray, w: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The same out of registers, panel by panel, with denormals as this process has them."""
    (rows, depth), hidden = a.shape, len(w) // PANEL
    started, packed = by_panels(start), np.ascontiguousarray(by_panels(w.T))
    c = np.empty_like(started)
    for first in range(0, c.shape[1], WIDTH):
        b, from_, to = packed[:, first : first + WIDTH].copy(), started[:, first:], c[:, first:]
        b[b == MARGIN] = 0  # units that do not exist
        run_gemm(
            V, rows, PANEL, depth, address(a), depth, 1, address(b), WIDTH, address(from_), c.shape[1], address(to),
            c.shape[1],
        )  # fmt: skip
    return by_gates(c, hidden)


def operands(rows: int, hidden: int, depth: int) -> list[np.ndarray]:
    rng = np.random.default_rng([rows, hidden, depth])
    shapes = ((rows, depth), (PANEL * hidden, depth), (rows, PANEL * hidden))
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def bound(a: np.ndarray, w: np.ndarray, start: np.ndarray) -> np.ndarray:
    """How far the product may be from the exact one.

    Of the largest number of a row, 2^22 - 2^14 or more is made: so much as 2^23, if above `LARGEST`, halved. In such
    units rounding takes at most 1/2 of each number, and so 2^-22 of the product of the largest ones; the three products
    that are left out, of digits within 128, are 2 * 2^14 * 2^8 + 2^14, a 2^-21st of it. That for each k. Then six
    roundings: of three sums, and where they meet.
    """
    powers, a, w = balance(w), a.astype(np.float64), w.astype(np.float64)
    largest = abs(a * powers).max(1)[:, None] * abs(w / powers).max(1)
    sizes = abs(a) @ abs(w).T
    return a.shape[1] * 1.02 * (2.0**-22 + 2.0**-21) * largest + 2.0**-24 * (6 * sizes + abs(start))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_every_bit(rows: int, depth: int) -> None:
    if without():
        return
    for hidden in (SIDE - 1, SIDE, 3 * SIDE + 5):
        a, w, start = operands(rows, hidden, depth)
        np.testing.assert_array_equal(product(a, w, start), by_digits(a, w, start))
        np.testing.assert_array_equal(product(a, w, start[:1]), by_digits(a, w, start[:1]))


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("rows", ROWS)
def test_every_bit_of_columns(rows: int, depth: int) -> None:
    if without():
        return
    for columns in (SIDE, WIDTH, 2 * WIDTH + 3 * SIDE):
        a, w, start = operands(rows, columns // PANEL, depth)
        for begin in (start, start[:1]):
            np.testing.assert_array_equal(product_of_columns(a, w, begin), by_digits(a, w, begin, balance_columns))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_columns_that_cannot_be_split(value: float) -> None:
    """Of a row of A, which stays apart, and of a panel."""
    if without():
        return
    operand = operands(40, 16, 70)

    def of_panel(a: np.ndarray, w: np.ndarray, start: np.ndarray) -> np.ndarray:
        c, b = np.empty((len(a), WIDTH), np.float32), np.ascontiguousarray(w.T)
        run_gemm(
            V, len(a), PANEL, a.shape[1], address(a), a.shape[1], 1, address(b), 0, address(start), WIDTH, address(c),
            WIDTH,
        )  # fmt: skip
        return c

    check_a_row_apart(product_of_columns, of_panel, *operand, value)
    a, w, start = operands(20, 16, 70)
    w[37, 5] = value
    np.testing.assert_array_equal(product_of_columns(a, w, start), of_panel(a, w, start))


KINDS = {"normal": 0, "features of other sizes": 6, "features far from each other": 12}


@pytest.mark.parametrize("decades", KINDS.values(), ids=KINDS)
def test_exactness(decades: int) -> None:
    """Features of sizes up to so many powers of ten away from 1, and weights that make up for it."""
    if without():
        return
    for rows, hidden, depth in ((33, 20, 7), (96, 64, 512)):
        a, w, start = operands(rows, hidden, depth)
        sizes = 10.0 ** np.random.default_rng(0).integers(-decades, decades, depth, endpoint=True)
        a, w = (a * sizes).astype(np.float32), (w / sizes).astype(np.float32)
        found = product(a, w, start)
        np.testing.assert_array_equal(found, by_digits(a, w, start))
        error = abs(found - (start + a.astype(np.float64) @ w.astype(np.float64).T))
        assert (error <= bound(a, w, start)).all()


def test_a_large_weight() -> None:
    """It takes digits from its own column, not from the others."""
    if without():
        return
    a, w, start = operands(32, 64, 64)

    def error() -> float:
        exact = start + a.astype(np.float64) @ w.astype(np.float64).T
        return np.delete(abs(product(a, w, start) - exact), 37, axis=1).mean()

    before = error()
    w[37, 5] = 100
    assert error() < 1.5 * before


def test_whole_numbers() -> None:
    """Below 16 one digit holds them, balanced too, and no sum is rounded."""
    if without():
        return
    rng = np.random.default_rng(0)
    a, w, start = (rng.integers(-15, 16, array.shape).astype(np.float32) for array in operands(33, 20, 500))
    np.testing.assert_array_equal(product(a, w, start), start + a @ w.T)


def test_what_is_left_out() -> None:
    """The most that can be: the two last digits of both numbers -128, and the largest numbers as small as they can be.
    It is within the bound, and most of that.
    """
    if without():
        return
    a = np.array([[1, -(2.0**15 + 2**7) / UNIT] + [0] * 20], np.float32)
    w, start = np.ones((PANEL * 3, 22), np.float32), np.full((1, PANEL * 3), -1, np.float32)
    w[4] = a
    found = product(a, w, start)
    np.testing.assert_array_equal(found, by_digits(a, w, start))
    assert found[0, 4] == 2.0**30 / UNIT**2
    assert a[0, 1].astype(np.float64) ** 2 - found[0, 4] == (2.0**23 + 2**14) / UNIT**2


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_row_that_cannot_be_split(value: float) -> None:
    if without():
        return
    check_a_row_apart(product, in_registers, *operands(40, 35, 70), value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_matrix_that_cannot_be_split(value: float) -> None:
    if without():
        return
    a, w, start = operands(20, 35, 70)
    w[37, 5] = value
    np.testing.assert_array_equal(product(a, w, start), in_registers(a, w, start))


SIZES = {
    "zeros": 0.0,
    "denormals": 1e-40,
    "about the smallest": 3e-38,
    "below the smallest to split": 1e-33,
    "large": 1e17,
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("where", ["row", "column", "feature", "feature's weights", "all weights"])
def test_sizes(where: str, size: float) -> None:
    """One row, column of weights, or k of either of another size than the others."""
    if without():
        return
    a, w, start = operands(20, 35, 70)
    part = {
        "row": a[7], "column": w[37], "feature": a[:, 5], "feature's weights": w[:, 5], "all weights": w,
    }[where]  # fmt: skip
    part *= np.float32(size)
    np.testing.assert_array_equal(product(a, w, start), by_digits(a, w, start))


def test_the_largest_weights() -> None:
    """Even the largest that there are can be told by rows that are small enough."""
    if without():
        return
    a, w, start = operands(20, 35, 70)
    w[37, 5] = np.finfo(np.float32).max
    a[3, 5], a[4, 5] = 1e-30, 0
    found, few, exact = product(a, w, start), [3, 4], start + a.astype(np.float64) @ w.astype(np.float64).T
    assert (abs(found - exact)[few] <= bound(a, w, start)[few]).all()
    others = ~np.isin(np.arange(20), few)
    np.testing.assert_array_equal(found[others], in_registers(a, w, start)[others])
