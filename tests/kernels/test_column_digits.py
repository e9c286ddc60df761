"""Products of columns in whole numbers in the matrix unit: bit for bit what they are said to be; and for which columns
they do is told.
"""

from __future__ import annotations

import numpy as np
import pytest
from digit_case import by_digits, without
from kernel_case import LIKE, address, run_column_digits

from fastlstm.kernels.column_digits import BOUND, EVEN
from fastlstm.kernels.digits import SMALLEST
from fastlstm.passes.frames import digit_elements
from fastlstm.runtime.memory import aligned
from fastlstm.simd.isa import PANEL, SIDE

V = LIKE["float32"]
MARGIN = -77.0
EPS = np.finfo(np.float32).eps
BOTH = 3


def product(a: np.ndarray, b: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, int]:
    """The kernel's C of A (depth, rows), B (depth, columns) and start (rows, columns), and which ones are even."""
    (depth, rows), columns = a.shape, b.shape[1]
    vectors = -(-columns // SIDE)
    apart = [np.full((depth, matrix.shape[1] + 3), np.nan, np.float32) for matrix in (a, b)]  # what must not be read
    for matrix, to in zip((a, b), apart, strict=True):
        to[:, : matrix.shape[1]] = matrix
    c = np.full((rows + 1, vectors * SIDE + 3), MARGIN, np.float32)
    c[:rows, :columns] = start
    each, width = digit_elements(depth), PANEL * SIDE
    sizes = (rows + 2 * width, 2 * depth, rows + SIDE + width, depth * SIDE, -(-rows // SIDE) * each, PANEL * each)
    space = [aligned(size + 1, np.float32) for size in (*sizes, max(each, 3 * SIDE * SIDE))]
    for array in space:
        array.fill(MARGIN)
    found = run_column_digits(
        V, rows, vectors, depth, address(apart[0]), a.shape[1] + 3, address(apart[1]), columns + 3, columns,
        address(c), c.shape[1], *map(address, space),
    )  # fmt: skip
    assert (c[-1] == MARGIN).all() and (c[:, columns:] == MARGIN).all(), "written beyond C"
    assert all(array[-1] == MARGIN for array in space), "written beyond the workspace"
    return c[:rows, :columns].copy(), found


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def unbalanced(w: np.ndarray) -> np.ndarray:
    return np.ones(w.shape[1], np.float32)


@pytest.mark.parametrize("rows", [1, SIDE - 1, SIDE, SIDE + 1, 2 * SIDE + 1, 100])
@pytest.mark.parametrize("depth", [1, 2, 3, 62, 63, 64, 65, 200])
def test_bits(rows: int, depth: int) -> None:
    if without():
        return
    for columns in (1, SIDE, SIDE + 3, PANEL * SIDE - 1, PANEL * SIDE):
        a, b, start = normal(depth, rows), normal(depth, columns, seed=1), normal(rows, columns, seed=2)
        a[:, rows // 2] *= 1e3
        b[:, 0] *= 1e-6
        a[: depth // 2] = 0
        found, _ = product(a, b, start)
        wanted = by_digits(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), start, unbalanced)
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("depth", [128, 256, 512])
def test_even_columns_lose_as_little_as_rounding_takes(depth: int) -> None:
    """Of columns that are even: within what sums in float32 lose, of the sum of all products without signs."""
    if without():
        return
    a, b = normal(depth, 40), normal(depth, 64, seed=1)
    a[:, 3] *= 1e3
    a[:, 5] = 0
    a[:, 7] = abs(a[:, 7])
    b[:, 9] *= 1e-6
    b[:, 11] = 0
    a[: depth // 8, 12] = 0
    found, which = product(a, b, np.zeros((40, 64), np.float32))
    assert which == BOTH
    wanted, whole = a.T.astype(np.float64) @ b, abs(a.T) @ abs(b)
    assert (abs(found - wanted) <= 2 * EPS * whole).all()
    assert (found[5] == 0).all() and (found[:, 11] == 0).all()


def spread(kind: str, amount: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Numbers of which some are far larger than others."""
    found = rng.standard_normal(shape)
    if kind == "spikes":
        found[rng.integers(0, shape[0], shape[1]), np.arange(shape[1])] = amount
    elif kind == "rows":
        found *= np.exp(amount / 4 * rng.standard_normal(shape[0]))[:, None]
    elif kind == "tails":
        found = rng.standard_t(2 + 16 / amount, shape)
    elif kind == "few":
        found *= rng.random(shape) < min(1, 1 / amount)
    return found.astype(np.float32)


@pytest.mark.parametrize("kind", ["spikes", "rows", "tails", "few"])
@pytest.mark.parametrize("depth", [128, 256, 512])
def test_what_is_even_loses_little(kind: str, depth: int) -> None:
    """The error of a row, or column, of dW beside its norm, wherever digits are said to do; as sums in float32 have."""
    if without():
        return
    even, most, amounts = 0, 0.0, (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 32.0)
    rng = np.random.default_rng(depth)
    for amount in amounts:
        a, b = (spread(kind, amount, (depth, columns), rng) for columns in (40, 64))
        found, which = product(a, b, np.zeros((40, 64), np.float32))
        if which == BOTH:
            even += 1
            exact = a.T.astype(np.float64) @ b
            for axis in (0, 1):
                error = np.linalg.norm(found - exact, axis=axis) / np.linalg.norm(exact, axis=axis)
                most = max(most, error.max())
    assert 1 <= even < len(amounts)
    assert most <= 6e-6


def cases() -> dict[str, tuple[np.ndarray, np.ndarray, int]]:
    """Matrices, and which ones are even: 1 for A, 2 for B."""
    depth = 256
    made = {}

    def case(name: str, which: int) -> tuple[np.ndarray, np.ndarray]:
        a, b = normal(depth, 40), normal(depth, 64, seed=1)
        made[name] = a, b, which
        return a, b

    case("normal", BOTH)
    a, b = case("rows of one matrix of somewhat different sizes", BOTH)
    b *= np.geomspace(1, 0.5, depth).astype(np.float32)[:, None]
    a, b = case("rows of one matrix of different sizes", 1)
    b *= np.geomspace(1, 1e-3, depth).astype(np.float32)[:, None]
    a, b = case("a single number of A in place of all others", 2)
    a[:, 20] *= 1e-6
    a[30, 20] = 1
    b[30] *= 1e-6
    a, b = case("a single number of B that A hardly meets", 1)
    b[:, 20] *= 1e-6
    b[30, 20] = 1
    a[30] *= 1e-6
    a, b = case("gradients of the last rows alone", 0)
    b[:-1] *= 1e-4
    a, b = case("of which nothing else is known", 0)
    b[:-1] = 0
    a[:, 4] = 0
    a[-1, 4] = 1
    a, b = case("zeros", BOTH)
    a[:], b[:] = 0, 0
    a, b = case("columns of very different sizes", BOTH)
    a *= np.geomspace(1e-9, 1e9, 40).astype(np.float32)
    b *= np.geomspace(1e-9, 1e9, 64).astype(np.float32)
    a, b = case("too small for digits", 0)
    b *= SMALLEST / 256
    for name, value in (("nan", np.nan), ("infinity", -np.inf), ("too large", 2 * BOUND)):
        a, b = case(f"{name} in A", -1)
        a[200, 39] = value
        a, b = case(f"{name} in B", -1)
        b[0, 0] = value
    return made


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_what_is_even(name: str) -> None:
    if without():
        return
    a, b, wanted = CASES[name]
    start = normal(40, 64)
    found, which = product(a, b, start)
    assert which == wanted
    if which < 0:
        np.testing.assert_array_equal(found, start)


def test_even_as_the_bound_says() -> None:
    """A column of ones and a larger number, beside ones: where the sizes' sums become `EVEN` times that of products."""
    if without():
        return
    depth, columns = 256, 16
    ones = np.ones((depth, columns), np.float32)
    for size in (1.0, 50.0, 58.0, 59.0, 70.0, 100.0):
        a = ones.copy()
        a[7, 3] = size
        met = a[:, 3].sum() * columns
        left_out = size * (depth + depth) * columns + met
        _, which = product(a, ones, np.zeros((columns, columns), np.float32))
        assert (which & 1) == (left_out <= float(EVEN) * met), size
