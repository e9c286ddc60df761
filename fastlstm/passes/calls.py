"""From arrays to a pass and back: frames, workspace and threads of one layer's forward and backward pass."""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numpy as np

from fastlstm.kernels.gemm import BLOCK_ROWS
from fastlstm.passes.backward import PRODUCT_ROWS, ZEROS, Backward
from fastlstm.passes.entries import Digest, PackColumns, PackForward
from fastlstm.passes.forward import Forward
from fastlstm.plan import PANEL, Plan
from fastlstm.runtime.jit import Variant
from fastlstm.runtime.memory import address, aligned, pool
from fastlstm.runtime.threads import alone, crowded, fan_out, get_num_threads, met
from fastlstm.runtime.workers import worker
from fastlstm.simd.atomic import LINE
from fastlstm.simd.digest import words
from fastlstm.simd.isa import target

PAD = 16  # elements between the rows of workspace, so that rows of 4 KiB do not fall on the same lines of L1


def padded(n: int, dtype) -> int:
    """n, rounded up to whole vectors."""
    lanes = target().lanes(dtype)
    return -(-n // lanes) * lanes


class Weights(NamedTuple):
    """One direction of one layer, packed for the forward pass."""

    weights: np.ndarray
    bias: np.ndarray


class Transposed(NamedTuple):
    """One direction of one layer, packed for the backward pass."""

    w_hh: np.ndarray
    w_ih: np.ndarray


def _frame(*frames) -> np.ndarray:
    return np.array(frames, np.int64)


def _zeros(count: int, dtype) -> np.ndarray:
    array = aligned(count, dtype)
    array.fill(0)
    return array


def digest(variant: Variant, arrays: list[np.ndarray]) -> bytes:
    """A digest of the contents of up to four contiguous arrays."""
    out = np.zeros(words(), np.uint32)
    flat = [word for a in arrays for word in (address(a), a.nbytes)]
    frame = _frame(Digest(address(out), *flat, *[0] * (len(Digest._fields) - 1 - len(flat))))
    worker("digest", Variant(variant.dtype)).run(0, address(frame))
    return out.tobytes()


def pack_forward(variant: Variant, w_ih, w_hh, b_ih, b_hh) -> Weights:
    """Pack w_ih (4H, I), w_hh (4H, H) and both biases (4H,)."""
    (_, I), H = w_ih.shape, w_hh.shape[1]
    units = padded(H, w_ih.dtype)
    weights, bias = aligned(4 * units * (I + H), w_ih.dtype), _zeros(4 * units, w_ih.dtype)
    frame = _frame(PackForward(I, H, *map(address, (w_ih, w_hh, b_ih, b_hh, weights, bias))))
    worker("pack_forward", Variant(variant.dtype)).run(0, address(frame))
    return Weights(weights, bias)


def pack_backward(variant: Variant, w_ih, w_hh) -> Transposed:
    """Pack w_ih (4H, I) and w_hh (4H, H) by columns."""

    def pack(w):
        K, N = w.shape
        packed = aligned(K * padded(N, w.dtype), w.dtype)
        frame = _frame(PackColumns(K, N, address(w), address(packed)))
        worker("pack_backward", Variant(variant.dtype)).run(0, address(frame))
        return packed

    return Transposed(pack(w_hh), pack(w_ih))


class _Meeting:
    """Counters of one call: where all threads meet once, and a barrier for each direction."""

    def __init__(self, directions: int, parts: int) -> None:
        self._words: np.ndarray | None = None
        self.place, self.barriers = 0, [0] * directions
        if parts > 1:
            self._words = np.zeros((directions + 3) * LINE // 8, np.int64)
            self.place = address(self._words) + -address(self._words) % LINE
            self.barriers = [self.place + (2 + d) * LINE for d in range(directions)]

    def given_up(self) -> bool:
        """Whether the threads waited for each other in vain."""
        return self._word(self.place + LINE) == 2

    def sleeps(self) -> int:
        """How often a thread slept at a barrier."""
        return sum(self._word(barrier + 16) for barrier in self.barriers)

    def _word(self, place: int) -> int:
        words = self._words
        return 0 if words is None else int(words[(place - address(words)) // 8])


def _run(name: str, variant: Variant, plan: Plan, frames: np.ndarray, cls, meeting: _Meeting) -> None:
    """Run all parts of a call; one after another, each direction as a single part, where threads could not be had."""
    task, parts = worker(name, variant), plan.parts * len(frames)
    # Two directions are two parts, also where the caller allows one thread.
    allowed = parts == 1 or get_num_threads() > 1
    meets = plan.parts > 1 and (plan.by_units or name == "backward")
    if allowed and not (meets and crowded()):
        began = time.perf_counter()
        if fan_out(task, parts, address(frames)):
            if meets:
                met(time.perf_counter() - began, math.inf if meeting.given_up() else meeting.sleeps())
            if not meeting.given_up():
                return
    frames[:, cls._fields.index("parts")] = 1
    frames[:, cls._fields.index("by_units")] = 0
    alone(task, len(frames), address(frames))


def _strides(array: np.ndarray) -> tuple[int, int]:
    """Elements from step to step and from row to row of an array (T, B, n)."""
    return array.strides[0] // array.itemsize, array.strides[1] // array.itemsize


def row_stride(x: np.ndarray) -> int | None:
    """Elements between consecutive rows of x (T, B, n) taken as (T * B, n); None where that is no single number."""
    T, B, _ = x.shape
    step, row = _strides(x)
    if B == 1:
        return step
    return row if T == 1 or step == B * row else None


def _uniform(x: np.ndarray) -> int:
    """`row_stride` of an x that is known to have one."""
    row = row_stride(x)
    assert row is not None, "rows of x must be equally far apart"
    return row


def forward(
    variant: Variant, plan: Plan, x, packs: list[Weights], h_0, c_0, y, h_n, c_n, tape, reverse: list[bool]
) -> None:
    """Run one layer: x (T, B, I); h_0, c_0, h_n, c_n (D, B, H); y (T, B, D*H); tape: for each direction gates (T,
    B, 4, H) and c (T, B, H).
    """
    (T, B, I), (D, _, H), dtype = x.shape, h_0.shape, x.dtype
    room = 0 if plan.chunk else padded(I, dtype)  # for x before h
    h_row = room + padded(H, dtype) + PAD
    vectors = PANEL * target().lanes(dtype)
    panels = -(-padded(H, dtype) // target().lanes(dtype) // (plan.parts if plan.by_units else 1))
    scratch = (BLOCK_ROWS + plan.chunk * B * panels) * vectors
    each = 3 * B * h_row + plan.parts * scratch
    space = pool.take(D * each, dtype)
    meeting = _Meeting(D, plan.parts)
    x_step, x_row = _strides(x)
    if plan.chunk:
        x_row = _uniform(x)
    y_step, y_row = _strides(y)
    item, base, state = dtype.itemsize, address(space), B * H * dtype.itemsize
    frames = []
    for d in range(D):
        here = base + d * each * item
        gates, cells = (address(a) for a in tape[d]) if tape else (0, 0)
        frames.append(
            Forward(
                T, B, I, H, plan.parts, plan.by_units, plan.chunk, reverse[d],
                address(x), x_step, x_row, address(packs[d].weights), address(packs[d].bias),
                address(h_0) + d * state, address(c_0) + d * state, address(y) + d * H * item, y_step, y_row,
                address(h_n) + d * state, address(c_n) + d * state, gates, cells,
                here + room * item, here + 2 * B * h_row * item, h_row, here + 3 * B * h_row * item, scratch,
                D * plan.parts, meeting.place, meeting.barriers[d],
            )
        )  # fmt: skip
    _run("forward", variant, plan, _frame(*frames), Forward, meeting)
    pool.give(space)


class Gradients(NamedTuple):
    """Gradients of one direction of one layer."""

    w_ih: np.ndarray  # (4H, I)
    w_hh: np.ndarray  # (4H, H)
    b: np.ndarray  # (4H,)


def backward(
    variant: Variant,
    plan: Plan,
    x,
    packs: list[Transposed],
    tape,
    h_0,
    c_0,
    dy,
    dh_n,
    dc_n,
    dxs,
    dh_0,
    dc_0,
    reverse: list[bool],
) -> list[Gradients]:
    """Run one layer backward; shapes as in `forward`, dxs: an array like x for each direction. The gates on the
    tape become dG.
    """
    (T, B, I), (D, _, H), dtype = x.shape, h_0.shape, x.dtype
    lanes = target().lanes(dtype)
    h_row, dg_row, dw_row = padded(H, dtype) + PAD, 4 * H + PAD, padded(4 * H, dtype) + PAD
    h_row, dg_row = padded(h_row, dtype), padded(dg_row, dtype)
    scratch = (ZEROS + max(BLOCK_ROWS, PRODUCT_ROWS) * PANEL) * lanes + padded(
        (I + H) * min(PRODUCT_ROWS, T * B), dtype
    )
    sizes = [(I + H) * dw_row, 2 * B * dg_row, B * h_row, plan.chunk * B * h_row, plan.parts * scratch]
    offsets = [sum(sizes[:k]) * dtype.itemsize for k in range(len(sizes))]
    space = pool.take(D * sum(sizes), dtype)
    meeting = _Meeting(D, plan.parts)
    dy_step, dy_row = _strides(dy)
    x_row = _uniform(x)
    item, state = dtype.itemsize, B * H * dtype.itemsize
    frames, grads = [], []
    for d in range(D):
        dw, dg, dc, h, scratch_at = (address(space) + d * sum(sizes) * item + offset for offset in offsets)
        gates, cells = tape[d]
        dx_step, dx_row = _strides(dxs[d])
        grad = Gradients(np.empty((4 * H, I), dtype), np.empty((4 * H, H), dtype), np.empty(4 * H, dtype))
        grads.append(grad)
        frames.append(
            Backward(
                T, B, I, H, plan.parts, plan.by_units, plan.chunk, reverse[d],
                address(x), x_row, address(gates), address(cells), address(h_0) + d * state, address(c_0) + d * state,
                address(dy) + d * H * item, dy_step, dy_row, address(dh_n) + d * state, address(dc_n) + d * state,
                address(packs[d].w_hh), address(packs[d].w_ih), address(dxs[d]), dx_step, dx_row,
                address(dh_0) + d * state, address(dc_0) + d * state,
                address(grad.w_ih), address(grad.w_hh), address(grad.b),
                dw, dw_row, dg, dg_row, dc, h, h_row, scratch_at, scratch,
                D * plan.parts, meeting.place, meeting.barriers[d],
            )
        )  # fmt: skip
    _run("backward", variant, plan, _frame(*frames), Backward, meeting)
    pool.give(space)
    return grads


class StepCall:
    """A call of one step through all layers, with its frames and buffers made once: x and h, c are written, y is
    read, by whoever holds it.
    """

    def __init__(
        self,
        variant: Variant,
        packs: list[Weights],
        input_size: int,
        hidden_size: int,
        batch_size: int,
        dtype: np.dtype,
    ) -> None:
        B, H, item = batch_size, hidden_size, dtype.itemsize
        room = padded(max(input_size, H), dtype)
        h_row = room + padded(H, dtype) + PAD
        scratch = BLOCK_ROWS * PANEL * target().lanes(dtype)
        self.x = _zeros(B * input_size, dtype).reshape(B, input_size)
        self.h = _zeros(len(packs) * B * H, dtype).reshape(len(packs), B, H)
        self.c = np.zeros_like(self.h)
        self._outputs = [np.zeros((B, H), dtype) for _ in packs]
        self.y = self._outputs[-1]
        self._space, self._meeting, self._packs = _zeros(3 * B * h_row + scratch, dtype), _Meeting(1, 1), packs
        base, frames = address(self._space), []
        for k, pack in enumerate(packs):
            x = self._outputs[k - 1] if k else self.x
            h, c = address(self.h[k]), address(self.c[k])
            frames.append(
                Forward(
                    1, B, x.shape[1], H, 1, 0, 0, 0,
                    address(x), x.size, x.shape[1], address(pack.weights), address(pack.bias), h, c,
                    address(self._outputs[k]), B * H, H, h, c, 0, 0,
                    base + room * item, base + 2 * B * h_row * item, h_row, base + 3 * B * h_row * item, scratch,
                    1, self._meeting.place, self._meeting.barriers[0],
                )
            )  # fmt: skip
        self._frames = _frame(*frames)
        self.address = address(self._frames)
