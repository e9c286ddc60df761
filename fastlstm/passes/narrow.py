"""What int8 weights ask of a step: two sums, since two matrices have two scales; of R h, where the target multiplies
bytes, in whole numbers (`simd.exact`).

A row whose h is not all within 1, because the caller's state is not, is summed up in float32 at that step: which way is
taken depends on nothing but the row.
"""

from __future__ import annotations

from fastlstm.kernels.gemm import BLOCK_ROWS, NEXT, SAME, TILE_ROWS, gemm
from fastlstm.passes.frames import ZEROS
from fastlstm.runtime.jit import inline, kernel
from fastlstm.simd.exact import add_four, as_bytes, exact_tile, to_planes
from fastlstm.simd.isa import DEPTH
from fastlstm.simd.stored import widen_step
from fastlstm.simd.tile import PANEL
from fastlstm.simd.vector import fma, lanes, load, pointer, splat, store

WIDENED_ROWS = 4 * TILE_ROWS  # from so many rows on
BIAS, SCALES_X, SCALES_H, STARTS = range(4)  # what follows the zeros, each [panel][gate][lane]


@inline
def depth_of(v, f):
    """Steps of k of a panel; of exact sums those of h lie by fours."""
    return f.I + ((f.P + 3) // 4 * 4 if v.exact else f.P)


@inline
def first_of_sums(v, f, panel):
    """Where the sums of a panel start: its bias, or, where sums are scaled before that is added, zeros."""
    bias = pointer(f.bias, v)
    return bias if v.scaled else bias + panel * PANEL * lanes(bias)


@inline
def constants(v, f, kind, panel):
    """Where the bias, scales or starts of a panel are."""
    bias = pointer(f.bias, v)
    count = lanes(bias)
    panels = (f.H + count - 1) // count
    return bias + (ZEROS + (kind * panels + panel) * PANEL) * count


@kernel
def widened_gemm(rows, depth, a, a_row, b, start, start_row, c, c_row, wide):
    """`gemm` of one panel by blocks of k that are widened first: for many rows, to spare each tile's step of k four to
    eight instructions beside its products.
    """
    width = PANEL * lanes(c)
    for k in range(0, depth, DEPTH):
        deep = min(DEPTH, depth - k)
        for i in range(deep):
            widen_step(b + (k + i) * width, wide + i * width)
        gemm(rows, PANEL, deep, a + k, a_row, NEXT, wide, SAME, start, start_row, c, c_row)
        start, start_row = c, c_row


@kernel
def product(v, rows, vectors, depth, a, a_row, b, b_panel, start, start_row, c, c_row, scratch):
    """`gemm` of x or h with panels of weights as the variant stores them."""
    if v.narrow and rows >= WIDENED_ROWS:  # and so one panel
        wide = scratch + 2 * BLOCK_ROWS * PANEL * lanes(c)
        widened_gemm(rows, depth, a, a_row, b, start, start_row, c, c_row, wide)
    else:
        gemm(rows, vectors, depth, a, a_row, NEXT, b, b_panel, start, start_row, c, c_row)


@kernel
def scale_x(v, f, rows, panel, vectors, z, z_row):
    """z = bias + s z, rows of so many vectors from a panel on: sums over W become W x."""
    bias, scales = constants(v, f, BIAS, panel), constants(v, f, SCALES_X, panel)
    for r in range(rows):
        for k in range(0, vectors * lanes(z), lanes(z)):
            at = z + (r * z_row + k)
            store(at, fma(load(at), load(scales + k), load(bias + k)))


@kernel
def scale_h(v, f, rows, panel, vectors, z, z_row, start, start_row):
    """z = start + s z: the same for R h."""
    scales = constants(v, f, SCALES_H, panel)
    for r in range(rows):
        for k in range(0, vectors * lanes(z), lanes(z)):
            at = z + (r * z_row + k)
            store(at, fma(load(at), load(scales + k), load(start + (r * start_row + k))))


@inline
def fits_at(z):
    """Where a block of rows keeps whether each fits in whole numbers: behind two blocks of z and one of k."""
    return z + (2 * BLOCK_ROWS + DEPTH) * PANEL * lanes(z)


@inline
def plane_of(f, z):
    """Bytes of one plane of a row."""
    return (f.P + lanes(z) - 1) // lanes(z) * lanes(z)


@kernel
def prepare_h(v, f, rows, h, z):
    """Write h of some rows as whole numbers, before any panel is multiplied with them."""
    fits, plane = fits_at(z), plane_of(f, z)
    planes = as_bytes(fits + BLOCK_ROWS)
    for r in range(rows):
        small = True
        for k in range(0, f.P, lanes(z)):
            here = load(h + (r * f.h_row + k), f.P - k)
            if not to_planes(here, planes + (3 * r * plane + k), plane):
                small = False
        fits[r] = 1.0 if small else 0.0


@kernel
def exact_gemm(v, f, rows, panel, panels, h, b, start, start_row, z, z_row):
    """z = R h + start from what `prepare_h` wrote, for some panels."""
    count = lanes(z)
    width = PANEL * count
    fits, plane, b_panel = fits_at(z), plane_of(f, z), depth_of(v, f) * width
    planes = as_bytes(fits + BLOCK_ROWS)
    fours = (f.P + 3) // 4
    r = 0
    while r < rows:
        high = min(2, rows - r)
        p = 0
        while p < panels:
            wide = 2 if high == 1 and p + 2 <= panels else 1
            starts, scales = constants(v, f, STARTS, panel + p), constants(v, f, SCALES_H, panel + p)
            exact_tile(
                high, wide * PANEL, fours, planes + 3 * r * plane, 3 * plane, plane, b + p * b_panel, b_panel,
                starts, scales, start + (r * start_row + p * width), start_row, z + (r * z_row + p * width), z_row,
            )  # fmt: skip
            p += wide
        r += high
    for r in range(rows):
        if fits[r] == 0.0:
            for k in range(0, panels * width, count):
                weights = b + (k // width * b_panel + k % width * 4)
                total = splat(0.0, z)
                for i in range(fours):
                    total = add_four(total, weights + i * 4 * width, h + (r * f.h_row + 4 * i), f.P - 4 * i)
                scales = constants(v, f, SCALES_H, panel)
                store(z + (r * z_row + k), fma(total, load(scales + k), load(start + (r * start_row + k))))


@kernel
def scaled_product(v, f, rows, panel, panels, a, b, start, start_row, z, z_row):
    """z = R h + W x + bias for some panels; `start` holds W x + bias where a chunk was computed beforehand."""
    width = PANEL * lanes(z)
    vectors, b_panel = panels * PANEL, depth_of(v, f) * width
    zeros = first_of_sums(v, f, panel)
    if f.chunk == 0:
        start, start_row = z + BLOCK_ROWS * width, z_row
        product(v, rows, vectors, f.I, a, f.h_row, b, b_panel, zeros, SAME, start, z_row, z)
        scale_x(v, f, rows, panel, vectors, start, z_row)
        a, b = a + f.I, b + f.I * width
    if v.exact:
        exact_gemm(v, f, rows, panel, panels, a, b, start, start_row, z, z_row)
    else:
        product(v, rows, vectors, f.P, a, f.h_row, b, b_panel, zeros, SAME, z, z_row, z)
        scale_h(v, f, rows, panel, vectors, z, z_row, start, start_row)
