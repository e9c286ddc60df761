"""The ONNX operator: its own node tests, onnxruntime on random nodes, and what is told of wrong arguments.

Which cell a node means is tested with layers that the specification computes, on every option at once; the kernels of
those cells are tested elsewhere, and here on some.
"""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from typing import Any

import numpy as np
import onnx_case
import pytest
import tolerances
from onnx_case import PLAIN, Cell, Node, ReferenceLSTM, by_onnxruntime, by_reference, random_node

from fastlstm import reference
from fastlstm.onnx import lstm, operator

PEEPHOLES = Cell(None, None, False, True)
FUNCTIONS = (("HardSigmoid", 0.3, 0.4), ("LeakyRelu", 0.2, None), ("Softsign", None, None))
MIXED = Cell((FUNCTIONS, FUNCTIONS), 1.5, True, True)


@pytest.fixture
def specified(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators computed by the reference."""
    monkeypatch.setattr(operator, "LSTM", ReferenceLSTM)
    monkeypatch.setattr(operator, "_kept", type(operator._kept)())


def call(node: Node) -> tuple[np.ndarray, ...]:
    return lstm(**node.arrays, **node.attributes)


def ragged(node: Node) -> Node:
    """The node with lengths, so that a cell need not be compiled without them too."""
    T, B, _ = node.arrays["X"].shape
    lengths = node.arrays["sequence_lens"]
    return Node(
        node.arrays | {"sequence_lens": np.full(B, T, np.int32) if lengths is None else lengths}, node.attributes
    )


def compare(node: Node, expected: Any, tolerance: float) -> None:
    for name, found, wanted in zip(onnx_case.OUTPUTS, call(node), expected, strict=True):
        assert found.shape == wanted.shape and found.dtype == node.arrays["X"].dtype and found.flags.c_contiguous
        allowed = tolerance * max(1, abs(wanted).max(initial=0))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=allowed, err_msg=f"{name} of {node.attributes}")


def node_tests() -> list[Any]:
    """The cases that the onnx package tests backends with."""
    import_module("onnx.backend.test.case.node.lstm")  # it adds its own to the list
    cases = import_module("onnx.backend.test.case.node")
    return [case for case in cases._NodeTestCases if case.name.startswith("test_lstm_")]


@pytest.mark.parametrize("case", node_tests(), ids=lambda case: case.name)
def test_the_node_tests_of_onnx(case: Any) -> None:
    (node,) = case.model.graph.node
    ((inputs, outputs),) = case.data_sets
    given = dict(zip([i.name for i in case.model.graph.input], inputs, strict=True))
    arrays = {n: given[name] for n, name in zip(onnx_case.INPUTS, node.input, strict=False) if name}
    attributes = {a.name: onnx_case.helper.get_attribute_value(a) for a in node.attribute}
    attributes = {n: v.decode() if isinstance(v, bytes) else v for n, v in attributes.items()}
    found = dict(zip(node.output, lstm(**arrays, **attributes), strict=False))
    for info, wanted in zip(case.model.graph.output, outputs, strict=True):
        assert found[info.name].shape == wanted.shape
        np.testing.assert_allclose(found[info.name], wanted, rtol=1e-5, atol=1e-7)


def test_there_are_six_node_tests() -> None:
    assert len(node_tests()) == 6


def test_random_nodes_mean_what_onnxruntime_takes_them_for(specified: None) -> None:
    rng, seen, compared = np.random.default_rng(0), set(), 0
    for _ in range(400):
        node = random_node(rng)
        expected = by_onnxruntime(node)
        if not all(np.isfinite(array).all() for array in expected):  # its Softplus overflows from 89 on
            continue
        compare(node, expected, tolerances.ONNXRUNTIME)
        compared += 1
        seen |= {name for name, array in node.arrays.items() if array is not None} | set(node.attributes)
        seen |= {name.lower() for name in node.attributes.get("activations", ())}
    assert compared > 390
    assert seen >= {*onnx_case.INPUTS, "clip", "input_forget", "activation_alpha", "activation_beta"}
    assert seen >= {name.lower() for name in operator.NAMES}


def test_random_nodes_by_the_kernels() -> None:
    """A few cells, since each must be compiled; `python tests/onnx_case.py` compares many."""
    cells = [PLAIN, PEEPHOLES, MIXED]
    rng = np.random.default_rng(1)
    for k in range(60):
        node = random_node(rng, cells[k % len(cells)])
        node = node if k % len(cells) == 0 else ragged(node)
        compare(node, by_onnxruntime(node), tolerances.ONNXRUNTIME)


def test_layouts_are_the_same_to_the_bit(specified: None) -> None:
    rng = np.random.default_rng(2)
    for k in range(60):
        node = random_node(rng) if k % 2 else random_node(rng).astype(np.float64)
        y, h, c = call(node)
        found = call(node.in_layout(1))
        np.testing.assert_array_equal(found[0], np.moveaxis(y, 2, 0))
        for other, state in zip(found[1:], (h, c), strict=True):
            np.testing.assert_array_equal(other, state.swapaxes(0, 1))


@pytest.mark.parametrize("cell", [PLAIN, MIXED])
def test_layout_1_and_float64_by_the_kernels(cell: Cell) -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        node = random_node(rng, cell).astype(np.float64)
        node = node if cell == PLAIN else ragged(node)
        expected = by_reference(node)
        compare(node, expected, 1e-12)
        if cell == PLAIN:
            compare(node, directly(node), 1e-12)
        y, h, c = call(node)
        compare(node.in_layout(1), (np.moveaxis(y, 2, 0), h.swapaxes(0, 1), c.swapaxes(0, 1)), 0)


def directly(node: Node) -> tuple[np.ndarray, ...]:
    """A plain node by the equations of the reference, with the weights taken apart here."""
    X, W, R, B, lengths = (node.arrays[n] for n in ("X", "W", "R", "B", "sequence_lens"))
    (D, _, H), parameters, states = R.shape, {}, []
    taken = {"forward": [0], "reverse": [1], "bidirectional": [0, 1]}[node.attributes["direction"]]
    for d in (0, 1):  # both directions are computed, with the same weights where there is one only

        def gates(array: np.ndarray) -> np.ndarray:
            i, o, f, g = np.split(array, 4)
            return np.concatenate([i, f, g, o])

        k = min(d, D - 1)
        biases = np.zeros((2, 4 * H)) if B is None else np.split(B[k], 2)
        named = zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), (W[k], R[k], *biases), strict=True)
        parameters |= {name + ("_l0", "_l0_reverse")[d]: gates(array) for name, array in named}
    for name in ("initial_h", "initial_c"):
        given = node.arrays[name]
        states.append(np.zeros((2, X.shape[1], H)) if given is None else given[[0, D - 1]])
    y, (h, c), _ = reference.forward(parameters, X, states, bidirectional=True, lengths=lengths)
    if lengths is not None:
        h[:, lengths == 0] = c[:, lengths == 0] = 0
    return np.stack(np.split(y, 2, axis=2), axis=1)[:, taken], h[taken], c[taken]


def small(**changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(4)
    given = {"X": (3, 2, 5), "W": (1, 16, 5), "R": (1, 16, 4), "initial_h": (1, 2, 4), "initial_c": (1, 2, 4)}
    arrays = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in given.items()}
    return arrays | {"hidden_size": 4} | changed


def test_a_row_without_steps_gives_zeros(specified: None) -> None:
    y, h, c = lstm(**small(sequence_lens=[0, 2]))
    assert not y[:, :, 0].any() and not h[:, 0].any() and not c[:, 0].any()
    assert y[:2, :, 1].all() and not y[2, :, 1].any()
    np.testing.assert_array_equal(h[:, 1], y[1, :, 1])


@pytest.mark.parametrize("shape", [(0, 2, 5), (3, 0, 5)])
@pytest.mark.parametrize("layout", [0, 1])
def test_nothing_gives_nothing(shape: tuple[int, ...], layout: int) -> None:
    T, B, _ = shape
    X = np.zeros(shape, np.float32)
    arguments = small(X=X.swapaxes(0, 1) if layout else X, initial_h=None, initial_c=None, layout=layout)
    y, h, c = lstm(**arguments)
    assert y.shape == ((B, T, 1, 4) if layout else (T, 1, B, 4))
    assert h.shape == c.shape == ((B, 1, 4) if layout else (1, B, 4)) and not h.any() and not c.any()


def test_states_that_were_given_are_not_written_to() -> None:
    arguments = small()
    before = {name: value.copy() for name, value in arguments.items() if isinstance(value, np.ndarray)}
    for layout in (0, 1):
        turned = {
            n: v.swapaxes(0, 1) if layout and n in ("X", "initial_h", "initial_c") else v for n, v in arguments.items()
        }
        lstm(**turned, layout=layout)
    for name, value in before.items():
        np.testing.assert_array_equal(arguments[name], value)


def test_layers_are_kept_for_weights_that_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    true = operator.Operator.__init__
    monkeypatch.setattr(operator, "_kept", type(operator._kept)())
    monkeypatch.setattr(operator.Operator, "__init__", lambda self, *a: (made.append(1), true(self, *a))[1])
    arguments = small()
    first = lstm(**arguments)[0]
    np.testing.assert_array_equal(lstm(**arguments | {"W": arguments["W"].copy()})[0], first)
    assert len(made) == 1
    arguments["R"][0, 3, 2] += 1  # in place: the arrays are the same, their content is not
    assert abs(lstm(**arguments)[0] - first).max() > 1e-3
    assert len(made) == 2
    lstm(**arguments, direction="reverse")
    assert len(made) == 3
    for k in range(2 * operator.KEPT):
        lstm(**small(W=np.full((1, 16, 5), k, np.float32)))
    assert len(operator._kept) == operator.KEPT


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"X": np.zeros((3, 2, 5), np.float16)}, "X must be of float32 or float64, but is of float16"),
        ({"X": np.zeros((3, 5), np.float32)}, r"X must have the shape \(T, B, I\) with I = 5, but has \(3, 5\)"),
        ({"X": np.zeros((3, 2, 6), np.float32)}, "X must have the shape"),
        ({"W": np.zeros((1, 16, 5))}, "W must have the layer's dtype float32"),
        ({"W": np.zeros((16, 5), np.float32)}, r"W must have the shape \(D, 4H, I\) = \(1, 16, I\)"),
        ({"R": np.zeros((1, 16, 5), np.float32)}, r"R must have the shape \(D, 4H, H\)"),
        ({"B": np.zeros((1, 16), np.float32)}, r"B must have the shape \(D, 8H\)"),
        ({"P": np.zeros((1, 16), np.float32)}, r"P must have the shape \(D, 3H\)"),
        ({"initial_h": np.zeros((2, 1, 4), np.float32)}, r"initial_h must have the shape \(D, B, H\)"),
        ({"initial_c": np.zeros((1, 2, 4), np.float32), "layout": 1}, r"initial_h must have the shape \(B, D, H\)"),
        ({"sequence_lens": [1, 4]}, "sequence_lens must lie between 0 and T = 3, but reach from 1 to 4"),
        ({"sequence_lens": [-1, 2]}, "sequence_lens must lie between 0 and T = 3, but reach from -1 to 2"),
        ({"sequence_lens": [1.0, 2.0]}, "sequence_lens must be integers"),
        ({"sequence_lens": [1]}, r"sequence_lens must have the shape \(B,\)"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"hidden_size": 3}, "W must have the shape"),
        ({"direction": "backward"}, "direction must be one of"),
        ({"direction": "bidirectional"}, r"W must have the shape \(D, 4H, I\) = \(2, 16, I\)"),
        ({"layout": 2}, "layout must be 0 or 1"),
        ({"input_forget": 2}, "input_forget must be 0 or 1"),
        ({"clip": 0}, "clip must be a finite number over 0"),
        ({"clip": "1"}, "clip must be a finite number over 0"),
        ({"activations": ["Sigmoid", "Tanh"]}, "activations must be 3 names"),
        ({"activations": "Sigmoid"}, "activations must be 3 names"),
        ({"activations": ["Sigmoid", "Tanh", "Swish"]}, "activations must be of Relu, .* but one was 'Swish'"),
        ({"activations": ["Sigmoid", "Affine", "Tanh"]}, "activations: alpha of activation 'affine' must be given"),
        ({"activation_alpha": "many"}, "activation_alpha must be a list of numbers"),
        ({"activation_beta": 0.5}, "activation_beta must be a list of numbers"),
    ],
)
def test_wrong_arguments_are_told(changed: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        lstm(**small(**changed))


def test_the_onnx_package_is_not_needed_for_the_operator_and_named_where_it_is() -> None:
    script = """
import sys
sys.modules["onnx"] = sys.modules["onnxruntime"] = None
import numpy as np
import fastlstm.onnx
y, h, c = fastlstm.onnx.lstm(np.ones((2, 1, 3)), np.ones((1, 8, 3)), np.ones((1, 8, 2)), hidden_size=2)
print(y.shape)
for name in ("load", "export", "replace"):
    try:
        getattr(fastlstm.onnx, name)
    except ModuleNotFoundError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == [
        "(2, 1, 1, 2)",
        *(f"fastlstm.onnx.{n} needs onnx: pip install 'fastlstm[onnx]'" for n in ("load", "export", "replace")),
    ]
    assert not hasattr(import_module("fastlstm.onnx"), "nothing")
