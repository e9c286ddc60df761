"""Layers in int8 and bfloat16: the reference with the weights as they were rounded, the contracts on bits, refusals."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_case import Case
from tolerances import of_case
from variant_case import layer_of

import fastlstm
from fastlstm import reference
from fastlstm.cell import CellSpec
from fastlstm.passes import packing
from fastlstm.quantized import QuantizedLSTM
from fastlstm.simd.isa import multiplies_bytes

FORMATS = ("int8", "bfloat16")
CELLS = {
    "plain": CellSpec(),
    "no bias": CellSpec(bias=False),
    "diagonal peephole, coupled": CellSpec(peephole="diagonal", coupled=True),
    "clip, other activations, zoneout": CellSpec(
        clip=1.0, zoneout=(0.1, 0.4), activations=("hard_sigmoid", "softsign", "relu")
    ),
}


def check(case: Case, weights: str) -> None:
    """Against the reference in float64, with the weights that the layer says it has."""
    q, a = layer_of(case).quantize(weights), case.arrays
    given = {name: case.options[name] for name in ("lengths", "reset")}
    y, (h_n, c_n) = q(a["x"], (a["h_0"], a["c_0"]), **given)
    params = {name: array.astype(np.float64) for name, array in q.state_dict().items()}
    wide = (a[name].astype(np.float64) for name in ("x", "h_0", "c_0"))
    x, h_0, c_0 = wide
    wanted, (h, c), _ = reference.forward(params, x, (h_0, c_0), **(case.options | {"masks": {}}))
    for found, array in ((y, wanted), (h_n, h), (c_n, c)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, array, rtol=0, atol=of_case(case) * max(1.0, abs(array).max(initial=0)))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("plain", "int8"),
        ("plain", "bfloat16"),
        ("no bias", "int8"),
        ("no bias", "bfloat16"),
        ("diagonal peephole, coupled", "int8"),
        ("clip, other activations, zoneout", "bfloat16"),
    ],
)
def test_the_reference_with_rounded_weights(name: str, weights: str) -> None:
    """Ragged and dense, one direction and two, small and wide: rows and units beyond a tile's and a vector's."""
    spec = CELLS[name]
    both = {"sizes": (5, 4, 3, 7), "bidirectional": True, "layers": 2}
    check(Case(spec, **both, lengths=True, reset="values", dtype=np.float32), weights)
    check(Case(spec, sizes=(9, 13, 5, 19), scale=0.1, dtype=np.float32), weights)


SHAPES = st.tuples(*(st.integers(1, n) for n in (9, 20, 70, 70)))


@settings(max_examples=40, deadline=None)
@given(SHAPES, st.sampled_from(FORMATS), st.booleans(), st.integers(0, 99))
def test_odd_shapes(sizes: tuple[int, int, int, int], weights: str, ragged: bool, seed: int) -> None:
    case = Case(
        CellSpec(), sizes=sizes, lengths=ragged, seed=seed, scale=0.1, bidirectional=bool(seed % 2), dtype=np.float32
    )
    check(case, weights)


@pytest.mark.parametrize("sizes", [(120, 1, 130, 129), (7, 200, 20, 33)], ids=str)
@pytest.mark.parametrize("weights", FORMATS)
def test_bits(weights: str, sizes: tuple[int, int, int, int]) -> None:
    """The same at any thread count, alone or in a batch, in one call or in pieces, prepared or not, and streamed."""
    T, B, I, H = sizes
    lstm = fastlstm.LSTM(I, H, num_layers=2, seed=0)
    q, rng = lstm.quantize(weights), np.random.default_rng(0)
    x = rng.standard_normal((T, B, I), np.float32)
    state = rng.standard_normal((2, B, H), np.float32), rng.standard_normal((2, B, H), np.float32)
    fastlstm.set_num_threads(1)
    y, (h_n, c_n) = q(x, state)
    for threads in (2, 3, 4):
        fastlstm.set_num_threads(threads)
        for _ in range(2):
            np.testing.assert_array_equal(q(x, state)[0], y)
    np.testing.assert_array_equal(q(x, state, lengths=np.full(B, T))[0], y)
    np.testing.assert_array_equal(q(x, state, reset=np.zeros((T, B), bool))[0], y)
    for rows in (slice(0, 1), slice(B // 2, B // 2 + 5)):
        np.testing.assert_array_equal(q(x[:, rows], tuple(s[:, rows].copy() for s in state))[0], y[:, rows])
    first, between = q(x[:5], state)
    second, last = q(x[5:], between)
    np.testing.assert_array_equal(np.concatenate([first, second]), y)
    np.testing.assert_array_equal(last, (h_n, c_n))
    stream = q.stream(B)
    stream.state = state
    np.testing.assert_array_equal(np.stack([stream.step(step) for step in x[:9]]), y[:9])


def test_sums_of_int8_in_float32_and_in_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of targets that do not multiply bytes, and of cells whose h is not bounded, beside the other."""
    case = Case(CellSpec(), sizes=(9, 30, 5, 19), scale=0.1, dtype=np.float32)
    q, a = layer_of(case).quantize("int8"), case.arrays
    y = q(a["x"], (a["h_0"], a["c_0"]))[0]
    monkeypatch.setattr(packing, "multiplies_bytes", lambda: False)
    slow = layer_of(case).quantize("int8")
    assert not slow._variant.exact and q._variant.exact == multiplies_bytes()
    wide = slow(a["x"], (a["h_0"], a["c_0"]))[0]
    np.testing.assert_allclose(wide, y, rtol=0, atol=of_case(case))
    for row in range(0, 30, 7):
        alone = slow(a["x"][:, row : row + 1], tuple(a[name][:, row : row + 1].copy() for name in ("h_0", "c_0")))[0]
        np.testing.assert_array_equal(alone, wide[:, row : row + 1])


def test_bfloat16_is_the_float_layer_with_rounded_weights() -> None:
    """Bit for bit; a NaN is one of theirs too."""
    lstm = fastlstm.LSTM(33, 47, num_layers=2, bidirectional=True, seed=0)
    lstm.parameters["weight_hh_l1"][3, 4] = np.nan
    q, same = lstm.quantize("bfloat16"), fastlstm.LSTM(33, 47, num_layers=2, bidirectional=True)
    same.load_state_dict(q.state_dict())
    x = np.random.default_rng(0).standard_normal((30, 7, 33), np.float32)
    found, wanted = q(x), same(x)
    assert np.isnan(found[0]).any() and not np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[0], wanted[0])
    np.testing.assert_array_equal(found[1], wanted[1])


@pytest.mark.parametrize("weights", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_comes_out_where_the_reference_has_it(weights: str, value: float) -> None:
    case = Case(CellSpec(), sizes=(5, 9, 6, 21), scale=0.3, dtype=np.float32)
    case.arrays["x"][2, 3, 1] = value
    case.arrays["h_0"][0, 5, 7] = value
    q, a = layer_of(case).quantize(weights), case.arrays
    params = {name: array.astype(np.float64) for name, array in q.state_dict().items()}
    with np.errstate(invalid="ignore", over="ignore"):
        wanted, _, _ = reference.forward(params, a["x"], (a["h_0"], a["c_0"]), **case.options)
    np.testing.assert_allclose(q(a["x"], (a["h_0"], a["c_0"]))[0], wanted, rtol=0, atol=of_case(case))


@pytest.mark.parametrize("weights", FORMATS)
def test_errors_are_told(weights: str) -> None:
    lstm = fastlstm.LSTM(40, 50, seed=0)
    before = lstm.state_dict()
    q, x = lstm.quantize(weights), np.random.default_rng(0).standard_normal((9, 3, 40), np.float32)
    assert list(q.weight_errors) == ["weight_ih_l0", "weight_hh_l0"]
    for name, error in q.weight_errors.items():
        off = abs(q.parameters[name] - lstm.parameters[name]).max() / abs(lstm.parameters[name]).max()
        assert error.max == pytest.approx(off, rel=1e-3)
        assert 0 < error.rms < error.max <= {"int8": 0.5 / 127, "bfloat16": 2**-8}[weights]
    output, (y, _), (wanted, _) = q.error(lstm, x), q(x), lstm(x)
    assert output.max == pytest.approx(abs(y - wanted).max())
    assert 0 < output.rms < output.max < 0.02
    assert q.error(q, x, lengths=[3, 9, 0]) == q.error(lstm, x[:, :0]) == (0, 0)
    for name, array in lstm.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_the_float_layer_may_go_on() -> None:
    """What is written to it later is not seen."""
    lstm, x = fastlstm.LSTM(4, 5, seed=0), np.ones((3, 2, 4), np.float32)
    q = lstm.quantize()
    assert isinstance(q, QuantizedLSTM) and q.weights == "int8"
    before = q(x)[0]
    for array in lstm.parameters.values():
        array[...] = 0
    np.testing.assert_array_equal(q(x)[0], before)
    with pytest.raises(ValueError, match="read-only"):
        q.parameters["weight_hh_l0"][0, 0] = 1


@pytest.mark.parametrize("weights", FORMATS)
def test_copies(weights: str) -> None:
    lstm = fastlstm.LSTM(4, 17, bidirectional=True, merge="sum", batch_first=True, seed=0)
    q, x = lstm.quantize(weights), np.ones((2, 3, 4), np.float32)
    y = q(x)[0]
    assert y.shape == (2, 3, 17)
    for other in (pickle.loads(pickle.dumps(q)), copy.copy(q), copy.deepcopy(q)):
        np.testing.assert_array_equal(other(x)[0], y)
        assert repr(other) == repr(q) and other.weight_errors == q.weight_errors
    made = eval(repr(q), {"LSTM": fastlstm.LSTM})
    assert made.weights == weights and made.merge == "sum"


def test_a_copy_goes_to_a_processor_with_other_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """And back: a kernel for instructions that a processor has not would end the process."""
    q, x = fastlstm.LSTM(4, 17, seed=0).quantize(), np.ones((2, 3, 4), np.float32)
    y, there = q(x)[0], pickle.dumps(q)
    with monkeypatch.context() as patch:
        patch.setattr(packing, "multiplies_bytes", lambda: False)
        other = pickle.loads(there)
        back = pickle.dumps(other)
    assert not other._variant.exact
    np.testing.assert_allclose(other(x)[0], y, rtol=0, atol=1e-6)
    again = pickle.loads(back)
    assert again._variant == q._variant
    np.testing.assert_array_equal(again(x)[0], y)


def test_outputs_of_other_forms() -> None:
    """A pair of directions, and a packed sequence."""
    lstm = fastlstm.LSTM(4, 5, bidirectional=True, merge="none", seed=0)
    q, x = lstm.quantize("bfloat16"), np.random.default_rng(0).standard_normal((3, 2, 4), np.float32)
    packed = fastlstm.PackedSequence(x.reshape(6, 4), [2, 2, 2])
    assert q.error(lstm, packed) == pytest.approx(q.error(lstm, x))
    assert q.plan(3, 2).parts == 1


REFUSED: dict[str, tuple[dict[str, Any], str, type[Exception], str]] = {
    "name": ({}, "int4", ValueError, r"weights must be one of 'int8', 'bfloat16', but was 'int4'"),
    "float64": ({"dtype": "float64"}, "int8", TypeError, r"the layer's dtype must be float32, but is float64"),
    "projection": ({"proj_size": 2}, "int8", ValueError, r"no projection, .* but has proj_size=2"),
    "layer norm": ({"layer_norm": True}, "bfloat16", ValueError, r"but has layer_norm=True"),
    "peephole": ({"peephole": "full"}, "int8", ValueError, r"but has peephole='full'"),
}


@pytest.mark.parametrize(("options", "weights", "error", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(options: dict[str, Any], weights: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fastlstm.LSTM(3, 5, **options).quantize(weights)


def test_no_training_and_no_writing() -> None:
    lstm = fastlstm.LSTM(3, 5, seed=0)
    q, x = lstm.quantize(), np.ones((2, 1, 3), np.float32)
    with pytest.raises(TypeError, match=r"forward: a quantised layer is for inference alone"):
        q.forward(x)
    with pytest.raises(TypeError, match=r"backward: a quantised layer is for inference alone"):
        q.backward(lstm.forward(x)[2], x)
    with pytest.raises(TypeError, match=r"load_state_dict: a quantised layer is for inference alone"):
        q.load_state_dict(lstm.state_dict())
    q.freeze()
    with pytest.raises(ValueError, match=r"frozen must be True for a quantised layer"):
        q.freeze(False)
    with pytest.raises(TypeError, match=r"layer must be an LSTM, but was str"):
        q.error("lstm", x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"layer must give y of the shape \(2, 1, 5\), but gives \(2, 1, 6\)"):
        q.error(fastlstm.LSTM(3, 6), x)
    with pytest.raises(ValueError, match=r"stream: reverse must be False"):
        fastlstm.LSTM(3, 5, reverse=True).quantize().stream()
    lstm.parameters["weight_ih_l0"][1, 2] = np.nan
    with pytest.raises(ValueError, match=r"weight_ih_l0 must be finite to be rounded to int8, but is nan at \(1, 2\)"):
        lstm.quantize()
