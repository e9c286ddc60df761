"""Losses against torch in value and gradient, from logits and from probabilities, and where the naive formula
overflows.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fastlstm.models import losses, metrics
from fastlstm.models.activations import sigmoid, softmax

rng = np.random.default_rng(4)
B, N = 6, 4
CLASSES = rng.integers(0, N, B)


def cases():
    z, one_hot = rng.standard_normal((B, N)), np.eye(N)[CLASSES]
    soft = rng.dirichlet(np.ones(N), B)
    binary = rng.integers(0, 2, (B, N)).astype(float)

    def cross(y):
        return lambda t: -(torch.from_numpy(y) * torch.log_softmax(t, -1)).sum(-1)

    def of_p(y):
        return lambda t: -(torch.from_numpy(y) * torch.log(t / t.sum(-1, keepdim=True))).sum(-1)

    def on_bits(name):
        return lambda t: getattr(F, name)(t, torch.from_numpy(binary), reduction="none").mean(-1)

    target = torch.from_numpy(binary)
    return {
        "mse": (losses.MeanSquaredError(), binary, z, False, lambda t: ((t - target) ** 2).mean(-1)),
        "mae": (losses.MeanAbsoluteError(), binary, z, False, lambda t: (t - target).abs().mean(-1)),
        "binary, logits": (losses.BinaryCrossentropy(), binary, z, True, on_bits("binary_cross_entropy_with_logits")),
        "binary": (losses.BinaryCrossentropy(), binary, sigmoid(z), False, on_bits("binary_cross_entropy")),
        "categorical, logits": (losses.CategoricalCrossentropy(), soft, z, True, cross(soft)),
        "categorical": (losses.CategoricalCrossentropy(), soft, softmax(z), False, of_p(soft)),
        "sparse, logits": (losses.SparseCategoricalCrossentropy(), CLASSES, z, True, cross(one_hot)),
        "sparse": (losses.SparseCategoricalCrossentropy(), CLASSES, softmax(z), False, of_p(one_hot)),
    }


@pytest.mark.parametrize("name", cases())
def test_values_and_gradients_are_those_of_torch(name):
    loss, y, out, logits, expected = cases()[name]
    t, weights = torch.tensor(out, requires_grad=True), rng.random(B)
    values = expected(t)
    (values * torch.from_numpy(weights)).sum().backward()
    np.testing.assert_allclose(loss.values(y, out, logits), values.detach().numpy(), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(loss.gradient(y, out, logits, weights), t.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in cases() if "logits" in name])
def test_logits_of_a_thousand_neither_overflow_nor_lose_the_gradient(name):
    loss, y, out, _, expected = cases()[name]
    out = np.where(out > 0, 1000.0, -1000.0)
    t = torch.tensor(out, requires_grad=True)
    values = expected(t)
    values.sum().backward()
    np.testing.assert_allclose(loss.values(y, out, True), values.detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(loss.gradient(y, out, True, np.ones(B)), t.grad.numpy(), rtol=1e-10, atol=1e-12)
    assert np.isfinite(loss.values(y, out.astype(np.float32), True)).all()


def test_a_probability_of_zero_is_clipped_as_in_keras():
    loss = losses.SparseCategoricalCrossentropy()
    assert loss.values(np.array([0]), np.array([[0.0, 1.0]]), False)[0] == pytest.approx(-np.log(1e-7))
    assert loss.gradient(np.array([0]), np.array([[0.0, 1.0]]), False, np.ones(1)).tolist() == [[0.0, 0.0]]


def test_accuracy_takes_the_kind_of_the_loss_and_errors_are_means():
    out = np.array([[0.2, 0.8], [0.6, 0.4]])
    found = metrics.get("accuracy", losses.get("sparse_categorical_crossentropy"))
    assert found.name == "accuracy" and found.values(np.array([1, 1]), out).tolist() == [True, False]
    found = metrics.get("acc", losses.get("categorical_crossentropy"))
    assert found.name == "acc" and found.values(np.eye(2)[[1, 1]], out).tolist() == [True, False]
    found = metrics.get("accuracy", losses.get("binary_crossentropy"))
    assert found.values(np.array([[1.0], [1.0]]), out[:, :1]).tolist() == [0.0, 1.0]
    for name, expected in (("mae", 0.3), ("mse", 0.1)):
        found = metrics.get(name, losses.get("mse"))
        assert found.values(np.array([[0.0, 0.4]]), out[:1]).tolist() == [pytest.approx(expected)]
    at_zero = metrics.BinaryAccuracy(threshold=0)
    assert at_zero.values(np.array([[1.0], [0.0]]), np.array([[0.1], [-0.1]])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: losses.get("hinge"), "loss must be a Loss or one of 'mse'"),
        (lambda: metrics.get("accuracy", losses.get("mse")), "'accuracy' has no meaning for the loss"),
        (lambda: metrics.get("f1", losses.get("mse")), "metrics must be Metric objects"),
    ],
)
def test_unknown_names_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
