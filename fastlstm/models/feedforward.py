"""The layers that carry nothing from step to step: Input, Embedding, Masking, Dense, Activation, Dropout."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.models import initializers, kernels
from fastlstm.models.activations import ACTIVATIONS, named
from fastlstm.models.base import Call, Layer, Result, Shape, Variable, features
from fastlstm.runtime import reuse


class Input(Layer):
    """Tells a model the shape of one sample.

    Parameters
    ----------
    shape
        The shape without the batch, such as (T, I) or (T,); None for a free size.
    batch_size
        Not needed, since a batch may have any size.
    dtype
        As of every layer, where x is floating; of token ids anything.
    batch_shape
        The shape with the batch before it, in place of `shape`.
    """

    fields = ("shape",)

    def __init__(
        self, shape: Any = None, batch_size: int | None = None, dtype: Any = None, batch_shape: Any = None, **base: Any
    ) -> None:
        if batch_size is not None:
            checks.size("batch_size", batch_size)
        if dtype is not None and np.dtype(dtype).kind == "f":  # token ids are taken in any dtype
            base["dtype"] = dtype
        if batch_shape is not None:
            if shape is not None:
                raise ValueError(f"batch_shape must be None where shape is given, but was {batch_shape!r}")
            base["batch_input_shape"] = batch_shape
        super().__init__(input_shape=shape, **base)
        if self.input_shape is None:
            raise ValueError("shape must be the shape of a sample, but was None")
        self.shape = self.input_shape

    def forward(self, x: np.ndarray, call: Call) -> Result:
        return Result(x, call.mask, None)

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray:
        return dy


InputLayer = Input


class Embedding(Layer):
    """Rows of a table by token id, as `keras.layers.Embedding`.

    Parameters
    ----------
    input_dim
        Ids that there are: an id lies in 0 .. input_dim - 1.
    output_dim
        Elements of a row.
    embeddings_initializer
        By default uniform within 0.05 of 0.
    mask_zero
        Whether id 0 is padding, which the layers above then skip.
    input_length
        T, where it is known; kept for the summary alone.
    """

    fields = ("input_dim", "output_dim", "embeddings_initializer", "mask_zero")

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        embeddings_initializer: str = "uniform",
        mask_zero: bool = False,
        input_length: int | None = None,
        **base: Any,
    ) -> None:
        if base.get("input_shape") is None and base.get("batch_input_shape") is None:
            base["input_shape"] = (input_length,)
        super().__init__(**base)
        self.input_dim = checks.size("input_dim", input_dim)
        self.output_dim = checks.size("output_dim", output_dim)
        self.embeddings_initializer = initializers.named("embeddings_initializer", embeddings_initializer)
        self.mask_zero = checks.flag("mask_zero", mask_zero)

    def variables(self, shape: Shape) -> list[Variable]:
        if len(shape) != 1:
            raise ValueError(
                f"layer {self.name} must be given ids of the shape (batch, steps), "
                f"but its input has {len(shape)} axes beside the batch"
            )
        return [Variable("embeddings", (self.input_dim, self.output_dim), self.embeddings_initializer)]

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape, self.output_dim)

    def forward(self, x: np.ndarray, call: Call) -> Result:
        ids, table = np.ascontiguousarray(x.T), self.params["embeddings"]
        y = reuse.empty((*ids.shape, self.output_dim), table.dtype)
        table.take(ids, axis=0, out=y, mode="clip")
        return Result(y, ids != 0 if self.mask_zero else None, ids)

    def backward(self, dy: np.ndarray, tape: Any) -> None:
        grad = self.grads["embeddings"]
        grad.fill(0)
        kernels.compiled(kernels.add_rows)(
            tape.reshape(-1), np.ascontiguousarray(dy).reshape(-1, self.output_dim), grad
        )


class Masking(Layer):
    """Masks the steps all of whose features equal a value, as `keras.layers.Masking`.

    Parameters
    ----------
    mask_value
        The value that marks padding.
    """

    fields = ("mask_value",)

    def __init__(self, mask_value: float = 0.0, **base: Any) -> None:
        super().__init__(**base)
        self.mask_value = float(mask_value)

    def forward(self, x: np.ndarray, call: Call) -> Result:
        mask = (x != self.mask_value).any(axis=-1)
        return Result(x * mask[..., None], mask, mask)

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray:
        return dy * tape[..., None]


class Dense(Layer):
    """activation(x W + b) over the last axis, as `keras.layers.Dense`.

    Parameters
    ----------
    units
        Features of the output.
    activation
        "linear" (or None), "relu", "tanh", "sigmoid" or "softmax".
    use_bias
        Whether b is there.
    kernel_initializer, bias_initializer
        Initial W (n, units) and b (units,).
    """

    fields = ("units", "activation", "use_bias", "kernel_initializer", "bias_initializer")

    def __init__(
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        bias_initializer: str = "zeros",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.units = checks.size("units", units)
        self.activation = named(activation)
        self.use_bias = checks.flag("use_bias", use_bias)
        self.kernel_initializer = initializers.named("kernel_initializer", kernel_initializer)
        self.bias_initializer = initializers.named("bias_initializer", bias_initializer)

    def variables(self, shape: Shape) -> list[Variable]:
        kernel = Variable("kernel", (features(self, shape), self.units), self.kernel_initializer)
        return [kernel] + [Variable("bias", (self.units,), self.bias_initializer)] * self.use_bias

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], self.units)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """x W + b."""
        z = x.reshape(-1, x.shape[-1]) @ self.params["kernel"]
        if self.use_bias:
            z += self.params["bias"]
        return z.reshape(*x.shape[:-1], self.units)

    def forward(self, x: np.ndarray, call: Call) -> Result:
        y = ACTIVATIONS[self.activation].value(self.logits(x))
        return Result(y, call.mask, (x, y))

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray:
        x, y = tape
        return self.backward_logits(ACTIVATIONS[self.activation].gradient(dy, y), x)

    def backward_logits(self, dz: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The backward step from the gradient with respect to the logits."""
        rows, outer = x.reshape(-1, x.shape[-1]), dz.reshape(-1, self.units)
        np.matmul(rows.T, outer, out=self.grads["kernel"])
        if self.use_bias:
            outer.sum(axis=0, out=self.grads["bias"])
        return (outer @ self.params["kernel"].T).reshape(x.shape)


class Activation(Layer):
    """An activation by itself, as `keras.layers.Activation`.

    Parameters
    ----------
    activation
        A name that `Dense` takes.
    """

    fields = ("activation",)

    def __init__(self, activation: str, **base: Any) -> None:
        super().__init__(**base)
        self.activation = named(activation)

    def logits(self, x: np.ndarray) -> np.ndarray:
        """x itself."""
        return x

    def forward(self, x: np.ndarray, call: Call) -> Result:
        y = ACTIVATIONS[self.activation].value(x)
        return Result(y, call.mask, (x, y))

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray:
        return ACTIVATIONS[self.activation].gradient(dy, tape[1])

    def backward_logits(self, dz: np.ndarray, x: np.ndarray) -> np.ndarray:
        """The backward step from the gradient with respect to the logits."""
        return dz


class Dropout(Layer):
    """Drops elements in training, and scales the others, as `keras.layers.Dropout`.

    Parameters
    ----------
    rate
        Probability with which an element is dropped.
    seed
        Has no effect: what is dropped hangs on the model's seed.
    """

    fields = ("rate",)

    def __init__(self, rate: float, *, seed: int | None = None, **base: Any) -> None:
        super().__init__(**base)
        self.rate = checks.rate("rate", rate)

    def forward(self, x: np.ndarray, call: Call) -> Result:
        if not call.training or not self.rate:
            return Result(x, call.mask, None)
        kept = kept_mask(x.shape, self.rate, x.dtype, call.rng)
        return Result(x * kept, call.mask, kept)

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray:
        return dy if tape is None else dy * tape


def kept_mask(shape: tuple[int, ...], rate: float, dtype: np.dtype, rng: np.random.Generator | None) -> np.ndarray:
    """0 with the probability `rate`, else 1 / (1 - rate)."""
    if rng is None:
        rng = np.random.default_rng()
    scale = 0.0 if rate == 1 else 1 / (1 - rate)
    return (rng.random(shape, np.float32) >= rate) * dtype.type(scale)
