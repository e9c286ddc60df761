"""Rows that end, or begin anew, within a call: lengths, packed sequences and resets, made into what the passes take."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastlstm import checks
from fastlstm.passes.calls import Ragged


class PackedSequence(NamedTuple):
    """Sequences of different lengths without padding, as `torch.nn.utils.rnn.PackedSequence` has them.

    Attributes
    ----------
    data : numpy.ndarray
        (N, n): the rows of step 0 in order of length, the longest sequence first, then those of step 1, and so on; N
        is the sum of the lengths.
    batch_sizes : numpy.ndarray
        (T,), integers: how many sequences have each step; none is greater than the one before.
    """

    data: np.ndarray
    batch_sizes: np.ndarray


class Layout(NamedTuple):
    """Which rows of a call take which steps, and how its arrays lie in memory."""

    T: int  # steps of the caller's arrays
    B: int
    offsets: np.ndarray | None = None  # (steps + 1,): where each step begins among the rows that are; None: all are
    order: np.ndarray | None = None  # (B,): the row of each rank; None: as they come
    packed: bool = False  # whether x and y are packed

    @property
    def steps(self) -> int:
        """Steps that any row takes."""
        return self.T if self.offsets is None else len(self.offsets) - 1

    @property
    def size(self) -> int:
        """Rows over all steps."""
        return self.T * self.B if self.offsets is None else int(self.offsets[-1])

    def lengths(self) -> np.ndarray:
        """(B,): steps of each row."""
        lengths = np.full(self.B, self.T)
        if self.offsets is not None:
            lengths[self.order] = (np.diff(self.offsets)[:, None] > np.arange(self.B)).sum(axis=0)
        return lengths

    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Step and row of each row of a packed array."""
        assert self.offsets is not None and self.order is not None
        counts = np.diff(self.offsets)
        t = np.repeat(np.arange(len(counts)), counts)
        return t, self.order[np.arange(self.size) - self.offsets[t]]


def _ends(counts: np.ndarray) -> np.ndarray:
    """0 and the running sums."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def from_lengths(lengths: Any, T: int, B: int) -> Layout:
    """The layout of a padded batch."""
    given = checks.lengths("lengths", lengths, T, B)
    counts = np.bincount(given, minlength=T + 1)
    active = B - np.cumsum(counts)[: int(given.max()) if B else 0]  # rows longer than t
    return Layout(T, B, _ends(active), np.argsort(-given, kind="stable"))


def from_packed(sequence: PackedSequence) -> Layout:
    """The layout of a packed batch."""
    sizes = np.asarray(sequence.batch_sizes)
    if sizes.dtype.kind not in "iu" or sizes.ndim != 1 or not len(sizes):
        raise ValueError(f"batch_sizes must be integers of shape (T,), but is {sizes.dtype} of shape {sizes.shape}")
    if sizes[-1] < 1 or (np.diff(sizes.astype(np.int64)) > 0).any():
        raise ValueError("batch_sizes must be positive and never grow: sort the sequences by length, the longest first")
    rows = np.shape(sequence.data)[0] if np.ndim(sequence.data) else 0
    if int(sizes.sum()) != rows:
        raise ValueError(f"batch_sizes must add up to the {rows} rows of data, but add up to {int(sizes.sum())}")
    return Layout(len(sizes), int(sizes[0]), _ends(sizes), np.arange(sizes[0]), packed=True)


def reset_flags(flags: Any, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """The flags of a reset, in the caller's layout."""
    given = np.asarray(flags)
    if given.dtype != np.bool_:
        raise TypeError(f"reset must be boolean, but is of {given.dtype}")
    if given.shape != shape:
        raise ValueError(f"reset must have the shape {meaning} = {shape}, but has {given.shape}")
    return given


def ragged_of(layout: Layout, reverse: list[bool], flags: np.ndarray | None) -> Ragged | None:
    """What the passes need to know of a layout, and of flags (T, B) at which each direction is cut; None for a call in
    which every row takes every step undisturbed.
    """
    if layout.offsets is None and flags is None:
        return None
    offsets = np.arange(layout.T + 1, dtype=np.int64) * layout.B if layout.offsets is None else layout.offsets
    order = np.arange(layout.B, dtype=np.int64) if layout.order is None else layout.order
    resets: list[np.ndarray | None] = [None] * len(reverse)
    if flags is not None:
        # In reverse a row is cut on its way from such a step to the one before it in time.
        steps = layout.steps
        live = np.empty((steps, layout.B), bool)
        live[:, order] = np.arange(layout.B) < np.diff(offsets)[:, None]
        starts = np.ascontiguousarray(flags[:steps] & live)
        ends = np.concatenate([starts[1:], np.zeros((1, layout.B), bool)])
        resets = [ends if backwards else starts for backwards in reverse]
    return Ragged(offsets, order, resets, None, None)


def packed_data(x: PackedSequence, dtype: np.dtype) -> np.ndarray:
    """The data (N, n) of a packed sequence."""
    data = checks.array("data of x", x.data, dtype)
    if data.ndim != 2:
        raise ValueError(f"data of x must have the shape (N, I), but has {data.shape}")
    return data
