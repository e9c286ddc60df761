"""LSTM nodes of an ONNX graph made into operators: where a graph finds a name, which values are constant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from fastlstm.onnx.operator import Attributes, Operator, Weights

# What exporters put between a constant and a node: operators that only move elements. That they may be given no more
# than so many times what the model holds keeps a hostile file from asking for memory by joining a tensor with itself.
GROWTH = 8
MOVING = {"Cast", "Concat", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
WEIGHTS = ("W", "R", "B", "P")


def is_lstm(node: onnx.NodeProto) -> bool:
    """Whether a node is ONNX's LSTM."""
    return node.op_type == "LSTM" and node.domain in ("", "ai.onnx")


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def used(node: onnx.NodeProto) -> set[str]:
    """The names that a node takes, those that its graphs see of the outside included."""
    found = {name for name in node.input if name}
    for graph in subgraphs(node):
        inside = {t.name for t in graph.initializer} | {i.name for i in graph.input}
        for inner in graph.node:
            found |= used(inner) - inside
            inside |= set(inner.output)
        found |= {o.name for o in graph.output} - inside
    return found


def title(node: onnx.NodeProto) -> str:
    """A node's name, or that of its first output."""
    return node.name or next((name for name in node.output if name), node.op_type)


class Scope:
    """What the nodes of a graph see: the graph, and those around it."""

    def __init__(self, graph: onnx.GraphProto, model: onnx.ModelProto, outer: Scope | None = None) -> None:
        self.graph, self._model, self.outer = graph, model, outer
        self.initializers = {tensor.name: tensor for tensor in graph.initializer}
        # A Constant node is as good as an initializer.
        self.initializers |= {
            node.output[0]: tensor for node in graph.node if (tensor := self.tensor(node)) is not None and node.output
        }
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._names = {*self.initializers, *self._producers, *(i.name for i in graph.input)}
        self._known: dict[str, np.ndarray | None] = {}

    @staticmethod
    def tensor(node: onnx.NodeProto) -> onnx.TensorProto | None:
        """The tensor of a Constant node; None of another, or of one that holds no numbers."""
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            return None
        for attribute in node.attribute:
            found = None
            if attribute.name == "value":
                found = onnx.TensorProto()
                found.CopyFrom(attribute.t)
            elif attribute.name in ("value_int", "value_ints", "value_float", "value_floats"):
                dtype = np.int64 if "int" in attribute.name else np.float32
                found = numpy_helper.from_array(np.array(helper.get_attribute_value(attribute), dtype))
            if found is not None:
                found.name = node.output[0]
                return found
        return None

    def initializer(self, name: str) -> onnx.TensorProto | None:
        """The initializer of a name, of this graph or of one around it."""
        if name in self._names or self.outer is None:
            return self.initializers.get(name)
        return self.outer.initializer(name)

    def constant(self, name: str) -> np.ndarray | None:
        """The value of a name where it is the same in every run, else None."""
        if name not in self._names:
            return None if self.outer is None else self.outer.constant(name)
        if name not in self._known:
            self._known[name] = self._constant(name)
        return self._known[name]

    def _constant(self, name: str) -> np.ndarray | None:
        if name in self.initializers:
            try:
                return numpy_helper.to_array(self.initializers[name])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"the tensor {name!r} must be whole, but cannot be read: {error}") from error
        node = self._producers.get(name)
        if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in MOVING:
            return None
        given = {i: value for i in node.input if i and (value := self.constant(i)) is not None}
        if len(given) < len({i for i in node.input if i}):
            return None
        if sum(given[i].nbytes for i in node.input if i) > GROWTH * self._model.ByteSize():
            raise ValueError(f"{name!r} must be made of the model's tensors, but would be more than all of them")
        try:
            return self._moved(node, given)[list(node.output).index(name)]
        except Exception as error:  # whatever the evaluator meets in a node that is wrong
            raise ValueError(f"the {node.op_type} node {title(node)!r} cannot be computed: {error}") from error

    def _moved(self, node: onnx.NodeProto, given: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs of a node."""
        infos = [
            helper.make_tensor_value_info(i, helper.np_dtype_to_tensor_dtype(v.dtype), None) for i, v in given.items()
        ]
        outs = [helper.make_empty_tensor_value_info(o) for o in node.output]
        model = helper.make_model(
            helper.make_graph([node], "constant", infos, outs),
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
        )
        values = ReferenceEvaluator(model).run(None, given)
        assert isinstance(values, list)
        return values

    def inside(self, graph: onnx.GraphProto) -> Scope:
        """The scope of a graph within one of this graph's nodes."""
        return Scope(graph, self._model, self)


def operator(node: onnx.NodeProto, scope: Scope) -> Operator:
    """The operator of an LSTM node.

    Raises
    ------
    TypeError, ValueError
        The node is none that ONNX defines, or its weights are not constant; the message names the node.
    """
    try:
        attributes = _attributes(node)
        names = dict(zip(INPUTS, node.input, strict=False))
        values = {name: scope.constant(given) for name, given in names.items() if given}
        for name in ("W", "R", "B", "P"):
            if name in values and values[name] is None:
                raise ValueError(
                    f"{name} must be constant, but {names[name]!r} is computed in the graph, or is one of its inputs"
                )
            if name in ("W", "R") and name not in values:
                raise ValueError(f"{name} must be given, but is not")
        W = values["W"]
        assert W is not None
        if W.dtype not in (np.float32, np.float64):
            raise TypeError(f"W must be of float32 or float64, but is of {W.dtype}")
        weights = Weights.checked(attributes, W.dtype, *(values.get(name) for name in WEIGHTS))
        defaults = {n: v for n, v in values.items() if n not in (*WEIGHTS, "X") and v is not None}
        return Operator(attributes, weights, defaults)
    except (TypeError, ValueError) as error:
        raise type(error)(f"LSTM node {title(node)!r}: {error}") from error


def _attributes(node: onnx.NodeProto) -> Attributes:
    given: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, list):
            value = [part.decode() if isinstance(part, bytes) else part for part in value]
        given[attribute.name] = value
    given.pop("output_sequence", None)  # opset 1: whether Y is made, which the outputs tell too
    if unknown := set(given) - {*Attributes._fields, "activation_alpha", "activation_beta", "input_forget"}:
        raise ValueError(f"attributes must be those of ONNX's LSTM, but one was {', '.join(sorted(unknown))}")
    if "hidden_size" not in given:
        raise ValueError("hidden_size must be given, but is not")
    return Attributes.checked(**given)
