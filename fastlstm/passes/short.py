"""Short calls, prepared: what a call of a few steps computes takes microseconds, and to put it together takes thirty;
where what it computes pushes Python's own code out of the caches, up to a millisecond.

What does not change between calls of one shape is made once: plans, frames, workspace. A call takes a *seat*, a set of
frames and workspace that no other call holds, writes the addresses of its arrays into it, and gives it back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import pack_into

import numpy as np

from fastlstm.passes.calls import Taped, make_tape
from fastlstm.passes.frames import FORWARD_BYTES, Forward
from fastlstm.passes.seats import (
    WORKSPACE,
    Likeness,
    Recorded,
    Seat,
    Source,
    State,
    bytes_of,
    seat_of,
)
from fastlstm.passes.shapes import Shape
from fastlstm.passes.short_backward import LayersBackward
from fastlstm.passes.short_step import ShortBackward, ShortStep
from fastlstm.passes.templates import Template, forward_template
from fastlstm.plan import is_long
from fastlstm.runtime import reuse
from fastlstm.runtime.memory import addresses, aligned, places_of
from fastlstm.runtime.threads import fan_out, get_num_threads
from fastlstm.runtime.workers import worker

APART_FLOPS = 3e8  # of a layer: with more, threads should have processors of their own (`passes.meeting`)
WEIGHTS = 8 * Forward._fields.index("weights")  # bytes of a frame before the addresses of packed weights
_NO_TAPE = [0, 0]
# What is 0 of a call's words, where the plain cell has a tape of its gates and c.
_BETWEEN = [0] * (Forward._fields.index("weights") - Forward._fields.index("cells") - 1)


class ShortForward:
    """Forward calls of one shape of x, through all layers; without a source, of arrays at addresses alone."""

    def __init__(self, shape: Shape, source: Source | None = None) -> None:
        self._shape, self._dtype, self._y, self._state = shape, shape.dtype, shape.y, shape.state
        self._source = source
        T, B, I, H, L, D = shape[3:9]
        self._ways = ["forward"] * L
        self._threads, self._templates = shape.threads(), _templates(shape)
        self._run = worker("forward", shape.variant)
        self._parts = [plan.parts * D for plan in shape.plans()]
        self._alone = self._threads < 2 or max(self._parts) == 1  # whether one thread does it all
        self._places, self._layer = shape.places(Forward), D * FORWARD_BYTES
        self._whole = (L * D, B, H)
        self._nothing = np.zeros(self._state, self._dtype)
        self.takes = Likeness(shape.x, self._nothing).holds  # x and a state; the long way takes others, or refuses them
        self._one, self._at = L == D == 1 and not shape.variant.special, self._places[0][1]
        self._empty = np.empty if T * B * H * self._dtype.itemsize < reuse.LEAST else reuse.empty
        self._seats = [self._seat()]
        self._step = ShortStep(B, I, H, shape.variant) if self._one and T == 1 else None
        self.backward: ShortBackward | LayersBackward | None = None
        if shape.training and source is not None:
            if shape.few:
                dy = shape.y_rows(0)
                self.backward = ShortBackward(T, B, I, H, dy, shape.x, shape.y, shape.state, shape.variant, source)
            elif LayersBackward.fits(shape):
                self.backward = LayersBackward(shape, source)

    @staticmethod
    def fits(shape: Shape) -> bool:
        """Whether such a call can be prepared: parts do not meet, and a seat is small."""
        plans = shape.plans()
        if is_long(shape.flops()) or any(plan.by_units for plan in plans):
            return False
        several = shape.threads() > 1 and shape.directions * max(plan.parts for plan in plans) > 1
        if several and shape.flops() > APART_FLOPS:
            return False
        return bytes_of(_templates(shape), shape.layers - 1, shape) <= WORKSPACE

    def _seat(self) -> Seat:
        """A seat with all that does not change from call to call."""
        s = self._shape
        seat = seat_of(self._templates, s.dtype, WEIGHTS)
        if not s.training:  # else the tape has it
            seat.space += [aligned(math.prod(s.between), s.dtype) for _ in range(s.layers - 1)]
        return seat

    def stale(self) -> bool:
        """Whether it was made for another number of threads."""
        return self._threads != 0 and self._threads != get_num_threads()

    def __call__(
        self, x: np.ndarray, state: State | None, epoch: object, between: Sequence[np.ndarray] = (),
        tape: Sequence[Taped | State] = (),
    ) -> tuple[np.ndarray, State]:  # fmt: skip
        """y and (h_n, c_n) for what it `takes` in an epoch of the parameters. In training, arrays for what goes from
        layer to layer, and a tape of each direction of each layer.
        """
        dtype, shape, empty = self._dtype, self._state, np.empty
        y, h_n, c_n = self._empty(self._y, dtype), empty(shape, dtype), empty(shape, dtype)
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        if seat.epoch is not epoch:
            assert self._source is not None
            if self._step is not None and (weights := self._source._lie()) is not None:
                self._seats.append(seat)
                start = state or (self._nothing, self._nothing)
                self._step.run(*weights, x, *start, y, h_n, c_n, *(tape[0] if tape else ()))  # type: ignore[arg-type]
                return y, (h_n, c_n)
            packs, seat.epoch = self._source._bind(self._ways)
            seat.point(packs)
        h_0, c_0 = state or (self._nothing, self._nothing)
        if self._one and self._alone:
            self._run.run(0, seat.address, self._at, x, h_0, c_0, y, h_n, c_n, *(tape[0][:2] if tape else ()))
            self._seats.append(seat)
            return y, (h_n, c_n)
        self._write(seat, addresses((x, h_0, c_0, y, h_n, c_n)), between, tape)
        if self._alone:
            run, frame = self._run.run, seat.address
            for parts in self._parts:
                for part in range(parts):
                    run(part, frame)
                frame += self._layer
        else:
            self._fan_out(seat)
        self._seats.append(seat)
        return y, (h_n, c_n)

    def _write(
        self, seat: Seat, places: Sequence[int], between: Sequence[np.ndarray], tape: Sequence[Taped | State]
    ) -> None:
        """Let all frames point to the arrays of a call: x, h_0, c_0, y, h_n and c_n are at `places`."""
        x, h_0, c_0, y, h_n, c_n = places
        inner = addresses(between or seat.space[1:])
        xs, ys = (x, *inner), (*inner, y)
        taped = [places_of(arrays) for arrays in tape] or [_NO_TAPE] * len(self._places)
        to = f"{6 + len(taped[0])}q"
        for (k, at, part, columns), here in zip(self._places, taped, strict=True):
            ends = h_n + part, c_n + part
            pack_into(to, seat.words, at, xs[k], h_0 + part, c_0 + part, ys[k] + columns, *ends, *here)

    def record(self, x: np.ndarray, state: State | None, epoch: object) -> tuple[np.ndarray, State, Recorded]:
        """As a call, in training, and what backward needs of it."""
        s, empty = self._shape, self._empty
        between = [empty(s.between, s.dtype) for _ in range(s.layers - 1)]
        tape: list[Taped | State]
        if s.variant.special:
            tape = [make_tape(s.variant, s.T * s.B, s.H, s.H, s.dtype) for _ in self._places]
        else:
            gates, cells = (s.T * s.B, 4, s.H), (s.T * s.B, s.H)
            tape = [(empty(gates, s.dtype), empty(cells, s.dtype)) for _ in self._places]
        y, state_n = self(x, state, epoch, between, tape)
        start = state or (self._nothing, self._nothing)
        if not s.even(0):
            x = np.ascontiguousarray(x.transpose(1, 0, 2))
        if len(s.x) < 3 or s.x_first:
            x, start = x.reshape(s.T, s.B, s.I), (start[0].reshape(self._whole), start[1].reshape(self._whole))
        return y, state_n, Recorded(x, between, tape, start)

    def _fan_out(self, seat: Seat) -> None:
        """Run the parts of each layer on threads, or one after another where there are none: they never meet."""
        frame = seat.address
        for parts in self._parts:
            if not fan_out(self._run, parts, frame):
                for part in range(parts):
                    self._run.run(part, frame)
            frame += self._layer

    def run(self, *places: int) -> None:
        """Compute, through one layer in one direction, with what is at so many addresses: packed weights, as
        `packing.Weights` has them, then x, h_0, c_0, y, h_n, c_n and the tape's gates and c, 0 without one.
        """
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        self._run.run(0, seat.address, self._at, *places[-8:], *_BETWEEN, *places[:-8])
        self._seats.append(seat)


def _templates(shape: Shape) -> list[Template]:
    """The frames of each layer."""
    return [
        forward_template(
            shape.variant, plan, shape.sizes(k), shape.dtype, shape.x_rows(k), shape.y_rows(k), shape.reverse
        )
        for k, plan in enumerate(shape.plans())
    ]
