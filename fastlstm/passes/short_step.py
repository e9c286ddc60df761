"""Prepared calls of the kernels that take the weights as they lie, and what all prepared calls share."""

from __future__ import annotations

import math
from functools import cached_property
from struct import pack_into
from typing import Any

import numpy as np

from fastlstm.passes.frames import StepBackward, StepForward, backward_workspace, forward_workspace
from fastlstm.passes.packing import in_digits, padded
from fastlstm.runtime.memory import address, addresses, aligned
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import Worker, worker
from fastlstm.simd.isa import target

State = tuple[np.ndarray, np.ndarray]
# Elements of a gradient from which on it is made to begin a cache line: that saves up to a fifth of the time in which
# it is written, and takes a microsecond.
LARGE = 1 << 17


def is_plain(a: Any, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether an argument is an array of a shape and dtype that a pass can read as it is."""
    if type(a) is not np.ndarray or a.dtype is not dtype or a.shape != shape:
        return False
    flags = a.flags
    return flags.c_contiguous and flags.aligned


def is_plain_pair(state: Any, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether a state is a pair of such arrays."""
    if type(state) is not tuple or len(state) != 2:
        return False
    return is_plain(state[0], shape, dtype) and is_plain(state[1], shape, dtype)


class Seat:
    """Frames and workspace for one call at a time."""

    def __init__(self, frames: np.ndarray, space: list[np.ndarray]) -> None:
        self.frames, self.space = frames, space
        self.words: memoryview[int] = memoryview(frames.reshape(-1).data)
        self.address = address(frames)
        self.epoch: object = None  # of the parameters to whose packed copies the frames point
        self.packs: list[Any] = []


class _Prepared:
    """A worker whose frame ends with the addresses of arrays; what stands before them is the same for every call."""

    def __init__(self, name: str, variant: Variant, frame: Any, sizes: dict[str, int], space: int) -> None:
        self._name, self._variant, self._fields, self._sizes = name, variant, frame._fields, sizes
        self._space, self._dtype = space, np.dtype(variant.dtype)
        self._seats: list[Seat] = []
        self._head = 8 * (len(sizes) + 1)  # bytes before the addresses
        self._nowhere = [0] * (len(frame._fields) - len(sizes) - 1)  # addresses of nothing
        self._format = f"{len(self._nowhere)}q"

    @cached_property
    def _worker(self) -> Worker:
        return worker(self._name, self._variant)  # compiled when the first call needs it

    def _seat(self) -> Seat:
        space = aligned(self._space, self._dtype)
        values = dict.fromkeys(self._fields, 0) | self._sizes | {"space": address(space)}
        return Seat(np.array([[values[name] for name in self._fields]], np.int64), [space])

    def run(self, *arrays: np.ndarray) -> None:
        """Compute with so many arrays, in the order of the frame's last fields."""
        self.run_at(addresses(arrays))

    def run_at(self, places: list[int]) -> None:
        """Compute with the arrays at so many addresses; the last may be left out: a step without a tape."""
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        pack_into(self._format, seat.words, self._head, *places, *self._nowhere[len(places) :])
        self._worker.run(0, seat.address)
        self._seats.append(seat)


class ShortStep(_Prepared):
    """One step forward of B rows."""

    def __init__(self, B: int, I: int, H: int, variant: Variant) -> None:
        of_x, of_h = in_digits(variant, I, H)
        sizes = {"B": B, "I": I, "H": H, "digits_ih": of_x, "digits_hh": of_h}
        space = forward_workspace(B, I, H, target().lanes(variant.dtype), of_h)
        super().__init__("step_forward", variant, StepForward, sizes, space)


class ShortBackward(_Prepared):
    """Backward calls of one shape of x, of few rows in all, through a layer of one direction."""

    def __init__(
        self, T: int, B: int, I: int, H: int, dy_strides: tuple[int, int], x: tuple[int, ...], y: tuple[int, ...],
        state: tuple[int, ...], variant: Variant,
    ) -> None:  # fmt: skip
        sizes = {"T": T, "B": B, "I": I, "H": H, "dy_step": dy_strides[0], "dy_row": dy_strides[1]}
        dtype = np.dtype(variant.dtype)
        space = backward_workspace(T, B, H, padded(H, dtype), target().lanes(dtype))
        super().__init__("step_backward", variant, StepBackward, sizes, space)
        self._y, self._state = y, state
        self.nothing = np.zeros(state, dtype)  # no gradient
        outputs = x, state, state, (4 * H, I), (4 * H, H), (4 * H,)
        self._outputs = [(math.prod(shape), shape) for shape in outputs]

    def takes(self, dy: Any, dstate: Any) -> bool:
        """Whether arguments are as they mostly are."""
        dtype = self._dtype
        return is_plain(dy, self._y, dtype) and (dstate is None or is_plain_pair(dstate, self._state, dtype))

    def __call__(
        self, x: np.ndarray, tape: State, state: State, dy: np.ndarray, dstate: State | None, weights: State
    ) -> list[np.ndarray]:
        """dx, dh_0, dc_0 and the gradients of w_ih, w_hh and of a bias, for what it `takes`; the gates on the tape
        become dG.
        """
        dtype, empty = self._dtype, np.empty
        found = [
            empty(shape, dtype) if count < LARGE else aligned(count, dtype).reshape(shape)
            for count, shape in self._outputs
        ]
        self.run(x, *tape, *state, dy, *(dstate or (self.nothing, self.nothing)), *weights, *found)
        return found
