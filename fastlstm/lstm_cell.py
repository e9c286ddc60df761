"""The LSTM cell: one step of one layer, as `torch.nn.LSTMCell`."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.inference import Short, keep_short
from fastlstm.layer import LSTM, State, Tape
from fastlstm.passes.short import ShortForward

SUFFIX = "_l0"  # what the layer's names have more than the cell's


class LSTMCell:
    """One step of a long short-term memory layer: (h, c) from x and the (h, c) before; `LSTM` states the equations.

    A cell is for loops whose next input depends on their last output. A sequence that is known beforehand is faster
    through `LSTM`, and one that arrives step by step through `LSTM.stream`; the outputs of all three are the same bits.

    Parameters
    ----------
    input_size, hidden_size
        I and H, the numbers of features of x and of h.
    bias
        Whether the gates have biases.
    dtype
        `numpy.float32` or `numpy.float64`.
    seed
        Seed of the initial parameters, uniform in (-1/sqrt(H), 1/sqrt(H)); None takes fresh entropy.

    Attributes
    ----------
    parameters : Mapping[str, numpy.ndarray]
        `weight_ih` (4H, I), `weight_hh` (4H, H), `bias_ih` and `bias_hh` (4H,); gate order i, f, g, o. The arrays may
        be changed in place at any time between calls.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type or out of range; the message names it.
    """

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, dtype: Any = np.float32, seed: int | None = None
    ) -> None:
        self._layer = LSTM(input_size, hidden_size, bias=bias, dtype=dtype, seed=seed)
        self.input_size, self.hidden_size = self._layer.input_size, self._layer.hidden_size
        self.bias, self.dtype = self._layer.bias, self._layer.dtype
        self._short: Short = {}

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The parameters by name, in PyTorch's order; the arrays themselves, not copies."""
        return MappingProxyType({name.removesuffix(SUFFIX): array for name, array in self._layer.parameters.items()})

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters by name."""
        return {name: array.copy() for name, array in self.parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy parameters from a mapping, as `LSTM.load_state_dict`.

        Raises
        ------
        TypeError, ValueError
            No mapping, or names that are missing, unexpected or misshapen: one error lists them all, and nothing has
            been copied.
        """
        parameters = dict(self.parameters)
        for name, value in checks.state_dict(state_dict, parameters).items():
            parameters[name][...] = value

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: nothing that was prepared."""
        return self.__dict__ | {"_short": {}}

    def __repr__(self) -> str:
        """The constructor's call."""
        return repr(self._layer).replace("LSTM(", "LSTMCell(", 1)

    def __call__(self, x: Any, state: tuple[Any, Any] | None = None) -> State:
        """Run one step for inference.

        Parameters
        ----------
        x
            (B, I), or (I,) for a single row; of the cell's dtype.
        state
            (h, c) of the step before, each (B, H), or (H,) for a single row; zeros if None.

        Returns
        -------
        (h, c)
            Shaped as `state`.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, dtype or shape; the message names it.
        """
        if (short := self._prepared(x, state, False)) is not None:
            return short(x, state, self._layer._mapping.epoch)[1]
        x = self._x(x)
        _, (h, c) = self._layer(x[None], self._state("state", state, x))
        return h[0], c[0]

    def forward(self, x: Any, state: tuple[Any, Any] | None = None) -> tuple[State, Tape]:
        """Run one step for training: as a plain call, with a tape for `backward`."""
        if (short := self._prepared(x, state, True)) is not None:
            return self._layer._record(short, x, state, unbatched=x.ndim == 1)[1:]
        x = self._x(x)
        _, (h, c), tape = self._layer.forward(x[None], self._state("state", state, x))
        return (h[0], c[0]), tape

    def backward(self, tape: Tape, dstate: tuple[Any, Any]) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
        """Gradients of a loss from those of the step's h and c.

        Parameters
        ----------
        tape
            What `forward` returned; spent by this call.
        dstate
            (dh, dc), the gradients of the loss with respect to the h and c that `forward` returned, each of their
            shape.

        Returns
        -------
        dx, (dh, dc), grads
            With respect to x, to the state before, and to each parameter, by its name.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, dtype or shape; a tape that was spent, or is another cell's.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape must be what forward returned, but was {type(tape).__name__}")
        if tape.layer is not self._layer:
            raise ValueError("tape must be from forward of this cell, but is from another's")
        short = tape.short
        if short is not None and not tape.spent and short.takes(short.nothing, dstate):
            dx, state, grads = self._layer._short_backward(tape, short.nothing, dstate)
            return dx, state, {name.removesuffix(SUFFIX): grad for name, grad in grads.items()}
        if tape.spent:
            self._layer.backward(tape, None)  # which says so
        tape.unfold()
        T, B, _ = tape.inputs[0].shape
        rows: tuple[int, ...] = () if tape.unbatched else (B,)
        given = self._shaped("dstate", dstate, (*rows, self.hidden_size))
        dx, (dh, dc), grads = self._layer.backward(tape, np.zeros((T, *rows, self.hidden_size), self.dtype), given)
        return dx[0], (dh[0], dc[0]), {name.removesuffix(SUFFIX): grad for name, grad in grads.items()}

    def _prepared(self, x: Any, state: Any, training: bool) -> ShortForward | None:
        """The prepared call for arguments as they mostly are; None for the long way."""
        if type(x) is not np.ndarray:
            return None
        key = training, x.shape
        short = self._short.get(key)
        if short is None or short.stale():
            short = self._layer._prepare_step(*key)
            if short is None:
                return None
            keep_short(self._short, key, short)
        return short if short.takes(x, state) else None

    def _x(self, x: Any) -> np.ndarray:
        given = checks.array("x", x, self.dtype)
        if given.ndim not in (1, 2):
            raise ValueError(f"x must have the shape (B, I) or, for a single row, (I,), but has {given.shape}")
        if given.shape[-1] != self.input_size:
            raise ValueError(
                f"x must have {self.input_size} features (input_size) on its last axis, but its shape is {given.shape}"
            )
        return given

    def _state(self, name: str, state: Any, x: np.ndarray) -> State | None:
        return None if state is None else self._shaped(name, state, (*x.shape[:-1], self.hidden_size))

    def _shaped(self, name: str, state: Any, shape: tuple[int, ...]) -> State:
        """A state as the layer takes it, with one layer on its first axis."""
        meaning = "(B, H)" if len(shape) == 2 else "(H,)"
        h, c = (
            checks.shaped(f"{part} of {name}", value, self.dtype, shape, meaning)
            for part, value in zip("hc", checks.pair(name, state), strict=True)
        )
        return h[None], c[None]
