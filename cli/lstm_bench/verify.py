"""Whether an engine computes the LSTM: its results held against the reference before its time counts."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any, NamedTuple

import numpy as np

from . import engines, workload
from .cases import Case

# Largest deviation over the largest value: rounding grows with the length of the sums, and gradients sum over T and B.
TOLERANCE = {"float32": {"y": 1e-5, "gradient": 2e-4}, "float64": {"y": 1e-12, "gradient": 1e-10}}
_MOST_FLOPS = 1e9
_MOST_STEPS = 100
_LEAST_STEPS = 4


class Verdict(NamedTuple):
    """The largest deviation of y and of the gradients, and what is wrong (empty if nothing is)."""

    y: float
    gradient: float | None
    wrong: str


def checked_steps(case: Case) -> int:
    """How many steps are checked: all where that is cheap, the first few of a big case."""
    affordable = int(_MOST_FLOPS / (case.flops("inference") / case.T))
    return min(case.T, _MOST_STEPS, max(_LEAST_STEPS, affordable))


def checked_prefix(case: Case, mode: str) -> int:
    """How many steps of the timed y can be checked as well: those whose past is all that counts."""
    return 0 if case.bidirectional or mode == "stream" else checked_steps(case)


class Reference:
    """The expected results in float64: by `fastlstm.reference` where that is there, by the NumPy engine elsewhere."""

    def __init__(self) -> None:
        """Find out who the judge is."""
        self._reference: Any = None
        with contextlib.suppress(ImportError):
            self._reference = importlib.import_module("fastlstm.reference")
        self.name = "NumPy engine" if self._reference is None else "fastlstm.reference"

    def results(self, case: Case, mode: str, dtype: str, seed: int) -> dict[str, np.ndarray]:
        """y, and for training dx and each gradient, of the shortened case for the numbers that the engines get."""
        work = workload.make(case.shortened(checked_steps(case)), dtype, seed)
        work = workload.Workload(work.case, {k: v.astype(np.float64) for k, v in work.params.items()},
                                 work.x.astype(np.float64), work.dy.astype(np.float64))  # fmt: skip
        if self._reference is None:
            return self.by_numpy(work, mode)
        y, _, tape = self._reference.forward(
            work.params, work.x, num_layers=case.layers, bidirectional=case.bidirectional
        )
        if mode != "training":
            return {"y": y}
        dx, _, grads = self._reference.backward(tape, work.dy)
        return {"y": y, "dx": dx, **grads}

    def by_numpy(self, work: workload.Workload, mode: str) -> dict[str, np.ndarray]:
        engine = engines.load(engines.ALWAYS)(1)
        if mode != "training":
            return {"y": engine.inference(work)()}
        y, dx, grads = engine.training(work)()
        return {"y": y, "dx": dx, **grads}


def _deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest expected value; infinite for another shape or what is not finite."""
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def compare(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], dtype: str) -> Verdict:
    """Hold an engine's results against the expected ones; `timed_y` is the timed run's y over its first steps."""
    limits = TOLERANCE[dtype]
    missing = sorted(set(expected) - set(found))
    if missing:
        return Verdict(float("inf"), None, f"no {', '.join(missing)}")
    deviations = {name: _deviation(found[name], value) for name, value in expected.items()}
    if "timed_y" in found:
        deviations["timed y"] = _deviation(found["timed_y"], expected["y"])
    y = max(deviations[name] for name in ("y", "timed y") if name in deviations)
    gradients = [value for name, value in deviations.items() if name not in ("y", "timed y")]
    wrong = [f"{name} is off by {value:.1e}" for name, value in deviations.items()
             if not value <= limits["y" if name in ("y", "timed y") else "gradient"]]  # fmt: skip
    return Verdict(y, max(gradients) if gradients else None, "; ".join(wrong[:2]))
