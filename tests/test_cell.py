"""CellSpec: its normal form, the parameters that follow from it, and what it refuses."""

from __future__ import annotations

import ast
import dataclasses
import importlib.resources
import inspect
import pickle
import sys
from typing import Any

import numpy as np
import pytest

from fastlstm.cell import ACTIVATIONS, PLAIN, Activation, CellSpec, parameter_shapes


def test_defaults_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    module = torch.nn.LSTM(3, 5)
    assert parameter_shapes(PLAIN, 3, 5) == {
        name.removesuffix("_l0"): tuple(value.shape) for name, value in module.named_parameters()
    }
    assert list(parameter_shapes(PLAIN, 3, 5)) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    assert PLAIN.activations == (Activation("sigmoid"), Activation("tanh"), Activation("tanh"))
    projected = torch.nn.LSTM(3, 5, proj_size=2, bias=False)
    assert parameter_shapes(CellSpec(proj_size=2, bias=False), 3, 5) == {
        name.removesuffix("_l0"): tuple(value.shape) for name, value in projected.named_parameters()
    }


@pytest.mark.parametrize(
    ("options", "shapes"),
    [
        ({"peephole": "diagonal"}, {"weight_ch": (15,)}),
        ({"peephole": "diagonal", "candidate_peephole": True}, {"weight_ch": (20,)}),
        ({"peephole": "full"}, {"weight_ch": (20, 5)}),
        ({"peephole": "full", "candidate_peephole": False}, {"weight_ch": (15, 5)}),
        ({"coupled": True}, {"weight_ih": (15, 3), "weight_hh": (15, 5), "bias_ih": (15,), "bias_hh": (15,)}),
        ({"coupled": True, "peephole": "diagonal"}, {"weight_ch": (10,)}),
        (
            {"layer_norm": True},
            {"weight_ln_ih": (20,), "weight_ln_hh": (20,), "weight_ln_c": (5,), "bias_ln_c": (5,)},
        ),
        ({"proj_size": 4}, {"weight_hr": (4, 5), "weight_hh": (20, 4)}),
    ],
)
def test_parameter_shapes(options: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    found = parameter_shapes(CellSpec(**options), 3, 5)
    assert shapes.items() <= found.items()
    assert set(found) == set(parameter_shapes(PLAIN, 3, 5)) | set(shapes)


def test_without_bias_nothing_is_shifted() -> None:
    spec = CellSpec(bias=False, layer_norm=True)
    assert not [name for name in parameter_shapes(spec, 3, 5) if name.startswith("bias")]


@pytest.mark.parametrize(
    ("options", "output", "candidate", "gates"),
    [
        ({}, None, False, ()),
        ({"candidate_peephole": False}, None, False, ()),
        ({"peephole": "diagonal"}, "new", False, ("i", "f", "o")),
        ({"peephole": "full"}, "previous", True, ("i", "f", "g", "o")),
        ({"peephole": "diagonal", "output_peephole": "previous"}, "previous", False, ("i", "f", "o")),
        ({"peephole": "full", "coupled": True, "candidate_peephole": False}, "previous", False, ("i", "o")),
    ],
)
def test_peephole_defaults(options: dict[str, Any], output: str, candidate: bool, gates: tuple[str, ...]) -> None:
    spec = CellSpec(**options)
    assert (spec.output_peephole, spec.candidate_peephole, spec.peephole_gates) == (output, candidate, gates)


def test_a_spec_is_a_value() -> None:
    spec = CellSpec(
        peephole="full",
        activations=["HardSigmoid", ("leaky_relu", 0.02), Activation("elu", alpha=0.5)],
        clip=np.float32(2),
        zoneout=0.1,
        proj_size=np.int64(2),
    )
    same = CellSpec(
        peephole="full",
        output_peephole="previous",
        candidate_peephole=True,
        activations=(("hard_sigmoid", 0.2, 0.5), ("LeakyReLU", 0.02, None), ("elu", 0.5)),
        clip=2,
        zoneout=(0.1, 0.1),
        proj_size=2,
    )
    assert spec == same
    assert hash(spec) == hash(same)
    assert repr(spec) == repr(same)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert dataclasses.replace(spec) == spec
    assert dataclasses.replace(spec, clip=3.0) != spec
    assert CellSpec(**{each.name: getattr(spec, each.name) for each in dataclasses.fields(spec)}) == spec
    assert type(spec.clip) is float
    assert type(spec.proj_size) is int
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.clip = 1.0  # type: ignore[misc]
    assert list(inspect.signature(CellSpec).parameters) == [each.name for each in dataclasses.fields(CellSpec)]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("sigmoid", ("sigmoid", 0, 0)),
        ("Tanh", ("tanh", 0, 0)),
        ("HARDSIGMOID", ("hard_sigmoid", 0.2, 0.5)),
        ("hard_sigmoid", ("hard_sigmoid", 0.2, 0.5)),
        (("hard_sigmoid", 1 / 6), ("hard_sigmoid", 1 / 6, 0.5)),
        (("HardSigmoid", None, 0.25), ("hard_sigmoid", 0.2, 0.25)),
        ("LeakyRelu", ("leaky_relu", 0.01, 0)),
        (["leaky_relu", 0.3], ("leaky_relu", 0.3, 0)),
        (("leaky_relu", 0.3, 0.0), ("leaky_relu", 0.3, 0)),
        ("Elu", ("elu", 1, 0)),
        ("ThresholdedRelu", ("thresholded_relu", 1, 0)),
        (("Affine", 2, 1), ("affine", 2, 1)),
        (("ScaledTanh", np.float32(0.5), np.int64(2)), ("scaled_tanh", 0.5, 2)),
        (Activation("relu"), ("relu", 0, 0)),
    ],
)
def test_activation_forms(form: Any, expected: tuple[str, float, float]) -> None:
    activation = Activation.parse(form)
    assert (activation.name, activation.alpha, activation.beta) == expected
    assert type(activation.alpha) is type(activation.beta) is float
    assert Activation.parse((activation.name, activation.alpha, activation.beta)) == activation


def test_onnx_defaults() -> None:
    onnx = pytest.importorskip("onnx")
    for name, defaults in ACTIVATIONS.items():
        operator = name.title().replace("_", "")
        if not onnx.defs.has(operator):
            assert name in ("linear", "hard_tanh", "affine", "scaled_tanh")
            continue
        attributes = onnx.defs.get_schema(operator).attributes
        expected = [np.float32(attributes[key].default_value.f) for key in ("alpha", "beta") if key in attributes]
        np.testing.assert_array_equal(np.array(defaults, np.float32), expected)


BAD = [
    ({"bias": 1}, TypeError, "bias must be True or False, but was 1"),
    ({"proj_size": -1}, ValueError, "proj_size must be at least 0, but was -1"),
    ({"proj_size": 2.0}, TypeError, "proj_size must be an integer, but was 2.0"),
    ({"proj_size": True}, TypeError, "proj_size must be an integer, but was True"),
    ({"peephole": "vector"}, ValueError, "peephole must be one of 'none', 'diagonal', 'full', but was 'vector'"),
    ({"peephole": None}, ValueError, "peephole must be one of 'none', 'diagonal', 'full', but was None"),
    ({"peephole": ["full"]}, ValueError, r"peephole must be one of .* but was \['full'\]"),
    ({"output_peephole": "new"}, ValueError, "output_peephole must be None where peephole is 'none', but was 'new'"),
    ({"candidate_peephole": True}, ValueError, "candidate_peephole must be False or None where peephole is 'none'"),
    ({"candidate_peephole": "no"}, TypeError, "candidate_peephole must be True or False, but was 'no'"),
    ({"peephole": "full", "candidate_peephole": 1}, TypeError, "candidate_peephole must be True or False, but was 1"),
    (
        {"peephole": "full", "output_peephole": "old"},
        ValueError,
        "output_peephole must be one of 'new', 'previous', but was 'old'",
    ),
    ({"peephole": "full", "output_peephole": ""}, ValueError, "output_peephole must be one of .* but was ''"),
    ({"activations": "tanh"}, ValueError, "activations must be three: .* but was 'tanh'"),
    ({"activations": ("tanh", "tanh")}, ValueError, "activations must be three: .* but was .'tanh', 'tanh'."),
    ({"activations": ("tanh", "swish", "tanh")}, ValueError, "activations: unknown activation 'swish': .*, tanh,"),
    ({"activations": ("tanh", 3, "tanh")}, TypeError, r"activations: an activation must be a name or a tuple .* was 3"),
    ({"activations": ("tanh", (3,), "tanh")}, TypeError, "activations: the name of an activation .* but was 3"),
    ({"activations": ("tanh", (), "tanh")}, TypeError, r"activations: an activation must be .* but was \(\)"),
    ({"activations": ("tanh", ("elu", 1, 0, 0), "tanh")}, TypeError, "activations: an activation must be .*tuple"),
    ({"activations": (("tanh", 2), "tanh", "tanh")}, ValueError, "alpha of activation 'tanh' must be None, .* was 2"),
    ({"activations": (("elu", 1, 2), "tanh", "tanh")}, ValueError, "beta of activation 'elu' must be None, .* was 2"),
    ({"activations": (("elu", "1"), "tanh", "tanh")}, TypeError, "alpha of activation 'elu' must be a number, .* '1'"),
    ({"activations": (("elu", np.nan), "tanh", "tanh")}, ValueError, "alpha of activation 'elu' must be finite"),
    ({"activations": ("affine", "tanh", "tanh")}, ValueError, "alpha of activation 'affine' must be given"),
    ({"activations": (("affine", 1), "tanh", "tanh")}, ValueError, "beta of activation 'affine' must be given"),
    ({"coupled": None}, TypeError, "coupled must be True or False, but was None"),
    ({"clip": 0}, ValueError, "clip must be a number over 0, or None, but was 0"),
    ({"clip": -1.0}, ValueError, "clip must be a number over 0, or None, but was -1.0"),
    ({"clip": np.inf}, ValueError, "clip must be finite, but was inf"),
    ({"clip": np.nan}, ValueError, "clip must be finite, but was nan"),
    ({"clip": "1"}, TypeError, "clip must be a number, but was '1'"),
    ({"clip": True}, TypeError, "clip must be a number, but was True"),
    ({"layer_norm": 0}, TypeError, "layer_norm must be True or False, but was 0"),
    ({"zoneout": 1.5}, ValueError, "zoneout must be a probability between 0 and 1, but was 1.5"),
    ({"zoneout": (0.1, -0.1)}, ValueError, "zoneout must be a probability between 0 and 1, but was -0.1"),
    ({"zoneout": (0.1,)}, ValueError, r"zoneout must be a number or a pair \(c, h\), but was \(0.1,\)"),
    ({"zoneout": None}, TypeError, "zoneout must be a number, but was None"),
    ({"recurrent_dropout": np.nan}, ValueError, "recurrent_dropout must be a probability between 0 and 1, but was nan"),
    ({"recurrent_dropout": 2}, ValueError, "recurrent_dropout must be a probability between 0 and 1, but was 2"),
    ({"recurrent_dropout_mode": "row"}, ValueError, "recurrent_dropout_mode must be one of .* but was 'row'"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD, ids=[str(options) for options, *_ in BAD])
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        CellSpec(**options)


@pytest.mark.parametrize(
    ("sizes", "error", "message"),
    [
        ((0, 4), ValueError, "input_size must be at least 1, but was 0"),
        ((3, -1), ValueError, "hidden_size must be at least 1, but was -1"),
        ((3.0, 4), TypeError, "input_size must be an integer, but was 3.0"),
        ((3, True), TypeError, "hidden_size must be an integer, but was True"),
        ((3, 2), ValueError, "proj_size must be under hidden_size, which is 2, but was 2"),
    ],
)
def test_bad_sizes(sizes: tuple[Any, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parameter_shapes(CellSpec(proj_size=2), *sizes)


def test_nothing_but_keywords() -> None:
    with pytest.raises(TypeError):
        CellSpec(True)  # type: ignore[misc]
    with pytest.raises(TypeError, match="hidden_size"):
        CellSpec(hidden_size=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("module", "ours"), [("checks", set()), ("cell", {"fastlstm"}), ("reference", {"fastlstm.cell"})]
)
def test_the_specification_imports_numpy_alone(module: str, ours: set[str]) -> None:
    """And a room of ours each: `cell` its checks, `reference` the cell."""
    source = (importlib.resources.files("fastlstm") / f"{module}.py").read_text(encoding="utf-8")
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    others = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names | {"numpy"}}
    assert others == ours
