"""Other cells in models, against the reference and against Keras; and that they train, resume and come back alike."""

import inspect
import json
import os

import numpy as np
import pytest

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

import fastlstm  # noqa: E402
from fastlstm import models, reference  # noqa: E402
from fastlstm.cell import Activation  # noqa: E402
from fastlstm.models import LSTM, BackupAndRestore, Bidirectional, Dense, Embedding, Sequential, load_model  # noqa: E402
from fastlstm.models.base import Call  # noqa: E402
from fastlstm.models.decoding import Steps  # noqa: E402
from fastlstm.models.recurrent import CELL  # noqa: E402

T, B, FEATURES, UNITS = 7, 5, 3, 6
TOLERANCE = 1e-10  # float64
CELLS = {  # few, since each is compiled: the core's tests have every option by itself
    "coupled": {"coupled": True, "peephole": "diagonal", "clip": 0.3, "layer_norm": True, "proj_size": 4,
                "use_bias": False},
    "all": {"peephole": "full", "clip": 2.0, "proj_size": 2, "layer_norm": True, "zoneout": (0.2, 0.1),
            "recurrent_dropout": 0.2, "activation": "elu", "recurrent_activation": ("hard_sigmoid", 0.3, 0.4)},
}  # fmt: skip
rng = np.random.default_rng(4)
IDS, LABELS = rng.integers(0, 30, (64, 9)), rng.integers(0, 3, 64)


@pytest.mark.parametrize("sequences", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_a_cell_is_that_of_the_reference(cell, sequences):
    layer = LSTM(UNITS, return_sequences=sequences, dtype="float64", **CELLS[cell])
    rng = np.random.default_rng(2)
    x = rng.standard_normal((T, B, FEATURES))
    layer(x.swapaxes(0, 1))  # builds it
    for p in layer.params.values():  # which it drew: the same in every run, and not zeros or ones
        p[...] = 0.5 + 0.5 * rng.standard_normal(p.shape) if p.ndim == 1 else 0.5 * rng.standard_normal(p.shape)
    state = rng.standard_normal((B, layer.output_size)), rng.standard_normal((B, UNITS))
    params = layer.core().state_dict()
    given, spec = (state[0][None], state[1][None]), layer.spec

    plain, _, _ = layer.run(x, Call(), state)
    y, (h, c), _ = reference.forward(params, x, given, spec=spec)
    np.testing.assert_allclose(plain, y if sequences else y[-1], rtol=0, atol=TOLERANCE)
    y_train, _, tape = layer.run(x, Call(True, np.random.default_rng(1)), state)
    drawn = tape.core.drawn
    assert bool(drawn) == (cell == "all")
    y, (h, c), taped = reference.forward(params, x, given, spec=spec, masks=drawn)
    np.testing.assert_allclose(y_train, y if sequences else y[-1], rtol=0, atol=TOLERANCE)

    dy, dstate = rng.standard_normal(y_train.shape), (np.ones(h[0].shape), rng.standard_normal(c[0].shape))
    dx, begin = layer.run_backward(dy, tape, dstate)
    whole = dy if sequences else np.concatenate((np.zeros((T - 1, *dy.shape)), dy[None]))
    wanted, wanted_begin, grads = reference.backward(taped, whole, (dstate[0][None], dstate[1][None]))
    np.testing.assert_allclose(dx, wanted, rtol=0, atol=TOLERANCE)
    for ours, theirs in zip(begin, wanted_begin, strict=True):
        np.testing.assert_allclose(ours, theirs[0], rtol=0, atol=TOLERANCE)
    names = {"kernel": "weight_ih", "recurrent_kernel": "weight_hh", "bias": "bias_ih"}
    assert {names.get(name, name) + "_l0" for name in layer.grads} == set(grads) - {"bias_hh_l0"}
    for name, grad in layer.grads.items():
        np.testing.assert_allclose(grad, grads[names.get(name, name) + "_l0"], rtol=0, atol=TOLERANCE, err_msg=name)


def classifier(cell, seed=3):
    layers = [
        Embedding(30, 8, mask_zero=True),
        Bidirectional(LSTM(UNITS, return_sequences=True, **cell)),
        LSTM(UNITS, **cell),
        Dense(3, activation="softmax"),
    ]
    model = Sequential(layers, seed=seed)
    model.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    return model


def test_what_is_drawn_is_the_same_at_any_thread_count_and_after_a_file(tmp_path):
    def trained(threads):
        fastlstm.set_num_threads(threads)
        model = classifier(CELLS["all"])
        model.fit(IDS, LABELS, epochs=2)
        return model

    one, two = trained(1), trained(2)
    assert np.isfinite(one.theta).all()
    np.testing.assert_array_equal(two.theta, one.theta)
    one.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(again.predict(IDS), one.predict(IDS))
    for model in (one, again):
        model.fit(IDS, LABELS, epochs=3, initial_epoch=2)
    np.testing.assert_array_equal(again.theta, one.theta)


def test_a_run_with_recurrent_dropout_resumes_to_the_same_weights(tmp_path):
    class Interrupt(models.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise InterruptedError

    whole, halves = classifier(CELLS["all"]), [classifier(CELLS["all"]) for _ in range(2)]
    whole.fit(IDS, LABELS, epochs=4, callbacks=[models.Callback()])
    with pytest.raises(InterruptedError):
        halves[0].fit(IDS, LABELS, epochs=4, callbacks=[Interrupt(), BackupAndRestore(tmp_path)])
    stopper = Interrupt()
    stopper.on_epoch_begin = lambda epoch, logs=None: None
    halves[1].fit(IDS, LABELS, epochs=4, callbacks=[stopper, BackupAndRestore(tmp_path)])
    np.testing.assert_array_equal(halves[1].theta, whole.theta)


def test_a_cell_runs_step_by_step():
    layers = [Embedding(30, 8), LSTM(UNITS, return_sequences=True, **CELLS["all"]), Dense(30)]
    model = Sequential(layers, seed=1)
    whole = model.predict(IDS[:4])
    steps = Steps(model.layers, 4)
    for t in range(IDS.shape[1]):
        np.testing.assert_allclose(steps.step(IDS[:4, t]), whole[:, t], rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_activations_are_those_of_keras():
    x, y = rng.standard_normal((12, 4, 3)).astype(np.float32), rng.standard_normal((12, 2)).astype(np.float32)
    found, start = [], None
    for k in (keras, models):
        lstm = k.layers.LSTM(5, activation="leaky_relu", recurrent_activation="hard_sigmoid")
        model = k.Sequential([k.layers.Input((4, 3)), lstm, k.layers.Dense(2)])
        model.compile(k.optimizers.SGD(0.05), "mse")
        start = model.get_weights() if start is None else start
        model.set_weights(start)
        model.fit(x, y, batch_size=6, epochs=2, shuffle=False, verbose=0)
        found.append([model.predict(x, verbose=0), *model.get_weights()])
    for ours, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


PAIRS = [
    (keras.layers.LSTM, LSTM, {"units": 4}),
    (keras.layers.Dense, Dense, {"units": 4}),
    (keras.layers.Embedding, Embedding, {"input_dim": 4, "output_dim": 2}),
    (keras.layers.Dropout, models.Dropout, {"rate": 0.1}),
    (keras.layers.Masking, models.Masking, {}),
    (keras.layers.Bidirectional, Bidirectional, {"layer": LSTM(3)}),
    (keras.optimizers.SGD, models.SGD, {}),
    (keras.optimizers.Adam, models.Adam, {}),
    (keras.optimizers.AdamW, models.AdamW, {}),
    (keras.optimizers.RMSprop, models.RMSprop, {}),
    (keras.losses.BinaryCrossentropy, models.BinaryCrossentropy, {}),
    (keras.losses.CategoricalCrossentropy, models.CategoricalCrossentropy, {}),
    (keras.losses.SparseCategoricalCrossentropy, models.SparseCategoricalCrossentropy, {}),
    (keras.losses.MeanSquaredError, models.MeanSquaredError, {}),
    (keras.callbacks.EarlyStopping, models.EarlyStopping, {}),
    (keras.callbacks.ModelCheckpoint, models.ModelCheckpoint, {"filepath": "x"}),
    (keras.callbacks.BackupAndRestore, BackupAndRestore, {"backup_dir": "x"}),
    (keras.callbacks.LearningRateScheduler, models.LearningRateScheduler, {"schedule": float}),
]


@pytest.mark.parametrize("theirs, ours, needed", PAIRS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_argument_of_keras_is_taken_with_its_default(theirs, ours, needed):
    arguments = inspect.signature(theirs.__init__).parameters.values()
    given = {p.name: p.default for p in arguments if p.default is not p.empty}
    ours(**needed, **given)


@pytest.mark.parametrize("method", ["compile", "fit", "evaluate", "predict", "summary", "train_on_batch", "save"])
def test_every_argument_of_a_keras_model_is_taken_with_its_default(method, tmp_path):
    model = Sequential([LSTM(2, input_shape=(4, 3)), Dense(1)])
    model.compile("sgd", "mse")
    arguments = inspect.signature(getattr(keras.Model, method)).parameters.values()
    given = {p.name: p.default for p in arguments if p.default is not p.empty}
    x = np.zeros((4, 4, 3))
    first = {"compile": {"loss": "mse"}, "summary": {"print_fn": str}, "save": {"filepath": tmp_path / "model"},
             "predict": {"x": x}}  # fmt: skip
    getattr(model, method)(**given | first.get(method, {"x": x, "y": np.zeros(4)}))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: LSTM(3, kernel_regularizer="l2"), ValueError, "kernel_regularizer of LSTM must be None"),
        (lambda: Dense(3, bias_constraint="non_neg"), ValueError, "bias_constraint of Dense must be None"),
        (lambda: Embedding(3, 2, lora_rank=4), ValueError, "lora_rank of Embedding must be None"),
        (lambda: LSTM(3, return_sequence=True), TypeError, "LSTM has no argument 'return_sequence'"),
        (lambda: models.Adam(weight_decay=0.1), ValueError, "weight_decay of Adam must be None"),
        (lambda: models.Adam(loss_scale_factor=np.ones(2)), ValueError, "loss_scale_factor of Adam must be None"),
        (lambda: models.Adam(use_ema=True), ValueError, "use_ema of Adam must be False"),
        (lambda: models.SGD(lr=0.1), TypeError, "SGD has no argument 'lr'"),
        (lambda: models.BinaryCrossentropy(label_smoothing=0.1), ValueError, "label_smoothing .* must be 0"),
        (lambda: LSTM(3, activation="gelu"), ValueError, "activation: unknown activation 'gelu'"),
        (lambda: LSTM(3, recurrent_activation=np.tanh), TypeError, "recurrent_activation: an activation must be"),
        (lambda: LSTM(3, proj_size=3), ValueError, "proj_size must be less than units = 3"),
        (lambda: LSTM(3, peephole="some"), ValueError, "peephole must be one of"),
        (lambda: LSTM(3, zoneout=2), ValueError, "zoneout must be a probability"),
        (lambda: LSTM(3, clip=-1), ValueError, "clip must be a number over 0"),
        (lambda: models.EarlyStopping(restore="x"), TypeError, "restore"),
        (lambda: models.ModelCheckpoint("x", save_freq=5), ValueError, "save_freq .* must be 'epoch'"),
        (lambda: models.Input((3,), batch_shape=(1, 3)), ValueError, "batch_shape must be None"),
    ],
)
def test_what_would_change_a_result_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_layer_is_described_in_plain_values():
    for cell in CELLS.values():
        config = json.loads(json.dumps(LSTM(UNITS, **cell).get_config()))
        assert LSTM(**config).spec == LSTM(UNITS, **cell).spec
        assert set(CELL) < set(config)
    assert LSTM(3, activation=None).spec.activations[1:] == (Activation("linear"),) * 2
