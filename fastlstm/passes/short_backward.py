"""Prepared calls of the long backward pass, through all layers on the calling thread."""

from __future__ import annotations

import math
from functools import cached_property
from struct import pack_into
from typing import Any

import numpy as np

from fastlstm.passes.frames import BACKWARD_BYTES, Backward
from fastlstm.passes.packing import Transposed
from fastlstm.passes.seats import (
    WORKSPACE,
    Recorded,
    Seat,
    Source,
    State,
    bytes_of,
    is_plain,
    is_plain_pair,
    made,
    seat_of,
)
from fastlstm.passes.shapes import Shape
from fastlstm.passes.templates import Rows, Template, backward_template
from fastlstm.plan import is_long
from fastlstm.runtime import reuse
from fastlstm.runtime.memory import address, addresses
from fastlstm.runtime.workers import Worker, worker

WEIGHTS = 8 * Backward._fields.index("w_hh")  # bytes of a frame before the addresses of packed weights
GRADIENTS = 8 * (Backward._fields.index("dw_ih") - Backward._fields.index("x"))  # and from a call's arrays to these


class LayersBackward:
    """Backward calls of one shape of x, after `ShortForward.record`."""

    def __init__(self, shape: Shape, source: Source) -> None:
        self._shape, self._dtype, self._source = shape, shape.dtype, source
        L, D, H = shape.layers, shape.directions, shape.H
        self._ways = ["digits" if plan.in_unit else "backward" for plan in shape.backward_plans()]
        self._templates = _templates(shape)
        self._places = shape.places(Backward)
        self._lowest = reuse.empty if math.prod(shape.x) * self._dtype.itemsize >= reuse.LEAST else np.empty
        self._gradients = [
            (math.prod(of), of)
            for k in range(L)
            for of in [(4 * H, shape.width(k)), (4 * H, H), (4 * H,)] * D
        ]  # fmt: skip
        self.nothing = np.zeros(shape.state, self._dtype)  # no gradient
        self._seats: list[Seat] = []

    @staticmethod
    def fits(shape: Shape) -> bool:
        """Whether such a call can be prepared: one thread does it all, soon, in a small seat."""
        plans = shape.backward_plans()
        if shape.threads() > 1 and shape.directions * max(plan.parts for plan in plans) > 1:
            return False
        between = (shape.layers - 1) * shape.directions
        return not is_long(2 * shape.flops()) and bytes_of(_templates(shape), between, shape) <= WORKSPACE

    @cached_property
    def _worker(self) -> Worker:
        return worker("backward", self._shape.variant)  # compiled when the first call needs it

    def _seat(self) -> Seat:
        s = self._shape
        seat = seat_of(self._templates, s.dtype)
        seat.space += [np.empty(s.between, s.dtype) for _ in range((s.layers - 1) * s.directions)]
        return seat

    def takes(self, dy: Any, dstate: Any) -> bool:
        """Whether arguments are as they mostly are."""
        s, dtype = self._shape, self._dtype
        return is_plain(dy, s.y, dtype) and (dstate is None or is_plain_pair(dstate, s.state, dtype))

    def __call__(
        self, recorded: Recorded, dy: np.ndarray, dstate: State | None, epoch: object
    ) -> tuple[np.ndarray, State, list[np.ndarray]]:
        """dx, (dh_0, dc_0) and the gradients of w_ih, w_hh and of a bias of each direction of each layer, for what it
        `takes` in an epoch of the parameters; the gates on the tape become dG.
        """
        s, dtype, D = self._shape, self._dtype, self._shape.directions
        x, between, tape, state = recorded
        lowest = [self._lowest(s.x, dtype) for _ in range(D)]
        dh_0, dc_0 = np.empty(s.state, dtype), np.empty(s.state, dtype)
        gradients = [made(count, shape, dtype) for count, shape in self._gradients]
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        if seat.epoch is not epoch:
            packs, seat.epoch = self._source._bind(self._ways)
            self._point(seat, packs)
        dxs = [*lowest, *seat.space[1:]]
        h, c, dh_n, dc_n, dh, dc = addresses((*state, *(dstate or (self.nothing, self.nothing)), dh_0, dc_0))
        xs, to, found = addresses((x, *between)), addresses(dxs), addresses(gradients)
        dy_at, words, run = address(dy), seat.words, self._worker.run
        for place in reversed(range(len(self._places))):
            k, at, part, columns = self._places[place]
            pack_into(
                "11q", words, at, xs[k], h + part, c + part, dy_at + columns, dh_n + part, dc_n + part, to[place],
                dh + part, dc + part, *addresses(tape[place]),
            )  # fmt: skip
            pack_into("3q", words, at + GRADIENTS, *found[3 * place : 3 * place + 3])
            if place % D == 0:
                frame = seat.address + place * BACKWARD_BYTES
                for d in range(D):
                    run(d, frame)
                if D == 2:
                    np.add(dxs[place], dxs[place + 1], out=dxs[place])
                dy_at = to[place]
        self._seats.append(seat)
        return lowest[0], (dh_0, dc_0), gradients

    def _point(self, seat: Seat, packs: list[Transposed]) -> None:
        """Let the frames point to packed weights."""
        for k, pack in enumerate(packs):
            if k >= len(seat.packs) or seat.packs[k] is not pack:
                arrays = pack.w_hh, pack.w_ih, pack.digits_hh, pack.digits_ih
                places = [0 if array is None else address(array) for array in arrays]
                pack_into("4q", seat.words, k * BACKWARD_BYTES + WEIGHTS, *places)
        seat.packs = packs


def _templates(shape: Shape) -> list[Template]:
    """The frames of each layer."""
    found = []
    for k, plan in enumerate(shape.backward_plans()):
        dx = Rows(*shape.strides(shape.width(k), outside=k == 0), False)
        rows = shape.x_rows(k).row, shape.y_rows(k), dx
        sizes, N = shape.sizes(k), shape.T * shape.B
        found.append(backward_template(shape.variant, plan, sizes, N, shape.dtype, *rows, shape.reverse))
    return found
