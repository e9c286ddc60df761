"""Whole models with their LSTM nodes replaced, beside onnxruntime: silero-vad's, and graphs made to be hard to cut."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import files
from typing import Any

import numpy as np
import onnx
import onnx_case
import onnxruntime
import pytest
import test_silero
import tolerances
import torch
from onnx import TensorProto, helper, numpy_helper

import fastlstm.onnx
from fastlstm.onnx import load

FLOAT = TensorProto.FLOAT
replace = partial(fastlstm.onnx.replace, least_flops=0)  # which small calls are cut too
rng = np.random.default_rng(0)
I, H = 3, 4


def weights(name: str, inputs: int = I, directions: int = 1) -> list[onnx.TensorProto]:
    """W, R and B of a node, as initializers."""
    shapes = {"W": (4 * H, inputs), "R": (4 * H, H), "B": (8 * H,)}
    return [
        numpy_helper.from_array(rng.uniform(-0.5, 0.5, (directions, *shape)).astype(np.float32), f"{name}_{part}")
        for part, shape in shapes.items()
    ]


def lstm(name: str, x: str, *outputs: str, **attributes: Any) -> onnx.NodeProto:
    inputs = [x, f"{name}_W", f"{name}_R", f"{name}_B"]
    return helper.make_node("LSTM", inputs, list(outputs), name=name, hidden_size=H, **attributes)


def made(
    nodes: list[onnx.NodeProto],
    outputs: list[str],
    initializers: list[onnx.TensorProto],
    inputs: list[onnx.ValueInfoProto] | None = None,
    **options: Any,
) -> onnx.ModelProto:
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["T", "B", I])] if inputs is None else inputs
    outs = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "model", inputs, outs, initializers)
    return helper.make_model(graph, **{"opset_imports": [helper.make_opsetid("", 17)], "ir_version": 8} | options)


def assert_same(model: onnx.ModelProto, feeds: dict[str, Any], replaced: list[str], left: tuple[str, ...] = ()) -> Any:
    """That a model gives the same with its nodes replaced, and which were."""
    expected, found = onnx_case.session(model).run(None, feeds), replace(model)
    assert sorted(found.replaced) == replaced and sorted(found.left) == list(left)
    for one, other in zip(found.run(None, feeds), expected, strict=True):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerances.ONNXRUNTIME)
    return found


def x(T: int = 5, B: int = 2) -> dict[str, np.ndarray]:
    return {"x": rng.standard_normal((T, B, I)).astype(np.float32)}


# --- silero-vad -------------------------------------------------------------------------------------------------------


def silero(name: str) -> str:
    return str(next(file.locate() for file in files("silero-vad") or () if file.name == name))


def frames() -> np.ndarray:
    sound = np.concatenate([np.zeros(test_silero.CONTEXT, np.float32), test_silero.utterance()])
    width = test_silero.CONTEXT + test_silero.HOP
    return np.ascontiguousarray(np.lib.stride_tricks.sliding_window_view(sound, width)[:: test_silero.HOP])


def quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return options


def test_silero_over_a_sequence() -> None:
    path, zero = silero("silero_vad_16k_sequence.onnx"), np.zeros((1, 1, 128), np.float32)
    feeds = {"input": frames(), "h": zero, "c": zero}
    expected = onnx_case.session(onnx.load(path)).run(["speech_probs"], feeds)[0]
    found = replace(path, quiet())
    assert len(found.replaced) == 1 and not found.left
    assert expected.max() > 0.5 > expected.min()
    np.testing.assert_allclose(found.run(["speech_probs"], feeds)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["silero_vad.onnx", "silero_vad_16k_op15.onnx", "silero_vad_half.onnx"])
def test_silero_frame_by_frame(name: str) -> None:
    """Its LSTM stands in branches within branches, its weights sliced and joined out of constants."""
    sessions = onnx_case.session(onnx.load(silero(name))), replace(silero(name), quiet())
    assert len(sessions[1].replaced) == (4 if name == "silero_vad.onnx" else 2) and not sessions[1].left
    inputs = {i.name for i in sessions[0].get_inputs()}
    rates = [16000, 8000] if name == "silero_vad.onnx" else [16000]
    for rate in rates:
        states, speech = [np.zeros((2, 1, 128), np.float32)] * 2, []
        for frame in frames()[:60]:
            frame = frame[None] if rate == 16000 else np.ascontiguousarray(frame[None, ::2])
            for k, session in enumerate(sessions):
                feeds = {"input": frame, "state": states[k], "sr": np.array(rate)}
                probability, states[k] = session.run(None, {n: v for n, v in feeds.items() if n in inputs})
                speech.append(probability.item())
        expected, found = np.array(speech[::2]), np.array(speech[1::2])
        assert expected.max() > 0.5
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


# --- graphs -----------------------------------------------------------------------------------------------------------


def test_a_stack_with_something_in_between() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["x2"]),
        lstm("a", "x2", "a_y", "a_h", direction="bidirectional"),
        helper.make_node("Transpose", ["a_y"], ["a_t"], perm=[0, 2, 1, 3]),
        helper.make_node("Constant", [], ["shape"], value_ints=[0, 0, 2 * H]),
        helper.make_node("Reshape", ["a_t", "shape"], ["a_flat"]),
        lstm("b", "a_flat", "", "b_h", "b_c"),
        lstm("c", "x2", "c_y"),
        helper.make_node("Add", ["b_h", "x_mean"], ["sum"]),
        helper.make_node("ReduceMean", ["x"], ["x_mean"], keepdims=0),
        helper.make_node("Softmax", ["sum"], ["p"], axis=-1),
    ]
    nodes[7], nodes[8] = nodes[8], nodes[7]
    two = numpy_helper.from_array(np.float32(2), "two")
    tensors = [two, *weights("a", directions=2), *weights("b", 2 * H), *weights("c")]
    model = made(nodes, ["p", "b_c", "c_y", "x2", "two"], tensors)
    found = assert_same(model, x(), ["a", "b", "c"])
    assert_same(model, x(1, 1), ["a", "b", "c"])
    # Any outputs, in any order, and what is not needed is not computed.
    feeds = x()
    whole = dict(zip(["p", "b_c", "c_y", "x2", "two"], found.run([], feeds), strict=True))
    for names in (["two", "p"], ["c_y"], ["b_c", "p", "b_c"]):
        for name, array in zip(names, found.run(names, feeds), strict=True):
            np.testing.assert_array_equal(array, whole[name])


def test_a_model_of_nothing_else_and_one_without_any() -> None:
    assert_same(made([lstm("a", "x", "y", "h", "c")], ["y", "h", "c"], weights("a")), x(), ["a"])
    assert_same(made([helper.make_node("Tanh", ["x"], ["y"])], ["y"], []), x(), [])


def test_branches_see_what_is_around_them() -> None:
    """One branch with an LSTM on what was computed outside and weights of outside, the other without."""
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    inside = [lstm("a", "x2", "y", "", ""), helper.make_node("Add", ["y", "bias"], ["then"])]
    other = [
        helper.make_node("Concat", ["x2", "pad"], ["wide"], axis=2),
        helper.make_node("Unsqueeze", ["wide", "one"], ["else"]),
    ]
    then_branch = helper.make_graph(inside, "then", [], [helper.make_empty_tensor_value_info("then")])
    else_branch = helper.make_graph(other, "else", [], [helper.make_empty_tensor_value_info("else")])
    nodes = [
        helper.make_node("Neg", ["x"], ["x2"]),
        helper.make_node("ReduceMax", ["x"], ["bias"], keepdims=0),
        helper.make_node("Constant", [], ["one"], value_ints=[1]),
        helper.make_node("If", ["flag"], ["z"], then_branch=then_branch, else_branch=else_branch),
        lstm("b", "x2", "b_y"),
        helper.make_node("Mul", ["z", "b_y"], ["out"]),
    ]
    pad = numpy_helper.from_array(np.ones((5, 2, H - I), np.float32), "pad")
    inputs = [helper.make_tensor_value_info("x", FLOAT, ["T", "B", I]), flag]
    model = made(nodes, ["out", "x"], [*weights("a"), *weights("b"), pad], inputs)
    for value in (True, False):
        assert_same(model, x() | {"flag": np.array(value)}, ["a", "b"])


def loop() -> onnx.ModelProto:
    """Two rounds of a Loop around an LSTM, and one after it."""
    body = helper.make_graph(
        [
            lstm("a", "x", "y"),
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Add", ["s", "y"], ["t"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", FLOAT, None),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), helper.make_tensor_value_info("t", FLOAT, None)],
    )
    tensors = [numpy_helper.from_array(np.array(2), "rounds"), numpy_helper.from_array(np.array(True), "yes")]
    zero = numpy_helper.from_array(np.zeros((1, 1, 1, H), np.float32), "zero")
    nodes = [
        helper.make_node("Loop", ["rounds", "yes", "zero"], ["sum"], name="loop", body=body),
        lstm("b", "x", "b_y"),
    ]
    return made(nodes, ["sum", "b_y"], [*tensors, zero, *weights("a"), *weights("b")])


def test_what_is_left_is_told() -> None:
    found = assert_same(loop(), x(), ["b"], ("a",))
    assert found.left["a"] == "it is within the Loop node 'loop'"
    assert [*load(loop())] == ["a", "b"]  # it can be read nevertheless
    given = [helper.make_tensor_value_info(t.name, FLOAT, t.dims) for t in weights("a")]
    model = made([lstm("a", "x", "y")], ["y"], [], [helper.make_tensor_value_info("x", FLOAT, ["T", "B", I]), *given])
    feeds = x() | {t.name: numpy_helper.to_array(t) for t in weights("a")}
    found = assert_same(model, feeds, [], ("a",))
    assert "W must be constant" in found.left["a"]


def test_initializers_that_are_inputs_may_be_fed_but_not_an_operators() -> None:
    """Up to IR version 3 every initializer was an input; since then those that are may be fed."""
    tensors = [*weights("a"), numpy_helper.from_array(np.float32(3), "scale")]
    inputs = [
        helper.make_tensor_value_info("x", FLOAT, ["T", "B", I]),
        *(helper.make_tensor_value_info(t.name, FLOAT, t.dims) for t in tensors),
    ]
    nodes = [helper.make_node("Mul", ["x", "scale"], ["x2"]), lstm("a", "x2", "y")]
    assert_same(made(nodes, ["y"], tensors, inputs, ir_version=3), x(), ["a"])
    model = made(nodes, ["y"], tensors, inputs)
    found = assert_same(model, x(), ["a"])
    assert_same(model, x() | {"scale": np.array(-1, np.float32)}, ["a"])
    with pytest.raises(ValueError, match=r"must not have weights of LSTM nodes that were replaced, but had .*a_W"):
        found.run(None, x() | {"a_W": numpy_helper.to_array(tensors[0])})


def test_nodes_that_onnxruntime_refuses_run() -> None:
    node = onnx_case.random_node(np.random.default_rng(2), onnx_case.PLAIN).astype(np.float64).in_layout(1)
    model = onnx_case.model(node, fixed=("W", "R", "B"))
    feeds = {n: a for n, a in node.arrays.items() if a is not None and n not in ("W", "R", "B")}
    (one,) = load(model).values()
    expected = one(*(node.arrays[n] for n in ("X", "sequence_lens", "initial_h", "initial_c")))
    for found, wanted in zip(replace(model).run(None, feeds), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    with pytest.raises(Exception, match="LSTM"):
        onnx_case.session(model).run(None, feeds)


@pytest.mark.filterwarnings("ignore")  # of the exporter, which is the one that needs no further package
@pytest.mark.parametrize("options", [{"bidirectional": True}, {"batch_first": True, "bias": False}])
def test_a_model_that_pytorch_exported(options: dict[str, Any]) -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = torch.nn.LSTM(I, H, num_layers=2, **options)
            self.head = torch.nn.Linear(H * (1 + self.lstm.bidirectional), 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y, state = self.lstm(x)
            return self.head(y), *state

    model, content = Tagger().eval(), io.BytesIO()
    given = torch.randn(5, 2, I)
    axes = {"x": {0: "first", 1: "second"}}
    torch.onnx.export(model, (given,), content, input_names=["x"], dynamic_axes=axes, dynamo=False)
    found = replace(content.getvalue())
    assert len(found.replaced) == 2 and not found.left
    for x in (given, torch.randn(7, 3, I)):
        with torch.no_grad():
            expected = model(x)
        for one, other in zip(found.run(None, {"x": x.numpy()}), expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=tolerances.ONNXRUNTIME)


def test_a_session_serves_many_threads() -> None:
    found = replace(made([lstm("a", "x", "y"), helper.make_node("Neg", ["y"], ["z"])], ["z"], weights("a")))
    feeds = [x() for _ in range(8)]
    expected = [found.run(None, given)[0] for given in feeds]
    with ThreadPoolExecutor(4) as pool:
        for k, array in enumerate(pool.map(lambda given: found.run(None, given)[0], feeds * 20)):
            np.testing.assert_array_equal(array, expected[k % 8])


def test_calls_that_compute_little_are_left_to_onnxruntime() -> None:
    model, large = made([lstm("a", "x", "y"), helper.make_node("Neg", ["y"], ["z"])], ["z"], weights("a")), x(60, 9)
    whole, ours = onnx_case.session(model), replace(model)
    found = fastlstm.onnx.replace(model, least_flops=8 * 500 * H * (I + H))
    for feeds in (x(), x(), large, x(3, 1)):
        expected = (ours if feeds is large else whole).run(None, feeds)
        np.testing.assert_array_equal(found.run(None, feeds), expected)
    assert list(found._small.values()) == [True, False, True]
    refused = made([lstm("a", "x", "y", layout=1)], ["y"], weights("a"))  # by onnxruntime
    for _ in range(2):
        np.testing.assert_array_equal(
            fastlstm.onnx.replace(refused).run(None, feeds), replace(refused).run(None, feeds)
        )
    with pytest.raises(TypeError, match="least_flops must be a number"):
        fastlstm.onnx.replace(model, least_flops="none")


def test_what_an_operator_takes_a_session_takes() -> None:
    """Where an input goes to an LSTM node: lists and tensors too, and another shape is told by the operator."""
    found, feeds = replace(made([lstm("a", "x", "y")], ["y"], weights("a"))), x()
    for given in (feeds["x"].tolist(), torch.from_numpy(feeds["x"])):
        np.testing.assert_array_equal(found.run(None, {"x": given}), found.run(None, feeds))
    with pytest.raises(ValueError, match=r"X must have the shape \(T, B, I\) with I = 3, but has \(5, 2\)"):
        found.run(None, {"x": feeds["x"][..., 0]})


def test_names_that_are_not_the_models_are_told() -> None:
    found = replace(made([lstm("a", "x", "y")], ["y"], weights("a")))
    for arguments, message in (
        ((["z"], x()), r"output_names must be of \['y'\], but had \['z'\]"),
        ((None, x() | {"z": 1}), r"input_feed must be of \['x'\], but had \['z'\]"),
        ((None, {}), r"input_feed must have all inputs of the model, but lacks \['x'\]"),
        ((None, x(), "options"), "run_options must be None"),
        ((None, {"x": np.zeros((5, 2, I))}), "X must have the layer's dtype float32"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            found.run(*arguments)


def test_graphs_that_are_wrong_are_told() -> None:
    order = [helper.make_node("Neg", ["y2"], ["z"]), lstm("a", "x", "y"), helper.make_node("Neg", ["y"], ["y2"])]
    with pytest.raises(ValueError, match="must be in order, but 'y2' is taken before it is made"):
        replace(made(order, ["z"], weights("a")))
    with pytest.raises(ValueError, match="is no ONNX model"):
        replace(b"nothing")
    branch = helper.make_graph([lstm("a", "x", "y")], "then", [], [helper.make_empty_tensor_value_info("y")])
    flag = numpy_helper.from_array(np.array(True), "flag")
    lame = helper.make_node("If", ["flag"], ["z"], name="lame", then_branch=branch)
    with pytest.raises(ValueError, match="the If node 'lame' must have a then_branch and an else_branch"):
        replace(made([lame], ["z"], [flag, *weights("a")]))
    chain = [helper.make_node("Identity", [f"w{k}"], [f"w{k + 1}"]) for k in range(5000)]
    long = [*chain, lstm("a", "x", "y")]
    long[-1].input[1] = "w5000"
    tensors = weights("a")
    tensors[0].name = "w0"
    with pytest.raises(ValueError, match="nest too deep"):
        replace(made(long, ["y"], tensors))
    twice = [helper.make_node("Concat", [f"w{k}", f"w{k}"], [f"w{k + 1}"], axis=2) for k in range(60)]
    long[-1].input[1] = "w60"
    with pytest.raises(ValueError, match="must be made of the model's tensors, but would be more than all of them"):
        load(made([*twice, long[-1]], ["y"], tensors))
