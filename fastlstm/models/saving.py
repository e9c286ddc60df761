"""Models as files: safetensors whose metadata hold a description of the layers in JSON, one file, so that no half of
a pair can be missing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlstm.models import losses, metrics, optimizers, tensors
from fastlstm.models.base import Layer
from fastlstm.models.bidirectional import Bidirectional
from fastlstm.models.feedforward import Activation, Dense, Dropout, Embedding, Input, Masking
from fastlstm.models.recurrent import LSTM

if TYPE_CHECKING:
    from fastlstm.models.callbacks import Callback
    from fastlstm.models.sequential import Sequential

KEY = "fastlstm.model"
VERSION = 1
LAYERS: dict[str, type[Layer]] = {
    c.__name__: c for c in (Input, Embedding, Masking, LSTM, Bidirectional, Dense, Activation, Dropout)
}
METRICS = {
    c.__name__: c
    for c in (
        metrics.BinaryAccuracy,
        metrics.CategoricalAccuracy,
        metrics.SparseCategoricalAccuracy,
        metrics.MeanAbsoluteError,
        metrics.MeanSquaredError,
    )
}

Path_ = str | os.PathLike[str]


def _weights(model: Sequential) -> dict[str, np.ndarray]:
    return {f"{layer.name}/{name}": p for layer in model.layers for name, p in layer.params.items()}


def describe(model: Sequential) -> dict[str, Any]:
    """A model in plain values: what makes it anew, beside its arrays."""
    model.build()
    found: dict[str, Any] = {
        "version": VERSION,
        "name": model.name,
        "dtype": model.dtype.name,
        "seed": model.seed,
        "input_shape": model.input_shape,
        "layers": [{"class": type(layer).__name__, "config": layer.get_config()} for layer in model.layers],
        "compiled": None,
    }
    if model.optimizer is not None and model.loss is not None:
        found["compiled"] = {
            "optimizer": {
                "class": type(model.optimizer).__name__,
                "config": model.optimizer.get_config(),
                "iterations": model.optimizer.iterations,
            },
            "loss": {"class": model.loss.name, "config": model.loss.get_config()},
            "metrics": [{"class": type(m).__name__, "config": m.get_config()} for m in model.metrics],
            "epochs_seen": model.epochs_seen,
        }
    return found


def _arrays(model: Sequential) -> dict[str, np.ndarray]:
    """Everything of a model that is an array."""
    found = {f"weights/{name}": p for name, p in _weights(model).items()}
    if model.optimizer is not None:
        found |= {f"optimizer/{name}": a for name, a in model.optimizer.kept.items()}
    return found


def save_model(model: Sequential, path: Path_) -> None:
    """Write a model to a file, atomically."""
    description = describe(model)
    tensors.write(path, _arrays(model), {KEY: json.dumps(description)})


def save_weights(model: Sequential, path: Path_) -> None:
    """Write the variables alone, by layer and name."""
    model.build()
    tensors.write(path, {f"weights/{name}": p for name, p in _weights(model).items()}, {})


def load_weights(model: Sequential, path: Path_) -> None:
    """Read variables into a model of the same layers."""
    arrays, _ = tensors.read(path)
    model.build()
    _copy(model, arrays, path)


def _copy(model: Sequential, arrays: dict[str, np.ndarray], path: Path_) -> None:
    wanted = {name: p.shape for name, p in _weights(model).items()}
    _compare(wanted, arrays, path)
    for name, p in _weights(model).items():
        p[...] = arrays[f"weights/{name}"]


def _compare(wanted: dict[str, tuple[int, ...]], arrays: dict[str, np.ndarray], path: Path_) -> None:
    """Whether the weights in a file are those of a model; one error names all that are not."""
    given = {name.removeprefix("weights/"): a for name, a in arrays.items() if name.startswith("weights/")}
    faults = [f"missing {name} {shape}" for name, shape in wanted.items() if name not in given]
    faults += [f"unexpected {name}" for name in given if name not in wanted]
    faults += [
        f"{name} has the shape {given[name].shape}, not {shape}"
        for name, shape in wanted.items()
        if name in given and given[name].shape != shape
    ]
    faults += [f"{name} is of {a.dtype}, not floating" for name, a in given.items() if a.dtype.kind != "f"]
    if faults:
        raise ValueError(f"{os.fspath(path)} does not fit the model: {'; '.join(faults)}")


def _read(path: Path_) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays, metadata = tensors.read(path)
    if KEY not in metadata:
        raise ValueError(
            f"{os.fspath(path)} holds arrays, but no model of fastlstm (its metadata "
            f"have no {KEY!r}); load_weights reads weights alone"
        )
    try:
        description = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{os.fspath(path)}: the description of the model cannot be read ({error})") from None
    if not isinstance(description, dict) or description.get("version") != VERSION:
        raise ValueError(f"{os.fspath(path)}: the description of the model must be of version {VERSION}")
    return arrays, description


def _layer(description: dict[str, Any], depth: int = 0) -> Layer:
    """A layer from its class's name and its arguments; only those arguments that the layer itself writes are taken."""
    kind, config = description["class"], dict(description["config"])
    if kind not in LAYERS:
        raise ValueError(f"the layer {kind!r} is none of {', '.join(LAYERS)}")
    allowed = {*LAYERS[kind].fields, "name", "trainable"} | (
        {"layer", "backward_layer"} if kind == "Bidirectional" else set()
    )
    if unknown := set(config) - allowed:
        raise ValueError(f"{kind} has no argument {', '.join(sorted(unknown))}")
    if kind == "Bidirectional":
        for side in ("layer", "backward_layer"):
            config[side] = _layer({"class": "LSTM", "config": config[side]})
    return LAYERS[kind](**config)


def load_model(filepath: Path_, compile: bool = True) -> Sequential:
    """Read a model that `Sequential.save` wrote.

    Parameters
    ----------
    filepath
        The file.
    compile
        Whether to take optimizer, loss and metrics too, so that training can go on.

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is no such file, or not whole; nothing in it is executed.
    """
    from fastlstm.models.sequential import Sequential

    arrays, description = _read(filepath)
    try:
        model = Sequential(
            [_layer(d) for d in description["layers"]],
            description["name"],
            description["dtype"],
            int(description["seed"]),
        )
        declared = model.declare(description["input_shape"])
        wanted = {
            f"{layer.name}/{v.name}": v.shape for layer, of in zip(model.layers, declared, strict=True) for v in of
        }
        _compare(
            wanted, arrays, filepath
        )  # before anything is allocated: a file cannot ask for more memory than it has bytes
        model.build(description["input_shape"])
        _copy(model, arrays, filepath)
        if compile and description["compiled"] is not None:
            _compile(model, description["compiled"])
            _copy_kept(model, arrays, filepath)
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{os.fspath(filepath)} describes no model that can be made: {error}") from error
    return model


def _compile(model: Sequential, compiled: dict[str, Any]) -> None:
    optimizer = optimizers.from_config(compiled["optimizer"]["class"], compiled["optimizer"]["config"])
    loss = losses.LOSSES[compiled["loss"]["class"]](**compiled["loss"]["config"])
    model.compile(optimizer, loss, [METRICS[m["class"]](**m["config"]) for m in compiled["metrics"]])
    optimizer.iterations, model.epochs_seen = int(compiled["optimizer"]["iterations"]), int(compiled["epochs_seen"])


def _copy_kept(model: Sequential, arrays: dict[str, np.ndarray], path: Path_) -> None:
    optimizer = model.optimizer
    assert optimizer is not None
    optimizer.build(model.theta.size, model.dtype)
    for name, kept in optimizer.kept.items():
        given = arrays.get(f"optimizer/{name}")
        if given is None and optimizer.iterations == 0:
            continue
        if given is None or given.shape != kept.shape or given.dtype != kept.dtype:
            raise ValueError(f"{os.fspath(path)}: the optimizer's {name} must be {kept.size} elements of {kept.dtype}")
        kept[...] = given


# --- interrupted training ---------------------------------------------------------------------------------------------


def backup(model: Sequential, path: Path, epoch: int, callbacks: Sequence[Callback]) -> None:
    """Write the whole state of a training that goes on with `epoch`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays, states = _arrays(model), []
    for k, callback in enumerate(callbacks):
        values, kept = callback.state()
        states.append({"class": type(callback).__name__, "values": values, "arrays": len(kept)})
        arrays |= {f"callback/{k}/{n}": a for n, a in enumerate(kept)}
    for k, layer in enumerate(model.layers):
        arrays |= {f"state/{k}/{name}": a for name, a in layer.states().items()}
    description = describe(model)
    description["training"] = {"epoch": epoch, "stop": model.stop_training, "callbacks": states}
    tensors.write(path, arrays, {KEY: json.dumps(description)})


def restore(model: Sequential, path: Path, callbacks: Sequence[Callback]) -> int:
    """Take a training's state back; the epoch with which it goes on."""
    arrays, description = _read(path)
    now = describe(model)
    for part in ("layers", "input_shape", "dtype"):
        if json.loads(json.dumps(now[part])) != description.get(part):
            raise ValueError(
                f"{path} backs up another model: its {part} differ; remove it to train this model from the start"
            )
    try:
        training, compiled = description["training"], description["compiled"]
        if [s["class"] for s in training["callbacks"]] != [type(c).__name__ for c in callbacks]:
            raise ValueError(f"its callbacks were {[s['class'] for s in training['callbacks']]}")
        optimizer = model.optimizer
        assert optimizer is not None
        if compiled["optimizer"]["class"] != type(optimizer).__name__:
            raise ValueError(f"its optimizer was {compiled['optimizer']['class']}")
        _copy(model, arrays, path)
        rate = compiled["optimizer"]["config"]["learning_rate"]
        if not isinstance(rate, dict):
            optimizer.learning_rate = float(rate)
        optimizer.iterations = int(compiled["optimizer"]["iterations"])
        _copy_kept(model, arrays, path)
        for k, (callback, state) in enumerate(zip(callbacks, training["callbacks"], strict=True)):
            callback.load_state(state["values"], [arrays[f"callback/{k}/{n}"] for n in range(state["arrays"])])
        for k, layer in enumerate(model.layers):
            start = f"state/{k}/"
            layer.load_states({name.removeprefix(start): a for name, a in arrays.items() if name.startswith(start)})
        model.seed, model.epochs_seen, model.stop_training = (
            int(description["seed"]),
            int(compiled["epochs_seen"]),
            bool(training["stop"]),
        )
        return int(training["epoch"])
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path} backs up no training that this one could go on with: {error}; remove it to train from the start"
        ) from error
