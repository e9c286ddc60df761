"""What a user gives made into arrays, or an error that names the argument, before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastlstm import checks
from fastlstm.models.base import turned
from fastlstm.models.feedforward import Embedding
from fastlstm.models.losses import Loss
from fastlstm.models.network import Network


class Samples(NamedTuple):
    """Checked samples: x, and for training and evaluation y and weights."""

    x: np.ndarray
    y: np.ndarray
    weights: np.ndarray | None  # (N,)

    def batch(self, rows: Any) -> Samples:
        """Some of them."""
        return Samples(self.x[rows], self.y[rows], None if self.weights is None else self.weights[rows])


def inner(x: np.ndarray) -> np.ndarray:
    """A batch of x as the layers take it."""
    return turned(x)


def array(name: str, value: Any) -> np.ndarray:
    """Numbers with at least one axis, as many as there are samples."""
    try:
        result = np.asarray(value)
    except ValueError as error:
        raise ValueError(
            f"{name} must be an array, but its rows have unequal lengths (pad_sequences makes them equal): {error}"
        ) from None
    if result.dtype.kind not in "iufb":
        raise TypeError(f"{name} must be numbers, but is of the dtype {result.dtype} ({type(value).__name__})")
    if result.ndim == 0:
        raise ValueError(f"{name} must have an axis of samples, but is a single number")
    if result.shape[0] == 0:
        raise ValueError(f"{name} must have at least one sample, but its shape is {result.shape}")
    return result


def inputs(model: Network, x: Any, name: str = "x") -> np.ndarray:
    """x, checked against the first layer; builds the model if nothing has."""
    x = array(name, x)
    if not model.built:
        if model.layers and model.layers[0].input_shape is None and x.ndim < 2:
            raise ValueError(f"{name} must have the shape (samples, ...), but has {x.shape}")
        model.build(x.shape[1:])
    wanted = model.input_shape
    assert wanted is not None
    if len(wanted) != x.ndim - 1 or any(n is not None and n != m for n, m in zip(wanted, x.shape[1:], strict=True)):
        shown = ", ".join(["samples", *("any" if n is None else str(n) for n in wanted)])
        raise ValueError(
            f"{name} must have the shape ({shown}), as the first layer "
            f"({model.layers[0].name}) takes it, but has {x.shape}"
        )
    if 0 in x.shape:
        raise ValueError(f"{name} must have at least one step and feature, but its shape is {x.shape}")
    table = model.embedded
    if table is None:
        x = x.astype(model.dtype, copy=False)
        if not np.isfinite(x).all():
            raise ValueError(
                f"{name} must be finite, but {int(np.count_nonzero(~np.isfinite(x)))} "
                "of its elements are NaN or infinite"
            )
        return x
    return tokens(table, x, name)


def tokens(table: Embedding, x: np.ndarray, name: str) -> np.ndarray:
    """Token ids that a table has."""
    if x.dtype.kind == "f" and not (np.isfinite(x).all() and (np.floor(x) == x).all()):
        raise ValueError(f"{name} must be whole token ids for layer {table.name}, but has other numbers")
    if x.min() < 0 or x.max() >= table.input_dim:
        raise ValueError(
            f"{name} must be token ids in 0..{table.input_dim - 1} (input_dim of layer "
            f"{table.name}), but goes from {x.min()} to {x.max()}"
        )
    return x.astype(np.int64, copy=False)


def samples(
    model: Network, loss: Loss, x: Any, y: Any, weights: Any = None, classes: Any = None, prefix: str = ""
) -> Samples:
    """x, y and weights, checked against the model and the loss."""
    if y is None:
        raise ValueError(f"{prefix}y must be given")
    x = inputs(model, x, f"{prefix}x")
    y = array(f"{prefix}y", y)
    if len(y) != len(x):
        raise ValueError(f"{prefix}y must have as many samples as {prefix}x, which has {len(x)}, but has {len(y)}")
    out_shape = model.shapes[-1]
    if len(out_shape) == 2 and out_shape[0] is None:
        out_shape = (x.shape[1], out_shape[1])
    y = loss.target(y, (None, *out_shape), model.dtype)
    given = None
    if weights is not None:
        given = array("sample_weight", weights).astype(model.dtype)
        if given.shape != x.shape[:1]:
            raise ValueError(f"sample_weight must have the shape ({len(x)},), but has {given.shape}")
        if not np.isfinite(given).all():
            raise ValueError("sample_weight must be finite, but has NaN or infinite elements")
    if classes is not None:
        by_class = _class_weights(y, out_shape, classes).astype(model.dtype)
        given = by_class if given is None else given * by_class
    return Samples(x, y, given)


def _class_weights(y: np.ndarray, out_shape: tuple[int | None, ...], classes: Any) -> np.ndarray:
    """The weight of each sample by its class; classes that are not named weigh 1."""
    if not isinstance(classes, Mapping):
        raise TypeError(
            f"class_weight must be a mapping from class numbers to weights, but was {type(classes).__name__}"
        )
    if len(out_shape) != 1:
        raise ValueError(f"class_weight must be None where the model has an output for each step, but was {classes!r}")
    if y.ndim == 1:
        number = y
    else:
        number = y.argmax(axis=-1) if y.shape[-1] > 1 else (y[:, 0] > 0.5).astype(np.int64)
    table = np.ones(max(int(number.max()), *(checks.size("class_weight", k, least=0) for k in classes)) + 1)
    for k, weight in classes.items():
        table[k] = checks.number(f"class_weight of class {k}", weight)
    return table[number]
