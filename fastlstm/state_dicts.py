"""Weights in their common form, arrays by PyTorch's names: taken from whoever has them, and taken apart by layer and
direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def suffixes(layer: int) -> tuple[str, str]:
    """What the names of a layer's two directions end with."""
    if isinstance(layer, bool) or not isinstance(layer, int | np.integer) or layer < 0:
        raise ValueError(f"layer must be an integer from 0 on, but was {layer!r}")
    return f"_l{layer}", f"_l{layer}_reverse"


def mapping_of(source: Any) -> Mapping[str, Any]:
    """The mapping that `source` is or has."""
    found = source.state_dict() if hasattr(source, "state_dict") else source
    if not isinstance(found, Mapping):
        raise TypeError(f"source must be a layer or a mapping from names to arrays, but was {type(source).__name__}")
    return found


def arrays_of(source: Any) -> dict[str, np.ndarray]:
    """The arrays by name of a layer or mapping."""
    found = {name: from_tensor(value) for name, value in mapping_of(source).items()}
    for name, array in found.items():
        if array.dtype.kind != "f":
            raise TypeError(f"{name} must be a floating array, but is of {array.dtype}")
    return found


def from_tensor(value: Any) -> np.ndarray:
    """A copy of an array, or of a tensor wherever it lies and whether or not it has a gradient."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.element_size() < 4 else value).numpy()
    return np.array(value)


def stripped(found: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """What begins with `prefix`, without it."""
    inside = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    if not inside:
        raise ValueError(f"prefix must begin some of the names, but was {prefix!r}, and they are {', '.join(found)}")
    return inside


def reordered(array: np.ndarray, order: tuple[int, ...]) -> np.ndarray:
    """The parts of the first axis in another order."""
    parts = np.split(array, len(order))
    return np.concatenate([parts[k] for k in order])


def named(suffix: str, *arrays: np.ndarray) -> dict[str, np.ndarray]:
    """Copies under PyTorch's names."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {name + suffix: np.array(array, order="C") for name, array in zip(names, arrays, strict=False)}


def check_shapes(w_ih: np.ndarray, w_hh: np.ndarray, *biases: np.ndarray) -> None:
    """Raise unless shapes fit together: (4H, I), (4H, H) and (4H,)."""
    shapes = [array.shape for array in (w_ih, w_hh, *biases)]
    H = shapes[1][-1] if shapes[1] else 0
    if len(shapes[0]) != 2 or shapes[0][0] != 4 * H or shapes[1] != (4 * H, H) or set(shapes[2:]) - {(4 * H,)}:
        told = ", ".join(map(str, shapes))
        raise ValueError(f"weights must fit (4H, I), (4H, H) and (4H,) once turned PyTorch's way, but are {told}")


def directions_of(source: Any, layer: int, whose: str) -> list[list[np.ndarray]]:
    """Of each direction of a layer the two weights and, if there are any, the two biases."""
    state, found = arrays_of(source), []
    for suffix in suffixes(layer):
        mine = {name.removesuffix(suffix): array for name, array in state.items() if name.endswith(suffix)}
        arrays = [mine.pop(name) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if name in mine]
        if mine:
            raise ValueError(f"{whose} has nothing for {', '.join(name + suffix for name in mine)}")
        if len(arrays) in (2, 4):
            check_shapes(*arrays)
            found.append(arrays)
    if not found:
        raise ValueError(f"there is no layer {layer} with all its parameters among {', '.join(state)}")
    return found
