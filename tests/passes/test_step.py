"""Steps from the weights as they lie: the bits of the long passes, for every size, and from the first call on."""

from __future__ import annotations

import numpy as np
import pytest
import tolerances
from layer_case import Arrays, LayerCase

import fastlstm
from fastlstm import inference
from fastlstm.passes.short_step import ShortStep
from fastlstm.plan import ROWS

CASES = [
    LayerCase(T=1, B=1, I=1, H=1),
    LayerCase(T=1, B=1, I=128, H=128),
    LayerCase(T=1, B=8, I=64, H=80, state=False),
    LayerCase(T=1, B=ROWS, I=30, H=45),
    LayerCase(T=1, B=17, I=19, H=65),
    LayerCase(T=1, B=7, I=150, H=33, batch_first=True, bias=False),
    LayerCase(T=4, B=8, I=130, H=150),
    LayerCase(T=ROWS, B=1, I=19, H=16, unbatched=True),
    LayerCase(T=5, B=1, I=33, H=40, batch_first=True, dtype="float64"),
    LayerCase(T=3, B=6, I=17, H=83, bias=False, state=False, dtype="float64"),
]


def both_ways(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> tuple[Arrays, Arrays]:
    """What the long way finds, and what a prepared call does."""
    case.lstm._short.clear()
    with monkeypatch.context() as patch:
        patch.setattr(inference, "SHORT_FLOPS", 0)
        long = case.found()
    assert not case.lstm._short
    assert case.lstm.forward(case.arrays["x"])[2].short is not None
    return long, case.found()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_of_the_long_way(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    long, short = both_ways(case, monkeypatch)
    assert list(short) == list(long)
    for name, array in long.items():
        np.testing.assert_array_equal(short[name], array, err_msg=name)
        assert short[name].dtype == array.dtype
        assert short[name].flags.writeable and short[name].flags.c_contiguous


@pytest.mark.parametrize("case", [case for case in CASES if case.T == 1], ids=str)
def test_bits_of_a_step_with_parameters_that_somebody_holds(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    run = ShortStep.run
    monkeypatch.setattr(ShortStep, "run", lambda self, *arrays: steps.append(len(arrays)) or run(self, *arrays))
    long, _ = both_ways(case, monkeypatch)
    case.inferred()
    assert not steps
    held = case.lstm.parameters["weight_ih_l0"]
    for found in (case.found(), case.inferred()):
        for name, array in found.items():
            np.testing.assert_array_equal(array, long[name], err_msg=name)
    assert steps == [12, 10]
    del held
    case.inferred()
    assert len(steps) == 2


@pytest.mark.parametrize("case", CASES, ids=str)
def test_against_the_reference(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = case.expected()
    for name, found in both_ways(case, monkeypatch)[1].items():
        allowed = tolerances.bound(case.dtype, name, case) * tolerances.scale(name, expected[name])
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=allowed, err_msg=name)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("where", ["x", "dy", "dh_n", "h_0", "c_0"])
@pytest.mark.parametrize("T", [1, 2])
@pytest.mark.parametrize(("I", "H"), [(5, 19), (33, 70)])
def test_special_values(I: int, H: int, T: int, where: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case = LayerCase(T=T, B=3, I=I, H=H)
    case.arrays[where][0, 1, 2] = value
    long, short = both_ways(case, monkeypatch)
    held = case.lstm.parameters["bias_hh_l0"]
    stepped = case.found()
    assert held is not None
    for name, array in long.items():
        np.testing.assert_array_equal(short[name], array, err_msg=name)
        np.testing.assert_array_equal(stepped[name], array, err_msg=name)


def test_a_step_of_gradient_descent_counts_at_once() -> None:
    case, other = LayerCase(T=1, B=2, I=5, H=19), LayerCase(T=1, B=2, I=5, H=19)
    parameters = dict(case.lstm.parameters)  # held, as an optimizer holds them
    for _ in range(5):
        found = case.found()
        fresh = fastlstm.LSTM(5, 19, seed=3)
        fresh.load_state_dict(parameters)
        other.__dict__["lstm"] = fresh
        for name, array in other.found().items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        for name, array in parameters.items():
            array -= 0.1 * found[name]


def test_a_tape_is_spent_once() -> None:
    case = LayerCase(T=1, B=2, I=5, H=19)
    for _ in range(2):
        y, _, tape = case.lstm.forward(case.arrays["x"])
        case.lstm.backward(tape, y)
        with pytest.raises(ValueError, match="tape must be fresh from forward"):
            case.lstm.backward(tape, y)


def test_other_arguments_go_the_long_way() -> None:
    case = LayerCase(T=2, B=3, I=5, H=19)
    expected = case.found()
    a, state = case.arrays, (case.arrays["dh_n"], case.arrays["dc_n"])
    for dy, dstate in ((a["dy"].tolist(), state), (np.asfortranarray(a["dy"]), state), (a["dy"], [*state])):
        _, _, tape = case.lstm.forward(a["x"], (a["h_0"], a["c_0"]))
        assert tape.short is not None
        dx, (dh_0, dc_0), grads = case.lstm.backward(tape, dy, dstate)
        for name, array in ({"dx": dx, "dh_0": dh_0, "dc_0": dc_0} | grads).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    _, _, tape = case.lstm.forward(a["x"])
    with pytest.raises(ValueError, match="dy must have the shape of y"):
        case.lstm.backward(tape, a["dy"][:1])
    with pytest.raises(ValueError, match="h of dstate must have the shape"):
        case.lstm.backward(tape, a["dy"], (state[0][:, :1], state[1]))
