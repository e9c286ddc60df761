"""The recurrent layer: Keras's LSTM, and further cells, over `fastlstm.LSTM`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

import fastlstm
from fastlstm import checks
from fastlstm.cell import Activation, CellSpec, parameter_shapes
from fastlstm.models import initializers, packing
from fastlstm.models.base import Call, Layer, Result, Shape, Variable, features, turned
from fastlstm.models.feedforward import kept_mask
from fastlstm.models.packing import Packing, State

KERAS_DEFAULTS = {"hard_sigmoid": (1 / 6, 0.5), "leaky_relu": (0.2,)}  # where they are not ONNX's
NAMES = {"weight_ih": "kernel", "weight_hh": "recurrent_kernel", "bias_ih": "bias"}  # Keras's, of the core's
CORE_NAMES = {name: core for core, name in NAMES.items()}
CELL = {  # options of `fastlstm.cell.CellSpec` by its names, with their defaults
    "peephole": "none",
    "output_peephole": None,
    "candidate_peephole": None,
    "coupled": False,
    "clip": None,
    "proj_size": 0,
    "layer_norm": False,
    "zoneout": 0.0,
    "recurrent_dropout_mode": "sequence",
}
OF_CORE = (*CELL, "activations", "recurrent_dropout")  # what a layer hands on to `fastlstm.LSTM`


def _activation(argument: str, value: Any) -> Activation:
    """An activation of the cell, by Keras's name and with Keras's defaults; None is linear."""
    try:
        if isinstance(value, str):
            kind = Activation(value) if value not in KERAS_DEFAULTS else Activation(value, *KERAS_DEFAULTS[value])
        else:
            kind = Activation("linear") if value is None else Activation.parse(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{argument}: {error}") from None
    return kind


@lru_cache(4)
def _zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Zeros that nobody writes: as dy where only the last output counts, they need not be made at every step."""
    zeros = np.zeros(shape, dtype)
    zeros.flags.writeable = False
    return zeros


class Tape(NamedTuple):
    """What a forward run keeps."""

    core: Any  # that of the core, in training
    packing: Packing | None
    dropped: np.ndarray | None  # (B, I), one mask for all steps
    shape: tuple[int, ...]  # of x


class LSTM(Layer):
    """A long short-term memory layer with the arguments and defaults of `keras.layers.LSTM`.

    Parameters
    ----------
    units
        H, the features of its output.
    activation, recurrent_activation
        That of the candidate and the output, and that of the gates: a name of `fastlstm.cell.ACTIVATIONS` with Keras's
        defaults, or a tuple (name, alpha, beta); None is linear.
    use_bias
        Whether the gates have biases.
    kernel_initializer, recurrent_initializer, bias_initializer
        Initial weights of x (I, 4H) and of h (P, 4H), and the biases (4H,); gate order i, f, g, o. A coupled cell has
        three gates, i, g, o. Peepholes and projections begin as the weights of x, diagonal ones at 0.
    unit_forget_bias
        Whether the forget gate's biases begin at 1.
    dropout
        Probability with which an element of x is dropped in training, the same elements at all steps.
    recurrent_dropout
        Probability with which an element of h is dropped on its way into the gates in training, the same at all steps.
    seed
        Has no effect: what is dropped hangs on the model's seed.
    return_sequences
        Whether the output is h of every step, (B, T, H), rather than that of the last, (B, H).
    return_state
        Whether a call by itself returns the last h and c after the output.
    go_backwards
        Whether steps are processed last to first; the output stays in that order.
    stateful
        Whether a batch begins with the state in which the one before it ended, row by row.
    zero_output_for_mask
        Whether the output of a masked step is zeros rather than the output of the step before.
    **options
        Cells that Keras has not, by the names of `fastlstm.cell.CellSpec`: peephole, output_peephole,
        candidate_peephole, coupled, clip, proj_size (P, the features of h then, else H), layer_norm, zoneout and
        recurrent_dropout_mode. And what every layer takes.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type or value; the message names it.
    """

    fields = (
        "units",
        "activation",
        "recurrent_activation",
        "use_bias",
        "kernel_initializer",
        "recurrent_initializer",
        "bias_initializer",
        "unit_forget_bias",
        "dropout",
        "recurrent_dropout",
        "return_sequences",
        "return_state",
        "go_backwards",
        "stateful",
        "zero_output_for_mask",
        *CELL,
    )
    takes_sequences = True

    def __init__(
        self,
        units: int,
        activation: Any = "tanh",
        recurrent_activation: Any = "sigmoid",
        use_bias: bool = True,
        kernel_initializer: str = "glorot_uniform",
        recurrent_initializer: str = "orthogonal",
        bias_initializer: str = "zeros",
        unit_forget_bias: bool = True,
        *,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        seed: int | None = None,
        return_sequences: bool = False,
        return_state: bool = False,
        go_backwards: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**{name: value for name, value in options.items() if name not in CELL})
        self.units = checks.size("units", units)
        self.use_bias = checks.flag("use_bias", use_bias)
        self.kernel_initializer = initializers.named("kernel_initializer", kernel_initializer)
        self.recurrent_initializer = initializers.named("recurrent_initializer", recurrent_initializer)
        self.bias_initializer = initializers.named("bias_initializer", bias_initializer)
        self.unit_forget_bias = checks.flag("unit_forget_bias", unit_forget_bias)
        self.dropout = checks.rate("dropout", dropout)
        self.recurrent_dropout = checks.rate("recurrent_dropout", recurrent_dropout)
        cell = CELL | {name: value for name, value in options.items() if name in CELL}
        vars(self).update(cell)
        gates, inner = _activation("recurrent_activation", recurrent_activation), _activation("activation", activation)
        self.activation, self.recurrent_activation = (
            value if isinstance(value, str | None) else (kind.name, kind.alpha, kind.beta)
            for value, kind in ((activation, inner), (recurrent_activation, gates))
        )
        self.spec = CellSpec(
            bias=self.use_bias, activations=(gates, inner, inner), recurrent_dropout=self.recurrent_dropout, **cell
        )
        if self.spec.proj_size >= self.units:
            raise ValueError(f"proj_size must be less than units = {units}, or 0, but was {self.spec.proj_size}")
        self.output_size = self.spec.proj_size or self.units  # P
        self.return_sequences = checks.flag("return_sequences", return_sequences)
        self.return_state = checks.flag("return_state", return_state)
        self.go_backwards = checks.flag("go_backwards", go_backwards)
        self.stateful = checks.flag("stateful", stateful)
        self.zero_output_for_mask = checks.flag("zero_output_for_mask", zero_output_for_mask)
        self._carried: State | None = None
        self._core: fastlstm.LSTM | None = None

    def variables(self, shape: Shape) -> list[Variable]:
        if len(shape) != 2:
            raise ValueError(
                f"layer {self.name} must be given sequences (batch, steps, features), "
                f"but its input has {len(shape)} axes beside the batch"
            )
        first = {"kernel": self.kernel_initializer, "recurrent_kernel": self.recurrent_initializer,
                 "bias": self.bias_initializer, "weight_hr": self.kernel_initializer}  # fmt: skip
        found = []
        for name, size in parameter_shapes(self.spec, features(self, shape), self.units).items():
            if name == "bias_hh":  # as in Keras there is one bias: only the sum counts
                continue
            name = NAMES.get(name, name)
            normal = "ones" if name.startswith("weight_ln") else "zeros"
            kind = first.get(name, self.kernel_initializer if len(size) == 2 else normal)
            found.append(Variable(name, size, kind, transposed=len(size) == 2))
        return found

    def output_shape(self, shape: Shape) -> Shape:
        return (shape[0], self.output_size) if self.return_sequences else (self.output_size,)

    def bind(self, params: dict[str, np.ndarray], grads: dict[str, np.ndarray]) -> None:
        super().bind(params, grads)
        kernel, options = params["kernel"], {name: getattr(self.spec, name) for name in OF_CORE}
        self._core = fastlstm.LSTM(
            kernel.shape[1], self.units, bias=self.use_bias, dtype=kernel.dtype, seed=0, **options
        )
        self._carried = None

    def initialize(self, shape: Shape, rng: np.random.Generator) -> None:
        super().initialize(shape, rng)
        if self.use_bias and self.unit_forget_bias and not self.spec.coupled:
            self.params["bias"][self.units : 2 * self.units] = 1

    def _shown(self, name: str) -> np.ndarray:
        return self.params[name].T

    def core(self) -> fastlstm.LSTM:
        """The `fastlstm.LSTM` that computes the layer, with the layer's parameters of now; its second bias is zero."""
        core = self._core
        if core is None:
            raise ValueError(f"layer {self.name} has no weights yet: build the model, or call the layer, first")
        parameters = core.parameters
        for name, value in self.params.items():
            parameters[CORE_NAMES.get(name, name) + "_l0"][...] = value
        if self.use_bias:
            parameters["bias_hh_l0"].fill(0)
        return core

    # --- a run --------------------------------------------------------------------------------------------------------

    def run(self, x: np.ndarray, call: Call, state: State | None = None) -> tuple[np.ndarray, State, Tape]:
        """The output for x (T, B, I) from a state of two (B, H), and the last state."""
        B = x.shape[1]
        shape, dropped, packed, lengths = x.shape, None, None, None
        if call.training and self.dropout:
            dropped = kept_mask((B, x.shape[2]), self.dropout, x.dtype, call.rng)
            x = x * dropped
        if call.mask is not None and not call.mask.all():
            packed = packing.pack(call.mask, self.go_backwards, self.zero_output_for_mask)
            x, lengths = packing.take(x, packed.source), packed.lengths
        elif self.go_backwards:
            x = np.ascontiguousarray(x[::-1])
        if state is None:
            state = self._begin(B, x.dtype)
        rows = slice(None) if packed is None else packed.order
        h_0, c_0 = (np.ascontiguousarray(part[rows])[None] for part in state)
        core = self.core()
        if call.training and call.rng is not None:
            core._random = call.rng  # so that what is drawn hangs on seed, epoch and step alone
        y, (h, c), kept = packing.run(core, x, (h_0, c_0), lengths, call.training)
        h_n, c_n = np.empty_like(h[0]), np.empty_like(c[0])
        h_n[rows], c_n[rows] = h[0], c[0]
        if self.stateful:
            self._carried = h_n, c_n
        if packed is not None:
            y = packing.take(y, packed.place if self.return_sequences else packed.place[-1])
        elif not self.return_sequences:
            y = h_n
        return y, (h_n, c_n), Tape(kept, packed, dropped, shape)

    def run_backward(self, dy: np.ndarray, tape: Tape, dstate: State | None = None) -> tuple[np.ndarray, State]:
        """The gradients of x and of the state; those of the weights are written to `grads`."""
        T, B, _ = tape.shape
        if tape.core is None:
            raise ValueError("tape must come from a run in training")
        packed = tape.packing
        rows = slice(None) if packed is None else packed.order
        if dstate is None:
            dstate = np.zeros((B, self.output_size), dy.dtype), np.zeros((B, self.units), dy.dtype)
        dh, dc = (np.ascontiguousarray(part[rows])[None] for part in dstate)
        if packed is not None:
            places = packed.place if self.return_sequences else packed.place[-1]
            d = packing.untake(dy, places, (*packed.source.shape, self.output_size))
        elif self.return_sequences:
            d = np.ascontiguousarray(dy)
        else:
            d, dh = _zeros((T, B, self.output_size), dy.dtype), dh + dy
        core = self._core  # with the parameters of the forward run
        assert core is not None
        dx, (dh, dc), grads = core.backward(tape.core, d, (dh, dc))
        for name, grad in self.grads.items():
            grad[...] = grads[CORE_NAMES.get(name, name) + "_l0"]
        if packed is not None:
            dx = packing.untake(dx, packed.source, tape.shape)
        elif self.go_backwards:
            dx = dx[::-1]
        dh_0, dc_0 = np.empty_like(dh[0]), np.empty_like(dc[0])
        dh_0[rows], dc_0[rows] = dh[0], dc[0]
        return dx if tape.dropped is None else dx * tape.dropped, (dh_0, dc_0)

    def _begin(self, B: int, dtype: np.dtype) -> State:
        """The state a batch begins with."""
        if self.stateful and self._carried is not None:
            if len(self._carried[0]) != B:
                raise ValueError(
                    f"x must come in batches of {len(self._carried[0])} rows, as the "
                    f"batch before it, since layer {self.name} is stateful, "
                    f"but one has {B}: choose a batch_size that divides the samples, or call reset_states()"
                )
            return self._carried
        return np.zeros((B, self.output_size), dtype), np.zeros((B, self.units), dtype)

    def forward(self, x: np.ndarray, call: Call) -> Result:
        y, _, tape = self.run(x, call)
        return Result(y, self.mask_above(call.mask), tape)

    def mask_above(self, mask: np.ndarray | None) -> np.ndarray | None:
        """The mask of its output."""
        if mask is None or not self.return_sequences:
            return None
        return mask

    def backward(self, dy: np.ndarray, tape: Any) -> np.ndarray:
        return self.run_backward(dy, tape)[0]

    def __call__(
        self, x: Any, training: bool = False, mask: Any = None, initial_state: Sequence[Any] | None = None
    ) -> Any:
        """The output for a batch x (B, T, I); with `return_state`, a list of it and the last h (B, P) and c (B, H).

        Parameters
        ----------
        initial_state
            h (B, P) and c (B, H), P being H without a projection; zeros if None.
        """
        x = self._given(x)
        state = None
        if initial_state is not None:
            pair = checks.pair("initial_state", initial_state)
            h, c = (
                checks.shaped("initial_state", np.asarray(part, x.dtype), x.dtype, (len(x), n), f"(B, {letter})")
                for part, n, letter in zip(
                    pair, (self.output_size, self.units), "PH" if self.spec.proj_size else "HH", strict=True
                )
            )
            state = h, c
        seen = None if mask is None else np.ascontiguousarray(np.asarray(mask, bool).T)
        y, (h, c), _ = self.run(turned(x), Call(training, None, seen), state)
        return [turned(y), h, c] if self.return_state else turned(y)

    # --- state between batches ----------------------------------------------------------------------------------------

    def reset_states(self) -> None:
        """Begin the next batch from zeros."""
        self._carried = None

    def states(self) -> dict[str, np.ndarray]:
        return {} if self._carried is None else {"h": self._carried[0], "c": self._carried[1]}

    def load_states(self, states: dict[str, np.ndarray]) -> None:
        self._carried = (states["h"], states["c"]) if states else None
