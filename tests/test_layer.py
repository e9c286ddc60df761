"""The layer against the reference and against torch.nn.LSTM: values and every gradient, over random odd shapes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tolerances
from hypothesis import example, given, settings
from hypothesis import strategies as st
from layer_case import LayerCase

import fastlstm
from fastlstm.simd.isa import PRODUCT_COLUMNS, PRODUCT_ROWS, UNIT_PRODUCT_ROWS

# Around the lanes of every target (2 to 16), the rows of its tiles (3, 6), the units of a panel (up to 64) and the
# steps of k of a block (128).
SIZES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 129])
ROWS = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 18, 19, 97])
STEPS = st.sampled_from([1, 2, 3, 5, 8, 17, 41, 130])


@st.composite
def cases(draw: st.DrawFn, most_rows: int = 2000) -> LayerCase:
    """Cases of any options; long ones get few rows and layers, so that the reference ends soon."""
    T, B = draw(STEPS), draw(ROWS)
    flags = {name: draw(st.booleans()) for name in ("bidirectional", "bias", "batch_first", "unbatched", "state")}
    layers = draw(st.integers(1, 3)) if T < 40 else 1
    if T * B > most_rows:
        B = 1 + B % 12
    dtype = draw(st.sampled_from(["float32", "float64"]))
    B = 1 if flags["unbatched"] else B
    return LayerCase(T, B, draw(SIZES), draw(SIZES), layers, dtype=dtype, seed=draw(st.integers(0, 99)), **flags)


# Products for dW cut time where the rows of a chunk are full: at the boundary, one below, one above, and for a batch
# that is a chunk of its own.
BOUNDARIES = [
    LayerCase(T=PRODUCT_ROWS, B=1, I=3, H=5),
    LayerCase(T=PRODUCT_ROWS + 1, B=1, I=3, H=5, dtype="float64"),
    LayerCase(T=PRODUCT_ROWS // 8 + 1, B=8, I=17, H=16, bidirectional=True),
    LayerCase(T=3, B=PRODUCT_ROWS + 1, I=2, H=17),
    LayerCase(T=2 * PRODUCT_ROWS // 5 + 1, B=5, I=2, H=3, layers=2, dtype="float64"),
    LayerCase(T=UNIT_PRODUCT_ROWS // 4 + 1, B=8, I=1, H=64),  # in the matrix unit
    LayerCase(T=UNIT_PRODUCT_ROWS // 2 + 1, B=3, I=PRODUCT_COLUMNS + 1, H=65),
    LayerCase(T=2, B=2 * UNIT_PRODUCT_ROWS + 7, I=100, H=193),
]


@settings(max_examples=250)
@given(case=cases(), threads=st.sampled_from([1, 2]))
@example(case=LayerCase(T=1, B=1, I=1, H=1), threads=1)
@example(case=LayerCase(T=2, B=33, I=129, H=200, layers=3, bidirectional=True, batch_first=True), threads=2)
@example(case=LayerCase(T=30, B=2, I=5, H=330), threads=1)  # R does not fit into L2
@example(case=LayerCase(T=40, B=1, I=5, H=300, dtype="float64"), threads=2)
def test_layer_is_the_reference(case: LayerCase, threads: int) -> None:
    fastlstm.set_num_threads(threads)
    found = case.found()
    tolerances.check(found, case.expected(), case)
    for name, array in case.inferred().items():
        np.testing.assert_array_equal(array, found[name], err_msg="a plain call differs from forward")


@pytest.mark.parametrize("case", BOUNDARIES, ids=str)
def test_chunks_of_the_plan(case: LayerCase) -> None:
    assert case.lstm.plan(case.T, case.B, training=True).chunk < case.T or case.T == PRODUCT_ROWS
    tolerances.check(case.found(), case.expected(), case)


@settings(max_examples=80)
@given(case=cases(most_rows=600), threads=st.sampled_from([1, 2]))
@example(
    case=LayerCase(T=30, B=13, I=33, H=65, layers=2, bidirectional=True, batch_first=True, dtype="float64"), threads=2
)
def test_layer_is_torch(case: LayerCase, threads: int) -> None:
    fastlstm.set_num_threads(threads)
    tolerances.check(case.found(), case.expected_by_torch(), case)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("hidden", [64, 255, 256])
def test_promised_accuracy(hidden: int, dtype: str) -> None:
    case = LayerCase(T=100, B=3, I=hidden, H=hidden, dtype=dtype)
    found, expected = case.found(), case.expected()
    for name, wanted in expected.items():
        error = abs(found[name] - wanted).max()
        if tolerances.operation(name) == "values":
            assert error <= tolerances.PROMISED_VALUES[dtype], name
        else:
            assert error <= tolerances.PROMISED_GRADIENTS[dtype] * abs(wanted).max(), name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_saturated_gates(dtype: str) -> None:
    """Gates at 0 and at 1, candidates at -1 and at 1, with gradients that vanish."""
    case = LayerCase(T=20, B=5, I=6, H=17, dtype=dtype)
    signs = np.random.default_rng(0).choice([-1, 1], 4 * case.H)
    case.lstm.parameters["bias_ih_l0"][...] = 500 * signs
    found, expected = case.found(), case.expected()
    assert abs(expected["bias_ih_l0"]).max() < 1e-100
    assert abs(found["y"]).max() <= 1
    for name, wanted in expected.items():
        if tolerances.operation(name) == "values":
            allowed = tolerances.bound(dtype, name, case) * tolerances.scale(name, wanted)
        else:  # the slope 1 - g^2 of a tanh that is off by so much is off by twice that, in each of the terms
            allowed = (
                2 * tolerances.TANH[dtype] * (case.T * case.B if tolerances.operation(name) == "dparameters" else 8)
            )
        np.testing.assert_allclose(found[name], wanted, rtol=0, atol=allowed, err_msg=name)


def test_dstate_alone_and_dy_alone_add_up() -> None:
    """Backward is linear in (dy, dstate): the gradients of both are the sum of those of each."""
    case = LayerCase(T=9, B=4, layers=2, bidirectional=True, dtype="float64")
    lstm, a = case.lstm, case.arrays

    def gradients(dy: np.ndarray, dstate: tuple[np.ndarray, np.ndarray] | None) -> list[np.ndarray]:
        dx, state, grads = lstm.backward(lstm.forward(a["x"])[2], dy, dstate)
        return [dx, *state, *grads.values()]

    zero, dstate = np.zeros_like(a["dy"]), (a["dh_n"], a["dc_n"])
    for both, of_y, of_state in zip(
        gradients(a["dy"], dstate), gradients(a["dy"], None), gradients(zero, dstate), strict=True
    ):
        np.testing.assert_allclose(both, of_y + of_state, rtol=0, atol=1e-13 * max(1, abs(both).max()))


def test_batch_first_is_a_transpose() -> None:
    case = LayerCase(T=6, B=5, layers=2, bidirectional=True)
    turned = dataclasses.replace(case, batch_first=True)
    first, second = case.found(), turned.found()
    for name, array in first.items():
        np.testing.assert_array_equal(second[name], case_layout(turned, name, array), err_msg=name)


def case_layout(case: LayerCase, name: str, array: np.ndarray) -> np.ndarray:
    return case.to_caller(name, array) if name in ("y", "dx") else array


def test_empty_batch() -> None:
    case = LayerCase(T=4, B=0, I=3, H=5, layers=2, bidirectional=True)
    found = case.found()
    assert found["y"].shape == (4, 0, 10) and found["h_n"].shape == (4, 0, 5)
    assert found["dx"].shape == (4, 0, 3) and found["dc_0"].shape == (4, 0, 5)
    for name, parameter in case.lstm.parameters.items():
        np.testing.assert_array_equal(found[name], np.zeros_like(parameter))
    assert case.inferred()["y"].shape == (4, 0, 10)


def test_results_are_the_callers() -> None:
    """Nothing that is returned is reused: neither by a later call, nor by backward."""
    lstm = fastlstm.LSTM(3, 5, num_layers=2, seed=0)
    x, other = np.random.default_rng(0).standard_normal((2, 6, 2, 3)).astype(np.float32)
    y, (h_n, c_n), tape = lstm.forward(x)
    kept = y.copy(), h_n.copy(), c_n.copy()
    y[...] = h_n[...] = c_n[...] = np.nan  # a caller may write over what it was given
    dx, _, grads = lstm.backward(tape, np.ones_like(y))
    assert np.isfinite(dx).all() and all(np.isfinite(grad).all() for grad in grads.values())
    again, state_n = lstm(x)
    lstm(other)
    for found, wanted in zip((again, *state_n), kept, strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert not np.shares_memory(grads["bias_ih_l0"], grads["bias_hh_l0"])
