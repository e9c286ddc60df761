"""Metrics: a value for every sample (and step), whose mean is shown."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastlstm.models.losses import BinaryCrossentropy, CategoricalCrossentropy, Loss, SparseCategoricalCrossentropy


def _binary(y: np.ndarray, out: np.ndarray, threshold: float) -> np.ndarray:
    return ((out > threshold) == (y > 0.5)).mean(axis=-1)


def _categorical(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    return y.argmax(axis=-1) == out.argmax(axis=-1)


def _sparse(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    return y.reshape(out.shape[:-1]) == out.argmax(axis=-1)


def _squared(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.square(out - y).mean(axis=-1)


def _absolute(y: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.abs(out - y).mean(axis=-1)


class Metric:
    """A mean over samples.

    Parameters
    ----------
    name
        The key in `History.history`.
    """

    def __init__(self, name: str, values: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
        self.name, self.values = name, values

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the metric anew."""
        return {"name": self.name}


class BinaryAccuracy(Metric):
    """Outputs on the side of the threshold on which the target is.

    Parameters
    ----------
    threshold
        0.5 for probabilities; 0 for logits.
    """

    def __init__(self, name: str = "binary_accuracy", threshold: float = 0.5) -> None:
        super().__init__(name, partial(_binary, threshold=float(threshold)))
        self.threshold = float(threshold)

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name, "threshold": self.threshold}


class CategoricalAccuracy(Metric):
    """The greatest output is the class of a one-hot target."""

    def __init__(self, name: str = "categorical_accuracy") -> None:
        super().__init__(name, _categorical)


class SparseCategoricalAccuracy(Metric):
    """The greatest output is the class whose number is the target."""

    def __init__(self, name: str = "sparse_categorical_accuracy") -> None:
        super().__init__(name, _sparse)


class MeanAbsoluteError(Metric):
    """mean(|out - y|)."""

    def __init__(self, name: str = "mean_absolute_error") -> None:
        super().__init__(name, _absolute)


class MeanSquaredError(Metric):
    """mean((out - y)^2)."""

    def __init__(self, name: str = "mean_squared_error") -> None:
        super().__init__(name, _squared)


METRICS: dict[str, Callable[..., Metric]] = {
    "binary_accuracy": BinaryAccuracy,
    "categorical_accuracy": CategoricalAccuracy,
    "sparse_categorical_accuracy": SparseCategoricalAccuracy,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
}


def get(metric: object, loss: Loss) -> Metric:
    """A metric from its name, or the metric itself; "accuracy" is that of the loss's kind, or of no kind an
    elementwise one, as in Keras.
    """
    if isinstance(metric, Metric):
        return metric
    if metric in ("accuracy", "acc"):
        kind: Callable[..., Metric] = BinaryAccuracy
        if isinstance(loss, CategoricalCrossentropy):
            kind = CategoricalAccuracy
        elif isinstance(loss, SparseCategoricalCrossentropy):
            kind = SparseCategoricalAccuracy
        elif not isinstance(loss, BinaryCrossentropy):
            raise ValueError(f"metrics: {metric!r} has no meaning for the loss {loss.name!r}; name one such as 'mae'")
        return kind(name=str(metric))
    if isinstance(metric, str) and metric in METRICS:
        return METRICS[metric](name=metric)
    raise ValueError(
        f"metrics must be Metric objects, 'accuracy', or of {', '.join(map(repr, METRICS))}, but had {metric!r}"
    )
