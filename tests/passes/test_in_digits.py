"""Layers about the sizes from which on W x and R h are computed in whole numbers: the bits of each row do not depend on
the others, on the threads, on how time is cut, or on where the weights lie.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from layer_case import LayerCase
from reference_case import Case
from tolerances import of_case
from variant_case import layer_of

import fastlstm
from fastlstm import LSTM
from fastlstm.cell import PLAIN, CellSpec
from fastlstm.passes.packing import in_digits, plain_variant
from fastlstm.plan import DIGIT_FEATURES, DIGIT_UNITS, DIGIT_WORK
from fastlstm.simd.isa import multiplies_tiles

UNITS = [DIGIT_UNITS - 1, DIGIT_UNITS, DIGIT_UNITS + 1, 80]
FEATURES = [1, DIGIT_FEATURES - 1, DIGIT_FEATURES, 64, 70]
PLACES = [slice(None), slice(5, 6), slice(4, 7), slice(60, 77), slice(30, 52)]  # of rows in a batch of 100
State = tuple[np.ndarray, np.ndarray]


def test_which_products() -> None:
    """None without a matrix unit; and none whose sums need more than 32 bits."""
    single, most = plain_variant("float32"), 1 << 15
    for sizes, wanted in {
        (DIGIT_FEATURES, DIGIT_UNITS): (True, True),
        (DIGIT_FEATURES - 1, DIGIT_UNITS): (False, True),
        (DIGIT_FEATURES, DIGIT_UNITS - 1): (False, False),
        (most, most): (True, True),
        (most + 1, most): (False, True),
        (most, most + 1): (False, False),
        (DIGIT_WORK // 16, 16): (True, True),
        (DIGIT_WORK // 16 - 1, 16): (False, False),
        (most + 1, 16): (False, False),
    }.items():
        assert in_digits(single, *sizes) == (wanted if multiplies_tiles() else (False, False))
        assert in_digits(plain_variant("float64"), *sizes) == (False, False)


def whole(lstm: LSTM, x: np.ndarray, state: State) -> np.ndarray:
    return lstm(x, state)[0]


def streamed(lstm: LSTM, x: np.ndarray, state: State) -> np.ndarray:
    stream = lstm.stream(x.shape[1])
    stream.state = state
    return np.stack([stream.step(step) for step in x])


def by_steps(lstm: LSTM, x: np.ndarray, state: State) -> np.ndarray:
    found = []
    for t in range(len(x)):
        y, state = lstm(x[t : t + 1], state)
        found.append(y[0])
    return np.stack(found)


def where_they_lie(lstm: LSTM, x: np.ndarray, state: State) -> np.ndarray:
    """Steps with parameters that somebody holds, which are not packed for them."""
    held = lstm.parameters["weight_hh_l0"]
    found = by_steps(lstm, x, state)
    assert held.size
    return found


def check_rows(lstm: LSTM, x: np.ndarray, state: State) -> np.ndarray:
    """Compare some rows by themselves, in every way, with the batch; returns y of the batch."""
    fastlstm.set_num_threads(1)
    y = whole(lstm, x, state)
    for threads in (1, 2):
        fastlstm.set_num_threads(threads)
        for rows in PLACES:
            few, before = np.ascontiguousarray(x[:, rows]), (state[0][:, rows].copy(), state[1][:, rows].copy())
            for way in (whole, streamed, by_steps, where_they_lie):
                np.testing.assert_array_equal(way(lstm, few, before), y[:, rows], err_msg=f"{way} {rows} {threads}")
    return y


SIZES = [*itertools.product(UNITS, FEATURES), *((H, DIGIT_WORK // H + more) for H in (1, 17, 32) for more in (0, 3))]


@pytest.mark.parametrize(("H", "I"), SIZES)
def test_rows(H: int, I: int) -> None:
    case = LayerCase(T=4, B=100, I=I, H=H)
    x, (h_0, c_0) = case.arrays["x"], (case.arrays["h_0"], case.arrays["c_0"])
    y = check_rows(case.lstm, x, (h_0, c_0))
    clean = [row for row in range(100) if row not in (5, 70)]
    for value in (np.nan, np.inf, 1e30):
        h_0[0, 5, H // 2] = x[1, 70, -1] = value
        found = check_rows(case.lstm, x, (h_0, c_0))
        np.testing.assert_array_equal(found[:, clean], y[:, clean])
        np.testing.assert_array_equal(found[0, 70], y[0, 70])


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("name", ["weight_ih_l0", "weight_hh_l0"])
def test_a_weight_that_cannot_be_split(name: str, value: float) -> None:
    case = LayerCase(T=3, B=100, I=33, H=70)
    case.lstm.parameters[name][2 * 70 + 3, 20] = value
    y = check_rows(case.lstm, case.arrays["x"], (case.arrays["h_0"], case.arrays["c_0"]))
    assert np.isnan(y[0, :, 3]).all() == np.isnan(value)


def test_weights_of_all_sizes() -> None:
    """Whole columns of denormals among them: those of a feature that weight decay has forgotten."""
    case = LayerCase(T=3, B=100, I=33, H=70)
    sizes = 10.0 ** np.random.default_rng(0).permutation(np.linspace(-44, 30, 33))
    case.lstm.parameters["weight_ih_l0"][...] *= sizes
    case.arrays["x"][...] /= np.maximum(sizes, 1e-30)
    case.lstm.parameters["weight_hh_l0"][:, ::3] *= 1e-38
    check_rows(case.lstm, case.arrays["x"], (case.arrays["h_0"], case.arrays["c_0"]))


WHOLE = CellSpec(peephole="full", proj_size=DIGIT_UNITS)  # units need all others of their row
ELEMENTWISE = CellSpec(peephole="diagonal", zoneout=(0.3, 0.2))


def case_of(spec: CellSpec, I: int = DIGIT_FEATURES) -> Case:
    return Case(spec, sizes=(4, 100, I, 70), lengths=True, reset="zero", scale=0.1, dtype=np.float32)


def test_layer_norm() -> None:
    """The products are apart, and not added to a bias."""
    case = case_of(CellSpec(layer_norm=True))
    y = check_rows(layer_of(case), case.arrays["x"], (case.arrays["h_0"], case.arrays["c_0"]))
    case.options |= {"lengths": None, "reset": None}
    np.testing.assert_allclose(y, case.forward()[0], rtol=0, atol=of_case(case))


CASES = {
    "plain": case_of(PLAIN),
    "diagonal peephole, zoneout": case_of(ELEMENTWISE),
    "full peephole, projection, few features": case_of(WHOLE, 10),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_lengths_and_resets(case: Case) -> None:
    lstm, x, state = layer_of(case), case.arrays["x"], (case.arrays["h_0"], case.arrays["c_0"])
    lengths, reset = case.options["lengths"], case.options["reset"]
    y, _ = lstm(x, state, lengths=lengths, reset=reset)
    np.testing.assert_allclose(y, case.forward()[0], rtol=0, atol=of_case(case))
    for threads in (1, 2):
        fastlstm.set_num_threads(threads)
        for rows in PLACES:
            before = state[0][:, rows], state[1][:, rows]
            found, _ = lstm(x[:, rows], before, lengths=lengths[rows], reset=reset[:, rows])
            np.testing.assert_array_equal(found, y[:, rows])
