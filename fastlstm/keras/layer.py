"""`LSTM` as a Keras layer, and the switch that makes Keras's own compute as it does."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import keras

from fastlstm.keras.operator import BACKENDS, Inputs, Options

_theirs = keras.layers.LSTM.inner_loop
_NAMED: dict[str, Any] = dict.fromkeys(("tanh", "sigmoid", "relu", "linear", "hard_tanh", "softsign", "softplus"))
# Where Keras's parameters are others than ONNX's, whose names and defaults `CellSpec` takes.
_NAMED |= {"hard_sigmoid": (1 / 6, 0.5), "leaky_relu": (0.2,), "elu": (1.0,)}
_ACTIVATIONS = [
    (getattr(keras.activations, name), name if parameters is None else (name, *parameters))
    for name, parameters in _NAMED.items()
    if hasattr(keras.activations, name)  # hard_tanh came in 3.8
]


def _activation(function: Any) -> Any:
    """One of Keras's activations as `CellSpec` takes it; None if it has none."""
    return next((ours for theirs, ours in _ACTIVATIONS if theirs is function), None)


def _activations(layer: keras.layers.LSTM) -> tuple:
    """Those of the gates, of the candidate and of the output."""
    candidate = _activation(layer.activation)
    return _activation(layer.recurrent_activation), candidate, candidate


def _why_not(layer: keras.layers.LSTM, training: bool) -> str:
    """Why Keras's own loop must compute a layer; empty if this library can."""
    backend = keras.backend.backend()
    if backend not in BACKENDS:
        return f"the {backend} backend has no way in"
    if None in _activations(layer):
        return "it has activations that this library has not"
    if training and layer.dropout and layer.cell.implementation == 1 and not layer.recurrent_dropout:
        return "its implementation drops inputs for each gate apart"
    if layer.use_cudnn is True:
        return "it asks for cuDNN"
    if keras.backend.standardize_dtype(layer.cell.compute_dtype) not in ("float32", "float64"):
        return f"it computes in {layer.cell.compute_dtype}"
    if backend == "jax":
        import jax

        return "" if jax.default_backend() == "cpu" else "JAX computes on another device"
    if backend == "tensorflow":
        import tensorflow as tf

        return "TensorFlow computes on a GPU" if tf.config.list_physical_devices("GPU") else ""
    return ""


def _inner_loop(
    layer: keras.layers.LSTM, sequences: Any, initial_state: Any, mask: Any, training: bool = False
) -> tuple[Any, Any, list[Any]]:
    """`keras.layers.LSTM.inner_loop`, by this library where it can."""
    if _why_not(layer, training):
        return _theirs(layer, sequences, initial_state, mask, training=training)
    ops, cell = keras.ops, layer.cell
    if keras.tree.is_nested(mask):
        mask = mask[0]
    recurrent = None
    if training and 0 < layer.recurrent_dropout < 1:  # Keras draws a mask for each gate: the first is for all
        recurrent = cell.get_recurrent_dropout_mask(initial_state[0])[0]
    if training and layer.dropout:
        drawn = cell.get_dropout_mask(sequences[:, 0, :])
        sequences = sequences * ops.expand_dims(drawn[0] if isinstance(drawn, list) else drawn, axis=1)
    dtype = cell.compute_dtype
    arrays = [sequences, *initial_state, cell.kernel, cell.recurrent_kernel]
    arrays = [ops.convert_to_tensor(array, dtype=dtype) for array in arrays]
    if keras.backend.backend() == "torch" and any(array.device.type != "cpu" for array in arrays):
        return _theirs(layer, sequences, initial_state, mask, training=training)
    arrays.append(None if cell.bias is None else ops.convert_to_tensor(cell.bias, dtype=dtype))
    arrays.append(None if recurrent is None else ops.convert_to_tensor(recurrent, dtype=dtype))
    arrays.append(None if mask is None else ops.convert_to_tensor(mask, dtype="bool"))
    inputs = Inputs._make(arrays)
    options = Options(
        layer=id(layer),
        backwards=layer.go_backwards,
        sequences=layer.return_sequences,
        zero_output=layer.zero_output_for_mask,
        first_state=keras.backend.backend() in ("jax", "numpy") and not layer.unroll,  # as their loops have it
        bias=inputs.bias is not None,
        recurrent=inputs.recurrent is not None,
        mask=inputs.mask is not None,
        training=bool(training),
        activations=_activations(layer),
    )
    y, h_n, c_n = BACKENDS[keras.backend.backend()](options, inputs)
    if not layer.return_sequences:
        return y, ops.expand_dims(y, axis=1), [h_n, c_n]
    return y[:, -1], y, [h_n, c_n]


def _supports_jit(layer: keras.layers.LSTM) -> bool:
    """Whether a model of this layer may be compiled as a whole; XLA under TensorFlow takes no Python function."""
    return keras.backend.backend() != "tensorflow" and vars(layer).get("supports_jit", True)


def _set_supports_jit(layer: keras.layers.LSTM, value: bool) -> None:
    vars(layer)["supports_jit"] = value


_JIT = property(_supports_jit, _set_supports_jit)


class LSTM(keras.layers.LSTM):
    """`keras.layers.LSTM`, computed by fastlstm: the same arguments, weights, outputs, gradients and files.

    Parameters
    ----------
    units, ...
        As for `keras.layers.LSTM`, in any place where that one may stand: in `Sequential` and functional models,
        `Bidirectional`, with masks, `stateful`, `go_backwards`, `return_state`, `initial_state`, `dropout`,
        `recurrent_dropout`, and these activations: tanh, sigmoid, relu, linear, hard_sigmoid, hard_tanh, softsign,
        softplus, elu, leaky_relu.

    Notes
    -----
    Keras's own loop computes what this library has not: other activations, half precision, other devices than the CPU,
    `use_cudnn=True`, `dropout` with `implementation=1`.

    Dropout draws what Keras draws. With `recurrent_dropout` Keras draws a mask of h, and one of x, for each gate; here
    the first of them holds for all four, and as there for all steps (Gal and Ghahramani's tied weights): each gate sees
    the same share dropped, but the gates of a row drop the same units.

    Under JAX and TensorFlow, what a gradient needs of a call waits until it is asked for: 512 MiB of all calls together
    at the most, and the last call's whatever it takes. What was dropped is computed again.

    Under TensorFlow a model with this layer is not compiled by XLA, and a SavedModel (`model.export`) cannot hold it:
    save a `.keras` file, load it without this module, and export that.

    A saved layer is named `keras.layers.LSTM` in its file. Plain Keras loads that; where this module is imported, it
    comes back as this class.
    """

    supports_jit = _JIT
    inner_loop = _inner_loop


# Keras writes the class's module and name to files, and reads "registered_name" before them: as a name of its own that
# is the class's plain one, it finds this class where it is known, and keras.layers.LSTM where it is not.
LSTM.__module__ = "keras.layers"
keras.saving.get_custom_objects()["LSTM"] = LSTM


class Switch:
    """What `accelerate` returns: a context manager that ends it; `off` does so too."""

    _on = 0

    def __init__(self) -> None:
        self._active = True
        if Switch._on == 0:
            keras.layers.LSTM.inner_loop = _inner_loop
            keras.layers.LSTM.supports_jit = _JIT
        Switch._on += 1

    def off(self) -> None:
        """Let Keras compute its LSTM again, once every switch is off; a second call does nothing."""
        if not self._active:
            return
        self._active = False
        Switch._on -= 1
        if Switch._on == 0:
            keras.layers.LSTM.inner_loop = _theirs
            del keras.layers.LSTM.supports_jit

    def __enter__(self) -> Switch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.off()


def accelerate() -> Switch:
    """Let fastlstm compute every `keras.layers.LSTM` of this process, those that exist already too.

    Returns
    -------
    Switch
        To be forgotten, or for a `with` statement, at whose end Keras computes its LSTM again.

    Notes
    -----
    What Keras has traced keeps its way: a model that was compiled and run before goes on as it did, until `compile` is
    called again. `Bidirectional` of LSTMs is computed so too; `keras.layers.RNN(keras.layers.LSTMCell(...))` is not.

    Examples
    --------
    >>> import fastlstm.keras
    >>> fastlstm.keras.accelerate()  # doctest: +SKIP

    >>> with fastlstm.keras.accelerate():  # doctest: +SKIP
    ...     model.fit(x, y)
    """
    return Switch()
