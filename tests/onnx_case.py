"""Random nodes of the ONNX LSTM operator, onnxruntime's answers to them, and layers that the reference computes."""

from __future__ import annotations

import argparse
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from fastlstm import reference
from fastlstm.cell import CellSpec, parameter_shapes
from fastlstm.onnx import operator

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")
# Each activation with what it takes of alpha and beta; those that grow without bound stand where that is harmless.
GATES = ("Sigmoid", "HardSigmoid", "Softsign", "ScaledTanh", "Tanh")  # where f = 1 - i, only the first two keep c small
OTHERS = {"Sigmoid": 0, "HardSigmoid": 2, "Softsign": 0, "ScaledTanh": 2, "Tanh": 0, "Affine": 2, "Relu": 0}
OTHERS |= {"LeakyRelu": 1, "ThresholdedRelu": 1, "Elu": 1, "Softplus": 0}
# Those that may be left without: ONNX has no defaults for some, and onnxruntime takes 0, not 1, for ThresholdedRelu.
DEFAULTS = ("HardSigmoid", "LeakyRelu", "Elu")


class Node(NamedTuple):
    """One node: the arrays by their names, None where one is left out, and the attributes."""

    arrays: dict[str, np.ndarray | None]
    attributes: dict[str, Any]

    def in_layout(self, layout: int) -> Node:
        """The same node with the batch first, or not."""
        turned = {
            n: a if a is None or n not in ("X", "initial_h", "initial_c") else np.ascontiguousarray(a.swapaxes(0, 1))
            for n, a in self.arrays.items()
        }
        return Node(turned if layout else self.arrays, self.attributes | {"layout": layout})

    def astype(self, dtype: Any) -> Node:
        """The same node with floating arrays of another dtype."""
        arrays = {n: a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for n, a in self.arrays.items()}
        return Node(arrays, self.attributes)


class Cell(NamedTuple):
    """What a node computes: for each of two directions three activations, each (name, alpha, beta), and the rest."""

    functions: tuple[tuple[tuple[str, float | None, float | None], ...], ...] | None
    clip: float | None
    coupled: bool
    peephole: bool

    def attributes(self, directions: int) -> dict[str, Any]:
        """Those of a node of one or two directions."""
        found: dict[str, Any] = {"input_forget": 1} if self.coupled else {}
        found |= {} if self.clip is None else {"clip": self.clip}
        if self.functions is None:
            return found
        functions = [function for of in self.functions[:directions] for function in of]
        found["activations"] = [name for name, _, _ in functions]
        for k, attribute in ((1, "activation_alpha"), (2, "activation_beta")):
            values = [function[k] for function in functions if function[k] is not None]
            found |= {attribute: values} if values else {}
        return found


PLAIN = Cell(None, None, False, False)


def random_cell(rng: np.random.Generator) -> Cell:
    """Every option with some probability."""
    coupled = rng.random() < 0.3

    def function(names: Any) -> tuple[str, float | None, float | None]:
        name = str(rng.choice([*names]))
        alpha, beta = (float(np.float32(rng.uniform(0.1, 0.9))) if OTHERS[name] > k else None for k in (0, 1))
        return str(rng.choice([name, name.lower(), name.upper()])), alpha, beta

    def functions() -> tuple[tuple[str, float | None, float | None], ...]:
        return function(GATES[:2] if coupled else GATES), function(OTHERS), function(OTHERS)

    chosen = None
    if rng.random() < 0.6:
        one = functions()
        chosen = (one, functions() if rng.random() < 0.5 else one)
    clip = float(np.float32(rng.uniform(0.2, 2))) if rng.random() < 0.4 else None
    return Cell(chosen, clip, coupled, rng.random() < 0.5)


def random_node(rng: np.random.Generator, cell: Cell | None = None) -> Node:
    """Everything that a node may have, each with some probability, in float32 and layout 0."""
    cell = random_cell(rng) if cell is None else cell
    T, B, I, H = (int(n) for n in rng.integers(1, (12, 7, 9, 12)))
    direction = str(rng.choice(["forward", "reverse", "bidirectional"]))
    D = 1 + (direction == "bidirectional")

    def array(chance: float, *shape: int, scale: float = 1.0) -> np.ndarray | None:
        given = (scale * rng.standard_normal(shape)).astype(np.float32)
        return given if rng.random() < chance else None

    arrays = {
        "X": array(1, T, B, I),
        "W": array(1, D, 4 * H, I, scale=0.4),
        "R": array(1, D, 4 * H, H, scale=0.3),
        "B": array(0.7, D, 8 * H, scale=0.5),
        "sequence_lens": rng.integers(0, T + 1, B).astype(np.int32) if rng.random() < 0.5 else None,
        "initial_h": array(0.5, D, B, H),
        "initial_c": array(0.5, D, B, H),
        "P": array(float(cell.peephole), D, 3 * H, scale=0.3),
    }
    attributes: dict[str, Any] = {"hidden_size": H, "direction": direction} | cell.attributes(D)
    if rng.random() < 0.3:  # the last values may be left out where ONNX has defaults for them
        attributes = _shortened(attributes)
    return Node(arrays, attributes)


def _shortened(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes without the alphas and betas of the activations behind the last that needs them."""
    names = {name.lower(): name for name in OTHERS}
    takers = [names[name.lower()] for name in attributes.get("activations", ())]
    needed = max([k for k, name in enumerate(takers) if OTHERS[name] and name not in DEFAULTS], default=-1) + 1
    found = dict(attributes)
    for least, attribute in ((1, "activation_alpha"), (2, "activation_beta")):
        values = found.pop(attribute, [])[: sum(OTHERS[name] >= least for name in takers[:needed])]
        found |= {attribute: values} if values else {}
    return found


def model(node: Node, opset: int = 22, fixed: tuple[str, ...] = ()) -> onnx.ModelProto:
    """A model of one node; the arrays `fixed` are its initializers, the others its inputs."""
    inputs = [name if node.arrays.get(name) is not None else "" for name in INPUTS]
    while not inputs[-1]:
        inputs.pop()
    proto = helper.make_node("LSTM", inputs, OUTPUTS, name="lstm", **node.attributes)
    given = {name: node.arrays[name] for name in inputs if name}
    infos = [
        helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for n, a in given.items()
        if n not in fixed
    ]
    outs = [helper.make_empty_tensor_value_info(n) for n in OUTPUTS]
    initializers = [onnx.numpy_helper.from_array(given[name], name) for name in fixed if name in given]
    graph = helper.make_graph([proto], "lstm", infos, outs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    """onnxruntime on one thread, silent."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def by_onnxruntime(node: Node) -> list[np.ndarray]:
    """Y, Y_h and Y_c."""
    return session(model(node)).run(None, {n: a for n, a in node.arrays.items() if a is not None})


class ReferenceLSTM:
    """A layer in the place of `fastlstm.LSTM` that the specification computes: any cell, and nothing to compile."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool,
        batch_first: bool,
        bidirectional: bool,
        dtype: Any,
        seed: int,
        reverse: bool,
        **options: Any,
    ) -> None:
        self.batch_first, self.bidirectional, self.reverse, self.dtype = batch_first, bidirectional, reverse, dtype
        self.spec = CellSpec(bias=bias, **options)
        suffixes = ["_l0", "_l0_reverse"][: 1 + bidirectional]
        shapes = parameter_shapes(self.spec, input_size, hidden_size)
        self.shapes = {name + suffix: shape for suffix in suffixes for name, shape in shapes.items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        assert {name: a.shape for name, a in state.items()} == self.shapes
        self.parameters = state

    def freeze(self) -> None:
        """Nothing to be done."""

    def __call__(self, x: np.ndarray, state: Any, lengths: np.ndarray | None = None) -> tuple[np.ndarray, Any]:
        x = x.swapaxes(0, 1) if self.batch_first else x
        source = np.arange(len(x))[:, None, None] + np.zeros(x.shape[1:2], int)[:, None]
        if self.reverse:
            ends = len(x) if lengths is None else lengths[:, None]
            source = np.where(source < ends, ends - 1 - source, source)
        y, last, _ = reference.forward(
            self.parameters,
            np.take_along_axis(x, source, axis=0),
            state,
            bidirectional=self.bidirectional,
            spec=self.spec,
            lengths=lengths,
        )
        y = np.take_along_axis(y, source, axis=0)
        return y.swapaxes(0, 1) if self.batch_first else y, last


def by_reference(node: Node) -> tuple[np.ndarray, ...]:
    """Y, Y_h and Y_c by the specification, in the node's dtype and layout."""
    given = dict(node.attributes)
    attributes = operator.Attributes.checked(**given)
    weights = operator.Weights.checked(attributes, node.arrays["X"].dtype, *(node.arrays[n] for n in "WRBP"))
    with mock.patch.object(operator, "LSTM", ReferenceLSTM):
        made = operator.Operator(attributes, weights)
    return made(*(node.arrays[name] for name in ("X", "sequence_lens", "initial_h", "initial_c")))


def agree(count: int, cells: int, seed: int, dtype: str) -> float:
    """Compare so many random nodes, of so many cells: with onnxruntime in float32, with the reference in float64, where
    every other has layout 1. The largest error, relative where values are over 1.
    """
    rng, worst, compared = np.random.default_rng(seed), 0.0, 0
    pool = [random_cell(rng) for _ in range(cells)]
    while compared < count:
        node = random_node(rng, pool[rng.integers(cells)]).astype(dtype).in_layout(compared % 2 * (dtype == "float64"))
        expected = by_onnxruntime(node) if dtype == "float32" else by_reference(node)
        if not all(np.isfinite(array).all() for array in expected):  # onnxruntime's Softplus overflows from 89 on
            continue
        for found, wanted in zip(operator.lstm(**node.arrays, **node.attributes), expected, strict=True):
            worst = max(worst, abs(found - wanted).max(initial=0) / max(1.0, abs(wanted).max(initial=0)))
        compared += 1
    return float(worst)


if __name__ == "__main__":  # takes minutes, nearly all of them to compile the cells
    parser = argparse.ArgumentParser(description="Compare random nodes with onnxruntime, or the reference.")
    for name, value in (("count", 2000), ("cells", 25), ("seed", 0), ("dtype", "float32")):
        parser.add_argument(f"--{name}", type=type(value), default=value)
    options = parser.parse_args()
    print(
        f"{options.count} nodes of {options.cells} cells, {options.dtype}: off by {agree(**vars(options)):.2g} at most"
    )
