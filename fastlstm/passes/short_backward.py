"""Prepared calls of the long backward pass, through all layers on the calling thread."""

from __future__ import annotations

from functools import cached_property
from struct import pack_into

import numpy as np

from fastlstm.cell import CellSpec
from fastlstm.passes.frames import BACKWARD_BYTES, Backward
from fastlstm.passes.packing import Gradients
from fastlstm.passes.seats import (
    WORKSPACE,
    Likeness,
    Recorded,
    Seat,
    Source,
    State,
    bytes_of,
    maker,
    seat_of,
)
from fastlstm.passes.shapes import Shape
from fastlstm.passes.templates import Template, backward_template
from fastlstm.plan import is_long
from fastlstm.runtime import reuse
from fastlstm.runtime.memory import address, addresses, places_of
from fastlstm.runtime.workers import Worker, worker

WEIGHTS = 8 * Backward._fields.index("w_hh")  # bytes of a frame before the addresses of packed weights
GRADIENTS = 8 * (Backward._fields.index("dw_ih") - Backward._fields.index("x"))  # and from a call's arrays to these


class LayersBackward:
    """Backward calls of one shape of x, after `ShortForward.record`; without a source, of arrays at addresses alone."""

    def __init__(self, shape: Shape, source: Source | None = None) -> None:
        self._shape, self._dtype, self._source = shape, shape.dtype, source
        L, D, H = shape.layers, shape.directions, shape.H
        self.ways = ["digits" if plan.in_unit else "backward" for plan in shape.backward_plans()]
        self._templates = _templates(shape)
        self._places = shape.places(Backward)
        shapes = [[(4 * H, shape.width(k)), (4 * H, H), (4 * H,)] for k in range(L) for _ in range(D)]
        self._gradients = [[(maker(of), of) for of in each] for each in shapes]
        self.nothing = np.zeros(shape.state, self._dtype)  # no gradient
        self.takes = Likeness(shape.y, self.nothing).holds  # dy and a pair of them
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
        seat = seat_of(self._templates, s.dtype, WEIGHTS)
        seat.space += [np.empty(s.between, s.dtype) for _ in range((s.layers - 1) * s.directions)]
        return seat

    def __call__(
        self, recorded: Recorded, dy: np.ndarray, dstate: State | None, epoch: object
    ) -> tuple[np.ndarray, State, list[np.ndarray]]:
        """dx, (dh_0, dc_0) and the gradients of the parameters in their order, for what it `takes` in an epoch of the
        parameters.
        """
        s, dtype, D, source = self._shape, self._dtype, self._shape.directions, self._source
        assert source is not None
        x, between, tape, state = recorded
        lowest = [reuse.empty(s.x, dtype) for _ in range(D)]
        dh_0, dc_0 = np.empty(s.state, dtype), np.empty(s.state, dtype)
        made = [self._make(source.spec, place) for place in range(len(self._places))]
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        if seat.epoch is not epoch:
            packs, seat.epoch = source._bind(self.ways)
            seat.point(packs)
        dxs = [*lowest, *seat.space[1:]]
        h, c, dh_n, dc_n, dh, dc = addresses((*state, *(dstate or (self.nothing, self.nothing)), dh_0, dc_0))
        xs, to = addresses((x, *between)), addresses(dxs)
        dy_at, words, run = address(dy), seat.words, self._worker.run
        for place in reversed(range(len(self._places))):
            k, at, part, columns = self._places[place]
            taped, grads = places_of(tape[place]), made[place]
            pack_into(
                f"{9 + len(taped)}q", words, at, xs[k], h + part, c + part, dy_at + columns, dh_n + part, dc_n + part,
                to[place], dh + part, dc + part, *taped,
            )  # fmt: skip
            found = places_of(grads.arrays()) if isinstance(grads, Gradients) else addresses(grads)
            pack_into(f"{len(found)}q", words, at + GRADIENTS, *found)
            if place % D == 0:
                frame = seat.address + place * BACKWARD_BYTES
                for d in range(D):
                    run(d, frame)
                if D == 2:
                    np.add(dxs[place], dxs[place + 1], out=dxs[place])
                dy_at = to[place]
        self._seats.append(seat)
        gradients: list[np.ndarray] = []
        for grads in made:
            if isinstance(grads, Gradients):
                named = grads.named()
                gradients += [named[name] for name in source._names]
            else:
                gradients += [*grads, grads[2].copy()] if source.bias else grads[:2]
        return lowest[0], (dh_0, dc_0), gradients

    def _make(self, spec: CellSpec, place: int) -> Gradients | list[np.ndarray]:
        """Where the gradients of one direction of a layer go: of the plain cell dw_ih, dw_hh and db."""
        s = self._shape
        if s.variant.special:
            return Gradients(spec, s.width(self._places[place][0]), s.H, s.dtype)
        return [make(shape, s.dtype) for make, shape in self._gradients[place]]

    def run(self, *places: int) -> None:
        """Compute, through one layer in one direction, with what is at so many addresses: packed weights, as
        `packing.Transposed` has them, then x, h_0, c_0, dy, dh_n, dc_n, dx, dh_0, dc_0, the tape's gates and c, and
        dw_ih, dw_hh and db.
        """
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        at = self._places[0][1]
        seat.point_at(0, list(places[:-14]))
        pack_into("11q", seat.words, at, *places[-14:-3])
        self._worker.run(0, seat.address, at + GRADIENTS, *places[-3:])
        self._seats.append(seat)


def _templates(shape: Shape) -> list[Template]:
    """The frames of each layer."""
    found = []
    for k, plan in enumerate(shape.backward_plans()):
        n, sizes, N = shape.width(k), shape.sizes(k), shape.T * shape.B
        rows = n, shape.y_rows(k), shape.rows(n, k == 0 and shape.x_first)  # of x, dy and dx
        found.append(backward_template(shape.variant, plan, sizes, N, shape.dtype, *rows, shape.reverse))
    return found
