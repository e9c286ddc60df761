"""Streaming: one step a call, with the state and every buffer kept, for latencies of microseconds."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from fastlstm import checks
from fastlstm.passes import calls, packing
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import worker


class Stream:
    """One sequence, or B of them, fed step by step; made by `LSTM.stream`.

    A stream holds the parameters as they were when it was made, and computes each step on the calling thread. Its
    outputs are, bit for bit, those of one call over all steps. One stream must not be stepped by two threads at once.

    Attributes
    ----------
    state : tuple of numpy.ndarray
        (h, c), (L, B, P) and (L, B, H); may be read, and set to a pair of arrays of these shapes.
    """

    def __init__(
        self,
        variant: Variant,
        packs: list[packing.Weights],
        sizes: tuple[int, int, int, int],
        dtype: np.dtype,
        zoneout: tuple[float, float],
    ) -> None:
        I, H, P, B = sizes
        self._made = variant, packs, sizes, dtype, zoneout
        self.batch_size, self._dtype = B, dtype
        masks = None
        if zoneout != (0.0, 0.0):  # the expectation of what is drawn in training
            rates = (np.broadcast_to(dtype.type(rate), (1, B, n)) for rate, n in zip(zoneout, (H, P), strict=True))
            kept = [np.ascontiguousarray(a) if rate else None for a, rate in zip(rates, zoneout, strict=True)]
            masks = [calls.Masks(None, *kept)] * len(packs)
        self._call = calls.StepCall(variant, packs, sizes, dtype, masks)
        self._shape = (B, I)
        self._run, self._frames = worker("forward_layers", variant).run, self._call.address
        self._x, self._y, self._layers = self._call.x, self._call.y, len(packs)

    def __copy__(self) -> Stream:
        """A stream of its own with the same parameters, in the same state."""
        copied = Stream(*self._made)
        copied.state = self.state
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Stream:
        return self.__copy__()  # nobody writes packed weights

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Stream cannot be pickled, which is buffers in memory: pickle its layer, and its state")

    def step(self, x: Any) -> np.ndarray:
        """Run one step.

        Parameters
        ----------
        x
            (B, I), or (I,) if B is 1; of the layer's dtype.

        Returns
        -------
        numpy.ndarray
            h of the last layer, (B, P) or (P,) as x; a new array.

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
        """Copies of (h, c), (L, B, P) and (L, B, H)."""
        return self._call.h.copy(), self._call.c.copy()

    @state.setter
    def state(self, value: Any) -> None:
        h, c = checks.pair("state", value)
        h, c = (
            checks.shaped(f"{part} of state", array, self._dtype, own.shape, meaning)
            for part, array, own, meaning in (
                ("h", h, self._call.h, "(L, B, H)" if self._call.h.shape == self._call.c.shape else "(L, B, P)"),
                ("c", c, self._call.c, "(L, B, H)"),
            )
        )
        self._call.h[...], self._call.c[...] = h, c

    def reset(self) -> None:
        """Set the state to zeros."""
        self._call.h.fill(0)
        self._call.c.fill(0)
