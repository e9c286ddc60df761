"""In which blocks rows pass over the weights: as many as caches hold and, for the matrix unit, whole tiles. And in
which order over their panels.
"""

from __future__ import annotations

from fastlstm.kernels.gemm import BLOCK_ROWS, cut
from fastlstm.runtime.jit import inline
from fastlstm.simd.isa import DIGITS, DIGITS_IN_L2, SIDE, target

WHOLE_ROWS = target().whole_rows


@inline
def cut_tiles(rows, parts, part):
    """`cut` of rows in whole tiles of the matrix unit, but for the last one."""
    return min(SIDE * cut((rows + SIDE - 1) // SIDE, parts, part), rows)


@inline
def rest_alone(v, f, rows):
    """Whether rows that fill no whole tile of the matrix unit are a block of their own. In one with others the unit
    would be told of them for each panel, or take as long as for a whole tile; but a block more reads all weights anew,
    from L2 if they are there.
    """
    if v.amx and f.digits_hh != 0:
        return rows > SIDE and rows % SIDE > 1 and 4 * f.H * (f.I + f.P) * DIGITS <= DIGITS_IN_L2
    return False


@inline
def block_count(v, f, rows):
    """Blocks in which rows take a step."""
    at_once = WHOLE_ROWS if v.whole else BLOCK_ROWS
    if rest_alone(v, f, rows):
        return (rows // SIDE * SIDE + at_once - 1) // at_once + 1
    return (rows + at_once - 1) // at_once


@inline
def cut_block(v, f, rows, blocks, block):
    """Where a block of `block_count` begins."""
    if rest_alone(v, f, rows):
        return rows if block == blocks else SIDE * cut(rows // SIDE, blocks - 1, block)
    if v.amx and f.digits_hh != 0:
        return cut_tiles(rows, blocks, block)
    return cut(rows, blocks, block)


@inline
def turns(f, t, rows):
    """Whether a step takes its panels from the last to the first. Every other one of few rows does where R is too large
    for L2: what was read of it last is still there. (For more rows products take as long as reading, and the next lines
    of the tape, which the processor asks for by itself, come too late.)
    """
    return t & 1 != 0 and rows <= SIDE and 4 * f.H * f.P * DIGITS > DIGITS_IN_L2


@inline
def next_panels(down, first, last, left, most, whole):
    """Which panels a step takes next, of first .. last of which so many are left: `most` at once, if they are among the
    first `whole` ones, else fewer. The first one, and how many.
    """
    at_once, panel = most, first + left - most if down else last - left
    while at_once > 1 and (at_once > left or panel + at_once > whole):
        at_once //= 2
        panel += at_once if down else 0
    return panel, at_once
