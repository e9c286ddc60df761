"""The reference against others: torch.nn.LSTM, the papers' equations written out in torch, onnxruntime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference_case import BOUNDED, Case, kind

from fastlstm import reference
from fastlstm.cell import ACTIVATIONS, Activation, CellSpec


def close(actual: Any, expected: Any, case: Case) -> None:
    expected = expected.detach().numpy()
    scale = max(1.0, float(abs(expected).max(initial=0)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=case.rounding() * scale)


@pytest.mark.parametrize("lengths", [False, True], ids=["dense", "packed"])
@pytest.mark.parametrize("proj_size", [0, 2])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (1, True), (2, False), (2, True)])
def test_torch_lstm(layers: int, bidirectional: bool, proj_size: int, lengths: bool) -> None:
    torch = pytest.importorskip("torch")
    case = Case(CellSpec(proj_size=proj_size), layers, bidirectional, (7, 5, 3, 4), seed=3)
    module = torch.nn.LSTM(3, 4, layers, bidirectional=bidirectional, proj_size=proj_size, dtype=torch.float64)
    module.load_state_dict({name: torch.tensor(value) for name, value in case.params.items()})
    x, h_0, c_0 = (torch.tensor(case.arrays[name], requires_grad=True) for name in ("x", "h_0", "c_0"))
    if lengths:
        case.options["lengths"] = torch.tensor([3, 7, 1, 6, 2])
        packed = torch.nn.utils.rnn.pack_padded_sequence(x, case.options["lengths"], enforce_sorted=False)
        output, (h_n, c_n) = module(packed, (h_0, c_0))
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output)
    else:
        output, (h_n, c_n) = module(x, (h_0, c_0))
    wanted = [(output * torch.tensor(case.dy)).sum()]
    wanted += [(value * torch.tensor(weight)).sum() for value, weight in zip((h_n, c_n), case.dstate, strict=True)]
    sum(wanted).backward()

    y, state, _ = case.forward()
    for actual, expected in zip((y, *state), (output, h_n, c_n), strict=True):
        close(actual, expected, case)
    leaves = dict(module.named_parameters()) | {"x": x, "h_0": h_0, "c_0": c_0}
    for name, grad in case.gradients().items():
        close(grad, leaves[name].grad, case)


def literal_lstm(torch: Any, case: Case, leaves: dict[str, Any]) -> tuple[Any, Any, Any]:
    """One layer, one direction, gate by gate from the papers' equations: what no other library computes as a whole."""
    spec, p = case.spec, {name.removesuffix("_l0"): value for name, value in leaves.items()}
    masks = {name.removesuffix("_l0"): torch.tensor(value) for name, value in case.options["masks"].items()}
    hidden = case.sizes[3]
    h, c, ys = leaves["h_0"][0], leaves["c_0"][0], []

    def part(stacked: Any, gates: tuple[str, ...], gate: str) -> Any:
        return stacked[hidden * gates.index(gate) :][:hidden]

    for t, x in enumerate(leaves["x"]):
        mask = masks.get("recurrent", torch.ones(1, *h.shape))
        wx, rh = x @ p["weight_ih"].T, (h * mask[t % len(mask)]) @ p["weight_hh"].T
        if spec.layer_norm:
            wx = torch.nn.functional.layer_norm(wx, wx.shape[1:], p["weight_ln_ih"], p["bias_ih"])
            rh = torch.nn.functional.layer_norm(rh, rh.shape[1:], p["weight_ln_hh"], p["bias_hh"])
        else:
            rh = rh + p["bias_ih"] + p["bias_hh"]
        z = (wx + rh).T

        def gate(name: str, seen: Any, z: Any = z) -> Any:
            total = part(z, spec.gates, name).T
            if name in spec.peephole_gates:
                total = total + seen @ part(p["weight_ch"], spec.peephole_gates, name).T
            return total

        i = torch.sigmoid(gate("i", c))
        f = 1 - i if spec.coupled else torch.sigmoid(gate("f", c))
        g = (torch.sigmoid if spec.activations[1].name == "sigmoid" else torch.tanh)(gate("g", c))
        new = f * c + i * g
        o = torch.sigmoid(gate("o", new if spec.output_peephole == "new" else c))
        seen = new
        if spec.layer_norm:
            seen = torch.nn.functional.layer_norm(new, new.shape[1:], p["weight_ln_c"], p["bias_ln_c"])
        out = o * torch.tanh(seen)
        if "zoneout_c" in masks:
            new, out = torch.where(masks["zoneout_c"][t] > 0, c, new), torch.where(masks["zoneout_h"][t] > 0, h, out)
        elif spec.zoneout != (0, 0):
            new = spec.zoneout[0] * c + (1 - spec.zoneout[0]) * new
            out = spec.zoneout[1] * h + (1 - spec.zoneout[1]) * out
        h, c = out, new
        ys.append(h)
    return torch.stack(ys), h, c


@pytest.mark.parametrize(
    ("options", "masks"),
    [
        ({"peephole": "full", "activations": ("sigmoid", "sigmoid", "tanh")}, ()),
        ({"peephole": "full", "output_peephole": "new", "candidate_peephole": False}, ()),
        ({"peephole": "full", "coupled": True}, ()),
        ({"layer_norm": True}, ()),
        ({"layer_norm": True, "coupled": True}, ()),
        ({"zoneout": (0.4, 0.1)}, ()),
        ({}, ("zoneout_c", "zoneout_h")),
        ({}, ("recurrent",)),
        ({"recurrent_dropout_mode": "step", "layer_norm": True}, ("recurrent", "zoneout_c", "zoneout_h")),
    ],
)
def test_literal_equations(options: dict[str, Any], masks: tuple[str, ...]) -> None:
    torch = pytest.importorskip("torch")
    case = Case(CellSpec(**options), sizes=(5, 3, 2, 4), masks=masks, seed=4)
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in case.arrays.items()}
    output, h_n, c_n = literal_lstm(torch, case, leaves)
    dh, dc = (torch.tensor(value[0]) for value in case.dstate)
    ((output * torch.tensor(case.dy)).sum() + (h_n * dh).sum() + (c_n * dc).sum()).backward()
    y, state, _ = case.forward()
    for actual, expected in zip((y, state[0][0], state[1][0]), (output, h_n, c_n), strict=True):
        close(actual, expected, case)
    for name, grad in case.gradients().items():
        close(grad, leaves[name].grad, case)


def torch_activations(functional: Any) -> dict[tuple[Any, ...], Any]:
    return {
        ("sigmoid",): functional.sigmoid,
        ("tanh",): functional.tanh,
        ("relu",): functional.relu,
        ("linear",): lambda x: x,
        ("hard_tanh",): functional.hardtanh,
        ("softsign",): functional.softsign,
        ("softplus",): lambda x: functional.softplus(x, threshold=80),
        ("hard_sigmoid", 0.2, 0.5): lambda x: functional.hardtanh(0.2 * x + 0.5, 0, 1),
        ("leaky_relu", 0.02): lambda x: functional.leaky_relu(x, 0.02),
        ("elu", 0.7): lambda x: functional.elu(x, 0.7),
        ("thresholded_relu", 0.5): lambda x: functional.threshold(x, 0.5, 0),
        ("affine", 0.3, 0.1): lambda x: 0.3 * x + 0.1,
        ("scaled_tanh", 1.7, 0.6): lambda x: 1.7 * functional.tanh(0.6 * x),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activations_are_those_of_torch(dtype: type) -> None:
    torch = pytest.importorskip("torch")
    table = torch_activations(torch.nn.functional)
    assert {name for name, *_ in table} == set(ACTIVATIONS)
    # Most of the kinks are among the points: there the derivative is a convention.
    points = np.array([-90, -40, -1.5, -1, -0.3, 0, 0.2, 0.5, 0.7, 1, 2, 2.9, 40, 90], dtype)
    for arguments, function in table.items():
        x = torch.tensor(points, requires_grad=True)
        expected = function(x)
        expected.sum().backward()
        chosen = Activation.parse(arguments)
        with np.errstate(over="ignore", invalid="ignore"):
            value, derivative = reference.activate(chosen, points), reference.slope(chosen, points)
        assert value.dtype == derivative.dtype == dtype
        tolerance = {"rtol": 8 * np.finfo(dtype).eps, "atol": 8 * np.finfo(dtype).eps, "err_msg": str(chosen)}
        np.testing.assert_allclose(value, expected.detach().numpy(), **tolerance)
        np.testing.assert_allclose(derivative, x.grad.numpy(), **tolerance)


def test_clip_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    points = np.array([-3, -2, -1.5, 0, 2, 2.5])
    x = torch.tensor(points, requires_grad=True)
    expected = torch.tanh(x.clamp(-2, 2))
    expected.sum().backward()
    value, derivative = (each(Activation("tanh"), points, 2.0) for each in (reference.activate, reference.slope))
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=0, atol=4 * np.finfo(np.float64).eps)
    np.testing.assert_allclose(derivative, x.grad.numpy(), rtol=0, atol=4 * np.finfo(np.float64).eps)


# onnxruntime: the ONNX operator, float32.


ONNX_NAMES = {name: name.title().replace("_", "") for name in ACTIVATIONS if name not in ("linear", "hard_tanh")}


def onnx_order(stacked: np.ndarray, gates: tuple[str, ...], order: str) -> np.ndarray:
    """The blocks of the gates in ONNX's order; a gate that the cell lacks is filled with what must not matter."""
    parts = reference.blocks(stacked, gates)
    return np.concatenate([parts.get(gate, np.full_like(parts["i"], 7)) for gate in order])


def onnx_lstm(case: Case) -> list[np.ndarray]:
    """Y (T, D, B, H), Y_h and Y_c (D, B, H) of onnxruntime's CPU provider."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    spec, directions = case.spec, 1 + case.bidirectional
    suffixes = ("_l0", "_l0_reverse")[:directions]

    def stack(name: str, order: str = "iofc", gates: tuple[str, ...] = spec.gates) -> np.ndarray:
        gates = tuple("c" if gate == "g" else gate for gate in gates)
        return np.stack([onnx_order(case.arrays[name + suffix], gates, order) for suffix in suffixes])

    lengths = case.options["lengths"]
    inputs = {
        "X": case.arrays["x"],
        "W": stack("weight_ih"),
        "R": stack("weight_hh"),
        "B": np.concatenate([stack("bias_ih"), stack("bias_hh")], axis=1) if spec.bias else None,
        "sequence_lens": None if lengths is None else np.asarray(lengths, np.int32),
        "initial_h": case.arrays["h_0"],
        "initial_c": case.arrays["c_0"],
        "P": stack("weight_ch", "iof", spec.peephole_gates) if spec.peephole == "diagonal" else None,
    }
    kinds = spec.activations * directions
    attributes = {
        "hidden_size": case.sizes[3],
        "direction": "bidirectional" if case.bidirectional else "forward",
        "clip": spec.clip,
        "input_forget": int(spec.coupled),
        "activations": [ONNX_NAMES[each.name] for each in kinds],
        "activation_alpha": [each.alpha for each in kinds if len(ACTIVATIONS[each.name]) > 0] or None,
        "activation_beta": [each.beta for each in kinds if len(ACTIVATIONS[each.name]) > 1] or None,
    }
    given = {name: value for name, value in inputs.items() if value is not None}
    names, outputs = [name if name in given else "" for name in inputs], ["Y", "Y_h", "Y_c"]
    helper, types = onnx.helper, {name: onnx.helper.np_dtype_to_tensor_dtype(given[name].dtype) for name in given}
    graph = helper.make_graph(
        [helper.make_node("LSTM", names, outputs, **attributes)],
        "lstm",
        [helper.make_tensor_value_info(name, types[name], value.shape) for name, value in given.items()],
        [helper.make_tensor_value_info(name, types["X"], None) for name in outputs],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 22)])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, given)


def onnx_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    names = rng.choice(list(ONNX_NAMES), 3) if rng.random() < 0.7 else ("sigmoid", "tanh", "tanh")
    spec = CellSpec(
        bias=bool(rng.random() < 0.8),
        peephole=str(rng.choice(["none", "diagonal"])),
        activations=[kind(str(name)) for name in names],
        coupled=bool(rng.random() < 0.3),
        clip=float(np.float32(rng.uniform(0.2, 2))) if rng.random() < 0.4 else None,
    )
    bounded = spec.activations[0].name in BOUNDED  # with an unbounded f, c = f * c_ + ... explodes
    steps, batch, inputs, hidden = (int(rng.integers(1, most)) for most in (9 if bounded else 4, 7, 20, 20))
    return Case(
        spec,
        bidirectional=bool(rng.random() < 0.5),
        sizes=(steps, batch, inputs, hidden),
        lengths=bool(rng.random() < 0.5),
        seed=seed,
        scale=0.5 if bounded else 0.1,
        dtype=np.float32,
    )


@pytest.mark.parametrize("seed", range(100))
def test_onnxruntime(seed: int) -> None:
    case = onnx_case(seed)
    output, *expected_state = onnx_lstm(case)
    y, state, _ = case.forward()
    steps, batch, *_ = case.sizes
    expected = output.transpose(0, 2, 1, 3).reshape(steps, batch, -1)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    taken = np.full(batch, steps) if case.options["lengths"] is None else case.options["lengths"]
    for actual, wanted, initial in zip(state, expected_state, ("h_0", "c_0"), strict=True):
        np.testing.assert_allclose(actual[:, taken > 0], wanted[:, taken > 0], rtol=1e-5, atol=1e-5)
        # Without a step, the state stays what it was; onnxruntime gives 0 there, and its specification is silent.
        np.testing.assert_array_equal(actual[:, taken == 0], case.arrays[initial][:, taken == 0])
        np.testing.assert_array_equal(wanted[:, taken == 0], 0)
