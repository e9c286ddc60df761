"""Keras 3: its LSTM layer on whichever backend is there, TensorFlow first, compiled as that backend does it best."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..workload import Workload
from .adapter import Adapter

_BACKENDS = ("tensorflow", "jax", "torch")
_found = [name for name in _BACKENDS if importlib.util.find_spec(name)]
if _found:
    os.environ.setdefault("KERAS_BACKEND", _found[0])
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras  # noqa: E402 - it reads KERAS_BACKEND when it is imported


class Engine(Adapter):
    """Keras; it puts the batch first and has one bias, so both of PyTorch's biases get that one's gradient."""

    modes = ("inference", "training")

    def __init__(self, threads: int) -> None:
        """Give the backend this many threads."""
        super().__init__(threads)
        self.backend = keras.backend.backend()
        if self.backend == "tensorflow":
            import tensorflow as tf

            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        elif self.backend == "torch":
            import torch

            torch.set_num_threads(threads)
        elif self.backend == "jax":
            os.environ["NPROC"] = str(threads)
            self.dtypes = ("float32",)  # its tanh computes float64 to seven digits (keras 3.15)

    def version(self) -> str:
        """Keras's version and its backend's."""
        backend = importlib.import_module(self.backend)
        return f"{keras.__version__} ({self.backend} {backend.__version__})"

    def _model(self, work: Workload) -> Any:
        case, dtype = work.case, work.x.dtype.name
        layers, weights = [], []
        for k in range(case.layers):
            layer = keras.layers.LSTM(case.H, return_sequences=True, unit_forget_bias=False, dtype=dtype)
            layers.append(keras.layers.Bidirectional(layer, dtype=dtype) if case.bidirectional else layer)
            for suffix in (f"l{k}", f"l{k}_reverse")[: case.directions]:
                p = work.params
                weights += [p[f"weight_ih_{suffix}"].T, p[f"weight_hh_{suffix}"].T,
                            p[f"bias_ih_{suffix}"] + p[f"bias_hh_{suffix}"]]  # fmt: skip
        model = keras.Sequential([keras.Input((case.T, case.I), batch_size=case.B, dtype=dtype), *layers])
        model.set_weights(weights)
        return model

    def inference(self, work: Workload) -> Callable[[], Any]:
        """The model called without Python between its operations, where the backend can."""
        model, x = self._model(work), self.native(np.ascontiguousarray(work.x.swapaxes(0, 1)))
        if self.backend == "tensorflow":
            import tensorflow as tf

            call = tf.function(lambda: model(x, training=False))
            return lambda: _synchronised(call())
        if self.backend == "jax":
            import jax

            fixed, variables = (
                [v.value for v in group] for group in (model.non_trainable_variables, model.trainable_variables)
            )
            stateless = jax.jit(lambda variables, x: model.stateless_call(variables, fixed, x, training=False)[0])
            return lambda: jax.block_until_ready(stateless(variables, x))
        import torch

        def run() -> Any:
            with torch.inference_mode():
                return model(x, training=False)

        return run

    def training(self, work: Workload) -> Callable[[], tuple[Any, Any, dict[str, Any]]]:
        """Forward and backward for a given output gradient."""
        model = self._model(work)
        x, dy = (self.native(np.ascontiguousarray(a.swapaxes(0, 1))) for a in (work.x, work.dy))
        gradients = {"tensorflow": _tensorflow_gradients, "jax": _jax_gradients, "torch": _torch_gradients}
        both = gradients[self.backend](model, x, dy)
        suffixes = [f"l{k}{d}" for k in range(work.case.layers) for d in ("", "_reverse")[: work.case.directions]]

        def run() -> tuple[Any, Any, dict[str, Any]]:
            y, dx, flat = both()
            grads: dict[str, Any] = {}
            for suffix, (dW, dR, db) in zip(
                suffixes, zip(flat[0::3], flat[1::3], flat[2::3], strict=True), strict=True
            ):
                grads |= {f"weight_ih_{suffix}": dW, f"weight_hh_{suffix}": dR,
                          f"bias_ih_{suffix}": db, f"bias_hh_{suffix}": db}  # fmt: skip
            return y, dx, grads

        return run

    def native(self, array: np.ndarray) -> Any:
        """The array as the backend's tensor."""
        return keras.ops.convert_to_tensor(array, dtype=array.dtype.name)

    def numpy(self, value: Any) -> np.ndarray:
        """The result as PyTorch has it: time first, weights transposed."""
        array = np.array(keras.ops.convert_to_numpy(value))
        return array.swapaxes(0, 1) if array.ndim > 1 else array


def _synchronised(value: Any) -> Any:
    """TensorFlow's eager handles may still be under way; reading them as NumPy arrays waits and copies nothing."""
    value.numpy()
    return value


def _tensorflow_gradients(model: Any, x: Any, dy: Any) -> Callable[[], tuple[Any, Any, list[Any]]]:
    import tensorflow as tf

    @tf.function
    def both() -> tuple[Any, Any, list[Any]]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
        dx, grads = tape.gradient(y, [x, list(model.trainable_variables)], output_gradients=dy)
        return y, dx, grads

    def run() -> tuple[Any, Any, list[Any]]:
        y, dx, grads = both()
        _synchronised(dx)
        return y, dx, grads

    return run


def _jax_gradients(model: Any, x: Any, dy: Any) -> Callable[[], tuple[Any, Any, list[Any]]]:
    import jax

    fixed, variables = (
        [v.value for v in group] for group in (model.non_trainable_variables, model.trainable_variables)
    )

    @jax.jit
    def both(variables: Any, x: Any, dy: Any) -> tuple[Any, Any, list[Any]]:
        y, pull = jax.vjp(lambda v, x: model.stateless_call(v, fixed, x, training=True)[0], variables, x)
        grads, dx = pull(dy)
        return y, dx, grads

    return lambda: jax.block_until_ready(both(variables, x, dy))


def _torch_gradients(model: Any, x: Any, dy: Any) -> Callable[[], tuple[Any, Any, list[Any]]]:
    import torch

    x = x.requires_grad_()
    variables = [v.value for v in model.trainable_variables]

    def run() -> tuple[Any, Any, list[Any]]:
        y = model(x, training=True)
        dx, *grads = torch.autograd.grad(y, (x, *variables), dy)
        return y.detach(), dx, grads

    return run
