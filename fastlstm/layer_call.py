"""One call of a layer, through all its layers and directions, and back: what `LSTM` promises, made of passes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm import checks, directions
from fastlstm.parameterised import Parameterised
from fastlstm.passes import calls, packing
from fastlstm.passes.calls import Masks, Ragged, Taped
from fastlstm.passes.seats import Recorded
from fastlstm.passes.short_backward import LayersBackward
from fastlstm.passes.short_step import ShortBackward
from fastlstm.plan import plan_backward, plan_forward
from fastlstm.runtime import reuse
from fastlstm.runtime.threads import get_num_threads
from fastlstm.runtime.variant import Variant
from fastlstm.sequences import Layout, PackedSequence, from_lengths, from_packed, packed_data, ragged_of, reset_flags

State = tuple[np.ndarray, np.ndarray]


class Tape:
    """What `LSTM.forward` keeps for one `LSTM.backward`: opaque, and spent by it."""

    __slots__ = (
        "batch_sizes", "cells", "drawn", "dys", "factors", "inputs", "layer", "layout", "masks", "outputs", "ragged",
        "recorded", "recurrent", "short", "spent", "states", "traced", "unbatched", "variant",
    )  # fmt: skip

    def __init__(self, layer: Parameterised, traced: bool = False) -> None:
        self.layer = layer  # whose it is
        self.recurrent: np.ndarray | None = None  # factors of h (1, B, P) on its way into the gates, of the caller
        self.traced = traced  # for `trace`: nothing is dropped, all outputs are kept and, by backward, their gradients
        self.inputs: list[np.ndarray] = []  # of each layer, (T, B, I) or (N, I)
        self.cells: list[Sequence[Any]] = []  # fields of `Taped` of each layer and direction
        self.states: list[State] = []  # of each layer, h_0 (D, B, P) and c_0 (D, B, H)
        self.outputs: list[np.ndarray | None] = []  # of each layer, both directions, where these are multiplied
        self.dys: dict[int, np.ndarray] = {}  # gradient of each layer's output, both directions, where it is traced
        self.factors: list[np.ndarray | None] = []  # of each layer's input, None where nothing was dropped
        self.masks: list[list[Masks] | None] = []  # of each layer and direction
        self.ragged: list[Ragged | None] = []  # of each layer
        self.drawn: dict[str, np.ndarray] = {}  # all that was drawn, by the names of `fastlstm.reference`
        self.layout = Layout(0, 0)
        self.variant = Variant()
        self.batch_sizes: np.ndarray | None = None  # of a packed x
        self.recorded: Recorded | None = None  # by a prepared call: what `unfold` tells of it
        self.short: ShortBackward | LayersBackward | None = None  # a way back that was prepared
        self.unbatched = False
        self.spent = False

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        """What a copy takes: nothing that was prepared."""
        return None, {name: getattr(self, name) for name in self.__slots__} | {"short": None}

    @property
    def drops(self) -> bool:
        """Whether h is multiplied by something on its way into the gates."""
        return self.recurrent is not None or self.layer.spec.recurrent_dropout > 0

    def unfold(self) -> None:
        """Put what a prepared call has recorded where the long way back looks for it."""
        if self.recorded is None or self.inputs:
            return
        x, between, tape, (h_0, c_0) = self.recorded
        layer, D, L = self.layer, self.layer.directions, 1 + len(between)
        rows = [slice(k * D, (k + 1) * D) for k in range(L)]
        self.inputs, self.cells, self.states = [x, *between], [tape[r] for r in rows], [(h_0[r], c_0[r]) for r in rows]
        self.outputs, self.factors, self.masks, self.ragged = [None] * L, [None] * L, [None] * L, [None] * L
        self.layout, self.variant = Layout(*x.shape[:2]), layer._variant


def _readable(array: np.ndarray) -> np.ndarray:
    """An array, or its copy where a pass could not read it: last axis contiguous, every element aligned."""
    return array if array.strides[-1] == array.itemsize and array.flags.aligned else array.copy()


class Sizes:
    """The sizes of one call, and the shapes of its arrays as the caller has them."""

    def __init__(self, layer: Parameterised, layout: Layout, unbatched: bool) -> None:
        self.layout, self.unbatched, self.batch_first = layout, unbatched, layer.batch_first
        self.D, self.L, self.H, self.P = layer.directions, layer.num_layers, layer.hidden_size, layer.output_size
        self.raw = self.D == 1 or layer.merge == "concat"  # whether the output is what the passes write
        self.out = directions.size(layer.merge, self.D, self.P)

    def given(self, n: int) -> tuple[int, ...]:
        """The shape of an array of n features in the caller's layout."""
        T, B = self.layout.T, self.layout.B
        if self.layout.packed:
            return (self.layout.size, n)
        return (T, n) if self.unbatched else (B, T, n) if self.batch_first else (T, B, n)

    def time_first(self, array: np.ndarray) -> np.ndarray:
        """The view (T, B, n), or (N, n), of an array in the caller's layout."""
        if self.layout.packed:
            return array
        if self.unbatched:
            return array[:, None]
        return array.transpose(1, 0, 2) if self.batch_first else array

    def between(self, n: int) -> tuple[int, ...]:
        """The shape of an array between layers: nothing is padded there."""
        return (self.layout.T, self.layout.B, n) if self.layout.offsets is None else (self.layout.size, n)

    def make(self, n: int, dtype: np.dtype) -> np.ndarray:
        """An array in the caller's layout whose padding is 0, and the rest not yet written."""
        padded = self.layout.offsets is not None and not self.layout.packed
        return (reuse.zeros if padded else reuse.empty)(self.given(n), dtype)

    def pack(self, array: np.ndarray) -> np.ndarray:
        """Without padding."""
        return array if self.layout.offsets is None or array.ndim == 2 else array[self.layout.places()]

    def squeeze(self, state: State) -> State:
        return (state[0][:, 0], state[1][:, 0]) if self.unbatched else state


def _given_x(layer: Parameterised, x: Any, lengths: Any) -> tuple[np.ndarray, Sizes]:
    """x as (T, B, I) or (N, I), checked, and the sizes of the call."""
    if isinstance(x, PackedSequence):
        if lengths is not None:
            raise ValueError("lengths must be None where x is packed: its batch_sizes tell them")
        data, unbatched = packed_data(x, layer.dtype), False
        sizes = Sizes(layer, from_packed(x), False)
        shape: tuple[int, ...] = data.shape
    else:
        data = checks.array("x", x, layer.dtype)
        layout, shape = "(B, T, I)" if layer.batch_first else "(T, B, I)", data.shape
        if data.ndim not in (2, 3):
            raise ValueError(f"x must have the shape {layout} or, for a single sequence, (T, I), but has {shape}")
    if shape[-1] != layer.input_size:
        raise ValueError(
            f"x must have {layer.input_size} features (input_size) on its last axis, but its shape is {shape}"
        )
    if not isinstance(x, PackedSequence):
        unbatched = data.ndim == 2
        T, B = (shape[0], 1) if unbatched else (shape[1], shape[0]) if layer.batch_first else (shape[0], shape[1])
        if T == 0:
            raise ValueError(f"x must have at least one step, but its shape is {shape}")
        ends = None if lengths is None else from_lengths(np.atleast_1d(lengths) if unbatched else lengths, T, B)
        dense = ends is None or ends.size == T * B
        sizes = Sizes(layer, Layout(T, B) if dense or ends is None else ends, unbatched)
        data = sizes.time_first(data)
    return _readable(data), sizes


def given_state(layer: Parameterised, name: str, state: Any, sizes: Sizes) -> State:
    """h (D*L, B, P) and c (D*L, B, H) of a state, or zeros."""
    runs, B = sizes.D * sizes.L, sizes.layout.B
    if state is None:
        return np.zeros((runs, B, sizes.P), layer.dtype), np.zeros((runs, B, sizes.H), layer.dtype)
    found = []
    for part, value, n in zip("hc", checks.pair(name, state), (sizes.P, sizes.H), strict=True):
        letter = "P" if n == sizes.P != sizes.H else "H"
        shape: tuple[int, ...] = (runs, n) if sizes.unbatched else (runs, B, n)
        meaning = f"(D*L, {letter})" if sizes.unbatched else f"(D*L, B, {letter})"
        array = checks.shaped(f"{part} of {name}", value, layer.dtype, shape, meaning)
        found.append(array.reshape(runs, B, n))
    return found[0], found[1]


def _given_reset(layer: Parameterised, reset: Any, sizes: Sizes) -> tuple[Ragged | None, State | None]:
    """Which rows take which steps, and the state to which resets go; None where that is nothing particular."""
    flags, values = None, None
    if reset is not None:
        given, state = reset if isinstance(reset, tuple) else (reset, None)
        meaning = "(N,)" if sizes.layout.packed else "(T,)" if sizes.unbatched else "(T, B)"
        meaning = "(B, T)" if meaning == "(T, B)" and sizes.batch_first else meaning
        flags = reset_flags(given, sizes.given(1)[:-1], meaning)
        if sizes.layout.packed:
            spread = np.zeros((sizes.layout.T, sizes.layout.B), bool)
            spread[sizes.layout.places()] = flags
            flags = spread
        else:
            flags = sizes.time_first(flags[..., None])[..., 0]
        values = given_state(layer, "state of reset", state, sizes)
    reverse = [False, True] if sizes.D == 2 else [layer.reverse]
    return ragged_of(sizes.layout, reverse, flags), values


def _keep(random: np.random.Generator, shape: tuple[int, ...], rate: float, dtype: np.dtype) -> np.ndarray:
    """Factors of dropout: 0 with probability `rate`, else such that the expectation is 1."""
    return (random.random(shape, dtype) >= dtype.type(rate)) / dtype.type(max(1 - rate, 1e-30))


def _masks(layer: Parameterised, k: int, sizes: Sizes, tape: Tape | None) -> list[Masks] | None:
    """What multiplies the states of one layer: drawn in training, else its expectation."""
    spec, (T, B), dtype, random = layer.spec, sizes.layout[:2], layer.dtype, layer._random
    dropped = tape is not None and tape.drops
    if not dropped and spec.zoneout == (0.0, 0.0):
        return None
    found = []
    for suffix in layer._suffixes[k]:
        masks = {}
        if tape is not None and tape.recurrent is not None:
            masks["recurrent"] = tape.recurrent
        elif dropped:
            steps = T if spec.recurrent_dropout_mode == "step" else 1
            masks["recurrent"] = _keep(random, (steps, B, sizes.P), spec.recurrent_dropout, dtype)
        for name, rate, n in zip(("zoneout_c", "zoneout_h"), spec.zoneout, (sizes.H, sizes.P), strict=True):
            if rate:
                drawn = None if tape is None else (random.random((T, B, n), dtype) < rate).astype(dtype)
                masks[name] = np.full((1, 1, n), rate, dtype) if drawn is None else drawn
        if tape is not None:
            tape.drawn |= {name + suffix: mask for name, mask in masks.items()}
        found.append(Masks(**{name: np.broadcast_to(m, (T, B, m.shape[2])) for name, m in masks.items()}))
    return found


def forward(layer: Parameterised, x: Any, state: Any, lengths: Any, reset: Any, tape: Tape | None) -> tuple[Any, State]:
    """`LSTM.__call__` and, with a tape to be filled, `LSTM.forward`."""
    below, sizes = _given_x(layer, x, lengths)
    layout, D, H, P, dtype = sizes.layout, sizes.D, sizes.H, sizes.P, layer.dtype
    h_0, c_0 = given_state(layer, "state", state, sizes)
    ragged, values = _given_reset(layer, reset, sizes)
    h_n, c_n = (h_0.copy(), c_0.copy()) if ragged else (np.empty_like(h_0), np.empty_like(c_0))
    variant = layer._variant._replace(ragged=ragged is not None)
    drawing = None if tape is None or tape.traced else tape
    if tape is not None:
        tape.unbatched, tape.layout = sizes.unbatched, layout
        tape.batch_sizes = np.asarray(x.batch_sizes) if layout.packed else None
        if drawing is not None and drawing.drops:
            variant = variant._replace(special=True, masked=True)
        tape.variant = variant
        below = sizes.pack(below)
        if not calls.row_stride(below):  # none, or 0: rows that are all one
            below = np.ascontiguousarray(below)
    whole, reverse = variant.whole, [False, True] if D == 2 else [layer.reverse]
    out: Any = None
    for k in range(sizes.L):
        last, rows = k == sizes.L - 1, slice(k * D, (k + 1) * D)
        rate = layer.dropout if k else layer.input_dropout
        factor = None
        if drawing is not None and rate:
            factor = _keep(layer._random, below.shape, rate, dtype)
            below = below * factor
            drawing.drawn[f"input_l{k}"] = factor
        if last and sizes.raw:
            out = sizes.make(D * P, dtype)
            y = sizes.time_first(out)
        else:
            y = (reuse.empty if layout.offsets is None else reuse.zeros)(sizes.between(D * P), dtype)
        here = None
        if ragged is not None:
            here = ragged if values is None else ragged._replace(h_reset=values[0][rows], c_reset=values[1][rows])
        masks = _masks(layer, k, sizes, drawing)
        cells = []
        if tape is not None:
            cells = [calls.make_tape(variant, layout.size, H, P, dtype) for _ in range(D)]
        if layout.size:
            packs = [layer._pack("forward", suffix) for suffix in layer._suffixes[k]]
            uniform = layout.offsets is not None or calls.row_stride(below) is not None
            plan = plan_forward(
                layout.steps, layout.B, below.shape[-1], H, D, dtype, get_num_threads(),
                uniform and not variant.normed, whole, packing.in_digits(variant, below.shape[-1], P)[1],
            )  # fmt: skip
            if plan.chunk:
                below = sizes.pack(below)
            calls.forward(
                variant, plan, below, packs, h_0[rows], c_0[rows], y,
                h_n[rows], c_n[rows], cells, reverse, here, masks,
            )  # fmt: skip
        if tape is not None:
            tape.inputs.append(below)
            tape.cells.append(cells)
            tape.states.append((h_0[rows], c_0[rows]))
            tape.factors.append(factor)
            tape.masks.append(masks)
            tape.ragged.append(here)
            tape.outputs.append(y if layer.merge == "mul" or tape.traced else None)
        below = y
        if not sizes.raw:
            merged = directions.merge(layer.merge, y)
            if last:
                out = tuple(to_caller(sizes, a) for a in merged) if layer.merge == "none" else None
                out = to_caller(sizes, merged) if out is None else out
            else:
                below = merged
    if layout.packed:
        batch_sizes = x.batch_sizes
        out = (
            tuple(PackedSequence(a, batch_sizes) for a in out)
            if isinstance(out, tuple)
            else PackedSequence(out, batch_sizes)
        )
    return out, sizes.squeeze((h_n, c_n))


def to_caller(sizes: Sizes, array: np.ndarray) -> np.ndarray:
    """An array between layers, in the caller's layout."""
    made = sizes.make(array.shape[-1], array.dtype)
    view = sizes.time_first(made)
    if array.ndim == view.ndim:
        view[...] = array
    else:
        view[sizes.layout.places()] = array
    return made


def _given_dy(layer: Parameterised, dy: Any, sizes: Sizes) -> Any:
    """The gradient of y, checked: an array (T, B, n) or (N, n), or a pair of them."""
    shape = sizes.given(sizes.out)

    def one(name: str, value: Any) -> np.ndarray:
        value = value.data if sizes.layout.packed and isinstance(value, PackedSequence) else value
        array = checks.array(name, value, layer.dtype)
        if array.shape != shape:
            raise ValueError(f"{name} must have the shape of y, {shape}, but has {array.shape}")
        return _readable(sizes.time_first(array))

    if layer.merge != "none":
        return one("dy", dy)
    if not isinstance(dy, tuple | list) or len(dy) != 2:
        raise TypeError(f"dy must be a pair, as y is where merge is 'none', but was {type(dy).__name__}")
    return tuple(one("dy", value) for value in dy)


def backward(layer: Parameterised, tape: Tape, dy: Any, dstate: Any) -> tuple[Any, State, dict[str, np.ndarray]]:
    """`LSTM.backward`."""
    if not isinstance(tape, Tape):
        raise TypeError(f"tape must be what forward returned, but was {type(tape).__name__}")
    if tape.layer is not layer:
        raise ValueError(f"tape must be from forward of this layer, but is from another's, {tape.layer}")
    if tape.spent:
        raise ValueError("tape must be fresh from forward, but backward has spent it: what it kept is gone")
    tape.unfold()
    layout, dtype = tape.layout, layer.dtype
    sizes = Sizes(layer, layout, tape.unbatched)
    D, H = sizes.D, sizes.H
    d = _given_dy(layer, dy, sizes)
    dh_n, dc_n = given_state(layer, "dstate", dstate, sizes)
    tape.spent = True
    dh_0, dc_0 = dh_n.copy(), dc_n.copy()  # as rows without any step leave them
    dxs = [sizes.make(layer.input_size, dtype)]
    found = {name: np.zeros(0, dtype) for name in layer._parameters}
    if not layout.size:
        dxs[0].fill(0)
        found = {name: np.zeros_like(array) for name, array in layer._parameters.items()}
    whole, reverse = tape.variant.whole, [False, True] if D == 2 else [layer.reverse]
    for k in reversed(range(sizes.L if layout.size else 0)):
        x, rows = tape.inputs[k], slice(k * D, (k + 1) * D)
        if not sizes.raw:
            y = tape.outputs[k]
            if y is not None:  # without padding
                d = sizes.pack(d)
            d = directions.merge_bwd(layer.merge, d, np.zeros(0, dtype) if y is None else y)
        if tape.traced:
            tape.dys[k] = d
        if k:
            dxs = [reuse.empty(sizes.between(x.shape[-1]), dtype) for _ in range(D)]
        else:
            dxs = [sizes.make(x.shape[-1], dtype) for _ in range(D)]
        views = [a if k else sizes.time_first(a) for a in dxs]
        plan = plan_backward(layout.steps, layout.B, x.shape[-1], H, D, dtype, get_num_threads(), whole)
        packs = [layer._pack("digits" if plan.in_unit else "backward", suffix) for suffix in layer._suffixes[k]]
        grads = calls.backward(
            tape.variant, layer.spec, plan, x, packs, [Taped(*cell) for cell in tape.cells[k]], *tape.states[k],
            d, dh_n[rows], dc_n[rows], views, dh_0[rows], dc_0[rows], reverse, tape.ragged[k], tape.masks[k],
            tape.traced,
        )  # fmt: skip
        for suffix, named in zip(layer._suffixes[k], grads, strict=True):
            found |= {name + suffix: grad for name, grad in named.items()}
        if D == 2:
            np.add(dxs[0], dxs[1], out=dxs[0])
        factor = tape.factors[k]
        if factor is not None:
            if factor.shape == views[0].shape:
                np.multiply(views[0], factor, out=views[0])
            else:  # x was packed on the way
                views[0][layout.places()] *= factor
        d = views[0]
    if not tape.traced:
        tape.cells.clear()
        tape.recorded = None
    dx = dxs[0]
    if tape.batch_sizes is not None:
        return PackedSequence(dx, tape.batch_sizes), sizes.squeeze((dh_0, dc_0)), found
    return dx, sizes.squeeze((dh_0, dc_0)), found
