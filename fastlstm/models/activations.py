"""Activations of dense layers: each a function of the pre-activation z, and its gradient from dy and y."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Activation(NamedTuple):
    """`value(z)` gives y; `gradient(dy, y)` gives dz."""

    value: Callable[[np.ndarray], np.ndarray]
    gradient: Callable[[np.ndarray, np.ndarray], np.ndarray]


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)), through tanh, which never overflows."""
    half = z.dtype.type(0.5)
    return half * np.tanh(half * z) + half


def softmax(z: np.ndarray) -> np.ndarray:
    """exp(z) / sum(exp(z)) over the last axis."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


ACTIVATIONS = {
    "linear": Activation(lambda z: z, lambda dy, y: dy),
    "relu": Activation(lambda z: np.maximum(z, 0), lambda dy, y: dy * (y > 0)),
    "tanh": Activation(np.tanh, lambda dy, y: dy * (1 - y * y)),
    "sigmoid": Activation(sigmoid, lambda dy, y: dy * y * (1 - y)),
    "softmax": Activation(softmax, lambda dy, y: y * (dy - (dy * y).sum(axis=-1, keepdims=True))),
}


def named(activation: object) -> str:
    """The name of an activation, None being linear."""
    name = "linear" if activation is None else activation
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise ValueError(
            f"activation must be one of {', '.join(map(repr, ACTIVATIONS))}, or None, but was {activation!r}"
        )
    return name
