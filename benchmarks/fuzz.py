"""Fuzzing of what reads files: each ends in a result or in an error that it documents, never in anything else.

    pip install atheris && python benchmarks/fuzz.py safetensors|model|result|onnx [-max_total_time=600] [FOLDER]

Coverage-guided by atheris; what follows the loader's name is libFuzzer's: a folder keeps what it found, for the next
run to go on from. Files are changed as bytes, and as what they say: a value, a name or a part is replaced, left out or
repeated, and the whole is written as a good file. It starts from good files, and writes an input that breaks a loader
to `crash-*`. Without atheris, files are changed at random for as much processor time, and a failure names the seed.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import importlib.util
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ODD = (
    None, True, False, 0, 1, -1, 3, 2**31, -(2**63), 10**400, 0.5, -0.0, 1e308, float("nan"), float("inf"), "", "0",
    "x", "\0", "float32", "x" * 5000, [], {}, [[]], [0, -1], {"": None},
)  # fmt: skip


class Loader(NamedTuple):
    """What reads a file, what it may raise, and the file as JSON's values, and back."""

    load: Callable[[Path], object]
    documented: tuple[type[Exception], ...]
    told: Callable[[bytes], Any]
    written: Callable[[Any], bytes]


# --- good files, made in a process of their own: what is instrumented cannot be compiled ------------------------------


def _safetensors_files(file: Path) -> Iterator[None]:
    import fastlstm
    from fastlstm import weights

    for options in ({}, {"num_layers": 2, "bias": False}):
        weights.save_safetensors(fastlstm.LSTM(2, 3, seed=0, **options), file, {"made": "here"})
        yield


def _model_files(file: Path) -> Iterator[None]:
    from fastlstm import models

    for layers in (
        [models.Embedding(5, 3), models.Bidirectional(models.LSTM(2)), models.Dense(2, activation="softmax")],
        [models.LSTM(2, return_sequences=True), models.Dropout(0.1), models.LSTM(2), models.Dense(1)],
    ):
        model = models.Sequential(layers)
        model.compile(optimizer="adam", loss="mse")
        x = np.zeros((2, 3), np.int64) if isinstance(layers[0], models.Embedding) else np.zeros((2, 3, 2), np.float32)
        model.fit(x, np.zeros((2, layers[-1].units), np.float32), epochs=1, verbose=0)
        model.save(file)
        yield


def _result_files(file: Path) -> Iterator[None]:
    from lstm_bench import cases, results

    case = cases.Case("darts", 32, 24, 1, 25)
    measured = results.Measurement(
        case, "training", "float32", 2, "fastlstm", "ok", "", 0.1, 3, {1: [0.1, 0.2]}, [0.3], latency=[0.1],
        deviation={"y": 1e-7, "dx": None}, peak_gflops={1: 70.5},
    )  # fmt: skip
    limits = [results.Limits(2, "float32", 200.5, {1024: 90.5})]
    engines = {"fastlstm": results.EngineInfo("1", 0.1)}
    for parts in ({}, {"engines": engines, "measurements": [measured], "limits": limits, "cores": {1: [0], 2: None}}):
        results.save(results.Document("2026-01-01", {"cpu": "x"}, {}, "fastlstm", **parts), file)
        yield


def _onnx_files(file: Path) -> Iterator[None]:
    import fastlstm
    import fastlstm.onnx

    for options in (
        {},
        {"bidirectional": True, "num_layers": 2},
        {"peephole": "diagonal", "clip": 1.0, "activations": ("hard_sigmoid", "elu", "tanh")},
        {"coupled": True, "reverse": True, "batch_first": True, "bias": False},
    ):
        fastlstm.onnx.export(fastlstm.LSTM(2, 3, **options), file)
        yield


def good_files(name: str) -> list[bytes]:
    """The contents of some files that a loader takes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "good"
        return [file.read_bytes() for _ in globals()[f"_{name}_files"](file)]


# --- loaders ----------------------------------------------------------------------------------------------------------


def _tensors_told(data: bytes) -> Any:
    """A safetensors file: its header, and in that what is JSON in a string."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for name, text in header.get("__metadata__", {}).items():
        with contextlib.suppress(ValueError):
            header["__metadata__"][name] = json.loads(text)
    return {"header": header, "body": base64.b64encode(data[8 + size :]).decode()}


def _tensors_written(told: Any) -> bytes:
    header = dict(told["header"])
    if isinstance(texts := header.get("__metadata__"), dict):
        header["__metadata__"] = {k: t if isinstance(t, str) else json.dumps(t) for k, t in texts.items()}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + base64.b64decode(told["body"])


def _safetensors() -> Loader:
    from safetensors import SafetensorError

    import fastlstm
    from fastlstm import weights

    def load(file: Path) -> None:
        fastlstm.LSTM(2, 3, seed=0).load_state_dict(weights.load_safetensors(file))

    return Loader(load, (ValueError, TypeError, OSError, SafetensorError), _tensors_told, _tensors_written)


def _model() -> Loader:
    from fastlstm import models

    return Loader(models.load_model, (ValueError, TypeError, OSError), _tensors_told, _tensors_written)


def _result() -> Loader:
    from lstm_bench import results

    return Loader(results.load, (results.ResultError,), json.loads, lambda told: json.dumps(told).encode())


def _onnx() -> Loader:
    import onnx
    from google.protobuf import json_format

    import fastlstm.onnx

    def told(data: bytes) -> Any:
        return json_format.MessageToDict(onnx.load_from_string(data))

    def written(tree: Any) -> bytes:
        return json_format.ParseDict(tree, onnx.ModelProto()).SerializeToString()

    return Loader(fastlstm.onnx.load, (ValueError, TypeError, OSError), told, written)


# --- changes ----------------------------------------------------------------------------------------------------------


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a tree that a value stands at: what holds it, and under which key."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield tree, key
        yield from _places(tree[key])


def changed_tree(tree: Any, chance: random.Random) -> Any:
    """A tree with some values replaced, left out, repeated, or made a little larger or smaller."""
    tree = {"": copy.deepcopy(tree)}
    for _ in range(chance.choice((1, 1, 2, 4))):
        places = list(_places(tree))
        holder, key = chance.choice(places)
        elsewhere, other = chance.choice(places)
        value, copied = holder[key], copy.deepcopy(elsewhere[other])
        match chance.randrange(6):
            case 0:
                holder[key] = copy.deepcopy(chance.choice(ODD))
            case 1 if holder is not tree:
                del holder[key]
            case 2:
                holder[key] = copied
            case 3 if isinstance(holder, list):
                holder.insert(key, copied)
            case 3:
                holder[other if isinstance(other, str) else f"{key}."] = copied
            case 4 if isinstance(value, int | float) or (isinstance(value, str) and value.lstrip("-").isdigit()):
                more = float(value) if isinstance(value, float) else int(value)
                more = chance.choice((more + 1, more - 1, -more, more * 2, more * 1000))
                holder[key] = str(more) if isinstance(value, str) else more
            case _ if isinstance(value, str | list):
                at = chance.randrange(len(value) + 1)
                holder[key] = chance.choice((value[:at], value[at:], value + value[at:]))
    return tree[""]


def changed_bytes(data: bytes, chance: random.Random) -> bytes:
    """Content with some bytes changed, cut, repeated or put in."""
    content = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at, length = chance.randrange(len(content) + 1), chance.choice((1, 1, 2, 4, 8, 64))
        piece = chance.choice(
            (b"", chance.randbytes(length), bytes(content[at : at + length]) * 2, b"\xff" * length, b"[" * 5000)
        )
        content[at : at + chance.choice((0, length))] = piece
    return bytes(content)


def changed(data: bytes, loader: Loader, chance: random.Random) -> bytes | None:
    """A file that says something else; None where what it says cannot be told, or not be written."""
    try:
        return loader.written(changed_tree(loader.told(data), chance))
    except Exception:  # whatever a parser of others raises: such a file is changed as bytes
        return None


def main() -> None:
    """Fuzz one loader."""
    name, *rest = sys.argv[1:] or ["--help"]
    makers = {"safetensors": _safetensors, "model": _model, "result": _result, "onnx": _onnx}
    if name not in makers:
        sys.exit(__doc__)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        seeds = pool.submit(good_files, name).result()
    guided = importlib.util.find_spec("atheris") is not None
    if guided:
        import atheris

        with atheris.instrument_imports(include=["fastlstm", "lstm_bench"]):
            loader = makers[name]()
    else:
        loader = makers[name]()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    file, found = folder / "input", {"read": 0, "refused": 0}

    def one(data: bytes) -> None:
        file.write_bytes(data)
        try:
            loader.load(file)
            found["read"] += 1
        except loader.documented:
            found["refused"] += 1

    def mutated(data: bytes, largest: int, seed: int) -> bytes:
        chance = random.Random(seed)
        told = changed(data, loader, chance) if chance.random() < 0.5 else None
        return told if told is not None and len(told) <= largest else atheris.Mutate(data, largest)

    for seed in seeds:
        one(seed)
    if guided:
        corpus = folder / "corpus"
        corpus.mkdir()
        for k, seed in enumerate(seeds):
            (corpus / f"{k}").write_bytes(seed)
        atheris.Setup(
            [sys.argv[0], "-max_len=65536", "-len_control=0", *rest, str(corpus)], one, custom_mutator=mutated
        )
        atheris.Fuzz()
        return
    limit = next((float(word.split("=")[1]) for word in rest if word.startswith("-max_total_time=")), 600.0)
    end, number = time.process_time() + limit, 0
    while time.process_time() < end:
        number += 1
        chance = random.Random(number)
        seed = chance.choice(seeds)
        told = changed(seed, loader, chance) if chance.random() < 0.5 else None
        try:
            one(changed_bytes(seed, chance) if told is None else told)
        except Exception:
            print(f"seed {number}, input in {file}")
            raise
    print(f"{number} inputs: {found['read']} read, {found['refused']} refused")


if __name__ == "__main__":
    main()
