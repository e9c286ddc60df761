"""What the operator takes: its arguments, the cell that they tell of, and whether they fit together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastlstm.cell import CellSpec, parameter_shapes
from fastlstm.passes import packing
from fastlstm.runtime.variant import Variant

NAMES = {torch.float32: "float32", torch.float64: "float64"}  # as numpy.dtype.name, which takes microseconds


class Inputs(NamedTuple):
    """What the operator takes."""

    x: Tensor  # (T, B, I), or (B, T, I) if x_first, or, packed, (N, I)
    h_0: Tensor  # (D, B, P)
    c_0: Tensor  # (D, B, H)
    sizes: Tensor | None  # rows of each step of a packed batch, on the CPU
    lengths: Tensor | None  # (B,) integers, steps of each row
    reset: Tensor | None  # (T, B) bool, where a row begins anew
    recurrent: Tensor | None  # factors of h on its way into the gates, (D, T, B, P), where T and B may be 1
    zoneout_c: Tensor | None  # the share of the c before, (D, T, B, H), where all but H may be 1
    zoneout_h: Tensor | None  # and of h, (D, T, B, P)
    keep: bool  # whether the tape is kept for backward
    x_first: bool  # whether x has the batch first
    y_first: bool
    reverse: bool  # whether a single direction runs from the last step to the first
    cell: str  # options of `CellSpec` that are not its defaults, as JSON, but bias and proj_size; empty if none are
    bias: bool
    weights: tuple[Tensor, ...]  # of each direction those that `parameter_shapes` names, in its order

    @property
    def ends(self) -> bool:
        """Whether rows end, or begin anew."""
        return self.sizes is not None or self.lengths is not None or self.reset is not None

    @property
    def simple(self) -> bool:
        """Whether it is the plain cell in a dense batch that runs forward."""
        return not self.other and self.directions == [False] and not self.ends

    @property
    def other(self) -> bool:
        """Whether it is another cell than the plain one."""
        return bool(self.cell) or self.recurrent is not None or self.h_0.shape[2] != self.c_0.shape[2]

    @property
    def directions(self) -> list[bool]:
        """Of each direction whether it runs from the last step to the first."""
        return [self.reverse] if self.h_0.shape[0] == 1 else [False, True]

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The shape of y."""
        rows = self.x.shape[:-1] if self.x_first == self.y_first else self.x.shape[:-1][::-1]
        return (*rows, self.h_0.shape[0] * self.h_0.shape[2])


def of_step(x: Tensor, h_0: Tensor, c_0: Tensor, weights: Sequence[Tensor]) -> Inputs:
    """Those of a step of the plain cell in inference, whose x and states need have no axis of time or directions."""
    I, H = x.shape[-1], h_0.shape[-1]
    return Inputs(
        x.reshape(1, -1, I), h_0.reshape(1, -1, H), c_0.reshape(1, -1, H), None, None, None, None, None, None,
        False, False, False, False, "", len(weights) == 4, tuple(weights),
    )  # fmt: skip


class Cell(NamedTuple):
    """What a cell's options come to."""

    spec: CellSpec
    variant: Variant  # of a dense batch


@lru_cache(64)
def options_of(cell: str) -> dict[str, Any]:
    """The options that a text stands for."""
    return json.loads(cell) if cell else {}


@lru_cache(64)
def _cell(cell: str, bias: bool, projection: int, dtype: torch.dtype) -> Cell:
    spec = CellSpec(bias=bias, proj_size=projection, **options_of(cell))
    return Cell(spec, packing.variant_of(spec, np.dtype(NAMES[dtype])))


def cell_of(call: Inputs) -> Cell:
    """The cell, and what the passes are compiled for in this call."""
    P, H = call.h_0.shape[2], call.c_0.shape[2]
    spec, variant = _cell(call.cell, call.bias, 0 if P == H else P, call.x.dtype)
    if call.recurrent is not None:
        variant = variant._replace(special=True, masked=True)
    return Cell(spec, variant._replace(ragged=call.ends))


shapes_of = lru_cache(256)(parameter_shapes)


def check(call: Inputs) -> None:
    """Raise unless shapes and dtypes fit together: a pass goes by addresses alone."""
    I, (D, B, P), H, dtype = call.x.shape[-1], call.h_0.shape, call.c_0.shape[-1], call.x.dtype
    if D > 2 or (D == 2 and call.reverse):
        raise RuntimeError(f"h_0 must be of one direction, or of two that are not reverse, but is of {D}")
    if call.c_0.shape != (D, B, H) or {call.h_0.dtype, call.c_0.dtype} != {dtype}:
        found = " and ".join(f"{state.dtype} of {tuple(state.shape)}" for state in (call.h_0, call.c_0))
        raise RuntimeError(f"h_0 and c_0 must be {dtype} of the shapes (D, B, P) and (D, B, H), but are {found}")
    dims = 3 if call.sizes is None else 2
    if call.x.dim() != dims or (dims == 3 and call.x.shape[0 if call.x_first else 1] != B):
        rows = f" and the {B} rows of h_0" if dims == 3 else ""
        raise RuntimeError(f"x must have {dims} dimensions{rows}, but has the shape {tuple(call.x.shape)}")
    spec, variant = _cell(call.cell, call.bias, 0 if P == H else P, dtype)
    shapes = [*shapes_of(spec, I, H).values()]
    if len(call.weights) != D * len(shapes):
        raise RuntimeError(
            f"there must be {len(shapes)} weights of each of {D} directions, but are {len(call.weights)}"
        )
    for weight, shape in zip(call.weights, shapes * D, strict=True):
        if weight.shape != shape or weight.dtype != dtype:
            found = f"{weight.dtype} of {tuple(weight.shape)}"
            raise RuntimeError(f"a weight must be {dtype} of the shape {shape}, but is {found}")
    if variant.zoned_c != (call.zoneout_c is not None) or variant.zoned_h != (call.zoneout_h is not None):
        raise RuntimeError("zoneout_c and zoneout_h must be given where the cell has zoneout, and nowhere else")
