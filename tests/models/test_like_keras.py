"""The same training in Keras and here, from the same weights in the same order: losses, metrics and weights agree."""

import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

from fastlstm import models  # noqa: E402

rng = np.random.default_rng(2)
IDS = rng.integers(1, 30, (70, 9))
for row, length in zip(IDS, rng.integers(2, 10, 70), strict=True):
    row[: 9 - length] = 0
SERIES = rng.standard_normal((70, 9, 3)).astype(np.float32)
CLASSES = IDS.sum(axis=1) % 3


def sentiment(k):
    return [
        k.layers.Embedding(30, 8, mask_zero=True),
        k.layers.LSTM(7, return_sequences=True),
        k.layers.LSTM(6),
        k.layers.Dense(1, activation="sigmoid"),
    ]


def both_directions(k):
    return [
        k.layers.Embedding(30, 8),
        k.layers.Bidirectional(k.layers.LSTM(5, return_sequences=True)),
        k.layers.Bidirectional(k.layers.LSTM(4), merge_mode="ave"),
        k.layers.Dense(8, activation="relu"),
        k.layers.Dense(3),
    ]


def masked_directions(k):
    return [
        k.layers.Embedding(30, 8, mask_zero=True),
        k.layers.Bidirectional(k.layers.LSTM(5, return_sequences=True)),
        k.layers.LSTM(4, go_backwards=True),
        k.layers.Dense(3, activation="softmax"),
    ]


def each_step(k):
    return [
        k.layers.Masking(0.0),
        k.layers.LSTM(5, return_sequences=True, go_backwards=True),
        k.layers.Dense(2, activation="tanh"),
    ]


CASES = {
    "sentiment, adam": (
        sentiment,
        IDS,
        CLASSES > 0,
        lambda k: k.optimizers.Adam(0.01),
        "binary_crossentropy",
        ["accuracy"],
    ),
    "directions, rmsprop": (
        both_directions,
        IDS,
        CLASSES,
        lambda k: k.optimizers.RMSprop(0.01, momentum=0.5),
        lambda k: k.losses.SparseCategoricalCrossentropy(from_logits=True),
        ["accuracy"],
    ),
    "masked directions, sgd": (
        masked_directions,
        IDS,
        np.eye(3)[CLASSES],
        lambda k: k.optimizers.SGD(0.1, momentum=0.9, nesterov=True, clipnorm=0.1),
        "categorical_crossentropy",
        ["accuracy"],
    ),
    "each step, adamw": (
        each_step,
        SERIES,
        SERIES[..., :2],
        lambda k: k.optimizers.AdamW(0.01, weight_decay=0.1),
        "mse",
        ["mae"],
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_training_is_that_of_keras(case):
    make, x, y, optimizer, loss, names = CASES[case]
    y = np.asarray(y, np.float32) if y.dtype == bool else y
    if case.startswith("each"):
        x = x.copy()
        x[::3, 5:] = 0
    runs, start = [], None
    for k in (keras, models):
        model = k.Sequential(make(k))
        model.compile(optimizer(k), loss(k) if callable(loss) else loss, metrics=names)
        model.evaluate(x[:2], y[:2], verbose=0)  # builds it
        if start is None:
            start = model.get_weights()
        model.set_weights(start)
        history = model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0, validation_split=0.2)
        runs.append(
            (history.history, model.get_weights(), model.predict(x, verbose=0), model.evaluate(x, y, verbose=0))
        )
    (theirs, ours) = runs
    assert set(theirs[0]) == set(ours[0])
    for name in theirs[0]:
        np.testing.assert_allclose(ours[0][name], theirs[0][name], rtol=2e-4, atol=2e-5, err_msg=name)
    for a, b in zip(ours[1], theirs[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(ours[3], theirs[3], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_summaries_count_the_same_parameters():
    for make in (sentiment, both_directions):
        theirs, ours = keras.Sequential(make(keras)), models.Sequential(make(models))
        theirs.build((None, 9))
        ours.build((9,))
        assert theirs.count_params() == ours.count_params()
        assert [w.shape for w in theirs.get_weights()] == [w.shape for w in ours.get_weights()]


@pytest.mark.filterwarnings("ignore")
def test_states_are_those_of_keras():
    found, start = [], None
    state = [rng.standard_normal((70, 5)).astype(np.float32) for _ in range(2)]
    for k in (keras, models):
        layer = k.layers.LSTM(5, return_sequences=True, return_state=True)
        layer(SERIES)
        start = layer.get_weights() if start is None else start
        layer.set_weights(start)
        parts = [*layer(SERIES), *layer(SERIES, initial_state=state)]
        carried = k.Sequential([k.layers.Input(batch_shape=(70, None, 3)), k.layers.LSTM(5, stateful=True)])
        carried.set_weights(start)
        parts += [carried.predict(SERIES[:, at : at + 3], batch_size=70, verbose=0) for at in (0, 3, 6)]
        found.append([np.asarray(p.detach() if hasattr(p, "detach") else p) for p in parts])
    for ours, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found[1][-1], found[1][1])  # the state that was carried is the whole run's


@pytest.mark.filterwarnings("ignore")
def test_weights_of_classes_and_samples_are_those_of_keras():
    losses, start = [], None
    for k in (keras, models):
        model = k.Sequential(both_directions(k))
        model.compile(k.optimizers.SGD(0.1), k.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.evaluate(IDS[:2], CLASSES[:2], verbose=0)  # builds it
        start = model.get_weights() if start is None else start
        model.set_weights(start)
        told = {"class_weight": {0: 3.0, 2: 0.5}}, {"sample_weight": np.linspace(0, 2, 70, dtype=np.float32)}
        histories = [model.fit(IDS, CLASSES, batch_size=14, shuffle=False, verbose=0, **more) for more in told]
        losses.append([h.history["loss"][0] for h in histories])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
