"""Two LSTMs over the same steps, one from each end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastlstm.models.base import Call, Layer, Result, Shape, Variable
from fastlstm.models.recurrent import LSTM

MERGES = ("concat", "sum", "mul", "ave", None)


class Tape(NamedTuple):
    """The tapes of both directions, and what they returned, where the merge needs it."""

    forward: Any
    backward: Any
    outputs: tuple[np.ndarray, np.ndarray]


class Bidirectional(Layer):
    """A layer run forwards, and a second one backwards, merged, as `keras.layers.Bidirectional`.

    Parameters
    ----------
    layer
        An LSTM; its copy, with weights of its own, runs the other way.
    merge_mode
        How the outputs become one: "concat", "sum", "mul" or "ave"; None returns both as a list, from a call by itself.
    weights
        Initial values, as `set_weights` takes them.
    backward_layer
        The layer of the other direction, if it is not to be a copy.
    """

    fields = ("merge_mode",)
    takes_sequences = True

    def __init__(
        self,
        layer: LSTM,
        merge_mode: str | None = "concat",
        weights: Sequence[Any] | None = None,
        backward_layer: LSTM | None = None,
        **base: Any,
    ) -> None:
        if not isinstance(layer, LSTM):
            raise TypeError(f"layer must be an LSTM, but was {layer!r}")
        if merge_mode not in MERGES:
            raise ValueError(f"merge_mode must be one of {', '.join(map(repr, MERGES))}, but was {merge_mode!r}")
        if layer.return_state:
            raise ValueError("layer must have return_state=False within Bidirectional, but it was True")
        super().__init__(**({"input_shape": layer.input_shape, "weights": weights} | base))
        self.merge_mode = merge_mode
        if backward_layer is None:
            config = layer.get_config() | {"go_backwards": not layer.go_backwards, "name": None}
            backward_layer = LSTM(**config)
        if (
            backward_layer.return_sequences != layer.return_sequences
            or backward_layer.go_backwards == layer.go_backwards
        ):
            raise ValueError("backward_layer must have the return_sequences of layer, and the other go_backwards")
        self.forward_layer, self.backward_layer = layer, backward_layer

    @property
    def return_sequences(self) -> bool:
        """Whether the output has all steps."""
        return self.forward_layer.return_sequences

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {
            "layer": self.forward_layer.get_config(),
            "backward_layer": self.backward_layer.get_config(),
        }

    def variables(self, shape: Shape) -> list[Variable]:
        for layer in (self.forward_layer, self.backward_layer):
            layer.name = layer.name or self.name
        return [v._replace(name=f"{side}_{v.name}") for side, layer in self._sides() for v in layer.variables(shape)]

    def output_shape(self, shape: Shape) -> Shape:
        below, above = self.forward_layer.output_shape(shape), self.backward_layer.output_shape(shape)
        if self.merge_mode is None:
            raise ValueError("merge_mode must not be None within a model, since the layer above takes one input")
        return (*below[:-1], (below[-1] or 0) + (above[-1] or 0)) if self.merge_mode == "concat" else below

    def bind(self, params: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> None:
        super().bind(params, grads)
        for side, layer in self._sides():
            layer.bind(
                *(
                    {name.removeprefix(side + "_"): a for name, a in of.items() if name.startswith(side + "_")}
                    for of in (params, grads)
                )
            )

    def initialize(self, shape: Shape, rng: np.random.Generator) -> None:
        self.forward_layer.initialize(shape, rng)
        self.backward_layer.initialize(shape, rng)

    def _sides(self) -> tuple[tuple[str, LSTM], tuple[str, LSTM]]:
        return ("forward", self.forward_layer), ("backward", self.backward_layer)

    def _shown(self, name: str) -> np.ndarray:
        return self.params[name].T

    def forward(self, x: np.ndarray, call: Call) -> Result:
        below, above = self.forward_layer.forward(x, call), self.backward_layer.forward(x, call)
        a, b = below.y, above.y[::-1] if self.return_sequences else above.y
        merged = {
            "concat": lambda: np.concatenate((a, b), axis=-1),
            "sum": lambda: a + b,
            "mul": lambda: a * b,
            "ave": lambda: (a + b) * a.dtype.type(0.5),
            None: lambda: (a, b),
        }[self.merge_mode]()
        return Result(merged, call.mask if self.return_sequences else None, Tape(below.tape, above.tape, (a, b)))

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray:
        a, b = tape.outputs
        if self.merge_mode == "concat":
            da, db = dy[..., : a.shape[-1]], dy[..., a.shape[-1] :]
        elif self.merge_mode == "mul":
            da, db = dy * b, dy * a
        else:
            da = db = dy * dy.dtype.type(0.5 if self.merge_mode == "ave" else 1)
        dx = self.forward_layer.backward(np.ascontiguousarray(da), tape.forward)
        return dx + self.backward_layer.backward(
            np.ascontiguousarray(db[::-1] if self.return_sequences else db), tape.backward
        )

    def __call__(self, x: Any, training: bool = False, mask: Any = None) -> Any:
        """The output for a batch x (B, T, I); a list of both outputs where merge_mode is None."""
        if self.merge_mode is not None:
            return super().__call__(x, training, mask)
        x = self._given(x)
        seen = None if mask is None else np.ascontiguousarray(np.asarray(mask, bool).T)
        y = self.forward(np.ascontiguousarray(x.swapaxes(0, 1)), Call(training, None, seen)).y
        return [np.ascontiguousarray(part.swapaxes(0, 1)) if part.ndim == 3 else part for part in y]

    def reset_states(self) -> None:
        """Begin the next batch from zeros, in both directions."""
        self.forward_layer.reset_states()
        self.backward_layer.reset_states()

    def states(self) -> dict[str, np.ndarray]:
        return {f"{side}_{name}": a for side, layer in self._sides() for name, a in layer.states().items()}

    def load_states(self, states: dict[str, np.ndarray]) -> None:
        for side, layer in self._sides():
            layer.load_states(
                {name.removeprefix(side + "_"): a for name, a in states.items() if name.startswith(side + "_")}
            )
