"""Layers one after another: their variables in one flat array, the pass through all of them, and the pass back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastlstm.models.activations import ACTIVATIONS
from fastlstm.models.base import Call, Layer, Shape, Variable, turned
from fastlstm.models.feedforward import Activation, Dense, Embedding, Input

LINE = 65  # columns of the summary
LAYOUT = {"line_length", "positions", "expand_nested", "show_trainable", "layer_range"}  # Keras's arguments of it


class Passed(NamedTuple):
    """What a pass through all layers returns."""

    y: np.ndarray
    logits: np.ndarray | None  # what the last activation was given, where that was asked for
    mask: np.ndarray | None
    tapes: list[Any]


class Network:
    """Layers, each fed with the output of the one before.

    Parameters
    ----------
    layers
        The layers, if they are not added one by one.
    name
        Name of the model.
    dtype
        float32 or float64, for all variables; by default that of the first layer that names one, or float32.
    seed
        Seed of everything random: initial weights, order of samples, dropout. None: what `set_random_seed` was told, or
        fresh entropy.
    """

    def __init__(
        self, layers: Iterable[Layer] = (), name: str = "sequential", dtype: Any = None, seed: int | None = None
    ) -> None:
        self.name, self.built = str(name), False
        self.layers: list[Layer] = []
        self._dtype = None if dtype is None else np.dtype(dtype)
        self.seed = fresh_seed() if seed is None else int(seed)
        self.input_shape: Shape | None = None
        self.shapes: list[Shape] = []  # of each layer's output
        self.theta, self.gradient = np.zeros(0), np.zeros(0)  # of the trainable variables
        self.segments: list[slice] = []
        for layer in layers or ():
            self.add(layer)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of its variables."""
        return self._dtype or next((layer.dtype for layer in self.layers if layer.dtype), np.dtype(np.float32))

    def add(self, layer: Layer) -> None:
        """Put a layer on top."""
        if not isinstance(layer, Layer):
            raise TypeError(f"layer must be a layer of fastlstm.models, but was {layer!r}")
        if any(layer is other for other in self.layers):
            raise ValueError(f"layer {layer.name} is in the model already; a layer stands in one place")
        taken = {other.name for other in self.layers}
        if layer.name in taken:
            raise ValueError(f"name must be one that no other layer of the model has, but was {layer.name!r}")
        kind = layer.kind
        layer.name = layer.name or next(
            n for n in (kind if k == 0 else f"{kind}_{k}" for k in range(len(taken) + 1)) if n not in taken
        )
        if getattr(layer, "return_state", False):
            raise ValueError(
                f"layer {layer.name} must have return_state=False in a Sequential "
                "model, since the layer above takes one input"
            )
        self.layers.append(layer)
        self.built = False
        if self.layers[0].input_shape is not None:
            self.shapes = self._infer(self.layers[0].input_shape)

    def _infer(self, shape: Shape) -> list[Shape]:
        """The shape of each layer's output, and by the way whether they fit one another."""
        shapes = []
        for layer in self.layers:
            layer.variables(shape)
            shape = layer.output_shape(shape)
            shapes.append(shape)
        return shapes

    def declare(self, input_shape: Sequence[int | None] | None = None) -> list[list[Any]]:
        """The variables of each layer, none of them made yet."""
        if not self.layers:
            raise ValueError("the model has no layers: give Sequential a list of them, or add() one")
        shape = self.layers[0].input_shape if self.layers[0].input_shape is not None else input_shape
        if shape is None:
            raise ValueError(
                "the model is not built: give the first layer an input_shape, or call build(input_shape), or fit"
            )
        self.input_shape = tuple(shape)
        self.shapes = self._infer(self.input_shape)
        return [
            layer.variables(below) for layer, below in zip(self.layers, [self.input_shape, *self.shapes], strict=False)
        ]

    def build(self, input_shape: Sequence[int | None] | None = None) -> None:
        """Make the variables.

        Parameters
        ----------
        input_shape
            Shape of a sample, unless the first layer has it.
        """
        if self.built:
            return
        self._allocate(self.declare(input_shape))
        rng = np.random.default_rng([self.seed, 0])
        for layer, below in zip(self.layers, [self.input_shape, *self.shapes], strict=False):
            assert below is not None
            layer.initialize(below, rng)
            if layer.initial_weights is not None:
                layer.set_weights(layer.initial_weights)
        self.built = True

    def _allocate(self, declared: list[list[Variable]]) -> None:
        """Make the flat arrays, and the variables of the layers as views of them."""
        counts = [sum(int(np.prod(v.shape)) for v in of) for of in declared]
        size = sum(n for n, layer in zip(counts, self.layers, strict=True) if layer.trainable)
        self.theta, self.gradient = np.zeros(size, self.dtype), np.zeros(size, self.dtype)
        self.segments, at = [], 0
        for layer, of, count in zip(self.layers, declared, counts, strict=True):
            here, flat, grad = at, self.theta, self.gradient
            if not layer.trainable:
                here, flat, grad = 0, np.zeros(count, self.dtype), np.zeros(count, self.dtype)
            params, grads = {}, {}
            for v in of:
                part = slice(here, here + int(np.prod(v.shape)))
                params[v.name], grads[v.name] = flat[part].reshape(v.shape), grad[part].reshape(v.shape)
                here = part.stop
                self.segments += [part] * layer.trainable
            layer.bind(params, grads)
            at = here if layer.trainable else at

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what was copied or pickled: the variables, arrays of their own there, become views again."""
        vars(self).update(state)
        if not self.built:
            return
        kept = [(dict(layer.params), layer.states()) for layer in self.layers]
        self._allocate(self.declare(self.input_shape))
        for layer, (params, states) in zip(self.layers, kept, strict=True):
            for name, value in params.items():
                layer.params[name][...] = value
            layer.load_states(states)

    # --- the pass through, and the pass back --------------------------------------------------------------------------

    @property
    def last_activation(self) -> str | None:
        """The activation the model ends in, where a loss could undo it."""
        last = self.layers[-1]
        return last.activation if isinstance(last, Dense | Activation) else None

    @property
    def embedded(self) -> Embedding | None:
        """The embedding that takes the model's input, if one does."""
        first = next((layer for layer in self.layers if not isinstance(layer, Input)), None)
        return first if isinstance(first, Embedding) else None

    def forward(
        self, x: np.ndarray, training: bool = False, rng: np.random.Generator | None = None, logits: bool = False
    ) -> Passed:
        """Through all layers: x and y have the time first where they have three axes."""
        tapes, mask = [], None
        for layer in self.layers[:-1] if logits else self.layers:
            x, mask, tape = layer.forward(x, Call(training, rng, mask))
            tapes.append(tape if training else None)
        if not logits:
            return Passed(x, None, mask, tapes)
        last = self.layers[-1]
        assert isinstance(last, Dense | Activation)
        z = last.logits(x)
        return Passed(ACTIVATIONS[last.activation].value(z), z, mask, [*tapes, x])

    def backward(self, d: np.ndarray, passed: Passed) -> np.ndarray | None:
        """The gradient with respect to x, from that of y, or of the logits where the pass returned them; the
        variables' into `gradient`.
        """
        layers, tapes = list(self.layers), list(passed.tapes)
        dx: np.ndarray | None = d
        if passed.logits is not None:
            last = layers.pop()
            assert isinstance(last, Dense | Activation)
            dx = last.backward_logits(d, tapes.pop())
        for layer, tape in zip(reversed(layers), reversed(tapes), strict=True):
            if dx is None:  # token ids have no gradient: an Embedding stands above an Input
                break
            dx = layer.backward(dx, tape)
        return dx

    def first_not_finite(self, x: np.ndarray) -> str:
        """Where a NaN or infinity first comes up for a batch x, in words."""
        mask = None
        for layer in self.layers:
            for name, p in layer.params.items():
                if not np.isfinite(p).all():
                    return f"{name} of layer {layer.name}"
            x, mask, _ = layer.forward(x, Call(False, None, mask))
            if not np.isfinite(x).all():
                return f"the output of layer {layer.name}"
        return "the loss itself"

    # --- weights ------------------------------------------------------------------------------------------------------

    def get_weights(self) -> list[np.ndarray]:
        """Copies of all variables, in Keras's order and layout."""
        self.build()
        return [w for layer in self.layers for w in layer.get_weights()]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Copy what `get_weights` returned."""
        self.build()
        counts = [len(layer.params) for layer in self.layers]
        if len(weights) != sum(counts):
            raise ValueError(f"weights must be the {sum(counts)} arrays of the model, but were {len(weights)}")
        rest = list(weights)
        for layer, count in zip(self.layers, counts, strict=True):
            layer.set_weights(rest[:count])
            rest = rest[count:]

    def count_params(self) -> int:
        """Elements of all variables."""
        return sum(layer.count_params() for layer in self.layers)

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """A layer by its name or its place."""
        if index is not None:
            return self.layers[index]
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ValueError(
            f"name must be that of a layer, one of {[layer.name for layer in self.layers]}, but was {name!r}"
        )

    def reset_states(self) -> None:
        """Let every stateful layer begin its next batch from zeros."""
        for layer in self.layers:
            layer.load_states({})

    def summary(self, print_fn: Any = None, **layout: Any) -> None:
        """Print each layer with the shape of its output and the number of its parameters, by `print_fn` instead of
        `print` if it is given. What else Keras's method takes lays out what it prints, and has no effect.
        """
        if unknown := set(layout) - LAYOUT:
            raise TypeError(f"summary has no argument {', '.join(sorted(unknown))}")
        if (
            not self.built
            and self.layers
            and self.layers[0].input_shape is not None
            and None not in self.layers[0].input_shape[-1:]
        ):
            self.build()
        elif not self.built and self.embedded is not None:
            self.build()
        lines = [
            f'Model: "{self.name}"',
            "=" * LINE,
            f"{'Layer (type)':<30}{'Output Shape':<22}{'Param #':>13}",
            "-" * LINE,
        ]
        for layer, shape in zip(self.layers, self.shapes or [()] * len(self.layers), strict=True):
            shown = "?" if not self.shapes else f"({', '.join(['None', *map(str, shape)])})"
            count = f"{layer.count_params():,}" if self.built else "? (unbuilt)"
            lines.append(f"{f'{layer.name} ({type(layer).__name__})':<30}{shown:<22}{count:>13}")
        total = self.count_params()
        lines += [
            "=" * LINE,
            f"Total params: {total:,}",
            f"Trainable params: {self.theta.size:,}",
            f"Non-trainable params: {total - self.theta.size:,}",
        ]
        (print_fn or print)("\n".join(lines))

    def __call__(self, x: Any, training: bool = False) -> np.ndarray:
        """The output for one batch, the batch first."""
        x = np.asarray(x)
        self.build(x.shape[1:])
        x = x if self.embedded is not None else x.astype(self.dtype, copy=False)
        return turned(self.forward(turned(x), training, np.random.default_rng() if training else None).y)


_seeds: list[np.random.Generator] = [np.random.default_rng()]


def set_random_seed(seed: int) -> None:
    """Make the models that are made from now on, and their training, the same in every run.

    Parameters
    ----------
    seed
        A whole number, 0 or more.
    """
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"seed must be an integer, but was {seed!r}")
    _seeds[0] = np.random.default_rng(int(seed))


def fresh_seed() -> int:
    """The seed of the next model."""
    return int(_seeds[0].integers(2**31))
