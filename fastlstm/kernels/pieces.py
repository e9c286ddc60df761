"""Matrix products in the processor's matrix unit: float32 split into pieces, and C = start + A B for one panel of B
(`simd.amx` has the arithmetic and the layouts).
"""

from __future__ import annotations

from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.amx import configure_double, configure_single, double, single, split_pair
from fastlstm.simd.isa import PIECES, SIDE, STEP, TILE, TILE_ROW
from fastlstm.simd.transpose import transpose
from fastlstm.simd.vector import lanes, load, pointer

HALF = STEP // 2
BLOCK = PIECES * TILE  # bytes of the pieces of a tile


@inline
def steps_of(depth):
    """Steps of so many k, of which a step takes `STEP`."""
    return (depth + STEP - 1) // STEP


@inline
def row_bytes(depth):
    """Bytes of the pieces of 16 rows of A."""
    return steps_of(depth) * BLOCK


@kernel
def split_columns(depth, vectors, left, b, b_row, to):
    """So many vectors of B (depth, left), its rows `b_row` elements apart, to pieces at the address `to`; whether all
    can be split.
    """
    whole, count = True, lanes(b)
    for k in range(0, depth, STEP):
        for v in range(vectors):
            here = to + (k // STEP * vectors + v) * BLOCK
            n = left - v * count
            for pair in range(HALF):
                at = b + ((k + pair) * b_row + v * count)
                low = load(at, n if k + pair < depth else 0)
                high = load(at + HALF * b_row, n if k + pair + HALF < depth else 0)
                if not split_pair(low, high, here + pair * TILE_ROW, TILE):
                    whole = False
    return whole


@kernel
def split_transposed(rows, depth, w, w_row, to, scratch):
    """The transpose of w (depth, rows), its rows `w_row` elements apart, as A, to pieces at the address `to`; whether
    all can be split. Scratch takes the pieces of a tile.
    """
    whole = True
    tiles = pointer(to, w)
    from_ = pointer(scratch, w)
    for r in range(0, rows, SIDE):
        here = tiles + r // SIDE * (row_bytes(depth) // 4)
        for k in range(0, depth, STEP):
            for pair in range(HALF):
                at = w + ((k + pair) * w_row + r)
                low = load(at, rows - r if k + pair < depth else 0)
                high = load(at + HALF * w_row, rows - r if k + pair + HALF < depth else 0)
                if not split_pair(low, high, scratch + pair * TILE_ROW, TILE):
                    whole = False
            for piece in range(PIECES):
                tile = piece * (TILE // 4)
                transpose(from_ + tile, HALF, here + (k // STEP * (BLOCK // 4) + tile), HALF)
    return whole


@kernel
def matrix_gemm(rows, vectors, depth, a, b, start, start_row, c, c_row):
    """c[:rows] = start + a b for one panel of so many vectors; a and b are addresses of pieces, `start_row` may be 0
    (one row for all).
    """
    steps, count = steps_of(depth), lanes(c)
    for r in range(0, rows, 2 * SIDE):
        here = min(2 * SIDE, rows - r)
        a_here = a + r // SIDE * row_bytes(depth)
        from_, to = start + r * start_row, c + r * c_row
        if here <= SIDE:
            configure_single(here)
            single(vectors, steps, a_here, b, vectors, from_, start_row, to, c_row)
        else:
            if r == 0 or here < 2 * SIDE:
                configure_double(here - SIDE)
            for v in range(0, vectors, 2):
                at, wide = v * count, min(2, vectors - v)
                double(wide, steps, a_here, b + v * BLOCK, vectors, from_ + at, start_row, to + at, c_row)
