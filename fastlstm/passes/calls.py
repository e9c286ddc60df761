"""From arrays to a pass and back: frames, workspace and threads of one layer's forward and backward pass."""

from __future__ import annotations

import math
from struct import pack_into
from typing import NamedTuple

import numpy as np

from fastlstm.cell import CellSpec
from fastlstm.passes.frames import MOMENTS, PLACES, Backward, Forward
from fastlstm.passes.packing import Gradients, Transposed, Weights, zeros
from fastlstm.passes.templates import BACKWARD_ARRAYS, FORWARD_ARRAYS, Rows, Sizes, backward_template, forward_template
from fastlstm.plan import Plan, is_long
from fastlstm.runtime import reuse
from fastlstm.runtime.memory import LINE, MASK, address, addresses, places_of, pool
from fastlstm.runtime.threads import alone, fan_out, get_num_threads, patiently
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import worker

_NO_TAPE = [0] * 6
_ONE_STEP = Plan(1, False, 0, "one step", False, 0.0)


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
        self.long = is_long(flops)
        parties = directions * parts
        if parties > 1 or self.long:
            self._words = np.zeros((PLACES + LINE + (8 + MASK) * parties) // 8, np.int64)
            self.place = address(self._words) + -address(self._words) % LINE
            self.barriers = [self.place + (2 + d) * LINE for d in range(directions)]

    def words(self, d: int) -> dict[str, int]:
        """The words of a direction's frame that tell of it."""
        return {"meeting": self.place, "sync": self.barriers[d]} if self.place else {}

    def given_up(self) -> bool:
        """Whether the threads waited for each other in vain."""
        return self._word(self.place + LINE) == 2

    def asleep(self) -> float | None:
        """For how many seconds threads slept at barriers, all together; None if nobody came to one."""
        if self.given_up():
            return math.inf
        if not any(self._word(barrier) for barrier in self.barriers):
            return None
        return sum(self._word(barrier + 16) for barrier in self.barriers) / 1e9

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
    if allowed and fan_out(task, parts, address(frames), meeting.asleep) and not meeting.given_up():
        return
    for field, value in (("parts", 1), ("parties", 1), ("by_units", 0)):
        frames[:, cls._fields.index(field)] = value
    alone(task, len(frames), address(frames))


def row_stride(x: np.ndarray) -> int | None:
    """Elements between consecutive rows of x (T, B, n), taken as (T * B, n), or (N, n); None where that is no single
    number.
    """
    step, row, packed = Rows.of(x)
    if packed:
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
    """The words of a frame that tell of masks."""
    words: dict[str, int] = {}
    for name, mask in zip(("mask", "zone_c", "zone_h"), masks, strict=True):
        if mask is not None:
            words |= {name: address(mask), f"{name}_step": mask.strides[0] // item}
            words |= {f"{name}_row": mask.strides[1] // item}
    return words


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
        h, c = places_of((ragged.h_reset, ragged.c_reset))
        fields |= {"h_reset": h + d * state_h, "c_reset": c + d * state_c}
    return fields


def _fill(frames: np.ndarray, d: int, first: int, places: list[int], cls, words: dict[str, int]) -> None:
    """Write addresses into the frame of a direction, from a word on, and other words by their names."""
    pack_into(f"{len(places)}q", frames.data, 8 * (d * frames.shape[1] + first), *places)
    for name, word in words.items():
        frames[d, cls._fields.index(name)] = word


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
    rows = Rows.of(x)
    if plan.chunk:
        rows = rows._replace(row=_uniform(x))
    template = forward_template(variant, plan, Sizes(T, B, I, H, P), dtype, rows, Rows.of(y), tuple(reverse))
    space = pool.take(template.elements, dtype)
    frames = template.at(address(space))
    meeting = _Meeting(D, plan.parts, 8.0 * D * H * (I + H) * T * B)
    item = dtype.itemsize
    state_h, state_c = B * P * item, B * H * item
    x_at, h, c, y_at, h_end, c_end = addresses((x, h_0, c_0, y, h_n, c_n))
    for d in range(D):
        places = [x_at, h + d * state_h, c + d * state_c, y_at + d * P * item, h_end + d * state_h, c_end + d * state_c]
        places += places_of(tape[d]) if tape else _NO_TAPE
        places += places_of(packs[d])
        words = meeting.words(d) | _ragged(ragged, d, state_h, state_c) | (_masks(masks[d], item) if masks else {})
        _fill(frames, d, FORWARD_ARRAYS, places, Forward, words)
    _run("forward", variant, plan, frames, Forward, meeting)
    pool.give(space)


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
    traced: bool = False,
) -> list[dict[str, np.ndarray]]:
    """Run one layer backward; shapes as in `forward`, but that x of a ragged call is packed; dxs: arrays alike
    (T, B, I) or (N, I), one for each direction; `traced`: dG takes the place of the gates on the tape. Returns the
    gradients of each direction by name.
    """
    (T, B), I, (D, _, P), H, dtype = _shape(x, ragged), x.shape[-1], h_0.shape, c_0.shape[2], x.dtype
    N = T * B if ragged is None else ragged.size
    assert not plan.in_unit or all(pack.digits_hh is not None for pack in packs), "a plan without its digits"
    template = backward_template(
        variant, plan, Sizes(T, B, I, H, P), N, dtype, _uniform(x), Rows.of(dy), Rows.of(dxs[0]), tuple(reverse)
    )
    space = pool.take(template.elements, dtype)
    frames = template.at(address(space))
    meeting = _Meeting(D, plan.parts, 16.0 * D * H * (I + H) * T * B)
    item = dtype.itemsize
    state_h, state_c = B * P * item, B * H * item
    x_at, h, c, dy_at, dh, dc, dh_to, dc_to = addresses((x, h_0, c_0, dy, dh_n, dc_n, dh_0, dc_0))
    grads = []
    for d in range(D):
        grad = Gradients(spec, I, H, dtype)
        grads.append(grad)
        at_h, at_c = d * state_h, d * state_c
        places = [x_at, h + at_h, c + at_c, dy_at + d * P * item, dh + at_h, dc + at_c]
        places += [address(dxs[d]), dh_to + at_h, dc_to + at_c]
        places += places_of(tape[d]) + places_of(packs[d]) + places_of(grad.arrays())
        words = meeting.words(d) | _ragged(ragged, d, state_h, state_c) | (_masks(masks[d], item) if masks else {})
        words.pop("h_reset", None)
        if traced:
            words["kept"] = address(tape[d].gates)
        _fill(frames, d, BACKWARD_ARRAYS, places, Backward, words)
    _run("backward", variant, plan, frames, Backward, meeting)
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
        (I, H, P, B), L = sizes, len(packs)
        self.x = zeros(B * I, dtype).reshape(B, I)
        self.h = zeros(L * B * P, dtype).reshape(L, B, P)
        self.c = zeros(L * B * H, dtype).reshape(L, B, H)
        self._outputs = [np.zeros((B, P), dtype) for _ in packs]
        self.y = self._outputs[-1]
        inputs = [self.x, *self._outputs[:-1]]
        templates = [
            forward_template(
                variant, _ONE_STEP, Sizes(1, B, x.shape[1], H, P), dtype, Rows(0, x.shape[1], False),
                Rows(0, P, False), (False,),
            )
            for x in inputs
        ]  # fmt: skip
        self._space = zeros(max(template.elements for template in templates), dtype)
        self._kept = packs, masks
        self._frames = np.concatenate([template.at(address(self._space)) for template in templates])
        for k, (x, y, pack) in enumerate(zip(inputs, self._outputs, packs, strict=True)):
            places = addresses((x, self.h[k], self.c[k], y, self.h[k], self.c[k])) + _NO_TAPE + places_of(pack)
            words = _masks(masks[k], dtype.itemsize) if masks else {}
            _fill(self._frames, k, FORWARD_ARRAYS, places, Forward, words)
        self.address = address(self._frames)
