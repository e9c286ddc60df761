"""One LSTM layer as a PyTorch operator, `fastlstm::layer`, whose gradient is `fastlstm::layer_backward`.

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
from fastlstm.passes.short_step import ShortBackward, ShortStep
from fastlstm.passes.step import ROWS
from fastlstm.plan import plan_backward, plan_forward
from fastlstm.runtime.threads import get_num_threads
from fastlstm.runtime.variant import Variant

__all__ = ["layer"]

# --- from tensors to passes -------------------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """What the operator takes."""

    x: Tensor  # (T, B, I), or (B, T, I) if x_first, or, packed, (N, I)
    h_0: Tensor  # (D, B, H)
    c_0: Tensor
    sizes: Tensor | None  # rows of each step of a packed batch, on the CPU
    keep: bool  # whether the tape is kept for backward
    x_first: bool  # whether x has the batch first
    y_first: bool
    w_ih: Tensor  # (4H, I)
    w_hh: Tensor  # (4H, H)
    b_ih: Tensor | None = None  # (4H,)
    b_hh: Tensor | None = None
    w_ih_reverse: Tensor | None = None  # these four only if D is 2
    w_hh_reverse: Tensor | None = None
    b_ih_reverse: Tensor | None = None
    b_hh_reverse: Tensor | None = None

    @property
    def weights(self) -> tuple[Tensor | None, ...]:
        """Four for each direction."""
        return self[7:]

    @property
    def y_shape(self) -> tuple[int, ...]:
        """The shape of y."""
        rows = self.x.shape[:-1] if self.x_first == self.y_first else self.x.shape[:-1][::-1]
        return (*rows, self.h_0.shape[0] * self.h_0.shape[2])


class _Run(NamedTuple):
    """Steps of B rows each that one call of a pass computes; of all rows of a packed batch those from `start` on."""

    directions: range
    start: int
    T: int
    B: int

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The view (T, B, ...) of this run's rows in an array of all rows (N, ...)."""
        return rows[self.start : self.start + self.T * self.B].reshape(self.T, self.B, *rows.shape[1:])

    @property
    def here(self) -> slice:
        """The directions as a slice of whatever there is one of for each."""
        return slice(self.directions.start, self.directions.stop)

    @property
    def reverse(self) -> list[bool]:
        """For each direction, whether it runs from the last step to the first."""
        return [d == 1 for d in self.directions]


def _runs(call: Inputs) -> list[_Run]:
    """The runs of a call, in forward order: one of a plain batch; of a packed one for each direction and length."""
    (D, B, _), sizes = call.h_0.shape, call.sizes
    if sizes is None:
        return [_Run(range(D), 0, call.x.shape[1 if call.x_first else 0], B)]
    if sizes.max() != B or sizes.sum() != len(call.x) or (sizes.diff() > 0).any():
        given = sizes.tolist()
        raise RuntimeError(f"batch_sizes must fall from {B} and add up to {len(call.x)} rows, but were {given}")
    ahead, start = [], 0
    for rows, steps in zip(*(found.tolist() for found in sizes.unique_consecutive(return_counts=True)), strict=True):
        ahead.append((start, steps, rows))
        start += steps * rows
    return [_Run(range(d, d + 1), *run) for d in range(D) for run in (ahead[::-1] if d else ahead)]


def _array(tensor: Tensor) -> np.ndarray:
    """The tensor's memory, in C order."""
    return tensor.detach().contiguous().numpy()


def _views(tensor: Tensor, runs: list[_Run], batch_first: bool, even: bool = False) -> list[np.ndarray]:
    """The rows (T, B, n) of each run; copies where a pass cannot take the strides, or wants rows evenly apart."""
    array = tensor.detach().numpy()
    if array.ndim == 2:
        array = np.ascontiguousarray(array)
        return [run.of(array) for run in runs]
    array = array.transpose(1, 0, 2) if batch_first else array
    fits = array.strides[2] == array.itemsize and not (even and calls.row_stride(array) is None)
    return [array if fits else np.ascontiguousarray(array)]


_NAMES = {torch.float32: "float32", torch.float64: "float64"}  # as numpy.dtype.name, which takes microseconds
_packed: dict[tuple, tuple[bytes, Any, StorageWeakRef]] = {}


def _pack(way: str, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None) -> Any:
    """The packed weights of one direction: anew when a digest tells that they changed, dropped when they are gone."""
    arrays = {"weight_ih": _array(w_ih), "weight_hh": _array(w_hh)}
    matrices = [*arrays.values()]
    if b_ih is not None and b_hh is not None:
        arrays |= {"bias_ih": _array(b_ih), "bias_hh": _array(b_hh)}
    spec, variant = CellSpec(bias=b_ih is not None), Variant(_NAMES[w_ih.dtype])
    mark = packing.digest(variant, [*arrays.values()] if way == "forward" else matrices)
    key = (way, w_ih.data_ptr(), w_hh.data_ptr(), w_ih.shape, w_ih.dtype, spec.bias)
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
    I, H, dtype = call.x.shape[-1], call.h_0.shape[-1], call.x.dtype
    for weight, shape in zip(call.weights, ((4 * H, I), (4 * H, H), (4 * H,), (4 * H,)) * 2, strict=True):
        if weight is not None and (weight.shape != shape or weight.dtype != dtype):
            found = f"{weight.dtype} of {tuple(weight.shape)}"
            raise RuntimeError(f"a weight must be {dtype} of the shape {shape}, but is {found}")
    for name, state in (("h_0", call.h_0), ("c_0", call.c_0)):
        if state.shape != call.h_0.shape or state.dtype != dtype:
            found = f"{state.dtype} of {tuple(state.shape)}"
            raise RuntimeError(f"{name} must be {dtype} of the shape {tuple(call.h_0.shape)}, but is {found}")
    directions = 1 if call.w_ih_reverse is None else 2
    if directions != len(call.h_0):
        raise RuntimeError(f"h_0 must have {directions} directions, as the weights have, but has {len(call.h_0)}")


def _packs(way: str, call: Inputs) -> list[Any]:
    """The packed weights of each direction, once all is known to fit."""
    _check(call)
    each = (call.weights[:4], call.weights[4:])[: len(call.h_0)]
    return [_pack(way, *weights) for weights in each]  # type: ignore[arg-type]


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
    if call.sizes is not None or len(call.h_0) != 1 or x.shape[1 if call.x_first else 0] != 1:
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
    if call.sizes is not None or len(call.h_0) != 1 or x.shape[0] * x.shape[1] > ROWS:
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
    (D, _, H), new = call.h_0.shape, call.x.new_empty
    N = call.x.shape[0] * (call.x.shape[1] if call.sizes is None else 1) if call.keep else 0
    y, h_n, c_n = new(call.y_shape), new(call.h_0.shape), new(call.h_0.shape)
    return y, h_n, c_n, new((D, N, 4, H)), new((D, N, H)), new((1,), dtype=torch.int64)


def _forward(*inputs: Any) -> tuple[Tensor, ...]:
    """y, h_n, c_n and the tape: gates (D, N, 4, H), cells (D, N, H), for all N rows, and whether it is spent."""
    call = Inputs(*inputs)
    y, h_n, c_n, gates, cells, spent = outputs = _outputs(*inputs)
    spent.numpy()[0] = 0
    if h_n.numel() and _step(call, y, h_n, c_n, gates, cells):
        return outputs
    h_n.copy_(call.h_0)  # what each run begins with, and overwrites with what it ends with
    c_n.copy_(call.c_0)
    h, c = h_n.numpy(), c_n.numpy()
    if h.size == 0:
        return outputs
    packs, runs, variant = _packs("forward", call), _runs(call), Variant(_NAMES[call.x.dtype], call.keep)
    tape = list(zip(gates.numpy(), cells.numpy(), strict=True)) if call.keep else []
    for run, x_run, y_run in zip(runs, _views(call.x, runs, call.x_first), _views(y, runs, call.y_first), strict=True):
        h_run, c_run, even = h[run.here, : run.B], c[run.here, : run.B], calls.row_stride(x_run) is not None
        plan = plan_forward(run.T, run.B, x_run.shape[2], h.shape[2], len(h_run), h.dtype, _threads(), even)
        calls.forward(
            variant, plan, x_run, packs[run.here], h_run.copy(), c_run.copy(),
            y_run[:, :, run.here.start * h.shape[2] :], h_run, c_run,
            [calls.Taped(run.of(of_gates), run.of(of_cells)) for of_gates, of_cells in tape[run.here]], run.reverse,
        )  # fmt: skip
    return outputs


def _starts(first: np.ndarray, after: list[np.ndarray], runs: list[_Run]) -> list[np.ndarray]:
    """What each run began with, (1, B, H): from the initial states (D, B, H) and what followed, (T, B, H or 2H)."""
    state, starts, H = first.copy(), [], first.shape[2]
    for run, rows in zip(runs, after, strict=True):
        d = run.here.start
        starts.append(state[run.here, : run.B].copy())
        state[d, : run.B] = rows[0, :, -H:] if d else rows[-1, :, :H]
    return starts


def _gradients(*inputs: Any) -> list[Tensor]:
    """Uninitialised outputs of `_backward`."""
    call = Inputs(*inputs[7:])
    return [t.new_empty(t.shape) for t in (call.x, call.h_0, call.c_0, *call.weights) if t is not None]


def _backward(
    dy: Tensor, dh_n: Tensor, dc_n: Tensor,
    y: Tensor | None, gates: Tensor, cells: Tensor, spent: Tensor, *inputs: Any,
) -> list[Tensor]:  # fmt: skip
    """dx, dh_0, dc_0, then the gradient of each of the weights that there are; y is needed of a packed batch only."""
    call = Inputs(*inputs)
    if call.h_0.numel() == 0:
        return [out.zero_() for out in _gradients(dy, dh_n, dc_n, y, gates, cells, spent, *inputs)]
    if spent.numpy()[0] or gates.numel() == 0:
        # The pass overwrites the gates, so a second one over the same graph computes them again.
        *_, gates, cells, spent = _forward(*call._replace(keep=True))
    spent.numpy()[0] = 1  # not by torch, to which this were a change of what autograd has saved
    if (short := _few_rows_backward(call, dy, dh_n, dc_n, gates, cells)) is not None:
        return short
    dh_0, dc_0 = (d.clone(memory_format=torch.contiguous_format) for d in (dh_n, dc_n))
    dxs, dh, dc = [call.x.new_empty(call.x.shape) for _ in call.h_0], dh_0.numpy(), dc_0.numpy()
    packs, runs, variant = _packs("backward", call), _runs(call), Variant(_NAMES[call.x.dtype])
    spec = CellSpec(bias=call.b_ih is not None)
    x_runs, dy_runs = _views(call.x, runs, call.x_first, even=True), _views(dy, runs, call.y_first)
    dx_runs = [_views(dx, runs, call.x_first) for dx in dxs]
    tape = list(zip(gates.numpy(), cells.numpy(), strict=True))
    h_starts, c_starts = [_array(call.h_0)], [_array(call.c_0)]
    if y is not None:
        h_starts = _starts(h_starts[0], [run.of(_array(y)) for run in runs], runs)
        c_starts = _starts(c_starts[0], [run.of(tape[run.here.start][1]) for run in runs], runs)
    grads: list[dict[str, np.ndarray]] = [{} for _ in packs]
    for k, run in reversed(list(enumerate(runs))):
        dh_run, dc_run = dh[run.here, : run.B], dc[run.here, : run.B]
        plan = plan_backward(run.T, run.B, call.x.shape[-1], dh.shape[2], len(dh_run), dh.dtype, _threads())
        found = calls.backward(
            variant, spec, plan, x_runs[k], packs[run.here],
            [calls.Taped(run.of(of_gates), run.of(of_cells)) for of_gates, of_cells in tape[run.here]],
            h_starts[k], c_starts[k], dy_runs[k][:, :, run.here.start * dh.shape[2] :], dh_run.copy(), dc_run.copy(),
            [dx[k] for dx in dx_runs[run.here]], dh_run, dc_run, run.reverse,
        )  # fmt: skip
        for d, grad in zip(run.directions, found, strict=True):
            grads[d] = {name: grads[d][name] + more if grads[d] else more for name, more in grad.items()}
    for dx in dxs[1:]:
        dxs[0] += dx
    flat = [grad for named in grads for grad in named.values()]
    return [dxs[0], dh_0, dc_0, *map(torch.from_numpy, flat)]


# --- the operators ----------------------------------------------------------------------------------------------------

_INPUTS = (
    "Tensor x, Tensor h_0, Tensor c_0, Tensor? sizes, bool keep, bool x_first, bool y_first, "
    "Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, "
    "Tensor? w_ih_reverse, Tensor? w_hh_reverse, Tensor? b_ih_reverse, Tensor? b_hh_reverse"
)
_TAPE = "Tensor? y, Tensor gates, Tensor cells, Tensor spent"
_layer = torch.library.custom_op(
    "fastlstm::layer",
    _forward,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
# Graphs that torch keeps on disk hold calls of both operators: a change of either's arguments must change its name.
# The second overwrites the tape, which nobody else sees: declared as a mutation, torch.compile would copy it first.
_layer_backward = torch.library.custom_op(
    "fastlstm::layer_backward",
    _backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor dy, Tensor dh_n, Tensor dc_n, {_TAPE}, {_INPUTS}) -> Tensor[]",
)
_layer.register_fake(_outputs)
_layer_backward.register_fake(_gradients)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    y, _, _, *tape = output
    call = Inputs(*inputs)
    ctx.save_for_backward(None if call.sizes is None else y, *tape, *call[:4], *call.weights)
    ctx.options = call.keep, call.x_first, call.y_first
    ctx.mark_non_differentiable(*tape)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *douts: Tensor | None) -> tuple[Tensor | None, ...]:
    (dy, dh_n, dc_n), saved = douts[:3], ctx.saved_tensors
    call = Inputs(*saved[4:8], *ctx.options, *saved[8:])
    dy = call.x.new_zeros(call.y_shape) if dy is None else dy
    dh_n, dc_n = (torch.zeros_like(call.h_0) if d is None else d for d in (dh_n, dc_n))
    inputs = (dy, dh_n, dc_n, *saved[:4], *call)
    dx, dh_0, dc_0, *grads = _apply(torch.ops.fastlstm.layer_backward, _LayerBackward, _backward, inputs)
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
    inputs = (x, h_0, c_0, sizes, keep, x_first, y_first, *weights, *[None] * (8 - len(weights)))
    y, h_n, c_n, *_ = _apply(torch.ops.fastlstm.layer, _Layer, _forward, inputs)
    return y, h_n, c_n
