"""What a layer and the shape of x tell of a call, for calls that are prepared."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastlstm.passes.packing import in_digits
from fastlstm.passes.templates import Rows, Sizes
from fastlstm.plan import GFLOPS, REGION_US, ROWS, Plan, plan_backward, plan_forward
from fastlstm.runtime.threads import get_num_threads
from fastlstm.runtime.variant import Variant

SERIAL_FLOPS = 3e3 * REGION_US * GFLOPS  # of a direction: with less no thread count makes a plan take two threads


class Shape(NamedTuple):
    """What a layer and the shape of x tell of a call."""

    x: tuple[int, ...]  # as the caller has it, and so y and state
    y: tuple[int, ...]
    state: tuple[int, ...]
    T: int
    B: int
    I: int
    H: int
    layers: int
    directions: int
    x_first: bool  # whether x has the batch first
    y_first: bool
    dtype: np.dtype
    variant: Variant
    training: bool = False  # whether there is a tape
    alone: bool = False  # on the calling thread, whatever the number of threads
    limit: int | None = None  # what `threads` found

    def rows(self, n: int, first: bool) -> Rows:
        """How rows of n features lie where the batch, or else time, comes first."""
        return Rows(n, self.T * n, False) if first else Rows(self.B * n, n, False)

    def width(self, layer: int) -> int:
        """Features of the input of a layer."""
        return self.directions * self.H if layer else self.I

    def threads(self) -> int:
        """Threads for which calls are planned; 0 if so little is computed that their number does not matter."""
        if self.limit is not None:
            return self.limit
        return 0 if self.alone or self.flops() < SERIAL_FLOPS * self.directions else get_num_threads()

    def even(self, layer: int) -> bool:
        """Whether the rows of a layer's input are equally far apart."""
        return layer > 0 or not self.x_first or 1 in (self.T, self.B)

    def settled(self) -> Shape:
        """The same, whatever becomes of the number of threads."""
        return self._replace(limit=self.threads())

    def plans(self, threads: int | None = None) -> list[Plan]:
        """A plan for each layer, for so many threads, or as many as there are."""
        T, B, H, D, threads = self.T, self.B, self.H, self.directions, threads or self.threads() or 1
        return [
            plan_forward(
                T, B, self.width(k), H, D, self.dtype, threads, self.even(k) and not self.variant.normed,
                self.variant.whole, in_digits(self.variant, self.width(k), H)[1],
            )
            for k in range(self.layers)
        ]  # fmt: skip

    def backward_plans(self, threads: int | None = None) -> list[Plan]:
        """And one back."""
        T, B, H, D, threads = self.T, self.B, self.H, self.directions, threads or self.threads() or 1
        whole = self.variant.whole
        return [plan_backward(T, B, self.width(k), H, D, self.dtype, threads, whole) for k in range(self.layers)]

    def sizes(self, layer: int) -> Sizes:
        """Those of one layer."""
        return Sizes(self.T, self.B, self.width(layer), self.H, self.H)

    def x_rows(self, layer: int) -> Rows:
        """How the rows of a layer's input lie."""
        x = self.rows(self.width(layer), layer == 0 and self.x_first)
        return x._replace(row=x.step) if self.B == 1 else x  # a chunk of steps is taken as so many rows

    def y_rows(self, layer: int) -> Rows:
        """And those of its output, of all directions."""
        return self.rows(self.directions * self.H, layer == self.layers - 1 and self.y_first)

    @property
    def reverse(self) -> tuple[bool, ...]:
        """Whether each direction is the reverse one."""
        return (False, True)[: self.directions]

    @property
    def few(self) -> bool:
        """Whether the way back is that of few rows: of the plain cell in one direction, time first."""
        one = self.layers == self.directions == 1 and not self.variant.special
        return one and self.T * self.B <= ROWS and (1 in (self.T, self.B) or not (self.x_first or self.y_first))

    def flops(self) -> float:
        """Floating-point operations of the largest layer forward."""
        return 8.0 * self.H * (max(self.I, self.width(1)) + self.H) * self.T * self.B * self.directions

    def places(self, frame: Any) -> list[tuple[int, int, int, int]]:
        """Of each direction of each layer: the layer, where its frame has the addresses of arrays, in bytes, and the
        bytes before its part of a state and before its columns of y.
        """
        words, item, found = len(frame._fields), self.dtype.itemsize, []
        for k in range(self.layers * self.directions):
            layer, d = divmod(k, self.directions)
            at = 8 * (k * words + frame._fields.index("x"))
            found.append((layer, at, k * self.B * self.H * item, d * self.H * item))
        return found

    @property
    def between(self) -> tuple[int, int, int]:
        """The shape of what goes from layer to layer."""
        return self.T, self.B, self.directions * self.H
