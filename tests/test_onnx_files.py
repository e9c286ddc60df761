"""ONNX files: LSTM nodes read, layers written, and files that are neither whole nor honest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_case
import pytest
import tolerances
from onnx import helper, numpy_helper
from onnx_case import Node, ReferenceLSTM, by_onnxruntime, model, random_node, session

import fastlstm
from fastlstm import reference
from fastlstm.onnx import export, load, operator

FIXED = ("W", "R", "B", "P")


@pytest.fixture
def specified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators computed by the reference."""
    monkeypatch.setattr(operator, "LSTM", ReferenceLSTM)


def plain(seed: int = 0, **changed: Any) -> Node:
    node = random_node(np.random.default_rng(seed), onnx_case.PLAIN)
    return Node(node.arrays, node.attributes | changed)


def run(found: operator.Operator, node: Node) -> tuple[np.ndarray, ...]:
    return found(*(node.arrays[name] for name in ("X", "sequence_lens", "initial_h", "initial_c")))


def assert_near(found: Any, expected: Any, tolerance: float = tolerances.ONNXRUNTIME) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1, abs(other).max(initial=0)))


# --- load -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_node_is_read_with_all_its_options(seed: int, specified: None) -> None:
    node = random_node(np.random.default_rng(seed))
    ((name, found),) = load(model(node, fixed=FIXED)).items()
    assert name == "lstm" and found.hidden_size == node.attributes["hidden_size"]
    assert found.direction == node.attributes["direction"] and found.defaults == {}
    assert found.coupled == bool(node.attributes.get("input_forget"))
    assert_near(run(found, node), by_onnxruntime(node))


def test_a_file_its_bytes_and_the_model_are_the_same(tmp_path: Path) -> None:
    node = plain()
    proto = model(node, opset=7, fixed=FIXED)
    onnx.save(proto, str(tmp_path / "model.onnx"))
    for source in (tmp_path / "model.onnx", str(tmp_path / "model.onnx"), proto.SerializeToString(), proto):
        (found,) = load(source).values()
        assert_near(run(found, node), by_onnxruntime(node))
    (layer,) = found.layers
    assert isinstance(layer, fastlstm.LSTM) and layer.input_size == node.arrays["X"].shape[2]


def test_constant_states_and_lengths_are_taken_where_a_call_gives_none(specified: None) -> None:
    rng = np.random.default_rng(5)
    node = next(n for n in iter(lambda: random_node(rng), None) if all(n.arrays[k] is not None for k in n.arrays))
    (found,) = load(model(node, fixed=onnx_case.INPUTS[1:])).values()
    assert set(found.defaults) == {"sequence_lens", "initial_h", "initial_c"}
    assert_near(found(node.arrays["X"]), by_onnxruntime(node))
    zero = np.zeros_like(node.arrays["initial_h"])
    other = Node(node.arrays | {"initial_h": zero}, node.attributes)
    assert_near(found(node.arrays["X"], initial_h=zero), by_onnxruntime(other))


def moved(node: Node) -> onnx.ModelProto:
    """The node's model as an exporter writes it: weights sliced, joined, turned and cast out of other constants."""
    proto = model(node, fixed=FIXED)
    graph, (lstm,) = proto.graph, list(proto.graph.node)
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    del graph.initializer[:]

    def constant(name: str, value: Any) -> str:
        tensor = numpy_helper.from_array(np.asarray(value))
        graph.node.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    del graph.node[:]
    W, R, B = tensors["W"], tensors["R"], tensors["B"]
    constant("zero", np.array([0]))
    constant("w", W[0].T.astype(np.float64))
    graph.node.append(helper.make_node("Transpose", ["w"], ["w_t"], perm=[1, 0]))
    graph.node.append(helper.make_node("Cast", ["w_t"], ["w_c"], to=onnx.TensorProto.FLOAT))
    graph.node.append(helper.make_node("Unsqueeze", ["w_c", "zero"], ["W"]))
    half = R.shape[1] // 2
    constant("r_low", R[:, :half])
    graph.initializer.append(numpy_helper.from_array(np.pad(R[:, half:], ((0, 0), (0, 3), (0, 0))), "r_high"))
    bounds = [constant("begin", np.array([0])), constant("end", np.array([half])), constant("axis", np.array([1]))]
    graph.node.append(helper.make_node("Slice", ["r_high", *bounds], ["r_cut"]))
    graph.node.append(helper.make_node("Concat", ["r_low", "r_cut"], ["r"], axis=1))
    graph.node.append(helper.make_node("Identity", ["r"], ["R"]))
    constant("b", B.ravel())
    graph.node.append(helper.make_node("Constant", [], ["b_shape"], value_ints=list(B.shape)))
    graph.node.append(helper.make_node("Reshape", ["b", "b_shape"], ["B"]))
    graph.node.append(lstm)
    return proto


def test_weights_may_be_moved_on_their_way() -> None:
    rng = np.random.default_rng(6)
    node = next(
        n
        for n in iter(lambda: random_node(rng, onnx_case.PLAIN), None)
        if n.arrays["B"] is not None and n.attributes["direction"] != "bidirectional"
    )
    proto = moved(node)
    given = {n: a for n, a in node.arrays.items() if a is not None and n not in FIXED}
    assert_near(session(proto).run(None, given), by_onnxruntime(node))
    (found,) = load(proto).values()
    assert_near(run(found, node), by_onnxruntime(node))


def test_nodes_of_one_name_and_those_within_others_are_found() -> None:
    node = plain(7)
    proto = model(node, fixed=FIXED)
    (lstm,) = proto.graph.node
    again = onnx.NodeProto()
    again.CopyFrom(lstm)
    again.output[:] = ["Y2", "Y_h2", "Y_c2"]
    proto.graph.node.append(again)
    inner = onnx.NodeProto()
    inner.CopyFrom(lstm)
    inner.name = ""
    inner.output[:] = ["inner", "", ""]
    branch = helper.make_graph([inner], "branch", [], [helper.make_empty_tensor_value_info("inner")])
    proto.graph.node.append(helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch))
    assert list(load(proto)) == ["lstm", "lstm_1", "inner", "inner_1"]


def test_no_lstm_and_weights_that_are_not_constant_are_told() -> None:
    with pytest.raises(ValueError, match="W must be constant, but 'W' is computed in the graph, or is one of its in"):
        load(model(plain(8)))
    proto = model(plain(8), fixed=FIXED)
    proto.graph.node[0].op_type = "GRU"
    with pytest.raises(ValueError, match="must have an LSTM node"):
        load(proto)


def broken(**changed: Any) -> onnx.ModelProto:
    """A model whose node has other attributes."""
    proto = model(plain(9), fixed=FIXED)
    (node,) = proto.graph.node
    kept = [a for a in node.attribute if a.name not in changed]
    del node.attribute[:]
    node.attribute.extend(kept)
    node.attribute.extend(helper.make_attribute(name, value) for name, value in changed.items() if value is not None)
    return proto


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hidden_size": None}, "LSTM node 'lstm': hidden_size must be given"),
        ({"hidden_size": 1 << 40}, "LSTM node 'lstm': W must have the shape"),
        ({"hidden_size": "4"}, "hidden_size must be an integer"),
        ({"direction": "sideways"}, "direction must be one of"),
        ({"activations": ["Sigmoid"]}, "activations must be"),
        ({"activations": 3}, "activations must be"),
        ({"clip": -1.0}, "clip must be"),
        ({"swish": 1}, "attributes must be those of ONNX's LSTM, but one was swish"),
    ],
)
def test_wrong_nodes_are_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        load(broken(**changed))


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nowhere.onnx")
    (tmp_path / "text.onnx").write_text("This is no model at all.\n" * 10)
    for source in (tmp_path / "text.onnx", b"", b"\x00" * 100):
        with pytest.raises(ValueError, match="is no ONNX model"):
            load(source)


def test_data_outside_the_file_must_be_there(tmp_path: Path) -> None:
    node = plain(10)
    path = tmp_path / "model.onnx"
    onnx.save(model(node, fixed=FIXED), str(path), save_as_external_data=True, location="data", size_threshold=0)
    (found,) = load(path).values()
    assert_near(run(found, node), by_onnxruntime(node))
    (tmp_path / "data").write_bytes(b"\x00" * 10)
    with pytest.raises(ValueError):
        load(path)
    (tmp_path / "data").unlink()
    with pytest.raises((ValueError, OSError)):
        load(path)


def test_every_cut_of_a_file_is_told() -> None:
    """A prefix of a file that happens to be a model has no LSTM left, or not all of its weights."""
    content = model(plain(11), fixed=FIXED).SerializeToString()
    for end in [*range(0, 300), *range(300, len(content), 37)]:
        with pytest.raises((TypeError, ValueError)):
            load(content[:end])


def test_bytes_that_were_changed_are_told_or_harmless() -> None:
    content, rng = model(plain(12), fixed=FIXED).SerializeToString(), np.random.default_rng(0)
    told = 0
    for _ in range(400):
        other = bytearray(content)
        for at in rng.integers(0, len(content), rng.integers(1, 4)):
            other[at] = rng.integers(256)
        try:
            load(bytes(other))
        except (TypeError, ValueError):
            told += 1
    assert told > 20


# --- export -----------------------------------------------------------------------------------------------------------

LAYERS = [
    {},
    {"num_layers": 3, "bias": False},
    {"bidirectional": True, "num_layers": 2},
    {"batch_first": True, "bidirectional": True},
    {"batch_first": True, "num_layers": 2},
    {"reverse": True, "num_layers": 2},
]


@pytest.mark.parametrize("options", LAYERS)
def test_an_exported_layer_runs_to_the_same_values(options: dict[str, Any], tmp_path: Path) -> None:
    lstm = fastlstm.LSTM(5, 7, seed=0, **options)
    rng, path = np.random.default_rng(0), tmp_path / "layer.onnx"
    for opset in (13, 17, 22):
        export(lstm, path, opset)
        onnx.checker.check_model(str(path), full_check=True)
        for T, B in ((1, 1), (6, 3)):
            x = rng.standard_normal((B, T, 5) if lstm.batch_first else (T, B, 5)).astype(np.float32)
            states = rng.standard_normal((2, lstm.num_layers * lstm.directions, B, 7)).astype(np.float32)
            y, (h, c) = lstm(x, tuple(states))
            found = session(onnx.load(str(path))).run(["y", "h_n", "c_n"], {"x": x, "h_0": states[0], "c_0": states[1]})
            assert_near(found, (y, h, c))


@pytest.mark.parametrize("options", LAYERS)
def test_an_exported_layer_is_read_back(options: dict[str, Any]) -> None:
    lstm = fastlstm.LSTM(5, 7, seed=0, **options)
    for k, found in enumerate(load(export(lstm)).values()):
        (layer,) = found.layers
        for name, array in layer.state_dict().items():
            np.testing.assert_array_equal(array, lstm.parameters[name.replace("_l0", f"_l{k}")])
    assert k == lstm.num_layers - 1


def special(**options: Any) -> fastlstm.LSTM:
    """A layer of another cell; exporting it computes nothing."""
    return fastlstm.LSTM(3, 4, seed=1, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"peephole": "diagonal", "coupled": True, "clip": 0.7},
        {"peephole": "diagonal", "bias": False},
        {"coupled": True, "bias": False, "activations": ("hard_sigmoid", "linear", ("leaky_relu", 0.3))},
        {"activations": (("hard_sigmoid", 0.3, 0.4), ("scaled_tanh", 0.5, 0.6), "softsign")},
    ],
)
def test_cells_that_onnx_has_are_exported(options: dict[str, Any], specified: None) -> None:
    lstm = special(**options)
    x = np.random.default_rng(2).standard_normal((4, 2, 3)).astype(np.float32)
    y, (h, c), _ = reference.forward(dict(lstm.parameters), x, spec=lstm.spec)
    proto = export(lstm)
    feeds = {"x": x, "h_0": np.zeros_like(h), "c_0": np.zeros_like(c)}
    assert_near(session(proto).run(None, feeds), (y, h, c))
    (found,) = load(proto).values()
    assert_near((found(x)[0][:, 0],), (y,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_norm": True}, "which knows no layer_norm"),
        ({"proj_size": 2}, "which knows no proj_size"),
        ({"merge": "sum", "bidirectional": True}, "which knows no merge"),
        ({"zoneout": 0.1}, "knows no zoneout"),
        ({"peephole": "full"}, "knows no full peephole"),
        ({"peephole": "diagonal", "candidate_peephole": True}, "candidate_peephole"),
        ({"peephole": "diagonal", "output_peephole": "previous"}, "output gate on the previous c"),
        ({"activations": ("sigmoid", "hard_tanh", "tanh")}, "hard_tanh"),
    ],
)
def test_cells_that_onnx_has_not_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export(special(**options))


def test_what_cannot_be_exported_is_told(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"lstm must be a fastlstm\.LSTM, but was str"):
        export("layer", tmp_path / "x.onnx")
    for opset in (12, 23, "17", True):
        with pytest.raises(ValueError, match="opset must be 13 to 22"):
            export(fastlstm.LSTM(2, 3), tmp_path / "x.onnx", opset)
    assert not (tmp_path / "x.onnx").exists()
