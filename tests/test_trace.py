"""Traces: every value is the reference's, the last output the plain call's to the bit, and padding exactly 0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference_case import Case, random_case
from tolerances import of_case
from variant_case import layer_of

import fastlstm
from fastlstm import reference
from fastlstm.cell import CellSpec

SIZES = {"sizes": (6, 5, 4, 19)}  # more units than a vector has lanes
# Mostly of the variants that other tests compile too: ragged, in double precision.
CASES = {
    "plain": Case(CellSpec(), **SIZES, layers=2, bidirectional=True),
    "single precision": Case(CellSpec(), **SIZES, layers=2, dtype=np.float32),
    "lengths": Case(CellSpec(), **SIZES, layers=2, bidirectional=True, lengths=True),
    "resets": Case(CellSpec(), **SIZES, bidirectional=True, reset="values"),
    "coupled": Case(CellSpec(coupled=True), **SIZES, layers=2, lengths=True),
    "clip": Case(CellSpec(clip=0.4), **SIZES, reset="zero"),
    "projection": Case(CellSpec(proj_size=3), **SIZES, layers=2, lengths=True),
    "layer norm": Case(CellSpec(layer_norm=True), **SIZES, layers=2, lengths=True),
    "zoneout": Case(CellSpec(zoneout=(0.3, 0.2)), **SIZES, lengths=True, reset="zero", bidirectional=True),
    "drawn, which a trace is not": Case(CellSpec(), **SIZES, layers=2, masks=("recurrent", "input")),
    "a cell with all that is coupled": random_case(1001),
    "a cell of other activations": random_case(1002),
}


def recorded(case: Case, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """What a trace holds, by the reference: of each layer and direction (T, B, n) by name."""
    a, gradients = case.arrays, {}
    _, _, tape = reference.forward(case.params, a["x"], (a["h_0"], a["c_0"]), **(case.options | {"masks": {}}))
    step = reference.step_bwd

    def recording(spec: CellSpec, p: Any, d: Any, at: Any, dh: np.ndarray, dc: np.ndarray) -> Any:
        gradients[id(at)] = dh.copy()
        return step(spec, p, d, at, dh, dc)

    monkeypatch.setattr(reference, "step_bwd", recording)
    reference.backward(tape, case.dy, case.dstate)
    found = []
    T, B, _, H = case.sizes
    for run in tape.runs:
        sizes = dict.fromkeys("ifgoc", H) | dict.fromkeys(("h", "dh"), case.spec.proj_size or H)
        values = {name: np.zeros((T, B, n)) for name, n in sizes.items()}
        for t, at in run.steps.items():
            for name, array in values.items():
                array[t, run.live[t]] = gradients[id(at)] if name == "dh" else getattr(at, name)
        found.append(values)
    return found


def traced(case: Case) -> tuple[fastlstm.Trace, ...]:
    a, options = case.arrays, case.options
    given = {"lengths": options["lengths"], "reset": options["reset"], "dy": case.dy, "dstate": case.dstate}
    return layer_of(case).trace(a["x"], (a["h_0"], a["c_0"]), **given)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    expected, found = recorded(case, monkeypatch), traced(case)
    assert [(trace.layer, trace.reverse) for trace in found] == [
        (k, bool(d)) for k in range(case.layers) for d in range(1 + case.bidirectional)
    ]
    ends = case.options["lengths"]
    for trace, values in zip(found, expected, strict=True):
        for name, array in values.items():
            mine = getattr(trace, name)
            assert mine.shape == array.shape and mine.dtype == case.dtype
            scale = max(1.0, float(abs(array).max(initial=0)))
            np.testing.assert_allclose(mine, array, rtol=0, atol=of_case(case) * scale, err_msg=name)
            if ends is not None:
                assert not any(mine[n:, row].any() for row, n in enumerate(ends)), name


def layer(**options: Any) -> fastlstm.LSTM:
    return fastlstm.LSTM(3, 5, seed=0, **options)


X = np.random.default_rng(0).standard_normal((7, 4, 3), dtype=np.float32)


def test_the_kernels_own_values() -> None:
    """h of the last layer is y to the bit, c and h of the last step are the state, and c follows from the gates."""
    lstm = layer(num_layers=2, bidirectional=True)
    y, (h_n, c_n) = lstm(X)
    found = lstm.trace(X)
    np.testing.assert_array_equal(np.concatenate([found[2].h, found[3].h], axis=-1), y)
    for k, trace in enumerate(found):
        end = 0 if trace.reverse else -1
        np.testing.assert_array_equal(trace.h[end], h_n[k])
        np.testing.assert_array_equal(trace.c[end], c_n[k])
    assert found[0].dh is None


def test_layouts_agree() -> None:
    """Batch first, a single sequence and a packed batch hold the values of the plain layout."""
    dy = np.random.default_rng(1).standard_normal((7, 4, 5), dtype=np.float32)
    lengths, lstm = np.array([7, 5, 5, 2]), layer()
    (plain,) = lstm.trace(X, lengths=lengths, dy=dy)
    (first,) = layer(batch_first=True).trace(X.swapaxes(0, 1), lengths=lengths, dy=dy.swapaxes(0, 1))
    sizes = (np.arange(7)[:, None] < lengths).sum(axis=1)
    places = np.repeat(np.arange(7), sizes), np.concatenate([np.arange(n) for n in sizes])
    (packed,) = lstm.trace(fastlstm.PackedSequence(X[places], sizes), dy=dy[places])
    for name in (*"ifgoch", "dh"):
        array = getattr(plain, name)
        np.testing.assert_array_equal(getattr(first, name).swapaxes(0, 1), array)
        np.testing.assert_array_equal(getattr(packed, name), array[places])
        for row, n in enumerate(lengths):
            (alone,) = lstm.trace(X[:n, row], dy=dy[:n, row])
            for other in (alone.sequence(), plain.sequence(row), first.sequence(row), packed.sequence(row)):
                np.testing.assert_array_equal(getattr(other, name), array[:n, row])
            np.testing.assert_array_equal(getattr(alone, name), array[:n, row])
    norms = np.sqrt((plain.dh.astype(np.float64) ** 2).sum(axis=(1, 2)))
    for trace in (plain, first, packed):
        np.testing.assert_allclose(trace.gradient_norm(), norms, rtol=1e-12)
    np.testing.assert_allclose(
        plain.sequence(1).gradient_norm(), np.sqrt((plain.dh[:5, 1].astype(float) ** 2).sum(1)), rtol=1e-12
    )
    assert repr(plain) == "Trace(layer=0, reverse=False, c=(7, 4, 5), h=(7, 4, 5), dh=yes)"


@pytest.mark.parametrize("merge", ["sum", "mul", "ave", "none"])
def test_merged_directions(merge: str) -> None:
    """h is each direction's own, and what reaches its last step is its part of dy."""
    lstm = layer(bidirectional=True, merge=merge)
    y, _ = lstm(X)
    dy = (np.ones_like(y[0]),) * 2 if merge == "none" else np.ones_like(y)
    forth, back = lstm.trace(X, dy=dy)
    expected = {"sum": forth.h + back.h, "mul": forth.h * back.h, "ave": (forth.h + back.h) / 2}
    np.testing.assert_array_equal(y[0] if merge == "none" else y, expected.get(merge, forth.h))
    factor = {"mul": back.h[-1], "ave": 0.5}.get(merge, 1.0)
    np.testing.assert_array_equal(forth.dh[-1], np.broadcast_to(np.float32(factor), forth.dh[-1].shape))


def test_the_gradient_of_the_state_alone() -> None:
    """Without dy a trace takes dstate, and what reaches the last h is dh_n."""
    lstm, dh = layer(), np.ones((1, 4, 5), np.float32)
    (trace,) = lstm.trace(X, dstate=(dh, np.zeros_like(dh)))
    np.testing.assert_array_equal(trace.dh[-1], dh[0])
    assert (np.diff(trace.gradient_norm()) > 0).all(), "the initial weights let a gradient vanish"
    start = np.repeat(dh, 2, 0), np.zeros((2, 4, 5), np.float32)
    forth, back = layer(bidirectional=True, merge="none").trace(X, dstate=start)
    np.testing.assert_array_equal(forth.dh[-1], back.dh[0])


def test_nothing_to_trace() -> None:
    for x, lengths in ((X[:, :0], None), (X, np.zeros(4, int))):
        (trace,) = layer().trace(x, lengths=lengths, dy=np.ones((*x.shape[:2], 5), np.float32))
        for name in (*"ifgoch", "dh"):
            array = getattr(trace, name)
            assert array.shape == (*x.shape[:2], 5) and not array.any()
        assert trace.gradient_norm().tolist() == [0.0] * 7


def test_it_leaves_no_trace() -> None:
    """Nothing is drawn, and what a layer computes next is the same."""
    lstm, other = (layer(num_layers=2, dropout=0.5) for _ in range(2))
    other.trace(X, dy=np.ones((7, 4, 5), np.float32))
    np.testing.assert_array_equal(lstm.forward(X)[0], other.forward(X)[0])


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda lstm: lstm.trace(X[..., :2]), ValueError, "x must have 3 features"),
        (lambda lstm: lstm.trace(X.astype(np.float64)), TypeError, "x must have the layer's dtype"),
        (lambda lstm: lstm.trace(X, lengths=[8, 1, 1, 1]), ValueError, "lengths must lie between 0 and T = 7"),
        (lambda lstm: lstm.trace(X, dy=np.ones((7, 4, 4), np.float32)), ValueError, "dy must have the shape of y"),
        (lambda lstm: lstm.trace(X, dstate=np.ones(3)), TypeError, r"dstate must be a pair \(h, c\)"),
        (lambda lstm: lstm.trace(X)[0].gradient_norm(), ValueError, "give dy, or dstate"),
        (lambda lstm: lstm.trace(X)[0].sequence(4), ValueError, "row must be less than the number of rows, 4"),
        (lambda lstm: lstm.trace(X)[0].sequence(-1), ValueError, "row must be at least 0"),
        (lambda lstm: lstm.trace(X)[0].sequence(1.0), TypeError, "row must be an integer"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call(layer())
