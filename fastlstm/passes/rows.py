"""Where the rows of a step lie: in the caller's arrays, on the tape and in the workspace.

A dense call has B rows at each step, one like the other. In a ragged one rows end: they are ranked by length, the
longest first, so that those which take part in a step are always the first ones, and the tape holds no others. The
caller's arrays are either (T, B, n), where rank r stands at row order[r], or packed, with the rows of a step, in
order of rank, right after those of the step before.

Threads that split rows take every so many-th rank each, so that all have short and long ones. Workspace is by the
part's own rows, one after another. A ragged call may also have resets: rows whose state is replaced before a step.
"""

from __future__ import annotations

from typing import NamedTuple

from fastlstm.kernels.gemm import cut
from fastlstm.runtime.jit import flag, inline, word
from fastlstm.simd.vector import lanes, load, store


class Lot(NamedTuple):
    """The rows of one part."""

    row: int  # the first one's place in the workspace
    size: int
    origin: int  # the first one's rank
    stride: int  # from rank to rank


@inline
def lot_of(f, part):
    """The rows of part number `part`."""
    if f.by_units:
        return Lot(0, f.B, 0, 1)
    row = cut(f.B, f.parts, part)
    return Lot(row, cut(f.B, f.parts, part + 1) - row, part, f.parts)


@inline
def first(v, f, t):
    """The row of the tape at which step t begins."""
    return word(f.offsets, t) if v.ragged else t * f.B


@inline
def rows_at(v, f, lot, t):
    """How many rows of the lot take part in step t: the first ones."""
    if v.ragged:
        active = word(f.offsets, t + 1) - word(f.offsets, t)
        return (active - lot.origin + lot.stride - 1) // lot.stride
    return lot.size


@inline
def rank(v, lot, row):
    """The rank of a row of the workspace."""
    return lot.origin + (row - lot.row) * lot.stride if v.ragged else row


@inline
def apart(v, lot):
    """How many ranks a row is from the next one of its part."""
    return lot.stride if v.ragged else 1


@inline
def place(v, f, lot, row):
    """Where a row of the workspace stands in arrays (B, n) of the caller."""
    return word(f.order, rank(v, lot, row)) if v.ragged else row


@inline
def at(v, f, lot, t, row, packed, step_stride, row_stride):
    """The element at which a row of step t begins in an array of the caller."""
    if v.ragged:
        if packed:
            return (first(v, f, t) + rank(v, lot, row)) * row_stride
        return t * step_stride + place(v, f, lot, row) * row_stride
    return t * step_stride + row * row_stride


@inline
def taped(v, f, lot, t, row):
    """The row of the tape that belongs to a row of the workspace at step t."""
    return first(v, f, t) + rank(v, lot, row)


@inline
def reset_at(v, f, lot, t, row):
    """Whether the state of a row is replaced before it takes step t; (T, B) flags of the caller's rows."""
    return flag(f.resets, t * f.B + place(v, f, lot, row))


@inline
def step_of(f, s):
    """The step in time that is taken as number s."""
    return f.T - 1 - s if f.reverse else s


@inline
def copy(source, unit, end, target):
    """Copy the elements unit .. end of a row."""
    for k in range(unit, end, lanes(source)):
        store(target + k, load(source + k, end - k), end - k)


@inline
def load_gates(at, H, n):
    """The first n lanes of the four gates of a row (4, H), from one of its units on."""
    return load(at, n), load(at + H, n), load(at + 2 * H, n), load(at + 3 * H, n)


@inline
def store_gates(to, H, n, i, f, g, o):
    """Write them, or their gradients."""
    store(to, i, n)
    store(to + H, f, n)
    store(to + 2 * H, g, n)
    store(to + 3 * H, o, n)
