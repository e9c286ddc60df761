"""Frozen layers: same bits, parameters that cannot be written, and nothing stale before or after."""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm

X = np.random.default_rng(1).standard_normal((5, 2, 3)).astype(np.float32)


def layer() -> fastlstm.LSTM:
    return fastlstm.LSTM(3, 7, num_layers=2, bidirectional=True, seed=0)


def test_same_bits() -> None:
    free, frozen = layer(), layer()
    frozen.freeze()
    for _ in range(2):
        assert np.array_equal(free(X)[0], frozen(X)[0])
    y, _, tape = frozen.forward(X)
    assert np.array_equal(y, free(X)[0])
    assert set(frozen.backward(tape, np.ones_like(y))[2]) == set(frozen.parameters)


def test_a_change_just_before_freezing_counts() -> None:
    lstm = layer()
    before = lstm(X)[0]
    lstm.parameters["weight_hh_l0"][...] += 0.5
    lstm.freeze()
    assert not np.array_equal(lstm(X)[0], before)


def test_writes_are_refused_until_thawed() -> None:
    lstm = layer()
    lstm.freeze()
    with pytest.raises(ValueError, match="read-only"):
        lstm.parameters["bias_ih_l0"][0] = 1.0
    with pytest.raises(ValueError, match=r"load_state_dict: the layer must not be frozen"):
        lstm.load_state_dict(lstm.state_dict())
    before = lstm(X)[0]
    lstm.freeze(False)
    lstm.parameters["bias_ih_l0"][0] = 1.0
    assert not np.array_equal(lstm(X)[0], before)


def test_frozen_must_be_a_flag() -> None:
    with pytest.raises(TypeError, match="frozen must be True or False, but was 'yes'"):
        layer().freeze("yes")
