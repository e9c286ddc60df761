"""Fitting: what is learnt, what is reported, what is the same to the bit, and what is refused before the first step."""

import contextlib
import copy
import os
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

import fastlstm
from fastlstm import models
from fastlstm.models import (
    LSTM,
    SGD,
    Bidirectional,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    Input,
    LearningRateScheduler,
    ModelCheckpoint,
    Sequential,
    load_model,
    to_categorical,
)

rng = np.random.default_rng(7)
IDS = rng.integers(0, 20, (60, 8))
LABELS = (IDS[:, 2] > 9).astype(int)


def classifier(seed=1, **compiled):
    model = Sequential(
        [Embedding(20, 8), Dropout(0.2), LSTM(9, dropout=0.1), Dense(1, activation="sigmoid")], seed=seed
    )
    model.compile(**{"optimizer": "adam", "loss": "binary_crossentropy", "metrics": ["accuracy"]} | compiled)
    return model


def test_it_learns_and_the_history_tells():
    model = Sequential([Embedding(20, 8), LSTM(16), Dense(1, activation="sigmoid")], seed=3)
    model.compile(models.Adam(0.01), "binary_crossentropy", ["accuracy"])
    history = model.fit(IDS, LABELS, epochs=150, validation_split=0.2)
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy"]
    assert history.epoch == list(range(150))
    assert history.history["loss"][-1] < 0.1 * history.history["loss"][0]
    loss, accuracy = model.evaluate(IDS[:48], LABELS[:48])
    assert accuracy == 1.0 and loss < 0.1
    assert model.evaluate(IDS, LABELS, return_dict=True).keys() == {"loss", "accuracy"}


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_seed_makes_a_run_the_same_bits_at_any_thread_count(bidirectional):
    def trained(threads):
        fastlstm.set_num_threads(threads)
        wrap = Bidirectional if bidirectional else lambda layer: layer
        model = Sequential([Embedding(50, 24), Dropout(0.1), wrap(LSTM(40, dropout=0.2)), Dense(3)], seed=11)
        model.compile("adam", models.SparseCategoricalCrossentropy(from_logits=True))
        data = np.random.default_rng(0)
        model.fit(data.integers(0, 50, (64, 30)), data.integers(0, 3, 64), epochs=2)
        return model.theta

    one = trained(1)
    assert np.isfinite(one).all()
    for threads in (2, 4):
        np.testing.assert_array_equal(trained(threads), one)


def test_set_random_seed_seeds_the_models_that_follow():
    models.set_random_seed(5)
    first = [Sequential([LSTM(3, input_shape=(2, 2))]) for _ in range(2)]
    models.set_random_seed(5)
    again = Sequential([LSTM(3, input_shape=(2, 2))])
    for model in (*first, again):
        model.build()
    np.testing.assert_array_equal(first[0].theta, again.theta)
    assert not np.array_equal(first[0].theta, first[1].theta)


def test_epochs_in_one_call_are_those_of_two_calls():
    whole, halves = classifier(), classifier()
    whole.fit(IDS, LABELS, epochs=4)
    halves.fit(IDS, LABELS, epochs=2)
    halves.fit(IDS, LABELS, epochs=4, initial_epoch=2)
    np.testing.assert_array_equal(whole.theta, halves.theta)


def test_the_loss_is_the_mean_over_samples_whatever_the_batch():
    model = classifier()
    assert model.evaluate(IDS, LABELS, batch_size=7) == pytest.approx(
        model.evaluate(IDS, LABELS, batch_size=60), rel=1e-5
    )
    p = model.predict(IDS)[:, 0]
    expected = -np.mean(np.log(np.where(LABELS, p, 1 - p)))
    assert model.evaluate(IDS, LABELS)[0] == pytest.approx(expected, rel=1e-5)


def test_weights_of_classes_and_samples_scale_the_loss():
    model = classifier(metrics=None)
    by_sample = model.evaluate(IDS, LABELS, sample_weight=np.where(LABELS, 3.0, 1.0))
    values = [model.evaluate(IDS[k : k + 1], LABELS[k : k + 1]) for k in range(60)]
    assert by_sample == pytest.approx(np.mean(np.where(LABELS, 3, 1) * values), rel=1e-4)
    plain, weighted, sampled = (classifier(optimizer="sgd", metrics=None) for _ in range(3))
    plain.fit(IDS, LABELS)
    weighted.fit(IDS, LABELS, class_weight={1: 3.0})
    sampled.fit(IDS, LABELS, sample_weight=np.where(LABELS, 3.0, 1.0))
    np.testing.assert_array_equal(weighted.theta, sampled.theta)
    assert not np.array_equal(weighted.theta, plain.theta)


def test_one_hot_and_class_numbers_train_alike():
    y = IDS[:, 0] % 3
    trained = []
    for loss, target in (("sparse_categorical_crossentropy", y), ("categorical_crossentropy", to_categorical(y))):
        model = Sequential([Embedding(20, 8), LSTM(5), Dense(3, activation="softmax")], seed=1)
        model.compile("sgd", loss, ["accuracy"])
        history = model.fit(IDS, target, class_weight={0: 2.0}, epochs=2)
        trained.append((model.theta, history.history["accuracy"]))
    np.testing.assert_allclose(trained[0][0], trained[1][0], rtol=1e-5, atol=1e-7)
    assert trained[0][1] == trained[1][1]


def test_validation_holds_out_the_last_samples_and_leaves_training_alone():
    a, b = classifier(), classifier()
    a.fit(IDS, LABELS, validation_split=0.25, epochs=2)
    b.fit(IDS[:45], LABELS[:45], validation_data=(IDS[45:], LABELS[45:]), epochs=2)
    np.testing.assert_array_equal(a.theta, b.theta)


def test_early_stopping_waits_and_restores():
    model = classifier(optimizer=SGD(0.0))
    history = model.fit(IDS, LABELS, epochs=50, validation_split=0.2, callbacks=[EarlyStopping(patience=3)])
    assert len(history.epoch) == 4
    model = classifier(optimizer=SGD(0.5))
    before = []

    class Keep(models.Callback):
        def on_epoch_end(self, epoch, logs=None):
            before.append((logs["val_loss"], self.model.theta.copy()))

    stop = EarlyStopping(patience=2, restore_best_weights=True)
    model.fit(IDS, rng.integers(0, 2, 60), epochs=150, validation_split=0.3, callbacks=[Keep(), stop])
    assert 2 < len(before) < 60
    np.testing.assert_array_equal(model.theta, min(before, key=lambda kept: kept[0])[1])


def test_checkpoints_keep_the_best(tmp_path):
    model = classifier()
    path = tmp_path / "best.safetensors"
    history = model.fit(
        IDS, LABELS, epochs=4, validation_split=0.2, callbacks=[ModelCheckpoint(path, save_best_only=True)]
    )
    kept = load_model(path)
    assert kept.evaluate(IDS[48:], LABELS[48:])[0] == pytest.approx(min(history.history["val_loss"]), rel=1e-6)
    model.fit(
        IDS, LABELS, epochs=2, callbacks=[ModelCheckpoint(tmp_path / "{epoch:02d}.safetensors", save_weights_only=True)]
    )
    assert {p.name for p in tmp_path.iterdir()} == {"best.safetensors", "01.safetensors", "02.safetensors"}


def test_a_scheduler_sets_the_rate_of_each_epoch():
    model, seen = classifier(optimizer=SGD(1.0)), []

    class Look(models.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(self.model.optimizer.rate)

    model.fit(IDS, LABELS, epochs=3, callbacks=[LearningRateScheduler(lambda epoch, rate: rate / 2), Look()])
    assert seen == [0.5, 0.25, 0.125]


def test_a_stateful_layer_goes_on_where_the_batch_before_it_ended():
    long = np.random.default_rng(0).standard_normal((3, 12, 2)).astype(np.float32)
    whole = Sequential([LSTM(4, return_sequences=True, input_shape=(None, 2))], seed=1)
    parts = Sequential([LSTM(4, return_sequences=True, stateful=True, batch_input_shape=(3, None, 2))], seed=1)
    expected = whole.predict(long)
    for _ in range(2):
        found = np.concatenate([parts.predict(long[:, at : at + 4]) for at in (0, 4, 8)], axis=1)
        np.testing.assert_array_equal(found, expected)
        parts.reset_states()
    parts.predict(long)
    with pytest.raises(ValueError, match="batches of 3 rows"):
        parts.predict(long[:2])


def test_a_frozen_layer_stays_and_the_others_learn():
    table = rng.standard_normal((20, 6)).astype(np.float32)
    model = Sequential([Embedding(20, 6, weights=[table], trainable=False), LSTM(4), Dense(1)], seed=1)
    model.compile("sgd", "mse")
    model.build()
    before = model.theta.copy()
    model.fit(IDS, LABELS)
    np.testing.assert_array_equal(model.layers[0].get_weights()[0], table)
    assert not np.array_equal(model.theta, before)
    assert model.count_params() - model.theta.size == table.size


def test_a_loss_that_turns_nan_names_the_first_layer():
    model = Sequential([Dense(4, input_shape=(3,)), Dense(2, name="here"), Dense(1)], seed=1)
    model.compile("sgd", "mse")
    model.build()
    model.get_layer("here").params["kernel"][0, 0] = np.nan
    with pytest.warns(RuntimeWarning, match="loss became nan in step 1, first in kernel of layer here"):
        model.fit(rng.standard_normal((8, 3)), rng.standard_normal(8), epochs=3)
    model = Sequential([Dense(4, activation="relu", input_shape=(3,), name="grows"), Dense(1)], seed=1)
    model.compile(SGD(1e30), "mse")
    with pytest.warns(RuntimeWarning, match="layer grows|layer dense"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*encountered in.*")
        model.fit(rng.standard_normal((8, 3)), rng.standard_normal(8), epochs=9)


def shape_model():
    model = Sequential([LSTM(4, input_shape=(5, 3)), Dense(3, activation="softmax")], seed=1)
    model.compile("sgd", "sparse_categorical_crossentropy")
    return model


X = rng.standard_normal((6, 5, 3))
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    "make, x, y, more, error, message",
    [
        (
            shape_model,
            X,
            Y + 1,
            {},
            ValueError,
            r"y must lie in 0\.\.2, as the model has 3 outputs, but goes from 1 to 3",
        ),
        (shape_model, X, Y - 1, {}, ValueError, "goes from -1 to 1"),
        (shape_model, X, Y + 0.5, {}, ValueError, "y must be whole numbers"),
        (shape_model, X[:, :, :2], Y, {}, ValueError, r"x must have the shape \(samples, 5, 3\).*but has \(6, 5, 2\)"),
        (shape_model, X[:, 0], Y, {}, ValueError, r"x must have the shape"),
        (shape_model, X, Y[:5], {}, ValueError, "y must have as many samples as x, which has 6, but has 5"),
        (shape_model, X[:0], Y[:0], {}, ValueError, "x must have at least one sample"),
        (
            shape_model,
            np.where(X == X[2, 1, 1], np.nan, X),
            Y,
            {},
            ValueError,
            "x must be finite, but 1 of its elements",
        ),
        (shape_model, X.astype(str), Y, {}, TypeError, "x must be numbers"),
        (shape_model, X, None, {}, ValueError, "y must be given"),
        (shape_model, X, np.eye(3)[Y], {}, ValueError, "y must be class numbers"),
        (shape_model, X, Y, {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        (shape_model, X, Y, {"epochs": 1.5}, TypeError, "epochs must be an integer"),
        (
            shape_model,
            X,
            Y,
            {"validation_split": 0.9},
            ValueError,
            "validation_split must leave samples on both sides",
        ),
        (shape_model, X, Y, {"validation_data": X}, TypeError, "validation_data must be"),
        (shape_model, X, Y, {"class_weight": [1, 2]}, TypeError, "class_weight must be a mapping"),
        (shape_model, X, Y, {"class_weight": {1: np.nan}}, ValueError, "class_weight of class 1 must be finite"),
        (shape_model, X, Y, {"class_weight": {1: "2"}}, TypeError, "class_weight of class 1 must be a number"),
        (shape_model, X, Y, {"sample_weight": [1, 2]}, ValueError, "sample_weight must have the shape"),
        (shape_model, X, Y, {"verbose": 7}, ValueError, "verbose must be 0, 1, 2 or 'auto'"),
        (shape_model, X, Y, {"callbacks": [print]}, TypeError, "callbacks must be Callback objects"),
        (
            classifier,
            IDS + 1,
            LABELS,
            {},
            ValueError,
            r"x must be token ids in 0\.\.19 \(input_dim of layer embedding\), but goes from 1 to 20",
        ),
        (classifier, IDS - 1, LABELS, {}, ValueError, "goes from -1 to 18"),
        (classifier, IDS + 0.5, LABELS, {}, ValueError, "x must be whole token ids"),
        (classifier, IDS * np.nan, LABELS, {}, ValueError, "x must be whole token ids"),
        (
            classifier,
            IDS.astype(np.uint64) + np.uint64(2**63),
            LABELS,
            {},
            ValueError,
            r"x must be token ids in 0\.\.19",
        ),
        (classifier, IDS, LABELS * 2, {}, ValueError, "y must lie between 0 and 1"),
        (classifier, IDS, LABELS * np.nan, {}, ValueError, "y must be finite"),
        (classifier, [[1, 2], [3]], [0, 1], {}, ValueError, "pad_sequences makes them equal"),
    ],
)
def test_bad_input_is_named_before_the_first_step(make, x, y, more, error, message):
    model = make()
    model.build()
    before = model.theta.copy()
    with pytest.raises(error, match=message):
        model.fit(x, y, **more)
    np.testing.assert_array_equal(model.theta, before)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Sequential([LSTM(3)]).fit(X, Y), ValueError, "must be compiled first"),
        (lambda: Sequential([3]), TypeError, "layer must be a layer"),
        (lambda: Sequential([LSTM(3, input_shape=(5, 3)), LSTM(3)]), ValueError, "lstm_1 must be given sequences"),
        (lambda: Sequential([LSTM(3, return_state=True)]), ValueError, "return_state=False"),
        (lambda: Sequential().build((3,)), ValueError, "no layers"),
        (lambda: Sequential([Dense(3)]).build(), ValueError, "not built"),
        (lambda: Sequential([Dense(3, name="a"), Dense(3, name="a")]), ValueError, "no other layer"),
        (lambda: LSTM(0), ValueError, "units must be at least 1"),
        (lambda: Dense(3, activation="gelu"), ValueError, "activation must be one of"),
        (lambda: Dense(3, kernel_initializer="lecun"), ValueError, "kernel_initializer must be one of"),
        (lambda: Bidirectional(Dense(3)), TypeError, "layer must be an LSTM"),
        (lambda: Bidirectional(LSTM(3), merge_mode="add"), ValueError, "merge_mode must be one of"),
        (lambda: Dropout(1.5), ValueError, "rate must be a probability"),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_progress_is_silent_without_a_terminal_and_speaks_when_told(capsys):
    model = classifier()
    model.fit(IDS, LABELS)
    assert capsys.readouterr().out == ""
    model.fit(IDS, LABELS, epochs=2, verbose=2, validation_split=0.2)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Epoch 1/2" and lines[2] == "Epoch 2/2" and len(lines) == 4
    assert lines[1].startswith("2/2 - ") and "accuracy: 0." in lines[1] and "val_loss: 0." in lines[1]
    model.fit(IDS, LABELS, verbose=1)
    assert "2/2 ━━━━━━━━━━━━━━━━━━━━" in capsys.readouterr().out


@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals on this system")
def test_at_a_terminal_a_bar_moves():
    program = (
        "import numpy as np; from fastlstm.models import *\n"
        "model = Sequential([Dense(1, input_shape=(3,))], seed=1); model.compile('sgd', 'mse', metrics=['mae'])\n"
        "class Wait(Callback):\n"
        "    def on_train_batch_end(self, batch, logs=None): __import__('time').sleep(0.06)\n"
        "model.fit(np.zeros((4, 3)), np.zeros(4), batch_size=1, callbacks=[Wait()])"
    )
    ours, theirs = os.openpty()
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen([sys.executable, "-c", program], stdout=theirs, env=environment) as child:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the terminal's end, on Linux
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    lines = shown.decode().split("\r")
    assert child.returncode == 0 and "Epoch 1/1" in lines[0]
    bars = [line for line in lines if "/4 " in line]
    assert len(bars) >= 4 and bars[0].split()[1].endswith("─") and " - mae: 0.0000" in bars[0]
    assert bars[-1].startswith("4/4 " + "━" * 20)


def test_summary_counts_parameters_as_keras_does(capsys):
    Sequential([Embedding(1000, 64), Bidirectional(LSTM(64, return_sequences=True)), LSTM(32), Dense(10)]).summary()
    out = capsys.readouterr().out
    for count in ("64,000", "66,048", "20,608", "330", "Total params: 150,986", "(None, None, 128)"):
        assert count in out


def test_importing_compiles_nothing():
    program = (
        "import fastlstm.models; from fastlstm.models import kernels; print(kernels.compiled.cache_info().currsize)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_an_input_may_stand_before_an_embedding():
    layers = [Embedding(20, 4), LSTM(3), Dense(1)]
    plain, told = Sequential(layers, seed=1), Sequential([Input((8,), dtype="int32"), *copy.deepcopy(layers)], seed=1)
    plain.build((8,))
    told.set_weights(plain.get_weights())
    for model in (plain, told):
        model.compile("sgd", "mse")
        model.fit(IDS, LABELS)
    np.testing.assert_array_equal(plain.theta, told.theta)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_goes_on_by_itself(copied):
    model = Sequential([Input((5, 2)), Bidirectional(LSTM(3, return_sequences=True)), LSTM(4), Dense(2)], seed=5)
    model.compile("adam", "mse", [models.BinaryAccuracy(threshold=0.2), "mae"])
    x, y = rng.standard_normal((12, 5, 2)), rng.standard_normal((12, 2))
    model.fit(x, y, epochs=1)
    other, before = copied(model), model.predict(x)
    np.testing.assert_array_equal(other.predict(x), before)
    other.fit(x, y, epochs=1)
    np.testing.assert_array_equal(model.predict(x), before)
    model.fit(x, y, epochs=1)
    np.testing.assert_array_equal(other.predict(x), model.predict(x))
    assert abs(model.predict(x) - before).max() > 0
