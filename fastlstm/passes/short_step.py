"""Prepared calls of the kernels that take the weights as they lie."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from fastlstm.passes.frames import StepBackward, StepForward, backward_workspace, forward_workspace
from fastlstm.passes.packing import in_digits, padded
from fastlstm.passes.seats import Likeness, Recorded, Seat, Source, State, maker
from fastlstm.passes.templates import Rows
from fastlstm.runtime.memory import address, aligned
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import Worker, worker
from fastlstm.simd.isa import target


class _Prepared:
    """A worker whose frame ends with the addresses of arrays; what stands before them is the same for every call."""

    def __init__(self, name: str, variant: Variant, frame: Any, sizes: dict[str, int], space: int) -> None:
        self._name, self._variant, self._fields, self._sizes = name, variant, frame._fields, sizes
        self._space, self._dtype = space, np.dtype(variant.dtype)
        self._seats: list[Seat] = []
        self._head = 8 * (len(sizes) + 1)  # bytes before the addresses
        self._nowhere = [0] * (len(frame._fields) - len(sizes) - 1)  # addresses of nothing

    @cached_property
    def _worker(self) -> Worker:
        return worker(self._name, self._variant)  # compiled when the first call needs it

    def _seat(self) -> Seat:
        space = aligned(self._space, self._dtype)
        values = dict.fromkeys(self._fields, 0) | self._sizes | {"space": address(space)}
        return Seat(np.array([[values[name] for name in self._fields]], np.int64), [space])

    def run(self, *arrays: np.ndarray | int) -> None:
        """Compute with so many arrays, or what lies at so many addresses, in the order of the frame's last fields; the
        last may be left out: a step without a tape.
        """
        try:
            seat = self._seats.pop()
        except IndexError:
            seat = self._seat()
        self._worker.run(0, seat.address, self._head, *arrays, *self._nowhere[len(arrays) :])
        self._seats.append(seat)


class ShortStep(_Prepared):
    """One step forward of B rows."""

    def __init__(self, B: int, I: int, H: int, variant: Variant) -> None:
        of_x, of_h = in_digits(variant, I, H)
        sizes = {"B": B, "I": I, "H": H, "digits_ih": of_x, "digits_hh": of_h}
        space = forward_workspace(B, I, H, target().lanes(variant.dtype), of_h)
        super().__init__("step_forward", variant, StepForward, sizes, space)


class ShortBackward(_Prepared):
    """Backward calls of one shape of x, of few rows in all, through a layer of one direction; without a source, of
    arrays at addresses alone.
    """

    def __init__(
        self, T: int, B: int, I: int, H: int, dy: Rows, x: tuple[int, ...], y: tuple[int, ...],
        state: tuple[int, ...], variant: Variant, source: Source | None = None,
    ) -> None:  # fmt: skip
        sizes = {"T": T, "B": B, "I": I, "H": H, "dy_step": dy.step, "dy_row": dy.row}
        dtype = np.dtype(variant.dtype)
        space = backward_workspace(T, B, H, padded(H, dtype), target().lanes(dtype))
        super().__init__("step_backward", variant, StepBackward, sizes, space)
        self._source = source
        self.nothing = np.zeros(state, dtype)  # no gradient
        self.takes = Likeness(y, self.nothing).holds  # dy and a pair of them
        outputs = x, state, state, (4 * H, I), (4 * H, H), (4 * H,)
        self._outputs = [(maker(shape), shape) for shape in outputs]

    def __call__(
        self, recorded: Recorded, dy: np.ndarray, dstate: State | None, epoch: object
    ) -> tuple[np.ndarray, State, list[np.ndarray]]:
        """dx, (dh_0, dc_0) and the gradients of the parameters in their order, for what it `takes`."""
        source, dtype = self._source, self._dtype
        assert source is not None
        found = [make(shape, dtype) for make, shape in self._outputs]
        ends = dstate or (self.nothing, self.nothing)
        self.run(recorded.x, *recorded.tape[0], *recorded.state, dy, *ends, *source._matrices(), *found)
        if source.bias:
            found.append(found[-1].copy())
        else:
            found.pop()
        return found[0], (found[1], found[2]), found[3:]
