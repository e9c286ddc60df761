"""What every layer of a model is: named variables in one flat array, a forward step that returns a tape, and a backward
step that spends it.

Inside a model an array of three axes is time first, (T, B, n), as the LSTM computes it; a model turns what goes in and
comes out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastlstm import checks
from fastlstm.models import initializers, keywords

Shape = tuple[int | None, ...]


class Variable(NamedTuple):
    """One array of a layer before it is made."""

    name: str
    shape: tuple[int, ...]
    initializer: str
    transposed: bool = False  # stored as (columns, rows) of what Keras shows


class Call(NamedTuple):
    """What a forward step is told beside its input."""

    training: bool = False
    rng: np.random.Generator | None = None
    mask: np.ndarray | None = None  # (T, B), True where a step is valid


class Result(NamedTuple):
    """What a forward step returns: the output, its mask, and the tape for `backward` (None outside training)."""

    y: np.ndarray
    mask: np.ndarray | None
    tape: Any


class Layer:
    """The base of all layers.

    Parameters
    ----------
    name
        Name of the layer; by default its class's, numbered within the model.
    trainable
        Whether fitting changes the layer's variables.
    input_shape
        Shape of one sample, for the first layer of a model.
    batch_input_shape
        The same with the batch size before it, as stateful layers need.
    input_dim, input_length
        The parts n and T of `input_shape`, as older code gives them.
    weights
        Initial values, as `set_weights` takes them.
    dtype
        float32 (the default) or float64; one for all layers of a model.
    **others
        Further arguments of Keras's layers (regularizers, constraints and the like), as long as they change nothing.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type or value; the message names it.
    """

    fields: tuple[str, ...] = ()  # the arguments that describe the layer, each kept as an attribute

    def __init__(
        self,
        name: str | None = None,
        trainable: bool = True,
        input_shape: Sequence[int | None] | None = None,
        batch_input_shape: Sequence[int | None] | None = None,
        input_dim: int | None = None,
        input_length: int | None = None,
        weights: Sequence[Any] | None = None,
        dtype: Any = None,
        **others: Any,
    ) -> None:
        keywords.settle(type(self).__name__, others)
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.-]+", name)):
            raise ValueError(f"name must be letters, digits, '_', '-' or '.', but was {name!r}")
        if batch_input_shape is not None:
            if len(batch_input_shape) < 2:
                raise ValueError(
                    f"batch_input_shape must be a batch size and the shape of a sample, but was {batch_input_shape!r}"
                )
            input_shape = tuple(batch_input_shape)[1:]
        elif input_shape is None and input_dim is not None:
            input_shape = (input_length, input_dim) if self.takes_sequences else (input_dim,)
        self.name = name
        self.trainable = checks.flag("trainable", trainable)
        self.input_shape: Shape | None = None if input_shape is None else sample_shape(input_shape)
        self.dtype = None if dtype is None else checks.floating(dtype)
        self.params: dict[str, np.ndarray] = {}
        self.grads: dict[str, np.ndarray] = {}
        self.initial_weights = None if weights is None else [np.asarray(w) for w in weights]

    takes_sequences = False

    @property
    def kind(self) -> str:
        """The layer's type in snake case, from which its name is made."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(self).__name__).lower()

    # --- what a layer defines -----------------------------------------------------------------------------------------

    def variables(self, shape: Shape) -> list[Variable]:
        """Its variables, for inputs of a shape."""
        return []

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of a sample of its output."""
        return shape

    def forward(self, x: np.ndarray, call: Call) -> Result:
        """Its output."""
        raise NotImplementedError

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray | None:
        """The gradient with respect to its input; those of its variables are written to `grads`."""
        raise NotImplementedError

    def bind(self, params: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> None:
        """Take the arrays of its variables and of their gradients."""
        self.params, self.grads = params, grads

    def states(self) -> dict[str, np.ndarray]:
        """What it carries from batch to batch."""
        return {}

    def load_states(self, states: dict[str, np.ndarray]) -> None:
        """Take back what `states` returned."""

    # --- what every layer has -----------------------------------------------------------------------------------------

    def initialize(self, shape: Shape, rng: np.random.Generator) -> None:
        """Write initial values into its arrays."""
        for v in self.variables(shape):
            seen = v.shape[::-1] if v.transposed else v.shape
            value = initializers.INITIALIZERS[v.initializer](seen, rng)
            self.params[v.name][...] = value.T if v.transposed else value

    def get_weights(self) -> list[np.ndarray]:
        """Copies of its variables in Keras's order and layout."""
        return [self._shown(name).copy() for name in self.params]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy what `get_weights` returned."""
        if len(weights) != len(self.params):
            raise ValueError(
                f"weights must be the {len(self.params)} arrays of layer {self.name}, but were {len(weights)}"
            )
        for name, value in zip(self.params, weights, strict=True):
            shown, array = self._shown(name), np.asarray(value)
            if array.shape != shown.shape:
                raise ValueError(
                    f"weights of layer {self.name}: {name} must have the shape {shown.shape}, but has {array.shape}"
                )
            shown[...] = array

    def __call__(self, x: Any, training: bool = False, mask: Any = None) -> Any:
        """The output for a batch x, the batch first as always in Keras; a layer outside a model is built by its first
        call.
        """
        x = self._given(x)
        result = self.forward(
            turned(x), Call(training, None, None if mask is None else np.ascontiguousarray(np.asarray(mask, bool).T))
        )
        return turned(result.y)

    def _given(self, x: Any) -> np.ndarray:
        """x as the layer takes it; builds the layer if nothing has."""
        x = np.asarray(x)
        dtype = next((p.dtype for p in self.params.values()), self.dtype or np.dtype(np.float32))
        if not self.params:
            self.name = self.name or self.kind
            made = {v.name: np.zeros(v.shape, dtype) for v in self.variables(x.shape[1:])}
            self.bind(made, {name: np.zeros_like(p) for name, p in made.items()})
            self.initialize(x.shape[1:], np.random.default_rng())
            if self.initial_weights is not None:
                self.set_weights(self.initial_weights)
        return x if x.dtype.kind in "iu" else x.astype(dtype, copy=False)

    def _shown(self, name: str) -> np.ndarray:
        """A variable as Keras lays it out."""
        return self.params[name]

    def count_params(self) -> int:
        """Elements of all variables."""
        return sum(p.size for p in self.params.values())

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the layer anew."""
        config = {name: getattr(self, name) for name in self.fields}
        return config | {"name": self.name} | ({} if self.trainable else {"trainable": False})


def sample_shape(shape: Any) -> Shape:
    """The shape of a sample: sizes, or None where the size is free."""
    if isinstance(shape, int):
        shape = (shape,)
    if not isinstance(shape, tuple | list):
        raise TypeError(f"input_shape must be a tuple of sizes, but was {shape!r}")
    return tuple(None if n is None else checks.size("input_shape", n) for n in shape)


def turned(array: np.ndarray) -> np.ndarray:
    """Batch first made time first, or the other way: what has three axes has its first two exchanged."""
    return np.ascontiguousarray(array.swapaxes(0, 1)) if array.ndim == 3 else array


def features(layer: Layer, shape: Shape) -> int:
    """The size of the last axis, which a layer with weights must know."""
    n = shape[-1] if shape else None
    if n is None:
        raise ValueError(
            f"layer {layer.name} must be given a known number of features, but "
            f"its input shape is (batch, {', '.join(map(str, shape))})"
        )
    return n
