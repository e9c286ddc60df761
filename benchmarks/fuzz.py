"""Fuzzing of what reads files: each ends in a result or in an error that it documents, never in anything else.

    pip install atheris && python benchmarks/fuzz.py safetensors|model|result|onnx [-max_total_time=600]

Coverage-guided by atheris; what follows the loader's name is libFuzzer's. It starts from good files, and writes an
input that breaks a loader to `crash-*`. Without atheris, inputs are mutated at random for as much processor time, and a
failure names the seed.
"""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
FILE = FOLDER / "input"


def _safetensors() -> tuple[list[bytes], Callable[[], object], tuple[type[Exception], ...]]:
    from safetensors import SafetensorError

    import fastlstm
    from fastlstm import weights

    lstm = fastlstm.LSTM(2, 3, seed=0)
    weights.save_safetensors(lstm, FILE, {"made": "here"})

    def load() -> None:
        fastlstm.LSTM(2, 3, seed=0).load_state_dict(weights.load_safetensors(FILE))

    return [FILE.read_bytes()], load, (ValueError, TypeError, OSError, SafetensorError)


def _model() -> tuple[list[bytes], Callable[[], object], tuple[type[Exception], ...]]:
    from fastlstm import models

    seeds = []
    for layers in (
        [models.Embedding(5, 3), models.Bidirectional(models.LSTM(2)), models.Dense(2, activation="softmax")],
        [models.LSTM(2, return_sequences=True), models.Dropout(0.1), models.LSTM(2), models.Dense(1)],
    ):
        model = models.Sequential(layers)
        model.compile(optimizer="adam", loss="mse")
        x = np.zeros((2, 3), np.int64) if isinstance(layers[0], models.Embedding) else np.zeros((2, 3, 2), np.float32)
        model.fit(x, np.zeros((2, layers[-1].units), np.float32), epochs=1, verbose=0)
        model.save(FILE)
        seeds.append(FILE.read_bytes())
    return seeds, lambda: models.load_model(FILE), (ValueError, TypeError, OSError)


def _result() -> tuple[list[bytes], Callable[[], object], tuple[type[Exception], ...]]:
    from lstm_bench import results

    document = results.Document("2026-01-01", {}, {}, "fastlstm")
    results.save(document, FILE)
    full = json.loads(FILE.read_text()) | {
        "engines": {"fastlstm": {"label": "fastlstm", "version": "1", "notes": []}},
        "measurements": [{"case": "darts", "mode": "inference", "engine": "fastlstm", "samples": [0.1]}],
        "limits": [{"threads": 1}],
        "cores": {"1": [0]},
    }
    return [FILE.read_bytes(), json.dumps(full).encode()], lambda: results.load(FILE), (results.ResultError,)


def _onnx() -> tuple[list[bytes], Callable[[], object], tuple[type[Exception], ...]]:
    import fastlstm
    import fastlstm.onnx

    seeds = []
    for options in ({}, {"bidirectional": True, "num_layers": 2}):
        fastlstm.onnx.export(fastlstm.LSTM(2, 3, **options), FILE)
        seeds.append(FILE.read_bytes())
    return seeds, lambda: fastlstm.onnx.load(FILE), (ValueError, TypeError, OSError)


def _mutated(seed: bytes, chance: random.Random) -> bytes:
    """A seed with some bytes changed, cut, repeated or put in."""
    data = bytearray(seed)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, length = chance.randrange(len(data) + 1), chance.choice((1, 1, 2, 4, 8, 64))
        piece = chance.choice(
            (b"", chance.randbytes(length), bytes(data[at : at + length]) * 2, b"\xff" * length, b"[" * 5000)
        )
        data[at : at + chance.choice((0, length))] = piece
    return bytes(data)


def main() -> None:
    """Fuzz one loader."""
    name, *rest = sys.argv[1:] or ["--help"]
    makers = {"safetensors": _safetensors, "model": _model, "result": _result, "onnx": _onnx}
    if name not in makers:
        sys.exit(__doc__)
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["fastlstm", "lstm_bench"]):
            seeds, load, documented = makers[name]()
    else:
        seeds, load, documented = makers[name]()
    found = {"read": 0, "refused": 0}

    def one(data: bytes) -> None:
        FILE.write_bytes(data)
        try:
            load()
            found["read"] += 1
        except documented:
            found["refused"] += 1

    if guided:
        corpus = FOLDER / "corpus"
        corpus.mkdir()
        for k, seed in enumerate(seeds):
            one(seed)
            (corpus / f"{k}").write_bytes(seed)
        assert found["refused"] == 0 or name == "result", "a good file was refused"
        atheris.Setup([sys.argv[0], *rest, str(corpus)], one)
        atheris.Fuzz()
        return
    limit = next((float(word.split("=")[1]) for word in rest if word.startswith("-max_total_time=")), 600.0)
    end, number = time.process_time() + limit, 0
    while time.process_time() < end:
        number += 1
        chance = random.Random(number)
        try:
            one(_mutated(chance.choice(seeds), chance))
        except Exception:
            print(f"seed {number}, input in {FILE}")
            raise
    print(f"{number} inputs: {found['read']} read, {found['refused']} refused")


if __name__ == "__main__":
    main()
