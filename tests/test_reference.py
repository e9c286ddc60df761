"""The reference: its gradients by finite differences, and what a call means."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from reference_case import Case, kind, random_case

from fastlstm import reference
from fastlstm.cell import ACTIVATIONS, PLAIN, CellSpec

EPS = float(np.finfo(np.float64).eps)


def difference(case: Case, name: str, direction: np.ndarray, step: float) -> float:
    """The loss's derivative along a direction by the central difference, summed term by term."""
    value = case.arrays[name]
    case.arrays[name] = value + step * direction
    after = case.terms()
    case.arrays[name] = value - step * direction
    before = case.terms()
    case.arrays[name] = value
    return float((after - before).sum() / (2 * step))


def check_gradients(case: Case, entrywise: bool) -> None:
    """Compare `backward` with finite differences, for each array by entry or along one random direction.

    The central difference D(s) is off by s^2 L''' / 6 from truncation, which is a third of D(2 s) - D(s), and by
    the rounding of the terms over s. The step eps^(1/3) balances the two.
    """
    grads = case.gradients()
    assert set(grads) == set(case.arrays)
    rng = np.random.default_rng(case.seed + 1)
    terms = abs(case.terms()).sum()
    for name, grad in grads.items():
        assert grad.shape == case.arrays[name].shape
        assert grad.dtype == case.dtype
        if entrywise:
            directions = np.eye(grad.size).reshape(-1, *grad.shape)
        else:
            directions = rng.standard_normal((1, *grad.shape))
        for direction in directions:
            step = EPS ** (1 / 3) / np.linalg.norm(direction)
            found, wider = difference(case, name, direction, step), difference(case, name, direction, 2 * step)
            tolerance = abs(wider - found) + case.rounding() * terms / step
            assert tolerance < 1e-5 * max(1, terms) * np.linalg.norm(direction), "the test would hold nothing"
            expected = (grad * direction).sum()
            assert abs(found - expected) <= tolerance, f"{name} {np.argwhere(direction)[0]}: {expected} is {found}"


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_plain_gradients(layers: int, bidirectional: bool) -> None:
    check_gradients(Case(layers=layers, bidirectional=bidirectional, sizes=(3, 2, 2, 3)), entrywise=True)


ALONE = {
    "no bias": {"bias": False},
    "projection": {"proj_size": 2},
    "diagonal": {"peephole": "diagonal"},
    "diagonal, previous": {"peephole": "diagonal", "output_peephole": "previous"},
    "diagonal, candidate": {"peephole": "diagonal", "candidate_peephole": True},
    "full": {"peephole": "full", "activations": ("sigmoid", "sigmoid", "tanh")},
    "full, new": {"peephole": "full", "output_peephole": "new"},
    "full, no candidate": {"peephole": "full", "candidate_peephole": False},
    "coupled": {"coupled": True},
    "coupled, diagonal": {"coupled": True, "peephole": "diagonal"},
    "coupled, full": {"coupled": True, "peephole": "full"},
    "clip": {"clip": 0.4},
    "clip, diagonal": {"clip": 0.6, "peephole": "diagonal"},
    "layer norm": {"layer_norm": True},
    "layer norm, no bias": {"layer_norm": True, "bias": False},
    "layer norm, coupled": {"layer_norm": True, "coupled": True},
    "zoneout at inference": {"zoneout": (0.4, 0.1)},
    "zoneout at inference, projection": {"zoneout": (0.0, 0.2), "proj_size": 1},
} | {name: {"activations": (kind(name),) * 3} for name in ACTIVATIONS}


@pytest.mark.parametrize("options", ALONE.values(), ids=ALONE)
def test_gradients_of_each_option(options: dict[str, Any]) -> None:
    check_gradients(Case(CellSpec(**options), seed=1), entrywise=True)


CALLS = {
    "lengths": {"lengths": True},
    "reset": {"reset": "zero"},
    "reset to values": {"reset": "values"},
    "reset and lengths": {"reset": "values", "lengths": True, "layers": 2},
    "input": {"masks": ("input",), "layers": 2},
    "recurrent, one mask": {"masks": ("recurrent",)},
    "recurrent, one a step": {"masks": ("recurrent",), "spec": CellSpec(recurrent_dropout_mode="step")},
    "zoneout": {"masks": ("zoneout_c", "zoneout_h")},
    "zoneout of c": {"masks": ("zoneout_c",), "spec": CellSpec(peephole="diagonal")},
    "all": {"masks": ("input", "recurrent", "zoneout_c", "zoneout_h"), "reset": "zero", "lengths": True, "layers": 2},
}


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_gradients_of_each_kind_of_call(options: dict[str, Any]) -> None:
    check_gradients(Case(bidirectional=True, seed=2, **options), entrywise="layers" not in options)


@pytest.mark.parametrize("seed", range(60))
def test_gradients_of_random_combinations(seed: int) -> None:
    check_gradients(random_case(seed), entrywise=False)


# What calls mean.


@pytest.mark.parametrize("seed", range(20))
def test_padding_is_neither_read_nor_written(seed: int) -> None:
    case = random_case(seed)
    case.options["lengths"] = np.random.default_rng(seed).integers(0, case.sizes[0] + 1, case.sizes[1])
    padding = np.arange(case.sizes[0])[:, None] >= case.options["lengths"]
    y, state, _ = case.forward()
    grads = case.gradients()
    assert not y[padding].any()
    assert not grads["x"][padding].any()

    case.arrays["x"][padding] = np.nan
    case.dy[padding] = np.nan
    if case.reset:
        flags = case.options["reset"] if case.reset == "zero" else case.options["reset"][0]
        flags[padding] = ~flags[padding]
    again, state_again, _ = case.forward()
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(state_again[0], state[0])
    np.testing.assert_array_equal(state_again[1], state[1])
    grads_again = case.gradients()
    grads_again["x"][padding] = 0  # a mask of the input times NaN
    for name, grad in grads.items():
        np.testing.assert_array_equal(grads_again[name], grad, err_msg=name)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("reset", ["zero", "values"])
def test_reset_starts_a_new_sequence(reset: str, bidirectional: bool) -> None:
    """A row with resets gives what its parts give as rows of their own, joined; so do its gradients."""
    case = Case(layers=2, bidirectional=bidirectional, sizes=(9, 1, 2, 3), reset=reset, seed=5)
    starts = np.zeros((9, 1), bool)
    starts[[0, 3, 4, 7]] = True  # at 0 the initial state itself is replaced, on the way forward
    values = case.options["reset"][1] if reset == "values" else (np.zeros((4, 1, 3)), np.zeros((4, 1, 3)))
    runs = 2 * (1 + bidirectional)
    values = tuple(value[:runs] for value in values)
    case.options["reset"] = (starts, values) if reset == "values" else starts
    case.dstate = (np.zeros((runs, 1, 3)),) * 2
    y, state, _ = case.forward()
    grads = case.gradients()

    backwards = (np.arange(runs) % 2 == 1)[:, None, None] & bidirectional
    joined, summed, ends = [], {name: np.zeros_like(value) for name, value in case.params.items()}, []
    for first, last in ((0, 3), (3, 4), (4, 7), (7, 9)):
        initial = ("h_0", "c_0")
        begin = [
            np.where(backwards & (last == 9), case.arrays[k], v) for k, v in zip(initial, values, strict=True)
        ]  # the last part is the first one backwards: it starts from the initial state
        options = case.options | {"reset": None}
        part, end, tape = reference.forward(case.params, case.arrays["x"][first:last], begin, **options)
        dx, _, part_grads = reference.backward(tape, case.dy[first:last])
        np.testing.assert_allclose(grads["x"][first:last], dx, rtol=0, atol=1e-14)
        joined.append(part)
        ends.append(end)
        for name, grad in part_grads.items():
            summed[name] += grad
    np.testing.assert_allclose(y, np.concatenate(joined), rtol=0, atol=1e-14)
    for name, grad in summed.items():
        np.testing.assert_allclose(grads[name], grad, rtol=0, atol=1e-13)
    for k in range(2):
        np.testing.assert_allclose(state[k], np.where(backwards, ends[0][k], ends[-1][k]), rtol=0, atol=1e-14)
    assert not grads["c_0"][~backwards[:, 0, 0]].any()
    assert grads["c_0"][backwards[:, 0, 0]].all()


def test_rows_are_independent() -> None:
    case = Case(layers=2, bidirectional=True, sizes=(6, 4, 2, 3), lengths=True, reset="values", seed=6)
    y, _, _ = case.forward()
    flags, (h_reset, c_reset) = case.options["reset"]
    for row in range(4):
        one = slice(row, row + 1)
        options = case.options | {"lengths": case.options["lengths"][one]}
        options["reset"] = flags[:, one], (h_reset[:, one], c_reset[:, one])
        state = case.arrays["h_0"][:, one], case.arrays["c_0"][:, one]
        alone, _, _ = reference.forward(case.params, case.arrays["x"][:, one], state, **options)
        np.testing.assert_allclose(alone, y[:, one], rtol=0, atol=1e-14)


def test_chunks_with_the_state_passed_on_are_one_call() -> None:
    spec = CellSpec(peephole="diagonal", layer_norm=True, zoneout=0.2)
    case = Case(spec, layers=2, sizes=(7, 3, 2, 4), seed=7)
    y, end, _ = case.forward()
    state = case.arrays["h_0"], case.arrays["c_0"]
    chunks, tapes = [], []
    for part in (slice(0, 1), slice(1, 5), slice(5, 7)):
        chunk, state, tape = reference.forward(case.params, case.arrays["x"][part], state, **case.options)
        chunks.append(chunk)
        tapes.append((part, tape))
    np.testing.assert_array_equal(np.concatenate(chunks), y)
    np.testing.assert_array_equal(state, end)
    dstate, summed = case.dstate, {name: np.zeros_like(value) for name, value in case.params.items()}
    for part, tape in reversed(tapes):
        _, dstate, part_grads = reference.backward(tape, case.dy[part], dstate)
        for name, grad in part_grads.items():
            summed[name] += grad
    grads = case.gradients()
    np.testing.assert_array_equal(dstate, [grads["h_0"], grads["c_0"]])
    for name, grad in summed.items():
        np.testing.assert_allclose(grad, grads[name], rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(10))
def test_float32_is_float64_up_to_rounding(seed: int) -> None:
    case = random_case(seed)
    y, state, _ = case.forward()
    case.dtype = np.float32
    case.arrays = {name: value.astype(np.float32) for name, value in case.arrays.items()}
    single, single_state, tape = case.forward()
    for actual, expected in zip((single, *single_state), (y, *state), strict=True):
        assert actual.dtype == np.float32
        scale = max(1, abs(expected).max(initial=0))
        np.testing.assert_allclose(actual, expected, rtol=0, atol=case.rounding() * scale)
    for values in tape.runs[0].steps.values():
        assert {v.dtype for v in vars(values).values() if isinstance(v, np.ndarray)} == {np.dtype(np.float32)}
    assert {grad.dtype for grad in case.gradients().values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_nan_and_infinity_come_through(name: str) -> None:
    case = Case(CellSpec(activations=(kind(name),) * 3), sizes=(3, 4, 1, 2), seed=8)
    case.arrays["x"][1, 0] = np.nan
    case.arrays["x"][1, 1] = np.inf
    case.arrays["x"][1, 2] = -np.inf
    y, _, _ = case.forward()
    assert np.isfinite(y[0]).all()
    assert np.isnan(y[1:, 0]).all()
    assert np.isfinite(y[:, 3]).all()
    with np.errstate(over="ignore", invalid="ignore"):
        ends = reference.activate(kind(name), np.array([-np.inf, np.inf]))
        near = reference.activate(kind(name), np.array([-1e300, 1e300]))
    if name != "softsign":  # inf / inf, as its formula has it
        np.testing.assert_array_equal(np.where(abs(near) > 1e200, np.copysign(np.inf, near), near), ends)


def test_inputs_are_left_alone_and_the_tape_serves_twice() -> None:
    case = Case(layers=2, bidirectional=True, lengths=True, reset="values", masks=("input",), seed=9)
    before = {name: value.copy() for name, value in case.arrays.items()}
    for value in (*case.arrays.values(), case.dy, *case.dstate):
        value.flags.writeable = False
    _, _, tape = case.forward()
    dx, _, grads = reference.backward(tape, case.dy, case.dstate)
    dx_again, _, grads_again = reference.backward(tape, case.dy, case.dstate)
    np.testing.assert_array_equal(dx, dx_again)
    for name, value in grads.items():
        np.testing.assert_array_equal(value, grads_again[name])
    for name, value in case.arrays.items():
        np.testing.assert_array_equal(value, before[name])


def test_the_defaults_are_zeros() -> None:
    case = Case(seed=10)
    y, state, tape = reference.forward(case.params, case.arrays["x"])
    case.arrays |= {"h_0": np.zeros((1, 3, 3)), "c_0": np.zeros((1, 3, 3))}
    expected, expected_state, _ = case.forward()
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(state, expected_state)
    case.dstate = np.zeros((1, 3, 3)), np.zeros((1, 3, 3))
    np.testing.assert_array_equal(reference.backward(tape, case.dy)[0], case.gradients()["x"])


@pytest.mark.parametrize("batch", [0, 1])
def test_empty_batch(batch: int) -> None:
    case = Case(CellSpec(layer_norm=True), layers=2, bidirectional=True, sizes=(3, batch, 2, 3))
    assert case.forward()[0].shape == (3, batch, 6)
    assert case.gradients()["x"].shape == (3, batch, 2)


def test_merge() -> None:
    y = np.arange(12.0).reshape(2, 1, 6)
    forth, back = y[..., :3], y[..., 3:]
    expected = {"concat": y, "sum": forth + back, "mul": forth * back, "ave": (forth + back) / 2, "none": (forth, back)}
    for mode, value in expected.items():
        np.testing.assert_array_equal(reference.merge(y, mode), value)


def test_misshapen_and_missing_parameters() -> None:
    case = Case()
    wrong = case.params | {"bias_hh_l0": np.zeros(3)}
    with pytest.raises(ValueError, match=r"bias_hh_l0 must have the shape \(12,\), but has \(3,\)"):
        reference.forward(wrong, case.arrays["x"])
    del wrong["bias_hh_l0"]
    with pytest.raises(KeyError, match="bias_hh_l0"):
        reference.forward(wrong, case.arrays["x"])


def test_options_that_only_draw_masks_change_no_value() -> None:
    case = Case(seed=11)
    y, _, _ = case.forward()
    case.options["spec"] = dataclasses.replace(PLAIN, recurrent_dropout=0.5, recurrent_dropout_mode="step")
    np.testing.assert_array_equal(case.forward()[0], y)
