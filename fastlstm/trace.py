"""Looking inside a call: the gates, c and h of every layer and direction over time, and the gradient that reaches h.

All values are those of the passes: what they keep for the backward pass and, for gradients, what that leaves there.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.cell import CellSpec
from fastlstm.layer_call import Sizes, Tape, backward, forward, given_state, to_caller
from fastlstm.parameterised import Parameterised
from fastlstm.passes.calls import Taped
from fastlstm.passes.frames import OpenGates
from fastlstm.passes.packing import GATES, frame_of
from fastlstm.runtime.memory import address
from fastlstm.runtime.variant import Variant
from fastlstm.runtime.workers import worker
from fastlstm.sequences import Layout


@dataclass(frozen=True, eq=False, repr=False)
class Trace:
    """What one layer computed in one direction; of `LSTM.trace`.

    Every array is in the layout of x: (T, B, n), or (B, T, n) if `batch_first`, or (T, n) for a single sequence, or
    (N, n), the rows of its data, for a `PackedSequence`. The index of time is that of x in both directions. Past a
    row's length everything is exactly 0.

    Attributes
    ----------
    layer : int
        Which layer, 0 the lowest.
    reverse : bool
        Whether it ran from the last step to the first.
    i, f, g, o : numpy.ndarray
        (T, B, H): the input gate, the forget gate, the candidate and the output gate, after their activations. In a
        coupled cell f is 1 - i.
    c : numpy.ndarray
        (T, B, H): the cell state that each step hands on.
    h : numpy.ndarray
        (T, B, P): the output that each step hands on; that of the last layer is y, if no directions are merged.
    dh : numpy.ndarray or None
        (T, B, P): the gradient of the loss with respect to h, by all ways that lead there: this step's output, and the
        steps after it. None where no gradient was given.
    """

    layer: int
    reverse: bool
    i: np.ndarray
    f: np.ndarray
    g: np.ndarray
    o: np.ndarray
    c: np.ndarray
    h: np.ndarray
    dh: np.ndarray | None
    _layout: Layout
    _batch_first: bool
    _unbatched: bool

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name}={getattr(self, name).shape}" for name in ("c", "h"))
        return f"Trace(layer={self.layer}, reverse={self.reverse}, {shapes}, dh={'no' if self.dh is None else 'yes'})"

    def sequence(self, row: int = 0) -> Trace:
        """The trace of one row alone, without padding.

        Parameters
        ----------
        row
            Which one, between 0 and B - 1; of a packed sequence, by length, the longest first.

        Returns
        -------
        Trace
            With arrays (n, H) and (n, P), n the row's length.

        Raises
        ------
        TypeError, ValueError
            A row that is not there.
        """
        layout = self._layout
        if checks.size("row", row, least=0) >= layout.B:
            raise ValueError(f"row must be less than the number of rows, {layout.B}, but was {row}")
        length = int(layout.lengths()[row])

        def alone(array: np.ndarray) -> np.ndarray:
            if layout.packed:
                assert layout.offsets is not None
                return array[layout.offsets[:length] + row]
            if self._unbatched:
                return array[:length]
            return (array[row] if self._batch_first else array[:, row])[:length]

        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {name: alone(array) for name, array in values.items() if isinstance(array, np.ndarray)}
        return Trace(**values | {"_layout": Layout(length, 1), "_batch_first": False, "_unbatched": True})

    def gradient_norm(self) -> np.ndarray:
        """The norm of the gradient with respect to h at each step, over all rows and units.

        Returns
        -------
        numpy.ndarray
            (T,), float64. A sequence whose norms fall towards the steps that come first lets the gradient vanish.

        Raises
        ------
        ValueError
            The trace has no gradient.
        """
        if self.dh is None:
            raise ValueError("the trace must have a gradient: give dy, or dstate, to LSTM.trace")
        squares = (self.dh.astype(np.float64) ** 2).sum(axis=-1)
        if self._layout.packed:
            assert self._layout.offsets is not None
            return np.sqrt(np.add.reduceat(squares, self._layout.offsets[:-1]))
        return np.sqrt(squares if self._unbatched else squares.sum(axis=0 if self._batch_first else 1))


def trace(
    layer: Parameterised, x: Any, state: Any, lengths: Any, reset: Any, dy: Any, dstate: Any
) -> tuple[Trace, ...]:
    """`LSTM.trace`."""
    tape = Tape(layer, traced=True)
    forward(layer, x, state, lengths, reset, tape)
    sizes = Sizes(layer, tape.layout, tape.unbatched)
    kinds = [(k, d) for k in range(sizes.L) for d in range(sizes.D)]
    found = [_values(tape, sizes, k, d) for k, d in kinds]
    if dy is not None or dstate is not None:
        if dy is None:
            zeros = np.zeros(sizes.given(sizes.out), layer.dtype)
            dy = (zeros, zeros) if layer.merge == "none" else zeros
        backward(layer, tape, dy, dstate)
        dh_n = given_state(layer, "dstate", dstate, sizes)[0]
        for values, (k, d) in zip(found, kinds, strict=True):
            values["dh"] = _given(sizes, _arrived(tape, sizes, k, d, dh_n[k * sizes.D + d].copy()))
    here: dict[str, Any] = {"_layout": tape.layout, "_batch_first": sizes.batch_first, "_unbatched": sizes.unbatched}
    return tuple(
        Trace(k, bool(d) or layer.reverse, **values, **here) for values, (k, d) in zip(found, kinds, strict=True)
    )


def _given(sizes: Sizes, rows: np.ndarray) -> np.ndarray:
    """Rows of the tape (N, n) in the caller's layout."""
    if sizes.layout.offsets is None:
        rows = rows.reshape(sizes.layout.T, sizes.layout.B, rows.shape[-1])
    return to_caller(sizes, rows)


def _values(tape: Tape, sizes: Sizes, k: int, d: int) -> dict[str, Any]:
    """Gates, c and h of one layer and direction."""
    taped, h = Taped(*tape.cells[k][d]), tape.outputs[k]
    assert h is not None
    gates = taped.gates if tape.variant.standard else _opened(tape.variant, taped.gates)
    found: dict[str, Any] = {name: _given(sizes, gates[:, j]) for j, name in enumerate(GATES)}
    found["c"], found["h"] = _given(sizes, taped.cells), to_caller(sizes, h[..., d * sizes.P : (d + 1) * sizes.P])
    return found | {"dh": None}


def _opened(variant: Variant, kept: np.ndarray) -> np.ndarray:
    """The gates from what the tape keeps of them, which is what went into their activations."""
    gates = kept.copy()
    N, _, H = gates.shape
    worker("open_gates", variant).run(0, address(frame_of(OpenGates(N, H, address(gates)))))
    return gates


def _arrived(tape: Tape, sizes: Sizes, k: int, d: int, arriving: np.ndarray) -> np.ndarray:
    """The gradient of h (N, P) of one layer and direction, from dG, which backward has left on the tape: what comes
    from the output, and from the step after by R^T dG, or past it where zoneout kept h; `arriving` (B, P) is what comes
    from the state.
    """
    layer, layout, ragged = tape.layer, tape.layout, tape.ragged[k]
    dh = np.zeros((layout.size, sizes.P), layer.dtype)
    if not layout.size:
        return dh
    dy = tape.dys[k][..., d * sizes.P : (d + 1) * sizes.P]
    dh += sizes.pack(dy).reshape(dh.shape)
    through = _recurrent(layer.spec, tape.cells[k][d], layer._named(layer._suffixes[k][d]))
    offsets = np.arange(layout.T + 1) * layout.B if layout.offsets is None else layout.offsets
    order = np.arange(layout.B) if layout.order is None else layout.order
    resets = None if ragged is None else ragged.resets[d]
    backwards = range(layout.steps) if d or layer.reverse else reversed(range(layout.steps))
    for t in backwards:
        at = slice(offsets[t], offsets[t + 1])
        rows = order[: offsets[t + 1] - offsets[t]]
        dh[at] += arriving[rows]
        arriving[rows] = through[at] + layer.dtype.type(layer.spec.zoneout[1]) * dh[at]
        if resets is not None:
            arriving[resets[t]] = 0
    return dh


def _recurrent(spec: CellSpec, taped: Taped, p: dict[str, np.ndarray]) -> np.ndarray:
    """What each step's dG gives the h before it, (N, P)."""
    there = [GATES.index(gate) for gate in spec.gates]
    d = taped.gates[:, there].reshape(len(taped.gates), -1)
    if spec.layer_norm:
        assert taped.units_hh is not None and taped.moments is not None
        units = taped.units_hh[:, there].reshape(d.shape)
        d = d * p["weight_ln_hh"]
        d = d - d.mean(axis=1, keepdims=True) - units * (d * units).mean(axis=1, keepdims=True)
        d *= taped.moments[:, 1:2]
    return d @ p["weight_hh"]
