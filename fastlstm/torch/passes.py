"""One LSTM layer on PyTorch's tensors: how their memory reaches the passes, forward and backward.

They read and write the tensors' own memory. A call takes as many threads as both torch and this library allow;
neither's settings are changed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fastlstm.cell import CellSpec, parameter_shapes
from fastlstm.passes import calls, packing
from fastlstm.passes.frames import MOMENTS
from fastlstm.passes.short import Shape, ShortForward
from fastlstm.passes.short_step import ShortBackward, ShortStep
from fastlstm.plan import ROWS, plan_backward, plan_forward
from fastlstm.runtime import reuse
from fastlstm.runtime.threads import get_num_threads
from fastlstm.runtime.variant import Variant
from fastlstm.sequences import Layout, PackedSequence, from_lengths, from_packed, ragged_of

__all__ = ["Inputs", "backward", "forward", "gradients", "outputs"]


class Inputs(NamedTuple):
    """What the operator takes."""

    x: Tensor  # (T, B, I), or (B, T, I) if x_first, or, packed, (N, I)
    h_0: Tensor  # (D, B, P)
    c_0: Tensor  # (D, B, H)
    sizes: Tensor | None  # rows of each step of a packed batch, on the CPU
    lengths: Tensor | None  # (B,) integers, steps of each row
    reset: Tensor | None  # (T, B) bool, where a row begins anew
    recurrent: Tensor | None  # factors of h on its way into the gates, (D, T, B, P), where T and B may be 1
    zoneout_c: Tensor | None  # the share of the c before, (D, T, B, H), where all but H may be 1
    zoneout_h: Tensor | None  # and of h, (D, T, B, P)
    keep: bool  # whether the tape is kept for backward
    x_first: bool  # whether x has the batch first
    y_first: bool
    reverse: bool  # whether a single direction runs from the last step to the first
    cell: str  # options of `CellSpec` that are not its defaults, as JSON, but bias and proj_size; empty if none are
    bias: bool
    weights: tuple[Tensor, ...]  # of each direction those that `parameter_shapes` names, in its order

    @property
    def ends(self) -> bool:
        """Whether rows end, or begin anew."""
        return self.sizes is not None or self.lengths is not None or self.reset is not None

    @property
    def simple(self) -> bool:
        """Whether it is the plain cell in a dense batch that runs forward."""
        return not self.other and self.directions == [False] and not self.ends

    @property
    def other(self) -> bool:
        """Whether it is another cell than the plain one."""
        return bool(self.cell) or self.recurrent is not None or self.h_0.shape[2] != self.c_0.shape[2]

    @property
    def directions(self) -> list[bool]:
        """Of each direction whether it runs from the last step to the first."""
        return [self.reverse] if self.h_0.shape[0] == 1 else [False, True]

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The shape of y."""
        rows = self.x.shape[:-1] if self.x_first == self.y_first else self.x.shape[:-1][::-1]
        return (*rows, self.h_0.shape[0] * self.h_0.shape[2])


class Cell(NamedTuple):
    """What a cell's options come to."""

    spec: CellSpec
    variant: Variant  # of inference through a dense batch


@lru_cache(64)
def options_of(cell: str) -> dict[str, Any]:
    """The options that a text stands for."""
    return json.loads(cell) if cell else {}


@lru_cache(64)
def _cell(cell: str, bias: bool, projection: int, dtype: torch.dtype) -> Cell:
    spec = CellSpec(bias=bias, proj_size=projection, **options_of(cell))
    return Cell(spec, packing.variant_of(spec, np.dtype(_NAMES[dtype])))


def _cell_of(call: Inputs) -> Cell:
    """The cell, and what the passes are compiled for in this call."""
    P, H = call.h_0.shape[2], call.c_0.shape[2]
    spec, variant = _cell(call.cell, call.bias, 0 if P == H else P, call.x.dtype)
    if call.recurrent is not None:
        variant = variant._replace(special=True, masked=True)
    return Cell(spec, variant._replace(ragged=call.ends))


_shapes = lru_cache(256)(parameter_shapes)


def _check(call: Inputs) -> None:
    """Raise unless shapes and dtypes fit together: a pass goes by addresses alone."""
    I, (D, B, P), H, dtype = call.x.shape[-1], call.h_0.shape, call.c_0.shape[-1], call.x.dtype
    if D > 2 or (D == 2 and call.reverse):
        raise RuntimeError(f"h_0 must be of one direction, or of two that are not reverse, but is of {D}")
    if call.c_0.shape != (D, B, H) or {call.h_0.dtype, call.c_0.dtype} != {dtype}:
        found = " and ".join(f"{state.dtype} of {tuple(state.shape)}" for state in (call.h_0, call.c_0))
        raise RuntimeError(f"h_0 and c_0 must be {dtype} of the shapes (D, B, P) and (D, B, H), but are {found}")
    dims = 3 if call.sizes is None else 2
    if call.x.dim() != dims or (dims == 3 and call.x.shape[0 if call.x_first else 1] != B):
        rows = f" and the {B} rows of h_0" if dims == 3 else ""
        raise RuntimeError(f"x must have {dims} dimensions{rows}, but has the shape {tuple(call.x.shape)}")
    spec, variant = _cell(call.cell, call.bias, 0 if P == H else P, dtype)
    shapes = [*_shapes(spec, I, H).values()]
    if len(call.weights) != D * len(shapes):
        raise RuntimeError(
            f"there must be {len(shapes)} weights of each of {D} directions, but are {len(call.weights)}"
        )
    for weight, shape in zip(call.weights, shapes * D, strict=True):
        if weight.shape != shape or weight.dtype != dtype:
            found = f"{weight.dtype} of {tuple(weight.shape)}"
            raise RuntimeError(f"a weight must be {dtype} of the shape {shape}, but is {found}")
    if variant.zoned_c != (call.zoneout_c is not None) or variant.zoned_h != (call.zoneout_h is not None):
        raise RuntimeError("zoneout_c and zoneout_h must be given where the cell has zoneout, and nowhere else")


# --- from tensors to arrays -------------------------------------------------------------------------------------------


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, in C order."""
    return tensor.detach().contiguous().numpy()


def _view(tensor: Tensor, batch_first: bool, even: bool = False) -> np.ndarray:
    """The rows (T, B, n) or (N, n); copies where a pass cannot take the strides, or wants rows evenly apart: 0, as of
    an expanded tensor, would tell it that they were packed for it.
    """
    array = tensor.detach().numpy()
    array = array.transpose(1, 0, 2) if batch_first and array.ndim == 3 else array
    fits = array.strides[-1] == array.itemsize and (not even or bool(calls.row_stride(array)))
    return array if fits else np.ascontiguousarray(array)


def _layout(call: Inputs, x: np.ndarray) -> tuple[Layout, calls.Ragged | None]:
    """Which rows take which steps, of x (T, B, I) or packed."""
    (D, B, P), H, zeros = call.h_0.shape, call.c_0.shape[2], None
    if call.sizes is not None:
        layout = from_packed(PackedSequence(x, call.sizes.numpy()))
        if layout.B != B:
            raise ValueError(f"batch_sizes must begin with the {B} rows of h_0, but begin with {layout.B}")
    else:
        T = len(x)
        layout = Layout(T, B) if call.lengths is None else from_lengths(call.lengths.numpy(), T, B)
    flags = None
    if call.reset is not None:
        flags = np.ascontiguousarray(call.reset.numpy())
        if flags.dtype != np.bool_ or flags.shape != (layout.T, B):
            raise RuntimeError(f"reset must be bool of {(layout.T, B)}, but is {flags.dtype} of {flags.shape}")
        zeros = np.zeros((D, B, P), x.dtype), np.zeros((D, B, H), x.dtype)
    ragged = ragged_of(layout, call.directions, flags)
    if ragged is not None and zeros is not None:
        ragged = ragged._replace(h_reset=zeros[0], c_reset=zeros[1])
    return layout, ragged


def _masks(call: Inputs, layout: Layout) -> list[calls.Masks] | None:
    """The factors of each direction."""
    (D, B, P), H = call.h_0.shape, call.c_0.shape[2]
    given = {"recurrent": (call.recurrent, P), "zoneout_c": (call.zoneout_c, H), "zoneout_h": (call.zoneout_h, P)}
    masks = {}
    for name, (mask, n) in given.items():
        if mask is not None:
            if mask.dtype != call.x.dtype or mask.shape[-1] != n:
                found = f"{mask.dtype} of {tuple(mask.shape)}"
                raise RuntimeError(f"{name} must be {call.x.dtype} of {n} features, but is {found}")
            masks[name] = np.broadcast_to(_array(mask), (D, layout.T, B, n))
    return [calls.Masks(**{name: mask[d] for name, mask in masks.items()}) for d in range(D)] if masks else None


_NAMES = {torch.float32: "float32", torch.float64: "float64"}  # as numpy.dtype.name, which takes microseconds


class Packed(NamedTuple):
    """The packed weights of a direction, and what tells whether they are those of now."""

    mark: bytes
    weights: Any
    reader: packing.Reader
    storage: StorageWeakRef


_packed: dict[tuple, Packed] = {}


def _pack(way: str, call: Inputs, spec: CellSpec, variant: Variant, weights: tuple[Tensor, ...]) -> Any:
    """The packed weights of one direction: anew when a digest tells that they changed, dropped when they are gone."""
    w_ih, w_hh, *_ = weights
    # By where all of them lie: the reader reads there, whoever holds the memory now.
    lie, places = _lie(*weights), tuple([weight.data_ptr() for weight in weights])
    key = (way, lie, places, w_ih.shape, w_hh.shape, w_ih.dtype, call.bias, call.cell)
    known = _packed.get(key)
    if known is not None and lie and known.reader.digest() == known.mark:
        return known.weights
    names = _shapes(spec, w_ih.shape[1], call.c_0.shape[2])
    arrays = {name: _array(weight) for name, weight in zip(names, weights, strict=True)}
    used = [array for name, array in arrays.items() if way == "forward" or name not in ("bias_ih", "bias_hh")]
    reader = packing.Reader(variant, used)
    mark = reader.digest()  # before they are packed: who changes them meanwhile has them packed again
    if known is not None and not lie and mark == known.mark:
        return known.weights
    packed: Any = packing.WAYS[way](spec, variant, arrays)
    if known is None:
        for other, old in list(_packed.items()):
            if old.storage.expired():
                _packed.pop(other, None)
    _packed[key] = Packed(mark, packed, reader, StorageWeakRef(w_ih.untyped_storage()))
    return packed


def _packs(way: str, call: Inputs, spec: CellSpec, variant: Variant) -> list[Any]:
    """The packed weights of each direction."""
    D = call.h_0.shape[0]  # a tensor's `len` takes microseconds
    each = len(call.weights) // D
    return [_pack(way, call, spec, variant, call.weights[d * each :][:each]) for d in range(D)]


def _threads() -> int:
    """As many as both allow: torch's limit in workers of a DataLoader and under torchrun holds here too."""
    return min(get_num_threads(), torch.get_num_threads())


# --- short calls ------------------------------------------------------------------------------------------------------
# Of one step forward, and of few rows backward: they read the weights as they lie, which need not be packed, nor be
# known to be the same as before, but where packed ones are so much faster that a digest of them pays.


def _lie(*tensors: Tensor) -> bool:
    """Whether a pass can read tensors by their addresses."""
    return all(tensor.is_contiguous() for tensor in tensors)


@lru_cache(64)
def _short_step(B: int, I: int, H: int, dtype: torch.dtype) -> ShortStep:
    return ShortStep(B, I, H, packing.plain_variant(_NAMES[dtype]))


@lru_cache(64)
def _short_backward(T: int, B: int, I: int, H: int, dtype: torch.dtype) -> ShortBackward:
    shape, state = (T, B, I), (1, B, H)
    return ShortBackward(T, B, I, H, (B * H, H), shape, (T, B, H), state, packing.plain_variant(_NAMES[dtype]))


@lru_cache(16)
def _zeros(n: int, dtype: torch.dtype) -> Tensor:
    """What stands for a bias where there is none."""
    return torch.zeros(n, dtype=dtype)


@lru_cache(64)
def _packed_step(B: int, I: int, H: int, dtype: torch.dtype) -> ShortForward | None:
    """What runs a step of few rows from packed weights, where that is so much faster that it is worth a digest of them:
    where they are packed in digits.
    """
    variant = packing.plain_variant(_NAMES[dtype])
    shape = Shape(
        (1, B, I), (1, B, H), (1, B, H), 1, B, I, H, 1, 1, False, np.dtype(variant.dtype), variant, alone=True
    )  # fmt: skip
    if not packing.in_digits(variant, I, H)[1] or not ShortForward.fits(shape):
        return None
    return ShortForward(shape, _unbound, _unbound)


def _unbound() -> NoReturn:
    raise AssertionError("a step is given its weights")


def _step(call: Inputs, y: Tensor, h_n: Tensor, c_n: Tensor, tape: Tensor) -> bool:
    """Run a call of one step in one direction; False if the call is another."""
    x = call.x
    if not call.simple or x.shape[1 if call.x_first else 0] != 1:
        return False
    B, H = call.h_0.shape[1:]
    biases = call.weights[2:] if call.bias else (_zeros(4 * H, x.dtype),) * 2
    given = (*call.weights[:2], *biases, x, call.h_0, call.c_0)
    if not _lie(*given):
        return False
    _check(call)
    if not call.keep and (packed := _packed_step(B, x.shape[2], H, x.dtype)) is not None:
        packs = _packs("forward", call, *_cell_of(call))
        packed.run_at(packs, *(tensor.data_ptr() for tensor in (x, call.h_0, call.c_0, y, h_n, c_n)))
        return True
    gates = tape.data_ptr()
    places = [tensor.data_ptr() for tensor in (*given, y, h_n, c_n)]
    places += [gates, gates + B * 4 * H * x.element_size()] if call.keep else [0, 0]
    _short_step(B, x.shape[2], H, x.dtype).run_at(places)
    return True


def _few_rows_backward(call: Inputs, dy: Tensor, dh_n: Tensor, dc_n: Tensor, tape: Tensor) -> list[Tensor] | None:
    """The gradients of a call of few rows in one direction; None if the call is another."""
    x = call.x
    if not call.simple or x.shape[0] * x.shape[1] > ROWS:
        return None
    if (call.x_first or call.y_first) and 1 not in x.shape[:2]:
        return None
    w_ih, w_hh = call.weights[:2]
    dy, dh_n, dc_n = dy.contiguous(), dh_n.contiguous(), dc_n.contiguous()
    if not _lie(x, call.h_0, call.c_0, dy, dh_n, dc_n, w_ih, w_hh):
        return None
    _check(call)
    H = call.h_0.shape[2]
    T, B = x.shape[1::-1] if call.x_first else x.shape[:2]
    shapes = (x.shape, call.h_0.shape, call.h_0.shape, w_ih.shape, w_hh.shape, (4 * H,))
    found = [x.new_empty(tuple(shape)) for shape in shapes]  # of a torch.Size it takes half as long again
    gates = tape.data_ptr()
    places = [x.data_ptr(), gates, gates + T * B * 4 * H * x.element_size()]
    places += [tensor.data_ptr() for tensor in (call.h_0, call.c_0, dy, dh_n, dc_n, w_ih, w_hh, *found)]
    _short_backward(T, B, x.shape[2], H, x.dtype).run_at(places)
    return [*found, found[5].clone()] if call.bias else found[:5]


# --- forward and backward ---------------------------------------------------------------------------------------------


def _widths(call: Inputs) -> list[int]:
    """Elements that a row of the tape takes for each field of `Taped`; 0: it is not kept."""
    P, H = call.h_0.shape[2], call.c_0.shape[2]
    keeps = call.ends or call.other
    normed = options_of(call.cell).get("layer_norm")
    return [4 * H, H, P if keeps else 0, *([4 * H, 4 * H, MOMENTS] if normed else [0, 0, 0])]


_MAPPED = 1 << 25  # bytes from which on glibc has pages mapped, and cleared, anew for each tensor


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """An uninitialised tensor; if it is large, in memory that an earlier one has left: else a training step of 256 rows
    over a year of days took 1.3 times as long. Smaller ones gain nothing.
    """
    if math.prod(shape) * like.element_size() < _MAPPED:
        return like.new_empty(shape)
    return torch.from_numpy(reuse.empty(shape, np.dtype(_NAMES[like.dtype])))


def _outputs(call: Inputs, empty: Callable[[Tensor, tuple[int, ...]], Tensor]) -> tuple[Tensor, ...]:
    """Uninitialised outputs of `forward`, with a tape that `empty` makes."""
    new, D = call.x.new_empty, call.h_0.shape[0]
    y, h_n, c_n = new(call.y_shape), new(tuple(call.h_0.shape)), new(tuple(call.c_0.shape))
    if not call.keep:
        return y, h_n, c_n, new((D, 0)), new((1,), dtype=torch.int64)
    N = call.x.shape[0] * (call.x.shape[1] if call.sizes is None else 1)
    return y, h_n, c_n, empty(call.x, (D, N * sum(_widths(call)))), new((1,), dtype=torch.int64)


def outputs(*inputs: Any) -> tuple[Tensor, ...]:
    """Uninitialised outputs of `forward`."""
    return _outputs(Inputs(*inputs), Tensor.new_empty)


def _taped(call: Inputs, tape: Tensor, rows: int, variant: Variant) -> list[calls.Taped]:
    """The tape of each direction, of so many rows."""
    widths, found, H = _widths(call), [], call.c_0.shape[2]
    ends = list(accumulate(widths, initial=0))
    for flat in tape.numpy():
        gates, cells, before, units_ih, units_hh, moments = [
            flat[rows * a : rows * (a + n)].reshape(rows, n) if n else flat for a, n in zip(ends, widths, strict=False)
        ]
        taped = calls.Taped(gates.reshape(rows, 4, H), cells)
        taped = taped._replace(inputs=before) if variant.keeps else taped
        if variant.normed:
            units = (units_ih.reshape(rows, 4, H), units_hh.reshape(rows, 4, H))
            taped = taped._replace(units_ih=units[0], units_hh=units[1], moments=moments)
        found.append(taped)
    return found


def forward(*inputs: Any) -> tuple[Tensor, ...]:
    """y, h_n, c_n, the tape (D, n), and whether it is spent."""
    call = Inputs(*inputs)
    # Users may resize what they see, which memory of ours cannot: of the outputs the tape alone has it.
    y, h_n, c_n, tape, spent = made = _outputs(call, _empty)
    spent.numpy()[0] = 0
    if c_n.numel() == 0 or _step(call, y, h_n, c_n, tape):
        return made
    spec, variant = _cell_of(call)
    _check(call)
    packs, x = _packs("forward", call, spec, variant), _view(call.x, call.x_first)
    (layout, ragged), D, H = _layout(call, x), call.h_0.shape[0], call.c_0.shape[2]
    if ragged is not None:  # what takes no step keeps its state, and y is 0 there
        h_n.copy_(call.h_0.detach())
        c_n.copy_(call.c_0.detach())
        if call.lengths is not None:
            y.zero_()
    if layout.size == 0:
        return made
    even = layout.offsets is not None or calls.row_stride(x) is not None
    plan = plan_forward(
        layout.steps, layout.B, x.shape[-1], H, D, x.dtype, _threads(), even and not variant.normed, variant.whole,
        packing.in_digits(variant, x.shape[-1], call.h_0.shape[2])[1],
    )  # fmt: skip
    x = x[layout.places()] if plan.chunk and call.lengths is not None else x
    calls.forward(
        variant, plan, x, packs, _array(call.h_0), _array(call.c_0),
        _view(y, call.y_first), h_n.numpy(), c_n.numpy(),
        _taped(call, tape, layout.size, variant) if call.keep else [], call.directions, ragged, _masks(call, layout),
    )  # fmt: skip
    return made


def gradients(*inputs: Any) -> list[Tensor]:
    """Uninitialised outputs of `backward`."""
    call = Inputs(*inputs[5:])
    return [t.new_empty(t.shape) for t in (call.x, call.h_0, call.c_0, *call.weights)]


def backward(dy: Tensor, dh_n: Tensor, dc_n: Tensor, tape: Tensor, spent: Tensor, *inputs: Any) -> list[Tensor]:
    """dx, dh_0, dc_0, then the gradient of each of the weights."""
    call = Inputs(*inputs)
    if call.c_0.numel() == 0:
        return [out.zero_() for out in gradients(dy, dh_n, dc_n, tape, spent, *inputs)]
    if spent.numpy()[0] or tape.numel() == 0:
        # The pass overwrites the gates, so a second one over the same graph computes them again.
        *_, tape, spent = forward(*call._replace(keep=True))
    spent.numpy()[0] = 1  # not by torch, to which this were a change of what autograd has saved
    if (short := _few_rows_backward(call, dy, dh_n, dc_n, tape)) is not None:
        return short
    spec, variant = _cell_of(call)
    _check(call)
    x = _view(call.x, call.x_first, even=True)
    (layout, ragged), D, H = _layout(call, x), call.h_0.shape[0], call.c_0.shape[2]
    dh_0, dc_0 = (d.clone(memory_format=torch.contiguous_format) for d in (dh_n, dc_n))  # of rows without steps
    if layout.size == 0:
        return [torch.zeros_like(call.x), dh_0, dc_0, *map(torch.zeros_like, call.weights)]
    dxs = [_empty(call.x, tuple(call.x.shape)) for _ in range(D)]
    if call.lengths is not None:
        for dx in dxs:
            dx.zero_()
    x = x if call.lengths is None else x[layout.places()]
    plan = plan_backward(layout.steps, layout.B, x.shape[-1], H, D, x.dtype, _threads(), variant.whole)
    packs = _packs("digits" if plan.in_unit else "backward", call, spec, variant)
    grads = calls.backward(
        variant, spec, plan, x, packs, _taped(call, tape, layout.size, variant), _array(call.h_0), _array(call.c_0),
        _view(dy, call.y_first), _array(dh_n), _array(dc_n), [_view(dx, call.x_first) for dx in dxs],
        dh_0.numpy(), dc_0.numpy(), call.directions, ragged, _masks(call, layout),
    )  # fmt: skip
    for dx in dxs[1:]:
        dxs[0] += dx
    names = _shapes(spec, x.shape[-1], H)
    return [dxs[0], dh_0, dc_0, *(torch.from_numpy(named[name]) for named in grads for name in names)]
