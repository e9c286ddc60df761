"""What products in digits are to be, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastlstm.kernels.digits import BOUND, SMALLEST
from fastlstm.passes.packing import in_digits, plain_variant
from fastlstm.simd.digits import LARGEST, UNIT
from fastlstm.simd.isa import DIGITS, multiplies_tiles

TINY = np.finfo(np.float32).tiny


def without() -> bool:
    """Whether there is no matrix unit: nothing is planned for it then."""
    if multiplies_tiles():
        return False
    assert in_digits(plain_variant("float32"), 128, 128) == (False, False)
    return True


def flushed(a: np.ndarray) -> np.ndarray:
    """With zeros for denormals."""
    return np.where(abs(a) < TINY, np.float32(0), a)


def power(a: np.ndarray) -> np.ndarray:
    """The powers of two at or below numbers that are not negative."""
    return (a.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)


def balance(w: np.ndarray) -> np.ndarray:
    """The power of two of a quarter of the mean of each k, of sums in the order of the rows."""
    share, sizes = np.float32(0.25) / np.float32(len(w)), np.zeros(w.shape[1], np.float32)
    for row in abs(w):
        sizes = (row.astype(np.float64) * share + sizes).astype(np.float32)
    return power(np.maximum(sizes, TINY))


def digits_of(balanced: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows that are balanced, the digits (3, rows, depth) and what makes numbers of them, less the 2^16 that the
    factors of a row and a column leave to the sums.
    """
    size = np.maximum(abs(balanced).max(1), SMALLEST)
    assert (size <= BOUND).all()
    factor = np.float32(UNIT) / power(size)
    factor[size * factor > LARGEST] /= 2
    rest = np.rint(balanced * factor[:, None]).astype(np.int64)
    found = []
    for _ in range(DIGITS):
        digit = (rest + 128) % 256 - 128
        found.append(digit)
        rest = (rest - digit) // 256
    assert (rest == 0).all(), "more than three digits"
    return np.stack(found[::-1]), np.float32(2**8) / factor


def by_digits(
    a: np.ndarray, w: np.ndarray, start: np.ndarray, balance: Callable[[np.ndarray], np.ndarray] = balance
) -> np.ndarray:
    """start + a w^T as the tiles and `add_sums` compute it; float64 holds what is rounded once."""
    a, w = flushed(a), flushed(w)
    powers = balance(w)
    (x, row), (y, column) = digits_of(flushed(a * powers)), digits_of(flushed(w / powers))
    high, middle, low = (
        sum(x[of_a] @ y[total - of_a].T for of_a in range(total + 1)).astype(np.float32) for total in range(DIGITS)
    )
    sums = (high.astype(np.float64) * 256 + middle).astype(np.float32)
    sums = (sums.astype(np.float64) * 256 + low).astype(np.float32) * column
    return (sums.astype(np.float64) * row[:, None] + start).astype(np.float32)
