"""Initial values of variables, by Keras's names and formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Shape = tuple[int, ...]


def _fans(shape: Shape) -> tuple[int, int]:
    return (shape[0], shape[-1]) if len(shape) > 1 else (max(shape, default=1),) * 2


def glorot_uniform(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Uniform within sqrt(6 / (fan_in + fan_out)) of 0 (Glorot and Bengio 2010)."""
    limit = (6 / sum(_fans(shape))) ** 0.5
    return rng.uniform(-limit, limit, shape)


def orthogonal(shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """Rows or columns, whichever are fewer, orthonormal (Saxe et al. 2014)."""
    rows, columns = shape
    q, r = np.linalg.qr(rng.standard_normal((max(shape), min(shape))))
    q *= np.sign(np.diag(r))
    return q if rows >= columns else q.T


INITIALIZERS: dict[str, Callable[[Shape, np.random.Generator], np.ndarray]] = {
    "glorot_uniform": glorot_uniform,
    "he_uniform": lambda shape, rng: rng.uniform(-1, 1, shape) * (6 / _fans(shape)[0]) ** 0.5,
    "orthogonal": orthogonal,
    "uniform": lambda shape, rng: rng.uniform(-0.05, 0.05, shape),
    "random_uniform": lambda shape, rng: rng.uniform(-0.05, 0.05, shape),
    "random_normal": lambda shape, rng: rng.standard_normal(shape) * 0.05,
    "zeros": lambda shape, rng: np.zeros(shape),
    "ones": lambda shape, rng: np.ones(shape),
}


def named(argument: str, name: object) -> str:
    """The name of an initializer."""
    if not isinstance(name, str) or name not in INITIALIZERS:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, INITIALIZERS))}, but was {name!r}")
    return name
