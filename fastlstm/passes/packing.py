"""Parameters in the order in which the passes read them, and their gradients back in a layer's own.

All passes see four gates. Of a coupled cell, which has no parameters for f, that gate's are zeros here, and its
gradients are left out; likewise where only some gates have a peephole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fastlstm.cell import CellSpec
from fastlstm.passes.frames import (
    ZEROS,
    Digest,
    PackColumns,
    PackDigits,
    PackForward,
    digit_elements,
    digits_elements,
)
from fastlstm.plan import DIGIT_FEATURES, MOST_SUMMED, unit_pays
from fastlstm.rounding import Rounded
from fastlstm.runtime.memory import address, aligned
from fastlstm.runtime.variant import Function, Variant
from fastlstm.runtime.workers import worker
from fastlstm.simd.isa import multiplies_bytes, multiplies_tiles, target

Params = Mapping[str, np.ndarray]
PAD = 16  # elements between the rows of workspace, so that rows of 4 KiB do not fall on the same lines of L1
GATES = ("i", "f", "g", "o")


class Weights(NamedTuple):
    """One direction of one layer, packed for the forward pass; what the cell does not have is None."""

    weights: np.ndarray
    bias: np.ndarray
    digits_ih: np.ndarray | None = None
    digits_hh: np.ndarray | None = None
    peep: np.ndarray | None = None
    w_ch: np.ndarray | None = None
    w_ch_new: np.ndarray | None = None
    w_hr: np.ndarray | None = None
    gain_ih: np.ndarray | None = None
    gain_hh: np.ndarray | None = None
    gain_c: np.ndarray | None = None
    shift_c: np.ndarray | None = None


class Transposed(NamedTuple):
    """One direction of one layer, packed for the backward pass; what the cell does not have is None."""

    w_hh: np.ndarray
    w_ih: np.ndarray
    digits_hh: np.ndarray | None = None
    digits_ih: np.ndarray | None = None
    peep: np.ndarray | None = None
    w_ch: np.ndarray | None = None
    w_ch_new: np.ndarray | None = None
    w_hr: np.ndarray | None = None
    gain_ih: np.ndarray | None = None
    gain_hh: np.ndarray | None = None
    gain_c: np.ndarray | None = None
    shift_c: np.ndarray | None = None


def plain_variant(dtype: str) -> Variant:
    """What a call of the plain cell is compiled for."""
    return Variant(dtype, amx=dtype == "float32" and multiplies_tiles())


def in_digits(variant: Variant, I: int, P: int) -> tuple[bool, bool]:
    """Whether W x and R h of so many features and units are computed in whole numbers; sums must fit 32 bits."""
    of_h = variant.amx and unit_pays(I, P)
    return of_h and DIGIT_FEATURES <= I <= MOST_SUMMED, of_h


def variant_of(spec: CellSpec, dtype: np.dtype) -> Variant:
    """What inference through a dense batch is compiled for."""
    plain = plain_variant(dtype.name)
    kinds = [Function(kind.name, kind.alpha, kind.beta) for kind in spec.activations]
    standard = spec.clip is None and kinds == [plain.gates, plain.candidate, plain.output]
    diagonal, full = spec.peephole == "diagonal", spec.peephole == "full"
    zoned_c, zoned_h = (rate > 0 for rate in spec.zoneout)
    projected = spec.proj_size > 0
    special = not standard or spec.coupled or diagonal or full or spec.layer_norm or projected or zoned_c or zoned_h
    if not special:
        return plain
    return plain._replace(
        special=True, standard=standard, gates=kinds[0], candidate=kinds[1], output=kinds[2],
        clipped=spec.clip is not None, clip=spec.clip or 0.0, coupled=spec.coupled,
        diagonal=diagonal, output_new=spec.output_peephole == "new", full=full,
        normed=spec.layer_norm, projected=projected, zoned_c=zoned_c, zoned_h=zoned_h,
    )  # fmt: skip


def padded(n: int, dtype) -> int:
    """n, rounded up to whole vectors."""
    lanes = target().lanes(dtype)
    return -(-n // lanes) * lanes


def gradient_row(H: int, dtype) -> int:
    """Elements from row to row of the transpose of a matrix's gradient."""
    return padded(4 * H, dtype) + PAD


def zeros(count: int, dtype) -> np.ndarray:
    """An aligned array of zeros."""
    array = aligned(count, dtype)
    array.fill(0)
    return array


def frame_of(*frames) -> np.ndarray:
    """The words of some frames, one after another."""
    return np.array(frames, np.int64)


class Reader:
    """What reads the contents of contiguous arrays where they lie, as long as they lie there."""

    def __init__(self, variant: Variant, arrays: list[np.ndarray]) -> None:
        self._work = worker("digest", Variant(variant.dtype))
        self._flat = [word for a in arrays for word in (address(a), a.nbytes)]
        self._free: list[tuple[np.ndarray, np.ndarray, int]] = []  # what one thread at a time has: no lock to be forked

    def digest(self) -> bytes:
        """A digest of what they hold now."""
        try:
            out, frames, place = self._free.pop()
        except IndexError:
            out, frames, place = self._seat()
        out.fill(0)
        for k in range(len(frames)):
            self._work.run(0, place + k * frames.strides[0])
        found = out.tobytes()
        self._free.append((out, frames, place))
        return found

    def _seat(self) -> tuple[np.ndarray, np.ndarray, int]:
        out, each = np.empty(target().digest_words, np.uint32), len(Digest._fields) - 1
        groups = [self._flat[first : first + each] for first in range(0, len(self._flat), each)]
        frames = frame_of(*[Digest(address(out), *group, *[0] * (each - len(group))) for group in groups])
        return out, frames, address(frames)


def digest(variant: Variant, arrays: list[np.ndarray]) -> bytes:
    """A digest of the contents of contiguous arrays."""
    return Reader(variant, arrays).digest()


def _all_gates(array: np.ndarray, gates: tuple[str, ...]) -> np.ndarray:
    """(len(gates) * H, ...) with zeros for the gates that are not there: (4H, ...)."""
    if gates == GATES:
        return array
    H = len(array) // len(gates)
    whole = np.zeros((4, H, *array.shape[1:]), array.dtype)
    for k, gate in enumerate(gates):
        whole[GATES.index(gate)] = array[k * H : (k + 1) * H]
    return whole.reshape(4 * H, *array.shape[1:])


def _some_gates(array: np.ndarray, gates: tuple[str, ...]) -> np.ndarray:
    """Of (4H, ...) the gates that are there."""
    if gates == GATES:
        return array
    H = len(array) // 4
    return np.concatenate([array[GATES.index(gate) * H :][:H] for gate in gates])


def _gate_panels(array: np.ndarray) -> np.ndarray:
    """(4H,) or (4H, K) as [panel][gate][lane] or [panel][k][gate][lane]."""
    return _aligned(_by_gates(array, target().lanes(array.dtype)).transpose(1, 3, 0, 2))


def _aligned(array: np.ndarray) -> np.ndarray:
    """A flat copy that begins a cache line."""
    packed = aligned(array.size, array.dtype)
    packed[...] = array.ravel()
    return packed


def _by_gates(array: np.ndarray, lanes: int) -> np.ndarray:
    """(4H,) or (4H, K) as [gate][panel][lane][k], with zeros for units beyond the last."""
    H = len(array) // 4
    flat = array.reshape(4 * H, -1)
    whole = np.zeros((4, -(-H // lanes) * lanes, flat.shape[1]), array.dtype)
    whole[:, :H] = flat.reshape(4, H, -1)
    return whole.reshape(4, -1, lanes, flat.shape[1])


def _columns(variant: Variant, w: np.ndarray) -> np.ndarray:
    """A matrix (K, N), packed by columns."""
    w = np.ascontiguousarray(w)
    K, N = w.shape
    packed = aligned(K * padded(N, w.dtype), w.dtype)
    frame = frame_of(PackColumns(K, N, address(w), address(packed)))
    worker("pack_backward", Variant(variant.dtype)).run(0, address(frame))
    return packed


def _digits(packed: np.ndarray, depth: int) -> np.ndarray:
    """Packed columns of so many k in digits."""
    columns, dtype = packed.size // depth, packed.dtype
    digits = aligned(digits_elements(columns // target().lanes(dtype), depth), dtype)
    scratch = aligned(digit_elements(depth), dtype)
    frame = frame_of(PackDigits(depth, columns, *map(address, (packed, digits, scratch))))
    worker("pack_digits", Variant(dtype.name)).run(0, address(frame))
    return digits


def _peepholes(spec: CellSpec, p: Params) -> tuple[np.ndarray, np.ndarray]:
    """weight_ch as (4H, ...): of the gates that see the c before, and of an output gate that sees the new one."""
    whole = _all_gates(p["weight_ch"], spec.peephole_gates)
    new = np.zeros_like(whole)
    if spec.output_peephole == "new":
        H = len(whole) // 4
        whole = whole.copy()
        new[3 * H :], whole[3 * H :] = whole[3 * H :], 0
    return whole, new


def pack_forward(spec: CellSpec, variant: Variant, p: Params) -> Weights:
    """Pack the parameters of one direction of one layer, by their names without suffix."""
    dtype, gates = p["weight_ih"].dtype, spec.gates
    w_ih, w_hh = (_all_gates(p[name], gates) for name in ("weight_ih", "weight_hh"))
    (rows, I), P = w_ih.shape, w_hh.shape[1]
    H = rows // 4
    b_ih, b_hh = (_all_gates(p[name], gates) if spec.bias else np.zeros(rows, dtype) for name in ("bias_ih", "bias_hh"))
    units = padded(H, dtype)
    weights, bias = aligned(4 * units * (I + P), dtype), zeros(4 * units, dtype)
    of_x, of_h = (
        aligned(digits_elements(4 * units // target().lanes(dtype), n), dtype) if wanted else None
        for n, wanted in zip((I, P), in_digits(variant, I, P), strict=True)
    )
    scratch = None if of_h is None else aligned(digit_elements(max(I, P)), dtype)
    split = [0 if array is None else address(array) for array in (of_x, of_h, scratch)]
    frame = frame_of(PackForward(I, H, P, *map(address, (w_ih, w_hh, b_ih, b_hh, weights, bias)), *split))
    worker("pack_forward", Variant(variant.dtype, amx=variant.amx)).run(0, address(frame))
    packed = Weights(weights, bias, of_x, of_h)
    if spec.peephole == "diagonal":
        packed = packed._replace(peep=_gate_panels(_all_gates(p["weight_ch"], spec.peephole_gates)))
    if spec.peephole == "full":
        before, new = map(_gate_panels, _peepholes(spec, p))
        packed = packed._replace(w_ch=before, w_ch_new=new)
    if spec.proj_size:
        packed = packed._replace(w_hr=_columns(variant, p["weight_hr"].T))
    if spec.layer_norm:
        packed = packed._replace(
            gain_ih=_gate_panels(_all_gates(p["weight_ln_ih"], gates)),
            gain_hh=_gate_panels(_all_gates(p["weight_ln_hh"], gates)),
            gain_c=p["weight_ln_c"].copy(),
            shift_c=p["bias_ln_c"].copy() if spec.bias else np.zeros(H, dtype),
        )
    return packed


def rounded_variant(variant: Variant, weights: str, P: int) -> Variant:
    """What a plain variant becomes where matrices are rounded."""
    # Gates and activations of the plain cell keep h within 1, unless a caller's state is beyond; sums must fit 32 bits.
    exact = weights == "int8" and variant.standard and multiplies_bytes() and P <= 1 << 16
    return variant._replace(weights=weights, exact=exact, amx=False)


def pack_rounded(spec: CellSpec, variant: Variant, p: Params, w_ih: Rounded, w_hh: Rounded) -> Weights:
    """Pack the same with matrices that were rounded to fewer bits, of a cell whose units need nothing of each other."""
    dtype, gates = np.dtype(variant.dtype), spec.gates
    lanes = target().lanes(dtype)
    matrices = [_by_gates(_all_gates(w.codes, gates), lanes) for w in (w_ih, w_hh)]
    x, h = (codes.transpose(1, 3, 0, 2) for codes in matrices)
    if w_ih.scales is None:  # two vectors lie interleaved
        x, h = (panels.reshape(*panels.shape[:2], 2, 2, lanes).swapaxes(3, 4) for panels in (x, h))
    if variant.exact:  # four steps of k do
        h = np.pad(matrices[1], [(0, 0)] * 3 + [(0, -w_hh.codes.shape[1] % 4)])
        h = h.reshape(*h.shape[:3], -1, 4).transpose(1, 3, 0, 2, 4)
    bias = p["bias_ih"] + p["bias_hh"] if spec.bias else np.zeros(len(w_hh.codes), dtype)
    rows = [_all_gates(bias, gates)]
    rows += [_all_gates(w.scales, gates) for w in (w_ih, w_hh) if w.scales is not None]
    if variant.exact:
        rows.append(_all_gates(-128 * w_hh.codes.sum(axis=1, dtype=np.int32), gates).view(dtype))
    head = [np.zeros(ZEROS * lanes, dtype)] if variant.scaled else []
    weights = np.concatenate([panels.reshape(len(panels), -1) for panels in (x, h)], axis=1)
    packed = Weights(_aligned(weights), _aligned(np.concatenate(head + [_gate_panels(row) for row in rows])))
    if spec.peephole == "diagonal":
        packed = packed._replace(peep=_gate_panels(_all_gates(p["weight_ch"], spec.peephole_gates)))
    return packed


def pack_backward(spec: CellSpec, variant: Variant, p: Params) -> Transposed:
    """Pack the same for the backward pass."""
    dtype, gates = p["weight_ih"].dtype, spec.gates
    w_ih, w_hh = (_all_gates(p[name], gates) for name in ("weight_ih", "weight_hh"))
    packed = Transposed(_columns(variant, w_hh), _columns(variant, w_ih))
    H = len(w_hh) // 4
    if spec.peephole == "diagonal":
        packed = packed._replace(peep=_gate_panels(_all_gates(p["weight_ch"], spec.peephole_gates)))
    if spec.peephole == "full":
        before, new = _peepholes(spec, p)
        packed = packed._replace(w_ch=_columns(variant, before), w_ch_new=_columns(variant, new[3 * H :]))
    if spec.proj_size:
        packed = packed._replace(w_hr=_columns(variant, p["weight_hr"]))
    if spec.layer_norm:
        packed = packed._replace(
            gain_ih=_all_gates(p["weight_ln_ih"], gates).copy(),
            gain_hh=_all_gates(p["weight_ln_hh"], gates).copy(),
            gain_c=p["weight_ln_c"].copy(),
            shift_c=p["bias_ln_c"].copy() if spec.bias else np.zeros(H, dtype),
        )
    return packed


def pack_digits(spec: CellSpec, variant: Variant, p: Params) -> Transposed:
    """As `pack_backward`, and both matrices in digits for the matrix unit."""
    packed = pack_backward(spec, variant, p)
    depth = packed.w_hh.size // padded(p["weight_hh"].shape[1], packed.w_hh.dtype)
    return packed._replace(digits_hh=_digits(packed.w_hh, depth), digits_ih=_digits(packed.w_ih, depth))


WAYS = {"forward": pack_forward, "backward": pack_backward, "digits": pack_digits}


class Gradients:
    """Where the backward pass writes the gradients of one direction of one layer."""

    def __init__(self, spec: CellSpec, I: int, H: int, dtype: np.dtype) -> None:
        P, row = spec.proj_size or H, gradient_row(H, dtype)
        self.spec = spec
        self.w_ih, self.w_hh = np.empty((4 * H, I), dtype), np.empty((4 * H, P), dtype)
        self.b = np.empty(4 * H, dtype)
        self.w_ch = self.w_ch_new = self.w_hr = None
        if spec.peephole == "diagonal":
            self.w_ch = np.zeros(4 * H, dtype)
        if spec.peephole == "full":
            self.w_ch, self.w_ch_new = np.zeros((H, row), dtype), np.zeros((H, row), dtype)
        if spec.proj_size:
            self.w_hr = np.zeros((P, padded(H, dtype)), dtype)
        # Of a normalisation: gain_ih, gain_hh, gain_c, shift_c.
        self.normal = [np.zeros(n, dtype) for n in (4 * H, 4 * H, H, H)] if spec.layer_norm else None

    def arrays(self) -> list[np.ndarray | None]:
        """What the pass writes to, in the order of its frame."""
        normal = self.normal or (None, None, None, None)
        return [self.w_ih, self.w_hh, self.b, self.w_ch, self.w_ch_new, self.w_hr, *normal]

    def named(self) -> dict[str, np.ndarray]:
        """The gradients by the parameters' names without suffix, in their shapes."""
        spec, gates = self.spec, self.spec.gates
        H = len(self.b) // 4
        found = {"weight_ih": _some_gates(self.w_ih, gates), "weight_hh": _some_gates(self.w_hh, gates)}
        if spec.bias:
            found["bias_ih"] = _some_gates(self.b, gates)
            found["bias_hh"] = found["bias_ih"].copy()
        if self.w_hr is not None:
            found["weight_hr"] = np.ascontiguousarray(self.w_hr[:, :H])
        if self.w_ch is not None:
            seen = self.w_ch
            if spec.peephole == "full":
                seen = np.ascontiguousarray(self.w_ch[:, : 4 * H].T)
                if spec.output_peephole == "new" and self.w_ch_new is not None:
                    seen[3 * H :] = self.w_ch_new[:, 3 * H : 4 * H].T
            found["weight_ch"] = _some_gates(seen, spec.peephole_gates)
        if self.normal is not None:
            gain_ih, gain_hh, gain_c, shift_c = self.normal
            found["weight_ln_ih"], found["weight_ln_hh"] = _some_gates(gain_ih, gates), _some_gates(gain_hh, gates)
            found["weight_ln_c"] = gain_c
            if spec.bias:
                found["bias_ln_c"] = shift_c
        return found
