"""What prepared calls share: whose they are, what they take and leave, frames and workspace of one at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from struct import pack_into
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastlstm.cell import CellSpec
from fastlstm.passes.calls import Taped
from fastlstm.passes.shapes import Shape
from fastlstm.passes.templates import Template
from fastlstm.runtime.memory import address, aligned, places_of
from fastlstm.runtime.workers import likeness

WORKSPACE = 1 << 22  # bytes of a seat, at the most
# Elements of a gradient from which on it is made to begin a cache line: that saves up to a fifth of the time in which
# it is written, and takes a microsecond.
LARGE = 1 << 17

State = tuple[np.ndarray, np.ndarray]


class Source(Protocol):
    """Whose parameters prepared calls are of."""

    bias: bool
    spec: CellSpec
    _names: list[str]  # of the parameters of a direction, without suffix

    def _bind(self, ways: Sequence[str]) -> tuple[list[Any], object]:
        """Weights packed for each direction of each layer in one of `packing.WAYS`; and the epoch of the parameters in
        which they hold, or None.
        """

    def _lie(self) -> list[np.ndarray] | None:
        """The four parameters of the only layer and direction as they lie, where packed ones may not hold for long."""

    def _matrices(self) -> list[np.ndarray]:
        """Both matrices of the first layer and direction as they lie."""


class Recorded(NamedTuple):
    """What a prepared call in training leaves for the way back."""

    x: np.ndarray  # (T, B, I)
    between: list[np.ndarray]  # from layer to layer, (T, B, D*H)
    tape: list[Taped | State]  # of each direction of each layer; of the plain cell gates and c alone
    state: State  # (h_0, c_0), (L*D, B, H)


class Likeness:
    """Whether an array and a pair of states are as they mostly are: of a shape each, and readable as they lie."""

    def __init__(self, shape: tuple[int, ...], state: np.ndarray) -> None:
        self._alike, self._state = likeness(), state
        self._array = np.broadcast_to(np.zeros((), state.dtype), shape)

    def holds(self, array: Any, state: Any) -> bool:
        """Whether they are; a state may be left out."""
        if state is None:
            return bool(self._alike(self._array, array))
        if type(state) is not tuple or len(state) != 2:
            return False
        h, c = state
        return bool(self._alike(self._array, array) and self._alike(self._state, h, c))


def _large(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    return aligned(math.prod(shape), dtype).reshape(shape)


def maker(shape: tuple[int, ...]) -> Callable[[tuple[int, ...], np.dtype], np.ndarray]:
    """What makes an uninitialised array of a shape and a dtype."""
    return np.empty if math.prod(shape) < LARGE else _large


class Seat:
    """Frames and workspace for one call at a time; of packed weights the addresses begin with so many bytes of each
    frame.
    """

    def __init__(self, frames: np.ndarray, space: list[np.ndarray], weights: int = 0) -> None:
        self.frames, self.space = frames, space
        self.words: memoryview[int] = memoryview(frames.reshape(-1).data)
        self.address = address(frames)
        self.epoch: object = None  # of the parameters to whose packed copies the frames point
        self.packs: list[Any] = []
        self._weights = weights

    def point(self, packs: list[Any]) -> None:
        """Let the frames point to packed weights, one of each."""
        for k, pack in enumerate(packs):
            if k >= len(self.packs) or self.packs[k] is not pack:
                self.point_at(k, places_of(pack))
        self.packs = packs

    def point_at(self, k: int, places: list[int]) -> None:
        """Let a frame point to packed weights at so many addresses."""
        pack_into(f"{len(places)}q", self.words, k * self.frames.strides[0] + self._weights, *places)


def seat_of(templates: Sequence[Template], dtype: np.dtype, weights: int) -> Seat:
    """A seat with the frames of all layers, which run one after another in the same workspace."""
    space = aligned(max(template.elements for template in templates), dtype)
    return Seat(np.concatenate([template.at(address(space)) for template in templates]), [space], weights)


def bytes_of(templates: Sequence[Template], between: int, shape: Shape) -> int:
    """Bytes of a seat with so many arrays from layer to layer."""
    elements = max(template.elements for template in templates) + between * math.prod(shape.between)
    return elements * shape.dtype.itemsize
