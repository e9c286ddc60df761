"""The ONNX LSTM operator on arrays: its attributes and inputs made into layers, and its layout of what goes in and out.

Where the ONNX text leaves something open, onnxruntime decides: values of `activation_alpha` and `activation_beta` are
consumed in order by the activations that take them, clip acts after the peepholes and not on c, and a row of length
zero gives zeros, whatever its initial state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from fastlstm import checks, weights
from fastlstm.cell import ACTIVATIONS, Activation
from fastlstm.layer import LSTM
from fastlstm.passes.packing import digest
from fastlstm.runtime.variant import Variant

# ONNX's names of activations, which are compared without regard to case.
NAMES = (
    *("Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu"),
    *("Softsign", "Softplus"),
)
TAKEN = {name.replace("_", ""): len(takes) for name, takes in ACTIVATIONS.items()}  # alpha, or alpha and beta
DIRECTIONS = ("forward", "reverse", "bidirectional")
PLAIN = (Activation("sigmoid"), Activation("tanh"), Activation("tanh"))
KEPT = 16  # layers that `lstm` keeps for calls with the same weights

Activations = tuple[Activation, Activation, Activation]


class Attributes(NamedTuple):
    """The attributes of a node, checked."""

    hidden_size: int
    direction: str
    layout: int
    clip: float | None
    activations: tuple[Activations, ...]  # of each direction
    coupled: bool

    @property
    def directions(self) -> int:
        """D."""
        return len(self.activations)

    @classmethod
    def checked(
        cls,
        hidden_size: int,
        direction: str = "forward",
        layout: int = 0,
        clip: float | None = None,
        activations: Sequence[str] | None = None,
        activation_alpha: Sequence[float] | None = None,
        activation_beta: Sequence[float] | None = None,
        input_forget: int = 0,
    ) -> Attributes:
        """The attributes as ONNX gives them; TypeError or ValueError names one that is wrong."""
        if direction not in DIRECTIONS:
            raise ValueError(f"direction must be one of {', '.join(map(repr, DIRECTIONS))}, but was {direction!r}")
        for name, value in (("layout", layout), ("input_forget", input_forget)):
            if value not in (0, 1):
                raise ValueError(f"{name} must be 0 or 1, but was {value!r}")
        if clip is not None and not (isinstance(clip, int | float | np.number) and 0 < clip < np.inf):
            raise ValueError(f"clip must be a finite number over 0, or None, but was {clip!r}")
        count = 3 * (1 + (direction == "bidirectional"))
        if activations is None:
            activations = ("Sigmoid", "Tanh", "Tanh") * (count // 3)
        if not isinstance(activations, list | tuple) or len(activations) != count:
            raise ValueError(
                f"activations must be {count} names, of f, g and h for each direction, but was {activations!r}"
            )
        alphas, betas = _numbers("activation_alpha", activation_alpha), _numbers("activation_beta", activation_beta)
        functions = [_activation(name, alphas, betas) for name in activations]
        return cls(
            checks.size("hidden_size", hidden_size),
            direction,
            int(layout),
            None if clip is None else float(clip),
            tuple((f, g, h) for f, g, h in zip(*[iter(functions)] * 3, strict=True)),
            bool(input_forget),
        )


def _numbers(name: str, values: Iterable[Any] | None) -> Iterator[float]:
    try:
        return iter([float(value) for value in ([] if values is None else values)])
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a list of numbers, or None, but was {values!r}") from None


def _activation(name: object, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    """An activation by ONNX's name, with the next of the values that it takes."""
    known = next((n for n in NAMES if isinstance(name, str) and n.lower() == name.lower()), None)
    if known is None:
        raise ValueError(f"activations must be of {', '.join(NAMES)}, but one was {name!r}")
    values = [next(source, None) for source in (alphas, betas)[: TAKEN[known.lower()]]]
    try:
        return Activation(known, *values)
    except ValueError as error:
        raise ValueError(f"activations: {error}") from None


# --- weights ----------------------------------------------------------------------------------------------------------


class Weights(NamedTuple):
    """The inputs of a node that are its parameters, checked: (D, 4H, I), (D, 4H, H), (D, 8H), (D, 3H)."""

    W: np.ndarray
    R: np.ndarray
    B: np.ndarray | None
    P: np.ndarray | None

    @classmethod
    def checked(cls, attributes: Attributes, dtype: np.dtype, W: Any, R: Any, B: Any = None, P: Any = None) -> Weights:
        """The weights; TypeError or ValueError names one that does not fit the dtype, the attributes or the others."""
        D, H = attributes.directions, attributes.hidden_size
        W = checks.array("W", W, dtype)
        if W.ndim != 3 or W.shape[:2] != (D, 4 * H) or W.shape[2] == 0:
            raise ValueError(f"W must have the shape (D, 4H, I) = ({D}, {4 * H}, I), but has {W.shape}")
        R = checks.shaped("R", R, dtype, (D, 4 * H, H), "(D, 4H, H)")
        B = None if B is None else checks.shaped("B", B, dtype, (D, 8 * H), "(D, 8H)")
        P = None if P is None else checks.shaped("P", P, dtype, (D, 3 * H), "(D, 3H)")
        return cls(np.require(W, requirements=["C", "A"]), R, B, P)

    def part(self, d: int) -> Weights:
        """Those of one direction."""
        rows = slice(d, d + 1)
        return Weights(
            self.W[rows],
            self.R[rows],
            None if self.B is None else self.B[rows],
            None if self.P is None else self.P[rows],
        )

    def state_dict(self, coupled: bool) -> dict[str, np.ndarray]:
        """The parameters of a layer; where the forget gate is coupled, nothing is said of it."""
        state = weights.from_onnx(*self)
        if not coupled:
            return state
        H = self.R.shape[2]
        return {name: np.delete(array, slice(H, 2 * H), axis=0) for name, array in state.items()}


# --- a node -----------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A layer and the directions that it computes."""

    layer: LSTM
    directions: slice


class Operator:
    """One LSTM node: its attributes and weights, and the layers that compute it.

    Attributes
    ----------
    layers : tuple of LSTM
        The layers: one, or one for each direction where the two have different activations. They are frozen.
    direction : str
        "forward", "reverse" or "bidirectional".
    hidden_size, layout, clip, coupled
        The node's attributes.
    defaults : dict
        What a call takes of sequence_lens, initial_h and initial_c where it is given none: constants of a model.
    """

    def __init__(
        self, attributes: Attributes, given: Weights, defaults: Mapping[str, np.ndarray] | None = None
    ) -> None:
        self.defaults = dict(defaults or {})
        self._attributes, D = attributes, attributes.directions
        self.direction, self.hidden_size, self.layout = attributes.direction, attributes.hidden_size, attributes.layout
        self.clip, self.coupled = attributes.clip, attributes.coupled
        self.input_size, self.dtype = given.W.shape[2], given.W.dtype
        if len(set(attributes.activations)) == 1:
            self._parts = [Part(self._layer(given, 0, self.direction == "reverse"), slice(0, D))]
        else:
            self._parts = [Part(self._layer(given.part(d), d, d == 1), slice(d, d + 1)) for d in range(D)]

    @property
    def layers(self) -> tuple[LSTM, ...]:
        """The layers."""
        return tuple(part.layer for part in self._parts)

    def flops(self, Y: np.ndarray) -> float:
        """Floating-point operations of the call that returned Y."""
        return 8.0 * (self.input_size + self.hidden_size) * Y.size

    def _layer(self, given: Weights, d: int, reverse: bool) -> LSTM:
        """A layer with these weights, and the activations of direction d."""
        options: dict[str, Any] = {"reverse": reverse}
        options |= {"peephole": "diagonal"} if given.P is not None else {}
        if self._attributes.activations[d] != PLAIN:
            options["activations"] = self._attributes.activations[d]
        options |= {"coupled": True} if self.coupled else {}
        options |= {"clip": self.clip} if self.clip is not None else {}
        layer = LSTM(
            self.input_size,
            self.hidden_size,
            bias=given.B is not None,
            batch_first=self.layout == 1,
            bidirectional=len(given.W) == 2,
            dtype=self.dtype,
            seed=0,
            **options,
        )
        layer.load_state_dict(given.state_dict(self.coupled))
        layer.freeze()
        return layer

    def __call__(
        self, X: Any, sequence_lens: Any = None, initial_h: Any = None, initial_c: Any = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the node.

        Parameters
        ----------
        X, sequence_lens, initial_h, initial_c
            As for `fastlstm.onnx.lstm`.

        Returns
        -------
        Y, Y_h, Y_c
            As from `fastlstm.onnx.lstm`.
        """
        X = checks.array("X", X, self.dtype)
        if X.ndim != 3 or X.shape[2] != self.input_size:
            meaning = "(B, T, I)" if self.layout else "(T, B, I)"
            raise ValueError(f"X must have the shape {meaning} with I = {self.input_size}, but has {X.shape}")
        T, B = X.shape[:2][:: 1 - 2 * self.layout]
        if self.defaults:
            given = {"sequence_lens": sequence_lens, "initial_h": initial_h, "initial_c": initial_c}
            sequence_lens, initial_h, initial_c = (
                self.defaults.get(name) if value is None else value for name, value in given.items()
            )
        lengths = None if sequence_lens is None else checks.lengths("sequence_lens", sequence_lens, T, B)
        h, c = (self._state(name, value, B) for name, value in (("initial_h", initial_h), ("initial_c", initial_c)))
        if T and B:
            found = [layer(X, (h[d], c[d]), lengths=lengths) for layer, d in self._parts]
            y, (h, c) = found[0]
            if len(found) == 2:
                y_back, (h_back, c_back) = found[1]
                y, h, c = np.concatenate([y, y_back], axis=2), np.concatenate([h, h_back]), np.concatenate([c, c_back])
        else:
            y, h, c = np.zeros((*X.shape[:2], h.shape[0] * h.shape[2]), self.dtype), np.zeros_like(h), np.zeros_like(c)
        if lengths is not None:
            h[:, lengths == 0] = c[:, lengths == 0] = 0
        y = y.reshape(*y.shape[:2], self._attributes.directions, self.hidden_size)
        if self.layout:
            return y, np.ascontiguousarray(h.swapaxes(0, 1)), np.ascontiguousarray(c.swapaxes(0, 1))
        return np.ascontiguousarray(y.swapaxes(1, 2)), h, c

    def _state(self, name: str, value: Any, B: int) -> np.ndarray:
        """A state (D, B, H)."""
        D, H = self._attributes.directions, self.hidden_size
        if value is None:
            return np.zeros((D, B, H), self.dtype)
        shape, meaning = ((B, D, H), "(B, D, H)") if self.layout else ((D, B, H), "(D, B, H)")
        state = checks.shaped(name, value, self.dtype, shape, meaning)
        return np.ascontiguousarray(state.swapaxes(0, 1)) if self.layout else state


# --- the function -----------------------------------------------------------------------------------------------------

_kept: OrderedDict[Any, Operator] = OrderedDict()
_lock = Lock()


_attributes = lru_cache(64, typed=True)(Attributes.checked)  # checking them takes as long as a step of 128 units


def _operator(attributes: Attributes, given: Weights) -> Operator:
    """The operator of some attributes and weights, made anew unless one of the last ones had the same."""
    arrays = [array for array in given if array is not None]
    mark = digest(Variant(given.W.dtype.name), arrays)
    key = attributes, given.W.dtype, given.W.shape, given.B is None, given.P is None, mark
    with _lock:
        if (found := _kept.get(key)) is not None:
            _kept.move_to_end(key)
            return found
    found = Operator(attributes, given)
    with _lock:
        _kept[key] = found
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return found


def lstm(
    X: Any,
    W: Any,
    R: Any,
    B: Any = None,
    sequence_lens: Any = None,
    initial_h: Any = None,
    initial_c: Any = None,
    P: Any = None,
    *,
    hidden_size: int,
    direction: str = "forward",
    layout: int = 0,
    clip: float | None = None,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    input_forget: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the ONNX LSTM operator, of opset 22 and before, in float32 or float64; the onnx package is not needed.

    Parameters
    ----------
    X
        The input, (T, B, I), or (B, T, I) with layout 1; its dtype is that of all other arrays.
    W, R, B
        Weights (D, 4H, I), (D, 4H, H) and biases (D, 8H) or None, gates in the order i, o, f, c; D is 2 for
        "bidirectional", else 1.
    sequence_lens
        Steps of each row, (B,) integers in 0..T; None: T of all.
    initial_h, initial_c
        The state before the first step, (D, B, H), or (B, D, H) with layout 1; None: zeros.
    P
        Peepholes (D, 3H), gates in the order i, o, f, or None.
    hidden_size
        H.
    direction
        "forward", "reverse" or "bidirectional".
    layout
        0, or 1 for arrays with the batch first.
    clip
        Bound on the magnitude of what goes into the activations of gates and candidate, or None.
    activations
        Names of f, g and h for each direction: Sigmoid, Tanh and Tanh if None.
    activation_alpha, activation_beta
        Parameters of those activations that take them, in order; those that are not given have ONNX's defaults.
    input_forget
        1: the forget gate is 1 - i, and what W, R, B and P say of it is not used.

    Returns
    -------
    Y
        h of every step, (T, D, B, H), or (B, T, D, H) with layout 1; zeros behind a row's end.
    Y_h, Y_c
        h and c after each row's last step, shaped as the initial state; zeros where a row has no steps.

    Raises
    ------
    TypeError, ValueError
        An argument of the wrong type, dtype, shape or range; the message names it.

    Notes
    -----
    The layers of the last 16 different weights are kept, so that a call with weights as before need not pack them. A
    cell that is new, by its activations and their parameters, clip, peepholes or coupling, is compiled first.
    """
    lists = (
        value if isinstance(value, Hashable) else tuple(value)
        for value in (activations, activation_alpha, activation_beta)
    )
    attributes = _attributes(hidden_size, direction, layout, clip, *lists, input_forget)
    X = np.asarray(X)
    if X.dtype.newbyteorder("=") not in checks.DTYPES:
        raise TypeError(f"X must be of float32 or float64, but is of {X.dtype}")
    return _operator(attributes, Weights.checked(attributes, X.dtype.newbyteorder("="), W, R, B, P))(
        X, sequence_lens, initial_h, initial_c
    )
