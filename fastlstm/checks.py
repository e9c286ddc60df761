"""Arguments made into what the passes take, or an error that names the argument, what it was and what it should be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))


def floating(value: Any) -> np.dtype:
    """The dtype of a layer."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype must be numpy.float32 or numpy.float64, but was {value!r}") from None
    if dtype not in DTYPES:
        raise TypeError(f"dtype must be float32 or float64, but was {dtype}")
    return dtype


def array(name: str, value: Any, dtype: np.dtype) -> np.ndarray:
    """`value` as an array of a layer's dtype: an array must have it, in either byte order; lists are converted."""
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        result = np.asarray(value)
        if result.dtype.newbyteorder("=") != dtype:
            raise TypeError(
                f"{name} must have the layer's dtype {dtype}, but has {result.dtype}: "
                f"convert it with astype(numpy.{dtype})"
            )
        return result if result.dtype.isnative else result.astype(dtype)
    try:
        return np.asarray(value, dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be an array of {dtype}, but {type(value).__name__} is none: {error}") from None


def shaped(name: str, value: Any, dtype: np.dtype, shape: tuple[int, ...], meaning: str) -> np.ndarray:
    """`value` as a contiguous, aligned array of a given shape."""
    result = array(name, value, dtype)
    if result.shape != shape:
        raise ValueError(f"{name} must have the shape {meaning} = {shape}, but has {result.shape}")
    return np.require(result, requirements=["C", "A"])


def pair(name: str, value: Any) -> tuple[Any, Any]:
    """A state: a pair (h, c)."""
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise TypeError(f"{name} must be a pair (h, c) or None, but was {type(value).__name__}")
    return value[0], value[1]


def real(name: str, value: Any) -> None:
    """Refuse what is no number, as True is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{name} must be a number, but was {value!r}")


def number(name: str, value: Any) -> float:
    """A finite number."""
    real(name, value)
    try:
        found = float(value)
    except OverflowError:  # an integer beyond all floats
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{name} must be finite, but was {value!r}")
    return found


def rate(name: str, value: Any) -> float:
    """A probability."""
    real(name, value)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be a probability between 0 and 1, but was {value!r}")
    return float(value)


def choice(name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of some words."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, but was {value!r}")
    return value


def flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, but was {value!r}")
    return bool(value)


def size(name: str, value: Any, least: int = 1) -> int:
    """A count."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an integer, but was {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but was {value}")
    return int(value)


def lengths(name: str, value: Any, T: int, B: int) -> np.ndarray:
    """The steps of each row, (B,), as int64."""
    given = np.asarray(value)
    if given.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, but is of {given.dtype}")
    if given.shape != (B,):
        raise ValueError(f"{name} must have the shape (B,) = ({B},), but has {given.shape}")
    if B and not 0 <= given.min() <= given.max() <= T:
        raise ValueError(f"{name} must lie between 0 and T = {T}, but reach from {given.min()} to {given.max()}")
    return given.astype(np.int64)


def state_dict(given: Any, expected: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a mapping that has exactly the expected names and shapes; all that is wrong is told at once."""
    if not isinstance(given, Mapping):
        raise TypeError(f"state_dict must be a mapping from names to arrays, but was {type(given).__name__}")
    faults = [f"missing {name} {array.shape}" for name, array in expected.items() if name not in given]
    faults += [f"unexpected {name}" for name in given if name not in expected]
    arrays = {}
    for name, target in expected.items():
        if name not in given:
            continue
        value = np.asarray(given[name])
        if value.shape != target.shape:
            faults.append(f"{name} must have the shape {target.shape}, but has {value.shape}")
        elif value.dtype.kind != "f":
            faults.append(f"{name} must be of a floating dtype, but is of {value.dtype}")
        arrays[name] = value
    if faults:
        raise ValueError("state_dict does not fit this layer: " + "; ".join(faults))
    return arrays
