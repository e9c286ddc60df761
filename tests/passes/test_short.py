"""Prepared calls: the bits of the long way, whatever the arguments look like, and for as many callers as there are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from layer_case import LayerCase
from thread_case import at_once

import fastlstm
from fastlstm import inference
from fastlstm.passes import short

CASES = [
    LayerCase(T=1, B=1, I=8, H=32),
    LayerCase(T=1, B=8, I=64, H=256),
    LayerCase(T=1, B=3, I=5, H=83, bias=False, dtype="float64"),
    LayerCase(T=1, B=4, I=5, H=6, batch_first=True),
    LayerCase(T=9, B=1, I=7, H=33, bidirectional=True),
    LayerCase(T=24, B=32, I=1, H=25),
    LayerCase(T=40, B=3, I=20, H=40, layers=3, bidirectional=True, batch_first=True),
    LayerCase(T=5, B=1, I=7, H=9, layers=2, batch_first=True),
    LayerCase(T=6, B=1, I=5, H=6, layers=2, unbatched=True, batch_first=True, bidirectional=True),
]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> None:
    fastlstm.set_num_threads(request.param)


def long_way(case: LayerCase, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    with monkeypatch.context() as patch:
        patch.setattr(inference, "SHORT_FLOPS", 0)
        return case.inferred()


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("state", [True, False])
@pytest.mark.usefixtures("threads")
def test_bits_of_the_long_way(case: LayerCase, state: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    case = LayerCase(**{**case.__dict__, "state": state})
    expected = long_way(case, monkeypatch)
    assert not case.lstm._short
    case.inferred()
    assert set(case.lstm._short) == {(False, case.arrays["x"].shape)}
    for _ in range(2):
        for name, array in case.inferred().items():
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
            assert array.flags.writeable and array.flags.c_contiguous


def arguments() -> dict[str, Callable]:
    """Other forms of the same (x, h_0, c_0)."""
    odd = np.dtype([("pad", "u1"), ("a", "f4")])

    def strided(a: np.ndarray) -> np.ndarray:
        wide = np.zeros((*a.shape, 2), a.dtype)
        wide[..., 0] = a
        return wide[..., 0]

    def unaligned(a: np.ndarray) -> np.ndarray:
        packed = np.zeros(a.shape, odd)
        packed["a"] = a
        return packed["a"]

    def read_only(a: np.ndarray) -> np.ndarray:
        a = a.copy()
        a.flags.writeable = False
        return a

    forms = (strided, unaligned, read_only, np.ndarray.tolist, np.asfortranarray, lambda a: a.astype(">f4"))
    return dict(zip(("strided", "unaligned", "read-only", "list", "fortran", "bytes swapped"), forms, strict=True))


@pytest.mark.parametrize("form", arguments().values(), ids=arguments())
def test_arguments_of_every_form(form: Callable) -> None:
    case = LayerCase(T=2, B=3, I=5, H=7, layers=2)
    a, expected = case.arrays, case.inferred()
    case.inferred()
    x, h_0, c_0 = a["x"], a["h_0"], a["c_0"]
    for arguments_ in ((form(x), (h_0, c_0)), (x, (form(h_0), c_0)), (x, [h_0, form(c_0)])):
        y, (h_n, c_n) = case.lstm(*arguments_)
        for name, array in (("y", y), ("h_n", h_n), ("c_n", c_n)):
            np.testing.assert_array_equal(array, expected[name])


def test_wrong_arguments_are_told_after_a_prepared_call_too() -> None:
    case = LayerCase(T=2, B=3, I=5, H=7)
    x, h_0, c_0 = (case.arrays[name] for name in ("x", "h_0", "c_0"))
    for _ in range(2):
        case.inferred()
    with pytest.raises(TypeError, match="x must have the layer's dtype float32, but has float64"):
        case.lstm(x.astype(np.float64))
    with pytest.raises(ValueError, match="h of state must have the shape"):
        case.lstm(x, (h_0[:, :2], c_0))
    with pytest.raises(TypeError, match="state must be a pair"):
        case.lstm(x, (h_0, c_0, c_0))
    with pytest.raises(TypeError, match="c of state must have the layer's dtype"):
        case.lstm(x, (h_0, c_0.astype(np.float64)))


def test_a_change_of_the_thread_count_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    case = LayerCase(T=20, B=16, I=64, H=128)
    entered = []
    original = short.fan_out
    monkeypatch.setattr(short, "fan_out", lambda *call: entered.append(call[1]) or original(*call))
    for n, expected in ((1, []), (2, [2, 2]), (1, [])):
        fastlstm.set_num_threads(n)
        entered.clear()
        for _ in range(2):
            case.inferred()
        assert entered == expected


def test_calls_of_many_threads_at_once() -> None:
    case = LayerCase(T=3, B=2, I=16, H=48, layers=2)
    rng = np.random.default_rng(5)
    inputs = rng.standard_normal((6, 3, 2, 16)).astype(np.float32)
    expected = [case.lstm(x)[0] for x in inputs]

    def right(k: int) -> bool:
        return all(np.array_equal(case.lstm(inputs[k])[0], expected[k]) for _ in range(400))

    assert all(at_once([partial(right, k) for k in range(len(inputs))]))
    (prepared,) = case.lstm._short.values()
    assert 1 <= len(prepared._seats) <= len(inputs)


def test_a_layer_keeps_a_bounded_number() -> None:
    lstm = fastlstm.LSTM(3, 4, seed=0)
    for T in range(1, 3 * inference.SHORT_SHAPES):
        lstm(np.ones((T, 1, 3), np.float32))
    assert len(lstm._short) == inference.SHORT_SHAPES
