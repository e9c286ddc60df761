"""One LSTM layer as a PyTorch operator, `fastlstm::lstm`, whose gradient is `fastlstm::lstm_backward`.

Both are registered with `torch.library`, so that `torch.compile`, `torch.export` and autograd see ordinary operators.
They read and write the tensors' own memory. A call takes as many threads as both torch and this library allow;
neither's settings are changed.
"""

from __future__ import annotations

import inspect
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fastlstm.cell import CellSpec
from fastlstm.passes import calls, packing
from fastlstm.passes.frames import ROWS
from fastlstm.passes.short_step import ShortBackward, ShortStep
from fastlstm.plan import plan_backward, plan_forward
from fastlstm.runtime.threads import get_num_threads
from fastlstm.runtime.variant import Variant

__all__ = ["layer"]

# --- from tensors to passes -------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """What the operator takes."""

    x: Tensor  # (T, B, I), or (B, T, I) if x_first, or, packed, (N, I)
    h_0: Tensor  # (D, B, P)
    c_0: Tensor  # (D, B, H)
    sizes: Tensor | None  # rows of each step of a packed batch, on the CPU
    keep: bool  # whether the tape is kept for backward
    x_first: bool  # whether x has the batch first
    y_first: bool
    w_ih: Tensor  # (4H, I)
    w_hh: Tensor  # (4H, P)
    b_ih: Tensor | None = None  # (4H,)
    b_hh: Tensor | None = None
    w_hr: Tensor | None = None  # (P, H); without it P is H
    w_ih_reverse: Tensor | None = None  # these five only if D is 2
    w_hh_reverse: Tensor | None = None
    b_ih_reverse: Tensor | None = None
    b_hh_reverse: Tensor | None = None
    w_hr_reverse: Tensor | None = None

    @property
    def weights(self) -> tuple[Tensor | None, ...]:
        """Five for each direction."""
        return self[7:]

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The shape of y."""
        rows = self.x.shape[:-1] if self.x_first == self.y_first else self.x.shape[:-1][::-1]
        return (*rows, self.h_0.shape[0] * self.h_0.shape[2])


@lru_cache(64)
def _cell(bias: bool, projection: int, dtype: torch.dtype) -> tuple[CellSpec, Variant]:
    """What the passes are compiled for, in inference through a dense batch."""
    spec = CellSpec(bias=bias, proj_size=projection)
    return spec, packing.variant_of(spec, np.dtype(_NAMES[dtype]))


def _cell_of(call: Inputs) -> tuple[CellSpec, Variant]:
    spec, variant = _cell(call.b_ih is not None, 0 if call.w_hr is None else len(call.w_hr), call.x.dtype)
    return spec, variant._replace(ragged=call.sizes is not None)


def _ragged(call: Inputs) -> calls.Ragged | None:
    """Which rows of a packed batch take which steps; None of a plain one."""
    (D, B, _), sizes = call.h_0.shape, call.sizes
    if sizes is None:
        return None
    if sizes.max() != B or sizes.sum() != len(call.x) or (sizes.diff() > 0).any() or sizes.min() < 1:
        given = sizes.tolist()
        raise RuntimeError(f"batch_sizes must fall from {B} and add up to {len(call.x)} rows, but were {given}")
    offsets = np.concatenate([[0], np.cumsum(sizes.numpy())]).astype(np.int64)
    return calls.Ragged(offsets, np.arange(B, dtype=np.int64), [None] * D, None, None)


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, in C order."""
    return tensor.detach().contiguous().numpy()


def _view(tensor: Tensor, batch_first: bool, even: bool = False) -> np.ndarray:
    """The rows (T, B, n) or (N, n); copies where a pass cannot take the strides, or wants rows evenly apart."""
    array = tensor.detach().numpy()
    array = array.transpose(1, 0, 2) if batch_first and array.ndim == 3 else array
    fits = array.strides[-1] == array.itemsize and not (even and calls.row_stride(array) is None)
    return array if fits else np.ascontiguousarray(array)


_NAMES = {torch.float32: "float32", torch.float64: "float64"}  # as numpy.dtype.name, which takes microseconds
_packed: dict[tuple, tuple[bytes, Any, StorageWeakRef]] = {}


def _pack(way: str, call: Inputs, weights: tuple[Tensor | None, ...]) -> Any:
    """The packed weights of one direction: anew when a digest tells that they changed, dropped when they are gone."""
    w_ih, w_hh, *_ = weights
    assert w_ih is not None and w_hh is not None
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    arrays = {name: _array(weight) for name, weight in zip(names, weights, strict=True) if weight is not None}
    spec, variant = _cell_of(call)
    used = [array for name, array in arrays.items() if way == "forward" or not name.startswith("bias")]
    mark = packing.digest(variant, used)
    key = (way, w_ih.data_ptr(), w_hh.data_ptr(), w_ih.shape, w_ih.dtype, spec.bias, spec.proj_size)
    known = _packed.get(key)
    if known is not None and known[0] == mark:
        return known[1]
    packed: Any = (packing.pack_forward if way == "forward" else packing.pack_backward)(spec, variant, arrays)
    if known is None:
        for other, (_, _, storage) in list(_packed.items()):
            if storage.expired():
                _packed.pop(other, None)
    _packed[key] = (mark, packed, StorageWeakRef(w_ih.untyped_storage()))
    return packed


def _check(call: Inputs) -> None:
    """Raise unless shapes and dtypes fit together: a pass goes by addresses alone."""
    I, (D, B, P), H, dtype = call.x.shape[-1], call.h_0.shape, call.c_0.shape[-1], call.x.dtype
    shapes = ((4 * H, I), (4 * H, P), (4 * H,), (4 * H,), (P, H))
    for weight, shape in zip(call.weights, shapes * 2, strict=True):
        if weight is not None and (weight.shape != shape or weight.dtype != dtype):
            found = f"{weight.dtype} of {tuple(weight.shape)}"
            raise RuntimeError(f"a weight must be {dtype} of the shape {shape}, but is {found}")
    for name, state, size in (("h_0", call.h_0, P), ("c_0", call.c_0, H if call.w_hr is not None else P)):
        if state.shape != (D, B, size) or state.dtype != dtype:
            found = f"{state.dtype} of {tuple(state.shape)}"
            raise RuntimeError(f"{name} must be {dtype} of the shape {(D, B, size)}, but is {found}")
    directions = 1 if call.w_ih_reverse is None else 2
    if directions != len(call.h_0):
        raise RuntimeError(f"h_0 must have {directions} directions, as the weights have, but has {len(call.h_0)}")


def _packs(way: str, call: Inputs) -> list[Any]:
    """The packed weights of each direction, once all is known to fit."""
    _check(call)
    return [_pack(way, call, weights) for weights in (call.weights[:5], call.weights[5:])[: len(call.h_0)]]


def _threads() -> int:
    """As many as both allow: torch's limit in workers of a DataLoader and under torchrun holds here too."""
    return min(get_num_threads(), torch.get_num_threads())


# --- short calls ------------------------------------------------------------------------------------------------------
# Of one step forward, and of few rows backward: they read the weights as they lie, which need not be packed, nor be
# known to be the same as before.


def _lie(*tensors: Tensor) -> bool:
    """Whether a pass can read tensors by their addresses."""
    return all(tensor.is_contiguous() for tensor in tensors)


@lru_cache(64)
def _short_step(B: int, I: int, H: int, dtype: torch.dtype, keep: bool) -> ShortStep:
    return ShortStep(B, I, H, Variant(_NAMES[dtype], keep))


@lru_cache(64)
def _short_backward(T: int, B: int, I: int, H: int, dtype: torch.dtype) -> ShortBackward:
    shape, state = (T, B, I), (1, B, H)
    return ShortBackward(T, B, I, H, (B * H, H), shape, (T, B, H), state, Variant(_NAMES[dtype]))


@lru_cache(16)
def _zeros(n: int, dtype: torch.dtype) -> Tensor:
    """What stands for a bias where there is none."""
    return torch.zeros(n, dtype=dtype)


def _step(call: Inputs, y: Tensor, h_n: Tensor, c_n: Tensor, gates: Tensor, cells: Tensor) -> bool:
    """Run a call of one step in one direction; False if the call is another."""
    x, weights = call.x, call.weights[:4]
    if call.sizes is not None or len(call.h_0) != 1 or x.shape[1 if call.x_first else 0] != 1 or call.w_hr is not None:
        return False
    B, H = call.h_0.shape[1:]
    biases = (_zeros(4 * H, x.dtype),) * 2 if weights[2] is None else weights[2:]
    given = (*weights[:2], *biases, x, call.h_0, call.c_0)
    if not _lie(*given):  # type: ignore[arg-type]
        return False
    _check(call)
    out = (y, h_n, c_n, gates, cells) if call.keep else (y, h_n, c_n)
    run = _short_step(B, x.shape[2], H, x.dtype, call.keep)
    run.run_at([tensor.data_ptr() for tensor in (*given, *out)])  # type: ignore[union-attr]
    return True


def _few_rows_backward(
    call: Inputs, dy: Tensor, dh_n: Tensor, dc_n: Tensor, gates: Tensor, cells: Tensor
) -> list[Tensor] | None:
    """The gradients of a call of few rows in one direction; None if the call is another."""
    x, w_ih, w_hh = call.x, call.w_ih, call.w_hh
    if call.sizes is not None or len(call.h_0) != 1 or x.shape[0] * x.shape[1] > ROWS or call.w_hr is not None:
        return None
    if (call.x_first or call.y_first) and 1 not in x.shape[:2]:
        return None
    dy, dh_n, dc_n = dy.contiguous(), dh_n.contiguous(), dc_n.contiguous()
    given = (x, gates, cells, call.h_0, call.c_0, dy, dh_n, dc_n, w_ih, w_hh)
    if not _lie(*given):
        return None
    _check(call)
    H = call.h_0.shape[2]
    T, B = x.shape[1::-1] if call.x_first else x.shape[:2]
    shapes = (x.shape, call.h_0.shape, call.h_0.shape, w_ih.shape, w_hh.shape, (4 * H,))
    found = [x.new_empty(shape) for shape in shapes]
    run = _short_backward(T, B, x.shape[2], H, x.dtype)
    run.run_at([tensor.data_ptr() for tensor in (*given, *found)])
    return found[:5] if call.b_ih is None else [*found, found[5].clone()]


# --- forward and backward ---------------------------------------------------------------------------------------------


def _outputs(*inputs: Any) -> tuple[Tensor, ...]:
    """Uninitialised outputs of `_forward`."""
    call = Inputs(*inputs)
    (D, _, P), H, new = call.h_0.shape, call.c_0.shape[2], call.x.new_empty
    N = call.x.shape[0] * (call.x.shape[1] if call.sizes is None else 1) if call.keep else 0
    y, h_n, c_n = new(call.y_shape), new(call.h_0.shape), new(call.c_0.shape)
    before = new((D, N if call.sizes is not None or call.w_hr is not None else 0, P))
    return y, h_n, c_n, new((D, N, 4, H)), new((D, N, H)), before, new((1,), dtype=torch.int64)


def _tape(gates: Tensor, cells: Tensor, before: Tensor) -> list[calls.Taped]:
    """The tape of each direction."""
    parts = gates.numpy(), cells.numpy(), before.numpy()
    return [calls.Taped(g, c, h if h.size else None) for g, c, h in zip(*parts, strict=True)]


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    """y, h_n, c_n and the tape: gates (D, N, 4, H), cells (D, N, H) and, of a packed batch and with a projection, the h
    before (D, N, P), for all N rows; and whether it is spent.
    """
    call = Inputs(*inputs)
    y, h_n, c_n, gates, cells, before, spent = outputs = _outputs(*inputs)
    spent.numpy()[0] = 0
    if c_n.numel() == 0 or _step(call, y, h_n, c_n, gates, cells):
        return outputs
    packs, ragged, (_, variant) = _packs("forward", call), _ragged(call), _cell_of(call)
    x, D, H = _view(call.x, call.x_first), len(call.h_0), call.c_0.shape[2]
    T, B = x.shape[:2] if ragged is None else (len(ragged.offsets) - 1, len(ragged.order))
    even = ragged is not None or calls.row_stride(x) is not None
    whole = variant.whole
    plan = plan_forward(T, B, x.shape[-1], H, D, x.dtype, _threads(), even, whole)
    calls.forward(
        variant._replace(training=call.keep), plan, x, packs, _array(call.h_0), _array(call.c_0),
        _view(y, call.y_first), h_n.numpy(), c_n.numpy(), _tape(gates, cells, before) if call.keep else [],
        [False, True][:D], ragged,
    )  # fmt: skip
    return outputs


def _gradients(*inputs: Any) -> list[Tensor]:
    """Uninitialised outputs of `_backward`."""
    call = Inputs(*inputs[7:])
    return [t.new_empty(t.shape) for t in (call.x, call.h_0, call.c_0, *call.weights) if t is not None]


def _backward(
    dy: Tensor, dh_n: Tensor, dc_n: Tensor,
    gates: Tensor, cells: Tensor, before: Tensor, spent: Tensor, *inputs: Any,
) -> list[Tensor]:  # fmt: skip
    """dx, dh_0, dc_0, then the gradient of each of the weights that there are."""
    call = Inputs(*inputs)
    if call.c_0.numel() == 0:
        return [out.zero_() for out in _gradients(dy, dh_n, dc_n, gates, cells, before, spent, *inputs)]
    if spent.numpy()[0] or gates.numel() == 0:
        # The pass overwrites the gates, so a second one over the same graph computes them again.
        *_, gates, cells, before, spent = _forward(*call._replace(keep=True))
    spent.numpy()[0] = 1  # not by torch, to which this were a change of what autograd has saved
    if (short := _few_rows_backward(call, dy, dh_n, dc_n, gates, cells)) is not None:
        return short
    packs, ragged, (spec, variant) = _packs("backward", call), _ragged(call), _cell_of(call)
    x, D, H = _view(call.x, call.x_first, even=True), len(call.h_0), call.c_0.shape[2]
    T, B = x.shape[:2] if ragged is None else (len(ragged.offsets) - 1, len(ragged.order))
    dh_0, dc_0 = call.h_0.new_empty(call.h_0.shape), call.c_0.new_empty(call.c_0.shape)
    dxs = [call.x.new_empty(call.x.shape) for _ in range(D)]
    plan = plan_backward(T, B, x.shape[-1], H, D, x.dtype, _threads(), variant.whole)
    grads = calls.backward(
        variant, spec, plan, x, packs, _tape(gates, cells, before), _array(call.h_0), _array(call.c_0),
        _view(dy, call.y_first), _array(dh_n), _array(dc_n), [_view(dx, call.x_first) for dx in dxs],
        dh_0.numpy(), dc_0.numpy(), [False, True][:D], ragged,
    )  # fmt: skip
    for dx in dxs[1:]:
        dxs[0] += dx
    return [dxs[0], dh_0, dc_0, *(torch.from_numpy(grad) for named in grads for grad in named.values())]


# --- the operators ----------------------------------------------------------------------------------------------------

_INPUTS = (
    "Tensor x, Tensor h_0, Tensor c_0, Tensor? sizes, bool keep, bool x_first, bool y_first, "
    "Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, Tensor? w_hr, "
    "Tensor? w_ih_reverse, Tensor? w_hh_reverse, Tensor? b_ih_reverse, Tensor? b_hh_reverse, Tensor? w_hr_reverse"
)
_TAPE = "Tensor gates, Tensor cells, Tensor before, Tensor spent"
_layer = torch.library.custom_op(
    "fastlstm::lstm",
    _forward,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
# Graphs that torch keeps on disk hold calls of both operators: a change of either's arguments must change its name.
# The second overwrites the tape, which nobody else sees: declared as a mutation, torch.compile would copy it first.
_layer_backward = torch.library.custom_op(
    "fastlstm::lstm_backward",
    _backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor dy, Tensor dh_n, Tensor dc_n, {_TAPE}, {_INPUTS}) -> Tensor[]",
)
_layer.register_fake(_outputs)
_layer_backward.register_fake(_gradients)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    _, _, _, *tape = output
    call = Inputs(*inputs)
    ctx.save_for_backward(*tape, *call[:4], *call.weights)
    ctx.options = call.keep, call.x_first, call.y_first
    ctx.mark_non_differentiable(*tape)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *douts: Tensor | None) -> tuple[Tensor | None, ...]:
    (dy, dh_n, dc_n), saved = douts[:3], ctx.saved_tensors
    call = Inputs(*saved[4:8], *ctx.options, *saved[8:])
    dy = call.x.new_zeros(call.y_shape) if dy is None else dy
    dh_n = torch.zeros_like(call.h_0) if dh_n is None else dh_n
    dc_n = torch.zeros_like(call.c_0) if dc_n is None else dc_n
    inputs = (dy, dh_n, dc_n, *saved[:4], *call)
    dx, dh_0, dc_0, *grads = _apply(torch.ops.fastlstm.lstm_backward, _LayerBackward, _backward, inputs)
    each = iter(grads)
    return dx, dh_0, dc_0, *[None] * 4, *(None if weight is None else next(each) for weight in call.weights)


def _refuse(ctx: Any, *_: Any) -> None:
    way_out = "use torch.nn.LSTM, which loads the same state_dict, where one is needed"
    raise NotImplementedError(f"fastlstm.torch has no second derivative: {way_out}")


_layer.register_autograd(_differentiate, setup_context=_save)
_layer_backward.register_autograd(_refuse)


_forward.__signature__ = inspect.signature(_forward)  # type: ignore[attr-defined]  # saves 25 us of every _Layer.apply


class _Layer(torch.autograd.Function):
    """The operator outside of torch.compile: it costs less per call, and torch.func differentiates it."""

    forward = staticmethod(_forward)
    setup_context = staticmethod(_save)
    backward = staticmethod(_differentiate)


class _LayerBackward(torch.autograd.Function):
    """The gradient outside of torch.compile."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return tuple(_backward(*inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Keep nothing: there is no second derivative."""

    backward = staticmethod(_refuse)


def _apply(operator: Any, function: type[torch.autograd.Function], body: Any, inputs: tuple) -> Any:
    """Run an operator by the shortest way on which all see it who must."""
    x = inputs[0]
    plain = not torch.compiler.is_compiling() and type(x) is Tensor and x.device.type == "cpu"
    if not plain or torch._C._len_torch_dispatch_stack():
        return operator(*inputs)  # somebody traces, or there are no values
    return function.apply(*inputs) if torch.is_grad_enabled() else body(*inputs)


def layer(
    x: Tensor, h_0: Tensor, c_0: Tensor, sizes: Tensor | None, x_first: bool, y_first: bool, *weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer: y, h_n and c_n, shaped as x with D*H features and as h_0; arguments as in `Inputs`.

    Raises
    ------
    RuntimeError
        Shapes or dtypes that do not fit together.
    """
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, h_0, c_0, *weights))
    inputs = (x, h_0, c_0, sizes, keep, x_first, y_first, *weights, *[None] * (10 - len(weights)))
    y, h_n, c_n, *_ = _apply(torch.ops.fastlstm.lstm, _Layer, _forward, inputs)
    return y, h_n, c_n
