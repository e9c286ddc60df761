"""Calls of some steps of the plain cell in one direction, prepared: where what they compute has pushed Python's code
out of the caches, to put one together takes half as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastlstm.passes import packing
from fastlstm.passes.shapes import Shape
from fastlstm.passes.short import ShortForward
from fastlstm.passes.short_backward import LayersBackward
from fastlstm.runtime.memory import places_of
from fastlstm.torch.inputs import NAMES, Inputs, cell_of, check
from fastlstm.torch.memory import empty, lie
from fastlstm.torch.packs import current, key_of, packs_of
from fastlstm.torch.steps import Way, differentiate, few_rows, key_of_call, run_into, taped


@lru_cache(64)
def _told(x: torch.Size, H: int, x_first: bool, y_first: bool, dtype: torch.dtype) -> Shape:
    """What is known of calls of a shape, on the calling thread."""
    T, B, I = (x[1], x[0], x[2]) if x_first else x
    variant = packing.plain_variant(NAMES[dtype])
    y, state, item = (B, T, H) if y_first else (T, B, H), (1, B, H), np.dtype(variant.dtype)
    return Shape(tuple(x), y, state, T, B, I, H, 1, 1, x_first, y_first, item, variant, alone=True)


@lru_cache(32)
def _forward(shape: Shape, threads: int) -> ShortForward | None:
    """A prepared call, if one of so many threads would do it alone."""
    alone = all(plan.parts == 1 for plan in shape.plans(threads))
    return ShortForward(shape) if alone and ShortForward.fits(shape) else None


@lru_cache(32)
def _backward(shape: Shape, threads: int) -> LayersBackward | None:
    """And the way back."""
    alone = all(plan.parts == 1 for plan in shape.backward_plans(threads))
    return LayersBackward(shape) if alone and LayersBackward.fits(shape) else None


def _shape(call: Inputs) -> Shape | None:
    """The same of a call that fits together; None if it is another one than they mostly are."""
    if not call.simple or not lie(call.x, call.h_0, call.c_0):
        return None
    check(call)
    return _told(call.x.shape, call.h_0.shape[2], call.x_first, call.y_first, call.x.dtype)


def forward(call: Inputs, y: Tensor, h_n: Tensor, c_n: Tensor, tape: Tensor, threads: int) -> bool:
    """Run a call; False if it is another one than they mostly are."""
    shape = _shape(call)
    if shape is None or (prepared := _forward(shape, threads)) is None:
        return False
    (packed,) = packs_of("forward", call, *cell_of(call))
    way = Way(prepared, places_of(packed.weights))
    run_into(way, call.x, call.h_0, call.c_0, y, h_n, c_n, tape if call.keep else None)
    return True


def backward(call: Inputs, dy: Tensor, dh_n: Tensor, dc_n: Tensor, tape: Tensor, threads: int) -> list[Tensor] | None:
    """The gradients of a call; None if it is another one than they mostly are."""
    if (shape := _shape(call)) is None:
        return None
    x, h_0, c_0, weights = call.x, call.h_0, call.c_0, call.weights
    if shape.few and lie(*weights[:2]):
        few = few_rows(shape.T, shape.B, shape.I, shape.H, x.dtype)
        return differentiate(few, tape, x, h_0, c_0, weights, (dy, dh_n, dc_n))
    if (prepared := _backward(shape, threads)) is None:
        return None
    (packed,) = packs_of(prepared.ways[0], call, *cell_of(call))
    w_ih, w_hh = weights[:2]
    x = x if shape.even(0) else x.transpose(0, 1).contiguous()
    given = [x, h_0, c_0, dy.contiguous(), dh_n.contiguous(), dc_n.contiguous()]
    dx = empty(x, tuple(call.x.shape))
    found = [tensor.new_empty(tensor.shape) for tensor in (h_0, c_0, w_ih, w_hh)]  # weights may lie in any order
    found.append(w_ih.new_empty(w_ih.shape[0]))
    places = [tensor.data_ptr() for tensor in (*given, dx, *found[:2])]
    gradients = [tensor.data_ptr() for tensor in found[2:]]
    kept = taped(tape, shape.T * shape.B * shape.H)
    prepared.run(*places_of(packed.weights), *places, *kept, *gradients)
    return [dx, *found, found[4].clone()] if call.bias else [dx, *found[:4]]


class Known(NamedTuple):
    """How to run a call as one before."""

    run: ShortForward
    shape: Shape
    packed: tuple  # what packed weights are known by
    threads: int

    @property
    def goes_back(self) -> bool:
        """Whether `backward` takes such calls."""
        return self.shape.few or _backward(self.shape, self.threads) is not None

    def tape(self, h_0: Tensor) -> Tensor:
        """Room for a tape."""
        s = self.shape
        return empty(h_0, (5 * s.T * s.B * s.H,))

    def call(self, x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor]) -> Inputs:
        """The same for the way that all calls can go."""
        s = self.shape
        return Inputs(
            x, h_0, c_0, None, None, None, None, None, None, False, s.x_first, s.y_first, False, "", len(weights) == 4,
            tuple(weights),
        )  # fmt: skip

    def differentiate(
        self, tape: Tensor, x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor],
        douts: Sequence[Tensor | None],
    ) -> list[Tensor] | None:  # fmt: skip
        """The gradients, from those of y, h_n and c_n. None where the tensors lie otherwise now."""
        shapes = self.shape.y, h_0.shape, c_0.shape
        dy, dh_n, dc_n = (x.new_zeros(to) if d is None else d for d, to in zip(douts, shapes, strict=True))
        return backward(self.call(x, h_0, c_0, weights), dy, dh_n, dc_n, tape, self.threads)


_known: dict[tuple, Known] = {}
_MOST = 32  # of them: each keeps workspace


def remember(
    x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor], x_first: bool, y_first: bool, threads: int
) -> None:
    """Note a call of the plain cell in one direction that was found right, for `find`."""
    if h_0.numel() == 0 or not lie(x, h_0, c_0, *weights):
        return
    shape = _told(x.shape, h_0.shape[2], x_first, y_first, x.dtype)
    if shape.T == 1 or (run := _forward(shape, threads)) is None:
        return
    known = Known(run, shape, key_of("forward", weights, len(weights) == 4), threads)
    _known[(*key_of_call(x, h_0, c_0, weights), x_first, y_first, threads)] = known
    for oldest in list(_known)[: max(0, len(_known) - _MOST)]:
        _known.pop(oldest, None)


def find(
    x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor], x_first: bool, y_first: bool, threads: int
) -> tuple[Known, Way, Any] | None:
    """How to run a call, and what must live meanwhile, if there was one like it. The tensors must be `steps.eager`."""
    known = _known.get((*key_of_call(x, h_0, c_0, weights), x_first, y_first, threads))
    if known is None or not lie(x, h_0, c_0, *weights) or (packed := current(known.packed, weights)) is None:
        return None
    return known, Way(known.run, places_of(packed.weights)), packed
