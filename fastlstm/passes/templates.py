"""Frames of long passes but for the addresses of arrays: sizes, strides, and places in the workspace.

To work them out takes as long as some steps of a row, so those of calls alike are made once.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fastlstm.passes.frames import (
    ZEROS,
    Backward,
    Forward,
    block_elements,
    digit_elements,
    piece_elements,
    piece_steps,
    room_of,
    split_elements,
    split_room,
)
from fastlstm.passes.packing import PAD, gradient_row, padded
from fastlstm.plan import Plan, product_rows
from fastlstm.runtime.variant import Variant
from fastlstm.simd.isa import (
    DIGITS,
    DIGITS_IN_L2,
    PANEL,
    PAST_CACHES,
    PRODUCT_COLUMNS,
    PRODUCT_ROWS,
    SIDE,
    TILE,
    TILE_ROW,
    target,
)

# Where a frame has the addresses of a call's arrays.
FORWARD_ARRAYS, BACKWARD_ARRAYS = Forward._fields.index("x"), Backward._fields.index("x")


class Sizes(NamedTuple):
    """Sizes of a pass through one layer: steps, rows, features, units and size of h."""

    T: int
    B: int
    I: int
    H: int
    P: int


class Rows(NamedTuple):
    """How the rows of an array (T, B, n) or (N, n) lie: elements from step to step and from row to row."""

    step: int
    row: int
    packed: bool

    @classmethod
    def of(cls, array: np.ndarray) -> Rows:
        """Those of an array whose last axis is contiguous."""
        item, packed = array.itemsize, array.ndim == 2
        return cls(0 if packed else array.strides[0] // item, array.strides[-2] // item, packed)


class Template(NamedTuple):
    """What calls that are alike have in common."""

    frames: np.ndarray  # (D, words), places in workspace in bytes from its beginning
    space: int  # index of the first of these places
    elements: int  # of workspace

    def at(self, address: int) -> np.ndarray:
        """The frames of a call whose workspace lies at an address."""
        frames = self.frames.copy()
        frames[:, self.space :] += address
        return frames


def _template(frame: Any, values: dict[str, int], reverse: tuple[bool, ...], rooms: dict[str, int], dtype) -> Template:
    """Of frames that differ in their direction, whose places in workspace have room for so many elements."""
    item, frames, elements = np.dtype(dtype).itemsize, [], 0
    for backwards in reverse:
        places = {}
        for name, room in rooms.items():
            places[name] = elements * item
            elements += padded(room, dtype)
        words = dict.fromkeys(frame._fields, 0) | values | places | {"reverse": backwards}
        frames.append([words[name] for name in frame._fields])
    return Template(np.array(frames, np.int64), frame._fields.index(next(iter(rooms))), elements)


def _goes_past(rows: int, n: int, dtype) -> bool:
    """Whether so many rows of n elements are written past the caches: in whole vectors, and where these are lines, of
    which parts would go to memory one by one.
    """
    whole = target().bits // 8 == TILE_ROW and n % target().lanes(dtype) == 0
    return whole and rows * n * np.dtype(dtype).itemsize >= PAST_CACHES


@lru_cache(maxsize=256)
def forward_template(
    variant: Variant, plan: Plan, sizes: Sizes, dtype: np.dtype, x: Rows, y: Rows, reverse: tuple[bool, ...]
) -> Template:
    """Of a forward pass, whose x stands before h where there is no chunk."""
    T, B, I, H, P = sizes
    lanes, D = target().lanes(dtype), len(reverse)
    room = 0 if plan.chunk else padded(I, dtype)  # for x before h
    h_row, c_row = room + padded(P, dtype) + PAD, padded(H, dtype) + PAD
    split = block_elements(variant, H, P, c_row, lanes)
    projected = split + split_room(variant, B * max(1, plan.chunk), I, P)
    panels = -(-padded(H, dtype) // lanes // (plan.parts if plan.by_units else 1))
    scratch = projected + plan.chunk * B * panels * PANEL * lanes
    values = {
        "T": T, "B": B, "I": I, "H": H, "P": P, "parts": plan.parts, "by_units": plan.by_units, "chunk": plan.chunk,
        "parties": D * plan.parts, "x_step": x.step, "x_row": x.row, "x_packed": x.packed,
        "y_step": y.step, "y_row": y.row, "y_packed": y.packed, "h_row": h_row, "c_row": c_row,
        "scratch_part": scratch, "projected": projected, "split": split,
        "tape_past": _goes_past(T * B * (13 if variant.normed else 5), H, dtype), "y_past": _goes_past(T * B, P, dtype),
    }  # fmt: skip
    rooms = {"h": 2 * B * h_row, "c": B * c_row, "held": B * h_row * variant.holds, "scratch": plan.parts * scratch}
    made = _template(Forward, values, reverse, rooms, dtype)
    made.frames[:, made.space] += room * np.dtype(dtype).itemsize
    return made


def _dx_rows(plan: Plan, H: int) -> int:
    """Rows of a block of dx: of dG in digits so many as leave half of L2 to the weights."""
    if not plan.in_unit:
        return target().block_rows
    return max(4, min(16, DIGITS_IN_L2 // (4 * H * DIGITS * SIDE))) * SIDE


def _unit_room(columns: int, dx_rows: int, rows: int, H: int, N: int, lanes: int) -> int:
    """Elements of a part's scratch for the matrix unit: of dG of a block of rows in digits, behind its z, for dh and
    dx; or, for dW, of what is known of so many rows, then of sums, a panel of dG, a tile and columns of [x, h], in
    digits, or of fewer rows in pieces or registers.
    """
    dg = max(rows * PANEL * lanes + split_elements(rows, 4 * H) for rows in (target().block_rows, dx_rows))
    strips = -(-columns // SIDE) + 1  # of x and of h
    digits = (strips + PANEL + 1) * digit_elements(min(rows, N)) + (PANEL * DIGITS * TILE + TILE_ROW) // 4
    deep = piece_steps(PRODUCT_ROWS)
    packed = PRODUCT_ROWS * PANEL * lanes + piece_elements(deep, PANEL * lanes) + piece_elements(1, lanes)
    pieces = packed + piece_elements(piece_steps(min(PRODUCT_ROWS, N)), strips * SIDE)
    return max(dg, room_of(H, rows, 0).rest + max(digits, pieces))


@lru_cache(maxsize=256)
def backward_template(
    variant: Variant, plan: Plan, sizes: Sizes, N: int, dtype: np.dtype, x_row: int, dy: Rows, dx: Rows,
    reverse: tuple[bool, ...],
) -> Template:  # fmt: skip
    """Of a backward pass, with N rows on the tape."""
    T, B, I, H, P = sizes
    lanes, whole = target().lanes(dtype), variant.whole
    h_row, c_row, dg_row = (padded(n + PAD, dtype) for n in (padded(P, dtype), padded(H, dtype), 4 * H))
    dw_row = gradient_row(H, dtype)
    columns, dx_rows = min(I + P, PRODUCT_COLUMNS), _dx_rows(plan, H)
    at_once = product_rows(plan.in_unit, I, H)
    block = PRODUCT_ROWS * PANEL * lanes + padded(columns * min(PRODUCT_ROWS, N), dtype)
    block = max(block, dx_rows * PANEL * lanes)
    if plan.in_unit:
        block = max(_unit_room(columns, dx_rows, at_once, H, N, lanes), block)
    if whole:
        whole_rows = target().whole_rows
        digits = split_elements(whole_rows, 4 * H) if plan.in_unit else 0
        block = max(block, whole_rows * (h_row + 2 * c_row) + c_row + digits)
    scratch = ZEROS * lanes + block
    rows, peephole = plan.chunk * B, variant.diagonal or variant.full
    values = {
        "T": T, "B": B, "I": I, "H": H, "P": P, "parts": plan.parts, "by_units": plan.by_units, "chunk": plan.chunk,
        "parties": len(reverse) * plan.parts, "in_unit": plan.in_unit, "product_rows": at_once, "x_row": x_row,
        "dy_step": dy.step, "dy_row": dy.row, "dy_packed": dy.packed,
        "dx_step": dx.step, "dx_row": dx.row, "dx_packed": dx.packed, "dx_rows": dx_rows,
        "dw_row": dw_row, "dg_row": dg_row, "c_row": c_row, "h_row": h_row, "dw_hr_row": padded(H, dtype),
        "scratch_part": scratch,
    }  # fmt: skip
    rooms = {
        "dw": (I + P) * dw_row,
        "dg": (rows + B) * dg_row,
        "dc": B * c_row,
        "h": rows * h_row if not variant.keeps else 0,
        "carry": B * h_row if variant.zoned_h else 0,
        "before": rows * H if peephole else 0,
        "after": rows * H if peephole else 0,
        "dh": rows * h_row if variant.projected else 0,
        "r": rows * H if variant.projected else 0,
        **{name: rows * dg_row if variant.normed else 0 for name in ("dz", "du")},
        **{name: rows * H if variant.normed else 0 for name in ("dn", "units_c")},
        "scratch": plan.parts * scratch,
    }
    rooms = {name: room + lanes for name, room in rooms.items()}
    return _template(Backward, values, reverse, rooms, dtype)
