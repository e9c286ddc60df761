"""The Keras adapter against Keras itself, on each of its backends; Keras's own tests with this layer in place.

A process has one backend: most of this file runs in the process that it was started in, and again for each other one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tolerances

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

import fastlstm.keras
from fastlstm.keras import operator as keras_operator

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks below

BACKEND = keras.backend.backend()
elsewhere = pytest.mark.skipif("FASTLSTM_INNER" in os.environ, reason="this is the process that it starts")
layers = keras.layers
rng = np.random.default_rng(0)
X = rng.standard_normal((6, 9, 5)).astype(np.float32)
MASK = rng.random((6, 9)) > 0.4
MASK[2], MASK[3] = False, True
IDS = rng.integers(1, 30, (50, 9))
for _row, _length in zip(IDS, rng.integers(0, 10, 50), strict=True):
    _row[_length:] = 0
CLASSES = IDS.sum(axis=1) % 3


@pytest.fixture(autouse=True)
def calls(monkeypatch: pytest.MonkeyPatch) -> list:
    """The options of each call that this library computed."""
    made = []
    compute = keras_operator.BACKENDS[BACKEND]

    def counted(options, inputs):
        made.append(options)
        return compute(options, inputs)

    monkeypatch.setitem(keras_operator.BACKENDS, BACKEND, counted)
    return made


def arrays(value) -> list[np.ndarray]:
    """The outputs of a layer."""
    return [keras.ops.convert_to_numpy(part) for part in keras.tree.flatten(value)]


def assert_close(ours, theirs) -> None:
    for one, other in zip(arrays(ours), arrays(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerances.PROMISED_VALUES["float32"])


OPTIONS = ["return_sequences", "go_backwards", "return_state", "use_bias", "zero_output_for_mask"]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chosen", ["00000", "00010", "10011", "11100", "11011", "01111", "10101", "11110"])
def test_values(chosen: str, masked: bool, calls: list) -> None:
    layer = layers.LSTM(7, **{name: flag == "1" for name, flag in zip(OPTIONS, chosen, strict=True)})
    state = [rng.standard_normal((6, 7)).astype(np.float32) for _ in "hc"]
    given = {"mask": keras.ops.convert_to_tensor(MASK) if masked else None, "initial_state": state}
    expected = layer(X, **given)
    assert not calls
    with fastlstm.keras.accelerate():
        assert_close(layer(X, **given), expected)
    ours = fastlstm.keras.LSTM.from_config(layer.get_config())
    ours.build(X.shape)
    ours.set_weights(layer.get_weights())
    assert_close(ours(X, **given), expected)
    assert len(calls) == 2


def test_nan_behind_a_mask_stays_there() -> None:
    layer, x = fastlstm.keras.LSTM(7, return_sequences=True), X.copy()
    expected = layer(X, mask=keras.ops.convert_to_tensor(MASK))
    x[~MASK] = np.nan
    assert_close(layer(x, mask=keras.ops.convert_to_tensor(MASK)), expected)


# --- training ---------------------------------------------------------------------------------------------------------


def plain(LSTM):
    return [LSTM(5, return_sequences=True, go_backwards=True), LSTM(4)]


def dropped(LSTM):
    return [LSTM(5, return_sequences=True, dropout=0.3, seed=7), LSTM(4, dropout=0.2, seed=8, use_bias=False)]


def directions(LSTM):
    both = layers.Bidirectional
    return [both(LSTM(5, return_sequences=True)), both(LSTM(4), merge_mode="ave")]


def regularised(LSTM):
    limited = {"kernel_constraint": "max_norm", "recurrent_regularizer": "l2", "kernel_regularizer": "l1"}
    return [LSTM(5, return_sequences=True, recurrent_dropout=0.3, seed=7), LSTM(4, unroll=True, **limited)]


def trained(make, mask: bool, LSTM) -> tuple[list, np.ndarray, list[np.ndarray]]:
    """Losses, predictions and weights after some epochs."""
    keras.utils.set_random_seed(3)
    top = [layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((9,)), layers.Embedding(30, 8, mask_zero=mask), *make(LSTM), *top])
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    history = model.fit(IDS, CLASSES, batch_size=16, epochs=2, verbose=0, shuffle=False)
    return history.history["loss"], model.predict(IDS[:20], verbose=0), model.get_weights()


def others(LSTM):
    """Other activations, and recurrent dropout beside that of the input."""
    rates = {"dropout": 0.2, "recurrent_dropout": 0.3, "seed": 7}
    return [LSTM(5, "relu", "hard_sigmoid", return_sequences=True, **rates), LSTM(4, recurrent_dropout=0.5, seed=8)]


@pytest.fixture
def tied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras draws a mask for each gate; here it takes the first for all of them, as this library does."""

    def first(self, step_input, rate):
        masks = draw(self, step_input, rate)
        return [masks[0]] * 4 if isinstance(masks, list) else masks

    draw = DropoutRNNCell._create_dropout_mask
    monkeypatch.setattr(DropoutRNNCell, "_create_dropout_mask", first)


MODELS = [(plain, True), (dropped, True), (directions, True), (regularised, False), (others, True), (others, False)]


@pytest.mark.skipif(BACKEND == "numpy", reason="Keras does not train on NumPy")
@pytest.mark.usefixtures("tied")
@pytest.mark.parametrize(("make", "mask"), MODELS)
def test_training_is_that_of_keras(make, mask: bool, calls: list) -> None:
    expected = trained(make, mask, layers.LSTM)
    assert not calls
    found = trained(make, mask, fastlstm.keras.LSTM)
    assert calls
    for one, other in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerances.PROMISED_GRADIENTS["float32"])


PAIRS = [("relu", "hard_sigmoid"), ("softsign", "hard_tanh"), ("elu", "softplus"), ("leaky_relu", None)]


@elsewhere
@pytest.mark.parametrize(("candidate", "gates"), PAIRS)
def test_activations(candidate: str | None, gates: str | None, calls: list) -> None:
    """Values and gradients of all activations that both have; the other backends train with some."""
    import torch

    ours, theirs, found = *(kind(7, candidate, gates) for kind in (fastlstm.keras.LSTM, layers.LSTM)), []
    x = keras.ops.convert_to_tensor(0.5 * X)  # small, where nothing saturates
    theirs.build(X.shape), ours.build(X.shape)
    ours.set_weights([0.5 * weight for weight in theirs.get_weights()])
    theirs.set_weights(ours.get_weights())
    for layer in (ours, theirs):
        y = layer(x)
        weights = [variable.value for variable in layer.trainable_variables]
        found.append([y, *torch.autograd.grad((y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum(), weights)])
    assert len(calls) == 1 and calls[0].activations[1] != "tanh"
    for one, other in zip(*map(arrays, found), strict=True):
        allowed = tolerances.PROMISED_GRADIENTS["float32"] * max(1.0, abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed)


def test_recurrent_dropout_is_one_mask_for_the_sequence(calls: list) -> None:
    """By the steps of an input that comes with the first alone, through cells that do nothing but pass h on."""
    rate, rows, units = 0.3, 40, 50
    layer = fastlstm.keras.LSTM(units, "linear", "linear", return_sequences=True, recurrent_dropout=rate, seed=3)
    x = np.zeros((rows, 4, 1), np.float32)
    x[:, 0] = 1
    layer.build(x.shape)
    kernel, recurrent, bias = np.zeros((1, 4 * units)), np.zeros((units, 4 * units)), np.zeros(4 * units)
    kernel[0, 2 * units : 3 * units], bias[:units], bias[3 * units :] = 1, 1, 1  # g = x + h, i = o = 1, f = 0
    recurrent[:, 2 * units : 3 * units] = np.eye(units)
    layer.set_weights([kernel, recurrent, bias])
    first, second = (arrays(layer(x, training=True))[0] for _ in "ab")
    mask = first[:, 1]
    np.testing.assert_allclose(first, np.stack([mask**t for t in range(4)], axis=1), rtol=1e-5)
    for drawn in (mask, second[:, 1]):
        values, share = np.unique(drawn.round(4)), (drawn == 0).mean()
        np.testing.assert_allclose(values, [0, 1 / (1 - rate)], rtol=1e-4)
        assert abs(share - rate) < 4 * (rate * (1 - rate) / drawn.size) ** 0.5
    assert abs(((mask == 0) & (second[:, 1] == 0)).mean() - rate**2) < 0.03  # drawn anew by each call
    assert (arrays(layer(x, training=False))[0] == 1).all() and len(calls) == 3


@pytest.mark.skipif(BACKEND == "numpy", reason="Keras does not train on NumPy")
def test_gradients_of_states_and_double_precision(calls: list) -> None:
    """An encoder that hands its state to a decoder, in float64 where the backend has it."""
    dtype = "float32" if BACKEND == "jax" else "float64"

    def weights(LSTM) -> list[np.ndarray]:
        keras.utils.set_random_seed(4)
        source, target = keras.Input((None, 5), dtype=dtype), keras.Input((9, 5), dtype=dtype)
        _, *state = LSTM(7, return_state=True, dtype=dtype)(source)
        y, _, c = LSTM(7, return_sequences=True, return_state=True, dtype=dtype)(target, initial_state=state)
        model = keras.Model([source, target], [y, c])
        model.compile(keras.optimizers.SGD(0.5), ["mse", "mse"])
        given = [X.astype(dtype), X[::-1].astype(dtype)]
        model.fit(given, [np.ones((6, 9, 7)), np.ones((6, 7))], epochs=3, verbose=0, shuffle=False)
        return model.get_weights()

    expected, found = weights(layers.LSTM), weights(fastlstm.keras.LSTM)
    assert calls
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerances.PROMISED_GRADIENTS[dtype])


def test_stateful() -> None:
    outputs = []
    for LSTM in (layers.LSTM, fastlstm.keras.LSTM):
        keras.utils.set_random_seed(5)
        layer = LSTM(7, stateful=True, return_sequences=True)
        layer.build(X.shape)
        given = {"mask": keras.ops.convert_to_tensor(MASK)}
        outputs.append([arrays(layer(X, **given))[0] for _ in range(3)])
        layer.reset_state()
        outputs[-1] += arrays(layer(X, **given))
    assert_close(*outputs)
    np.testing.assert_array_equal(outputs[1][3], outputs[1][0])
    assert abs(outputs[1][1] - outputs[1][0]).max() > 1e-3


# --- where Keras computes ---------------------------------------------------------------------------------------------


HALF = {"dtype": "bfloat16", "recurrent_initializer": "glorot_uniform"}


@pytest.mark.parametrize("options", [{"activation": "silu"}, {"recurrent_activation": lambda x: 0.5 * x}, HALF])
def test_what_this_library_has_not_is_left_to_keras(options: dict, calls: list) -> None:
    if BACKEND == "numpy" and "dtype" in options:
        return  # NumPy has none
    layer = fastlstm.keras.LSTM(7, return_sequences=True, **options)
    found = layer(X)
    theirs = layers.LSTM(7, return_sequences=True, **options)
    theirs.build(X.shape)
    theirs.set_weights(layer.get_weights())
    np.testing.assert_array_equal(*(np.asarray(arrays(y)[0], np.float32) for y in (found, theirs(X))))
    assert not calls


def test_inputs_dropped_for_each_gate_apart_are_left_to_keras(calls: list) -> None:
    layer = fastlstm.keras.LSTM(7, dropout=0.5, implementation=1, use_cudnn=False)
    layer(X, training=True)
    assert not calls
    layer(X, training=False)
    assert len(calls) == 1


# --- the switch and files ---------------------------------------------------------------------------------------------


def test_switches_nest_and_end(calls: list) -> None:
    layer, before = layers.LSTM(3), layers.LSTM.inner_loop
    outer = fastlstm.keras.accelerate()
    with pytest.raises(ZeroDivisionError), fastlstm.keras.accelerate():
        raise ZeroDivisionError
    layer(X)
    assert len(calls) == 1 and layer.supports_jit is (BACKEND != "tensorflow")
    outer.off()
    outer.off()
    layer(X)
    assert len(calls) == 1 and layers.LSTM.inner_loop is before and layer.supports_jit is True
    with fastlstm.keras.accelerate():
        layer(X)
    assert len(calls) == 2 and "supports_jit" not in vars(layers.LSTM)


PLAIN = """
import sys
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
kinds = [type(layer) for layer in model._flatten_layers() if isinstance(layer, keras.layers.LSTM)]
assert kinds == [keras.layers.LSTM] * 3 and not any(name.startswith("fastlstm") for name in sys.modules), kinds
np.save(sys.argv[2], model.predict(np.load(sys.argv[2]), verbose=0))
"""


def test_files_load_in_plain_keras(tmp_path: Path, calls: list) -> None:
    both = layers.Bidirectional(fastlstm.keras.LSTM(5, return_sequences=True))
    model = keras.Sequential([keras.Input((9, 5)), both, fastlstm.keras.LSTM(4, dropout=0.2)])
    expected = model.predict(X, verbose=0)
    assert len(calls) >= 3
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    kinds = [type(layer) for layer in again._flatten_layers() if isinstance(layer, layers.LSTM)]
    assert kinds == [fastlstm.keras.LSTM] * 3
    assert_close(again.predict(X, verbose=0), expected)
    np.save(tmp_path / "x.npy", X)
    script = [sys.executable, "-c", PLAIN, str(tmp_path / "model.keras"), str(tmp_path / "x.npy")]
    subprocess.run(script, cwd=tmp_path, check=True, env={**os.environ, "KERAS_BACKEND": BACKEND})
    assert_close(np.load(tmp_path / "x.npy"), expected)


# --- other processes --------------------------------------------------------------------------------------------------


def run(*arguments: str, backend: str) -> str:
    """What a process of that backend prints; it may skip nothing of ours."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTEST_ADDOPTS"}
    environment |= {"KERAS_BACKEND": backend, "FASTLSTM_INNER": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    return done.stdout


@elsewhere
@pytest.mark.parametrize("backend", ["jax", "tensorflow", "numpy"])
def test_this_file_on_another_backend(backend: str) -> None:
    left_out = ["plain", "regularised", "others-False", "files", "missing"]  # they would compile for a minute more
    chosen = " and ".join(f"not {name}" for name in left_out)
    out = run("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", chosen, backend=backend)
    assert " passed" in out and "failed" not in out, out


KERAS_OWN = """
import pathlib, sys
import keras, pytest
from keras.src import layers
import fastlstm.keras
from fastlstm.keras import operator as keras_operator

made, (backend, *names) = [], sys.argv[1:]
compute = keras_operator.BACKENDS[backend]
keras_operator.BACKENDS[backend] = lambda *call: made.append(call) or compute(*call)
layers.LSTM = fastlstm.keras.LSTM
fastlstm.keras.accelerate()
home = pathlib.Path(keras.__file__).parent / "src" / "layers" / "rnn"
code = pytest.main(["-q", "-p", "no:cacheprovider", "--noconftest", "-c", "none.ini", "--rootdir", ".",
                    *(str(home / f"{name}_test.py") for name in names)])
assert len(made) > 10, f"Keras's tests called this library {len(made)} times"
sys.exit(int(code))
"""


OWN = ["lstm", "bidirectional", "stacked_rnn_cells", "rnn"]  # the last two, with cells of Keras's alone, take JAX 80 s


@elsewhere
@pytest.mark.parametrize(
    ("backend", "names", "passed"),  # one wants a GPU
    [
        ("torch", OWN, "39 passed, 1 skipped"),
        ("tensorflow", OWN, "39 passed, 1 skipped"),
        ("numpy", OWN, "39 passed, 1 skipped"),
        ("jax", OWN[:2], "18 passed, 1 skipped"),
    ],
)
def test_kerass_own_tests(
    backend: str, names: list[str], passed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "none.ini").write_text("[pytest]\n")
    out = run("-c", KERAS_OWN, backend, *names, backend=backend)
    assert passed in out, out


def test_missing_keras_names_the_extra(tmp_path: Path) -> None:
    script = "import sys; sys.modules['keras'] = None; import fastlstm.keras"
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    last = "ModuleNotFoundError: fastlstm.keras needs Keras 3: pip install 'fastlstm[keras]'"
    assert done.returncode != 0 and done.stderr.splitlines()[-1] == last
