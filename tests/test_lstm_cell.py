"""LSTMCell: a step of the layer, and of torch.nn.LSTMCell."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import tolerances
from layer_case import LayerCase

from fastlstm import LSTM, LSTMCell


def cell_of(case: LayerCase) -> LSTMCell:
    """A cell with the parameters of a case's layer."""
    cell = LSTMCell(case.I, case.H, bias=case.bias, dtype=case.dtype)
    cell.load_state_dict({name.removesuffix("_l0"): array for name, array in case.lstm.parameters.items()})
    return cell


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("unbatched", [False, True])
def test_steps_are_the_layer(unbatched: bool, dtype: str) -> None:
    case = LayerCase(T=9, B=1 if unbatched else 4, I=7, H=19, unbatched=unbatched, dtype=dtype)
    whole, cell, a = case.inferred(), cell_of(case), case.arrays
    h, c = a["h_0"][0], a["c_0"][0]
    for t, x in enumerate(a["x"]):
        h, c = cell(x, (h, c))
        np.testing.assert_array_equal(h, whole["y"][t])
    np.testing.assert_array_equal(c, whole["c_n"][0])


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("unbatched", [False, True])
def test_gradients_are_torchs(unbatched: bool, bias: bool) -> None:
    torch = pytest.importorskip("torch")
    case = LayerCase(T=1, B=1 if unbatched else 5, I=6, H=17, bias=bias, unbatched=unbatched, dtype="float64")
    cell, a = cell_of(case), case.arrays
    module = torch.nn.LSTMCell(case.I, case.H, bias, dtype=torch.float64)
    module.load_state_dict({name: torch.tensor(array) for name, array in cell.parameters.items()})
    given = {name: torch.tensor(a[name][0], requires_grad=True) for name in ("x", "h_0", "c_0")}
    h, c = module(given["x"], (given["h_0"], given["c_0"]))
    ((h * torch.tensor(a["dh_n"][0])).sum() + (c * torch.tensor(a["dc_n"][0])).sum()).backward()

    state, tape = cell.forward(a["x"][0], (a["h_0"][0], a["c_0"][0]))
    dx, (dh, dc), grads = cell.backward(tape, (a["dh_n"][0], a["dc_n"][0]))
    found = {"h_n": state[0], "c_n": state[1], "dx": dx, "dh_0": dh, "dc_0": dc} | grads
    expected = {"h_n": h, "c_n": c, "dx": given["x"].grad, "dh_0": given["h_0"].grad, "dc_0": given["c_0"].grad}
    expected |= {name: parameter.grad for name, parameter in module.named_parameters()}
    tolerances.check(found, {name: value.detach().numpy() for name, value in expected.items()}, case)


def test_zero_state_empty_batch_and_repr() -> None:
    cell = LSTMCell(3, 5, seed=0)
    x, zero = np.ones((2, 3), np.float32), np.zeros((2, 5), np.float32)
    for found, wanted in zip(cell(x), cell(x, (zero, zero)), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert [part.shape for part in cell(x[:0])] == [(0, 5), (0, 5)]
    assert repr(LSTMCell(3, 5, bias=False, dtype=np.float64)) == "LSTMCell(3, 5, bias=False, dtype=float64)"


def test_parameters_are_pytorchs() -> None:
    cell = LSTMCell(3, 5, seed=7)
    assert {name: array.shape for name, array in cell.parameters.items()} == {
        "weight_ih": (20, 3), "weight_hh": (20, 5), "bias_ih": (20,), "bias_hh": (20,)
    }  # fmt: skip
    np.testing.assert_array_equal(cell.state_dict()["weight_hh"], LSTM(3, 5, seed=7).parameters["weight_hh_l0"])
    x = np.ones(3, np.float32)
    before = cell(x)[0]
    cell.parameters["bias_ih"][...] += 1
    assert not np.array_equal(cell(x)[0], before)
    with pytest.raises(
        ValueError,
        match=r"missing bias_hh \(20,\); unexpected bias_hx; weight_ih must have .* \(20, 3\), but has \(20, 4\)",
    ):
        cell.load_state_dict(
            {
                "weight_ih": np.ones((20, 4)),
                "weight_hh": np.ones((20, 5)),
                "bias_ih": np.ones(20),
                "bias_hx": np.ones(20),
            }
        )


x, h = np.ones((2, 3), np.float32), np.ones((2, 5), np.float32)
BAD = {
    "x of three axes": ((x[None],), ValueError, r"x must have the shape \(B, I\) .* but has \(1, 2, 3\)"),
    "x of other features": ((h,), ValueError, r"x must have 3 features \(input_size\).* \(2, 5\)"),
    "x of float64": ((x.astype(np.float64),), TypeError, r"x must have the layer's dtype float32, but has float64"),
    "h alone": ((x, h), TypeError, r"state must be a pair \(h, c\) or None, but was ndarray"),
    "h with a layer": (
        (x, (h[None], h)),
        ValueError,
        r"h of state must have the shape \(B, H\) = \(2, 5\), but has \(1, 2, 5\)",
    ),
    "c for a single row": (
        (x[0], (h[0], h)),
        ValueError,
        r"c of state must have the shape \(H,\) = \(5,\), but has \(2, 5\)",
    ),
}


@pytest.mark.parametrize(("arguments", "error", "message"), BAD.values(), ids=BAD)
def test_refused(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    cell = LSTMCell(3, 5, seed=0)
    for call in (cell, cell.forward):
        with pytest.raises(error, match=message):
            call(*arguments)


def test_backward_refuses() -> None:
    cell = LSTMCell(3, 5, seed=0)
    with pytest.raises(TypeError, match=r"tape must be what forward returned, but was NoneType"):
        cell.backward(None, (h, h))
    _, tape = cell.forward(x)
    with pytest.raises(ValueError, match=r"c of dstate must have the shape \(B, H\) = \(2, 5\), but has \(5,\)"):
        cell.backward(tape, (h, h[0]))
    cell.backward(tape, (h, h))
    with pytest.raises(ValueError, match=r"tape must be fresh from forward"):
        cell.backward(tape, (h, h))
    with pytest.raises(ValueError, match=r"hidden_size must be at least 1, but was 0"):
        LSTMCell(3, 0)


@pytest.mark.parametrize("unbatched", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_prepared_calls_are_the_layers(held: bool, unbatched: bool) -> None:
    case = LayerCase(T=1, B=1 if unbatched else 4, I=7, H=19, unbatched=unbatched)
    cell, a, expected = cell_of(case), case.arrays, case.found()
    parameters = dict(cell.parameters) if held else None
    state, dstate = (a["h_0"][0], a["c_0"][0]), (a["dh_n"][0], a["dc_n"][0])
    for form in (np.asarray, np.ndarray.tolist, np.asarray):
        h, c = cell(form(a["x"][0]), state)
        (h_n, c_n), tape = cell.forward(form(a["x"][0]), state)
        case.arrays["dy"][...] = 0
        dx, (dh, dc), grads = cell.backward(tape, (form(dstate[0]), dstate[1]))
        for found, again, name in ((h, h_n, "h_n"), (c, c_n, "c_n")):
            np.testing.assert_array_equal(found, expected[name][0])
            np.testing.assert_array_equal(again, found)
        wanted = case.found()
        for name, found in ({"dx": dx, "dh_0": dh, "dc_0": dc}).items():
            np.testing.assert_array_equal(found, wanted[name][0], err_msg=name)
        for name, found in grads.items():
            np.testing.assert_array_equal(found, wanted[name + "_l0"], err_msg=name)
        with pytest.raises(ValueError, match="tape must be fresh from forward"):
            cell.backward(tape, dstate)
    assert parameters is None or set(parameters) == set(grads)


def test_a_copy_is_its_own() -> None:
    cell = LSTMCell(3, 5, seed=0)
    x = np.ones((2, 3), np.float32)
    h, _ = cell(x)
    other = copy.deepcopy(cell)
    np.testing.assert_array_equal(other(x)[0], h)
    other.parameters["weight_hh"][...] = other.parameters["weight_ih"][...] = 0
    assert not np.array_equal(other(x)[0], h)
    np.testing.assert_array_equal(cell(x)[0], h)
