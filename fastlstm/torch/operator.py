"""One LSTM layer as a PyTorch operator, `fastlstm::lstm`, whose gradient is `fastlstm::lstm_backward`.

Both are custom operators of PyTorch's, so that `torch.compile`, `torch.export` and autograd see ordinary operators.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, library

from fastlstm.torch import passes, sequences, steps
from fastlstm.torch.inputs import Inputs

__all__ = ["layer"]

_OPTIONS = len(Inputs._fields) - 1  # what an operator takes before the weights

# --- the operators ----------------------------------------------------------------------------------------------------

_INPUTS = (
    "Tensor x, Tensor h_0, Tensor c_0, Tensor? sizes, Tensor? lengths, Tensor? reset, Tensor? recurrent, "
    "Tensor? zoneout_c, Tensor? zoneout_h, bool keep, bool x_first, bool y_first, bool reverse, str cell, bool bias, "
    "Tensor[] weights"
)
_layer = library.custom_op(
    "fastlstm::lstm",
    passes.forward,
    mutates_args=(),
    device_types="cpu",
    schema=f"({_INPUTS}) -> (Tensor, Tensor, Tensor, Tensor)",
)
# Graphs that torch keeps on disk hold calls of both operators: a change of either's arguments must change its name.
_layer_backward = library.custom_op(
    "fastlstm::lstm_backward",
    passes.backward,
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor dy, Tensor dh_n, Tensor dc_n, Tensor tape, {_INPUTS}) -> Tensor[]",
)
_layer.register_fake(passes.outputs)
_layer_backward.register_fake(passes.gradients)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
    tape, call = output[3], Inputs(*inputs)
    ctx.save_for_backward(tape, *call[:9], *call.weights)
    ctx.options = call[9:_OPTIONS]
    ctx.mark_non_differentiable(tape)
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, *douts: Tensor | None) -> tuple[Any, ...]:
    (dy, dh_n, dc_n), saved = douts[:3], ctx.saved_tensors
    call = Inputs._make([*saved[1:10], *ctx.options, saved[10:]])
    dy = call.x.new_zeros(call.y_shape) if dy is None else dy
    dh_n = torch.zeros_like(call.h_0) if dh_n is None else dh_n
    dc_n = torch.zeros_like(call.c_0) if dc_n is None else dc_n
    inputs = (dy, dh_n, dc_n, saved[0], *call)
    dx, dh_0, dc_0, *grads = _apply(torch.ops.fastlstm.lstm_backward, _LayerBackward, passes.backward, inputs)
    return dx, dh_0, dc_0, *[None] * (_OPTIONS - 3), grads


_WAY_OUT = "use torch.nn.LSTM, which loads the same state_dict, where one is needed"


def _refuse(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(f"fastlstm.torch has no second derivative: {_WAY_OUT}")


def _refuse_forward_mode(ctx: Any, *_: Any) -> None:
    raise NotImplementedError(f"fastlstm.torch has no derivative in forward mode: {_WAY_OUT}")


def _refuse_vmap(info: Any, in_dims: Any, *_: Any) -> None:
    raise NotImplementedError("fastlstm.torch has no vmap: make the axis a part of the batch's")


_layer.register_autograd(_differentiate, setup_context=_save)
_layer_backward.register_autograd(_refuse)


# --- outside of torch.compile -----------------------------------------------------------------------------------------
# There they cost less as functions of autograd's, which see tensors in no list.


class _Layer(torch.autograd.Function):
    """The operator; torch.func differentiates it."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return passes.forward(*inputs[:_OPTIONS], inputs[_OPTIONS:])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs."""
        _save(ctx, (*inputs[:_OPTIONS], inputs[_OPTIONS:]), output)

    @staticmethod
    def backward(ctx: Any, *douts: Tensor | None) -> tuple[Any, ...]:
        """The gradient."""
        *found, grads = _differentiate(ctx, *douts)
        return *found, *grads

    jvp = staticmethod(_refuse_forward_mode)
    vmap = staticmethod(_refuse_vmap)


class _LayerBackward(torch.autograd.Function):
    """The gradient."""

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return tuple(passes.backward(*inputs[: 4 + _OPTIONS], inputs[4 + _OPTIONS :]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """Keep nothing: there is no second derivative."""

    backward = staticmethod(_refuse)
    vmap = staticmethod(_refuse_vmap)


class _Known(torch.autograd.Function):
    """A call as one before: fewer arguments, and no rules for transforms, cost half as much."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, known: steps.Known | sequences.Known, way: steps.Way, y_shape: Any, x: Tensor, h_0: Tensor,
        c_0: Tensor, *weights: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        tape = known.tape(h_0)
        made = steps.run(way, x, h_0, c_0, y_shape, tape)
        ctx.save_for_backward(tape, x, h_0, c_0, *weights)
        ctx.known = known
        ctx.set_materialize_grads(False)
        return made

    @staticmethod
    def backward(ctx: Any, *douts: Tensor | None) -> tuple[Any, ...]:
        """The gradient."""
        tape, x, h_0, c_0, *weights = ctx.saved_tensors
        found = None
        traced = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack()
        if not (traced or torch.is_grad_enabled()):  # not to be differentiated again
            found = ctx.known.differentiate(tape, x, h_0, c_0, weights, douts)
        if found is None:
            found = _as_a_layer(ctx.known.call(x, h_0, c_0, weights), tape, x, h_0, c_0, douts)
        return None, None, None, *found

    jvp = staticmethod(_refuse_forward_mode)


def _as_a_layer(
    call: Inputs, tape: Tensor, x: Tensor, h_0: Tensor, c_0: Tensor, douts: tuple[Tensor | None, ...]
) -> list:
    """The gradients of a call, from its tape, by the operator."""
    shapes = call.y_shape, call.h_0.shape, call.c_0.shape
    given = [
        h_0.new_zeros(shape) if d is None else d.reshape(shape)
        for d, shape in zip([None] * (3 - len(douts)) + list(douts), shapes, strict=True)
    ]
    inputs = (*given, tape[None], *call)
    dx, dh_0, dc_0, *grads = _apply(torch.ops.fastlstm.lstm_backward, _LayerBackward, passes.backward, inputs)
    return [dx.reshape(x.shape), dh_0.reshape(h_0.shape), dc_0.reshape(c_0.shape), *grads]


for _function in (_Layer, _LayerBackward):  # torch asks at every call for the signature: 25 us
    _function.forward.__signature__ = inspect.signature(_function.forward)  # type: ignore[attr-defined]


def _apply(operator: Any, function: type[torch.autograd.Function], body: Any, inputs: tuple) -> Any:
    """Run an operator by the shortest way on which all see it who must."""
    x = inputs[0]
    plain = not torch.compiler.is_compiling() and type(x) is Tensor and x.device.type == "cpu"
    if not plain or torch._C._len_torch_dispatch_stack() or torch.jit.is_tracing():
        return operator(*inputs)  # somebody traces, or there are no values
    return function.apply(*inputs[:-1], *inputs[-1]) if torch.is_grad_enabled() else body(*inputs)


def layer(
    x: Tensor,
    h_0: Tensor,
    c_0: Tensor,
    weights: list[Tensor],
    *,
    sizes: Tensor | None = None,
    lengths: Tensor | None = None,
    reset: Tensor | None = None,
    recurrent: Tensor | None = None,
    zoneout_c: Tensor | None = None,
    zoneout_h: Tensor | None = None,
    x_first: bool = False,
    y_first: bool = False,
    reverse: bool = False,
    cell: str = "",
    bias: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run one layer: y, h_n and c_n, shaped as x with D*H features and as h_0; arguments as in `Inputs`.

    Raises
    ------
    RuntimeError, ValueError
        Shapes, dtypes or lengths that do not fit together.
    """
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in (x, h_0, c_0, *weights))
    ends, masks = (sizes, lengths, reset), (recurrent, zoneout_c, zoneout_h)
    inputs = (x, h_0, c_0, *ends, *masks, keep, x_first, y_first, reverse, cell, bias, weights)
    known = None
    if not (cell or reverse) and len(weights) == 2 + 2 * bias and all(given is None for given in (*ends, *masks)):
        if steps.eager(x, (h_0, c_0)) and h_0.shape == c_0.shape:
            known = x, h_0, c_0, weights, x_first, y_first, passes.threads()
    if known is not None and (found := sequences.find(*known)) is not None:
        how, way, _packed = found
        if not keep:
            return steps.run(way, x, h_0, c_0, how.shape.y)
        if how.goes_back:
            return _Known.apply(how, way, how.shape.y, x, h_0, c_0, *weights)
    y, h_n, c_n, _ = _apply(torch.ops.fastlstm.lstm, _Layer, passes.forward, inputs)
    if known is not None:
        sequences.remember(*known)
    return y, h_n, c_n


def step(
    x: Tensor, h_0: Tensor, c_0: Tensor, weights: list[Tensor], y_shape: tuple[int, ...] | None = None
) -> tuple[Tensor, ...] | None:
    """(y, h_n, c_n) of a step of the plain cell, or (h_n, c_n) if y has no shape, where it is as one before; None where
    it is not. The tensors must be `steps.eager`.
    """
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (x, h_0, c_0, *weights))
    known = steps.find(x, h_0, c_0, weights)
    if known is None or (keep and known.backward is None) or (found := steps.way(known, keep)) is None:
        return None
    way, _packed = found
    if keep:
        return _Known.apply(known, way, y_shape, x, h_0, c_0, *weights)
    return steps.run(way, x, h_0, c_0, y_shape)
