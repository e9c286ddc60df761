"""Sequences that begin anew at some of their steps, as a packed batch: each stretch between is a row of its own.

The stretches do not depend on each other, so they are computed side by side rather than one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

# From packed rows, h_0, c_0 and the number of rows of each step to packed y, h_n and c_n.
Packed = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class Segments(NamedTuple):
    """S stretches of a batch, longest first; indices are int64 tensors."""

    source: Tensor  # (T * B,), where each packed row stands in the batch, flat (T, B)
    place: Tensor  # (T * B,), the way back
    sizes: Tensor  # rows of each packed step
    first: Tensor  # (S,), the row of whose initial state a stretch begins with; B: with zeros
    last: Tensor  # (S,), the same for the other direction, which begins at the end
    begins: Tensor  # (B,), the stretch with which each row begins
    ends: Tensor  # (B,), and ends


def cut(starts: np.ndarray) -> Segments:
    """The stretches of a batch (T, B) that begins anew where `starts`."""
    T, B = starts.shape
    cuts = starts.copy()
    cuts[0] = True
    row, begin = np.nonzero(cuts.T)  # by rows, then by time
    is_last = np.append(row[1:] != row[:-1], True)
    length = np.where(is_last, T, np.append(begin[1:], 0)) - begin
    order = np.argsort(-length, kind="stable")
    row, begin, length, is_last = row[order], begin[order], length[order], is_last[order]
    steps = np.arange(length[0])[:, None]
    live = steps < length
    source = ((begin + steps) * B + row)[live]
    place = np.empty(T * B, np.int64)
    place[source] = np.arange(T * B)
    begins, ends = np.empty(B, np.int64), np.empty(B, np.int64)
    begins[row[begin == 0]] = np.flatnonzero(begin == 0)
    ends[row[is_last]] = np.flatnonzero(is_last)
    first = np.where((begin == 0) & ~starts[0, row], row, B)
    arrays = (source, place, live.sum(axis=1), first, np.where(is_last, row, B), begins, ends)
    return Segments(*map(torch.from_numpy, arrays))


def _both(states: Tensor, ahead: Tensor, back: Tensor, bidirectional: bool) -> Tensor:
    """Rows of states (L*D, B, H): `ahead` of those of the first direction, `back` of those of the other."""
    if not bidirectional:
        return states.index_select(1, ahead)
    return torch.stack([states[0::2].index_select(1, ahead), states[1::2].index_select(1, back)], dim=1).flatten(0, 1)


def run(
    packed: Packed, x: Tensor, h_0: Tensor, c_0: Tensor, starts: Tensor, bidirectional: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y (T, B, n), h_n and c_n of x (T, B, I), by a function that runs a packed batch."""
    s = cut(starts.numpy())
    zeros = h_0.new_zeros(len(h_0), 1, h_0.shape[2]), c_0.new_zeros(len(c_0), 1, c_0.shape[2])
    h, c = (
        _both(torch.cat([state, zero], dim=1), s.first, s.last, bidirectional)
        for state, zero in zip((h_0, c_0), zeros, strict=True)
    )
    y, h_n, c_n = packed(x.flatten(0, 1).index_select(0, s.source), h, c, s.sizes)
    y = y.index_select(0, s.place).unflatten(0, x.shape[:2])
    return y, *(_both(state, s.ends, s.begins, bidirectional) for state in (h_n, c_n))
