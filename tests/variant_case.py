"""The reference's random calls, through the layer."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from reference_case import Case

import fastlstm
from fastlstm import reference
from fastlstm.cell import CellSpec

Arrays = dict[str, np.ndarray]
RATES = {"recurrent_dropout": 0.3, "dropout": 0.3, "input_dropout": 0.3}


def options_of(spec: CellSpec) -> dict[str, Any]:
    """The keyword arguments that make a layer of such cells."""
    found = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    if spec.peephole == "none":
        found["output_peephole"] = found["candidate_peephole"] = None
    return found


def layer_of(case: Case, **more: Any) -> fastlstm.LSTM:
    """A layer with the case's parameters, and more options."""
    _, _, I, H = case.sizes
    options = options_of(case.spec) | {"seed": case.seed} | more
    bias, proj_size = options.pop("bias"), options.pop("proj_size")
    if "recurrent" in case.masks:
        options["recurrent_dropout"] = RATES["recurrent_dropout"]
    if "input" in case.masks:
        options |= {"dropout": RATES["dropout"], "input_dropout": RATES["input_dropout"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dropout with one layer
        lstm = fastlstm.LSTM(
            I, H, case.layers, bias, bidirectional=case.bidirectional, proj_size=proj_size, dtype=case.dtype, **options
        )
    lstm.load_state_dict(case.params)
    return lstm


def by_layer(case: Case) -> tuple[Arrays, Arrays, Arrays]:
    """All that a plain call returns, all that forward and backward return, and what was drawn."""
    lstm, a = layer_of(case), case.arrays
    x, state = a["x"], (a["h_0"], a["c_0"])
    given = {"lengths": case.options["lengths"], "reset": case.options["reset"]}
    y, (h_n, c_n) = lstm(x, state, **given)
    inferred = {"y": y, "h_n": h_n, "c_n": c_n}
    y, (h_n, c_n), tape = lstm.forward(x, state, **given)
    layout, drawn = tape.layout, dict(tape.drawn)
    for name, factor in drawn.items():
        if factor.ndim == 2:
            drawn[name] = np.ones((layout.T, layout.B, factor.shape[1]), factor.dtype)
            drawn[name][layout.places()] = factor
    dx, (dh_0, dc_0), grads = lstm.backward(tape, case.dy, case.dstate)
    found = {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, "dh_0": dh_0, "dc_0": dc_0}
    return inferred, found | grads, drawn


def by_reference(case: Case, drawn: Arrays) -> tuple[Arrays, Arrays]:
    """The same two from the reference, with what was drawn."""
    a, options = case.arrays, dict(case.options)
    state = a["h_0"], a["c_0"]
    y, (h_n, c_n), _ = reference.forward(case.params, a["x"], state, **(options | {"masks": {}}))
    inferred = {"y": y, "h_n": h_n, "c_n": c_n}
    y, (h_n, c_n), tape = reference.forward(case.params, a["x"], state, **(options | {"masks": drawn}))
    dx, (dh_0, dc_0), grads = reference.backward(tape, case.dy, case.dstate)
    return inferred, {"y": y, "h_n": h_n, "c_n": c_n, "dx": dx, "dh_0": dh_0, "dc_0": dc_0} | grads


def check(case: Case, tolerance: float) -> Arrays:
    """Compare, to a tolerance relative to each array's largest value; what forward and backward returned."""
    inferred, found, drawn = by_layer(case)
    for ours, theirs in zip((inferred, found), by_reference(case, drawn), strict=True):
        assert list(ours) == list(theirs)
        for name, array in theirs.items():
            scale = max(1.0, float(abs(array).max())) if array.size else 1.0
            np.testing.assert_allclose(ours[name], array, rtol=0, atol=tolerance * scale, err_msg=name)
    return found
