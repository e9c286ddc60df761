"""Calls of some steps of the plain cell in one direction, prepared: where what they compute has pushed Python's code
out of the caches, to put one together takes half as long.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fastlstm.passes import packing
from fastlstm.passes.shapes import Shape
from fastlstm.passes.short import ShortForward
from fastlstm.passes.short_backward import LayersBackward
from fastlstm.plan import is_long
from fastlstm.torch.inputs import NAMES, Inputs, cell_of, check
from fastlstm.torch.packs import lie, packs_of


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
    return ShortForward(shape) if alone and not is_long(shape.flops()) and ShortForward.fits(shape) else None


@lru_cache(32)
def _backward(shape: Shape, threads: int) -> LayersBackward | None:
    """And the way back."""
    alone = all(plan.parts == 1 for plan in shape.backward_plans(threads))
    return LayersBackward(shape) if alone and LayersBackward.fits(shape) else None


def _shape(call: Inputs) -> Shape:
    """The same of a call."""
    return _told(call.x.shape, call.h_0.shape[2], call.x_first, call.y_first, call.x.dtype)


def _taped(shape: Shape, tape: Tensor) -> list[int]:
    """Where the gates and c of a tape lie."""
    gates = tape.data_ptr()
    return [gates, gates + 4 * shape.T * shape.B * shape.H * shape.dtype.itemsize]


def forward(call: Inputs, y: Tensor, h_n: Tensor, c_n: Tensor, tape: Tensor, threads: int) -> bool:
    """Run a call; False if it is another one than they mostly are."""
    if not call.simple or not lie(call.x, call.h_0, call.c_0):
        return False
    check(call)
    shape = _shape(call)
    if (prepared := _forward(shape, threads)) is None:
        return False
    (packed,) = packs_of("forward", call, *cell_of(call))
    places = [tensor.data_ptr() for tensor in (call.x, call.h_0, call.c_0, y, h_n, c_n)]
    taped = _taped(shape, tape) if call.keep else [0, 0]
    prepared.run_at([*prepared.pointers(packed.weights), *places, *taped])
    return True


def backward(
    call: Inputs, dy: Tensor, dh_n: Tensor, dc_n: Tensor, tape: Tensor, dx: Tensor, threads: int
) -> list[Tensor] | None:
    """dx and the other gradients of a call; None if it is another one than they mostly are."""
    if not call.simple or not lie(call.x, call.h_0, call.c_0):
        return None
    check(call)
    shape = _shape(call)
    if (prepared := _backward(shape, threads)) is None:
        return None
    (packed,) = packs_of(prepared.ways[0], call, *cell_of(call))
    x = call.x if shape.even(0) else call.x.transpose(0, 1).contiguous()
    w_ih, w_hh = call.weights[:2]
    given = [x, call.h_0, call.c_0, dy.contiguous(), dh_n.contiguous(), dc_n.contiguous()]
    dh_0, dc_0 = torch.empty_like(call.h_0), torch.empty_like(call.c_0)
    gradients = [w_ih.new_empty(w_ih.shape), w_hh.new_empty(w_hh.shape), w_ih.new_empty(w_ih.shape[0])]
    places = [tensor.data_ptr() for tensor in (*given, dx, dh_0, dc_0)]
    found = [tensor.data_ptr() for tensor in gradients]
    prepared.run_at([*prepared.pointers(packed.weights), *places, *_taped(shape, tape), *found])
    if call.bias:
        gradients.append(gradients[2].clone())
    else:
        gradients.pop()
    return [dx, dh_0, dc_0, *gradients]
