"""A model whose LSTM nodes this library computes and everything else onnxruntime: the graph is cut at them.

A graph becomes *steps*: segments, each a model of its own for onnxruntime, and between them LSTM nodes and those If
nodes that have some within, whose branches are cut likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    NotImplemented,
    RuntimeException,
)

from fastlstm import checks
from fastlstm.onnx.files import Source, read
from fastlstm.onnx.graph import INPUTS, Scope, is_lstm, operator, subgraphs, title, used
from fastlstm.onnx.operator import Operator

Values = dict[str, Any]
Types = dict[str, onnx.TypeProto]
DYNAMIC = ("X", "sequence_lens", "initial_h", "initial_c")  # what an operator is called with
# Floating-point operations of an LSTM node from which on this library gains more than the cut costs. Measured on one
# thread at 128 units and B = 1: 3 us are gained of a million, and a cut costs 25.
LEAST_FLOPS = 1e7
SHAPES = 256  # of which a session remembers whether they are worth it
CPU = ("CPUExecutionProvider",)
REFUSALS = (Fail, InvalidArgument, InvalidGraph, NotImplemented, RuntimeException)  # models that onnxruntime cannot run


class Segment(NamedTuple):
    """Nodes that onnxruntime computes."""

    session: onnxruntime.InferenceSession
    inputs: list[str]
    outputs: list[str]

    def run(self, values: Values, work: list[float]) -> None:
        feeds = {name: values[name] for name in self.inputs if name in values}
        values.update(zip(self.outputs, self.session.run(self.outputs, feeds), strict=True))


class Lstm(NamedTuple):
    """An LSTM node: its operator, and the names of what the operator takes and returns, empty where there is none."""

    operator: Operator
    inputs: list[str]
    outputs: list[str]

    def run(self, values: Values, work: list[float]) -> None:
        found = self.operator(*[values[name] if name else None for name in self.inputs])
        work.append(self.operator.flops(found[0]))
        values.update((name, value) for name, value in zip(self.outputs, found, strict=False) if name)


class Branch(NamedTuple):
    """An If node."""

    condition: str
    graphs: tuple[Steps, Steps]  # else, then
    outputs: list[str]

    def run(self, values: Values, work: list[float]) -> None:
        found = self.graphs[bool(np.all(values[self.condition]))].run(dict(values), work)
        values.update(zip(self.outputs, found, strict=True))


class Steps(NamedTuple):
    """A graph that was cut."""

    steps: list[Segment | Lstm | Branch]
    outputs: list[str]
    constants: Values  # outputs that no step makes

    def run(self, values: Values, work: list[float]) -> list[Any]:
        """The outputs, from the values of all that the graph takes; `values` grows, and `work` by the operations of
        each LSTM node.
        """
        for step in self.steps:
            step.run(values, work)
        return [values[name] if name in values else self.constants[name] for name in self.outputs]


class Session:
    """A model as `onnxruntime.InferenceSession` runs it, its LSTM nodes computed by this library; made by `replace`.

    Attributes
    ----------
    replaced : dict of Operator
        The LSTM nodes that are, by name.
    left : dict of str
        Those that onnxruntime computes, and why.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        least_flops: float = LEAST_FLOPS,
    ) -> None:
        self._least = checks.number("least_flops", least_flops)
        initializers = {tensor.name for tensor in model.graph.initializer}
        self._inputs = {i.name: i.name not in initializers for i in model.graph.input}  # whether it must be fed
        self._outputs = [o.name for o in model.graph.output]
        cutter = _Cutter(model, sess_options, providers)
        self._steps = cutter.cut(Scope(model.graph, model), {i.name: i.type for i in model.graph.input})
        self.replaced, self.left = cutter.replaced, cutter.left
        # onnxruntime can be told other values for initializers that are inputs too, but an operator keeps its own.
        self._fixed = cutter.fixed
        self._small: dict[tuple, bool] = {}  # by the shapes of inputs
        self._whole = (model, sess_options, providers) if self.replaced and self._least > 0 else None
        self._uncut: onnxruntime.InferenceSession | None = None

    def _uncut_session(self, key: tuple) -> onnxruntime.InferenceSession | None:
        """A session of the whole model, for calls of which it is known that their LSTM nodes compute little."""
        whole = self._whole  # which another thread may find refused
        if whole is not None and self._uncut is None and self._small.get(key):
            model, options, providers = whole
            try:
                self._uncut = onnxruntime.InferenceSession(
                    model.SerializeToString(), options, providers=providers or CPU
                )
            except REFUSALS:
                self._whole = None
        return self._uncut if self._small.get(key) else None

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: Any = None
    ) -> list[Any]:
        """Run the model.

        Parameters
        ----------
        output_names
            The outputs to return; None or none: all.
        input_feed
            An array for each input.
        run_options
            Must be None.

        Returns
        -------
        list
            The outputs, in the order of `output_names`.

        Raises
        ------
        ValueError
            A name that is not the model's, an input that is missing, an array that an LSTM node does not take.
        Exception
            What onnxruntime raises.
        """
        if run_options is not None:
            raise ValueError(f"run_options must be None, but was {run_options!r}")
        if unknown := [name for name in output_names or () if name not in self._outputs]:
            raise ValueError(f"output_names must be of {self._outputs}, but had {unknown}")
        if unknown := [name for name in input_feed if name not in self._inputs]:
            raise ValueError(f"input_feed must be of {[*self._inputs]}, but had {unknown}")
        if missing := [name for name, must in self._inputs.items() if must and name not in input_feed]:
            raise ValueError(f"input_feed must have all inputs of the model, but lacks {missing}")
        if fixed := [name for name in input_feed if name in self._fixed]:
            raise ValueError(f"input_feed must not have weights of LSTM nodes that were replaced, but had {fixed}")
        key = *input_feed, *[getattr(array, "shape", None) for array in input_feed.values()]
        if (uncut := self._uncut_session(key)) is not None:
            return uncut.run(output_names, input_feed)
        work: list[float] = []
        found = dict(zip(self._outputs, self._steps.run(dict(input_feed), work), strict=True))
        if self._whole is not None and key not in self._small:
            if len(self._small) >= SHAPES:
                self._small.clear()
            self._small[key] = sum(work) < self._least * len(work)
            if self._small[key]:  # the same bits as of the calls that follow
                return self.run(output_names, input_feed)
        return [found[name] for name in output_names or self._outputs]


def replace(
    model: Source,
    sess_options: Any = None,
    providers: Sequence[Any] | None = None,
    *,
    least_flops: float = LEAST_FLOPS,
) -> Session:
    """Make a session that computes a model's LSTM nodes by this library, and the rest by onnxruntime.

    Parameters
    ----------
    model
        The file, its content, or an `onnx.ModelProto`.
    sess_options, providers
        As of `onnxruntime.InferenceSession`; by default its own options, and the CPU.
    least_flops
        Floating-point operations that an LSTM node must compute on the average, 8 T B H (I + H) for each direction:
        calls with inputs of such shapes that they compute less go to onnxruntime as they are, if it can run the model.
        With 0 all calls are cut.

    Returns
    -------
    Session
        With `run(output_names, input_feed)`. `replaced` and `left` tell which nodes this library computes, and which it
        does not, and why: nodes within Loop, Scan and functions, and those whose weights are not constant.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no ONNX model, or not whole; `least_flops` is not finite.
    TypeError
        `least_flops` is no number.
    Exception
        What onnxruntime raises for a model that it cannot run.
    ModuleNotFoundError
        onnx or onnxruntime is not installed.

    Notes
    -----
    Nodes that onnxruntime's CPU provider refuses, those in float64 or of layout 1, run here. Each cut costs some 25
    microseconds, as much as 30 steps of one row of 128 units gain: hence `least_flops`. The first call of a model with
    small inputs makes a session of the whole beside those of the parts.
    """
    try:
        return Session(read(model), sess_options, providers, least_flops)
    except RecursionError as error:
        raise ValueError("the model's graphs, or the operators between a constant and a node, nest too deep") from error


class _Cutter:
    """Cuts the graphs of one model."""

    def __init__(self, model: onnx.ModelProto, options: Any, providers: Sequence[Any] | None) -> None:
        self._model, self._options, self._providers = model, options, providers or CPU
        if options is None:
            # Threads that spin between the segments would take the processor from the layers.
            self._options = onnxruntime.SessionOptions()
            self._options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.replaced: dict[str, Operator] = {}
        self.left = {
            title(node): f"it is within the function {function.name}"
            for function in model.functions
            for node in function.node
            if is_lstm(node)
        }
        self.fixed: set[str] = set()  # names of what the operators keep

    def cut(self, scope: Scope, types: Types) -> Steps:
        """The steps of a graph; `types` has those of its inputs and of what it sees of the outside, and grows."""
        outputs = [o.name for o in scope.graph.output]
        places, needed = [], set(outputs)
        for place in reversed([self._place(node, scope) for node in scope.graph.node if scope.tensor(node) is None]):
            if needed & set(place.node.output):
                needed |= place.takes
                places.append(place)
        stage_of: dict[str, int] = {}
        stages: dict[int, list[_Place]] = {}
        for place in reversed(places):
            stage = max((stage_of.get(name, 0) for name in place.takes), default=0)
            stages.setdefault(stage, []).append(place)
            stage_of.update((name, stage + (not place.plain)) for name in place.node.output)
        steps: list[Segment | Lstm | Branch] = []
        for _, here in sorted(stages.items()):
            plain = [place for place in here if place.plain]
            others = [place for place in places if not any(place is p for p in plain)]
            wanted = set(outputs).union(*(place.takes for place in others))
            if plain:
                steps.append(self._segment(plain, wanted, scope, types))
            steps += [self._step(place, scope, types) for place in here if not place.plain]
        constants = {name: numpy_helper.to_array(t) for name in outputs if (t := scope.initializer(name)) is not None}
        for name, array in constants.items():
            types.setdefault(name, _tensor_type(array.dtype))
        return Steps(steps, outputs, constants)

    def _place(self, node: onnx.NodeProto, scope: Scope) -> _Place:
        """What a node becomes."""
        if is_lstm(node):
            try:
                found = operator(node, scope)
            except (TypeError, ValueError) as error:
                self.left[title(node)] = str(error)
                return _Place(node, used(node))
            self.replaced[title(node)] = found
            names = dict(zip(INPUTS, node.input, strict=False))
            inputs = ["" if name in found.defaults else names.get(name, "") for name in DYNAMIC]
            self.fixed |= set(node.input) - set(inputs)
            return _Place(node, {name for name in inputs if name}, Lstm(found, inputs, list(node.output)))
        inside = [graph for graph in subgraphs(node) if _has_lstm(graph, by_if=False)]
        if node.op_type == "If" and any(_has_lstm(graph, by_if=True) for graph in inside):
            return _Place(node, used(node), cut=True)
        self.left |= {
            name: f"it is within the {node.op_type} node {title(node)!r}" for g in inside for name in _lstms(g)
        }
        return _Place(node, used(node))

    def _segment(self, plain: list[_Place], wanted: set[str], scope: Scope, types: Types) -> Segment:
        """The model of some nodes."""
        made = {name for place in plain for name in place.node.output if name}
        taken = sorted(set().union(*(place.takes for place in plain)) - made)
        tensors = {name: tensor for name in taken if (tensor := scope.initializer(name)) is not None}
        inputs = [name for name in taken if name not in tensors or name in types]
        if lost := [name for name in inputs if name not in types]:
            raise ValueError(f"the model's nodes must be in order, but {lost[0]!r} is taken before it is made")
        outputs = sorted(made & wanted)
        graph = helper.make_graph(
            [place.node for place in plain],
            "segment",
            [helper.make_value_info(name, types[name]) for name in inputs],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [*tensors.values()],
        )
        model = helper.make_model(
            graph,
            opset_imports=self._model.opset_import,
            functions=self._model.functions,
            ir_version=max(self._model.ir_version, 4),
        )
        session = onnxruntime.InferenceSession(model.SerializeToString(), self._options, providers=self._providers)
        types.update((o.name, _parsed(o.type)) for o in session.get_outputs())
        return Segment(session, inputs, outputs)

    def _step(self, place: _Place, scope: Scope, types: Types) -> Lstm | Branch:
        """The step of a node that onnxruntime does not compute."""
        node = place.node
        if place.lstm is not None:
            types.update((name, _tensor_type(place.lstm.operator.dtype)) for name in node.output if name)
            return place.lstm
        graphs = {a.name: a.g for a in node.attribute}
        if set(graphs) != {"then_branch", "else_branch"}:
            raise ValueError(f"the If node {title(node)!r} must have a then_branch and an else_branch")
        known = [dict(types), dict(types)]
        branches = [
            self.cut(scope.inside(graphs[name]), of)
            for name, of in zip(("else_branch", "then_branch"), known, strict=True)
        ]
        for name, inner in zip(node.output, branches[1].outputs, strict=True):
            types[name] = known[1][inner]
        return Branch(node.input[0], (branches[0], branches[1]), list(node.output))


class _Place(NamedTuple):
    """A node, and what becomes of it: an LSTM step, an If node to be cut, or else one of a segment."""

    node: onnx.NodeProto
    takes: set[str]
    lstm: Lstm | None = None
    cut: bool = False

    @property
    def plain(self) -> bool:
        return self.lstm is None and not self.cut


def _lstms(graph: onnx.GraphProto) -> list[str]:
    """The names of the LSTM nodes in a graph and within its nodes."""
    own = [title(node) for node in graph.node if is_lstm(node)]
    return own + [name for node in graph.node for inner in subgraphs(node) for name in _lstms(inner)]


def _has_lstm(graph: onnx.GraphProto, by_if: bool) -> bool:
    """Whether there is an LSTM node in a graph or within its nodes, or only within those that are If."""
    return any(
        is_lstm(node)
        or ((node.op_type == "If" or not by_if) and any(_has_lstm(inner, by_if) for inner in subgraphs(node)))
        for node in graph.node
    )


def _tensor_type(dtype: Any) -> onnx.TypeProto:
    return helper.make_tensor_type_proto(helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), None)


def _parsed(kind: str) -> onnx.TypeProto:
    """The type that onnxruntime writes as `tensor(float)`."""
    if not (kind.startswith("tensor(") and kind.endswith(")")):
        raise ValueError(f"the model must hand tensors from one part to the next where it is cut, but one is {kind}")
    element = onnx.TensorProto.DataType.Value(kind[len("tensor(") : -1].upper())
    return helper.make_tensor_type_proto(element, None)
