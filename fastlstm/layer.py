"""The LSTM layer: layers x directions, inference and training.

Nothing but the parameters lives on a layer (their packed copies are derived, and renewed when the parameters change),
so that one layer serves many threads at once.
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np

from fastlstm import checks, directions
from fastlstm.cell import CellSpec
from fastlstm.inference import Inference
from fastlstm.layer_call import State, Tape, backward, forward
from fastlstm.passes.short import ShortForward
from fastlstm.quantized import QuantizedLSTM
from fastlstm.trace import Trace, trace

CELL_OPTIONS = [name for name in inspect.signature(CellSpec).parameters if name not in ("bias", "proj_size")]
SHOWN = {  # options of the constructor that its repr shows where they are not these
    "num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False, "proj_size": 0,
    "reverse": False, "merge": "concat", "input_dropout": 0.0,
}  # fmt: skip


def spec_of(bias: bool, proj_size: int, forget_bias: Any, cell: dict[str, Any]) -> CellSpec:
    """What a constructor's options come to, of which those of other cells are in `cell`."""
    for name in cell:
        if name not in CELL_OPTIONS:
            raise TypeError(f"unknown option {name!r}: those of a cell are {', '.join(CELL_OPTIONS)}")
    spec = CellSpec(bias=bias, proj_size=proj_size, **cell)
    if checks.number("forget_bias", forget_bias) and (spec.coupled or not bias):
        raise ValueError(
            "forget_bias must be 0 in a cell that has no bias for a forget gate (coupled, or bias=False), "
            f"but was {forget_bias!r}"
        )
    return spec


class LSTM(Inference):
    """A long short-term memory layer, as `torch.nn.LSTM`.

    For every step t, with the gates i, f, g, o, the cell state c, the output h and the logistic sigmoid s::

        i = s(W_ii x + b_ii + W_hi h' + b_hi)        f = s(W_if x + b_if + W_hf h' + b_hf)
        g = tanh(W_ig x + b_ig + W_hg h' + b_hg)     o = s(W_io x + b_io + W_ho h' + b_ho)
        c = f * c' + i * g                           h = o * tanh(c)

    (Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; the form of PyTorch's documentation.)

    Parameters
    ----------
    input_size, hidden_size
        I and H, the numbers of features of x and of h.
    num_layers
        Layers L, each fed with the output of the one below.
    bias
        Whether the gates have biases.
    batch_first
        Whether x and y are (B, T, n) rather than (T, B, n); states never are.
    dropout
        Probability with which an element of the output of every layer but the last is dropped, in `forward` alone.
    bidirectional
        Whether a second direction runs from the last step to the first; its output follows the first's in y. D is 2
        then, else 1.
    proj_size
        P, the size to which h is projected, less than H; 0 for no projection: P is H then.
    dtype
        `numpy.float32` or `numpy.float64`.
    seed
        Seed of the initial parameters, uniform in (-1/sqrt(H), 1/sqrt(H)) as in PyTorch, and of all that is drawn in
        `forward`; None takes fresh entropy.
    reverse
        Whether a layer of one direction runs from the last step to the first; y stays in order of x.
    merge
        How the outputs of two directions become one: `"concat"`, `"sum"`, `"mul"`, `"ave"` or `"none"`, which leaves a
        pair and takes a single layer (Keras's `merge_mode`).
    input_dropout
        Probability with which an element of x is dropped, in `forward` alone.
    forget_bias
        Added to the initial bias of the forget gate.
    **cell
        Other cells than the one above: the options of `fastlstm.cell.CellSpec` (peephole, activations, coupled, clip,
        layer_norm, zoneout, recurrent_dropout and what belongs to them).

    Attributes
    ----------
    parameters : Mapping[str, numpy.ndarray]
        For layer k `weight_ih_l{k}` (4H, I or D*P), `weight_hh_l{k}` (4H, P), `bias_ih_l{k}` and `bias_hh_l{k}` (4H,),
        and what else the cell has (`fastlstm.cell.parameter_shapes`), each with `_reverse` appended for the second
        direction; gate order i, f, g, o. The arrays may be changed in place at any time between calls.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type or out of range; the message names it.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: Any = np.float32,
        seed: int | None = None,
        *,
        reverse: bool = False,
        merge: str = "concat",
        input_dropout: float = 0.0,
        forget_bias: float = 0.0,
        **cell: Any,
    ) -> None:
        self.input_size = checks.size("input_size", input_size)
        self.hidden_size = checks.size("hidden_size", hidden_size)
        self.num_layers = checks.size("num_layers", num_layers)
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.dropout = checks.rate("dropout", dropout)
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        self.proj_size = checks.size("proj_size", proj_size, least=0)
        if self.proj_size >= self.hidden_size:
            raise ValueError(
                f"proj_size must be less than hidden_size = {hidden_size}, or 0 for no projection, but was {proj_size}"
            )
        self.dtype = checks.floating(dtype)
        directions.check(reverse, merge, self.bidirectional, self.num_layers)
        self.reverse, self.merge = bool(reverse), merge
        self.input_dropout = checks.rate("input_dropout", input_dropout)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout acts between layers, and there is one only: dropout={dropout} has no effect",
                UserWarning,
                stacklevel=2,
            )
        spec = spec_of(self.bias, self.proj_size, forget_bias, cell)
        random = np.random.default_rng(seed)
        inputs = [self.input_size] + [directions.size(merge, self.directions, self.output_size)] * (num_layers - 1)
        super().__init__(spec, inputs, self.hidden_size, self.directions, self.dtype, random, float(forget_bias))

    def __repr__(self) -> str:
        """The constructor's call."""
        options = [str(self.input_size), str(self.hidden_size)]
        options += [f"{name}={value!r}" for name, usual in SHOWN.items() if (value := getattr(self, name)) != usual]
        options += [f"dtype={self.dtype.name}"] * (self.dtype != np.float32)
        usual = CellSpec(bias=self.bias, proj_size=self.proj_size)
        for name in CELL_OPTIONS:
            value = getattr(self.spec, name)
            if value != getattr(usual, name):
                if name == "activations":
                    value = tuple((kind.name, kind.alpha, kind.beta) for kind in value)
                options.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(options)})"

    # --- calls --------------------------------------------------------------------------------------------------------

    def forward(
        self, x: Any, state: tuple[Any, Any] | None = None, *, lengths: Any = None, reset: Any = None
    ) -> tuple[Any, State, Tape]:
        """Run the layer for training: as a plain call, with dropouts and zoneout, and with a tape for `backward`.

        The tape takes 5 T B H elements a layer and direction (6 with lengths, resets or other cells, 14 where these are
        normalised), and refers to x, and to nothing that is returned. No gradient passes a reset.

        Returns
        -------
        y, (h_n, c_n)
            As from a plain call.
        tape
            For one call of `backward`. x must not be changed before it.
        """
        if lengths is None and reset is None and (short := self._prepared(x, state, True)) is not None:
            return self._record(short, x, state, unbatched=x.ndim == 2)
        tape = Tape(self)
        y, state_n = forward(self, x, state, lengths, reset, tape)
        return y, state_n, tape

    def backward(
        self, tape: Tape, dy: Any, dstate: tuple[Any, Any] | None = None
    ) -> tuple[Any, State, dict[str, np.ndarray]]:
        """Gradients of a loss from its gradients with respect to what `forward` returned.

        Parameters
        ----------
        tape
            From `forward`; it is spent by this call.
        dy
            Gradient with respect to y, in its form; what stands in it past a row's length is not read.
        dstate
            Gradients with respect to (h_n, c_n); zeros if None.

        Returns
        -------
        dx
            In the form of x; 0 past a row's length.
        (dh_0, dc_0)
            Shaped as the state.
        grads
            For every name of `parameters` an array of its shape.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, dtype or shape; a tape that was spent, or is another layer's.
        """
        mine = isinstance(tape, Tape) and tape.layer is self and not tape.spent
        if mine and tape.short is not None and tape.short.takes(dy, dstate):
            return self._short_backward(tape, dy, dstate)
        return backward(self, tape, dy, dstate)

    def _short_backward(
        self, tape: Tape, dy: np.ndarray, dstate: State | None
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
        """`backward` by a prepared call."""
        assert tape.short is not None and tape.recorded is not None
        tape.spent = True
        dx, dstate_0, found = tape.short(tape.recorded, dy, dstate, self._mapping.epoch)
        tape.recorded = None
        tape.cells.clear()
        return dx, dstate_0, dict(zip(self._parameters, found, strict=True))

    def trace(
        self,
        x: Any,
        state: tuple[Any, Any] | None = None,
        *,
        lengths: Any = None,
        reset: Any = None,
        dy: Any = None,
        dstate: tuple[Any, Any] | None = None,
    ) -> tuple[Trace, ...]:
        """Look inside a plain call: the gates, c and h of every layer and direction at every step.

        With a gradient, what of it reaches every h: for whether it vanishes, or explodes. No dropout acts. For
        diagnosis: it takes a training step's time and memory, and some copies.

        Parameters
        ----------
        x, state, lengths, reset
            As of a plain call.
        dy, dstate
            Gradients of a loss, as `backward` takes them; if both are None, none is computed.

        Returns
        -------
        tuple of Trace
            Layer 0, its reverse direction if it has one, layer 1 and so on, as states have them.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, dtype or shape; the message names it.
        """
        return trace(self, x, state, lengths, reset, dy, dstate)

    def quantize(self, weights: str = "int8") -> QuantizedLSTM:
        """A layer for inference alone whose matrices are stored in fewer bits; this one is left as it is.

        Only weights are rounded: sums are as close as in float32. A call of few rows takes less time where reading the
        weights is what it waits for.

        Parameters
        ----------
        weights
            `"int8"`: integers between -127 and 127, to each row of a matrix a scale, its largest magnitude over 127.
            `"bfloat16"`: the upper halves of float32, rounded to nearest, ties to even; a NaN stays one, and what is
            beyond bfloat16's range becomes infinite. Biases and peepholes stay float32.

        Returns
        -------
        QuantizedLSTM
            With this layer's options, and its parameters as they are now.

        Raises
        ------
        TypeError
            The layer's dtype is not float32.
        ValueError
            Another `weights`; a cell whose units need all others of their row (`layer_norm`, `proj_size`,
            `peephole="full"`); for int8, a weight that is not finite.
        """
        return QuantizedLSTM(self, weights)

    def _record(
        self, short: ShortForward, x: np.ndarray, state: State | None, unbatched: bool
    ) -> tuple[np.ndarray, State, Tape]:
        """`forward` by a prepared call."""
        tape = Tape(self)
        y, state_n, tape.recorded = short.record(x, state, self._mapping.epoch)
        tape.short, tape.unbatched = short.backward, unbatched
        return y, state_n, tape
