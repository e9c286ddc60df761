"""Streaming: one step a call, with the state and every buffer kept, for latencies of microseconds."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.passes import calls
from fastlstm.runtime.jit import Variant
from fastlstm.runtime.workers import worker


class Stream:
    """One sequence, or B of them, fed step by step; made by `LSTM.stream`.

    A stream holds the parameters as they were when it was made, and computes each step on the calling thread. Its
    outputs are, bit for bit, those of one call over all steps. One stream must not be stepped by two threads at once.

    Attributes
    ----------
    state : tuple of numpy.ndarray
        (h, c), each (L, B, H); may be read, and set to a pair of arrays of these shapes.
    """

    def __init__(
        self,
        variant: Variant,
        packs: list[calls.Weights],
        input_size: int,
        hidden_size: int,
        batch_size: int,
        dtype: np.dtype,
    ) -> None:
        self.batch_size, self._dtype = batch_size, dtype
        self._call = calls.StepCall(variant, packs, input_size, hidden_size, batch_size, dtype)
        self._shape = (batch_size, input_size)
        self._run, self._frames = worker("forward_layers", variant).run, self._call.address
        self._x, self._y, self._layers = self._call.x, self._call.y, len(packs)

    def step(self, x: Any) -> np.ndarray:
        """Run one step.

        Parameters
        ----------
        x
            (B, I), or (I,) if B is 1; of the layer's dtype.

        Returns
        -------
        numpy.ndarray
            h of the last layer, (B, H) or (H,) as x; a new array.

        Raises
        ------
        TypeError, ValueError
            x of the wrong dtype or shape.
        """
        if not isinstance(x, np.ndarray) or x.dtype != self._dtype:
            x = checks.array("x", x, self._dtype)
        if x.shape == self._shape:
            self._x[...] = x
            self._run(self._layers, self._frames)
            return self._y.copy()
        if self.batch_size == 1 and x.shape == self._shape[1:]:
            self._x[0] = x
            self._run(self._layers, self._frames)
            return self._y[0].copy()
        raise ValueError(f"x must have the shape (B, I) = {self._shape}, but has {x.shape}")

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """Copies of (h, c), each (L, B, H)."""
        return self._call.h.copy(), self._call.c.copy()

    @state.setter
    def state(self, value: Any) -> None:
        h, c = checks.pair("state", value)
        shape = self._call.h.shape
        h, c = (
            checks.shaped(f"{part} of state", array, self._dtype, shape, "(L, B, H)")
            for part, array in (("h", h), ("c", c))
        )
        self._call.h[...], self._call.c[...] = h, c

    def reset(self) -> None:
        """Set the state to zeros."""
        self._call.h.fill(0)
        self._call.c.fill(0)
