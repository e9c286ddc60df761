"""The contracts on bits: a result does not depend on the batch around it, on the threads, or on how time is cut.

All by `array_equal`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from layer_case import Arrays, LayerCase
from thread_case import at_once

import fastlstm
from fastlstm.passes import templates
from fastlstm.plan import Plan

CASES = [
    LayerCase(T=11, B=1, I=7, H=33),
    LayerCase(T=5, B=13, I=17, H=16, layers=2),
    LayerCase(T=9, B=6, I=3, H=70, bidirectional=True),
    LayerCase(T=40, B=19, I=65, H=129, dtype="float64"),
    LayerCase(T=150, B=4, I=2, H=31, layers=2, bidirectional=True, batch_first=True),
    LayerCase(T=300, B=8, I=64, H=96),
    LayerCase(T=20, B=2, I=9, H=330),
    LayerCase(T=40, B=37, I=30, H=70),
]
# (parts, by_units, chunk of the forward pass)
CUTS = {
    "one thread, W x with each step": (1, False, 0),
    "one thread, chunks of 3": (1, False, 3),
    "one chunk": (1, False, 1000),
    "two parts of the rows": (2, False, 0),
    "three parts of the rows": (3, False, 0),
    "two parts of the units": (2, True, 0),
    "two parts of the units, chunks of 4": (2, True, 4),
    "four parts of the units": (4, True, 7),
}


def same(found: Arrays, expected: Arrays) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def force(monkeypatch: pytest.MonkeyPatch, parts: int, by_units: bool, chunk: int) -> list[str]:
    """Make every plan of the layer this one, as far as rows and units go round; no call counts as short, which has a
    plan of its own.

    Returns a list that grows with each plan made.
    """
    import fastlstm.layer_call as layer_call

    made = []

    def forward(
        T: int,
        B: int,
        I: int,
        H: int,
        D: int,
        dtype: np.dtype,
        threads: int,
        uniform: bool,
        whole: bool,
        unit: bool,
    ) -> Plan:
        serial = layer_plans[0](T, B, I, H, D, dtype, 1, uniform, whole, unit)
        made.append("forward")
        return serial._replace(
            parts=parts if by_units else min(parts, B),
            by_units=by_units,
            chunk=min(chunk, T) if uniform and (by_units or parts == 1) else 0,
        )

    def backward(T: int, B: int, I: int, H: int, D: int, dtype: np.dtype, threads: int, whole: bool) -> Plan:
        serial = layer_plans[1](T, B, I, H, D, dtype, 1, whole)
        made.append("backward")
        return serial._replace(parts=parts if by_units else min(parts, B), by_units=by_units)

    layer_plans = layer_call.plan_forward, layer_call.plan_backward
    monkeypatch.setattr(layer_call, "plan_forward", forward)
    monkeypatch.setattr(layer_call, "plan_backward", backward)
    monkeypatch.setattr(fastlstm.LSTM, "_prepared", lambda *_, **__: None)
    return made


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_plan(case: LayerCase, cut: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    fastlstm.set_num_threads(1)
    expected = case.found()
    parts, by_units, chunk = cut
    fastlstm.set_num_threads(4)
    made = force(monkeypatch, parts, by_units, chunk)
    same(case.found(), expected)
    assert made == ["forward"] * case.layers + ["backward"] * case.layers
    same(case.inferred(), {name: expected[name] for name in ("y", "h_n", "c_n")})


@pytest.mark.parametrize("threads", [2, 3, 4])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_thread_count(case: LayerCase, threads: int) -> None:
    fastlstm.set_num_threads(1)
    expected = case.found()
    fastlstm.set_num_threads(threads)
    same(case.found(), expected)
    same(case.inferred(), {name: expected[name] for name in ("y", "h_n", "c_n")})


@pytest.fixture
def large_arrays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every tape and every y counts as larger than the caches, whatever was worked out before."""
    monkeypatch.setattr(templates, "PAST_CACHES", 0)
    templates.forward_template.cache_clear()
    yield
    templates.forward_template.cache_clear()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "layers": 2}, {"dtype": "float64"}], ids=str)
@pytest.mark.parametrize("H", [64, 70])  # whole vectors, and not
def test_past_the_caches(H: int, options: dict, threads: int, request: pytest.FixtureRequest) -> None:
    fastlstm.set_num_threads(threads)
    case = LayerCase(T=80, B=19, I=7, H=H, **options)
    expected = case.found()
    request.getfixturevalue("large_arrays")
    other = replace(case)
    same(other.found(), expected)
    same(other.inferred(), {name: expected[name] for name in ("y", "h_n", "c_n")})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("options", [{}, {"lengths": np.arange(20) % 7 + 1}], ids=["dense", "ragged"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_few_rows_of_many_units(dtype: type, options: dict, threads: int) -> None:
    """Few rows take the panels of a large R by turns from either end, many do not."""
    fastlstm.set_num_threads(threads)
    lstm, found = fastlstm.LSTM(9, 330, dtype=dtype, seed=0), []
    x = np.random.default_rng(0).standard_normal((7, 20, 9)).astype(dtype)
    for rows in (20, 3):
        given = {name: value[:rows] for name, value in options.items()}
        y, state_n, _ = lstm.forward(x[:, :rows], **given)
        inferred, inferred_n = lstm(x[:, :rows], **given)
        found.append([a[:, :3] for a in (y, *state_n, inferred, *inferred_n)])
    for many, few in zip(*found, strict=True):
        np.testing.assert_array_equal(few, many)


def test_normalised_past_the_caches(request: pytest.FixtureRequest) -> None:
    x, found = np.random.default_rng(0).standard_normal((60, 20, 7)), []
    for large in (False, True):
        if large:
            request.getfixturevalue("large_arrays")
        lstm = fastlstm.LSTM(7, 64, layer_norm=True, dtype=np.float64, seed=0)
        y, _, tape = lstm.forward(x)
        dx, dstate, grads = lstm.backward(tape, np.ones_like(y))
        found.append({"y": y, "dx": dx, "dh_0": dstate[0], **grads})
    same(*found)


def test_some_plans_do_split() -> None:
    """The thread counts above are no empty promise: the plans of these cases use them."""
    fastlstm.set_num_threads(2)
    big = CASES[-1]
    assert big.lstm.plan(big.T, big.B).parts == 2
    assert big.lstm.plan(big.T, big.B, training=True).parts == 2
    assert fastlstm.LSTM(64, 256).plan(100, 1).by_units


@pytest.mark.parametrize("B", [1, 2, 5, 6, 7, 13, 40])
@pytest.mark.parametrize(
    "options", [{}, {"dtype": "float64"}, {"bidirectional": True, "layers": 2}, {"batch_first": True}], ids=str
)
def test_alone_in_any_batch_at_any_place(B: int, options: dict) -> None:
    case = LayerCase(T=7, B=B, I=19, H=37, **options)
    whole, a = case.inferred(), case.arrays
    for b in range(B):
        x = a["x"][b : b + 1] if case.batch_first else a["x"][:, b : b + 1]
        y, (h_n, c_n) = case.lstm(x, (a["h_0"][:, b : b + 1], a["c_0"][:, b : b + 1]))
        np.testing.assert_array_equal(y, whole["y"][b : b + 1] if case.batch_first else whole["y"][:, b : b + 1])
        np.testing.assert_array_equal(h_n, whole["h_n"][:, b : b + 1])
        np.testing.assert_array_equal(c_n, whole["c_n"][:, b : b + 1])
    order = np.random.default_rng(0).permutation(B)
    y, _ = case.lstm(a["x"][order] if case.batch_first else a["x"][:, order], (a["h_0"][:, order], a["c_0"][:, order]))
    np.testing.assert_array_equal(y, whole["y"][order] if case.batch_first else whole["y"][:, order])


def test_alone_is_unbatched() -> None:
    case = LayerCase(T=9, B=1, I=5, H=21, layers=2, bidirectional=True, unbatched=True)
    flat, lstm, a = case.inferred(), case.lstm, case.arrays
    y, (h_n, c_n) = lstm(a["x"][:, None], (a["h_0"][:, None], a["c_0"][:, None]))
    same(flat, {"y": y[:, 0], "h_n": h_n[:, 0], "c_n": c_n[:, 0]})


@pytest.mark.parametrize("case", [CASES[0], CASES[1], LayerCase(T=40, B=19, I=65, H=129, dtype="float64")], ids=str)
@pytest.mark.parametrize("pieces", [[1] * 4, [3, 1, 500], [2, 500]], ids=str)
def test_pieces_with_the_state_passed_on(case: LayerCase, pieces: list[int]) -> None:
    whole, a = case.inferred(), case.arrays
    state, t, ys = (a["h_0"], a["c_0"]), 0, []
    for steps in pieces:
        y, state = case.lstm(a["x"][t : t + steps], state)
        ys.append(y)
        t += steps
    np.testing.assert_array_equal(np.concatenate(ys), whole["y"][:t])
    if t >= case.T:
        same({"h_n": state[0], "c_n": state[1]}, {"h_n": whole["h_n"], "c_n": whole["c_n"]})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("B", "layers", "H"), [(1, 1, 128), (1, 2, 37), (4, 3, 16), (13, 1, 65)])
def test_stream_is_the_whole(B: int, layers: int, H: int, dtype: str, threads: int) -> None:
    fastlstm.set_num_threads(threads)
    case = LayerCase(T=9, B=B, I=7, H=H, layers=layers, dtype=dtype)
    whole, a = case.inferred(), case.arrays
    stream = case.lstm.stream(B)
    stream.state = a["h_0"], a["c_0"]
    np.testing.assert_array_equal(np.stack([stream.step(x) for x in a["x"]]), whole["y"])
    same(dict(zip(("h_n", "c_n"), stream.state, strict=True)), {"h_n": whole["h_n"], "c_n": whole["c_n"]})


def test_calls_repeat() -> None:
    case = CASES[3]
    fastlstm.set_num_threads(2)
    first = case.found()
    for _ in range(3):
        same(case.found(), first)


def test_many_python_threads_on_one_layer() -> None:
    """Inference and training mixed, with packed weights yet to be made, several times over."""
    fastlstm.set_num_threads(2)
    for turn in range(5):
        case = LayerCase(T=60, B=8, I=33, H=64, layers=2, seed=turn)
        expected = LayerCase(T=60, B=8, I=33, H=64, layers=2, seed=turn).found()
        _ = case.lstm, case.arrays
        for k, result in enumerate(at_once([case.found if k % 2 else case.inferred for k in range(6)])):
            same(result, expected if k % 2 else {name: expected[name] for name in ("y", "h_n", "c_n")})
