"""Layers called by themselves: states in and out, shapes, weights in Keras's layout; and the public names."""

import numpy as np
import pytest

from fastlstm import models
from fastlstm.models import LSTM, Bidirectional, Dense, Dropout, Embedding, History, Input, Sequential, kernels
from fastlstm.models.base import Call

rng = np.random.default_rng(5)
X = rng.standard_normal((3, 8, 2)).astype(np.float32)


def test_the_state_of_one_call_begins_the_next():
    layer = LSTM(4, return_sequences=True, return_state=True)
    whole, h, c = layer(X)
    assert whole.shape == (3, 8, 4) and h.shape == c.shape == (3, 4)
    np.testing.assert_array_equal(whole[:, -1], h)
    first, *state = layer(X[:, :5])
    second, h_n, c_n = layer(X[:, 5:], initial_state=state)
    np.testing.assert_array_equal(np.concatenate((first, second), axis=1), whole)
    np.testing.assert_array_equal(h_n, h)
    np.testing.assert_array_equal(c_n, c)
    with pytest.raises(ValueError, match=r"initial_state must have the shape \(B, H\) = \(3, 4\)"):
        layer(X, initial_state=[h[:2], c])
    with pytest.raises(TypeError, match="initial_state must be a pair"):
        layer(X, initial_state=h)


def test_going_backwards_is_reading_the_reverse():
    forwards, backwards = LSTM(4, return_sequences=True), LSTM(4, return_sequences=True, go_backwards=True)
    forwards(X), backwards(X)
    backwards.set_weights(forwards.get_weights())
    np.testing.assert_array_equal(backwards(X), forwards(X[:, ::-1]))


def test_both_directions_can_be_had_unmerged():
    layer = Bidirectional(LSTM(4, return_sequences=True), merge_mode=None)
    a, b = layer(X)
    np.testing.assert_array_equal(layer.forward_layer(X), a)
    np.testing.assert_array_equal(layer.backward_layer(X)[:, ::-1], b)
    with pytest.raises(ValueError, match="merge_mode must not be None within a model"):
        Sequential([Bidirectional(LSTM(4), merge_mode=None, input_shape=(8, 2))])


def test_initial_weights_are_those_of_keras():
    layer = LSTM(64)
    layer(np.zeros((1, 2, 32)))
    kernel, recurrent, bias = layer.get_weights()
    assert kernel.shape == (32, 256) and recurrent.shape == (64, 256) and bias.shape == (256,)
    limit = np.sqrt(6 / (32 + 256))
    assert 0.98 * limit < np.abs(kernel).max() <= limit
    np.testing.assert_allclose(recurrent @ recurrent.T, np.eye(64), atol=1e-5)
    np.testing.assert_array_equal(bias, np.repeat([0.0, 1.0, 0.0, 0.0], 64))
    plain = LSTM(3, unit_forget_bias=False)
    plain(X)
    assert not plain.get_weights()[2].any()
    assert [w.shape for w in Embedding(7, 3).get_weights()] == []


def test_weights_go_out_and_come_back():
    model = Sequential([Input((8, 2)), LSTM(4, use_bias=False), Dense(3, use_bias=False)], seed=1)
    weights = model.get_weights()
    assert [w.shape for w in weights] == [(2, 16), (4, 16), (4, 3)]
    before = model.predict(X)
    model.set_weights([w * 0 for w in weights])
    assert not model.predict(X).any()
    model.set_weights(weights)
    np.testing.assert_array_equal(model.predict(X), before)
    with pytest.raises(ValueError, match="weights must be the 3 arrays of the model, but were 2"):
        model.set_weights(weights[:2])
    with pytest.raises(ValueError, match=r"kernel must have the shape \(2, 16\)"):
        model.set_weights([weights[0].T, *weights[1:]])


def test_dropout_acts_in_training_alone_and_keeps_the_mean():
    x = np.ones((200, 300), np.float32)
    layer = Dropout(0.25)
    np.testing.assert_array_equal(layer(x), x)
    dropped = layer(x, training=True)
    assert set(np.unique(dropped).tolist()) == {0.0, float(np.float32(1 / 0.75))}
    assert dropped.mean() == pytest.approx(1, abs=0.01)
    assert not Dropout(1.0)(x, training=True).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100])
def test_rows_taken_and_added(dtype, size):
    rows, index = rng.standard_normal((size, 3)).astype(dtype), rng.integers(-1, 4, size)
    out, expected = np.zeros((4, 3), dtype), np.zeros((4, 3), dtype)
    kernels.compiled(kernels.add_rows)(index, rows, out)
    np.add.at(expected, index[index >= 0], rows[index >= 0])
    np.testing.assert_array_equal(out, expected)
    taken = np.empty((size, 3), dtype)
    kernels.compiled(kernels.take_rows)(expected, index, taken)
    np.testing.assert_array_equal(taken, np.where(index[:, None] >= 0, expected[index], 0))


def test_the_gradient_of_an_embedding_is_that_of_the_last_batch():
    layer = Embedding(7, 3)
    layer(np.zeros((1, 1), int))
    rng = np.random.default_rng(0)
    for ids in ([[1, 2, 2]], [[2, 6], [5, 6]], [[0]]):
        ids = np.array(ids)
        dy = rng.standard_normal((*ids.T.shape, 3)).astype(np.float32)
        layer.backward(dy, layer.forward(ids, Call(True)).tape)
        expected = np.zeros((7, 3))
        np.add.at(expected, ids.T, dy)
        np.testing.assert_allclose(layer.grads["embeddings"], expected, rtol=1e-6)


def test_the_history_can_be_plotted(tmp_path):
    pytest.importorskip("matplotlib")
    history = History()
    for epoch in range(3):
        history.on_epoch_end(epoch, {"loss": 1.0 / (epoch + 1), "accuracy": 0.5, "val_loss": 1.0})
    figure = history.plot(tmp_path / "history.png")
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss", "accuracy"]
    assert [len(axes.lines) for axes in figure.axes] == [2, 1]
    assert (tmp_path / "history.png").stat().st_size > 1000


def test_the_public_names():
    assert sorted(models.__all__) == sorted(set(models.__all__))
    for name in models.__all__:
        assert getattr(models, name) is not None
    assert models.models.Sequential is models.Sequential and models.utils.to_categorical is models.to_categorical
    assert models.preprocessing.sequence.pad_sequences is models.preprocessing.text.pad_sequences
    assert models.optimizers.schedules.CosineDecay is models.CosineDecay
    assert {"Sequential", "LSTM", "Bidirectional", "Tokenizer", "pad_sequences", "load_model"} <= set(models.__all__)
