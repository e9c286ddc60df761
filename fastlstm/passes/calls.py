"""From arrays to a pass and back: frames, workspace and threads of one layer's forward and backward pass."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from fastlstm.cell import CellSpec
from fastlstm.passes.frames import (
    MOMENTS,
    PLACES,
    ZEROS,
    Backward,
    Forward,
    block_elements,
    piece_elements,
    piece_steps,
    split_elements,
    split_room,
)
from fastlstm.passes.packing import Gradients, Transposed, Weights, frame_of, padded, zeros
from fastlstm.plan import GFLOPS, Plan
from fastlstm.runtime import reuse
from fastlstm.runtime.memory import LINE, MASK, address, pool
from fastlstm.runtime.threads import alone, fan_out, get_num_threads, patiently
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import worker
from fastlstm.simd.isa import DIGITS, DIGITS_IN_L2, PANEL, PRODUCT_COLUMNS, PRODUCT_ROWS, SIDE, target

LONG_S = 0.1  # seconds that a call is expected to take from which on Ctrl-C must be able to end it
PAD = 16  # elements between the rows of workspace, so that rows of 4 KiB do not fall on the same lines of L1


class Ragged(NamedTuple):
    """Which rows take which steps, for a call whose rows have lengths or resets (`passes.rows`)."""

    offsets: np.ndarray  # (T + 1,) int64: where on the tape each step begins, and the last one ends
    order: np.ndarray  # (B,) int64: the row of each rank
    resets: list[np.ndarray | None]  # for each direction (T, B) bool, or None
    h_reset: np.ndarray | None  # (D, B, P)
    c_reset: np.ndarray | None  # (D, B, H)

    @property
    def size(self) -> int:
        """N, the rows of the tape."""
        return int(self.offsets[-1])


class Masks(NamedTuple):
    """Factors of one direction, (T, B, n) with any strides but for the last axis; what the cell does not have is
    None.
    """

    recurrent: np.ndarray | None = None
    zoneout_c: np.ndarray | None = None
    zoneout_h: np.ndarray | None = None


class Taped(NamedTuple):
    """What a forward pass keeps of one direction; N rows each, in order of steps and rank."""

    gates: np.ndarray  # (N, 4, H)
    cells: np.ndarray  # (N, H)
    inputs: np.ndarray | None = None  # (N, P)
    units_ih: np.ndarray | None = None  # (N, 4, H)
    units_hh: np.ndarray | None = None  # (N, 4, H)
    moments: np.ndarray | None = None  # (N, MOMENTS)


def make_tape(variant: Variant, N: int, H: int, P: int, dtype: np.dtype) -> Taped:
    """Room for the tape of one direction."""
    taped = Taped(reuse.empty((N, 4, H), dtype), reuse.empty((N, H), dtype))
    if variant.keeps:
        taped = taped._replace(inputs=reuse.empty((N, P), dtype))
    if variant.normed:
        taped = taped._replace(
            units_ih=reuse.empty((N, 4, H), dtype),
            units_hh=reuse.empty((N, 4, H), dtype),
            moments=reuse.empty((N, MOMENTS), dtype),
        )
    return taped


class _Meeting:
    """Counters of one call: where all threads meet once, and a barrier for each direction; for the long ones also where
    there is one thread, since they may be called off.
    """

    def __init__(self, directions: int, parts: int, flops: float = 0.0) -> None:
        self._words: np.ndarray | None = None
        self.place, self.barriers = 0, [0] * directions
        self.long = flops / GFLOPS / 1e9 > LONG_S
        parties = directions * parts
        if parties > 1 or self.long:
            self._words = np.zeros((PLACES + LINE + (8 + MASK) * parties) // 8, np.int64)
            self.place = address(self._words) + -address(self._words) % LINE
            self.barriers = [self.place + (2 + d) * LINE for d in range(directions)]

    def given_up(self) -> bool:
        """Whether the threads waited for each other in vain."""
        return self._word(self.place + LINE) == 2

    def sleeps(self) -> float:
        """How often a thread slept at a barrier."""
        return math.inf if self.given_up() else sum(self._word(barrier + 16) for barrier in self.barriers)

    def call_off(self) -> None:
        """Let all threads end soon, with results that nobody may use."""
        if self._words is not None:
            for barrier in self.barriers:
                self._words[(barrier - address(self._words)) // 8 + 3] = 1

    def _word(self, place: int) -> int:
        words = self._words
        return 0 if words is None else int(words[(place - address(words)) // 8])


def _run(name: str, variant: Variant, plan: Plan, frames: np.ndarray, cls, meeting: _Meeting) -> None:
    """Run a call, so that Ctrl-C ends a long one."""
    if meeting.long:
        patiently(lambda: _run_parts(name, variant, plan, frames, cls, meeting), meeting.call_off)
    else:
        _run_parts(name, variant, plan, frames, cls, meeting)


def _run_parts(name: str, variant: Variant, plan: Plan, frames: np.ndarray, cls, meeting: _Meeting) -> None:
    """Run all parts of a call; one after another, each direction as a single part, where threads could not be had."""
    task, parts = worker(name, variant), plan.parts * len(frames)
    # Two directions are two parts, also where the caller allows one thread.
    allowed = parts == 1 or get_num_threads() > 1
    if allowed and fan_out(task, parts, address(frames), meeting.sleeps) and not meeting.given_up():
        return
    for field, value in (("parts", 1), ("parties", 1), ("by_units", 0)):
        frames[:, cls._fields.index(field)] = value
    alone(task, len(frames), address(frames))


def _where(array: np.ndarray | None) -> int:
    return 0 if array is None else address(array)


def _strides(array: np.ndarray) -> tuple[int, int]:
    """Elements from step to step and from row to row of an array (T, B, n), or (N, n), which has no steps."""
    step = array.strides[0] if array.ndim == 3 else 0
    return step // array.itemsize, array.strides[-2] // array.itemsize


def row_stride(x: np.ndarray) -> int | None:
    """Elements between consecutive rows of x (T, B, n), taken as (T * B, n), or (N, n); None where that is no single
    number.
    """
    step, row = _strides(x)
    if x.ndim == 2:
        return row
    T, B, _ = x.shape
    if B == 1:
        return step
    return row if T == 1 or step == B * row else None


def _uniform(x: np.ndarray) -> int:
    """`row_stride` of an x that is known to have one."""
    row = row_stride(x)
    assert row is not None, "rows of x must be equally far apart"
    return row


def _masks(masks: Masks, item: int) -> dict[str, int]:
    """The fields of a frame that tell of masks."""
    fields: dict[str, int] = {}
    for name, mask in zip(("mask", "zone_c", "zone_h"), masks, strict=True):
        if mask is not None:
            fields |= {name: address(mask), f"{name}_step": mask.strides[0] // item}
            fields |= {f"{name}_row": mask.strides[1] // item}
    return fields


def _shape(x: np.ndarray, ragged: Ragged | None) -> tuple[int, int]:
    """T and B of a call."""
    return x.shape[:2] if ragged is None else (len(ragged.offsets) - 1, len(ragged.order))


def _ragged(ragged: Ragged | None, d: int, state_h: int, state_c: int) -> dict[str, int]:
    """The fields of a frame that tell of lengths and resets."""
    if ragged is None:
        return {}
    fields = {"offsets": address(ragged.offsets), "order": address(ragged.order)}
    if (resets := ragged.resets[d]) is not None:
        fields |= {"resets": address(resets)}
        fields |= {"h_reset": _where(ragged.h_reset) + d * state_h, "c_reset": _where(ragged.c_reset) + d * state_c}
    return fields


def forward(
    variant: Variant,
    plan: Plan,
    x: np.ndarray,
    packs: list[Weights],
    h_0: np.ndarray,
    c_0: np.ndarray,
    y: np.ndarray,
    h_n: np.ndarray,
    c_n: np.ndarray,
    tape: list[Taped],
    reverse: list[bool],
    ragged: Ragged | None = None,
    masks: list[Masks] | None = None,
) -> None:
    """Run one layer: x (T, B, I) or packed (N, I); h_0, h_n (D, B, P); c_0, c_n (D, B, H); y (T, B, D*P) or packed
    (N, D*P).
    """
    (T, B), I, (D, _, P), H, dtype = _shape(x, ragged), x.shape[-1], h_0.shape, c_0.shape[2], x.dtype
    lanes = target().lanes(dtype)
    room = 0 if plan.chunk else padded(I, dtype)  # for x before h
    h_row, c_row = room + padded(P, dtype) + PAD, padded(H, dtype) + PAD
    panels = -(-H // lanes)
    split = block_elements(variant, H, P, c_row, lanes)
    z = split + split_room(variant, B * max(1, plan.chunk), I, P)
    scratch = z + plan.chunk * B * -(-panels // (plan.parts if plan.by_units else 1)) * PANEL * lanes
    sizes = [2 * B * h_row, B * c_row, B * h_row if variant.holds else 0, plan.parts * scratch]
    offsets = [sum(sizes[:k]) for k in range(len(sizes))]
    space = pool.take(D * sum(sizes), dtype)
    meeting = _Meeting(D, plan.parts, 8.0 * D * H * (I + H) * T * B)
    x_step, x_row = _strides(x)
    if plan.chunk:
        x_row = _uniform(x)
    y_step, y_row = _strides(y)
    item = dtype.itemsize
    state_h, state_c = B * P * item, B * H * item
    frames = []
    for d in range(D):
        h, c, held, part = (address(space) + (d * sum(sizes) + offset) * item for offset in offsets)
        taped = {}
        if tape:
            taped = {f: _where(array) for f, array in zip(Taped._fields, tape[d], strict=True)}
        pack = {name: _where(array) for name, array in zip(Weights._fields, packs[d], strict=True)}
        frames.append(
            Forward(
                T=T, B=B, I=I, H=H, P=P, parts=plan.parts, by_units=plan.by_units, chunk=plan.chunk,
                reverse=reverse[d], parties=D * plan.parts, meeting=meeting.place, sync=meeting.barriers[d],
                x=address(x), x_step=x_step, x_row=x_row,
                h_0=address(h_0) + d * state_h, c_0=address(c_0) + d * state_c,
                y=address(y) + d * P * item, y_step=y_step, y_row=y_row,
                h_n=address(h_n) + d * state_h, c_n=address(c_n) + d * state_c,
                h=h + room * item, h_row=h_row, c=c, c_row=c_row, held=held,
                scratch=part, scratch_part=scratch, projected=z, split=split,
                x_packed=x.ndim == 2, y_packed=y.ndim == 2,
                **({"gates": 0, "cells": 0} | taped), **pack, **_ragged(ragged, d, state_h, state_c),
                **(_masks(masks[d], item) if masks else {}),
            )
        )  # fmt: skip
    _run("forward", variant, plan, frame_of(*frames), Forward, meeting)
    pool.give(space)


def _dx_rows(plan: Plan, H: int) -> int:
    """Rows of a block of dx: of dG in digits so many as leave half of L2 to the weights."""
    if not plan.in_unit:
        return target().block_rows
    return max(4, min(16, DIGITS_IN_L2 // (4 * H * DIGITS * SIDE))) * SIDE


def _unit_room(columns: int, dx_rows: int, H: int, N: int, lanes: int) -> int:
    """Elements of a part's scratch for the matrix unit: of dG of a block of rows in digits, behind its z, for dh and
    dx; or, for dW, of a panel of dG in pieces, a tile and columns of [x, h].
    """
    dg = max(rows * PANEL * lanes + split_elements(rows, 4 * H) for rows in (target().block_rows, dx_rows))
    deep = piece_steps(PRODUCT_ROWS)
    packed = PRODUCT_ROWS * PANEL * lanes + piece_elements(deep, PANEL * lanes)
    dw = packed + piece_elements(1, lanes) + piece_elements(piece_steps(min(PRODUCT_ROWS, N)), columns + 2 * lanes)
    return max(dg, dw)


@lru_cache(maxsize=64)
def _backward_room(
    variant: Variant, plan: Plan, N: int, B: int, I: int, H: int, P: int, dtype: np.dtype
) -> tuple[dict[str, int], dict[str, int], int]:
    """Of the workspace of one direction: the elements of rows and of a part's scratch; where each field of the frame
    has its place, in bytes; and the elements of all. Worked out once: it takes as long as some steps of a row.
    """
    lanes, whole = target().lanes(dtype), variant.whole
    h_row, c_row, dg_row = (padded(n + PAD, dtype) for n in (padded(P, dtype), padded(H, dtype), 4 * H))
    dw_row = padded(4 * H, dtype) + PAD
    columns = min(I + P, PRODUCT_COLUMNS)
    block = PRODUCT_ROWS * PANEL * lanes + padded(columns * min(PRODUCT_ROWS, N), dtype)
    dx_rows = _dx_rows(plan, H)
    block = max(block, dx_rows * PANEL * lanes)
    if plan.in_unit:
        block = max(_unit_room(columns, dx_rows, H, N, lanes), block)
    if whole:
        at_once = target().whole_rows
        digits = split_elements(at_once, 4 * H) if plan.in_unit else 0
        block = max(block, at_once * (h_row + 2 * c_row) + c_row + digits)
    scratch = ZEROS * lanes + block
    rows, peephole = plan.chunk * B, variant.diagonal or variant.full
    sizes = {
        "dw": (I + P) * dw_row,
        "dg": 2 * B * dg_row,
        "dc": B * c_row,
        "h": rows * h_row if not variant.keeps else 0,
        "carry": B * h_row if variant.zoned_h else 0,
        "before": rows * H if peephole else 0,
        "after": rows * H if peephole else 0,
        "dh": rows * h_row if variant.projected else 0,
        "r": rows * H if variant.projected else 0,
        **{name: rows * 4 * H if variant.normed else 0 for name in ("du", "dv")},
        **{name: rows * H if variant.normed else 0 for name in ("dn", "units_c")},
        "scratch": plan.parts * scratch,
    }
    places, elements = {}, 0
    for name, size in sizes.items():
        places[name] = elements * dtype.itemsize
        elements += padded(size + lanes, dtype)
    strides = {"dw_row": dw_row, "dg_row": dg_row, "c_row": c_row, "h_row": h_row, "dw_hr_row": padded(H, dtype)}
    return strides | {"scratch_part": scratch, "dx_rows": dx_rows}, places, elements


def backward(
    variant: Variant,
    spec: CellSpec,
    plan: Plan,
    x: np.ndarray,
    packs: list[Transposed],
    tape: list[Taped],
    h_0: np.ndarray,
    c_0: np.ndarray,
    dy: np.ndarray,
    dh_n: np.ndarray,
    dc_n: np.ndarray,
    dxs: list[np.ndarray],
    dh_0: np.ndarray,
    dc_0: np.ndarray,
    reverse: list[bool],
    ragged: Ragged | None = None,
    masks: list[Masks] | None = None,
) -> list[dict[str, np.ndarray]]:
    """Run one layer backward; shapes as in `forward`, but that x of a ragged call is packed; dxs: an array (T, B, I) or
    (N, I) for each direction. The gates on the tape become dG. Returns the gradients of each direction by name.
    """
    (T, B), I, (D, _, P), H, dtype = _shape(x, ragged), x.shape[-1], h_0.shape, c_0.shape[2], x.dtype
    N = T * B if ragged is None else ragged.size
    assert not plan.in_unit or all(pack.digits_hh is not None for pack in packs), "a plan without its digits"
    rows, places, each = _backward_room(variant, plan, N, B, I, H, P, dtype)
    space = pool.take(D * each, dtype)
    meeting = _Meeting(D, plan.parts, 16.0 * D * H * (I + H) * T * B)
    dy_step, dy_row = _strides(dy)
    item = dtype.itemsize
    state_h, state_c = B * P * item, B * H * item
    frames, grads, start = [], [], address(space)
    for d in range(D):
        room = {name: start + place for name, place in places.items()}
        start += each * item
        dx_step, dx_row = _strides(dxs[d])
        grad = Gradients(spec, I, H, dtype, rows["dw_row"])
        grads.append(grad)
        arrays = dict(zip(Transposed._fields, packs[d], strict=True))
        arrays |= dict(zip(Taped._fields, tape[d], strict=True))
        arrays |= {"dw_ih": grad.w_ih, "dw_hh": grad.w_hh, "db": grad.b, "dw_hr": grad.w_hr}
        arrays |= {"dw_ch": grad.w_ch, "dw_ch_new": grad.w_ch_new}
        if grad.normal is not None:
            arrays |= dict(zip(("dgain_ih", "dgain_hh", "dgain_c", "dshift_c"), grad.normal, strict=True))
        extra = _ragged(ragged, d, state_h, state_c)
        extra.pop("h_reset", None)
        frames.append(
            Backward(
                T=T, B=B, I=I, H=H, P=P, parts=plan.parts, by_units=plan.by_units, chunk=plan.chunk,
                reverse=reverse[d], parties=D * plan.parts, meeting=meeting.place, sync=meeting.barriers[d],
                in_pieces=plan.in_unit,
                x=address(x), x_row=_uniform(x),
                h_0=address(h_0) + d * state_h, c_0=address(c_0) + d * state_c,
                dy=address(dy) + d * P * item, dy_step=dy_step, dy_row=dy_row,
                dh_n=address(dh_n) + d * state_h, dc_n=address(dc_n) + d * state_c,
                dx=address(dxs[d]), dx_step=dx_step, dx_row=dx_row,
                dh_0=address(dh_0) + d * state_h, dc_0=address(dc_0) + d * state_c,
                dy_packed=dy.ndim == 2, dx_packed=dxs[d].ndim == 2, **rows,
                **room, **{name: _where(array) for name, array in arrays.items()}, **extra,
                **(_masks(masks[d], item) if masks else {}),
            )
        )  # fmt: skip
    _run("backward", variant, plan, frame_of(*frames), Backward, meeting)
    pool.give(space)
    return [grad.named() for grad in grads]


class StepCall:
    """A call of one step through all layers, with its frames and buffers made once: x and h, c are written, y is
    read, by whoever holds it.
    """

    def __init__(
        self,
        variant: Variant,
        packs: list[Weights],
        sizes: tuple[int, int, int, int],  # I, H, P, B
        dtype: np.dtype,
        masks: list[Masks] | None = None,
    ) -> None:
        (I, H, P, B), item, L = sizes, dtype.itemsize, len(packs)
        room, lanes = padded(max(I, P), dtype), target().lanes(dtype)
        h_row, c_row = room + padded(P, dtype) + PAD, padded(H, dtype) + PAD
        split = block_elements(variant, H, P, c_row, lanes)
        scratch = split + split_room(variant, B, max(I, P), P)
        self.x = zeros(B * I, dtype).reshape(B, I)
        self.h = zeros(L * B * P, dtype).reshape(L, B, P)
        self.c = zeros(L * B * H, dtype).reshape(L, B, H)
        self._outputs = [np.zeros((B, P), dtype) for _ in packs]
        self.y = self._outputs[-1]
        self._space = zeros(3 * B * h_row + B * c_row + scratch, dtype)
        self._kept = _Meeting(1, 1), packs, masks
        base, frames = address(self._space), []
        for k, pack in enumerate(packs):
            x = self._outputs[k - 1] if k else self.x
            h, c = address(self.h[k]), address(self.c[k])
            frames.append(
                Forward(
                    T=1, B=B, I=x.shape[1], H=H, P=P, parts=1, by_units=0, chunk=0, reverse=0,
                    parties=1, meeting=0, sync=0,
                    x=address(x), x_step=x.size, x_row=x.shape[1], h_0=h, c_0=c,
                    y=address(self._outputs[k]), y_step=B * P, y_row=P, h_n=h, c_n=c, gates=0, cells=0,
                    h=base + room * item, h_row=h_row, held=base + 2 * B * h_row * item,
                    c=base + 3 * B * h_row * item, c_row=c_row,
                    scratch=base + (3 * B * h_row + B * c_row) * item, scratch_part=scratch, projected=scratch,
                    split=split,
                    **{name: _where(array) for name, array in zip(Weights._fields, pack, strict=True)},
                    **(_masks(masks[k], item) if masks else {}),
                )
            )  # fmt: skip
        self._frames = frame_of(*frames)
        self.address = address(self._frames)
