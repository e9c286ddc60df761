"""One LSTM layer in Keras's terms, for each of Keras's backends.

On PyTorch it is the registered operator of `fastlstm.torch`. JAX and TensorFlow call back into Python with the arrays;
of the tape their graphs see but a number (see `cores`). Masked steps are never computed (see
`fastlstm.models.packing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np

import fastlstm
from fastlstm import layer_call
from fastlstm.keras import cores
from fastlstm.models import packing

PLAIN = ("sigmoid", "tanh", "tanh")


class Options(NamedTuple):
    """What a layer's call does beside its arrays."""

    layer: int  # tells layers apart, so that each keeps its packed weights
    backwards: bool  # steps from last to first; y stays in that order
    sequences: bool  # y of every step, (N, T, H), rather than of the last, (N, H)
    zero_output: bool  # y of a masked step is zeros rather than that of the step before
    first_state: bool  # y of masked steps before all others is h_0 rather than zeros, unless zero_output
    bias: bool  # which of the optional inputs there are
    recurrent: bool
    mask: bool
    training: bool  # whether a gradient is likely to be asked for
    activations: tuple  # of gates, candidate and output, as `CellSpec` takes them

    @property
    def cell(self) -> str:
        """The cell, as the operator of `fastlstm.torch` takes it."""
        return "" if self.activations == PLAIN else json.dumps({"activations": self.activations})


class Inputs(NamedTuple):
    """The arrays or tensors of a call; all but the mask have one dtype, and all but the last two a gradient."""

    x: Any  # (N, T, I)
    h_0: Any  # (N, H)
    c_0: Any
    kernel: Any  # (I, 4H), gates i, f, g, o
    recurrent_kernel: Any  # (H, 4H)
    bias: Any = None  # (4H,)
    recurrent: Any = None  # (N, H), factors of h on its way into the gates, at all steps
    mask: Any = None  # (N, T), bool

    @property
    def given(self) -> list[Any]:
        """Those that are not None, for calls that take arrays only."""
        return [part for part in self if part is not None]


# --- on arrays --------------------------------------------------------------------------------------------------------


def _inputs(options: Options, arrays: tuple[Any, ...]) -> Inputs:
    """What `Inputs.given` gave."""
    found = [np.asarray(array) for array in arrays]
    mask = found.pop() if options.mask else None
    recurrent = found.pop() if options.recurrent else None
    bias = found[5] if options.bias else None
    return Inputs._make([*found[:5], bias, recurrent, mask])


class _Done(NamedTuple):
    """What `_run` computed, and what `backward` needs of it."""

    y: np.ndarray
    h_n: np.ndarray
    c_n: np.ndarray
    packed: packing.Packing | None
    tape: Any  # of the core


def _core(options: Options, inputs: Inputs) -> cores.Core:
    """A core for a call, with the batch first unless something is masked."""
    masked = inputs.mask is not None and not inputs.mask.all()
    return cores.take(options.layer, options.activations, *inputs[3:6], batch_first=not masked)


def _call(lstm: fastlstm.LSTM, x: Any, state: Any, lengths: Any, recurrent: Any, training: bool) -> tuple:
    """y, the state and, in training, the tape."""
    if recurrent is None:
        return packing.run(lstm, x, state, lengths, training)
    tape = layer_call.Tape(lstm)
    tape.recurrent = recurrent[None]
    return *layer_call.forward(lstm, x, state, lengths, None, tape), tape


def _run(options: Options, inputs: Inputs, core: cores.Core, training: bool) -> _Done:
    x, h_0, c_0 = inputs[:3]
    if not core.lstm.batch_first:
        return _masked_run(options, inputs, core, training)
    x = np.ascontiguousarray(x[:, ::-1]) if options.backwards else x
    y, (h, c), tape = _call(core.lstm, x, (h_0[None], c_0[None]), None, inputs.recurrent, training)
    return _Done(y if options.sequences else h[0], h[0], c[0], None, tape)


def _masked_run(options: Options, inputs: Inputs, core: cores.Core, training: bool) -> _Done:
    packed = packing.pack(inputs.mask.T, options.backwards, options.zero_output)
    x, order = packing.take(inputs.x.transpose(1, 0, 2), packed.source), packed.order
    state = inputs.h_0[order][None], inputs.c_0[order][None]
    recurrent = None if inputs.recurrent is None else inputs.recurrent[order]
    y, (h, c), tape = _call(core.lstm, x, state, packed.lengths, recurrent, training)
    h_n, c_n = np.empty_like(h[0]), np.empty_like(c[0])
    h_n[order], c_n[order] = h[0], c[0]
    places = packed.place if options.sequences else packed.place[-1]
    y = packing.take(y, places)
    if options.first_state and not options.zero_output:
        y = np.where((places < 0)[..., None], inputs.h_0, y)
    return _Done(y.transpose(1, 0, 2) if options.sequences else y, h_n, c_n, packed, tape)


def forward(options: Options, *arrays: Any) -> tuple[np.ndarray, ...]:
    """y, h_n and c_n of `Inputs`, without what is None there; in training also the number of the tape."""
    inputs = _inputs(options, arrays)
    core = _core(options, inputs)
    done = _run(options, inputs, core, options.training)
    found = tuple(map(np.ascontiguousarray, done[:3]))
    if not options.training:
        cores.give(core)
        return found
    weights = inputs.kernel.nbytes + inputs.recurrent_kernel.nbytes  # which the core has, and packed for both ways
    size = 6 * inputs.x.shape[1] * inputs.h_0.nbytes + inputs.x.nbytes + 3 * weights
    return *found, np.array(cores.keep((done.packed, done.tape), core, size), np.int32)


def backward(options: Options, number: Any, dy: Any, dh_n: Any, dc_n: Any, *arrays: Any) -> tuple[np.ndarray, ...]:
    """The gradients of all arrays but the mask, from those of y, h_n and c_n, and the number of the tape."""
    inputs = _inputs(options, arrays)
    dy, dh, dc = map(np.asarray, (dy, dh_n, dc_n))
    if (kept := cores.claim(int(number))) is None:
        core = _core(options, inputs)
        kept = _run(options, inputs, core, training=True)[3:], core
    (packed, tape), core = kept
    if packed is not None:
        dx, dh_0, dc_0, grads = _masked_backward(options, inputs, core, packed, tape, dy, dh, dc)
    else:
        if not options.sequences:
            dy, dh = np.zeros((*inputs.x.shape[:2], dh.shape[-1]), dh.dtype), dh + dy
        dx, (dh_0, dc_0), grads = core.lstm.backward(tape, dy, (dh[None], dc[None]))
        dx, dh_0, dc_0 = dx[:, ::-1] if options.backwards else dx, dh_0[0], dc_0[0]
    cores.give(core)
    found = [dx, dh_0, dc_0, grads["weight_ih_l0"].T, grads["weight_hh_l0"].T]
    found += [grads["bias_ih_l0"]] if inputs.bias is not None else []
    return tuple(map(np.ascontiguousarray, found))


def _masked_backward(
    options: Options, inputs: Inputs, core: cores.Core, packed: packing.Packing, tape: Any, dy: Any, dh: Any, dc: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """dx, dh_0, dc_0 and the gradients of the core's parameters."""
    N, H = dh.shape
    places, order = packed.place if options.sequences else packed.place[-1], packed.order
    shown = dy.transpose(1, 0, 2) if options.sequences else dy
    d = packing.untake(shown, places, (*packed.source.shape, H))
    dx, (dh_first, dc_first), grads = core.lstm.backward(tape, d, (dh[order][None], dc[order][None]))
    dh_0, dc_0 = np.empty_like(dh), np.empty_like(dc)
    dh_0[order], dc_0[order] = dh_first[0], dc_first[0]
    if options.first_state and not options.zero_output:
        dh_0 += np.where((places < 0)[..., None], shown, 0).reshape(-1, N, H).sum(axis=0)
    T, I = inputs.x.shape[1:]
    return packing.untake(dx, packed.source, (T, N, I)).transpose(1, 0, 2), dh_0, dc_0, grads


@lru_cache(1024)
def _host(function: Callable, options: Options) -> Callable:
    """The function for these options: the same object for the same options, by which JAX knows what it has compiled."""
    return partial(function, options)


# --- on the tensors of each backend -----------------------------------------------------------------------------------


def on_numpy(options: Options, inputs: Inputs) -> tuple[Any, ...]:
    """Keras's NumPy backend, which does not train."""
    return forward(options._replace(training=False), *inputs.given)


@lru_cache(1)
def _jax_operator() -> Callable:
    import jax

    def called(function: Callable, shapes: list[Any], *arrays: Any) -> Any:
        return jax.pure_callback(function, tuple(shapes), *arrays, vmap_method="sequential")

    def forward_of(options: Options, arrays: tuple[Any, ...]) -> Any:
        x, state = arrays[0], arrays[1]
        rows = (*x.shape[:2], state.shape[1]) if options.sequences else state.shape
        shapes = [jax.ShapeDtypeStruct(shape, x.dtype) for shape in (rows, state.shape, state.shape)]
        shapes += [jax.ShapeDtypeStruct((), np.int32)] if options.training else []
        return called(_host(forward, options), shapes, *arrays)

    @partial(jax.custom_vjp, nondiff_argnums=(0,))
    def layer(options: Options, *arrays: Any) -> Any:
        return forward_of(options._replace(training=False), arrays)

    def ahead(options: Options, *arrays: Any) -> Any:
        *outputs, number = forward_of(options._replace(training=True), arrays)
        return tuple(outputs), (number, arrays)

    def back(options: Options, kept: Any, douts: Any) -> Any:
        number, arrays = kept
        count = len(arrays) - options.mask - options.recurrent
        shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays[:count]]
        nothing = [None] * (options.mask + options.recurrent)
        return *called(_host(backward, options), shapes, number, *douts, *arrays), *nothing

    layer.defvjp(ahead, back)
    return layer


def on_jax(options: Options, inputs: Inputs) -> tuple[Any, ...]:
    """JAX: a callback from compiled code, with a gradient of its own."""
    return _jax_operator()(options, *inputs.given)


def on_tensorflow(options: Options, inputs: Inputs) -> tuple[Any, ...]:
    """TensorFlow: a Python function in the graph, with a gradient of its own."""
    import tensorflow as tf

    tensors = [tf.convert_to_tensor(array) for array in inputs.given]  # no variables
    count = len(tensors) - options.mask - options.recurrent
    differentiable, others = tensors[:count], tensors[count:]
    dtype, state_shape = inputs.x.dtype, inputs.h_0.shape

    @tf.custom_gradient
    def layer(*arrays: Any) -> Any:
        types, given = [dtype] * 3 + [tf.int32] * options.training, [*arrays, *others]
        y, h_n, c_n, *number = tf.numpy_function(_host(forward, options), given, types, stateful=options.training)
        number = number or [tf.constant(-1)]
        y.set_shape((*inputs.x.shape[:2], state_shape[1]) if options.sequences else state_shape)
        h_n.set_shape(state_shape)
        c_n.set_shape(state_shape)

        def gradient(*douts: Any) -> Any:
            arguments = [*number, *douts, *arrays, *others]
            found = tf.numpy_function(_host(backward, options), arguments, [dtype] * len(arrays), stateful=False)
            for one, array in zip(found, arrays, strict=True):
                one.set_shape(array.shape)
            return found

        return (y, h_n, c_n), gradient

    return layer(*differentiable)


def on_torch(options: Options, inputs: Inputs) -> tuple[Any, ...]:
    """PyTorch: the operator of `fastlstm.torch`, on a packed batch if there is a mask."""
    import torch

    from fastlstm.torch.operator import layer

    x, h_0, c_0, kernel, recurrent_kernel, bias, recurrent, mask = inputs
    cell: dict[str, Any] = {"cell": options.cell, "bias": bias is not None}
    weights = [kernel.t(), recurrent_kernel.t(), *([] if bias is None else [bias, torch.zeros_like(bias)])]
    if mask is None or bool(mask.all()):
        x = x.flip(1) if options.backwards else x
        cell["recurrent"] = None if recurrent is None else recurrent[None, None]
        y, h_n, c_n = layer(x, h_0[None], c_0[None], weights, x_first=True, y_first=True, **cell)
        return y if options.sequences else h_n[0], h_n[0], c_n[0]
    packed = packing.pack(mask.detach().cpu().numpy().T, options.backwards, options.zero_output)
    order, valid = torch.from_numpy(packed.order), packed.source >= 0
    rows = int((packed.lengths > 0).sum())  # a packed batch has none that are empty
    h_n, c_n = h_0[order], c_0[order]
    steps = x.new_zeros(0, h_0.shape[1])
    if rows:
        data = x.transpose(0, 1).flatten(0, 1)[torch.from_numpy(packed.source[valid])]
        sizes = torch.from_numpy(np.count_nonzero(valid, axis=1))
        state = h_n[None, :rows], c_n[None, :rows]
        cell["recurrent"] = None if recurrent is None else recurrent[order][None, None, :rows]
        steps, h, c = layer(data, *state, weights, sizes=sizes, **cell)
        h_n, c_n = torch.cat([h[0], h_n[rows:]]), torch.cat([c[0], c_n[rows:]])
    back = torch.from_numpy(np.argsort(packed.order))
    rank = np.append(np.cumsum(valid) - 1, valid.sum())  # of each place in the packed rows; where it is -1, the zeros
    place = torch.from_numpy(rank[packed.place if options.sequences else packed.place[-1]])
    y = torch.cat([steps, steps.new_zeros(1, h_0.shape[1])])[place]
    return y.transpose(0, 1) if options.sequences else y, h_n[back], c_n[back]


BACKENDS = {"numpy": on_numpy, "jax": on_jax, "tensorflow": on_tensorflow, "torch": on_torch}
