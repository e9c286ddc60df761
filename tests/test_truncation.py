"""Training over chunks of a sequence: values as in one call, to the bit; gradients cut between chunks, or passed on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from reference_case import Case
from tolerances import of_case
from variant_case import layer_of

from fastlstm import reference
from fastlstm.cell import CellSpec

SIZES = {"sizes": (23, 5, 4, 19), "scale": 0.3}
CUTS = [0, 1, 9, 23]
CASES = {
    "plain": Case(CellSpec(), **SIZES, layers=2, dtype=np.float32),
    "plain, double precision": Case(CellSpec(), **SIZES),
    "diagonal peephole": Case(CellSpec(peephole="diagonal"), **SIZES, dtype=np.float32),
    "layer norm": Case(CellSpec(layer_norm=True), **SIZES, layers=2, dtype=np.float32),
}
Arrays = dict[str, np.ndarray]


def by_chunks(case: Case, passed_on: bool, use_reference: bool) -> tuple[Arrays, Arrays]:
    """Values, and gradients: those of parameters added up over the chunks, each of which begins with the state that the
    one before it left, and hears of the next one's gradient only if that is `passed_on`.
    """
    lstm, a, options = layer_of(case), case.arrays, case.options
    state, ys, tapes, dxs = (a["h_0"], a["c_0"]), [], [], []
    for start, end in itertools.pairwise(CUTS):
        if use_reference:
            y, state, tape = reference.forward(case.params, a["x"][start:end], state, **options)
        else:
            y, state, tape = lstm.forward(a["x"][start:end], state)
        ys.append(y)
        tapes.append((slice(start, end), tape))
    d, summed = case.dstate, {name: np.zeros_like(array) for name, array in case.params.items()}
    for part, tape in reversed(tapes):
        back = reference.backward if use_reference else lstm.backward
        dx, before, grads = back(tape, np.ascontiguousarray(case.dy[part]), d)
        d = before if passed_on else None
        dxs.insert(0, dx)
        for name, grad in grads.items():
            summed[name] += grad
    values = {"y": np.concatenate(ys), "h_n": state[0], "c_n": state[1]}
    return values, summed | {"x": np.concatenate(dxs), "h_0": before[0], "c_0": before[1]}


def close(found: Arrays, expected: Arrays, case: Case) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        scale = max(1.0, float(abs(array).max()))
        np.testing.assert_allclose(found[name], array, rtol=0, atol=of_case(case) * scale, err_msg=name)


@pytest.mark.parametrize("passed_on", [False, True], ids=["cut", "passed on"])
@pytest.mark.parametrize("name", CASES)
def test_chunks(name: str, passed_on: bool) -> None:
    case = CASES[name]
    values, grads = by_chunks(case, passed_on, use_reference=False)
    y, (h_n, c_n), _ = layer_of(case).forward(case.arrays["x"], (case.arrays["h_0"], case.arrays["c_0"]))
    for key, array in {"y": y, "h_n": h_n, "c_n": c_n}.items():
        np.testing.assert_array_equal(values[key], array, err_msg=key)
    expected_values, expected = by_chunks(case, passed_on, use_reference=True)
    close(values, expected_values, case)
    close(grads, expected, case)
    if passed_on:
        close(grads, case.gradients(), case)


def test_a_cut_is_a_reset_to_the_state_that_was_reached() -> None:
    """One call whose state is replaced by what it is, through which no gradient passes, gives the truncated one."""
    case, at = CASES["plain, double precision"], 9
    lstm, x, dy = layer_of(case), case.arrays["x"], case.dy
    start = case.arrays["h_0"], case.arrays["c_0"]
    y_1, between, tape_1 = lstm.forward(x[:at], start)
    y_2, _, tape_2 = lstm.forward(x[at:], between)
    dx_2, _, grads_2 = lstm.backward(tape_2, dy[at:], case.dstate)
    dx_1, _, grads_1 = lstm.backward(tape_1, dy[:at])
    flags = np.zeros(x.shape[:2], bool)
    flags[at] = True
    y, _, tape = lstm.forward(x, start, reset=(flags, between))
    dx, _, grads = lstm.backward(tape, dy, case.dstate)
    np.testing.assert_array_equal(np.concatenate([y_1, y_2]), y)
    close(
        {"x": np.concatenate([dx_1, dx_2])} | {name: grads_1[name] + grads_2[name] for name in grads},
        {"x": dx} | grads,
        case,
    )
