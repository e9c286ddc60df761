"""A wrong result is found, whatever part of it is wrong."""

import numpy as np
import pytest
from lstm_bench import verify
from lstm_bench.cases import CASES, Case

GOOD = {"y": np.ones((2, 2)), "dx": np.full((2, 2), 10.0), "weight_ih_l0": np.arange(4.0)}


def test_equal_results_pass():
    found = verify.compare({name: value * (1 + 1e-7) for name, value in GOOD.items()}, GOOD, "float32")
    assert found.wrong == "" and found.y == pytest.approx(1e-7) and found.gradient < 1e-6


@pytest.mark.parametrize("change, told", [
    ({"y": np.ones((2, 2)) * 1.001}, "y is off by 1.0e-03"),
    ({"y": np.array([[1, np.nan], [1, 1]])}, "y is off by inf"),
    ({"dx": np.full((2, 2), 10.1)}, "dx is off by 1.0e-02"),
    ({"weight_ih_l0": np.arange(5.0)}, "weight_ih_l0 is off by inf"),
    ({"timed_y": np.zeros((2, 2))}, "timed y is off by 1.0e+00"),
])  # fmt: skip
def test_whatever_is_wrong_is_named(change, told):
    assert verify.compare({**GOOD, **change}, GOOD, "float32").wrong == told


def test_a_missing_gradient_is_wrong():
    assert verify.compare({"y": GOOD["y"]}, GOOD, "float32").wrong == "no dx, weight_ih_l0"


def test_float64_is_held_to_its_own_precision():
    almost = {"y": GOOD["y"] * (1 + 1e-8)}
    assert verify.compare(almost, {"y": GOOD["y"]}, "float32").wrong == ""
    assert verify.compare(almost, {"y": GOOD["y"]}, "float64").wrong != ""


def test_big_cases_are_checked_over_their_first_steps():
    assert verify.checked_steps(CASES["ocr-line"]) == 63
    assert verify.checked_steps(CASES["deepbench-1024"]) == 4
    assert verify.checked_steps(CASES["vad-sequence"]) == 100
    assert verify.checked_prefix(CASES["ocr-line"], "inference") == 0  # the reverse direction starts at the end
    assert verify.checked_prefix(CASES["speech"], "training") == verify.checked_steps(CASES["speech"])
    assert verify.checked_steps(Case("c", 1, 1, 1, 1)) == 1
