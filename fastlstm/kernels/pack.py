"""Weights in the order in which the tile reads them: panels of at most four vectors, all steps of k of a panel in one
piece. The lanes beyond the last column are zero.
"""

from __future__ import annotations

from fastlstm.runtime.jit import kernel
from fastlstm.simd.tile import PANEL
from fastlstm.simd.transpose import transpose
from fastlstm.simd.vector import lanes, load, store


@kernel
def pack_units(w, row, units, depth, to, width):
    """The transpose of w (units, depth), rows `row` elements apart, to rows of one vector `width` elements apart."""
    count = lanes(to)
    for k in range(0, depth, count):
        if units == count and k + count <= depth:
            transpose(w + k, row, to + k * width, width)
        else:
            transpose(w + k, row, to + k * width, width, units, min(count, depth - k))


@kernel
def pack_gates(w, hidden, depth, out, offset, total):
    """w (4H, K) to out [unit vector][k][gate][lane]: `depth` of the `total` steps of k of every panel, from
    `offset` on.
    """
    count = lanes(out)
    width = PANEL * count
    for panel in range((hidden + count - 1) // count):
        units = min(count, hidden - panel * count)
        for gate in range(4):
            rows = w + (gate * hidden + panel * count) * depth
            to = out + ((panel * total + offset) * width + gate * count)
            pack_units(rows, depth, units, depth, to, width)


@kernel
def pack_bias(b_ih, b_hh, hidden, out):
    """b_ih + b_hh, both (4H,), to out [unit vector][gate][lane], which comes filled with zeros."""
    count = lanes(out)
    for unit in range(hidden):
        for gate in range(4):
            out[(unit // count * PANEL + gate) * count + unit % count] = (
                b_ih[gate * hidden + unit] + b_hh[gate * hidden + unit]
            )


@kernel
def pack_columns(w, depth, columns, row, out):
    """w (K, N), its rows `row` elements apart, to out: panels of four vectors of columns, the last one of as few
    as hold the rest.
    """
    count = lanes(out)
    for first in range(0, columns, PANEL * count):
        here = min(PANEL * count, columns - first)
        width = (here + count - 1) // count * count
        to = out + first * depth
        for k in range(depth):
            for column in range(0, here, count):
                store(to + (k * width + column), load(w + (k * row + first + column), here - column))
