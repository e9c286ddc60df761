"""Prepared calls of the long backward pass: the bits of the long way, whatever changes between two of them."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from layer_case import Arrays, LayerCase
from thread_case import at_once

import fastlstm
from fastlstm import inference
from fastlstm.passes.short_backward import LayersBackward

CASES = [
    LayerCase(T=63, B=1, I=24, H=32, bidirectional=True),
    LayerCase(T=24, B=32, I=1, H=25),
    LayerCase(T=12, B=16, I=30, H=40, layers=2),
    LayerCase(T=40, B=3, I=20, H=40, layers=3, bidirectional=True),
    LayerCase(T=40, B=1, I=7, H=9, layers=2, batch_first=True, bias=False),
    LayerCase(T=36, B=1, I=5, H=70, layers=2, unbatched=True, batch_first=True, bidirectional=True),
    LayerCase(T=20, B=5, I=33, H=83, dtype="float64", state=False),
    LayerCase(T=9, B=40, I=70, H=130, layers=2),
    LayerCase(T=7, B=3, I=5, H=9, batch_first=True),
    LayerCase(T=20, B=5, I=30, H=70, batch_first=True, bias=False),
    LayerCase(T=8, B=4, I=5, H=9, layers=2, batch_first=True, bidirectional=True),
]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    fastlstm.set_num_threads(1)


def long_way(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> Arrays:
    with monkeypatch.context() as patch:
        patch.setattr(inference, "SHORT_FLOPS", 0)
        case.lstm._short.clear()
        found = case.found()
        assert not case.lstm._short
    return found


def equal(found: Arrays, expected: Arrays) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype
        assert found[name].flags.writeable and found[name].flags.c_contiguous


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_of_the_long_way(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = long_way(case, monkeypatch)
    for _ in range(3):
        equal(case.found(), expected)
    assert type(case.lstm.forward(case.arrays["x"])[2].short) is LayersBackward


@pytest.mark.parametrize("case", CASES[:3], ids=str)
def test_a_change_of_the_parameters_counts_at_once(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> None:
    case.found()
    held = case.lstm.parameters["weight_hh_l0"]
    for _ in range(2):
        held *= 0.5
        equal(case.found(), long_way(case, monkeypatch))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
@pytest.mark.parametrize("where", ["x", "dy", "h_0"])
def test_special_values(where: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    case = LayerCase(T=12, B=16, I=30, H=70, layers=2)
    case.arrays[where][0, 1, 2] = value
    with np.errstate(all="ignore"):
        equal(case.found(), long_way(case, monkeypatch))


def test_arguments_that_it_does_not_take_go_the_long_way() -> None:
    case = LayerCase(T=12, B=16, I=30, H=40, layers=2)
    expected, a = case.found(), case.arrays
    state = a["dh_n"], a["dc_n"]
    for dy, dstate in ((a["dy"].tolist(), state), (np.asfortranarray(a["dy"]), state), (a["dy"], [*state])):
        _, _, tape = case.lstm.forward(a["x"], (a["h_0"], a["c_0"]))
        with pytest.raises(ValueError, match="dy must have the shape of y"):
            case.lstm.backward(tape, a["dy"][:1], dstate)
        dx, (dh_0, dc_0), grads = case.lstm.backward(tape, dy, dstate)
        for name, array in ({"dx": dx, "dh_0": dh_0, "dc_0": dc_0} | grads).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
        with pytest.raises(ValueError, match="tape must be fresh from forward"):
            case.lstm.backward(tape, dy, dstate)


def test_dropout_between_layers_goes_the_long_way() -> None:
    lstm = fastlstm.LSTM(5, 6, 2, dropout=0.5, seed=1)
    x = np.ones((40, 3, 5), np.float32)
    _, _, tape = lstm.forward(x)
    assert tape.short is None and "input_l1" in tape.drawn


def test_threads_share_a_layer() -> None:
    case = LayerCase(T=24, B=4, I=16, H=48, layers=2)
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((6, 24, 4, 16)).astype(np.float32)

    def gradients(k: int) -> dict[str, np.ndarray]:
        y, _, tape = case.lstm.forward(inputs[k])
        dx, _, grads = case.lstm.backward(tape, y)
        return {"dx": dx} | grads

    expected = [gradients(k) for k in range(len(inputs))]

    def right(k: int) -> bool:
        return all(
            all(np.array_equal(array, expected[k][name]) for name, array in gradients(k).items()) for _ in range(60)
        )

    assert all(at_once([partial(right, k) for k in range(len(inputs))]))


def test_two_threads_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in CASES[:4]:
        expected = case.found()
        fastlstm.set_num_threads(2)
        equal(case.found(), expected)
        fastlstm.set_num_threads(1)


CELLS: list[dict] = [
    {"peephole": "diagonal"},
    {"peephole": "full", "output_peephole": "new"},
    {"layer_norm": True, "coupled": True},
    {"layer_norm": True, "peephole": "diagonal", "bias": False},
    {"activations": ("hard_sigmoid", "relu", "tanh"), "clip": 2.0},
]


@pytest.mark.parametrize("options", CELLS, ids=str)
@pytest.mark.parametrize(("I", "H"), [(7, 19), (30, 70)])
def test_other_cells(options: dict, I: int, H: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = fastlstm.LSTM(I, H, 2, bidirectional=True, seed=1, **options)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 9, I), dtype=np.float32)

    def found() -> Arrays:
        y, (h, c), tape = lstm.forward(x)
        dx, (dh, dc), grads = lstm.backward(tape, np.ones_like(y))
        plain, ends = lstm(x)
        return {"y": y, "h": h, "c": c, "dx": dx, "dh": dh, "dc": dc, "plain": plain, "h_n": ends[0]} | grads

    with monkeypatch.context() as patch:
        patch.setattr(inference, "SHORT_FLOPS", 0)
        expected = found()
        assert not lstm._short
    for _ in range(3):
        equal(found(), expected)
    assert type(lstm.forward(x)[2].short) is LayersBackward
