"""Masks: the valid steps of each row brought together, the LSTM run over them alone, and its outputs put back.

Keras's rule is that a masked step leaves the state as it is and repeats the output of the step before (zeros before the
first valid step).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import fastlstm
from fastlstm.models import kernels

State = tuple[np.ndarray, np.ndarray]


class Packing(NamedTuple):
    """Where the steps of a masked batch go: rows sorted by length, longest first, each beginning with its first valid
    step.
    """

    order: np.ndarray  # (B,), which row stands where
    lengths: np.ndarray  # (B,), in that order, falling
    source: np.ndarray  # (T', B), flat index into (T, B) of each packed step; -1 behind a row's end
    place: (
        np.ndarray
    )  # (T, B), flat index into (T', B) of the output of each step, in the order of processing; -1 where it is zeros


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
    out = np.empty((*index.shape, n), rows.dtype)
    kernels.compiled(kernels.take_rows)(
        np.ascontiguousarray(rows).reshape(-1, n), index.reshape(-1), out.reshape(-1, n)
    )
    return out


def untake(d: np.ndarray, index: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The gradient of `take` with respect to `rows`, of the shape `shape`."""
    n = shape[-1]
    out = np.zeros(shape, d.dtype)
    kernels.compiled(kernels.add_rows)(index.reshape(-1), np.ascontiguousarray(d).reshape(-1, n), out.reshape(-1, n))
    return out


CALL_US = 150.0  # microseconds that a call of the core takes beside its arithmetic
GFLOPS = 50.0


def merged(lengths: np.ndarray, step_us: float) -> np.ndarray:
    """Lengths raised to fewer different ones, where computing steps of padding costs less than the calls that it saves.

    What is computed behind a row's end is not read, and its gradient is zero; only the last state is that of the raised
    length.
    """
    result, end, spare = lengths.copy(), int(lengths.max(initial=0)), 0.0
    for k, length in enumerate(lengths.tolist()):
        if length and length < end:
            spare += (end - length) * step_us
            if spare > CALL_US:
                end, spare = length, 0.0
        result[k] = end if length else 0
    return result


class Segment(NamedTuple):
    """Steps of the rows that are that long."""

    begin: int
    end: int
    rows: int
    tape: Any


class Run(NamedTuple):
    """What `run` keeps for `run_backward`."""

    segments: list[Segment]
    shape: tuple[int, ...]


def run(
    core: fastlstm.LSTM, x: np.ndarray, state: State, lengths: np.ndarray | None, training: bool, keep_state: bool
) -> tuple[np.ndarray, State, Run | None]:
    """The LSTM over x (T, B, I) whose rows have falling lengths, or all T steps.

    The core takes no lengths yet: where they differ, each stretch of steps between two lengths is a call of its own,
    over
    the rows that reach so far. Unless `keep_state`, the last state is undefined, and lengths that are near are taken as
    one.
    y is undefined behind a row's end.
    """
    T, B, _ = x.shape
    if lengths is not None and not keep_state:
        step_us = (3 if training else 1) * 8e-3 * core.hidden_size * (core.input_size + core.hidden_size) / GFLOPS
        lengths = merged(lengths, step_us)
    if lengths is None or (B and lengths[-1] == T):
        if training:
            y, state, whole = core.forward(x, state)
            return y, state, Run([Segment(0, T, B, whole)], x.shape)
        return *core(x, state), None
    y = np.zeros((T, B, core.hidden_size), x.dtype)
    h, c = (part.copy() for part in state)
    segments: list[Segment] = []
    begin = 0
    for end in np.unique(lengths[lengths > 0]).tolist():
        rows = int(np.count_nonzero(lengths >= end))
        before = h[:, :rows].copy(), c[:, :rows].copy()  # the tape refers to them
        tape: Any = None
        if training:
            y[begin:end, :rows], after, tape = core.forward(x[begin:end, :rows], before)
        else:
            y[begin:end, :rows], after = core(x[begin:end, :rows], before)
        h[:, :rows], c[:, :rows] = after
        segments.append(Segment(begin, end, rows, tape))
        begin = end
    return y, (h, c), Run(segments, x.shape) if training else None


def run_backward(
    core: fastlstm.LSTM, kept: Run, dy: np.ndarray, dstate: State
) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
    """The gradients of `run`; dy behind a row's end is not read."""
    if len(kept.segments) == 1 and kept.segments[0][:3] == (0, *kept.shape[:2]):
        return core.backward(kept.segments[0].tape, dy, dstate)
    dx = np.zeros(kept.shape, dy.dtype)
    dh, dc = (part.copy() for part in dstate)
    total: dict[str, np.ndarray] = {name: np.zeros_like(p) for name, p in core.parameters.items()}
    for begin, end, rows, tape in reversed(kept.segments):
        after = dh[:, :rows], dc[:, :rows]
        dx[begin:end, :rows], (dh[:, :rows], dc[:, :rows]), grads = core.backward(tape, dy[begin:end, :rows], after)
        for name, grad in grads.items():
            total[name] += grad
    return dx, (dh, dc), total
