"""The specification: every LSTM cell of the library, forward and backward through time, in plain NumPy.

Read it first; never optimise it. One step of the plain cell, with gates i (input), f (forget), o (output), candidate g,
cell state c and output h; `_` marks the step before, `*` is elementwise, s is the sigmoid (Hochreiter and Schmidhuber
1997, with the forget gate of Gers, Schmidhuber and Cummins 2000; form and parameters are those of `torch.nn.LSTM`):

    i = s(W_i x + R_i h_ + b_i)             f = s(W_f x + R_f h_ + b_f)
    g = tanh(W_g x + R_g h_ + b_g)          o = s(W_o x + R_o h_ + b_o)
    c = f * c_ + i * g                      h = o * tanh(c)

`CellSpec` says what a cell has beyond that. Each option changes one place in `step_fwd` and one in `step_bwd`:

- peephole: the gates see c too. Diagonal: p_i * c_, p_f * c_, and p_o * c from the new c (Gers and Schmidhuber 2000;
  the ONNX operator). Full: P c_ with a matrix P on all four, all from the step before.
- activations: s, tanh and tanh make way for others, as in the text of the ONNX operator (which calls them f, g and h).
- coupled: f = 1 - i (ONNX `input_forget`; its text does not say which of the two is kept, onnxruntime keeps i).
- clip: bounds what goes into the activations of i, f, g and o, peephole and bias included. Whether c is clipped on its
  way into h, the ONNX text leaves open; onnxruntime does not, nor does this.
- proj_size: h = W_hr (o * tanh(c)) (`torch.nn.LSTM`).
- layer_norm: LN(W x) + LN(R h_) + b in the gates, tanh(LN(c)) in h (Ba, Kiros and Hinton 2016, supplement; Haste).
- zoneout: a unit of c or h keeps its value where its mask is 1 (Krueger et al. 2016); h comes from the c that it would
  have had. Without masks, at inference, the mask is its expectation: the rate.
- recurrent dropout: R (m * h_) with a mask m, mostly the same for all steps (Gal and Ghahramani 2016; Keras).

What others draw at random is given here: masks are arguments, so that two implementations can be compared.
T steps, B rows, I input size, H units (size of c), P size of h, D directions, L layers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastlstm.cell import LAYER_NORM_EPS, PLAIN, Activation, CellSpec, parameter_shapes

Array = np.ndarray
Params = dict[str, Array]
Pair = tuple[Array, Array]


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


# y(x) and dy/dx with a for alpha, b for beta. At a kink the derivative is PyTorch's.
_FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "sigmoid": (lambda x, a, b: sigmoid(x), lambda x, a, b: sigmoid(x) * (1 - sigmoid(x))),
    "tanh": (lambda x, a, b: np.tanh(x), lambda x, a, b: 1 - np.tanh(x) ** 2),
    "relu": (lambda x, a, b: np.maximum(x, 0), lambda x, a, b: x > 0),
    "linear": (lambda x, a, b: x, lambda x, a, b: np.ones_like(x)),
    "hard_tanh": (lambda x, a, b: np.clip(x, -1, 1), lambda x, a, b: abs(x) < 1),
    "softsign": (lambda x, a, b: x / (1 + abs(x)), lambda x, a, b: 1 / (1 + abs(x)) ** 2),
    "softplus": (lambda x, a, b: np.logaddexp(0, x), lambda x, a, b: sigmoid(x)),
    "hard_sigmoid": (
        lambda x, a, b: np.clip(a * x + b, 0, 1),
        lambda x, a, b: a * ((0 < a * x + b) & (a * x + b < 1)),
    ),
    "leaky_relu": (lambda x, a, b: np.where(x >= 0, x, a * x), lambda x, a, b: np.where(x > 0, 1, a)),
    "elu": (lambda x, a, b: np.where(x >= 0, x, a * np.expm1(x)), lambda x, a, b: np.where(x > 0, 1, a * np.exp(x))),
    "thresholded_relu": (lambda x, a, b: np.where(x <= a, 0, x), lambda x, a, b: x > a),
    "affine": (lambda x, a, b: a * x + b, lambda x, a, b: a * np.ones_like(x)),
    "scaled_tanh": (lambda x, a, b: a * np.tanh(b * x), lambda x, a, b: a * b * (1 - np.tanh(b * x) ** 2)),
}


def activate(kind: Activation, x: Array, clip: float | None = None) -> Array:
    x = x if clip is None else np.clip(x, -clip, clip)
    return np.asarray(_FUNCTIONS[kind.name][0](x, kind.alpha, kind.beta), x.dtype)


def slope(kind: Activation, x: Array, clip: float | None = None) -> Array:
    inside = 1 if clip is None else abs(x) <= clip
    return inside * np.asarray(_FUNCTIONS[kind.name][1](x, kind.alpha, kind.beta), x.dtype)


# The parts that only some cells have: each is the identity, or 0, in the plain one.


def peep_fwd(spec: CellSpec, p: Params, gate: str, c: Array) -> Array | float:
    """What a gate sees of c (rows, H)."""
    if gate not in spec.peephole_gates:
        return 0
    weight = blocks(p["weight_ch"], spec.peephole_gates)[gate]
    return c * weight if spec.peephole == "diagonal" else c @ weight.T


def peep_bwd(spec: CellSpec, p: Params, d: Params, gate: str, da: Array, c: Array) -> Array | float:
    if gate not in spec.peephole_gates:
        return 0
    weight, dweight = (blocks(each["weight_ch"], spec.peephole_gates)[gate] for each in (p, d))
    dweight += (da * c).sum(axis=0) if spec.peephole == "diagonal" else da.T @ c
    return da * weight if spec.peephole == "diagonal" else da @ weight


def norm_fwd(gain: Array | None, z: Array) -> Array:
    """Layer normalisation over the last axis, by the biased variance; the shift is added by the caller."""
    return z if gain is None else gain * unit(z)[0]


def norm_bwd(gain: Array | None, dgain: Array | None, dn: Array, z: Array) -> Array:
    if gain is None:
        return dn
    (u, deviation), du = unit(z), dn * gain
    dgain += (dn * u).sum(axis=0)
    return (du - du.mean(axis=1, keepdims=True) - u * (du * u).mean(axis=1, keepdims=True)) / deviation


def unit(z: Array) -> Pair:
    """The rows of z with mean 0 and variance 1, and their standard deviations."""
    deviation = np.sqrt(z.var(axis=1, keepdims=True) + LAYER_NORM_EPS)
    return (z - z.mean(axis=1, keepdims=True)) / deviation, deviation


def zone_fwd(mask: Array | None, old: Array, new: Array) -> Array:
    return new if mask is None else mask * old + (1 - mask) * new


def zone_bwd(mask: Array | None, d: Array) -> tuple[Array | float, Array]:
    return (0, d) if mask is None else (mask * d, (1 - mask) * d)


def blocks(stacked: Array, gates: tuple[str, ...], axis: int = 0) -> Params:
    """The part of each gate (a view) in an array that stacks them."""
    return dict(zip(gates, np.split(stacked, len(gates), axis), strict=True))


# One step, for the rows that take it. Weights stand as (out, in), so that W x reads x @ W.T for rows x.


def step_fwd(spec: CellSpec, p: Params, x: Array, h_: Array, c_: Array, masks: dict[str, Any]) -> SimpleNamespace:
    """From x (rows, I), h_ (rows, P) and c_ (rows, H) to h and c, returned with every value on the way."""
    m = SimpleNamespace(**masks)
    gate, candidate, output = spec.activations

    u = x @ p["weight_ih"].T
    v = (m.recurrent * h_) @ p["weight_hh"].T
    z = norm_fwd(p.get("weight_ln_ih"), u) + norm_fwd(p.get("weight_ln_hh"), v)
    z = z + p["bias_ih"] + p["bias_hh"] if spec.bias else z
    a = blocks(z, spec.gates, axis=1)
    for q in spec.gates[:-1]:  # all but o
        a[q] = a[q] + peep_fwd(spec, p, q, c_)

    i = activate(gate, a["i"], spec.clip)
    f = 1 - i if spec.coupled else activate(gate, a["f"], spec.clip)
    g = activate(candidate, a["g"], spec.clip)
    c = f * c_ + i * g
    a["o"] = a["o"] + peep_fwd(spec, p, "o", c if spec.output_peephole == "new" else c_)
    o = activate(gate, a["o"], spec.clip)
    n = norm_fwd(p.get("weight_ln_c"), c) + p.get("bias_ln_c", 0)
    r = o * activate(output, n)
    h = r @ p["weight_hr"].T if spec.proj_size else r

    at = SimpleNamespace(x=x, h_=h_, c_=c_, u=u, v=v, a=a, i=i, f=f, g=g, o=o, inner=c, n=n, r=r, m=m)
    at.h, at.c = zone_fwd(m.zoneout_h, h_, h), zone_fwd(m.zoneout_c, c_, c)
    return at


def step_bwd(spec: CellSpec, p: Params, d: Params, at: SimpleNamespace, dh: Array, dc: Array) -> tuple[Array, ...]:
    """From dh and dc to dx, dh_ and dc_, with `at` what `step_fwd` returned. The gradients at p are added to d."""
    gate, candidate, output = spec.activations
    dh_, dh = zone_bwd(at.m.zoneout_h, dh)
    dc_, dc = zone_bwd(at.m.zoneout_c, dc)

    if spec.proj_size:  # h = W_hr r
        d["weight_hr"] += dh.T @ at.r
        dh = dh @ p["weight_hr"]
    dn = dh * at.o * slope(output, at.n)  # r = o * output(n)
    do = dh * activate(output, at.n)
    if "bias_ln_c" in p:
        d["bias_ln_c"] += dn.sum(axis=0)
    dc = dc + norm_bwd(p.get("weight_ln_c"), d.get("weight_ln_c"), dn, at.inner)

    da = {"o": do * slope(gate, at.a["o"], spec.clip)}
    if spec.output_peephole == "new":
        dc = dc + peep_bwd(spec, p, d, "o", da["o"], at.inner)
    else:
        dc_ = dc_ + peep_bwd(spec, p, d, "o", da["o"], at.c_)
    di, df, dg, dc_ = dc * at.g, dc * at.c_, dc * at.i, dc_ + dc * at.f  # c = f * c_ + i * g
    if spec.coupled:
        di = di - df
    else:
        da["f"] = df * slope(gate, at.a["f"], spec.clip)
    da["i"] = di * slope(gate, at.a["i"], spec.clip)
    da["g"] = dg * slope(candidate, at.a["g"], spec.clip)
    for q in spec.gates[:-1]:
        dc_ = dc_ + peep_bwd(spec, p, d, q, da[q], at.c_)

    dz = np.concatenate([da[q] for q in spec.gates], axis=1)
    if spec.bias:
        d["bias_ih"] += dz.sum(axis=0)
        d["bias_hh"] += dz.sum(axis=0)
    du = norm_bwd(p.get("weight_ln_ih"), d.get("weight_ln_ih"), dz, at.u)
    dv = norm_bwd(p.get("weight_ln_hh"), d.get("weight_ln_hh"), dz, at.v)
    d["weight_ih"] += du.T @ at.x
    d["weight_hh"] += dv.T @ (at.m.recurrent * at.h_)
    return du @ p["weight_ih"], dh_ + at.m.recurrent * (dv @ p["weight_hh"]), dc_


# A sequence: layers and directions over steps.


class Run(NamedTuple):
    """One layer in one direction."""

    suffix: str  # of its parameters' names
    p: Params
    masks: dict[str, Array | None]  # (T, B, P or H)
    order: range  # in which it takes the steps
    live: Array  # (T, B): whether the row has this step
    cut: Array  # (T, B): whether the state is reset before it
    steps: dict[int, SimpleNamespace]  # what step_fwd returned at each t


class Tape(NamedTuple):
    """What `forward` leaves for `backward`: `runs[D * layer + direction].steps[t]` has all values of step t."""

    spec: CellSpec
    sizes: tuple[tuple[int, ...], ...]  # of h_n and c_n
    masks: list[Array]  # of each layer's input
    runs: list[Run]


def run_fwd(spec: CellSpec, run: Run, x: Array, h: Array, c: Array, h_reset: Array, c_reset: Array) -> Array:
    """From x (T, B, I) to y (T, B, P); h (B, P) and c (B, H) go from the initial state to the final one in place."""
    y = np.zeros((*x.shape[:2], h.shape[1]), x.dtype)
    for t in run.order:
        n, r = run.live[t], run.cut[t]
        h[r], c[r] = h_reset[r], c_reset[r]
        masks = {name: None if mask is None else mask[t, n] for name, mask in run.masks.items()}
        run.steps[t] = step_fwd(spec, run.p, x[t, n], h[n], c[n], masks)
        y[t, n] = h[n] = run.steps[t].h
        c[n] = run.steps[t].c
    return y


def run_bwd(spec: CellSpec, run: Run, d: Params, dy: Array, dh: Array, dc: Array) -> Array:
    """From dy (T, B, P) to dx (T, B, I); dh and dc go from the final state to the initial one in place."""
    dx = np.zeros((*dy.shape[:2], run.p["weight_ih"].shape[1]), dy.dtype)
    for t in reversed(run.order):
        n, r = run.live[t], run.cut[t]
        dx[t, n], dh[n], dc[n] = step_bwd(spec, run.p, d, run.steps[t], dh[n] + dy[t, n], dc[n])
        dh[r] = dc[r] = 0
    return dx


@np.errstate(over="ignore", invalid="ignore")
def forward(
    params: Params,
    x: ArrayLike,
    state: Any = None,
    *,
    num_layers: int = 1,
    bidirectional: bool = False,
    spec: CellSpec = PLAIN,
    lengths: ArrayLike | None = None,
    reset: Any = None,
    masks: dict[str, Any] | None = None,
) -> tuple[Array, Pair, Tape]:
    """Run the LSTM over a batch of sequences.

    Parameters
    ----------
    params
        The parameters by PyTorch's names: those of `parameter_shapes`, each followed by `_l0`, `_l0_reverse`, `_l1` and
        so on. Their type, float32 or float64, is the one in which everything is computed.
    x : (T, B, I)
        The input. What stands in it past a row's length is not read.
    state : ((D L, B, P), (D L, B, H)), optional
        The initial h and c: layer 0 forward, layer 0 reverse, layer 1 forward and so on. Default: zeros.
    num_layers, bidirectional, spec
        L, whether D is 2, and the cell.
    lengths : (B,), optional
        The number of steps of each row, 0 to T. A row that has ended takes no further step: its y is 0, its h_n and c_n
        are those of its last step, and the reverse direction starts at its last step (PyTorch's packed sequences; ONNX
        `sequence_lens`). A row of length 0 hands on its initial state. (PyTorch allows none, ONNX does not say;
        onnxruntime gives zeros.)
    reset : (T, B) bool, or a pair of that and ((D L, B, P), (D L, B, H)), optional
        Where True, a new sequence starts at that step of that row: the state goes to zero, or to the values given,
        before it, and no gradient passes. The reverse direction is cut at the same place, on its way from that step to
        the one before it in time. Past a row's length it has no effect.
    masks : dict, optional
        Factors, broadcast to the shapes given. `input_l{k}` (T, B, I or D P): what the input of layer k is multiplied
        by (dropout). By layer and direction, as in `params`: `recurrent_l0` (T, B, P), the same for h_ on its way into
        the gates; `zoneout_h_l0` (T, B, P) and `zoneout_c_l0` (T, B, H), 1 where a unit keeps its value. T is the index
        of x in both directions.

    Returns
    -------
    y : (T, B, D P)
        The h of the last layer, both directions side by side.
    (h_n, c_n) : ((D L, B, P), (D L, B, H))
        The state after each row's last step.
    tape
        For `backward`.

    Raises
    ------
    KeyError, ValueError
        A parameter that is missing or misshapen.
    """
    masks, directions, dtype = masks or {}, 1 + bidirectional, np.asarray(params["weight_ih_l0"]).dtype
    y = np.asarray(x, dtype)
    steps, batch, _ = y.shape
    units = len(params["weight_hh_l0"]) // len(spec.gates)
    size_h, size_c = (steps, batch, spec.proj_size or units), (steps, batch, units)
    sizes = tuple((num_layers * directions, *size[1:]) for size in (size_h, size_c))

    h, c = _states(state, sizes, dtype)
    starts, values = reset if isinstance(reset, tuple) else (reset, None)
    h_reset, c_reset = _states(values, sizes, dtype)
    live = np.arange(steps)[:, None] < np.broadcast_to(steps if lengths is None else np.asarray(lengths), batch)
    starts = live & (False if starts is None else np.asarray(starts, bool))
    cuts = starts, np.concatenate([starts[1:], np.zeros((1, batch), bool)])  # forward, reverse

    tape = Tape(spec, sizes, [], [])
    for layer in range(num_layers):
        tape.masks.append(_mask(masks, f"input_l{layer}", 1, y.shape, dtype))
        parts = []
        for direction in range(directions):
            suffix, s = f"_l{layer}" + "_reverse" * direction, len(tape.runs)
            factors = {
                "recurrent": _mask(masks, "recurrent" + suffix, 1, size_h, dtype),
                "zoneout_h": _mask(masks, "zoneout_h" + suffix, spec.zoneout[1] or None, size_h, dtype),
                "zoneout_c": _mask(masks, "zoneout_c" + suffix, spec.zoneout[0] or None, size_c, dtype),
            }
            p = _parameters(params, suffix, parameter_shapes(spec, y.shape[2], units))
            tape.runs.append(Run(suffix, p, factors, range(steps)[:: 1 - 2 * direction], live, cuts[direction], {}))
            parts.append(run_fwd(spec, tape.runs[s], tape.masks[layer] * y, h[s], c[s], h_reset[s], c_reset[s]))
        y = np.concatenate(parts, axis=2)
    return y, (h, c), tape


@np.errstate(over="ignore", invalid="ignore")
def backward(tape: Tape, dy: ArrayLike, dstate: Any = None) -> tuple[Array, Pair, Params]:
    """Propagate gradients back through time.

    Parameters
    ----------
    tape
        What `forward` returned. It can be used again.
    dy : (T, B, D P)
        The gradient at y. What stands in it past a row's length is not read.
    dstate : ((D L, B, P), (D L, B, H)), optional
        The gradients at h_n and c_n. Default: zeros.

    Returns
    -------
    dx : (T, B, I)
        The gradient at x; 0 past a row's length.
    (dh_0, dc_0) : ((D L, B, P), (D L, B, H))
        The gradients at the initial state.
    grads
        The gradients at the parameters, with the keys and shapes of `params`.
    """
    dx = np.asarray(dy, tape.masks[0].dtype)
    dh, dc = _states(dstate, tape.sizes, dx.dtype)
    d = [{name: np.zeros_like(value) for name, value in run.p.items()} for run in tape.runs]
    directions = len(tape.runs) // len(tape.masks)
    for layer in reversed(range(len(tape.masks))):
        parts, dx = np.split(dx, directions, axis=2), np.zeros(tape.masks[layer].shape, dx.dtype)
        for s, part in enumerate(parts, directions * layer):
            dx += run_bwd(tape.spec, tape.runs[s], d[s], part, dh[s], dc[s])
        dx *= tape.masks[layer]
    return dx, (dh, dc), {name + run.suffix: d[s][name] for s, run in enumerate(tape.runs) for name in run.p}


def merge(y: Array, mode: str) -> Any:
    """Combine the directions of y (T, B, 2 P) by Keras's `merge_mode`; `"none"` returns them as a pair."""
    forth, back = np.split(y, 2, axis=-1)
    total = forth + back
    return {"concat": y, "sum": total, "mul": forth * back, "ave": total / 2, "none": (forth, back)}[mode]


def _states(pair: Any, sizes: tuple[tuple[int, ...], ...], dtype: np.dtype) -> Pair:
    pair = (0, 0) if pair is None else pair
    h, c = (np.array(np.broadcast_to(value, size), dtype) for value, size in zip(pair, sizes, strict=True))
    return h, c


def _mask(masks: dict[str, Any], name: str, default: Any, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    value = masks.get(name, default)
    return None if value is None else np.broadcast_to(np.asarray(value, dtype), shape)


def _parameters(params: Params, suffix: str, shapes: dict[str, tuple[int, ...]]) -> Params:
    for name, shape in shapes.items():
        if np.shape(params[name + suffix]) != shape:
            raise ValueError(f"{name + suffix} must have the shape {shape}, but has {np.shape(params[name + suffix])}")
    return {name: np.asarray(params[name + suffix]) for name in shapes}
