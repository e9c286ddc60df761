"""Samples as scikit-learn's callers give them, made into sequences: tables, arrays of three axes, lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array


class Sequences(NamedTuple):
    """Checked samples: their steps one after another (sum of lengths, I), and how many each has (N,)."""

    steps: np.ndarray
    lengths: np.ndarray

    def chosen(self, rows: np.ndarray) -> Sequences:
        """Those of the samples that are True in `rows` (N,)."""
        return Sequences(self.steps[np.repeat(rows, self.lengths)], self.lengths[rows])


class Scale(NamedTuple):
    """Mean and deviation of each column in training."""

    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, columns: np.ndarray, weights: np.ndarray) -> Scale:
        mean = np.average(columns, axis=0, weights=weights)
        deviation = np.sqrt(np.average(np.square(columns - mean), axis=0, weights=weights))
        return cls(mean, np.where(deviation > 10 * np.finfo(np.float64).eps * np.abs(mean), deviation, 1.0))


def axes(array: Any) -> int:
    """Axes of an array, or of what can be made one."""
    return np.ndim(array) if isinstance(array, np.ndarray) else np.asarray(array).ndim


def is_list_of_sequences(X: Any) -> bool:
    """Whether X lists sequences, of (T, I) each or of unequal lengths, rather than being a table."""
    if not isinstance(X, list | tuple) or not all(hasattr(row, "__len__") and not isinstance(row, str) for row in X):
        return False
    if len({len(row) for row in X}) > 1:
        return True
    return any(getattr(row, "ndim", 1) == 2 or (isinstance(row, list | tuple) and _nested(row)) for row in X)


def _nested(row: Sequence[Any]) -> bool:
    return any(hasattr(element, "__len__") and not isinstance(element, str) for element in row)


def listed(X: Sequence[Any], estimator: BaseEstimator) -> Sequences:
    """A list of sequences, (T, I) or (T,) each."""
    arrays: list[np.ndarray] = []
    for k, given in enumerate(X):
        try:
            array = np.asarray(given)
        except ValueError as error:
            raise ValueError(f"X[{k}] must be a sequence (T, I) or (T,), but is no array: {error}") from None
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or array.shape[1:] != (arrays[0] if arrays else array).shape[1:] or 0 in array.shape:
            wanted = f" with I = {arrays[0].shape[1]}, as X[0]," if arrays else ""
            raise ValueError(
                f"X[{k}] must be a sequence (T, I) or (T,){wanted} of at least one step, but has {np.shape(given)}"
            )
        arrays.append(array)
    steps = check_array(np.concatenate(arrays), dtype="numeric", estimator=estimator, input_name="X")
    return Sequences(steps, np.array([len(array) for array in arrays]))


def stacked(X: Any, estimator: BaseEstimator) -> Sequences:
    """Sequences of one length, (N, T) or (N, T, I)."""
    X = check_array(X, allow_nd=True, dtype="numeric", estimator=estimator, input_name="X")
    X = X[:, :, None] if X.ndim == 2 else X
    if X.ndim != 3 or 0 in X.shape:
        raise ValueError(f"X must be (N, T) or (N, T, I) with a step and a feature at least, but is {X.shape}")
    return Sequences(X.reshape(-1, X.shape[2]), np.full(len(X), X.shape[1]))


def sample_weights(sample_weight: Any, count: int) -> np.ndarray:
    """A weight for each sample, (N,)."""
    if sample_weight is None:
        return np.ones(count)
    if axes(sample_weight) == 0:
        return np.full(count, float(sample_weight))
    weights = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, ensure_non_negative=True, input_name="sample_weight"
    )
    if weights.shape != (count,):
        raise ValueError(f"sample_weight must have the shape ({count},), but has {weights.shape}")
    if not weights.any():
        raise ValueError("sample_weight must have an element over zero, but all are zero")
    return weights


def padding(dtype: np.dtype) -> float:
    """What marks a step behind a sample's end: no finite number, once standardised, comes to be the largest of all."""
    return float(np.finfo(dtype).max)
