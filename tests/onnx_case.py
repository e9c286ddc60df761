"""Random nodes of the ONNX LSTM operator, onnxruntime's answers to them, and layers that the reference computes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper

from fastlstm import reference
from fastlstm.cell import CellSpec, parameter_shapes

INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
OUTPUTS = ("Y", "Y_h", "Y_c")
# Each activation with what it takes of alpha and beta; those that grow without bound stand where that is harmless.
GATES = ("Sigmoid", "HardSigmoid", "Softsign", "ScaledTanh", "Tanh")  # where f = 1 - i, only the first two keep c small
OTHERS = {
    "Sigmoid": 0,
    "HardSigmoid": 2,
    "Softsign": 0,
    "ScaledTanh": 2,
    "Tanh": 0,
    "Affine": 2,
    "Relu": 0,
    "LeakyRelu": 1,
    "ThresholdedRelu": 1,
    "Elu": 1,
    "Softplus": 0,
}
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


def random_activations(rng: np.random.Generator, directions: int, coupled: bool) -> dict[str, Any]:
    """Activations for each direction, with alpha and beta for the first of those that take them."""
    names = [
        str(rng.choice([*((GATES[:2] if coupled else GATES) if k == 0 else OTHERS)]))
        for _ in range(directions)
        for k in range(3)
    ]
    takes = [OTHERS[name] for name in names]
    needed = max([k for k, name in enumerate(names) if takes[k] and name not in DEFAULTS], default=-1) + 1
    given = int(rng.integers(needed, len(names) + 1))
    found: dict[str, Any] = {"activations": [str(rng.choice([n, n.lower(), n.upper()])) for n in names]}
    for least, attribute in ((1, "activation_alpha"), (2, "activation_beta")):
        values = [float(np.float32(rng.uniform(0.1, 0.9))) for n in takes[:given] if n >= least]
        if values:
            found[attribute] = values
    return found


def random_node(rng: np.random.Generator, plain: bool = False) -> Node:
    """Everything that a node may have, each with some probability, in float32 and layout 0."""
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
        "sequence_lens": rng.integers(0, T + 1, B).astype(np.int32) if not plain and rng.random() < 0.5 else None,
        "initial_h": array(0.5, D, B, H),
        "initial_c": array(0.5, D, B, H),
        "P": array(0 if plain else 0.5, D, 3 * H, scale=0.3),
    }
    attributes: dict[str, Any] = {"hidden_size": H, "direction": direction}
    if not plain:
        attributes |= {"input_forget": 1} if rng.random() < 0.3 else {}
        attributes |= random_activations(rng, D, "input_forget" in attributes) if rng.random() < 0.6 else {}
        attributes |= {"clip": float(np.float32(rng.uniform(0.2, 2)))} if rng.random() < 0.4 else {}
    return Node(arrays, attributes)


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
        **options: Any,
    ) -> None:
        self.batch_first, self.bidirectional, self.dtype = batch_first, bidirectional, dtype
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
        y, last, _ = reference.forward(
            self.parameters, x, state, bidirectional=self.bidirectional, spec=self.spec, lengths=lengths
        )
        return y.swapaxes(0, 1) if self.batch_first else y, last
