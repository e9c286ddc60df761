"""A case as an ONNX model: an LSTM node a layer, with y laid out as PyTorch has it."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from .cases import Case
from .workload import Workload

_KINDS = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


def _reordered(array: np.ndarray) -> np.ndarray:
    """Gates i, f, g, o on the first axis, as ONNX orders them: i, o, f, g."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate((i, o, f, g))


def _weights(work: Workload, layer: int) -> dict[str, np.ndarray]:
    """W (D, 4H, I), R (D, 4H, H) and B (D, 8H) of one layer."""
    suffixes = [f"l{layer}{direction}" for direction in ("", "_reverse")[: work.case.directions]]

    def stacked(kind: str) -> np.ndarray:
        return np.stack([_reordered(work.params[f"{kind}_{suffix}"]) for suffix in suffixes])

    return {"W": stacked("weight_ih"), "R": stacked("weight_hh"),
            "B": np.concatenate((stacked("bias_ih"), stacked("bias_hh")), axis=1)}  # fmt: skip


def one_step(work: Workload) -> Workload:
    """The workload over its first step."""
    return work._replace(case=work.case.shortened(1), x=work.x[:1], dy=work.dy[:1])


def state_names(case: Case) -> list[str]:
    """The state inputs of a stateful model, `(1, B, H)` each; the outputs have `_n` behind the name."""
    return [f"{kind}{k}" for k in range(case.layers) for kind in ("h", "c")]


def _layer_nodes(case: Case, k: int, source: str, target: str, stateful: bool) -> list[NodeProto]:
    """An LSTM node, and what brings its output `(T, D, B, H)` into the order of PyTorch's."""
    fed, left = [source, f"W{k}", f"R{k}", f"B{k}"], [f"Y{k}"]
    if stateful:
        fed += ["", f"h{k}", f"c{k}"]
        left += [f"h{k}_n", f"c{k}_n"]
    direction = "bidirectional" if case.bidirectional else "forward"
    return [
        helper.make_node("LSTM", fed, left, hidden_size=case.H, direction=direction),
        helper.make_node("Transpose", [f"Y{k}"], [f"Y{k}_tbdh"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", [f"Y{k}_tbdh", "y_shape"], [target]),
    ]


def sequence_model(work: Workload, stateful: bool = False) -> bytes:
    """The model x -> y, with `stateful` also from and to the states that `state_names` lists, as serialized bytes."""
    case, kind = work.case, _KINDS[work.x.dtype.name]
    y_shape = [case.T, case.B, case.directions * case.H]
    constants = [numpy_helper.from_array(np.array(y_shape, np.int64), "y_shape")]
    nodes: list[NodeProto] = []
    for k in range(case.layers):
        constants += [numpy_helper.from_array(value, f"{name}{k}") for name, value in _weights(work, k).items()]
        source, target = "x" if k == 0 else f"y{k - 1}", "y" if k == case.layers - 1 else f"y{k}"
        nodes += _layer_nodes(case, k, source, target, stateful)
    names = state_names(case) if stateful else []
    info = helper.make_tensor_value_info
    inputs = [info("x", kind, work.x.shape), *(info(name, kind, [1, case.B, case.H]) for name in names)]
    outputs = [info("y", kind, y_shape), *(info(f"{name}_n", kind, [1, case.B, case.H]) for name in names)]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    serialized: bytes = model.SerializeToString()
    return serialized
