"""dW where digits do for some columns of dG and not for others: as exact as in registers, with the same bits at any
thread count.
"""

from __future__ import annotations

import numpy as np
import pytest

import fastlstm

B = 2000
NAMES = ("weight_ih_l0", "weight_hh_l0")


def gradients(dtype: str, x: np.ndarray, state: tuple[np.ndarray, np.ndarray], dy: np.ndarray) -> dict[str, np.ndarray]:
    """Of one step, so that dG is dy's, unit by unit; weights are small where x is large."""
    I, H = x.shape[1], dy.shape[1]
    lstm = fastlstm.LSTM(I, H, seed=1)
    lstm.parameters["weight_ih_l0"][:] /= max(1, abs(x).max() / 5)
    wide = fastlstm.LSTM(I, H, dtype=dtype)
    wide.load_state_dict({name: np.asarray(value, dtype) for name, value in lstm.state_dict().items()})
    h_0, c_0 = (s[None].astype(dtype) for s in state)
    _, _, tape = wide.forward(x[None].astype(dtype), (h_0, c_0))
    return wide.backward(tape, dy[None].astype(dtype))[2]


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def case(name: str) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], np.ndarray]:
    """x, state and dy. Where x and h of row 7 are next to nothing, what others add must not be lost beside its dG."""
    I, H = (8, 500) if name == "x beside h" else (40, 128)
    x, state, dy = normal(B, I, seed=2), (normal(B, H, seed=3), normal(B, H, seed=4)), normal(B, H, seed=5)
    if name == "x beside h":  # units that do not meet what is large of x alone
        x[::16], dy[::16, :64] = x[::16] * 100, 0
    elif name == "spikes":
        for of in (x, state[0], dy):
            of[np.arange(of.shape[1]) * 7 % B, np.arange(of.shape[1])] = 12
    elif name != "even":
        x[7], state[0][7] = x[7] * 1e-6, state[0][7] * 1e-6
        units = {"some units": slice(0, 64), "every other panel": slice(64, 128), "all units": slice(None)}[name]
        dy[:, units] *= 1e-4
        dy[7, units] = 1
    return x, state, dy


@pytest.mark.parametrize("name", ["even", "some units", "every other panel", "all units", "x beside h", "spikes"])
def test_gradients(name: str) -> None:
    x, state, dy = case(name)
    wanted = gradients("float64", x, state, dy)
    fastlstm.set_num_threads(1)
    found = gradients("float32", x, state, dy)
    for key in NAMES:
        assert found[key].dtype == np.float32
        error = np.linalg.norm(found[key] - wanted[key], axis=1) / np.linalg.norm(wanted[key], axis=1)
        assert error.max() <= 6e-6, key
    for threads in (2, 3):
        fastlstm.set_num_threads(threads)
        assert fastlstm.LSTM(x.shape[1], dy.shape[1]).plan(1, B, training=True).parts > 1
        again = gradients("float32", x, state, dy)
        for key, value in found.items():
            np.testing.assert_array_equal(again[key], value, err_msg=key)
