"""ONNX models read and written: LSTM nodes made into layers, and layers into models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from fastlstm import weights
from fastlstm.cell import ACTIVATIONS, CellSpec
from fastlstm.layer import LSTM
from fastlstm.onnx.graph import Scope, is_lstm, operator, subgraphs, title
from fastlstm.onnx.operator import NAMES, PLAIN, Operator

Source: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto
ONNX_NAMES = {name.lower(): name for name in NAMES}


def read(source: Source) -> onnx.ModelProto:
    """A model from a file, from its bytes, or as it is."""
    if isinstance(source, onnx.ModelProto):
        model, what = source, "model"
    else:
        what = "model" if isinstance(source, bytes) else os.fspath(source)
        try:
            model = onnx.load_from_string(source) if isinstance(source, bytes) else onnx.load(os.fspath(source))
        except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
            raise ValueError(f"{what} is no ONNX model that can be read: {error}") from error
    if not model.HasField("graph") or not model.opset_import:
        raise ValueError(f"{what} is no ONNX model: it has no graph, or no opset_import")
    return model


def load(source: Source) -> dict[str, Operator]:
    """Take the LSTM nodes of an ONNX model, those within If, Loop and Scan included.

    Parameters
    ----------
    source
        The file, its content, or an `onnx.ModelProto`.

    Returns
    -------
    dict
        By the node's name, or that of its first output, an `Operator`: called, it computes the node; its `layers` are
        what computes it, `fastlstm.LSTM`s with the node's weights and options. States and lengths that the model has
        as constants are what the operator takes unless a call gives others.

    Raises
    ------
    OSError
        The file cannot be read.
    TypeError, ValueError
        It is no ONNX model, or not whole, or has no LSTM node, or one whose weights are not constant, or with values
        that ONNX does not allow; the message names the node.
    ModuleNotFoundError
        onnx is not installed.
    """
    found: dict[str, Operator] = {}
    model = read(source)
    try:
        for node, scope in _nodes(Scope(model.graph, model)):
            name, k = title(node), 1
            while name in found:
                name, k = f"{title(node)}_{k}", k + 1
            found[name] = operator(node, scope)
    except RecursionError as error:
        raise ValueError("the model's graphs, or the operators between a constant and a node, nest too deep") from error
    if not found:
        raise ValueError("the model must have an LSTM node, but has none")
    return found


def _nodes(scope: Scope) -> Iterator[tuple[onnx.NodeProto, Scope]]:
    """The LSTM nodes of a graph and of those within it."""
    for node in scope.graph.node:
        if is_lstm(node):
            yield node, scope
        for graph in subgraphs(node):
            yield from _nodes(scope.inside(graph))


# --- the other way ----------------------------------------------------------------------------------------------------


def export(lstm: LSTM, path: str | os.PathLike[str] | None = None, opset: int = 17) -> onnx.ModelProto:
    """Make an ONNX model of a layer, as a call of it computes: for each of its layers an LSTM node.

    The model's inputs are x, h_0 and c_0, its outputs y, h_n and c_n, shaped as those of the layer's call; T and B are
    free.

    Parameters
    ----------
    lstm
        The layer.
    path
        The file; one that exists is overwritten. None: none is written.
    opset
        Version of the operators, 13 to 22.

    Returns
    -------
    onnx.ModelProto
        The model.

    Raises
    ------
    TypeError, ValueError
        `lstm` is no layer, or has an option that ONNX's LSTM has not.
    ModuleNotFoundError
        onnx is not installed.

    Notes
    -----
    onnxruntime's LSTM takes float32 alone.
    """
    if not isinstance(lstm, LSTM):
        raise TypeError(f"lstm must be a fastlstm.LSTM, but was {type(lstm).__name__}")
    if isinstance(opset, bool) or not isinstance(opset, int) or not 13 <= opset <= 22:
        raise ValueError(f"opset must be 13 to 22, but was {opset!r}")
    attributes, state = _attributes(lstm), _uncoupled(lstm)
    D, L, H = lstm.directions, lstm.num_layers, lstm.hidden_size
    tensors = {"sizes": np.full(L, D, np.int64), "flat": np.array([0, 0, D * H], np.int64)}
    nodes, below = [], "x"
    for part in "hc":
        nodes.append(helper.make_node("Split", [f"{part}_0", "sizes"], [f"{part}_0_l{k}" for k in range(L)], axis=0))
    if lstm.batch_first:
        nodes.append(helper.make_node("Transpose", ["x"], ["x_l0"], perm=[1, 0, 2]))
        below = "x_l0"
    for k in range(L):
        arrays = dict(zip(("W", "R", "B", "P"), weights.to_onnx(state, k), strict=True))
        tensors |= {f"{name}_l{k}": array for name, array in arrays.items() if array is not None}
        named = {name: f"{name}_l{k}" if array is not None else "" for name, array in arrays.items()}
        inputs = [below, named["W"], named["R"], named["B"], "", f"h_0_l{k}", f"c_0_l{k}", named["P"]]
        outputs = [f"Y_l{k}", f"h_n_l{k}", f"c_n_l{k}"]
        nodes.append(
            helper.make_node("LSTM", inputs if named["P"] else inputs[:-1], outputs, f"lstm_l{k}", **attributes)
        )
        below = "y" if k == L - 1 else f"y_l{k}"
        order = [2, 0, 1, 3] if lstm.batch_first and k == L - 1 else [0, 2, 1, 3]
        nodes.append(helper.make_node("Transpose", [f"Y_l{k}"], [f"T_l{k}"], perm=order))
        nodes.append(helper.make_node("Reshape", [f"T_l{k}", "flat"], [below]))
    for part in "hc":
        nodes.append(helper.make_node("Concat", [f"{part}_n_l{k}" for k in range(L)], [f"{part}_n"], axis=0))
    model = _model(lstm, nodes, tensors, opset)
    if path is not None:
        onnx.save(model, os.fspath(path))
    return model


def _model(lstm: LSTM, nodes: list[onnx.NodeProto], tensors: dict[str, np.ndarray], opset: int) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(lstm.dtype)
    D, L, H = lstm.directions, lstm.num_layers, lstm.hidden_size
    ends: list[str | int | None] = ["B", "T"] if lstm.batch_first else ["T", "B"]
    states: list[str | int | None] = [D * L, "B", H]

    def infos(x: str, width: int, *of: str) -> list[onnx.ValueInfoProto]:
        sequence = helper.make_tensor_value_info(x, kind, [*ends, width])
        return [sequence, *(helper.make_tensor_value_info(name, kind, states) for name in of)]

    graph = helper.make_graph(
        nodes,
        "lstm",
        infos("x", lstm.input_size, "h_0", "c_0"),
        infos("y", D * H, "h_n", "c_n"),
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(
        graph, producer_name="fastlstm", opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )


def _attributes(lstm: LSTM) -> dict[str, Any]:
    """The attributes of the layer's nodes; ValueError where ONNX has none for an option."""
    spec: CellSpec = lstm.spec
    foreign = {
        "merge of two directions": lstm.merge != "concat",
        "proj_size": spec.proj_size,
        "layer_norm": spec.layer_norm,
        "zoneout": any(spec.zoneout),
        "full peephole": spec.peephole == "full",
        "peephole of the output gate on the previous c": spec.output_peephole == "previous",
        "candidate_peephole": spec.candidate_peephole,
        "activation hard_tanh": any(a.name == "hard_tanh" for a in spec.activations),
    }
    if wrong := [name for name, there in foreign.items() if there]:
        raise ValueError(f"lstm must be a cell that ONNX's LSTM has, which knows no {', no '.join(wrong)}")
    found: dict[str, Any] = {"hidden_size": lstm.hidden_size}
    found["direction"] = "bidirectional" if lstm.bidirectional else "reverse" if lstm.reverse else "forward"
    found |= {"clip": spec.clip} if spec.clip is not None else {}
    found |= {"input_forget": 1} if spec.coupled else {}
    if spec.activations == PLAIN:
        return found
    names, alphas, betas = [], [], []
    for a in spec.activations * lstm.directions:
        name, alpha, beta = ("affine", 1.0, 0.0) if a.name == "linear" else (a.name, a.alpha, a.beta)
        names.append(ONNX_NAMES[name.replace("_", "")])
        alphas += [alpha] if len(ACTIVATIONS[name]) > 0 else []
        betas += [beta] if len(ACTIVATIONS[name]) > 1 else []
    found["activations"] = names
    found |= {"activation_alpha": alphas} if alphas else {}
    return found | ({"activation_beta": betas} if betas else {})


def _uncoupled(lstm: LSTM) -> dict[str, np.ndarray]:
    """The parameters with four gates: zeros for a forget gate that is 1 - i."""
    state, H = lstm.state_dict(), lstm.hidden_size
    if not lstm.spec.coupled:
        return state
    return {name: np.insert(array, [H] * H, 0, axis=0) for name, array in state.items()}
