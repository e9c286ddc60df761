"""Optimizers against torch, where its formula is Keras's, and else against the formulas of Keras's documentation in
plain NumPy.
"""

import numpy as np
import pytest
import torch

from fastlstm.models import SGD, Adam, AdamW, CosineDecay, ExponentialDecay, PiecewiseConstantDecay, RMSprop, optimizers

SIZE, STEPS = 37, 6


def gradients(seed=0):
    return np.random.default_rng(seed).standard_normal((STEPS, SIZE))


def run(optimizer, grads, dtype=np.float64, segments=None):
    p = np.linspace(-1, 1, SIZE).astype(dtype)
    optimizer.build(SIZE, np.dtype(dtype))
    for g in grads:
        optimizer.apply(p, g.astype(dtype), segments or [slice(0, SIZE)])
    return p


def of_torch(make, grads):
    p = torch.nn.Parameter(torch.linspace(-1, 1, SIZE, dtype=torch.float64))
    optimizer = make([p])
    for g in grads:
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return p.detach().numpy()


@pytest.mark.parametrize(
    "ours, theirs",
    [
        (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (SGD(0.1, momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True)),
    ],
)
def test_gradient_descent_is_that_of_torch(ours, theirs):
    np.testing.assert_allclose(run(ours, gradients()), of_torch(theirs, gradients()), rtol=1e-12)


def adam(grads, rate=0.001, b1=0.9, b2=0.999, eps=1e-7, decay=0.0, amsgrad=False):
    p, m, v, top = np.linspace(-1, 1, SIZE), np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE)
    for t, g in enumerate(grads, 1):
        p = p - p * decay * rate
        alpha = rate * np.sqrt(1 - b2**t) / (1 - b1**t)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        top = np.maximum(top, v)
        p = p - alpha * m / (np.sqrt(top if amsgrad else v) + eps)
    return p


def rmsprop(grads, rate=0.001, rho=0.9, momentum=0.0, eps=1e-7, centered=False):
    p, v, mean, m = np.linspace(-1, 1, SIZE), np.zeros(SIZE), np.zeros(SIZE), np.zeros(SIZE)
    for g in grads:
        v, mean = rho * v + (1 - rho) * g * g, rho * mean + (1 - rho) * g
        step = rate * g / np.sqrt(v - (mean**2 if centered else 0) + eps)
        m = momentum * m + step
        p = p - m
    return p


@pytest.mark.parametrize(
    "ours, expected",
    [
        (Adam(), adam(gradients())),
        (Adam(0.05, 0.8, 0.9, 1e-3), adam(gradients(), 0.05, 0.8, 0.9, 1e-3)),
        (Adam(0.05, amsgrad=True), adam(gradients(), 0.05, amsgrad=True)),
        (AdamW(), adam(gradients(), decay=0.004)),
        (AdamW(0.1, weight_decay=0.5), adam(gradients(), 0.1, decay=0.5)),
        (RMSprop(), rmsprop(gradients())),
        (RMSprop(0.1, 0.8, 0.7, 1e-3), rmsprop(gradients(), 0.1, 0.8, 0.7, 1e-3)),
        (RMSprop(0.1, centered=True, epsilon=1e-3), rmsprop(gradients(), 0.1, centered=True, eps=1e-3)),
    ],
)
def test_keras_formulas_and_defaults(ours, expected):
    np.testing.assert_allclose(run(ours, gradients()), expected, rtol=1e-10)


@pytest.mark.parametrize("make", [SGD, lambda: SGD(momentum=0.9), Adam, AdamW, RMSprop])
def test_float32_is_near_float64_and_stays_float32(make):
    result = run(make(), gradients(), np.float32)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, run(make(), gradients()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", [lambda: SGD(momentum=0.5), Adam, lambda: RMSprop(momentum=0.5, centered=True)])
def test_means_that_decay_reach_zero_and_the_callers_denormals_stay(make):
    tiny, still = np.float32(1e-40), np.zeros((STEPS, SIZE), np.float32)
    optimizer = make()
    optimizer.build(SIZE, np.dtype(np.float32))
    for array in optimizer.kept.values():
        array.fill(tiny)
    run(optimizer, still, np.float32)
    for name, array in optimizer.kept.items():
        assert not array.any(), name
    assert tiny + tiny > tiny  # the processor's mode is what it was


def test_clips_are_by_variable_by_element_or_over_all():
    g, halves = np.arange(1.0, SIZE + 1), [slice(0, 20), slice(20, SIZE)]
    start = np.linspace(-1, 1, SIZE)

    def step(**clip):
        return start - run(SGD(1.0, **clip), [g], segments=halves)

    by_variable = np.concatenate([g[s] / np.linalg.norm(g[s]) * 2 for s in halves])
    np.testing.assert_allclose(step(clipnorm=2.0), by_variable, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(step(global_clipnorm=2.0), g / np.linalg.norm(g) * 2, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(step(clipvalue=3.0), np.minimum(g, 3), rtol=1e-10)
    np.testing.assert_allclose(step(clipnorm=1e6), g, rtol=1e-10)


def test_schedules_give_the_rate_of_each_step():
    assert ExponentialDecay(0.1, 10, 0.5)(5) == pytest.approx(0.1 * 0.5**0.5)
    assert ExponentialDecay(0.1, 10, 0.5, staircase=True)(19) == pytest.approx(0.05)
    cosine = CosineDecay(0.0, 100, alpha=0.1, warmup_target=1.0, warmup_steps=10)
    assert [cosine(s) for s in (0, 5, 10, 60, 110, 999)] == pytest.approx([0, 0.5, 1.0, 0.55, 0.1, 0.1])
    pieces = PiecewiseConstantDecay([2, 4], [1.0, 0.5, 0.1])
    assert [pieces(s) for s in range(6)] == [1.0, 1.0, 1.0, 0.5, 0.5, 0.1]
    optimizer = SGD(pieces)
    moved = np.linspace(-1, 1, SIZE) - run(optimizer, np.ones((STEPS, SIZE)))
    np.testing.assert_allclose(moved, sum(pieces(s) for s in range(STEPS)), rtol=1e-10)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: Adam(learning_rate="fast"), TypeError, "learning_rate must be a number, but was 'fast'"),
        (lambda: SGD(float("nan")), ValueError, "learning_rate must be a finite number"),
        (lambda: SGD(momentum=2), ValueError, "momentum must be a probability"),
        (lambda: Adam(clipnorm=1.0, clipvalue=1.0), ValueError, "one at the most"),
        (lambda: optimizers.get("adagrad"), ValueError, "optimizer must be an Optimizer or one of 'sgd'"),
        (lambda: PiecewiseConstantDecay([1], [0.1]), ValueError, "values must be one more"),
    ],
)
def test_wrong_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [lambda: SGD(0.1, 0.9, True), lambda: AdamW(CosineDecay(0.1, 5)), lambda: RMSprop(clipnorm=2.0, centered=True)],
)
def test_a_configuration_makes_the_optimizer_anew(make):
    ours = make()
    again = optimizers.from_config(type(ours).__name__, ours.get_config())
    np.testing.assert_array_equal(run(ours, gradients()), run(again, gradients()))
