"""Weights in the order in which the tile reads them: panels of at most four vectors, all steps of k of a panel in one
piece.

The buffers come filled with zeros, so that the lanes beyond the last column stay zero.
"""

from __future__ import annotations

from fastlstm.runtime.jit import kernel
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import lanes


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
            for k in range(depth):
                for lane in range(units):
                    to[k * width + lane] = rows[lane * depth + k]


@kernel
def pack_bias(b_ih, b_hh, hidden, out):
    """b_ih + b_hh, both (4H,), to out [unit vector][gate][lane]."""
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
            for column in range(here):
                to[k * width + column] = w[k * row + first + column]
