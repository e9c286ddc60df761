"""Masks: the valid steps of each row brought together, the LSTM run over them alone, and its outputs put back.

Keras's rule is that a masked step leaves the state as it is and repeats the output of the step before (zeros before the
first valid step).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import fastlstm
from fastlstm.models import kernels
from fastlstm.runtime import reuse

State = tuple[np.ndarray, np.ndarray]


class Packing(NamedTuple):
    """Where the steps of a masked batch go: rows sorted by length, longest first, each beginning with its first valid
    step.
    """

    order: np.ndarray  # (B,), which row stands where
    lengths: np.ndarray  # (B,), in that order, falling
    source: np.ndarray  # (T', B), flat index into (T, B) of each packed step; -1 behind a row's end
    # (T, B), flat index into (T', B) of the output of each step, in the order of processing; -1 where it is zeros
    place: np.ndarray


def pack(mask: np.ndarray, backwards: bool, zero_output: bool) -> Packing:
    """The packing of a mask (T, B), whose steps are processed last to first if `backwards`."""
    T, B = mask.shape
    times = np.arange(T)[::-1] if backwards else np.arange(T)
    seen = mask[times]
    lengths = seen.sum(axis=0)
    order = np.argsort(-lengths, kind="stable")
    seen = seen[:, order]
    rank = np.cumsum(seen, axis=0) - 1
    step, row = np.nonzero(seen)
    source = np.full((max(1, int(lengths.max(initial=0))), B), -1)
    source[rank[step, row], row] = times[step] * B + order[row]
    place = np.empty((T, B), np.int64)
    shown = seen if zero_output else rank >= 0
    place[:, order] = np.where(shown, rank * B + np.arange(B), -1)
    return Packing(order, lengths[order], source, place)


def take(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """rows (T, B, n) at flat indices, shaped as `index` with n appended."""
    n = rows.shape[-1]
    out = reuse.empty((*index.shape, n), rows.dtype)
    kernels.compiled(kernels.take_rows)(
        np.ascontiguousarray(rows).reshape(-1, n), index.reshape(-1), out.reshape(-1, n)
    )
    return out


def untake(d: np.ndarray, index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `take` with respect to `rows`, of the shape `shape`."""
    n = shape[-1]
    out = reuse.zeros(shape, d.dtype)
    kernels.compiled(kernels.add_rows)(index.reshape(-1), np.ascontiguousarray(d).reshape(-1, n), out.reshape(-1, n))
    return out


def run(
    core: fastlstm.LSTM, x: np.ndarray, state: State, lengths: np.ndarray | None, training: bool
) -> tuple[np.ndarray, State, Any]:
    """y, the state and, in training, the tape of the LSTM over x whose rows have these lengths, or all steps; y is 0
    behind a row's end.
    """
    if training:
        return core.forward(x, state, lengths=lengths)
    return *core(x, state, lengths=lengths), None
