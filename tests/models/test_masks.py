"""Masks by Keras's rule, against PyTorch's cell run step by step: a masked step keeps the state and repeats the
output before it.
"""

import itertools

import numpy as np
import pytest
import torch

from fastlstm.models import LSTM, Bidirectional, Dense, Embedding, Masking, Sequential
from fastlstm.models.base import Call

T, B, FEATURES, UNITS = 9, 7, 3, 5
TOLERANCE = 1e-10


def masks():
    lengths = np.array([9, 4, 1, 9, 6, 6, 2])
    steps = np.arange(T)[:, None]
    rng = np.random.default_rng(1)
    holes = rng.random((T, B)) < 0.6
    holes[:, 2] = False
    return {
        "end": steps < lengths,
        "start": steps >= T - lengths,
        "holes and an empty row": holes,
        "none": np.ones((T, B), bool),
    }


def expected_run(layer, x, mask, state):
    """The layer's outputs (T, B, H), in the order of processing, and its last state."""
    p = {name: torch.tensor(a, requires_grad=True) for name, a in layer.params.items()}
    h, c = state
    out, outs = torch.zeros_like(h), []
    for t in reversed(range(T)) if layer.go_backwards else range(T):
        gates = x[t] @ p["kernel"].T + h @ p["recurrent_kernel"].T + p["bias"]
        i, f, g, o = gates.chunk(4, dim=1)
        c_new = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h_new = torch.sigmoid(o) * torch.tanh(c_new)
        m = torch.from_numpy(mask[t])[:, None]
        out = torch.where(m, h_new, torch.zeros_like(out) if layer.zero_output_for_mask else out)
        h, c = torch.where(m, h_new, h), torch.where(m, c_new, c)
        outs.append(out)
    return torch.stack(outs), (h, c), p


@pytest.mark.parametrize(
    "kind, sequences, backwards, zero",
    [
        case
        for case in itertools.product(masks(), (True, False), (False, True), (False, True))
        if case[1] or case[0].startswith("holes") or not case[3]
    ],
)
def test_a_masked_run_and_its_gradients_are_those_of_the_rule(kind, sequences, backwards, zero):
    mask = masks()[kind]
    rng = np.random.default_rng(2)
    layer = LSTM(UNITS, return_sequences=sequences, go_backwards=backwards, zero_output_for_mask=zero, dtype="float64")
    x, state = rng.standard_normal((T, B, FEATURES)), (rng.standard_normal((B, UNITS)), rng.standard_normal((B, UNITS)))
    layer(x.swapaxes(0, 1))  # builds it
    layer.initialize((T, FEATURES), rng)  # the same in every run
    given, begin = torch.tensor(x, requires_grad=True), tuple(torch.tensor(part, requires_grad=True) for part in state)
    out, (h, c), p = expected_run(layer, given, mask, begin)
    out = out if sequences else out[-1]
    dy = rng.standard_normal(tuple(out.shape))
    dstate = rng.standard_normal((B, UNITS)), rng.standard_normal((B, UNITS))
    (
        (out * torch.from_numpy(dy)).sum()
        + (h * torch.from_numpy(dstate[0])).sum()
        + (c * torch.from_numpy(dstate[1])).sum()
    ).backward()

    y, last, tape = layer.run(x, Call(True, None, mask), state)
    np.testing.assert_allclose(y, out.detach().numpy(), rtol=0, atol=TOLERANCE)
    for got, want in zip(last, (h, c), strict=True):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=0, atol=TOLERANCE)
    dx, dbegin = layer.run_backward(dy, tape, dstate)
    np.testing.assert_allclose(dx, given.grad.numpy(), rtol=0, atol=TOLERANCE)
    for got, want in zip(dbegin, begin, strict=True):
        np.testing.assert_allclose(got, want.grad.numpy(), rtol=0, atol=TOLERANCE)
    for name, parameter in p.items():
        np.testing.assert_allclose(layer.grads[name], parameter.grad.numpy(), rtol=0, atol=TOLERANCE, err_msg=name)
    inference, _, _ = layer.run(x, Call(False, None, mask), state)
    np.testing.assert_array_equal(inference, y)


@pytest.mark.parametrize("wrap", [lambda layer: layer, Bidirectional])
@pytest.mark.parametrize("start", [True, False])
def test_a_padded_row_gives_what_it_gives_alone(wrap, start):
    model = Sequential([Embedding(20, 6, mask_zero=True), wrap(LSTM(5, return_sequences=True)), wrap(LSTM(4))], seed=1)
    rows = [[3, 4, 5, 6, 7, 8], [9, 1], [2], [7, 7, 7, 1]]
    padded = np.zeros((4, 8), int)
    for k, row in enumerate(rows):
        padded[k, slice(8 - len(row), None) if start else slice(0, len(row))] = row
    together = model.predict(padded)
    for k, row in enumerate(rows):
        np.testing.assert_array_equal(model.predict(np.array([row]))[0], together[k])


def test_masking_hides_steps_of_the_value():
    model = Sequential([Masking(-1.0, input_shape=(None, 3)), LSTM(4)], seed=1)
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    x[0, 4:] = -1
    np.testing.assert_array_equal(model.predict(x)[0], model.predict(x[:1, :4])[0])


def test_loss_and_accuracy_are_means_over_valid_steps():
    model = Sequential(
        [Embedding(20, 6, mask_zero=True), LSTM(5, return_sequences=True), Dense(3, activation="softmax")], seed=1
    )
    model.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    x, y = np.array([[3, 4, 0, 0], [5, 6, 7, 8]]), np.array([[0, 1, 2, 2], [0, 1, 2, 0]])
    p = model.predict(x)
    valid = x != 0
    losses = -np.log(np.take_along_axis(p, y[..., None], axis=-1)[..., 0])
    loss, accuracy = model.evaluate(x, y)
    np.testing.assert_allclose(loss, losses[valid].mean(), rtol=1e-6)
    np.testing.assert_allclose(accuracy, (p.argmax(-1) == y)[valid].mean(), rtol=1e-6)
