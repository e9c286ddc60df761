"""Random calls against the reference: shapes, options, strides, dtypes, lengths, resets, states; values and gradients.

    python benchmarks/random_calls.py [--first 0] [--count 10000]

Each number is a call of its own, whoever runs it. Errors are counted in roundings: the dtype's eps times the root of
the number of terms of a sum, for each layer, relative to an array's largest value. The reference computes in float64.
Exit code 1 if one is more than `MOST` roundings off, or has another shape, or is not the same when called again; but
for those where the reference itself moves as far, by a `MOST`-th, when every number that it is given is one eps off.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from reference_case import Case, kind
from tolerances import ACTIVATION_TERMS, operation
from variant_case import layer_of

import fastlstm
from fastlstm import reference
from fastlstm.cell import CellSpec
from fastlstm.sequences import PackedSequence

MOST = 60.0
Arrays = dict[str, np.ndarray]


class Kind(NamedTuple):
    """A cell that kernels are compiled for. Where a slope jumps, float32 and float64 may stand on either side of it."""

    dtype: str
    options: dict[str, Any] = {}  # noqa: RUF012
    recurrent: bool = False


def _activated(*names: str) -> dict[str, Any]:
    return {"activations": [kind(name) for name in names]}


KINDS = [
    *[Kind("float32")] * 3,
    *[Kind("float64")] * 2,
    Kind("float32", {"peephole": "diagonal"}),
    Kind("float64", {"peephole": "diagonal", "output_peephole": "previous", "candidate_peephole": True}),
    Kind("float32", {"peephole": "full"}),
    Kind("float64", {"peephole": "full", "output_peephole": "new", "candidate_peephole": False}),
    Kind("float32", {"coupled": True}),
    Kind("float64", {"clip": 0.7}),
    Kind("float32", {"proj_size": 1}),
    Kind("float64", {"proj_size": 1, "peephole": "full"}),
    Kind("float32", {"layer_norm": True}),
    Kind("float64", {"layer_norm": True, "proj_size": 1}),
    Kind("float32", {"zoneout": (0.3, 0.2)}),
    Kind("float64", {"zoneout": (0.0, 0.4)}),
    Kind("float32", {}, True),
    Kind("float64", {"recurrent_dropout_mode": "step"}, True),
    Kind("float32", _activated("sigmoid", "softplus", "linear")),
    Kind("float32", _activated("softsign", "scaled_tanh", "affine")),
    Kind("float64", _activated("hard_sigmoid", "leaky_relu", "hard_tanh")),
    Kind("float64", _activated("sigmoid", "elu", "relu")),
    Kind("float64", _activated("sigmoid", "tanh", "thresholded_relu")),
    Kind(
        "float64",
        {"layer_norm": True, "proj_size": 1, "peephole": "full", "coupled": True, "zoneout": 0.2, "clip": 1.0},
        True,
    ),
    Kind(
        "float64",
        {"peephole": "diagonal", "zoneout": (0.1, 0.4), "clip": 1.0, "recurrent_dropout_mode": "step"}
        | _activated("hard_sigmoid", "softsign", "elu"),
        True,
    ),
]
SMALL = (*range(1, 41),)
UNITS = (48, 63, 64, 65, 83, 100, 127, 128, 129, 200, 256, 300, 512, 650)
ROWS = (1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 17, 32, 33, 48, 64, 100)
STEPS = (1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 20, 41, 100)


class Call(NamedTuple):
    """A layer, and what it is called with, as it was drawn."""

    case: Case  # in the reference's layout
    layer: dict[str, Any]  # options of the layer that the reference does not know
    unbatched: bool
    packed: bool
    stateless: bool
    threads: int
    traits: tuple[str, ...]  # what is told of it


def draw(number: int) -> Call:
    """The call of that number."""
    random = np.random.default_rng(number)

    def flip(chance: float) -> bool:
        return bool(random.random() < chance)

    dtype, options, recurrent = KINDS[number % len(KINDS)]
    most = 5e8 if flip(0.005) else 2e7  # operations of one of its layers
    while True:
        H = int(random.choice(SMALL if flip(0.7) else UNITS))
        T, B, I = (int(random.choice(of)) for of in (STEPS, ROWS, SMALL if flip(0.8) else UNITS))
        if H > 1 and 8 * T * B * H * (I + H) < most:
            break
    options = dict(options)
    if options.get("proj_size"):
        options["proj_size"] = int(random.integers(1, H))
    unbatched, ended, merged = flip(0.1), flip(0.4), flip(0.15)
    B = 1 if unbatched else B
    bidirectional, layers = merged or flip(0.3), 1 if merged else int(random.choice((1, 1, 1, 2, 3)))
    layer: dict[str, Any] = {"batch_first": flip(0.3)}
    if merged:
        layer["merge"] = str(random.choice(("sum", "mul", "ave", "none")))
    if not bidirectional and flip(0.15):
        layer["reverse"], layers = True, 1
    dropped = flip(0.1)
    case = Case(
        CellSpec(bias=flip(0.85), **options),
        layers,
        bidirectional or "reverse" in layer,  # a reverse layer is the second of two directions
        (T, B, I, H),
        ended,
        str(random.choice(("", "", "zero", "values"))),
        ("recurrent",) * recurrent + ("input",) * dropped,
        number,
        float(random.choice((0.3, 1.0))) / np.sqrt(I + H),
        np.dtype(dtype).type,
    )
    packed = ended and not unbatched and not layer["batch_first"] and flip(0.3)
    if ended:
        lengths = random.integers(1 if packed else 0, T + 1, B)
        case.options["lengths"] = np.sort(lengths)[::-1].copy() if packed else lengths
    if packed:
        case.options["lengths"][0] = T
    stateless = flip(0.2)
    traits = [f"{dtype} {name}" for name, there in options.items() if there] or [f"{dtype} plain"]
    traits += [name for name, value in layer.items() if value is True] + [f"merge {layer.get('merge', 'concat')}"]
    traits += [f"reset {case.reset}"] * bool(case.reset) + [f"{layers} layers"] + ["lengths"] * ended
    named = {
        "unbatched": unbatched,
        "packed": packed,
        "without a state": stateless,
        "without biases": not case.spec.bias,
    }
    named |= {"two directions": bidirectional, "dropout": dropped, "recurrent dropout": recurrent}
    traits += [name for name, there in named.items() if there]
    return Call(case, layer, unbatched, packed, stateless, int(random.integers(1, 5)), tuple(traits))


def odd(random: np.random.Generator, array: np.ndarray) -> Any:
    """The same values, in memory of some other kind."""
    match random.integers(8):
        case 0 if array.ndim:
            wide = np.full([2 * n for n in array.shape], np.nan, array.dtype)
            view = wide[tuple(slice(None, None, 2) for _ in array.shape)]
        case 1 if array.ndim:
            view = array[::-1].copy()[::-1]
        case 2:
            view = np.asfortranarray(array)
        case 3:
            view = array.astype(array.dtype.newbyteorder(">"))
        case 4:
            view = np.frombuffer(bytearray(array.nbytes + 1), np.uint8)[1:].view(array.dtype).reshape(array.shape)
        case 5 if array.size < 1000:
            return array.tolist()
        case 6:
            view = np.broadcast_to(array, (2, *array.shape))[1]
        case _:
            view = array.copy()
    if view.flags.writeable:
        view[...] = array
        view.flags.writeable = bool(random.integers(2))
    return view


def by_reference(call: Call, drawn: Arrays, noise: float = 0.0) -> tuple[Arrays, Arrays]:
    """All that a plain call returns, and all that forward and backward return, in float64; of numbers that are off by
    such a share.
    """
    case, second = call.case, "reverse" in call.layer
    rows = slice(1, 2) if second else slice(None)
    P = case.spec.proj_size or case.sizes[3]
    random = np.random.default_rng(case.seed + 2)
    a = {name: array * (1 + noise * random.standard_normal(array.shape)) for name, array in case.arrays.items()}
    params = {name: a[name] for name in case.params}
    x, (dh, dc) = a["x"], case.dstate
    state = tuple(a[name] * (not call.stateless) for name in ("h_0", "c_0"))
    if second:
        drawn = {name + "_reverse" * (not name.startswith("input")): mask for name, mask in drawn.items()}
        dh, dc = (np.stack([np.zeros_like(d[1]), d[1]]) for d in (dh, dc))
    found = []
    for masks in ({}, drawn):
        y, (h_n, c_n), tape = reference.forward(params, x, state, **(case.options | {"masks": masks}))
        found.append({"y": y[..., P:] if second else y, "h_n": h_n[rows], "c_n": c_n[rows]})
    mode, dy = call.layer.get("merge", "concat"), case.dy.astype(np.float64)
    if mode != "concat":
        for values in found:
            values["y"] = reference.merge(values["y"], mode)
            values["y"] = np.concatenate(values["y"], -1) if mode == "none" else values["y"]
    if mode in ("sum", "mul", "ave"):
        d = dy[..., :P]  # y here still has both directions
        dy = np.concatenate([d * y[..., P:], d * y[..., :P]] if mode == "mul" else [d / (1 + (mode == "ave"))] * 2, -1)
    if second:
        dy[..., :P] = 0
    dx, (dh_0, dc_0), grads = reference.backward(tape, dy, (dh, dc) if not call.stateless else None)
    if second:
        grads = {name.removesuffix("_reverse"): g for name, g in grads.items() if name.endswith("_reverse")}
    return found[0], found[1] | {"dx": dx, "dh_0": dh_0[rows], "dc_0": dc_0[rows]} | grads


def by_layer(call: Call) -> tuple[Arrays, Arrays, Arrays]:
    """The same by a layer, back in the reference's layout, and what was drawn."""
    case, (T, B, _, H) = call.case, call.case.sizes
    random, second = np.random.default_rng(case.seed + 1), "reverse" in call.layer
    P, lengths, mode = case.spec.proj_size or H, case.options["lengths"], call.layer.get("merge", "concat")
    rows = slice(1, 2) if second else slice(None)
    single = replace(case, bidirectional=False) if second else case
    if second:
        single.arrays |= {n.removesuffix("_reverse"): a for n, a in case.params.items() if n.endswith("_reverse")}
    lstm = layer_of(single, **call.layer)
    past = np.zeros((T, B), bool) if lengths is None else np.arange(T)[:, None] >= lengths
    order = (
        np.arange(T * B).reshape(T, B)[~past]  # rows of each step, one step after another: lengths fall
        if call.packed
        else None
    )

    def to_caller(array: np.ndarray) -> Any:
        if order is not None:
            return odd(random, array.reshape(T * B, -1)[order] if array.ndim == 3 else array.reshape(-1)[order])
        array = array[:, 0] if call.unbatched else array.swapaxes(0, 1) if call.layer["batch_first"] else array
        return odd(random, array)

    def from_caller(array: Any) -> np.ndarray:
        if order is not None:
            data = array.data if isinstance(array, PackedSequence) else array
            whole = np.zeros((T * B, data.shape[-1]), data.dtype)
            whole[order] = data
            return whole.reshape(T, B, -1)
        if call.unbatched:
            return array[:, None]
        return array.swapaxes(0, 1) if call.layer["batch_first"] else array

    def states(pair: Any) -> Any:
        pair = tuple(a[rows] for a in pair)
        return tuple(odd(random, a[:, 0] if call.unbatched else a) for a in pair)

    def from_states(pair: Any, *names: str) -> Arrays:
        return {name: a[:, None] if call.unbatched else a for name, a in zip(names, pair, strict=True)}

    x, dy = case.arrays["x"].copy(), case.dy.copy()
    x[past], dy[past] = np.nan, np.nan  # not read
    x, given = to_caller(x), {}
    if call.packed:
        x = PackedSequence(x if isinstance(x, np.ndarray) else np.asarray(x, case.dtype), (~past).sum(1))
    elif lengths is not None:
        given["lengths"] = lengths
    if (reset := case.options["reset"]) is not None:
        flags, values = reset if isinstance(reset, tuple) else (reset, None)
        flags = np.asarray(to_caller(flags), bool)
        given["reset"] = flags if values is None else (flags, states(values))
    state = None if call.stateless else states((case.arrays["h_0"], case.arrays["c_0"]))
    fastlstm.set_num_threads(call.threads)

    def output(y: Any) -> np.ndarray:
        return np.concatenate([from_caller(a) for a in y], -1) if mode == "none" else from_caller(y)

    inferred = None
    for _ in range(2):  # the second may be prepared
        y, state_n = lstm(x, state, **given)
        again = {"y": output(y)} | from_states(state_n, "h_n", "c_n")
        if inferred is not None and not all(np.array_equal(again[name], inferred[name]) for name in again):
            raise AssertionError("the second call gives other bits than the first")
        inferred = again
    y, state_n, tape = lstm.forward(x, state, **given)
    drawn = dict(tape.drawn)
    for name, factor in drawn.items():
        if factor.ndim == 2:
            drawn[name] = np.ones((T, B, factor.shape[1]), factor.dtype)
            drawn[name][tape.layout.places()] = factor
    found = {"y": output(y)} | from_states(state_n, "h_n", "c_n")
    d: Any = to_caller(dy[..., P:] if second else dy[..., :P] if mode in ("sum", "mul", "ave") else dy)
    if mode == "none":
        d = to_caller(dy[..., :P]), to_caller(dy[..., P:])
    dx, dstate, grads = lstm.backward(tape, d, None if call.stateless else states(case.dstate))
    found |= {"dx": from_caller(dx)} | from_states(dstate, "dh_0", "dc_0") | grads
    return inferred, found, drawn


def roundings(call: Call, name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    """How far one array is off."""
    T, B, I, H = call.case.sizes
    terms = I + 2 * H + ACTIVATION_TERMS + (T * B if operation(name) == "dparameters" else 0)
    scale = max(1.0, float(abs(theirs).max(initial=0)))
    unit = call.case.layers * float(np.sqrt(terms) * np.finfo(call.case.dtype).eps) * scale
    if ours.shape != theirs.shape or ours.dtype != call.case.dtype or not np.isfinite(ours).all():
        return float("inf")
    return float(abs(ours - theirs).max(initial=0)) / unit


def compared(call: Call) -> tuple[dict[str, float], bool]:
    """How far each array is off, and whether the reference itself moves as far."""
    *found, drawn = by_layer(call)
    exact = by_reference(call, drawn)
    off = {
        name: roundings(call, name, ours[name], array)
        for ours, theirs in zip(found, exact, strict=True)
        for name, array in theirs.items()
    }
    if max(off.values()) <= MOST:
        return off, False
    shaken = by_reference(call, drawn, float(np.finfo(call.case.dtype).eps))[1]
    moved = {name: roundings(call, name, shaken[name].astype(call.case.dtype), a) for name, a in exact[1].items()}
    return off, all(value <= MOST * max(1.0, moved[name]) for name, value in off.items())


def main() -> None:
    """Run some."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # dropout with one layer
    traits: Counter[str] = Counter()
    all_off: dict[str, list[float]] = {}
    wrong, moving = 0, 0
    for number in range(chosen.first, chosen.first + chosen.count):
        call = draw(number)
        traits.update(call.traits)
        try:
            off, moves = compared(call)
        except Exception as error:  # told, and the others are run
            wrong += 1
            print(f"call {number}: {type(error).__name__}: {error}; {call.case.sizes} {call.traits}", flush=True)
            continue
        moving += moves
        if moves:
            continue
        for name, value in off.items():
            all_off.setdefault(operation(name), []).append(value)
        largest = max(off, key=lambda name: off[name])
        if off[largest] > MOST:
            wrong += 1
            told = f"{largest} is {off[largest]:.3g} roundings off"
            print(f"call {number}: {told}; {call.case.sizes} {call.traits}", flush=True)
    print(f"{chosen.count} calls from {chosen.first}: {wrong} wrong; {moving} whose reference moves as far")
    for name, values in all_off.items():
        told = ", ".join(f"{np.quantile(values, q):.2g}" for q in (0.5, 0.999, 1.0))
        print(f"  {name}: {len(values)} arrays, roundings off: half, all but one of 1000, all within {told}")
    print("  " + ", ".join(f"{name} {count}" for name, count in traits.most_common()))
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
