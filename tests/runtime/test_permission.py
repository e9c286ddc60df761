"""The matrix unit: asked for once, planned for where it pays, and left where the system says no."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from layer_case import LayerCase

import fastlstm
import fastlstm.plan as plan
from fastlstm.runtime import permission
from fastlstm.simd.isa import multiplies_tiles

REFUSED = """
import fastlstm.simd.isa as isa
isa.may_use_tiles = lambda: False
import numpy as np, fastlstm
from fastlstm.plan import plan_backward
assert not plan_backward(40, 64, 128, 128, 1, np.dtype("float32"), 1).in_unit
lstm = fastlstm.LSTM(20, 70, seed=1)
y, state, tape = lstm.forward(np.ones((40, 16, 20), np.float32))
dx, _, _ = lstm.backward(tape, np.ones_like(y))
print(repr(float(np.abs(dx).sum())))
"""


KEPT = """
import pickle, sys
import fastlstm.simd.isa as isa
if sys.argv[1] == "refused":
    isa.may_use_tiles = lambda: False
import numpy as np
lstm = pickle.load(open(sys.argv[2], "rb"))
x = np.ones((3, 2, 20), np.float32)
stream = lstm.stream(2)
steps = [stream.step(each).copy() for each in x]
assert (np.stack(steps) == lstm(x)[0]).all()
assert "matrix unit" not in lstm.plan(40, 64).explain() or sys.argv[1] == "asked"
print(repr(float(np.abs(steps[-1]).sum())))
"""


@pytest.fixture
def in_registers(monkeypatch: pytest.MonkeyPatch):
    """Plans without the matrix unit, when called."""

    def forbid() -> None:
        monkeypatch.setattr(plan, "multiplies_tiles", lambda: False)
        plan.plan_backward.cache_clear()

    yield forbid
    monkeypatch.undo()
    plan.plan_backward.cache_clear()


def test_planned_where_it_pays() -> None:
    def planned(H: int, dtype: str, I: int = 32) -> bool:
        return plan.plan_backward(100, 64, I, H, 1, np.dtype(dtype), 1).in_unit

    assert planned(plan.DIGIT_UNITS, "float32") == multiplies_tiles()
    assert not planned(plan.DIGIT_UNITS - 1, "float32")
    assert not planned(plan.DIGIT_UNITS, "float64")
    assert planned(32, "float32", plan.DIGIT_WORK // 32) == multiplies_tiles()
    assert not planned(32, "float32", plan.DIGIT_WORK // 32 - 1)


def test_a_system_that_refuses() -> None:
    """In a process of its own: a permission that was given stays."""
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lstm = fastlstm.LSTM(20, 70, seed=1)
    y, _, tape = lstm.forward(np.ones((40, 16, 20), np.float32))
    dx, _, _ = lstm.backward(tape, np.ones_like(y))
    assert float(done.stdout) == pytest.approx(float(np.abs(dx).sum()), rel=1e-5)


def test_no_other_system_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permission.sys, "platform", "win32")
    monkeypatch.setattr(permission.ctypes, "CDLL", None)
    assert not permission.may_use_tiles.__wrapped__()


def test_huge_numbers_overflow_alike(in_registers) -> None:
    """To infinity where registers do, though a product of their digits may be below zero."""

    def gradient() -> np.ndarray:
        lstm = fastlstm.LSTM(64, 64, bias=False, seed=1)
        rng = np.random.default_rng(0)
        lstm.parameters["weight_ih_l0"][...] = rng.uniform(1e6, 2e6, (256, 64))
        lstm.parameters["weight_hh_l0"][...] = 0
        y, _, tape = lstm.forward(np.zeros((4, 16, 64), np.float32))
        return lstm.backward(tape, np.full_like(y, 1e37))[0]

    found = gradient()
    in_registers()
    np.testing.assert_array_equal(found, gradient())
    assert np.isinf(found).any()


@pytest.mark.parametrize("where", ["dy", "x", "weight_ih_l0", "weight_hh_l0"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_special_values_come_out_alike(value: float, where: str, in_registers) -> None:
    """NaN and infinity stand in the gradients where registers give them, and other rows of dx are as without."""
    case = LayerCase(T=5, B=21, I=34, H=70)
    clean = case.found()
    arrays = case.arrays if where in ("dy", "x") else case.lstm.parameters
    arrays[where].flat[77] = value
    with np.errstate(invalid="ignore", over="ignore"):
        found = case.found()
        in_registers()
        expected = case.found()
    for name in ("dx", "dh_0", "dc_0", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0"):
        np.testing.assert_array_equal(np.isnan(found[name]), np.isnan(expected[name]), err_msg=name)
        whole = np.isfinite(expected[name])
        np.testing.assert_array_equal(np.isfinite(found[name]), whole, err_msg=name)
        scale = np.abs(expected[name][whole]).max(initial=1e-3)
        np.testing.assert_allclose(found[name][whole], expected[name][whole], rtol=0, atol=1e-5 * scale, err_msg=name)
    if where in ("dy", "x"):
        others = [b for b in range(case.B) if b != {"dy": 77 // 70, "x": 77 // 34}[where]]
        np.testing.assert_array_equal(found["dx"][:, others], clean["dx"][:, others])


@pytest.mark.parametrize("answer", ["asked", "refused"])
def test_a_layer_kept_by_another_process(tmp_path: Path, answer: str) -> None:
    """What it is compiled for is found anew: its first call may be a stream's, and this system may refuse."""
    lstm = fastlstm.LSTM(20, 70, seed=1)
    kept = tmp_path / "layer.pickle"
    kept.write_bytes(pickle.dumps(lstm))
    done = subprocess.run([sys.executable, "-c", KEPT, answer, str(kept)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    y, _ = lstm(np.ones((3, 2, 20), np.float32))
    assert float(done.stdout) == pytest.approx(float(np.abs(y[-1]).sum()), rel=1e-5)
    assert ("matrix unit" in lstm.plan(40, 64).explain()) == multiplies_tiles()
    for other in (lstm.quantize("int8"), fastlstm.LSTM(20, 70, proj_size=30), fastlstm.LSTM(20, 70, dtype="float64")):
        assert "matrix unit" not in other.plan(40, 64).explain()
