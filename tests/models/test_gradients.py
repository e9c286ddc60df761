"""Whole models against PyTorch in float64, forward and backward, to 1e-9."""

import numpy as np
import pytest
import torch

from fastlstm.models import LSTM, Bidirectional, Dense, Embedding, Sequential, losses
from fastlstm.models.base import turned

TOLERANCE = 1e-9


def as_torch(layer):
    """A torch module with the layer's weights, and the torch parameters by the layer's variable names."""

    def lstm(of):
        module = torch.nn.LSTM(of.params["kernel"].shape[1], of.units, dtype=torch.float64)
        with torch.no_grad():
            module.weight_ih_l0[...] = torch.from_numpy(of.params["kernel"])
            module.weight_hh_l0[...] = torch.from_numpy(of.params["recurrent_kernel"])
            module.bias_ih_l0[...] = torch.from_numpy(of.params["bias"])
            module.bias_hh_l0[...] = 0
        return module, {
            "kernel": module.weight_ih_l0,
            "recurrent_kernel": module.weight_hh_l0,
            "bias": module.bias_ih_l0,
        }

    if isinstance(layer, Embedding):
        table = torch.tensor(layer.params["embeddings"], requires_grad=True)
        return lambda ids: table[ids], {"embeddings": table}
    if isinstance(layer, LSTM):
        module, named = lstm(layer)
        return lambda x: module(x)[0] if layer.return_sequences else module(x)[0][-1], named
    if isinstance(layer, Bidirectional):
        (below, a), (above, b) = lstm(layer.forward_layer), lstm(layer.backward_layer)
        merges = {
            "concat": lambda u, v: torch.cat((u, v), -1),
            "sum": torch.add,
            "mul": torch.mul,
            "ave": lambda u, v: (u + v) / 2,
        }

        def run(x):
            u, v = below(x)[0], above(x.flip(0))[0]
            u, v = (u, v.flip(0)) if layer.return_sequences else (u[-1], v[-1])
            return merges[layer.merge_mode](u, v)

        return run, {f"forward_{n}": p for n, p in a.items()} | {f"backward_{n}": p for n, p in b.items()}
    kernel, bias = (torch.tensor(layer.params[n], requires_grad=True) for n in ("kernel", "bias"))
    acts = {
        "linear": lambda z: z,
        "relu": torch.relu,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "softmax": lambda z: torch.softmax(z, -1),
    }
    return lambda x: acts[layer.activation](x @ kernel + bias), {"kernel": kernel, "bias": bias}


MODELS = {
    "one layer, softmax": (
        lambda: [LSTM(5, input_shape=(7, 3)), Dense(4, activation="softmax")],
        "categorical_crossentropy",
    ),
    "stack, sigmoid": (
        lambda: [Embedding(11, 6), LSTM(9, return_sequences=True), LSTM(4), Dense(1, activation="sigmoid")],
        "binary_crossentropy",
    ),
    "both directions, logits": (
        lambda: [
            Embedding(11, 6),
            Bidirectional(LSTM(5, return_sequences=True)),
            Bidirectional(LSTM(3)),
            Dense(8, activation="relu"),
            Dense(4),
        ],
        losses.SparseCategoricalCrossentropy(from_logits=True),
    ),
    "sum": (
        lambda: [Bidirectional(LSTM(5, return_sequences=True), "sum", input_shape=(7, 3)), Dense(2, activation="tanh")],
        "mse",
    ),
    "mul": (lambda: [Bidirectional(LSTM(5), "mul", input_shape=(7, 3)), Dense(2)], "mae"),
    "ave": (lambda: [Bidirectional(LSTM(5), merge_mode="ave", input_shape=(7, 3)), Dense(2)], "mse"),
    "a class at each step": (
        lambda: [Embedding(11, 6), LSTM(5, return_sequences=True), Dense(4, activation="softmax")],
        "sparse_categorical_crossentropy",
    ),
    "softmax below": (lambda: [LSTM(5, input_shape=(7, 3)), Dense(4, activation="softmax"), Dense(1)], "mse"),
}


def torch_loss(loss, out, y):
    if loss.name == "categorical_crossentropy":
        return -(y * torch.log(out)).sum(-1).mean()
    if loss.name == "sparse_categorical_crossentropy":
        flat, classes = out.reshape(-1, out.shape[-1]), y.reshape(-1)
        return (
            torch.nn.functional.cross_entropy(flat, classes)
            if loss.from_logits
            else torch.nn.functional.nll_loss(torch.log(flat), classes)
        )
    if loss.name == "binary_crossentropy":
        return torch.nn.functional.binary_cross_entropy(out, y)
    return {"mean_squared_error": torch.nn.functional.mse_loss, "mean_absolute_error": torch.nn.functional.l1_loss}[
        loss.name
    ](out, y)


@pytest.mark.parametrize("case", MODELS)
def test_loss_and_gradients_are_those_of_torch(case):
    make, loss = MODELS[case]
    rng = np.random.default_rng(3)
    model = Sequential(make(), dtype=np.float64, seed=5)
    model.build()
    model.compile("sgd", loss)
    B, T = 6, 7
    x = rng.integers(0, 11, (B, T)) if isinstance(model.layers[0], Embedding) else rng.standard_normal((B, T, 3))
    lead = (B, T) if len(model.shapes[-1]) == 2 else (B,)
    count = model.shapes[-1][-1]
    y = rng.random((*lead, count))
    if model.loss.name == "sparse_categorical_crossentropy":
        y = rng.integers(0, count, lead)
    elif model.loss.name == "categorical_crossentropy":
        y = np.eye(count)[rng.integers(0, count, lead)]

    modules = [as_torch(layer) for layer in model.layers]
    out = torch.from_numpy(x.swapaxes(0, 1).copy())
    for run, _ in modules:
        out = run(out)
    expected = torch_loss(model.loss, out, torch.from_numpy(y.swapaxes(0, 1).copy() if len(lead) == 2 else y))
    expected.backward()

    predicted = model.predict(x)
    np.testing.assert_allclose(predicted, turned(out.detach().numpy()), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(model.evaluate(x, y, batch_size=B), expected.item(), rtol=0, atol=TOLERANCE)
    before = model.theta.copy()
    value = model.train_on_batch(x, y)
    np.testing.assert_allclose(value, expected.item(), rtol=0, atol=TOLERANCE)
    assert not np.array_equal(before, model.theta)
    for layer, (_, named) in zip(model.layers, modules, strict=True):
        assert set(named) == set(layer.grads)
        for name, parameter in named.items():
            np.testing.assert_allclose(
                layer.grads[name], parameter.grad.numpy(), rtol=0, atol=TOLERANCE, err_msg=f"{layer.name} {name}"
            )


@pytest.mark.parametrize("case", ["one layer, softmax", "softmax below"])
def test_the_gradient_of_x_is_that_of_torch(case):
    make, _ = MODELS[case]
    model = Sequential(make(), dtype=np.float64, seed=5)
    model.build()
    rng = np.random.default_rng(8)
    x = rng.standard_normal((7, 4, 3))
    out = given = torch.tensor(x, requires_grad=True)
    for run, _ in [as_torch(layer) for layer in model.layers]:
        out = run(out)
    dy = rng.standard_normal(tuple(out.shape))
    out.backward(torch.from_numpy(dy))
    passed = model.forward(x, training=True)
    np.testing.assert_allclose(model.backward(dy, passed), given.grad.numpy(), rtol=0, atol=TOLERANCE)
