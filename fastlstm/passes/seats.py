"""What prepared calls share: whose they are, what they take and leave, frames and workspace of one at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastlstm.passes.shapes import Shape
from fastlstm.passes.templates import Template
from fastlstm.runtime.memory import address, aligned

WORKSPACE = 1 << 22  # bytes of a seat, at the most
# Elements of a gradient from which on it is made to begin a cache line: that saves up to a fifth of the time in which
# it is written, and takes a microsecond.
LARGE = 1 << 17

State = tuple[np.ndarray, np.ndarray]


class Source(Protocol):
    """Whose parameters prepared calls are of."""

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
    tape: list[State]  # gates and c of each direction of each layer
    state: State  # (h_0, c_0), (L*D, B, H)


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


def made(count: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array of so many elements."""
    return np.empty(shape, dtype) if count < LARGE else aligned(count, dtype).reshape(shape)


class Seat:
    """Frames and workspace for one call at a time."""

    def __init__(self, frames: np.ndarray, space: list[np.ndarray]) -> None:
        self.frames, self.space = frames, space
        self.words: memoryview[int] = memoryview(frames.reshape(-1).data)
        self.address = address(frames)
        self.epoch: object = None  # of the parameters to whose packed copies the frames point
        self.packs: list[Any] = []


def seat_of(templates: Sequence[Template], dtype: np.dtype) -> Seat:
    """A seat with the frames of all layers, which run one after another in the same workspace."""
    space = aligned(max(template.elements for template in templates), dtype)
    return Seat(np.concatenate([template.at(address(space)) for template in templates]), [space])


def bytes_of(templates: Sequence[Template], between: int, shape: Shape) -> int:
    """Bytes of a seat with so many arrays from layer to layer."""
    elements = max(template.elements for template in templates) + between * math.prod(shape.between)
    return elements * shape.dtype.itemsize
