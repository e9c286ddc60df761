"""Clipping against `torch.nn.utils`, whose semantics it has, in place; what is not finite; bad input."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import fastlstm
from fastlstm.clipping import clip_grad_norm, clip_grad_value, square_sum


def gradients(dtype: str = "float32", scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"weight": (20, 5), "bias": (20,)}
    return {name: (scale * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}


def by_torch(clip: Any, grads: dict[str, np.ndarray], *options: Any) -> tuple[Any, dict[str, np.ndarray]]:
    parameters = {name: torch.nn.Parameter(torch.tensor(array)) for name, array in grads.items()}
    for name, parameter in parameters.items():
        parameter.grad = torch.tensor(grads[name])
    returned = clip(parameters.values(), *options)
    return returned, {name: parameter.grad.numpy() for name, parameter in parameters.items()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("norm_type", [2, 2.0, math.inf])
@pytest.mark.parametrize("max_norm", [0, 0.3, 3, 1e6, math.inf])
def test_norm(dtype: str, norm_type: float, max_norm: float) -> None:
    grads = gradients(dtype)
    held = dict(grads)
    norm, expected = by_torch(torch.nn.utils.clip_grad_norm_, grads, max_norm, norm_type)
    found = clip_grad_norm(grads, max_norm, norm_type)
    assert type(found) is float and found == pytest.approx(norm.item(), rel=1e-6)
    for name, array in grads.items():
        assert array is held[name] and array.dtype == dtype
        np.testing.assert_allclose(array, expected[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("clip_value", [0, 0.3, 100, math.inf])
def test_value(dtype: str, clip_value: float) -> None:
    grads = gradients(dtype)
    _, expected = by_torch(torch.nn.utils.clip_grad_value_, grads, clip_value)
    held = dict(grads)
    clip_grad_value(grads, clip_value)
    for name, array in grads.items():
        assert array is held[name] and array.dtype == dtype
        np.testing.assert_array_equal(array, expected[name])


def test_what_backward_returns() -> None:
    lstm, x = fastlstm.LSTM(3, 4, 2, seed=0), np.ones((5, 2, 3), np.float32)
    y, _, tape = lstm.forward(x)
    grads = lstm.backward(tape, 100 * y)[2]
    norm = clip_grad_norm(grads, 1.0)
    assert norm > 1
    assert clip_grad_norm(grads, 1.0) == pytest.approx(1, rel=1e-5)
    clip_grad_value(grads.values(), 0.01)
    assert max(abs(array).max() for array in grads.values()) == np.float32(0.01)


def test_views_and_no_gradients_at_all() -> None:
    array = np.ones((4, 6))
    assert clip_grad_norm([array[::2, ::3].T], 1.0) == 2
    np.testing.assert_allclose(array[::2, ::3], 0.5, rtol=1e-6)
    assert array.sum() == pytest.approx(22, rel=1e-6)
    assert clip_grad_norm([np.ones(0)], 1.0) == clip_grad_norm([np.ones((0, 3)), np.ones(1)], 1.0, math.inf) - 1 == 0
    assert clip_grad_norm({}, 1.0) == clip_grad_norm([], 1.0, math.inf) == 0
    clip_grad_value([], 1.0)


def test_a_bound_beyond_all_floats_bounds_nothing() -> None:
    grads, before = gradients(), gradients()
    clip_grad_norm(grads, 10**400)
    clip_grad_value(grads, 10**400)
    for name, array in grads.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_squares_of_single_precision_stay_finite(scale: float) -> None:
    grads = gradients(scale=scale)
    expected = math.sqrt(sum(float((array.astype(np.float64) ** 2).sum()) for array in grads.values()))
    assert clip_grad_norm(grads, math.inf) == pytest.approx(expected, rel=1e-12)
    assert square_sum(grads["bias"][::2]) == pytest.approx(float((grads["bias"][::2].astype(float) ** 2).sum()))


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite(value: float, norm_type: float) -> None:
    grads = gradients()
    grads["bias"][3] = value
    before = {name: array.copy() for name, array in grads.items()}
    with pytest.raises(ValueError, match=r"grads must have a finite norm"):
        clip_grad_norm(grads, 1.0, norm_type, error_if_nonfinite=True)
    for name, array in grads.items():
        np.testing.assert_array_equal(array, before[name])
    norm, expected = by_torch(torch.nn.utils.clip_grad_norm_, grads, 1.0, norm_type)
    np.testing.assert_equal(clip_grad_norm(grads, 1.0, norm_type), norm.item())
    for name, array in grads.items():
        np.testing.assert_array_equal(array, expected[name])
    clip_grad_value(before, 1.0)
    np.testing.assert_equal(before["bias"][3], np.float32(np.clip(value, -1, 1)))


READ_ONLY = np.ones(3, np.float32)
READ_ONLY.flags.writeable = False
GOOD = [np.ones(3, np.float32)]


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda: clip_grad_norm(np.ones(3), 1.0), TypeError, "grads must be a mapping, or some arrays"),
        (lambda: clip_grad_norm(None, 1.0), TypeError, "grads must be a mapping"),
        (lambda: clip_grad_value("grads", 1.0), TypeError, "grads must be a mapping"),
        (lambda: clip_grad_norm([*GOOD, 3.0], 1.0), TypeError, r"grads\[1\] must be a numpy.ndarray, but was float"),
        (lambda: clip_grad_norm({"w": [1.0]}, 1.0), TypeError, r"grads\['w'\] must be a numpy.ndarray"),
        (
            lambda: clip_grad_value([*GOOD, np.ones(3, int)], 1.0),
            TypeError,
            r"grads\[1\] must be of float32 or float64",
        ),
        (lambda: clip_grad_value([*GOOD, READ_ONLY], 0.5), ValueError, r"grads\[1\] must be writable"),
        (lambda: clip_grad_norm(GOOD, -1.0), ValueError, "max_norm must be at least 0, but was -1.0"),
        (lambda: clip_grad_norm(GOOD, math.nan), ValueError, "max_norm must be at least 0"),
        (lambda: clip_grad_norm(GOOD, "1"), TypeError, "max_norm must be a number"),
        (lambda: clip_grad_norm(GOOD, True), TypeError, "max_norm must be a number"),
        (lambda: clip_grad_norm(GOOD, 1.0, 1.0), ValueError, r"norm_type must be 2 or math.inf, but was 1.0"),
        (lambda: clip_grad_norm(GOOD, 1.0, "inf"), TypeError, "norm_type must be a number"),
        (lambda: clip_grad_norm(GOOD, 1.0, 2, 1), TypeError, "error_if_nonfinite must be True or False"),
        (lambda: clip_grad_value(GOOD, -0.5), ValueError, "clip_value must be at least 0"),
        (lambda: clip_grad_value(GOOD, None), TypeError, "clip_value must be a number"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call()
    assert (GOOD[0] == 1).all(), "an error changes nothing"
