"""Matrix products out of tiles: C = start + A B for one packed panel of B, or a few of them side by side."""

from __future__ import annotations

from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.isa import DEPTH, target
from fastlstm.simd.tile import PANEL, tile
from fastlstm.simd.vector import lanes, load, store

TILE_ROWS = target().tile_rows
NEXT, SAME = 1, 0  # strides
BLOCK_ROWS = target().block_rows


@inline
def cut(whole, parts, part):
    """Where part number `part` begins when `whole` is cut into `parts` as evenly as can be; the first ones are the
    longer ones.
    """
    return part * (whole // parts) + min(part, whole % parts)


@inline
def vectors_of(columns, first, count, at_once):
    """Vectors that `at_once` panels of four hold from column `first` on."""
    return min(at_once * PANEL, (columns - first + count - 1) // count)


@inline
def panel_count(columns, count):
    """Panels of four vectors that hold so many columns."""
    return (columns + PANEL * count - 1) // (PANEL * count)


@kernel
def gemm(rows, vectors, depth, a, a_row, a_step, b, b_panel, start, start_row, c, c_row):
    """c[:rows, :vectors] = start + a b.

    a has the strides `a_row` and `a_step`, or, where `a_step` is 0, is packed by `pack_strips`; b is packed as
    [k][vectors], or, for more than four vectors, as panels `b_panel` elements apart; `start_row` may be 0 (one row
    for all). Blocks of k go over all rows in turn, each row in tiles cut evenly (8 rows are 4 + 4, not 6 + 2).
    """
    width = min(vectors, PANEL) * lanes(c)
    blocks = (depth + DEPTH - 1) // DEPTH
    steps, longer = depth // blocks, depth % blocks
    tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    height, taller = rows // tiles, rows % tiles
    k = 0
    for block in range(blocks):
        deep = steps + 1 if block < longer else steps
        ahead = b + deep * width
        to, from_ = c, start
        r = 0
        for i in range(tiles):
            high = height + 1 if i < taller else height
            if a_step == 0:
                a_here, row, step = a + (r * depth + k * high), NEXT, high
            else:
                a_here, row, step = a + (r * a_row + k * a_step), a_row, a_step
            tile(high, vectors, deep, a_here, row, step, b, b_panel, from_, start_row, to, c_row, ahead)
            ahead = ahead + deep * lanes(c)
            from_ = from_ + high * start_row
            to = to + high * c_row
            r += high
        start, start_row = c, c_row
        k += deep
        b = b + deep * width


@kernel
def pack_strips(w, depth, rows, row, out):
    """The transpose of w (K, rows), its steps of k `row` elements apart, as A of a product: strips of a tile's rows,
    each [k][rows of the tile].

    With plain strides a tile would touch a line, and for long rows a page, a step of k: at H = 1024 that halves the
    speed of the product for dW.
    """
    tiles = (rows + TILE_ROWS - 1) // TILE_ROWS
    height, taller = rows // tiles, rows % tiles
    r = 0
    for i in range(tiles):
        high = height + 1 if i < taller else height
        for k in range(depth):
            for lane in range(0, high, lanes(w)):
                store(out + (r * depth + k * high + lane), load(w + (k * row + r + lane), high - lane), high - lane)
        r += high


@kernel
def panels_at_once(rows, panels):
    """How many panels of four vectors one tile of so many rows takes together; the tiles that exist are in
    `simd.tile.shapes`.
    """
    if TILE_ROWS == 6:
        if rows == 1 and panels >= 4:
            return 4
        if rows <= 3 and panels >= 2:
            return 2
    elif rows == 1 and panels >= 2:
        return 2
    return 1


@kernel
def panels_gemm(rows, panels, depth, a, a_row, b, b_panel, start, start_row, start_panel, z, z_row):
    """z = start + a b over all panels; `start_panel` is 0 where all panels start alike."""
    width = PANEL * lanes(z)
    at_once = panels_at_once(rows, panels) if start_panel > 0 else 1
    panel = 0
    while panel < panels:
        while panel + at_once > panels:
            at_once //= 2
        from_ = start + panel * start_panel
        to = z + panel * width
        gemm(
            rows, at_once * PANEL, depth, a, a_row, NEXT, b + panel * b_panel, b_panel, from_, start_row, to, z_row
        )  # fmt: skip
        panel += at_once
