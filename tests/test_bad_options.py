"""Bad options of cells, and bad lengths, resets and packed sequences, by table as in `test_bad_input`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from test_bad_input import NO_FLAG, NO_NUMBER, B, H, I, Kind, T, layer, ones

import fastlstm

NOT = (TypeError, ValueError)


def of_cells() -> Iterator[Kind]:
    """Options of other cells, and how directions meet; by `layer` and, where it is one, by the specification."""
    for name in ("coupled", "layer_norm"):
        for told, value in NO_FLAG.items():
            yield Kind(f"{name} {told}", lambda v=value, n=name: layer(**{n: v}), TypeError, name)
    for name in ("recurrent_dropout", "input_dropout", "zoneout"):
        for told, value in NO_NUMBER.items():
            yield Kind(f"{name} {told}", lambda v=value, n=name: layer(**{n: v}), NOT, name)
        for value in (-0.1, 1.5, math.nan, math.inf, 10**400):
            yield Kind(f"{name} {str(value)[:9]}", lambda v=value, n=name: layer(**{n: v}), ValueError, name)
    for value in (0, -1.0, math.nan, math.inf, 10**400):
        yield Kind(f"clip {str(value)[:9]}", lambda v=value: layer(clip=v), ValueError, "clip")
    for told, value in (NO_NUMBER | {"True": True}).items():
        if value is not None:
            yield Kind(f"clip {told}", lambda v=value: layer(clip=v), TypeError, "clip")
        yield Kind(f"forget_bias {told}", lambda v=value: layer(forget_bias=v), TypeError, "forget_bias")
    words = {"peephole": "cross", "recurrent_dropout_mode": "row", "merge": "max"}
    for name, word in words.items():
        for value in (word, 1, None, ["none"], b"none"):
            yield Kind(f"{name} {value!r}", lambda v=value, n=name: layer(**{n: v}), ValueError, name)
    for value in ("tanh", 3, None, (), ("tanh",) * 2, ("tanh",) * 4, ("tanh", "tanh", "arctan"), ("tanh", 3, "tanh")):
        yield Kind(f"activations {value!r}", lambda v=value: layer(activations=v), NOT, "activations")
    for told, options, named in (
        ("an output peephole of no peephole", {"output_peephole": "new"}, "output_peephole"),
        ("a candidate peephole of no peephole", {"candidate_peephole": True}, "candidate_peephole"),
        ("a projection as wide as the layer", {"proj_size": H}, "proj_size"),
        ("reverse of two directions", {"reverse": True, "bidirectional": True}, "reverse"),
        ("merge of one direction", {"merge": "sum"}, "merge"),
        ("merge none under a layer", {"merge": "none", "bidirectional": True, "num_layers": 2}, "merge"),
        ("a forget bias of coupled gates", {"forget_bias": 1.0, "coupled": True}, "forget_bias"),
        ("a forget bias without biases", {"forget_bias": 1.0, "bias": False}, "forget_bias"),
        ("affine without its numbers", {"activations": ("affine", "tanh", "tanh")}, "alpha"),
        ("tanh with a number", {"activations": ("sigmoid", ("tanh", 2.0), "tanh")}, "alpha"),
        ("zoneout of three", {"zoneout": (0.1, 0.1, 0.1)}, "zoneout"),
    ):
        yield Kind(told, lambda o=options: layer(**o), ValueError, named)


def of_rows() -> Iterator[Kind]:
    """Lengths, resets, packed sequences."""
    calls = {"call": lambda **given: layer()(ones(T, B, I), **given)}
    calls["forward"] = lambda **given: layer().forward(ones(T, B, I), **given)
    for name, call in calls.items():
        for told, value in {
            "floats": ones(B), "flags": np.ones(B, bool), "a string": "3", "a set": {1}, "strings": ["1"] * B,
        }.items():  # fmt: skip
            yield Kind(f"{name}: lengths {told}", lambda c=call, v=value: c(lengths=v), TypeError, "lengths")
        for told, value in {
            "one too few": [1] * (B - 1), "one too many": [1] * (B + 1), "a number": 3, "a column": [[1]] * B,
            "negative": [-1] * B, "beyond T": [T + 1] * B, "far beyond T": np.full(B, 2**62),
        }.items():  # fmt: skip
            yield Kind(f"{name}: lengths {told}", lambda c=call, v=value: c(lengths=v), ValueError, "lengths")
        for told, value in {"zeros": ones(T, B), "integers": np.ones((T, B), int), "a string": "x"}.items():
            yield Kind(f"{name}: reset {told}", lambda c=call, v=value: c(reset=v), TypeError, "reset")
        for told, shape in {"a row": (T,), "turned over": (B, T), "an axis too many": (T, B, 1)}.items():
            flags = np.ones(shape, bool)
            yield Kind(f"{name}: reset {told}", lambda c=call, v=flags: c(reset=v), ValueError, "reset")
        for told, state, error in (
            ("h alone", (ones(1, B, H),), TypeError),
            ("a number", 3, TypeError),
            ("too narrow", (ones(1, B, H - 1), ones(1, B, H)), ValueError),
            ("in float64", (np.ones((1, B, H)), np.ones((1, B, H))), TypeError),
        ):
            reset = np.ones((T, B), bool), state
            yield Kind(f"{name}: reset to {told}", lambda c=call, r=reset: c(reset=r), error, "state of reset")

    def packed(data: Any, sizes: Any, **given: Any) -> Callable[[], Any]:
        return lambda: layer()(fastlstm.PackedSequence(data, sizes), **given)

    for told, call, error, named in (
        ("sizes that grow", packed(ones(5, I), [2, 3]), ValueError, "batch_sizes"),
        ("sizes of 0", packed(ones(2, I), [2, 0]), ValueError, "batch_sizes"),
        ("no sizes", packed(ones(2, I), []), ValueError, "batch_sizes"),
        ("sizes in floats", packed(ones(2, I), [1.0, 1.0]), ValueError, "batch_sizes"),
        ("sizes of other rows", packed(ones(4, I), [2, 1]), ValueError, "batch_sizes"),
        ("other features", packed(ones(3, I + 1), [2, 1]), ValueError, "x must"),
        ("an axis too many", packed(ones(3, 1, I), [2, 1]), ValueError, ""),
        ("another dtype", packed(np.ones((3, I)), [2, 1]), TypeError, "x must"),
        ("lengths too", packed(ones(3, I), [2, 1], lengths=[2, 1]), ValueError, "lengths"),
    ):
        yield Kind(f"packed: {told}", call, error, named)


KINDS = [*of_cells(), *of_rows()]


def test_each_kind_is_another() -> None:
    assert len({kind.name for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_bad_options(kind: Kind) -> None:
    with pytest.raises(kind.error) as caught:
        kind.call()
    assert kind.told in str(caught.value)
