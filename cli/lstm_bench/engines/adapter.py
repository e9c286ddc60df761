"""What an engine has to offer to be timed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from ..workload import Workload


class Adapter(ABC):
    """One engine at its best setting.

    An adapter prepares a call outside the clock (weights converted, sessions built, inputs in the engine's own arrays)
    and hands back a closure that does nothing but the work and returns once it is done. Its file imports the engine at
    the top.
    """

    modes: ClassVar[tuple[str, ...]] = ("inference", "training", "stream")
    dtypes: tuple[str, ...] = ("float32", "float64")
    traced: ClassVar[bool] = False  # whether its arrays are NumPy's, so that tracemalloc sees them

    def __init__(self, threads: int) -> None:
        """Set the engine up for this many threads."""
        self.threads = threads

    @abstractmethod
    def version(self) -> str:
        """The engine's version, with whatever else decides its speed."""

    @abstractmethod
    def inference(self, work: Workload) -> Callable[[], Any]:
        """A call that computes y, `(T, B, D*H)`."""

    def training(self, work: Workload) -> Callable[[], tuple[Any, Any, dict[str, Any]]]:
        """A call that computes y, dx and the gradient of every parameter for `work.dy`, by PyTorch's names."""
        raise NotImplementedError

    def stream(self, work: Workload) -> Callable[[Any], Any]:
        """A call that takes one step `(B, I)`, made by `native`, and returns its y, `(B, H)`; it keeps the state."""
        raise NotImplementedError

    def native(self, array: np.ndarray) -> Any:
        """An array as the engine's calls take it."""
        return array

    def numpy(self, value: Any) -> np.ndarray:
        """A result as a NumPy array of its own."""
        return np.array(value)
