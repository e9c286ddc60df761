"""The arguments of a pass over one direction of one layer: sizes, addresses of contiguous arrays, strides in elements.

N are the rows of the tape: T * B, or in a ragged call the sum of the lengths. P is the size of h: H unless it is
projected. What only some variants read is 0 for the others.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fastlstm.runtime.memory import LINE
from fastlstm.runtime.variant import Variant
from fastlstm.simd.isa import DEPTH, DIGITS, PANEL, PIECES, PRODUCT_COLUMNS, SIDE, STEP, STRETCH, TILE, TILE_ROW, target

PLACES = 4 * LINE  # bytes of a meeting before the processors of the parts: arrivals, the verdict, two barriers
ZEROS = 4 * PANEL  # vectors of zeros at the head of each part's scratch: the start of sums, as wide as the widest tile
WIDE = 2 * PANEL  # vectors of the widest tile
MOMENTS = 4  # of a row, normed: one over the standard deviations of W x, R h and c, and the mean of c


class Forward(NamedTuple):
    """Arguments of a forward pass."""

    T: int
    B: int
    I: int
    H: int
    P: int
    parts: int  # threads that share this direction
    by_units: int  # whether they split units rather than rows
    chunk: int  # steps whose W x is computed beforehand; 0: with each step
    reverse: int  # whether time runs from T - 1 to 0
    parties: int  # threads of the whole call, both directions
    x_step: int
    x_row: int
    x_packed: int  # whether x is (N, I), its rows x_row apart
    y_step: int
    y_row: int
    y_packed: int
    h_row: int
    c_row: int
    scratch_part: int
    projected: int  # where in a part's scratch W x begins
    split: int  # where in it what the matrix unit needs begins
    tape_past: int  # whether the tape is written past the caches, where it is aligned,
    y_past: int  # and y
    # arrays of a call, then the tape as `calls.Taped`, and weights as `packing.Weights` has them
    x: int  # (T, B, I), last axis contiguous
    h_0: int  # (B, P)
    c_0: int  # (B, H)
    y: int  # (T, B, P), last axis contiguous
    h_n: int  # (B, P)
    c_n: int  # (B, H)
    gates: int  # tape: (N, 4, H) of i, f, g, o
    cells: int  # tape: (N, H) of c
    inputs: int  # tape, ragged or special: (N, P), h of the step before as it went into the gates
    units_ih: int  # tape, normed: (N, 4, H), W x normalised
    units_hh: int  # and R h
    moments: int  # tape, normed: (N, MOMENTS)
    weights: int  # [panel][I + P][gate][lane], as the variant stores it (`simd.stored`, `simd.exact`)
    bias: int  # [panel][gate][lane]; scaled: `ZEROS` vectors of zeros, then bias, scales of W and of R, starts, each so
    digits_ih: int  # w_ih in digits (`kernels.digits`), or 0; not without
    digits_hh: int  # w_hh
    peep: int  # diagonal: [panel][gate][lane]
    w_ch: int  # full: [panel][H][gate][lane]; of gates that see the c before
    w_ch_new: int  # full and output_new: the same, of the output gate
    w_hr: int  # projected: packed columns, K = H, N = P
    gain_ih: int  # normed: [panel][gate][lane]
    gain_hh: int
    gain_c: int  # (H,)
    shift_c: int  # (H,)
    # several threads, and calls that may be called off
    meeting: int  # where they meet once: arrivals and, on a line of its own, the verdict
    sync: int  # barrier of the parts
    # ragged
    offsets: int  # (T + 1,): where on the tape each step begins, and the last one ends
    order: int  # (B,): the row of each rank
    resets: int  # (T, B) bytes, or 0
    h_reset: int  # (B, P)
    c_reset: int  # (B, H)
    # masked, zoned_c, zoned_h
    mask: int  # masked: (T, B, P)
    mask_step: int
    mask_row: int
    zone_c: int  # zoned_c: (T, B, H)
    zone_c_step: int
    zone_c_row: int
    zone_h: int  # zoned_h: (T, B, P)
    zone_h_step: int
    zone_h_row: int
    # workspace
    h: int  # two times (B, h_row), h of the step before and of this one; x stands before each row
    c: int  # (B, c_row)
    held: int  # masked or zoned_h: (B, h_row), h of the step before as it is
    scratch: int  # workspace of each part: z of a block of rows, digits, then W x of a chunk


class Backward(NamedTuple):
    """Arguments of a backward pass. Workspace of chunks has N rows of a chunk, aligned with the tape."""

    T: int
    B: int
    I: int
    H: int
    P: int
    parts: int  # threads that share this direction
    by_units: int  # whether they split units rather than rows in the steps
    chunk: int  # steps between two products for dx and dW
    reverse: int  # whether the forward pass ran from T - 1 to 0
    parties: int  # threads of the whole call, both directions
    in_unit: int  # amx: whether the matrix unit multiplies for dW
    product_rows: int  # rows of the tape to one product for dW
    x_row: int
    dy_step: int
    dy_row: int
    dy_packed: int  # whether dy is (N, P), its rows dy_row apart
    dx_step: int
    dx_row: int
    dx_packed: int
    dx_rows: int  # rows of a block of dx, in whole tiles of 16
    dw_row: int
    dg_row: int
    c_row: int
    h_row: int
    dw_hr_row: int
    scratch_part: int
    # arrays of a call, then the tape as `calls.Taped`, weights as `packing.Transposed` and gradients as
    # `packing.Gradients` has them
    x: int  # (N, I), rows x_row apart
    h_0: int  # (B, P)
    c_0: int  # (B, H)
    dy: int  # (T, B, P), last axis contiguous
    dh_n: int  # (B, P)
    dc_n: int  # (B, H)
    dx: int  # (T, B, I), last axis contiguous
    dh_0: int  # (B, P)
    dc_0: int  # (B, H)
    gates: int  # tape: (N, 4, H) of i, f, g, o
    cells: int  # tape: (N, H) of c
    inputs: int  # tape, ragged or special: (N, P), h of the step before as it went into the gates
    units_ih: int  # tape, normed: (N, 4, H), W x normalised
    units_hh: int  # and R h
    moments: int  # tape, normed: (N, MOMENTS)
    w_hh: int  # packed columns: K = 4H, N = P
    w_ih: int  # packed columns: K = 4H, N = I
    digits_hh: int  # the packed columns in digits, for dh and dx in the matrix unit, or 0
    digits_ih: int
    peep: int  # diagonal: [panel][gate][lane]
    w_ch: int  # full: packed columns, K = 4H, N = H
    w_ch_new: int  # full and output_new: packed columns, K = H, N = H
    w_hr: int  # projected: packed columns, K = P, N = H
    gain_ih: int  # normed: (4, H)
    gain_hh: int
    gain_c: int  # (H,)
    shift_c: int  # (H,)
    dw_ih: int  # (4H, I)
    dw_hh: int  # (4H, P)
    db: int  # (4H,)
    dw_ch: int  # peephole: diagonal (4H,), or full: (H, dw_row), transposed
    dw_ch_new: int  # the same for the output gate on the new c
    dw_hr: int  # projected: (P, w_hr_row)
    dgain_ih: int  # normed: (4H,)
    dgain_hh: int
    dgain_c: int  # (H,)
    dshift_c: int
    # several threads, and calls that may be called off
    meeting: int  # where they meet once: arrivals and, on a line of its own, the verdict
    sync: int  # barrier of the parts
    # ragged
    offsets: int  # (T + 1,): where on the tape each step begins, and the last one ends
    order: int  # (B,): the row of each rank
    resets: int  # (T, B) bytes, or 0
    c_reset: int  # (B, H)
    # masked, zoned_c, zoned_h
    mask: int  # masked: (T, B, P)
    mask_step: int
    mask_row: int
    zone_c: int  # zoned_c: (T, B, H)
    zone_c_step: int
    zone_c_row: int
    zone_h: int  # zoned_h: (T, B, P)
    zone_h_step: int
    zone_h_row: int
    kept: int  # (N, 4, H), which takes dG, or 0
    # workspace
    dw: int  # (I + P, dw_row), the gradients of both matrices, transposed
    dg: int  # (chunk * B + B, dg_row): dG of a chunk as it goes to R h, and of the step that was taken before
    dc: int  # (B, c_row)
    h: int  # (chunk * B, h_row), h of each step, for the product with dG of the step after
    carry: int  # zoned_h: (B, h_row), what of dh goes to the step before directly
    before: int  # peephole: (chunk * B, H), c before
    after: int  # peephole or normed: (chunk * B, H), c as it went into the output
    dh: int  # projected: (chunk * B, h_row), dh
    r: int  # projected: (chunk * B, H), h before projection
    dz: int  # normed: (chunk * B, dg_row), dG itself
    du: int  # and as it goes to W x
    dn: int  # normed: (chunk * B, H), gradient of the normalised c
    units_c: int  # normed: (chunk * B, H), c normalised
    scratch: int  # workspace of each part: zeros, then a block of rows, or `Room`, a panel and strips


FORWARD_BYTES, BACKWARD_BYTES = 8 * len(Forward._fields), 8 * len(Backward._fields)


class PackForward(NamedTuple):
    """Arguments of packing one direction of one layer for the forward pass."""

    I: int
    H: int
    P: int
    w_ih: int  # (4H, I)
    w_hh: int  # (4H, P)
    b_ih: int  # (4H,)
    b_hh: int  # (4H,)
    weights: int  # [panel][I + P][gate][lane]
    bias: int  # zeros, [panel][gate][lane]
    digits_ih: int  # w_ih in digits, or 0
    digits_hh: int  # w_hh
    scratch: int  # of 16 rows in digits


class PackColumns(NamedTuple):
    """Arguments of packing a matrix (K, N) by columns."""

    K: int
    N: int
    w: int  # (K, N)
    packed: int


class PackDigits(NamedTuple):
    """Arguments of splitting packed columns."""

    K: int
    N: int  # columns, in whole vectors
    packed: int
    digits: int
    scratch: int  # of 16 rows in digits


class OpenGates(NamedTuple):
    """Arguments of making gates of what a tape keeps of them."""

    N: int
    H: int
    gates: int  # (N, 4, H)


class Digest(NamedTuple):
    """Arguments of a digest of four arrays; an array of no bytes is left out."""

    out: int  # `Target.digest_words` words of 32 bits
    first: int
    first_bytes: int
    second: int
    second_bytes: int
    third: int
    third_bytes: int
    fourth: int
    fourth_bytes: int


class StepForward(NamedTuple):
    """Arguments of one step: sizes, addresses of contiguous arrays in the order in which a call has them."""

    B: int
    I: int
    H: int
    digits_ih: int  # whether W x is computed in digits
    digits_hh: int  # and R h
    space: int  # `forward_workspace` elements
    w_ih: int  # (4H, I)
    w_hh: int  # (4H, H)
    b_ih: int  # (4H,)
    b_hh: int  # (4H,)
    x: int  # (B, I)
    h_0: int  # (B, H)
    c_0: int  # (B, H)
    y: int  # (B, H)
    h_n: int  # (B, H)
    c_n: int  # (B, H)
    gates: int  # tape: (B, 4, H) of i, f, g, o
    cells: int  # tape: (B, H) of c


class StepBackward(NamedTuple):
    """Arguments of some steps: sizes, strides, addresses of contiguous arrays in the order in which a call has them."""

    T: int
    B: int
    I: int
    H: int
    dy_step: int
    dy_row: int
    space: int  # `backward_workspace` elements
    x: int  # (T * B, I)
    gates: int  # tape: (T, B, 4, H) of i, f, g, o
    cells: int  # tape: (T, B, H) of c
    h_0: int  # (B, H)
    c_0: int  # (B, H)
    dy: int  # (T, B, H), last axis contiguous
    dh_n: int  # (B, H)
    dc_n: int  # (B, H)
    w_ih: int  # (4H, I)
    w_hh: int  # (4H, H)
    dx: int  # (T * B, I)
    dh_0: int  # (B, H)
    dc_0: int  # (B, H)
    dw_ih: int  # (4H, I)
    dw_hh: int  # (4H, H)
    db: int  # (4H,)


def piece_steps(depth: int) -> int:
    """Steps of the matrix unit for so many k."""
    return -(-depth // STEP)


def piece_elements(steps: int, columns: int) -> int:
    """Elements of the pieces of so many columns, or rows, in whole tiles, and a line."""
    return (TILE_ROW + steps * -(-columns // SIDE) * PIECES * TILE) // 4


def digit_elements(columns: int) -> int:
    """Elements of the digits of 16 rows of so many columns."""
    return -(-columns // STRETCH) * DIGITS * TILE // 4


def digits_elements(vectors: int, depth: int) -> int:
    """Elements of a matrix of so many vectors of columns in digits: two scales for each step of k, then panels."""
    panel = (1 + PANEL + PANEL * DIGITS) * TILE_ROW // 4 + PANEL * digit_elements(depth)
    return 2 * -(-depth // STRETCH) * STRETCH + -(-vectors // PANEL) * panel


def split_elements(rows: int, *depths: int) -> int:
    """Elements of scratch for some rows of each depth in digits, with factors for each, and for the sums of a panel."""
    tiles = -(-rows // SIDE)
    return TILE_ROW // 4 + PANEL * DIGITS * TILE // 4 + tiles * sum(SIDE + digit_elements(depth) for depth in depths)


class Room(NamedTuple):
    """Where a part's scratch has what is known of dG and of [x, h] in products for dW, in the matrix unit."""

    sizes: Any  # the largest number of each column of dG, in whole panels, of x and of h,
    x_sizes: Any
    h_sizes: Any
    dg_rows: Any  # and the sums of their rows
    x_rows: Any
    h_rows: Any
    fits: Any  # whether digits do for each panel of dG
    factors: Any  # of a panel of dG, and of x and h, what makes products of digits
    x_factors: Any
    h_factors: Any
    sums: Any
    rest: Any  # what follows


def room_of(H: int, rows: int, at: Any) -> Room:
    """Of products of so many rows, from a place on; kernels have it compiled, and give a pointer."""
    width, group = PANEL * SIDE, PRODUCT_COLUMNS + PANEL * SIDE
    panels = (4 * H + width - 1) // width
    x_sizes = at + panels * width
    h_sizes = x_sizes + group
    dg_rows = h_sizes + group
    x_rows = dg_rows + rows
    h_rows = x_rows + rows
    fits = h_rows + rows
    factors = fits + (panels + SIDE - 1) // SIDE * SIDE
    x_factors = factors + width
    h_factors = x_factors + group
    sums = h_factors + group
    rest = sums + rows * SIDE
    return Room(at, x_sizes, h_sizes, dg_rows, x_rows, h_rows, fits, factors, x_factors, h_factors, sums, rest)


def split_room(variant: Variant, rows: int, I: int, P: int) -> int:
    """`split_elements` of some rows, of which at most a block is split at once; 0 without a matrix unit."""
    return split_elements(min(rows, target().block_rows), I, P) if variant.amx else 0


def block_elements(variant: Variant, H: int, P: int, c_row: int, lanes: int) -> int:
    """Elements of scratch for z of a block of rows and a panel; of narrow weights another one, for a second sum, and a
    widened block of k; of exact sums also, of each row, whether it fits in bytes, and three planes of bytes. Where a
    unit needs its whole row: for z of all panels, normed of W x and R h apart, and a row of c.
    """
    if variant.whole:
        panels = -(-H // lanes) * (2 if variant.normed else 1)
        return PANEL * lanes + target().whole_rows * (panels * PANEL * lanes + c_row)
    rows = target().block_rows
    vectors = 2 * rows + DEPTH if variant.narrow else rows
    planes = rows + rows * 3 * -(-P // lanes) * lanes // 4 if variant.exact else 0
    return vectors * PANEL * lanes + planes


def forward_workspace(B: int, I: int, H: int, lanes: int, digits: bool) -> int:
    """Elements of workspace; `lanes` are the elements of a vector."""
    registers = (1 + DEPTH + B) * PANEL * lanes
    if not digits:
        return registers
    matrices = digits_elements(PANEL, I) + digits_elements(PANEL, H)
    other = B * PANEL * lanes  # z of rows that cannot be split
    return registers + other + split_elements(B, I, H) + matrices + max(digit_elements(I), digit_elements(H))


def backward_workspace(T: int, B: int, H: int, row: int, lanes: int) -> int:
    """Elements of workspace; `row` is H in whole vectors, and `lanes` are the elements of one."""
    return (WIDE + target().tile_rows + max(4 * H, T * B)) * lanes + (T + 3) * B * row + T * B * 4 * H
