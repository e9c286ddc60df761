"""Every option of a cell, alone and together, with lengths and resets: values and gradients are the reference's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_case import Case, random_case
from tolerances import of_case
from variant_case import check, layer_of, options_of

import fastlstm
from fastlstm import layer_call
from fastlstm.cell import CellSpec

BOTH = {"sizes": (5, 4, 3, 7), "bidirectional": True}
WIDE = {"sizes": (9, 13, 5, 19), "layers": 2}  # more than a vector of units, more rows than a tile has
ALONE = {
    "plain": CellSpec(),
    "diagonal peephole": CellSpec(peephole="diagonal"),
    "diagonal peephole, all from the c before": CellSpec(
        peephole="diagonal", output_peephole="previous", candidate_peephole=True
    ),
    "full peephole": CellSpec(peephole="full"),
    "full peephole, output from the new c": CellSpec(peephole="full", output_peephole="new"),
    "coupled": CellSpec(coupled=True),
    "clip": CellSpec(clip=0.4),
    "projection": CellSpec(proj_size=3),
    "layer norm": CellSpec(layer_norm=True),
    "zoneout": CellSpec(zoneout=(0.3, 0.2)),
    "recurrent dropout, one mask": CellSpec(),
    "recurrent dropout, a mask a step": CellSpec(recurrent_dropout_mode="step"),
}
TOGETHER = {
    "everything": Case(
        CellSpec(layer_norm=True, proj_size=3, peephole="full", coupled=True, zoneout=0.2, clip=1.0),
        lengths=True, reset="values", layers=2, masks=("recurrent", "input"), **BOTH,
    ),
    "everything elementwise": Case(
        CellSpec(
            peephole="diagonal", zoneout=(0.1, 0.4), clip=1.0, activations=("hard_sigmoid", "softsign", "elu"),
            recurrent_dropout_mode="step",
        ),
        lengths=True, reset="zero", layers=2, masks=("recurrent", "input"), **BOTH,
    ),
}  # fmt: skip


def case_of(name: str, **options: object) -> Case:
    masks = ("recurrent",) if name.startswith("recurrent") else ()
    return Case(ALONE[name], masks=masks, **options)


@pytest.mark.parametrize("name", ALONE)
def test_an_option_alone(name: str) -> None:
    """Ragged, small and wide; the dense case is a call without lengths and resets."""
    for case in (
        case_of(name, **BOTH, lengths=True, reset="values", seed=1),
        case_of(name, **WIDE, lengths=True, seed=2),
        case_of(name, **WIDE, reset="zero", seed=3),
    ):
        check(case, of_case(case))


@pytest.mark.parametrize("name", TOGETHER)
def test_options_together(name: str) -> None:
    check(TOGETHER[name], of_case(TOGETHER[name]))


@pytest.mark.parametrize("seed", range(4))
def test_options_at_random(seed: int) -> None:
    case = random_case(1000 + seed)
    check(case, of_case(case))


@pytest.mark.parametrize("name", ["plain", "diagonal peephole", "layer norm"])
def test_dense_and_in_single_precision(name: str) -> None:
    case = case_of(name, **BOTH, dtype=np.float32)
    check(case, of_case(case))


@pytest.mark.parametrize("chunk", [1, 2, 3])
@pytest.mark.parametrize("name", ["plain", "full peephole", "layer norm", "zoneout"])
def test_any_chunk_backward(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In rows that end and begin anew, in both directions, dG is handed on from chunk to chunk, on threads that each
    have rows of their own, or units where a cell allows that.
    """
    plan, spec = layer_call.plan_backward, ALONE[name]
    monkeypatch.setattr(fastlstm.LSTM, "_prepared", lambda *_, **__: None)  # which has plans of its own
    cases = [case_of(name, sizes=(11, 7, 3, 70), lengths=True, reset="values", bidirectional=True, scale=0.1)]
    cases += [case_of(name, sizes=(11, 7, 3, 70), bidirectional=True, scale=0.1)]
    for case in cases:
        expected = None
        for parts, by_units in ((1, False), (2, False), (3, False), (2, True)):
            if by_units and (spec.layer_norm or spec.peephole == "full"):
                continue
            cut = {"parts": parts, "by_units": by_units, "chunk": chunk}
            monkeypatch.setattr(layer_call, "plan_backward", lambda *args, _cut=cut: plan(*args)._replace(**_cut))
            fastlstm.set_num_threads(6)
            found = check(case, of_case(case))
            expected = expected or found
            for one, other in zip(found.values(), expected.values(), strict=True):
                np.testing.assert_array_equal(one, other)


SHAPES = st.tuples(*(st.integers(1, n) for n in (9, 20, 40, 40)))


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.sampled_from(["", "zero", "values"]), st.sampled_from(list(ALONE)), st.integers(0, 99))
def test_odd_shapes(sizes: tuple[int, int, int, int], reset: str, name: str, seed: int) -> None:
    """Any shape, with lengths, with and without resets; the kernels are those that the tests above have compiled."""
    T, B, I, H = sizes
    if ALONE[name].proj_size >= H:
        H = ALONE[name].proj_size + 1
    case = case_of(
        name, sizes=(T, B, I, H), lengths=True, reset=reset, seed=seed, scale=0.1, bidirectional=bool(seed % 2)
    )
    check(case, of_case(case))


@pytest.mark.parametrize("name", ALONE)
def test_bits(name: str) -> None:
    """The same at any thread count, alone or in a batch, in one call or in pieces, and streamed."""
    case = case_of(name, sizes=(40, 17, 20, 33), scale=0.1)
    case.masks = ()  # nothing that is drawn
    lstm, x = layer_of(case), case.arrays["x"]
    state = case.arrays["h_0"], case.arrays["c_0"]
    fastlstm.set_num_threads(1)
    y, (h_n, c_n) = lstm(x, state)
    alone = lstm(x[:, 3:4], tuple(s[:, 3:4] for s in state))[0]
    np.testing.assert_array_equal(alone, y[:, 3:4])
    first, between = lstm(x[:13], state)
    second, (h, c) = lstm(x[13:], between)
    np.testing.assert_array_equal(np.concatenate([first, second]), y)
    np.testing.assert_array_equal(h, h_n)
    np.testing.assert_array_equal(c, c_n)
    stream = lstm.stream(17)
    stream.state = state
    for t in range(5):
        np.testing.assert_array_equal(stream.step(x[t]), y[t])
    if any(ALONE[name].zoneout):
        return
    lengths, flags = np.arange(17) * 2 + 3, np.random.default_rng(0).random((40, 17)) < 0.05
    expected = None
    for threads in (1, 2, 3):
        fastlstm.set_num_threads(threads)
        np.testing.assert_array_equal(lstm(x, state)[0], y)
        y_n, _, tape = lstm.forward(x, state, lengths=lengths, reset=flags)
        dx, d_state, grads = lstm.backward(tape, case.dy, case.dstate)
        found = [y_n, dx, *d_state, *grads.values()]
        expected = expected or found
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_options_are_copied() -> None:
    """What a layer is made with is what it has, and shows."""
    spec = CellSpec(peephole="full", activations=("hard_sigmoid", "tanh", "relu"), clip=2.0, zoneout=(0.1, 0.0))
    options = options_of(spec)
    bias, proj_size = options.pop("bias"), options.pop("proj_size")
    lstm = fastlstm.LSTM(3, 4, bias=bias, proj_size=proj_size, **options)
    assert lstm.spec == spec
    made = eval(repr(lstm), {"LSTM": fastlstm.LSTM})
    assert made.spec == spec
