"""The LSTM layer: named parameters, layers x directions, inference and training.

Nothing but the parameters lives on a layer (their packed copies are derived, and renewed when the parameters change),
so that one layer serves many threads at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.cell import CellSpec, parameter_shapes
from fastlstm.parameters import Parameters
from fastlstm.passes import calls
from fastlstm.passes.short import Shape, ShortBackward, ShortForward
from fastlstm.plan import Plan, plan_backward, plan_forward
from fastlstm.runtime.jit import Variant
from fastlstm.runtime.memory import placed
from fastlstm.runtime.threads import get_num_threads
from fastlstm.stream import Stream

State = tuple[np.ndarray, np.ndarray]
SHORT_FLOPS = 3e8  # of a layer: a call that computes more gains less than 2 % by being prepared
SHORT_SHAPES = 8  # for which calls are kept prepared


def _readable(array: np.ndarray) -> np.ndarray:
    """An array (T, B, n), or its copy where a pass could not read it: last axis contiguous, every element aligned."""
    return array if array.strides[2] == array.itemsize and array.flags.aligned else array.copy()


class Tape:
    """What `LSTM.forward` keeps for one `LSTM.backward`: opaque, and spent by it."""

    __slots__ = ("cells", "inputs", "masks", "short", "spent", "states", "unbatched")

    def __init__(self) -> None:
        self.inputs: list[np.ndarray] = []  # of each layer, (T, B, I)
        self.cells: list[list[State]] = []  # of each layer and direction, gates (T, B, 4, H) and c (T, B, H)
        self.states: list[State] = []  # of each layer, h_0 and c_0 (D, B, H)
        self.masks: list[np.ndarray | None] = []  # of each layer's output, None where nothing was dropped
        self.short: ShortBackward | None = None
        self.unbatched = False
        self.spent = False


class LSTM:
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
        Must be 0: this version has no projection.
    dtype
        `numpy.float32` or `numpy.float64`.
    seed
        Seed of the initial parameters, uniform in (-1/sqrt(H), 1/sqrt(H)) as in PyTorch, and of dropout; None takes
        fresh entropy.

    Attributes
    ----------
    parameters : Mapping[str, numpy.ndarray]
        For layer k `weight_ih_l{k}` (4H, I or D*H), `weight_hh_l{k}` (4H, H), `bias_ih_l{k}` and `bias_hh_l{k}` (4H,),
        each with `_reverse` appended for the second direction; gate order i, f, g, o. The arrays may be changed in
        place at any time between calls.

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
    ) -> None:
        self.input_size = checks.size("input_size", input_size)
        self.hidden_size = checks.size("hidden_size", hidden_size)
        self.num_layers = checks.size("num_layers", num_layers)
        self.bias = checks.flag("bias", bias)
        self.batch_first = checks.flag("batch_first", batch_first)
        self.dropout = checks.rate("dropout", dropout)
        self.bidirectional = checks.flag("bidirectional", bidirectional)
        if checks.size("proj_size", proj_size, least=0):
            raise ValueError(f"proj_size must be 0 in this version, but was {proj_size}")
        self.proj_size = 0
        self.dtype = checks.floating(dtype)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                f"dropout acts between layers, and there is one only: dropout={dropout} has no effect",
                UserWarning,
                stacklevel=2,
            )
        self.spec = CellSpec(bias=self.bias)
        self._variant = Variant(self.dtype.name)
        self._random = np.random.default_rng(seed)
        self._names = [
            [f"_l{k}{suffix}" for suffix in ("", "_reverse")[: self.directions]] for k in range(self.num_layers)
        ]
        bound = self.hidden_size**-0.5
        self._parameters: dict[str, np.ndarray] = {}
        for k, names in enumerate(self._names):
            shapes = parameter_shapes(
                self.spec, self.input_size if k == 0 else self.directions * self.hidden_size, self.hidden_size
            )
            for suffix in names:
                for name, shape in shapes.items():
                    self._parameters[name + suffix] = array = placed(shape, self.dtype)
                    array[...] = self._random.uniform(-bound, bound, shape)
        self._mapping = Parameters(self._parameters)
        self._packed: dict[str, tuple[bytes, Any, object]] = {}
        self._frozen = False
        self._short: dict[tuple[bool, tuple[int, ...]], ShortForward] = {}  # by training, and the shape of x

    @property
    def directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The parameters by name, in PyTorch's order; the arrays themselves, not copies."""
        return self._mapping

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters by name."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy parameters from a mapping.

        Parameters
        ----------
        state_dict
            For every name of `parameters` an array of its shape, or anything that `numpy.asarray` takes, such as a
            torch tensor.

        Raises
        ------
        TypeError, ValueError
            No mapping, or names that are missing, unexpected or misshapen: one error lists them all, and nothing has
            been copied.
        """
        arrays = checks.state_dict(state_dict, self._parameters)
        if self._frozen:
            raise ValueError("load_state_dict: the layer must not be frozen, but is; call freeze(False) first")
        for name, value in arrays.items():
            self._parameters[name][...] = value
        self._mapping.written()

    def freeze(self, frozen: bool = True) -> None:
        """Make the parameters read-only, and calls faster by what it takes to find out whether they changed.

        A call otherwise reads all parameters once for that if they were taken from `parameters` since the last one, or
        if somebody still holds one, which shows where a call computes little: for one step of one row it is half of
        the time.

        Parameters
        ----------
        frozen
            False makes the parameters writable again.

        Notes
        -----
        NumPy refuses writes to the arrays of `parameters` then, but not through views that were taken before.
        """
        self._frozen = checks.flag("frozen", frozen)
        for array in self._parameters.values():
            array.flags.writeable = not frozen
        self._packed.clear()
        self._mapping.written()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: nothing that was derived or prepared."""
        return self.__dict__ | {"_packed": {}, "_short": {}}

    def __repr__(self) -> str:
        """The constructor's call."""
        options = [str(self.input_size), str(self.hidden_size)]
        options += [f"num_layers={self.num_layers}"] * (self.num_layers != 1) + ["bias=False"] * (not self.bias)
        options += ["batch_first=True"] * self.batch_first + [f"dropout={self.dropout}"] * bool(self.dropout)
        options += ["bidirectional=True"] * self.bidirectional + [f"dtype={self.dtype.name}"] * (
            self.dtype != np.float32
        )
        return f"{type(self).__name__}({', '.join(options)})"

    # --- calls --------------------------------------------------------------------------------------------------------

    def __call__(self, x: Any, state: tuple[Any, Any] | None = None) -> tuple[np.ndarray, State]:
        """Run the layer for inference: nothing is kept, and no dropout acts.

        Parameters
        ----------
        x
            (T, B, I), or (B, T, I) if `batch_first`, or (T, I) for a single sequence; of the layer's dtype, T at
            least 1.
        state
            (h_0, c_0), each (D*L, B, H), or (D*L, H) for a single sequence; zeros if None.

        Returns
        -------
        y
            (T, B, D*H), or (B, T, D*H), or (T, D*H): h of the last layer at each step.
        (h_n, c_n)
            The last state, shaped as `state`.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, dtype or shape; the message names it.
        """
        if (short := self._prepared(x, state, False)) is not None:
            return short(x, state, self._mapping.epoch)
        return self._forward(x, state, None)

    def forward(self, x: Any, state: tuple[Any, Any] | None = None) -> tuple[np.ndarray, State, Tape]:
        """Run the layer for training: as a plain call, with dropout between layers, and with a tape for `backward`.

        The tape takes 5 T B H elements a layer and direction, and refers to x, and to nothing that is returned.

        Returns
        -------
        y, (h_n, c_n)
            As from a plain call.
        tape
            For one call of `backward`. x must not be changed before it.
        """
        tape = Tape()
        if (short := self._prepared(x, state, True)) is not None:
            y, state_n, (x_in, cells, state_0, tape.short) = short.record(x, state, self._mapping.epoch)
            tape.inputs, tape.cells, tape.states, tape.masks = [x_in], [cells], [state_0], [None]
            tape.unbatched = x.ndim == 2
            return y, state_n, tape
        y, state_n = self._forward(x, state, tape)
        return y, state_n, tape

    def backward(
        self, tape: Tape, dy: Any, dstate: tuple[Any, Any] | None = None
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
        """Gradients of a loss from its gradients with respect to what `forward` returned.

        Parameters
        ----------
        tape
            From `forward`; it is spent by this call.
        dy
            Gradient with respect to y, shaped as y.
        dstate
            Gradients with respect to (h_n, c_n); zeros if None.

        Returns
        -------
        dx
            Shaped as x.
        (dh_0, dc_0)
            Shaped as the state.
        grads
            For every name of `parameters` an array of its shape.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, dtype or shape; a tape that was spent.
        """
        if not isinstance(tape, Tape):
            raise TypeError(f"tape must be what forward returned, but was {type(tape).__name__}")
        if tape.spent:
            raise ValueError(
                "tape must be fresh from forward, but backward has spent it: dG stands where the gates were"
            )
        if tape.short is not None and tape.short.takes(dy, dstate):
            return self._short_backward(tape, tape.short, dy, dstate)
        T, B, _ = tape.inputs[0].shape
        D, L, H = self.directions, self.num_layers, self.hidden_size
        shape = self._given_shape(T, B, D * H, tape.unbatched)
        given = checks.array("dy", dy, self.dtype)
        if given.shape != shape:
            raise ValueError(f"dy must have the shape of y, {shape}, but has {given.shape}")
        d = _readable(self._time_first(given, tape.unbatched))
        dh_n, dc_n = self._state("dstate", dstate, B, tape.unbatched)
        tape.spent = True
        dh_0, dc_0 = np.zeros((L * D, B, H), self.dtype), np.zeros((L * D, B, H), self.dtype)
        grads: dict[str, np.ndarray] = {}
        x_shape = self._given_shape(T, B, self.input_size, tape.unbatched)
        if B == 0:
            return (
                np.zeros(x_shape, self.dtype),
                self._squeeze((dh_0, dc_0), tape),
                {n: np.zeros_like(p) for n, p in self._parameters.items()},
            )
        for k in reversed(range(L)):
            x, rows = tape.inputs[k], slice(k * D, (k + 1) * D)
            dxs = [np.empty(x_shape if k == 0 else x.shape, self.dtype) for _ in range(D)]
            views = [self._time_first(a, tape.unbatched) if k == 0 else a for a in dxs]
            if tape.masks[k] is not None:
                d = d * tape.masks[k]
            plan = plan_backward(T, B, x.shape[2], H, D, self.dtype, get_num_threads())
            h_0, c_0 = tape.states[k]
            packs = [self._pack("backward", suffix) for suffix in self._names[k]]
            found = calls.backward(
                self._variant,
                plan,
                x,
                packs,
                tape.cells[k],
                h_0,
                c_0,
                d,
                dh_n[rows],
                dc_n[rows],
                views,
                dh_0[rows],
                dc_0[rows],
                [False, True][:D],
            )
            for suffix, grad in zip(self._names[k], found, strict=True):
                grads["weight_ih" + suffix], grads["weight_hh" + suffix] = grad.w_ih, grad.w_hh
                if self.bias:
                    grads["bias_ih" + suffix], grads["bias_hh" + suffix] = grad.b, grad.b.copy()
            if D == 2:
                np.add(dxs[0], dxs[1], out=dxs[0])
            d = views[0]
        tape.cells.clear()
        return dxs[0], self._squeeze((dh_0, dc_0), tape), {name: grads[name] for name in self._parameters}

    def _short_backward(
        self, tape: Tape, short: ShortBackward, dy: np.ndarray, dstate: State | None
    ) -> tuple[np.ndarray, State, dict[str, np.ndarray]]:
        p, tape.spent = self._parameters, True
        weights = p["weight_ih_l0"], p["weight_hh_l0"]
        dx, dh, dc, dw_ih, dw_hh, db = short(tape.inputs[0], tape.cells[0][0], tape.states[0], dy, dstate, weights)
        tape.cells.clear()
        grads = {"weight_ih_l0": dw_ih, "weight_hh_l0": dw_hh}
        if self.bias:
            grads |= {"bias_ih_l0": db, "bias_hh_l0": db.copy()}
        return dx, (dh, dc), grads

    def stream(self, batch_size: int = 1) -> Stream:
        """A stream of single steps through this layer's parameters as they are now.

        Parameters
        ----------
        batch_size
            Rows B of each step.

        Raises
        ------
        ValueError
            For a bidirectional layer: its second direction begins at the last step, which a stream has not seen.
        """
        if self.bidirectional:
            raise ValueError(
                "stream: bidirectional must be False, since the reverse direction begins at a last step "
                "that a stream has not seen"
            )
        B = checks.size("batch_size", batch_size)
        return Stream(
            self._variant,
            [self._pack("forward", names[0]) for names in self._names],
            self.input_size,
            self.hidden_size,
            B,
            self.dtype,
        )

    def plan(self, T: int, B: int, training: bool = False, layer: int = 0) -> Plan:
        """How a call over T steps of B rows is cut: one layer's plan, forward or, if `training`, backward."""
        T, B = checks.size("T", T), checks.size("B", B)
        I = self.input_size if layer == 0 else self.directions * self.hidden_size
        if training:
            return plan_backward(T, B, I, self.hidden_size, self.directions, self.dtype, get_num_threads())
        return plan_forward(
            T,
            B,
            I,
            self.hidden_size,
            self.directions,
            self.dtype,
            get_num_threads(),
            uniform=not self.batch_first or B == 1,
        )

    # --- parts of a call ----------------------------------------------------------------------------------------------

    def _forward(self, x: Any, state: Any, tape: Tape | None) -> tuple[np.ndarray, State]:
        given = checks.array("x", x, self.dtype)
        layout = "(B, T, I)" if self.batch_first else "(T, B, I)"
        if given.ndim not in (2, 3):
            raise ValueError(f"x must have the shape {layout} or, for a single sequence, (T, I), but has {given.shape}")
        if given.shape[-1] != self.input_size:
            raise ValueError(
                f"x must have {self.input_size} features (input_size) on its last axis, but its shape is {given.shape}"
            )
        unbatched = given.ndim == 2
        x_in = self._time_first(given, unbatched)
        T, B, _ = x_in.shape
        if T == 0:
            raise ValueError(f"x must have at least one step, but its shape is {given.shape}")
        D, L, H = self.directions, self.num_layers, self.hidden_size
        h_0, c_0 = self._state("state", state, B, unbatched)
        h_n, c_n = np.empty_like(h_0), np.empty_like(c_0)
        if tape is not None:
            tape.unbatched = unbatched
        x_in = _readable(x_in)
        if tape is not None and not calls.row_stride(x_in):  # none, or 0: rows that are all one
            x_in = np.ascontiguousarray(x_in)
        below = x_in
        variant = self._variant._replace(training=tape is not None)
        for k in range(L):
            last = k == L - 1
            out = np.empty(self._given_shape(T, B, D * H, unbatched) if last else (T, B, D * H), self.dtype)
            y = self._time_first(out, unbatched) if last else out
            rows = slice(k * D, (k + 1) * D)
            cells = []
            if tape is not None:
                cells = [(np.empty((T, B, 4, H), self.dtype), np.empty((T, B, H), self.dtype)) for _ in range(D)]
            if B:
                packs = [self._pack("forward", suffix) for suffix in self._names[k]]
                plan = plan_forward(
                    T, B, below.shape[2], H, D, self.dtype, get_num_threads(), calls.row_stride(below) is not None
                )
                calls.forward(
                    variant, plan, below, packs, h_0[rows], c_0[rows], y, h_n[rows], c_n[rows], cells, [False, True][:D]
                )
            if tape is not None:
                tape.inputs.append(below)
                tape.cells.append(cells)
                tape.states.append((h_0[rows], c_0[rows]))
                mask = None
                if self.dropout and not last:
                    mask = (
                        self._random.random(y.shape, self.dtype) >= self.dtype.type(self.dropout)
                    ) / self.dtype.type(max(1 - self.dropout, 1e-30))
                    y = y * mask
                tape.masks.append(mask)
            below = y
        return out, ((h_n[:, 0], c_n[:, 0]) if unbatched else (h_n, c_n))

    def _time_first(self, array: np.ndarray, unbatched: bool) -> np.ndarray:
        """The view (T, B, n) of an array in the caller's layout."""
        if unbatched:
            return array[:, None]
        return array.transpose(1, 0, 2) if self.batch_first else array

    def _given_shape(self, T: int, B: int, n: int, unbatched: bool) -> tuple[int, ...]:
        """The shape of an array (T, B, n) in the caller's layout."""
        return (T, n) if unbatched else (B, T, n) if self.batch_first else (T, B, n)

    def _squeeze(self, state: State, tape: Tape) -> State:
        return (state[0][:, 0], state[1][:, 0]) if tape.unbatched else state

    def _state(self, name: str, state: Any, B: int, unbatched: bool) -> State:
        """The two arrays (D*L, B, H) of a state, or zeros."""
        layers, H = self.directions * self.num_layers, self.hidden_size
        if state is None:
            return np.zeros((layers, B, H), self.dtype), np.zeros((layers, B, H), self.dtype)
        shape, meaning = ((layers, H), "(D*L, H)") if unbatched else ((layers, B, H), "(D*L, B, H)")
        h, c = checks.pair(name, state)
        h, c = (
            checks.shaped(f"{part} of {name}", value, self.dtype, shape, meaning)
            for part, value in (("h", h), ("c", c))
        )
        return h.reshape(layers, B, H), c.reshape(layers, B, H)

    def _prepared(self, x: Any, state: Any, training: bool) -> ShortForward | None:
        """The prepared call for arguments as they mostly are, if it is short; None for the long way."""
        if type(x) is not np.ndarray:
            return None
        short = self._short.get((training, x.shape))
        if short is None or short.stale():
            short = self._prepare(training, x.shape)
        return short if short is not None and short.takes(x, state) else None

    def _prepare(self, training: bool, shape: tuple[int, ...]) -> ShortForward | None:
        """Prepare calls with an x of a shape, if such calls are short."""
        I, H, L, D = self.input_size, self.hidden_size, self.num_layers, self.directions
        if len(shape) not in (2, 3) or shape[-1] != I:
            return None
        unbatched = len(shape) == 2
        first = self.batch_first and not unbatched
        T, B = (shape[0], 1) if unbatched else shape[1::-1] if first else shape[:2]
        if not 0 < 8.0 * H * (I + H) * T * B * D <= SHORT_FLOPS:
            return None
        state = (D * L, H) if unbatched else (D * L, B, H)
        variant = self._variant._replace(training=training)
        told = Shape(shape, (*shape[:-1], D * H), state, T, B, I, H, L, D, first, self.dtype, variant)
        if not ShortForward.fits(told):
            return None
        if len(self._short) >= SHORT_SHAPES:
            self._short.pop(next(iter(self._short)), None)
        self._short[training, shape] = found = ShortForward(told, self._bind, self._lie)
        return found

    def _bind(self) -> tuple[list[Any], object]:
        """The packed weights of all layers, and the epoch of the parameters in which they hold, if they do so beyond
        this call.
        """
        epoch, names = self._mapping.epoch, [suffix for names in self._names for suffix in names]
        packs = [self._pack("forward", suffix) for suffix in names]
        holds = self._frozen or all(self._packed["forward" + suffix][2] is epoch for suffix in names)
        return packs, epoch if holds else None

    def _lie(self) -> list[np.ndarray] | None:
        """The parameters of the first layer's first direction, if somebody holds them, who may change them before the
        next call; None if packed copies would last.
        """
        names = self._parameters.keys()
        if self._frozen or self._mapping.alone(names):
            return None
        nothing = [] if self.bias else [np.zeros(4 * self.hidden_size, self.dtype)] * 2
        return [*self._parameters.values(), *nothing]

    def _pack(self, way: str, suffix: str) -> Any:
        """The packed weights of one layer and direction; packed anew when a digest tells that parameters changed.

        No digest is needed where nobody can have changed them.
        """
        known, epoch = self._packed.get(way + suffix), self._mapping.epoch
        if known is not None and (self._frozen or known[2] is epoch):
            return known[1]
        settled = epoch if self._mapping.alone(n for n in self._parameters if n.endswith(suffix)) else None
        p = self._parameters
        matrices = [p["weight_ih" + suffix], p["weight_hh" + suffix]]
        biases = (
            [p["bias_ih" + suffix], p["bias_hh" + suffix]]
            if self.bias
            else [np.zeros(4 * self.hidden_size, self.dtype)] * 2
        )
        used = matrices + biases if way == "forward" and self.bias else matrices
        mark = calls.digest(self._variant, used)
        if known is not None and known[0] == mark:
            packed = known[1]
        elif way == "forward":
            packed = calls.pack_forward(self._variant, *matrices, *biases)
        else:
            packed = calls.pack_backward(self._variant, *matrices)
        self._packed[way + suffix] = (mark, packed, settled)
        return packed
