"""Short calls, prepared: what a call of a few steps computes takes microseconds, and to put it together takes thirty.

What does not change between calls of one shape is made once: plans, frames, workspace. A call takes a *seat*, a set of
frames and workspace that no other call holds, writes the addresses of its arrays into it, and gives it back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fastlstm.kernels.gemm import BLOCK_ROWS
from fastlstm.passes.calls import PAD, Weights, padded
from fastlstm.passes.forward import Forward
from fastlstm.passes.short_step import Seat, ShortBackward, ShortStep, is_plain, is_plain_pair
from fastlstm.passes.step import ROWS
from fastlstm.plan import GFLOPS, PANEL, REGION_US, plan_forward
from fastlstm.runtime.jit import Variant
from fastlstm.runtime.memory import address, aligned
from fastlstm.runtime.threads import fan_out, get_num_threads
from fastlstm.runtime.workers import worker
from fastlstm.simd.isa import target

WORKSPACE = 1 << 20  # bytes of a seat, at the most
SERIAL_FLOPS = 3e3 * REGION_US * GFLOPS  # of a layer: with less no thread count makes a plan take two threads

State = tuple[np.ndarray, np.ndarray]
# The packed weights, and the epoch of the parameters in which they hold or None.
Bind = Callable[[], tuple[list[Weights], object]]
# The four parameters of the only layer and direction, as they lie, where packed ones may not hold for long.
Lie = Callable[[], "list[np.ndarray] | None"]

_AT = {name: index for index, name in enumerate(Forward._fields)}
X, Y, H_0, C_0, H_N, C_N = (_AT[name] for name in ("x", "y", "h_0", "c_0", "h_n", "c_n"))
WEIGHTS, BIAS, GATES, CELLS = (_AT[name] for name in ("weights", "bias", "gates", "cells"))

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
    training: bool = False

    def strides(self, n: int, outside: bool) -> tuple[int, int]:
        """Elements from step to step and from row to row of n features, in the caller's layout or between layers."""
        return (n, self.T * n) if outside and self.batch_first else (self.B * n, n)

    def width(self, layer: int) -> int:
        """Features of the input of a layer."""
        return self.directions * self.H if layer else self.I

    def flops(self, layer: int) -> float:
        """Floating-point operations of the forward pass of a layer."""
        return 8.0 * self.H * (self.width(layer) + self.H) * self.T * self.B * self.directions


class ShortForward:
    """Forward calls of one shape of x, through all layers; in training with one layer alone."""

    def __init__(self, shape: Shape, bind: Bind, lie: Lie) -> None:
        self._shape, self._dtype, self._y, self._state = shape, shape.dtype, shape.y, shape.state
        self._bind, self._lie = bind, lie
        T, B, _, H, L, D = shape[3:9]
        tiny = all(shape.flops(k) < SERIAL_FLOPS for k in range(L))
        self._threads = 0 if tiny else get_num_threads()  # 0: whatever their number is
        self._plans = [
            plan_forward(T, B, shape.width(k), H, D, self._dtype, 1 if tiny else self._threads, self._even(k))
            for k in range(L)
        ]
        self._run = worker("forward", Variant(self._dtype.name, shape.training))
        self._parts = [plan.parts * D for plan in self._plans]
        self._alone = self._threads < 2 or max(self._parts) == 1  # whether one thread does it all
        part, item = B * H * self._dtype.itemsize, self._dtype.itemsize
        # Of each direction of each layer: where its frame begins, its part of a state, and its columns of y.
        words = len(Forward._fields)
        self._layer = 8 * D * words
        self._places = [((k * D + d) * words, (k * D + d) * part, d * H * item) for k in range(L) for d in range(D)]
        self._first, self._last = self._places[:D], self._places[-D:]
        self._nothing = np.zeros(L * D * B * H, self._dtype)
        self._zeros = address(self._nothing)
        self._seats = [self._seat()]
        room = sum(space.nbytes for space in self._seats[0].space)
        self.usable = room <= WORKSPACE and not any(plan.by_units for plan in self._plans)  # units meet, and may not
        one = L == D == 1
        self._step = ShortStep(B, shape.I, H, self._dtype, shape.training) if one and T == 1 else None
        self._backward: ShortBackward | None = None
        if shape.training:
            self.usable = self.usable and L == 1 and self._even(0)
            if one and T * B <= ROWS:
                strides = shape.strides(H, outside=True)
                self._backward = ShortBackward(T, B, shape.I, H, strides, shape.x, shape.y, shape.state, self._dtype)

    def _even(self, layer: int) -> bool:
        """Whether the rows of a layer's input are equally far apart."""
        return layer > 0 or not self._shape.batch_first or 1 in (self._shape.T, self._shape.B)

    def _seat(self) -> Seat:
        """A seat with all that does not change from call to call."""
        s, dtype = self._shape, self._dtype
        spaces, frames = [], []
        between = [aligned(s.T * s.B * s.directions * s.H, dtype) for _ in range(s.layers - 1)]
        for k, plan in enumerate(self._plans):
            I = s.width(k)
            room = 0 if plan.chunk else padded(I, dtype)  # for x before h
            h_row = room + padded(s.H, dtype) + PAD
            panels = padded(s.H, dtype) // target().lanes(dtype)
            scratch = (BLOCK_ROWS + plan.chunk * s.B * panels) * PANEL * target().lanes(dtype)
            x_step, x_row = s.strides(I, outside=k == 0)
            y_step, y_row = s.strides(s.directions * s.H, outside=k == s.layers - 1)
            if s.B == 1:
                x_row = x_step  # a chunk of steps is taken as so many rows
            for d in range(s.directions):
                space = aligned(3 * s.B * h_row + plan.parts * scratch, dtype)
                base = address(space)
                values = dict.fromkeys(Forward._fields, 0) | {
                    "T": s.T, "B": s.B, "I": I, "H": s.H, "parts": plan.parts, "chunk": plan.chunk, "reverse": d,
                    "x": address(between[k - 1]) if k else 0, "x_step": x_step, "x_row": x_row,
                    "y": address(between[k]) + d * s.H * dtype.itemsize if k < s.layers - 1 else 0,
                    "y_step": y_step, "y_row": y_row, "h_row": h_row, "h": base + room * dtype.itemsize,
                    "c": base + 2 * s.B * h_row * dtype.itemsize, "scratch": base + 3 * s.B * h_row * dtype.itemsize,
                    "scratch_part": scratch, "parties": s.directions * plan.parts,
                }  # fmt: skip
                frames.append([values[name] for name in Forward._fields])
                spaces.append(space)
        return Seat(np.array(frames, np.int64), spaces + between)

    def takes(self, x: np.ndarray, state: State | None) -> bool:
        """Whether arguments are as they mostly are; the long way takes all others, or says what is wrong with them.

        x is an array of the right shape.
        """
        if self._threads and self._threads != get_num_threads():
            return False
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
            self._renew(seat)
        words = seat.words
        h_0 = c_0 = self._zeros
        if state is not None:
            h_0, c_0 = address(state[0]), address(state[1])
        h, c, x_at, y_at = address(h_n), address(c_n), address(x), address(y)
        for at, part, _ in self._places:
            words[at + H_0], words[at + C_0] = h_0 + part, c_0 + part
            words[at + H_N], words[at + C_N] = h + part, c + part
        for at, _, columns in self._last:
            words[at + Y] = y_at + columns
        for at, _, _ in self._first:
            words[at + X] = x_at
        for (at, _, _), (gates, cells) in zip(self._first, tape, strict=False):
            words[at + GATES], words[at + CELLS] = address(gates), address(cells)
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
        h_0, c_0 = (self._nothing, self._nothing) if state is None else state
        whole = (s.directions, s.B, s.H)
        return y, state_n, (x.reshape(s.T, s.B, s.I), tape, (h_0.reshape(whole), c_0.reshape(whole)), self._backward)

    def _fan_out(self, seat: Seat) -> None:
        """Run the parts of each layer on threads, or one after another where there are none: they never meet."""
        frame = seat.address
        for parts in self._parts:
            if not fan_out(self._run, parts, frame):
                for part in range(parts):
                    self._run.run(part, frame)
            frame += self._layer

    def _renew(self, seat: Seat) -> None:
        """Let the frames point to the packed weights as they are now."""
        packs, seat.epoch = self._bind()
        for k, pack in enumerate(packs):
            if k >= len(seat.packs) or seat.packs[k] is not pack:
                at = self._places[k][0]
                seat.words[at + WEIGHTS], seat.words[at + BIAS] = address(pack.weights), address(pack.bias)
        seat.packs = packs
