"""Files: what is written is read back, a run killed at any moment goes on to the same result, and no file does harm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastlstm.models import (
    LSTM,
    Adam,
    BackupAndRestore,
    Bidirectional,
    CosineDecay,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    Sequential,
    load_model,
    tensors,
)

rng = np.random.default_rng(3)
IDS, LABELS = rng.integers(0, 30, (64, 9)), rng.integers(0, 3, 64)


def make(seed=1, optimizer=None):
    layers = [
        Embedding(30, 8, mask_zero=True),
        Bidirectional(LSTM(6, return_sequences=True), merge_mode="sum"),
        Dropout(0.2),
        LSTM(5, dropout=0.1),
        Dense(3, activation="softmax"),
    ]
    model = Sequential(layers, seed=seed)
    model.compile(optimizer or Adam(CosineDecay(0.01, 20)), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def test_a_model_comes_back_whole_and_trains_on_the_same(tmp_path):
    model = make()
    model.fit(IDS, LABELS, epochs=2)
    model.save(tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(again.predict(IDS), model.predict(IDS))
    np.testing.assert_array_equal(
        np.concatenate([w.ravel() for w in again.get_weights()]),
        np.concatenate([w.ravel() for w in model.get_weights()]),
    )
    model.fit(IDS, LABELS, epochs=4, initial_epoch=2)
    again.fit(IDS, LABELS, epochs=4, initial_epoch=2)
    np.testing.assert_array_equal(again.theta, model.theta)
    assert again.evaluate(IDS, LABELS) == model.evaluate(IDS, LABELS)


def test_weights_alone_fit_a_model_of_the_same_layers(tmp_path):
    model, other = make(1), make(2)
    model.save_weights(tmp_path / "w.safetensors")
    other.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.theta, model.theta)
    with pytest.raises(ValueError, match="holds arrays, but no model"):
        load_model(tmp_path / "w.safetensors")
    narrow = Sequential([Embedding(30, 8), LSTM(6)])
    with pytest.raises(ValueError, match="does not fit the model: unexpected bidirectional"):
        narrow.load_weights(tmp_path / "w.safetensors")


def test_files_are_those_of_the_safetensors_package(tmp_path):
    numpy_files = pytest.importorskip("safetensors.numpy")
    arrays = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1, 2], np.int64),
        "empty": np.zeros((0, 4)),
    }
    tensors.write(tmp_path / "ours", arrays, {"key": "value"})
    theirs = numpy_files.load_file(tmp_path / "ours")
    numpy_files.save_file(arrays, tmp_path / "theirs", {"key": "value"})
    ours, metadata = tensors.read(tmp_path / "theirs")
    assert metadata == {"key": "value"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name], array)
        assert ours[name].dtype == array.dtype


# --- hostile files ----------------------------------------------------------------------------------------------------


def raw(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def entry(shape=(1,), dtype="F32", offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"abc",
        b"PK\x03\x04" + b"\0" * 60,
        b"\x89HDF\r\n\x1a\n" + b"\0" * 60,
        b"\x80\x04cos\nsystem\n(S'true'\ntR." + b"\0" * 30,
        (2**63).to_bytes(8, "little") + b"{}",
        raw(b"\xff\xfe"),
        raw(b"[" * 100_000),
        raw([1]),
        raw(b'{"a": {}, "a": {}}'),
        raw({"__metadata__": {"a": 1}}),
        raw({"a": 3}),
        raw({"a": entry(dtype="F8")}, b"\0" * 4),
        raw({"a": entry(shape=(-1,))}, b"\0" * 4),
        raw({"a": entry(shape=(True,))}, b"\0" * 4),
        raw({"a": entry(shape=(2**62, 2**62), offsets=(0, 0))}),
        raw({"a": entry(offsets=(0, 8))}, b"\0" * 4),
        raw({"a": entry(offsets=(4, 8))}, b"\0" * 8),
        raw({"a": entry(offsets=(4, 0))}, b"\0" * 4),
        raw({"a": entry(), "b": entry()}, b"\0" * 4),
        raw({"a": entry()}, b"\0" * 5),
    ],
)
def test_a_file_that_is_none_is_a_clear_error(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="foreign is no whole safetensors file: "):
        load_model(path)


def test_every_truncation_and_every_extension_is_a_clear_error(tmp_path):
    make().save(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    for size in [*range(0, 64), *range(64, len(content), 97), len(content) - 1]:
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match="cut is no whole safetensors file"):
            load_model(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match="bytes belong to no array"):
        load_model(path)


def changed(description, *path_and_value):
    *path, last, value = path_and_value
    inner = description
    for step in path:
        inner = inner[step]
    inner[last] = value
    return description


@pytest.mark.parametrize(
    "change",
    [
        ("version", 2),
        ("layers", 0, "class", "os.system"),
        ("layers", 0, "class", ["Embedding"]),
        ("layers", 0, "config", "output_dim", 10**15),
        ("layers", 0, "config", "weights", [1]),
        ("layers", 0, "config", "input_dim", "30"),
        ("layers", 1, "config", "layer", {"units": 6}),
        ("layers", 1, "config", "layer", None),
        ("layers", 3, "config", "units", 7),
        ("layers", 4, "config", "activation", "__import__('os')"),
        ("layers", []),
        ("layers", None),
        ("dtype", "object"),
        ("seed", "x"),
        ("compiled", "optimizer", "class", "Evil"),
        ("compiled", "optimizer", "config", "epsilon", "0"),
        ("compiled", "loss", "class", "Evil"),
        ("compiled", "metrics", 0, "class", "Evil"),
        ("compiled", {}),
    ],
)
def test_a_description_that_lies_is_a_clear_error(tmp_path, change):
    path = tmp_path / "model"
    model = make()
    model.fit(IDS, LABELS)
    model.save(path)
    arrays, metadata = tensors.read(path)
    description = changed(json.loads(metadata["fastlstm.model"]), *change)
    tensors.write(path, arrays, {"fastlstm.model": json.dumps(description)})
    with pytest.raises(ValueError, match=r"model(:| describes| does)"):
        load_model(path)


# --- interruptions ----------------------------------------------------------------------------------------------------


def test_a_resumed_run_is_an_uninterrupted_one_with_its_early_stopping(tmp_path):
    class Interrupt(Exception):
        pass

    def run(backup, until=None):
        class Stop(EarlyStopping):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == until:
                    raise Interrupt

        model = make(seed=None if backup else 9)
        if backup:
            model.seed = 9 if until == 2 else 12345  # a resumed run takes the seed from the backup
        callbacks = [Stop(patience=3, restore_best_weights=True)] + [BackupAndRestore(tmp_path)] * backup
        return model, model.fit(IDS, LABELS, epochs=9, validation_split=0.25, callbacks=callbacks)

    whole, history = run(False)
    for until in (2, 3):
        with pytest.raises(Interrupt):
            run(True, until)
    resumed, again = run(True)
    assert again.history == history.history and again.epoch == history.epoch
    np.testing.assert_array_equal(resumed.theta, whole.theta)
    assert list(tmp_path.iterdir()) == []


PROGRAM = """
import sys, numpy as np
from fastlstm.models import *
rng = np.random.default_rng(0)
x, y = rng.integers(0, 4000, (256, 12)), rng.integers(0, 2, 256)
model = Sequential([Embedding(4000, 64), Dropout(0.2), LSTM(16), Dense(1, activation="sigmoid")], seed=4)
model.compile("adam", "binary_crossentropy")
callbacks = [BackupAndRestore(sys.argv[1])] if len(sys.argv) > 2 else []
print("begin", flush=True)
model.fit(x, y, epochs=25, callbacks=callbacks)
model.save_weights(sys.argv[1] + "/" + (sys.argv[2] if callbacks else "whole"))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_killed_at_any_moment_a_run_goes_on_to_the_same_weights(tmp_path):
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], check=True)
    kills, delay = 0, np.random.default_rng(5)
    while not (tmp_path / "resumed").exists():
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path), "resumed"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"begin\n"
        if kills < 6:
            time.sleep(delay.uniform(0.05, 0.25))
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
        child.communicate()
        backup = tmp_path / "training.safetensors"
        if backup.exists():
            tensors.read(backup)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


DYING = """
import os, signal, sys, fastlstm.models

def die():
    os.kill(os.getpid(), signal.SIGKILL)

class Half:  # a file that half of what is written reaches
    def __init__(self, file):
        self.file = file
    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        die()
    def __enter__(self):
        return self
    def __exit__(self, *error):
        self.file.close()

name, real = sys.argv.pop(), None
if name != "in fdopen":
    when, of = name.split()
    real = getattr(os, of)
    def replaced(*arguments, **options):
        if when == "before":
            die()
        real(*arguments, **options)
        die()
    setattr(os, of, replaced)
else:
    real = os.fdopen
    os.fdopen = lambda *arguments, **options: Half(real(*arguments, **options))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system")
def test_killed_within_a_save_a_run_goes_on_to_the_same_weights(tmp_path):
    folder, backup = str(tmp_path), tmp_path / "training.safetensors"
    subprocess.run([sys.executable, "-c", PROGRAM, folder], check=True)
    for moment in ("before fdopen", "in fdopen", "before fsync", "before replace", "after replace", "in fdopen"):
        before = backup.read_bytes() if backup.exists() else None
        command = [sys.executable, "-c", DYING + PROGRAM, folder, "resumed", moment]
        assert subprocess.run(command, stdout=subprocess.PIPE).returncode == -signal.SIGKILL
        if moment == "after replace":
            tensors.read(backup)
        else:
            assert (backup.read_bytes() if backup.exists() else None) == before
        assert len(list(tmp_path.glob(".*.part"))) <= 1  # what a killed save leaves, the next run clears away
    subprocess.run([sys.executable, "-c", PROGRAM, folder, "resumed"], check=True)
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"resumed", "whole"}


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model = make()
    model.save(tmp_path / "model")
    before = (tmp_path / "model").read_bytes()

    def fail(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    model.fit(IDS, LABELS)
    with pytest.raises(OSError, match="no space"):
        model.save(tmp_path / "model")
    assert (tmp_path / "model").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_backup_of_another_model_is_refused(tmp_path):
    make().fit(IDS, LABELS, callbacks=[BackupAndRestore(tmp_path, delete_checkpoint=False)])
    other = Sequential([Embedding(30, 4), LSTM(5), Dense(3, activation="softmax")])
    other.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="backs up another model: its layers differ"):
        other.fit(IDS, LABELS, callbacks=[BackupAndRestore(tmp_path)])
    with pytest.raises(ValueError, match="its optimizer was Adam"):
        make(optimizer="sgd").fit(IDS, LABELS, callbacks=[BackupAndRestore(tmp_path)])
    (Path(tmp_path) / "training.safetensors").write_bytes(b"half")
    with pytest.raises(ValueError, match="no whole safetensors file"):
        make().fit(IDS, LABELS, callbacks=[BackupAndRestore(tmp_path)])
