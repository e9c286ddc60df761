"""Keeping gradients within bounds, in place, as `torch.nn.utils` does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from fastlstm import checks

MARGIN = 1e-6  # what PyTorch adds to the norm that it divides by


def clip_grad_norm(
    grads: Mapping[str, np.ndarray] | Iterable[np.ndarray],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> float:
    """Scale gradients, in place, so that their norm, as if they were one vector, is at most `max_norm`.

    Each is multiplied by max_norm / (norm + 1e-6) where that is less than 1 (Pascanu, Mikolov and Bengio 2013; the form
    of `torch.nn.utils.clip_grad_norm_`).

    Parameters
    ----------
    grads
        What `backward` returns, or any writable arrays of float32 or float64.
    max_norm
        The greatest norm, at least 0.
    norm_type
        2 for the Euclidean norm, `math.inf` for the greatest magnitude.
    error_if_nonfinite
        Whether a norm that is infinite or NaN is an error. If not, infinite gradients become NaN and the others 0 where
        the norm is infinite, and all become NaN where it is NaN.

    Returns
    -------
    float
        The norm as it was.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type or out of range, or a norm that must be finite and is not: nothing is changed.
    """
    arrays = _writable(grads)
    bound, kind = _bound("max_norm", max_norm), _bound("norm_type", norm_type)
    if kind not in (2.0, math.inf):
        raise ValueError(f"norm_type must be 2 or math.inf, but was {norm_type!r}")
    checks.flag("error_if_nonfinite", error_if_nonfinite)
    norm = _norm(arrays, kind)
    if error_if_nonfinite and not math.isfinite(norm):
        raise ValueError(f"grads must have a finite norm, but it was {norm}; error_if_nonfinite=False lets it pass")
    scale = bound / (norm + MARGIN)
    if not scale >= 1:  # as a NaN is
        with np.errstate(invalid="ignore"):  # infinity times 0, as is said above
            for array in arrays:
                np.multiply(array, array.dtype.type(scale), out=array)
    return norm


def clip_grad_value(grads: Mapping[str, np.ndarray] | Iterable[np.ndarray], clip_value: float) -> None:
    """Bring every element of gradients, in place, between -clip_value and clip_value; a NaN stays.

    Parameters
    ----------
    grads
        What `backward` returns, or any writable arrays of float32 or float64.
    clip_value
        The greatest magnitude, at least 0.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type or out of range: nothing is changed.
    """
    arrays, bound = _writable(grads), _bound("clip_value", clip_value)
    for array in arrays:
        np.clip(array, -bound, bound, out=array)


def _norm(arrays: list[np.ndarray], kind: float) -> float:
    """The norm of all elements; in float64 the squares of float32 neither overflow nor vanish."""
    if kind == math.inf:
        return float(np.max([abs(array).max(initial=0.0) for array in arrays], initial=0.0))
    return math.sqrt(sum(square_sum(array) for array in arrays))


def square_sum(array: np.ndarray) -> float:
    """The sum of squares, in float64, on this thread and in one order."""
    flat = array.reshape(-1)
    return float(np.einsum("i,i->", flat, flat, dtype=np.float64))


def _bound(name: str, value: Any) -> float:
    """A number of at least 0, infinity included."""
    checks.real(name, value)
    if not value >= 0:
        raise ValueError(f"{name} must be at least 0, but was {value!r}")
    try:
        return float(value)
    except OverflowError:  # an integer beyond all floats
        return math.inf


def _writable(grads: Any) -> list[np.ndarray]:
    """The arrays of `grads`, all of which can be written."""
    named: Iterable[tuple[Any, Any]]
    if isinstance(grads, Mapping):
        named = [(f"grads[{name!r}]", array) for name, array in grads.items()]
    elif isinstance(grads, Iterable) and not isinstance(grads, np.ndarray | str | bytes):
        named = [(f"grads[{k}]", array) for k, array in enumerate(grads)]
    else:
        raise TypeError(f"grads must be a mapping, or some arrays, but was {type(grads).__name__}")
    found = []
    for name, array in named:
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be a numpy.ndarray, but was {type(array).__name__}")
        if array.dtype not in checks.DTYPES:
            raise TypeError(f"{name} must be of float32 or float64, but is of {array.dtype}")
        if not array.flags.writeable:
            raise ValueError(f"{name} must be writable, since it is clipped in place, but is read-only")
        found.append(array)
    return found
