"""The parameters of a layer by name, and what tells cheaply that nobody can have changed them."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

_probe = {"": np.empty(1)}
_ALONE = sys.getrefcount(_probe[""])  # references that are counted when a mapping alone holds an array
_COUNTED = getattr(sys, "_is_gil_enabled", lambda: True)()  # without the GIL a count may lag behind


class Parameters(Mapping[str, np.ndarray]):
    """A read-only mapping from names to the arrays themselves, which may be changed in place.

    Whether they were changed since they were packed costs as much to find out as one step to compute, so this mapping
    keeps two facts: `epoch`, an object that is another one after each time that an array was handed out or written,
    and, by the references counted, whether anybody still holds one. What was read of arrays that were alone, in an
    epoch that still lasts, is still true.
    """

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self.epoch = object()

    def __getitem__(self, name: str) -> np.ndarray:
        """The array itself; a new epoch begins once the reference is held, so that `alone` cannot miss it."""
        array = self._arrays[name]
        self.epoch = object()
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __repr__(self) -> str:
        """The names and shapes."""
        shapes = ", ".join(f"{name} {array.shape}" for name, array in self._arrays.items())
        return f"{type(self).__name__}({shapes})"

    def written(self) -> None:
        """Begin a new epoch, once arrays were written by who owns them."""
        self.epoch = object()

    def alone(self, names: Iterable[str]) -> bool:
        """Whether nobody else refers to any of these arrays, views included."""
        return _COUNTED and all(sys.getrefcount(self._arrays[name]) <= _ALONE for name in names)
