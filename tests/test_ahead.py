"""Compiling ahead."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fastlstm

SCRIPT = """
import os, sys
import numpy as np
import fastlstm
from fastlstm.runtime import cache, compiling
fastlstm.warmup(progress=False, ragged=True)
kept = len(list((cache.root() / cache.digest()).iterdir()))
compiling.compiled = None  # what compiled from here on would fail
for options in ({}, {"num_layers": 2, "bias": False}, {"bidirectional": True, "batch_first": True}):
    lstm = fastlstm.LSTM(5, 70, **options)
    for shape in ((1, 1), (3, 4), (300, 1), (300, 40)):
        x = np.zeros((*shape, 5), np.float32)
        lstm(x)
        y, _, tape = lstm.forward(x)
        lstm.backward(tape, y)
    for given in ({"lengths": [0, 3, 9, 1]}, {"reset": np.eye(9, 4) > 0}):
        x = np.zeros((9, 4, 5), np.float32)
        if lstm.batch_first:
            x, given = x.swapaxes(0, 1), {name: np.transpose(value) for name, value in given.items()}
        lstm(x, **given)
        y, _, tape = lstm.forward(x, **given)
        lstm.backward(tape, y)
    held = lstm.parameters["weight_ih_l0"]
    x = np.zeros((1, 1, 5), np.float32)
    lstm(x), lstm.forward(x)
fastlstm.LSTMCell(3, 4)(np.zeros((2, 3), np.float32))
fastlstm.LSTM(3, 4).stream().step(np.zeros((1, 3), np.float32))
print(kept)
"""


def test_calls_compile_nothing_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(list(tmp_path.glob("*/*"))) > 0


def test_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    fastlstm.warmup(("float32",), training=False, progress=True)
    lines = capsys.readouterr().err.split("\r")
    assert [line.split("] ")[1].split("\033")[0] for line in lines[1:-1]] == [
        "0/3 float32 inference",
        "1/3 float32 stream",
        "2/3 threads",
    ]
    assert lines[-1].startswith(f"[{'#' * 24}] 3/3 ") and lines[-1].endswith(" s\033[K\n")
    fastlstm.warmup("float32", training=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "error", "named"),
    [
        ({"dtypes": ("int32",)}, TypeError, "dtype"),
        ({"training": 1}, TypeError, "training"),
        ({"progress": "yes"}, TypeError, "progress"),
        ({"ragged": None}, TypeError, "ragged"),
        ({"hidden_size": 0}, ValueError, "hidden_size"),
        ({"layers": 3}, TypeError, "layers"),
    ],
)
def test_errors(arguments: dict, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        fastlstm.warmup(**arguments)
