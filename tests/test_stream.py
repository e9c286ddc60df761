"""Stream: what it takes, what it refuses, and its state.

That its outputs are a call's is held with the other contracts on bits.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from layer_case import LayerCase

from fastlstm import LSTM


def test_one_row_comes_as_it_goes_in() -> None:
    case = LayerCase(T=4, B=1, I=3, H=5)
    flat, batch, whole = case.lstm.stream(), case.lstm.stream(1), case.lstm(case.arrays["x"])[0]
    for t, x in enumerate(case.arrays["x"]):
        y = flat.step(x[0])
        assert y.shape == (5,)
        np.testing.assert_array_equal(y, whole[t, 0])
        np.testing.assert_array_equal(batch.step(x), whole[t])


def test_outputs_and_states_are_copies() -> None:
    stream = LSTM(3, 5, seed=0).stream(2)
    x = np.ones((2, 3), np.float32)
    first = stream.step(x)
    kept, (h, c) = first.copy(), stream.state
    np.testing.assert_array_equal(h[0], first)
    h[...] = c[...] = first[...] = 9
    second = stream.step(x)
    stream.reset()
    np.testing.assert_array_equal(stream.step(x), kept)
    np.testing.assert_array_equal(stream.step(x), second)


def test_states_carry_over_between_streams() -> None:
    lstm = LSTM(3, 5, num_layers=2, seed=0)
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(np.float32)
    one, other = lstm.stream(2), lstm.stream(2)
    for step in x[:3]:
        one.step(step)
    other.state = one.state
    for step in x[3:]:
        np.testing.assert_array_equal(one.step(step), other.step(step))


def test_it_outlives_its_layer() -> None:
    lstm = LSTM(3, 5, seed=0)
    x = np.ones((3, 1, 3), np.float32)
    whole, stream = lstm(x)[0], lstm.stream()
    del lstm
    rubbish = [np.full(100_000, np.nan, np.float32) for _ in range(20)]
    np.testing.assert_array_equal([stream.step(step) for step in x], whole)
    assert len(rubbish) == 20


@pytest.mark.parametrize(
    "value",
    [[[1.0, 2.0, 3.0]] * 2, np.array([[1, 2, 3]] * 2, ">f4"), np.ones((2, 6), "f4")[:, ::2]],
    ids=["list", "big-endian", "strided"],
)
def test_inputs_of_other_kinds(value: Any) -> None:
    lstm = LSTM(3, 5, seed=0)
    wanted = lstm(np.array(value, np.float32)[None])[0][0]
    np.testing.assert_array_equal(lstm.stream(2).step(value), wanted)


BAD = {
    "float64": (np.ones((2, 3)), TypeError, r"x must have the layer's dtype float32, but has float64"),
    "features": (
        np.ones((2, 4), np.float32),
        ValueError,
        r"x must have the shape \(B, I\) = \(2, 3\), but has \(2, 4\)",
    ),
    "rows": (np.ones((3, 3), np.float32), ValueError, r"x must have the shape \(B, I\) = \(2, 3\), but has \(3, 3\)"),
    "one row of two": (
        np.ones(3, np.float32),
        ValueError,
        r"x must have the shape \(B, I\) = \(2, 3\), but has \(3,\)",
    ),
    "steps": (
        np.ones((1, 2, 3), np.float32),
        ValueError,
        r"x must have the shape \(B, I\) = \(2, 3\), but has \(1, 2, 3\)",
    ),
    "no array": ("x", TypeError, r"x must be an array of float32, but str is none"),
}


@pytest.mark.parametrize(("x", "error", "message"), BAD.values(), ids=BAD)
def test_x_refused_and_the_state_unchanged(x: Any, error: type[Exception], message: str) -> None:
    stream = LSTM(3, 5, seed=0).stream(2)
    stream.step(np.ones((2, 3), np.float32))
    before = stream.state
    with pytest.raises(error, match=message):
        stream.step(x)
    np.testing.assert_array_equal(stream.state, before)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"stream: bidirectional must be False"):
        LSTM(3, 5, bidirectional=True).stream()
    with pytest.raises(TypeError, match=r"batch_size must be an integer, but was 1\.0"):
        LSTM(3, 5).stream(1.0)  # type: ignore[arg-type]
    stream, good = LSTM(3, 5).stream(2), np.ones((1, 2, 5), np.float32)
    with pytest.raises(ValueError, match=r"h of state must have the shape \(L, B, H\) = \(1, 2, 5\), but has \(2, 5\)"):
        stream.state = good[0], good
    with pytest.raises(TypeError, match=r"state must be a pair"):
        stream.state = None  # type: ignore[assignment]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_goes_its_own_way(copied: Callable[[Any], Any]) -> None:
    """In memory of its own, from the same state."""
    x = np.random.default_rng(0).standard_normal((3, 2, 3), dtype=np.float32)
    layer = LSTM(3, 5, 2, zoneout=0.1, seed=0)
    stream, other = layer.stream(2), layer.stream(2)
    for each in (stream, other):
        each.step(x[0])
    found = copied(stream)
    stream.step(x[2])
    del stream
    np.testing.assert_array_equal(found.step(x[1]), other.step(x[1]))
    for ours, theirs in zip(found.state, other.state, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(TypeError, match="a Stream cannot be pickled"):
        pickle.dumps(found)
