"""Short calls, prepared: what a call of a few steps computes takes microseconds, and to put it together takes thirty.

What does not change between calls of one shape is made once: plans, frames, workspace. A call takes a *seat*, a set of
frames and workspace that no other call holds, writes the addresses of its arrays into it, and gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fastlstm.passes.calls import PAD
from fastlstm.passes.frames import Forward, block_elements, split_room
from fastlstm.passes.packing import Weights, in_digits, padded
from fastlstm.passes.short_step import Seat, ShortBackward, ShortStep, is_plain, is_plain_pair
from fastlstm.plan import GFLOPS, REGION_US, ROWS, Plan, plan_forward
from fastlstm.runtime.memory import address, addresses, aligned
from fastlstm.runtime.threads import fan_out, get_num_threads
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import worker
from fastlstm.simd.isa import PANEL, target

WORKSPACE = 1 << 20  # bytes of a seat, at the most
SERIAL_FLOPS = 3e3 * REGION_US * GFLOPS  # of a layer: with less no thread count makes a plan take two threads

State = tuple[np.ndarray, np.ndarray]
# The packed weights, and the epoch of the parameters in which they hold or None.
Bind = Callable[[], tuple[list[Weights], object]]
# The four parameters of the only layer and direction, as they lie, where packed ones may not hold for long.
Lie = Callable[[], "list[np.ndarray] | None"]

_AT = {name: index for index, name in enumerate(Forward._fields)}
X, Y, H_0, C_0, H_N, C_N = (_AT[name] for name in ("x", "y", "h_0", "c_0", "h_n", "c_n"))
GATES, CELLS = _AT["gates"], _AT["cells"]
_PACKED = [_AT[name] for name in ("weights", "bias", "digits_ih", "digits_hh")]
_PLACES = [*_PACKED, X, H_0, C_0, Y, H_N, C_N, GATES, CELLS]  # what `run_at` is given

Recorded = tuple[np.ndarray, list[State], State, "ShortBackward | None"]  # x (T, B, I), tape, (h_0, c_0), its backward


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
    batch_first: bool
    dtype: np.dtype
    variant: Variant
    training: bool = False  # whether there is a tape
    alone: bool = False  # on the calling thread, whatever the number of threads

    def strides(self, n: int, outside: bool) -> tuple[int, int]:
        """Elements from step to step and from row to row of n features, in the caller's layout or between layers."""
        return (n, self.T * n) if outside and self.batch_first else (self.B * n, n)

    def width(self, layer: int) -> int:
        """Features of the input of a layer."""
        return self.directions * self.H if layer else self.I

    def threads(self) -> int:
        """Threads for which calls are planned; 0 if so little is computed that their number does not matter."""
        flops = 8.0 * self.H * (max(self.I, self.width(1)) + self.H) * self.T * self.B * self.directions
        return 0 if self.alone or flops < SERIAL_FLOPS else get_num_threads()

    def even(self, layer: int) -> bool:
        """Whether the rows of a layer's input are equally far apart."""
        return layer > 0 or not self.batch_first or 1 in (self.T, self.B)

    def plans(self) -> list[Plan]:
        """A plan for each layer."""
        T, B, H, D, threads = self.T, self.B, self.H, self.directions, self.threads() or 1
        return [
            plan_forward(
                T, B, self.width(k), H, D, self.dtype, threads, self.even(k),
                unit=in_digits(self.variant, self.width(k), H)[1],
            )
            for k in range(self.layers)
        ]  # fmt: skip

    def workspace(self, layer: int, plan: Plan) -> tuple[int, int, int, int, int]:
        """Of one direction of a layer: elements before a row's h for its x, of such a row, of a part's scratch, and
        where in it digits and W x begin.
        """
        units, lanes = padded(self.H, self.dtype), target().lanes(self.dtype)
        room = 0 if plan.chunk else padded(self.width(layer), self.dtype)
        split = block_elements(self.variant, self.H, self.H, units + PAD, lanes)
        projected = split + split_room(self.variant, self.B * max(1, plan.chunk), self.width(layer), self.H)
        scratch = projected + plan.chunk * self.B * (units // lanes) * PANEL * lanes
        return room, room + units + PAD, scratch, split, projected


class ShortForward:
    """Forward calls of one shape of x, through all layers; in training with one layer alone."""

    def __init__(self, shape: Shape, bind: Bind, lie: Lie) -> None:
        self._shape, self._dtype, self._y, self._state = shape, shape.dtype, shape.y, shape.state
        self._bind, self._lie = bind, lie
        T, B, I, H, L, D = shape[3:9]
        self._threads, self._plans = shape.threads(), shape.plans()
        self._run = worker("forward", shape.variant)
        self._parts = [plan.parts * D for plan in self._plans]
        self._alone = self._threads < 2 or max(self._parts) == 1  # whether one thread does it all
        part, item = B * H * self._dtype.itemsize, self._dtype.itemsize
        # Of each direction of each layer: where its frame begins, its part of a state, and its columns of y.
        words = len(Forward._fields)
        self._layer = 8 * D * words
        self._places = [((k * D + d) * words, (k * D + d) * part, d * H * item) for k in range(L) for d in range(D)]
        self._first, self._last = self._places[:D], self._places[-D:]
        self._whole = (L * D, B, H)
        self._nothing = np.zeros(self._state, self._dtype)
        self._zeros = address(self._nothing)
        self._seats = [self._seat()]
        one = L == D == 1
        self._step = ShortStep(B, I, H, shape.variant) if one and T == 1 else None
        self._backward: ShortBackward | None = None
        if shape.training and one and T * B <= ROWS:
            strides = shape.strides(H, outside=True)
            self._backward = ShortBackward(T, B, I, H, strides, shape.x, shape.y, shape.state, shape.variant)

    @staticmethod
    def fits(shape: Shape) -> bool:
        """Whether such a call can be prepared: parts do not meet, and a seat is small."""
        if shape.training and (shape.layers > 1 or not shape.even(0)):
            return False
        plans, elements = shape.plans(), 0
        for k, plan in enumerate(plans):
            _, row, scratch, *_ = shape.workspace(k, plan)
            elements += shape.directions * (3 * shape.B * row + plan.parts * scratch + shape.T * shape.B * shape.H)
        return elements * shape.dtype.itemsize <= WORKSPACE and not any(plan.by_units for plan in plans)

    def _seat(self) -> Seat:
        """A seat with all that does not change from call to call."""
        s, dtype = self._shape, self._dtype
        spaces, frames = [], []
        between = [aligned(s.T * s.B * s.directions * s.H, dtype) for _ in range(s.layers - 1)]
        for k, plan in enumerate(self._plans):
            I = s.width(k)
            room, h_row, scratch, split, projected = s.workspace(k, plan)
            x_step, x_row = s.strides(I, outside=k == 0)
            y_step, y_row = s.strides(s.directions * s.H, outside=k == s.layers - 1)
            if s.B == 1:
                x_row = x_step  # a chunk of steps is taken as so many rows
            for d in range(s.directions):
                space = aligned(3 * s.B * h_row + plan.parts * scratch, dtype)
                base = address(space)
                values = dict.fromkeys(Forward._fields, 0) | {
                    "T": s.T, "B": s.B, "I": I, "H": s.H, "P": s.H, "parts": plan.parts, "chunk": plan.chunk,
                    "reverse": d,
                    "x": address(between[k - 1]) if k else 0, "x_step": x_step, "x_row": x_row,
                    "y": address(between[k]) + d * s.H * dtype.itemsize if k < s.layers - 1 else 0,
                    "y_step": y_step, "y_row": y_row, "h_row": h_row, "c_row": h_row, "h": base + room * dtype.itemsize,
                    "c": base + 2 * s.B * h_row * dtype.itemsize, "scratch": base + 3 * s.B * h_row * dtype.itemsize,
                    "scratch_part": scratch, "projected": projected,
                    "split": split,
                    "parties": s.directions * plan.parts,
                }  # fmt: skip
                frames.append([values[name] for name in Forward._fields])
                spaces.append(space)
        return Seat(np.array(frames, np.int64), spaces + between)

    def stale(self) -> bool:
        """Whether it was made for another number of threads."""
        return self._threads != 0 and self._threads != get_num_threads()

    def takes(self, x: np.ndarray, state: State | None) -> bool:
        """Whether arguments are as they mostly are; the long way takes all others, or says what is wrong with them.

        x is an array of the right shape.
        """
        return is_plain(x, x.shape, self._dtype) and (state is None or is_plain_pair(state, self._state, self._dtype))

    def __call__(
        self, x: np.ndarray, state: State | None, epoch: object, tape: Sequence[State] = ()
    ) -> tuple[np.ndarray, State]:
        """y and (h_n, c_n) for what it `takes` in an epoch of the parameters; tape: in training, gates and c of each
        direction.
        """
        dtype, shape, empty = self._dtype, self._state, np.empty
        y, h_n, c_n = empty(self._y, dtype), empty(shape, dtype), empty(shape, dtype)
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        if seat.epoch is not epoch:
            if self._step is not None and (weights := self._lie()) is not None:
                self._seats.append(seat)
                start = state or (self._nothing, self._nothing)
                self._step.run(*weights, x, *start, y, h_n, c_n, *(tape[0] if tape else ()))
                return y, (h_n, c_n)
            packs, seat.epoch = self._bind()
            self._point(seat, packs)
        words = seat.words
        if state is None:
            h_0 = c_0 = self._zeros
            h, c, x_at, y_at = addresses((h_n, c_n, x, y))
        else:
            h, c, x_at, y_at, h_0, c_0 = addresses((h_n, c_n, x, y, *state))
        for at, part, _ in self._places:
            words[at + H_0], words[at + C_0] = h_0 + part, c_0 + part
            words[at + H_N], words[at + C_N] = h + part, c + part
        for at, _, columns in self._last:
            words[at + Y] = y_at + columns
        for at, _, _ in self._first:
            words[at + X] = x_at
        for (at, _, _), arrays in zip(self._first, tape, strict=False):
            words[at + GATES], words[at + CELLS] = addresses(arrays)
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

    def record(self, x: np.ndarray, state: State | None, epoch: object) -> tuple[np.ndarray, State, Recorded]:
        """As a call, in training, and what backward needs of it."""
        s, empty = self._shape, np.empty
        tape = [(empty((s.T, s.B, 4, s.H), s.dtype), empty((s.T, s.B, s.H), s.dtype)) for _ in range(s.directions)]
        y, state_n = self(x, state, epoch, tape)
        start = state or (self._nothing, self._nothing)
        if len(s.x) < 3 or s.batch_first:
            x, start = x.reshape(s.T, s.B, s.I), (start[0].reshape(self._whole), start[1].reshape(self._whole))
        return y, state_n, (x, tape, start, self._backward)

    def _fan_out(self, seat: Seat) -> None:
        """Run the parts of each layer on threads, or one after another where there are none: they never meet."""
        frame = seat.address
        for parts in self._parts:
            if not fan_out(self._run, parts, frame):
                for part in range(parts):
                    self._run.run(part, frame)
            frame += self._layer

    def run_at(self, places: list[int]) -> None:
        """Compute, through one layer in one direction, with what is at so many addresses: `pointers` of packed weights,
        then x, h_0, c_0, y, h_n, c_n and the tape's gates and c, 0 without one.
        """
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        words = seat.words
        for at, place in zip(_PLACES, places, strict=True):
            words[at] = place
        self._run.run(0, seat.address)
        seat.packs = []  # those of a call are not pointed to any more
        self._seats.append(seat)

    @staticmethod
    def pointers(pack: Weights) -> list[int]:
        """Where packed weights lie, as a frame has it."""
        arrays = pack.weights, pack.bias, pack.digits_ih, pack.digits_hh
        return [0 if array is None else address(array) for array in arrays]

    def _point(self, seat: Seat, packs: list[Weights]) -> None:
        """Let the frames point to packed weights."""
        for k, pack in enumerate(packs):
            if k >= len(seat.packs) or seat.packs[k] is not pack:
                at = self._places[k][0]
                for index, place in zip(_PACKED, self.pointers(pack), strict=True):
                    seat.words[at + index] = place
        seat.packs = packs
