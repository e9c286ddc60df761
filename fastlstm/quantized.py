"""Layers for inference whose matrices are stored in fewer bits; `LSTM.quantize` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.inference import Inference
from fastlstm.parameters import Parameters
from fastlstm.passes import packing
from fastlstm.rounding import FORMATS, Error, relative_error, rounded, widened
from fastlstm.sequences import PackedSequence

MATRICES = ("weight_ih", "weight_hh")
_INSTEAD = "a quantised layer is for inference alone; train or load the float32 layer, and quantize it anew"


class QuantizedLSTM(Inference):
    """A layer for inference with matrices in int8 or bfloat16, and nothing else rounded; made by `LSTM.quantize`.

    Calls and streams are those of `LSTM`, with its contracts: the same bits in any batch, at any thread count, whole or
    streamed. A layer in bfloat16 gives the bits of an `LSTM` that has its `state_dict()`.

    Parameters
    ----------
    layer
        The float32 layer whose options and parameters are taken.
    weights
        `"int8"` or `"bfloat16"`.

    Attributes
    ----------
    weights : str
        How the matrices are stored.
    weight_errors : Mapping[str, Error]
        For each matrix, by its name, what rounding did to it: `max`, the largest error over the largest weight, and
        `rms`, the root mean square of errors over that of weights.
    parameters : Mapping[str, numpy.ndarray]
        What the layer computes with, as float32 under the names of the float layer: copies, which nobody can write.

    Raises
    ------
    TypeError, ValueError
        As of `LSTM.quantize`.
    """

    def __init__(self, layer: Inference, weights: str) -> None:
        checks.choice("weights", weights, FORMATS)
        if layer.dtype != np.float32:
            raise TypeError(f"quantize: the layer's dtype must be float32, but is {layer.dtype}")
        if layer._variant.whole:
            spec = layer.spec
            wrong = [f"proj_size={spec.proj_size}"] * (spec.proj_size > 0)
            wrong += ["layer_norm=True"] * spec.layer_norm + ["peephole='full'"] * (spec.peephole == "full")
            raise ValueError(
                f"quantize: the layer must have no projection, layer normalisation or full peephole, "
                f"but has {', '.join(wrong)}"
            )
        for name, value in vars(layer).items():
            if not name.startswith("_"):
                setattr(self, name, value)
        self.weights = weights
        self._made_of, self._names, self._suffixes = repr(layer), layer._names, layer._suffixes
        self._random = layer._random  # nothing is drawn in inference
        self._variant = packing.rounded_variant(layer._variant, weights, layer.output_size)
        given = dict(layer.parameters)
        self._order = list(given)
        self._rounded = {name: rounded(name, w, weights) for name, w in given.items() if name.startswith(MATRICES)}
        self._parameters = {name: a.copy() for name, a in given.items() if name not in self._rounded}
        self._errors = {name: relative_error(widened(w), given[name]) for name, w in self._rounded.items()}
        self._mapping, self._frozen = Parameters(self._parameters), True
        self._packed, self._short = {}, {}
        self._panels: dict[str, packing.Weights] = {}

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: nothing that was derived or prepared."""
        return super().__getstate__() | {"_panels": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become a copy, perhaps on another processor: which sums are exact hangs on its instructions."""
        vars(self).update(state)
        self._variant = packing.rounded_variant(self._variant, self.weights, self.output_size)

    def __repr__(self) -> str:
        """The call that makes one like it."""
        return f"{self._made_of}.quantize({self.weights!r})"

    @property
    def weight_errors(self) -> Mapping[str, Error]:
        """What rounding did to each matrix."""
        return MappingProxyType(self._errors)

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The parameters by name, widened to float32; read-only."""
        found = self.state_dict()
        for array in found.values():
            array.flags.writeable = False
        return MappingProxyType(found)

    def state_dict(self) -> dict[str, np.ndarray]:
        """The parameters by name, widened to float32: an `LSTM` that loads them computes what this layer does."""
        return {
            name: widened(self._rounded[name]) if name in self._rounded else self._parameters[name].copy()
            for name in self._order
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Refused: a quantised layer keeps the parameters that it was made with."""
        raise TypeError(f"load_state_dict: {_INSTEAD}")

    def freeze(self, frozen: bool = True) -> None:
        """Do nothing: a quantised layer is always frozen, and False is refused."""
        if not checks.flag("frozen", frozen):
            raise ValueError("frozen must be True for a quantised layer, whose parameters cannot be written")

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refused: a quantised layer is for inference alone."""
        raise TypeError(f"forward: {_INSTEAD}")

    def backward(self, *_: Any, **__: Any) -> Any:
        """Refused: a quantised layer is for inference alone."""
        raise TypeError(f"backward: {_INSTEAD}")

    def error(
        self, layer: Inference, x: Any, state: tuple[Any, Any] | None = None, *, lengths: Any = None, reset: Any = None
    ) -> Error:
        """How far the output is from another layer's on the same input.

        Parameters
        ----------
        layer
            The layer that this one was made of, or another of its sizes.
        x, state, lengths, reset
            As of a call.

        Returns
        -------
        Error
            Of y, absolute: `max`, the largest error, and `rms`, the root mean square of errors.

        Raises
        ------
        TypeError, ValueError
            `layer` is none, or its output has another shape; an argument that a call refuses.
        """
        if not isinstance(layer, Inference):
            raise TypeError(f"layer must be an LSTM, but was {type(layer).__name__}")
        found, wanted = (_flat(one(x, state, lengths=lengths, reset=reset)[0]) for one in (self, layer))
        if found.shape != wanted.shape:
            raise ValueError(f"layer must give y of the shape {found.shape}, but gives {wanted.shape}")
        if not found.size:
            return Error(0.0, 0.0)
        off = np.subtract(found, wanted, dtype=np.float64)
        return Error(float(abs(off).max()), float(np.sqrt(np.square(off).mean())))

    def _pack(self, way: str, suffix: str) -> packing.Weights:
        """The packed weights of one layer and direction."""
        if suffix not in self._panels:
            p = {name: self._parameters[name + suffix] for name in self._names if name not in MATRICES}
            matrices = (self._rounded[name + suffix] for name in MATRICES)
            self._panels[suffix] = packing.pack_rounded(self.spec, self._variant, p, *matrices)
        return self._panels[suffix]


def _flat(y: Any) -> np.ndarray:
    """An output as one array: a pair of directions is joined, a packed one is its data."""
    if isinstance(y, PackedSequence):
        return y.data
    return np.concatenate([_flat(part) for part in y], axis=-1) if isinstance(y, tuple) else y
