"""Sequence to sequence against torch in gradients, and step-by-step decoding against the whole pass."""

import numpy as np
import pytest
import torch

from fastlstm.models import (
    LSTM,
    Activation,
    Adam,
    Bidirectional,
    Dense,
    Dropout,
    Embedding,
    Seq2Seq,
    Sequential,
    generate,
)
from fastlstm.models.activations import softmax
from fastlstm.models.decoding import Steps, choose

rng = np.random.default_rng(6)


def torch_lstm(layer):
    module = torch.nn.LSTM(layer.params["kernel"].shape[1], layer.units, dtype=torch.float64)
    with torch.no_grad():
        for name, value in (("weight_ih_l0", "kernel"), ("weight_hh_l0", "recurrent_kernel"), ("bias_ih_l0", "bias")):
            getattr(module, name)[...] = torch.from_numpy(layer.params[value])
        module.bias_hh_l0[...] = 0
    return module


def test_gradients_flow_from_the_answer_through_the_state_into_the_encoder():
    model = Seq2Seq(9, 8, units=5, embedding_dim=4, dtype=np.float64, seed=2)
    x, y = rng.integers(1, 9, (6, 7)), rng.integers(1, 8, (6, 5))
    y[0, 3:] = 0
    before = np.concatenate((np.ones((6, 1), int), y[:, :-1]), axis=1)
    (read, encode), (write, decode, out) = model.encoder.layers, model.decoder.layers
    tables = [torch.tensor(layer.params["embeddings"], requires_grad=True) for layer in (read, write)]
    kernel, bias = (torch.tensor(out.params[name], requires_grad=True) for name in ("kernel", "bias"))
    a, b = torch_lstm(encode), torch_lstm(decode)
    _, state = a(tables[0][x.T])
    logits = b(tables[1][before.T], state)[0] @ kernel + bias
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, 8), torch.from_numpy(y.T.reshape(-1)), ignore_index=0)
    loss.backward()
    value, _ = model.gradients(x, before, y)
    np.testing.assert_allclose(value, loss.item(), rtol=0, atol=1e-9)
    pairs = [
        (read, "embeddings", tables[0]),
        (write, "embeddings", tables[1]),
        (out, "kernel", kernel),
        (out, "bias", bias),
    ]
    for layer, module in ((encode, a), (decode, b)):
        names = (("kernel", "weight_ih_l0"), ("recurrent_kernel", "weight_hh_l0"), ("bias", "bias_ih_l0"))
        pairs += [(layer, name, getattr(module, theirs)) for name, theirs in names]
    for layer, name, parameter in pairs:
        np.testing.assert_allclose(layer.grads[name], parameter.grad.numpy(), rtol=0, atol=1e-9, err_msg=name)


def test_it_learns_to_reverse_and_the_padding_of_a_question_does_not_matter():
    x = rng.integers(1, 6, (400, 4))
    model = Seq2Seq(6, 8, units=32, embedding_dim=8, seed=1)
    model.compile(Adam(0.02))
    y = np.concatenate((x[:, ::-1], np.full((400, 1), 7)), axis=1)
    history = model.fit(x, y, epochs=25, start=6)
    assert history.history["accuracy"][-1] > 0.98
    answers = model.decode(x[:50], 7, start=6, stop=7)
    assert answers.shape == (50, 7) and (answers[:, :5] == y[:50]).all(axis=1).mean() > 0.9
    assert not answers[(answers[:, 4] == 7), 5:].any()
    padded = np.concatenate((x[:50], np.zeros((50, 3), int)), axis=1)
    np.testing.assert_array_equal(model.decode(padded, 7, start=6, stop=7), answers)
    drawn = model.decode(x[:50], 7, start=6, stop=7, temperature=1.0, seed=3)
    np.testing.assert_array_equal(drawn, model.decode(x[:50], 7, start=6, stop=7, temperature=1.0, seed=3))


def language_model():
    layers = [
        Embedding(12, 6, batch_input_shape=(3, 5)),
        LSTM(7, return_sequences=True, stateful=True),
        Dropout(0.5),
        LSTM(5, return_sequences=True),
        Dense(9, activation="tanh"),
        Dense(12),
        Activation("softmax"),
    ]
    model = Sequential(layers, seed=1)
    model.build()
    return model


def test_steps_give_what_the_whole_pass_gives():
    model = language_model()
    ids = rng.integers(0, 12, (3, 5))
    whole, steps = model.predict(ids), Steps(model.layers, batch_size=3)
    for t in range(5):
        np.testing.assert_allclose(softmax(steps.step(ids[:, t])), whole[:, t], rtol=0, atol=1e-6)


def test_generation_is_greedy_drawn_by_seed_and_stopped():
    model = language_model()
    greedy = generate(model, [3, 1], 8, temperature=0)
    assert greedy.shape == (8,)
    steps = Steps(model.layers)
    steps.step(np.array([3]))
    assert steps.step(np.array([1])).argmax() == greedy[0]
    np.testing.assert_array_equal(generate(model, [3, 1], 20, seed=4), generate(model, [3, 1], 20, seed=4))
    drawn = generate(model, [3], 50, seed=4)
    cut = generate(model, [3], 50, seed=4, stop=int(drawn[6]))
    np.testing.assert_array_equal(cut, drawn[: len(cut)])
    assert cut[-1] == drawn[6] and len(cut) <= 7


def test_draws_follow_the_probabilities():
    logits = np.log(np.array([[0.5, 0.3, 0.2]])).repeat(20_000, axis=0)
    shares = np.bincount(choose(logits, 1.0, np.random.default_rng(0)), minlength=3) / 20_000
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.02)
    colder = np.bincount(choose(logits, 0.5, np.random.default_rng(0)), minlength=3) / 20_000
    np.testing.assert_allclose(colder, np.array([25, 9, 4]) / 38, atol=0.02)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: generate(language_model(), [12], 3), "prompt must be token ids"),
        (lambda: generate(language_model(), [], 3), "prompt must have at least one sample"),
        (lambda: generate(language_model(), [1], 3, temperature=-1), "temperature must be a number"),
        (lambda: Steps([Embedding(3, 2), Bidirectional(LSTM(3)), Dense(2)]), "cannot run step by step"),
        (lambda: Steps([LSTM(3), Dense(2)]), "must begin with an Embedding"),
        (lambda: Seq2Seq(5, 5, units=3).fit([[1, 2]], [[1], [2]]), "y must have as many samples as x"),
        (lambda: Seq2Seq(5, 5, units=3).fit([[1, 2]], [[1, 9]]), r"y must be token ids in 0\.\.4"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
