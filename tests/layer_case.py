"""Cases for the layer.

Sizes and options, the arrays that follow from them and a seed, and the same call through the layer, the reference and
torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

import fastlstm
from fastlstm import reference
from fastlstm.cell import CellSpec

Arrays = dict[str, np.ndarray]
Layer = TypeVar("Layer")


@dataclass(frozen=True)
class LayerCase:
    """One call of a layer. Every array is standard normal, and the parameters are those that the layer starts with."""

    T: int = 7
    B: int = 3
    I: int = 5
    H: int = 9
    layers: int = 1
    bidirectional: bool = False
    bias: bool = True
    batch_first: bool = False
    unbatched: bool = False
    state: bool = True
    dtype: str = "float32"
    seed: int = 0

    @cached_property
    def lstm(self) -> fastlstm.LSTM:
        return self.made(fastlstm.LSTM, dtype=self.dtype, seed=self.seed)

    def made(self, kind: Callable[..., Layer], **options: object) -> Layer:
        """A layer of the case's sizes, by a constructor with PyTorch's arguments."""
        sizes = (self.I, self.H, self.layers, self.bias, self.batch_first)
        return kind(*sizes, bidirectional=self.bidirectional, **options)

    @cached_property
    def arrays(self) -> Arrays:
        """x, h_0, c_0, dy, dh_n, dc_n as the caller has them; the states are zeros for a case without any."""
        rng, rows, directions = (
            np.random.default_rng(self.seed + 1),
            1 if self.unbatched else self.B,
            1 + self.bidirectional,
        )
        states = (self.layers * directions, rows, self.H)
        shapes = {"x": (self.T, rows, self.I), "dy": (self.T, rows, directions * self.H)}
        shapes |= dict.fromkeys(("h_0", "c_0", "dh_n", "dc_n"), states)
        arrays = {}
        for name, shape in shapes.items():
            array = rng.standard_normal(shape).astype(self.dtype)
            if len(name) > 2 and not self.state:
                array[...] = 0
            arrays[name] = self.to_caller(name, array)
        return arrays

    def to_caller(self, name: str, array: np.ndarray) -> np.ndarray:
        """From (T, B, n) or (D*L, B, n) to the caller's layout."""
        if self.unbatched:
            return np.ascontiguousarray(array[:, 0])
        return (
            np.ascontiguousarray(array.swapaxes(0, 1)) if self.batch_first and name in ("x", "y", "dy", "dx") else array
        )

    def from_caller(self, name: str) -> np.ndarray:
        """One of `arrays` as float64 (T, B, n) or (D*L, B, n)."""
        array = self.arrays[name].astype(np.float64)
        if self.unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if self.batch_first and name in ("x", "dy") else array

    def found(self) -> Arrays:
        """Everything that the layer's `forward` and `backward` return, by name."""
        a = self.arrays
        given = (a["h_0"], a["c_0"]) if self.state else None
        y, (h_n, c_n), tape = self.lstm.forward(a["x"], given)
        dx, (dh_0, dc_0), grads = self.lstm.backward(tape, a["dy"], (a["dh_n"], a["dc_n"]) if self.state else None)
        return {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, "dh_0": dh_0, "dc_0": dc_0} | grads

    def inferred(self) -> Arrays:
        """What a plain call returns, by name."""
        y, (h_n, c_n) = self.lstm(self.arrays["x"], (self.arrays["h_0"], self.arrays["c_0"]) if self.state else None)
        return {"y": y, "h_n": h_n, "c_n": c_n}

    def expected(self) -> Arrays:
        """The same from the reference, computed in float64 from the very same numbers."""
        params = {name: array.astype(np.float64) for name, array in self.lstm.parameters.items()}
        state = self.from_caller("h_0"), self.from_caller("c_0")
        options: dict[str, Any] = {
            "num_layers": self.layers,
            "bidirectional": self.bidirectional,
            "spec": CellSpec(bias=self.bias),
        }
        y, (h_n, c_n), tape = reference.forward(params, self.from_caller("x"), state, **options)
        dx, (dh_0, dc_0), grads = reference.backward(
            tape, self.from_caller("dy"), (self.from_caller("dh_n"), self.from_caller("dc_n"))
        )
        arrays = {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, "dh_0": dh_0, "dc_0": dc_0}
        return {name: self.to_caller(name, array) for name, array in arrays.items()} | grads

    def expected_by_torch(self) -> Arrays:
        """The same from `torch.nn.LSTM` and its autograd, computed in float64."""
        import torch

        module = self.made(torch.nn.LSTM, dtype=torch.float64)
        module.load_state_dict({name: torch.tensor(array) for name, array in self.lstm.state_dict().items()})
        a = {
            name: torch.tensor(array, dtype=torch.float64, requires_grad=name in ("x", "h_0", "c_0"))
            for name, array in self.arrays.items()
        }
        y, (h_n, c_n) = module(a["x"], (a["h_0"], a["c_0"]))
        ((y * a["dy"]).sum() + (h_n * a["dh_n"]).sum() + (c_n * a["dc_n"]).sum()).backward()
        found = {"y": y, "h_n": h_n, "c_n": c_n, "dx": a["x"].grad, "dh_0": a["h_0"].grad, "dc_0": a["c_0"].grad}
        found |= {name: parameter.grad for name, parameter in module.named_parameters()}
        return {name: value.detach().numpy() for name, value in found.items()}
