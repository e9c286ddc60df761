"""Products c = start + a b as the tile and `gemm` take them.

Strided A, packed B, a margin around C that must stay as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from kernel_case import LIKE, address

from fastlstm.simd.isa import target
from fastlstm.simd.tile import PANEL

MARGIN = -77.0


class Product:
    """Integer-valued operands, whose products are exact in any order, or normal ones."""

    def __init__(
        self,
        dtype: str,
        rows: int,
        vectors: int,
        depth: int,
        exact: bool = True,
        by_columns: bool = False,
        one_start: bool = False,
    ) -> None:
        self.dtype, self.rows, self.vectors, self.depth, self.one_start = dtype, rows, vectors, depth, one_start
        rng, self.width = np.random.default_rng([rows, vectors, depth]), vectors * target().lanes(dtype)

        def numbers(*shape: int) -> np.ndarray:
            return (rng.integers(-4, 5, shape) if exact else rng.standard_normal(shape)).astype(dtype)

        self.a, self.b = numbers(rows, depth), numbers(depth, self.width)
        self.start = numbers(1 if one_start else rows, self.width)
        if by_columns:  # as x^T stands in x^T dG
            self.a = np.asfortranarray(self.a)

    def packed(self) -> tuple[np.ndarray, int]:
        """B as [k][vectors], or, for more than a panel of vectors, as panels; and the elements from panel to panel."""
        panel = min(self.width, PANEL * target().lanes(self.dtype))
        panels = [self.b[:, k : k + panel].ravel() for k in range(0, self.width, panel)]
        gap = np.full(7, np.nan, self.dtype)  # what lies between two panels is not read
        return np.concatenate([part for p in panels for part in (p, gap)]), self.depth * panel + len(gap)

    def lying(self) -> tuple[np.ndarray, int]:
        """B as a matrix whose rows are some elements longer; and the elements from row to row."""
        wide = np.full((self.depth, self.width + 5), np.nan, self.dtype)
        wide[:, : self.width] = self.b
        return wide, wide.shape[1]

    def run(self, kernel: Callable[..., None], lying: bool = False) -> np.ndarray:
        """C as a kernel leaves it; its margin is checked."""
        c = np.full((self.rows + 2, self.width + 3), MARGIN, self.dtype)
        inner = c[1:-1, : self.width]
        item, (packed, b_panel) = c.itemsize, self.lying() if lying else self.packed()
        a_row, a_step = (stride // item for stride in self.a.strides)
        start_row = 0 if self.one_start else self.width
        kernel(
            LIKE[self.dtype], self.rows, self.vectors, self.depth, address(self.a), a_row, a_step,
            address(packed), b_panel, address(self.start), start_row, address(inner), c.shape[1],
        )  # fmt: skip
        assert (c[[0, -1]] == MARGIN).all() and (c[:, self.width :] == MARGIN).all(), "written beyond C"
        return inner.copy()

    def exact(self) -> np.ndarray:
        """C, from operands that are integers."""
        return (self.start.astype(np.int64) + self.a.astype(np.int64) @ self.b.astype(np.int64)).astype(self.dtype)


def check_a_row_apart(
    product: Callable[..., np.ndarray], in_registers: Callable[..., np.ndarray],
    a: np.ndarray, b: np.ndarray, start: np.ndarray, value: float,
) -> None:  # fmt: skip
    """A row of A with a value that cannot be split comes out of registers, and the others as without it."""
    clean = product(a, b, start)
    a[18, 5] = value
    found = product(a, b, start)
    np.testing.assert_array_equal(found[18], in_registers(a[18:19], b, start[18:19])[0])
    others = np.arange(len(a)) != 18
    np.testing.assert_array_equal(found[others], clean[others])
