"""Linear activations: without tanh and sigmoid every result is a polynomial of the input, exact on small integers.

A fault here is one of the products, not of the gates. The expected values come from NumPy on int64, whose sums are
exact too: the comparison is `array_equal`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

import fastlstm


class Linear(NamedTuple):
    """One direction of one layer on integers: i, f, g, o = z, c = f c' + i g, h = o c."""

    w_ih: np.ndarray
    w_hh: np.ndarray
    bias: np.ndarray

    def forward(self, x, h, c):
        """y, h_n, c_n and what backward needs."""
        ys, kept = [], []
        for x_t in x:
            z = x_t @ self.w_ih.T + h @ self.w_hh.T + self.bias
            i, f, g, o = np.split(z, 4, axis=1)
            before = h, c
            c = f * c + i * g
            h = o * c
            kept.append((x_t, *before, i, f, g, o, c))
            ys.append(h)
        return np.stack(ys), h, c, kept

    def backward(self, kept, dy, dh, dc):
        dw_ih, dw_hh, db, dx = np.zeros_like(self.w_ih), np.zeros_like(self.w_hh), np.zeros_like(self.bias), []
        for (x_t, h_before, c_before, i, f, g, o, c), dy_t in zip(reversed(kept), reversed(dy), strict=True):
            dh = dh + dy_t
            dc = dc + dh * o
            dz = np.concatenate([dc * g, dc * c_before, dc * i, dh * c], axis=1)
            dw_ih, dw_hh, db = dw_ih + dz.T @ x_t, dw_hh + dz.T @ h_before, db + dz.sum(axis=0)
            dx.append(dz @ self.w_ih)
            dh, dc = dz @ self.w_hh, dc * f
        return np.stack(dx[::-1]), dh, dc, dw_ih, dw_hh, db


def small(rng: np.random.Generator, shape: tuple[int, ...], chance: float) -> np.ndarray:
    """-1, 0 and 1, most of them 0."""
    return rng.integers(-1, 2, shape) * (rng.random(shape) < chance)


def linear_layer(integers: dict[str, np.ndarray], I: int, H: int, dtype: str, bidirectional: bool) -> fastlstm.LSTM:
    lstm = fastlstm.LSTM(I, H, dtype=dtype, bidirectional=bidirectional)
    lstm._variant = lstm._variant._replace(linear=True)
    lstm.load_state_dict({name: array.astype(dtype) for name, array in integers.items()})
    return lstm


def check(
    T: int,
    B: int,
    I: int,
    H: int,
    dtype: str,
    bidirectional: bool,
    integers: dict[str, np.ndarray],
    chance: float = 1.0,
) -> None:
    """Compare everything that the layer returns, exactly."""
    rng, D = np.random.default_rng([T, B, I, H]), 1 + bidirectional
    x, dy = small(rng, (T, B, I), chance), small(rng, (T, B, D * H), chance)
    states = {name: small(rng, (D, B, H), 0.5) for name in ("h_0", "c_0", "dh_n", "dc_n")}
    lstm = linear_layer(integers, I, H, dtype, bidirectional)
    given = {name: array.astype(dtype) for name, array in states.items()}
    y, (h_n, c_n), tape = lstm.forward(x.astype(dtype), (given["h_0"], given["c_0"]))
    dx, (dh_0, dc_0), grads = lstm.backward(tape, dy.astype(dtype), (given["dh_n"], given["dc_n"]))

    dx_expected = np.zeros_like(x)
    for d, suffix in enumerate(("_l0", "_l0_reverse")[:D]):
        w_ih, w_hh, b_ih, b_hh = (integers[name + suffix] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        cell, turn, part = Linear(w_ih, w_hh, b_ih + b_hh), slice(None, None, 1 - 2 * d), slice(d * H, (d + 1) * H)
        y_d, h_d, c_d, kept = cell.forward(x[turn], states["h_0"][d], states["c_0"][d])
        dx_d, dh_d, dc_d, *dp = cell.backward(kept, dy[turn, :, part], states["dh_n"][d], states["dc_n"][d])
        dx_expected += dx_d[turn]
        expected = [y_d[turn], h_d, c_d, dh_d, dc_d, *dp, dp[-1]]
        largest = max(abs(array).max() for array in (*expected, *(k for step in kept for k in step)))
        assert (largest > 1 or H == 1) and largest < 2 ** (np.finfo(dtype).nmant - 1), (
            "the numbers are not exact, so that the test would mean nothing"
        )
        found = [y[..., part], h_n[d], c_n[d], dh_0[d], dc_0[d]]
        found += [grads[name + suffix] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(dx, dx_expected)


def random_parameters(I: int, H: int, bidirectional: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([I, H])
    shapes = {
        name: np.shape(array) for name, array in fastlstm.LSTM(I, H, bidirectional=bidirectional).parameters.items()
    }
    return {
        name: small(rng, shape, min(1.0, 2 / shape[-1]) if name.startswith("weight") else 0.5)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("T", "dtype"), [(1, "float32"), (2, "float32"), (2, "float64"), (3, "float64")])
def test_all_gates(T: int, dtype: str, bidirectional: bool, threads: int) -> None:
    """Few steps: the degree of the polynomials doubles with each."""
    fastlstm.set_num_threads(threads)
    for B, I, H in [(1, 1, 1), (2, 3, 4), (5, 17, 15), (7, 64, 33), (13, 5, 65), (3, 130, 20), (6, 33, 129)]:
        check(T, B, I, H, dtype, bidirectional, random_parameters(I, H, bidirectional), chance=0.7)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("gate", ["i", "g", "o"])
@pytest.mark.parametrize(
    "shape", [(130, 5, 7, 17), (40, 13, 65, 33), (520, 1, 3, 20), (3, 600, 9, 16), (90, 12, 20, 130)], ids=str
)
def test_one_gate_over_many_steps(shape: tuple[int, int, int, int], gate: str, threads: int) -> None:
    """One gate is W x + R h with a signed permutation R.

    Biases hold the others at 1, and f at 0, so that h grows by one x a step.
    """
    fastlstm.set_num_threads(threads)
    T, B, I, H = shape
    rng, integers = np.random.default_rng(0), {}
    for suffix in ("_l0", "_l0_reverse"):
        at = slice("ifgo".index(gate) * H, ("ifgo".index(gate) + 1) * H)
        w_ih, w_hh, bias = np.zeros((4 * H, I), int), np.zeros((4 * H, H), int), np.repeat([1, 0, 1, 1], H)
        w_ih[at], bias[at] = small(rng, (H, I), min(1.0, 3 / I)), 0
        w_hh[at] = np.diag(rng.choice([-1, 1], H))[rng.permutation(H)]
        integers |= {
            f"weight_ih{suffix}": w_ih,
            f"weight_hh{suffix}": w_hh,
            f"bias_ih{suffix}": bias,
            f"bias_hh{suffix}": np.zeros_like(bias),
        }
    check(T, B, I, H, "float64", True, integers)
