"""The kernels of narrower processors, compiled and run on this one.

Every pass against the reference, and its bits at each thread count.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastlstm.simd.isa import target

SCRIPT = """
import numpy as np
import fastlstm, tolerances
from fastlstm.simd.isa import target
from layer_case import LayerCase

for options in (
    dict(T=6, B=7, I=5, H=19, layers=2, bidirectional=True),
    dict(T=5, B=1, I=130, H=33),
    dict(T=70, B=8, I=3, H=65),
):
    for dtype in ("float32", "float64"):
        case = LayerCase(dtype=dtype, **options)
        fastlstm.set_num_threads(1)
        found = case.found()
        tolerances.check(found, case.expected(), case)
        fastlstm.set_num_threads(2)
        again, inferred = case.found(), case.inferred()
        assert all(np.array_equal(again[name], found[name]) for name in found)
        assert all(np.array_equal(inferred[name], found[name]) for name in inferred)
        case.arrays["x"][0, 0, 0] = np.nan
        y = case.found()["y"]
        assert np.isnan(y[:, 0]).any() and np.array_equal(y[:, 1:], found["y"][:, 1:])
    for weights in ("int8", "bfloat16"):
        same = LayerCase(**options)
        q, a = same.lstm.quantize(weights), same.arrays
        same.lstm.load_state_dict(q.state_dict())
        y = q(a["x"], (a["h_0"], a["c_0"]))[0]
        tolerances.check({"y": y}, {"y": same.expected()["y"]}, same)
        assert np.array_equal(q(a["x"][:, :1], (a["h_0"][:, :1], a["c_0"][:, :1]))[0], y[:, :1])
print(target().name)
"""
NARROWER = {
    "avx2": ("haswell", "+avx2,+fma,+avx,+sse4.2,+sse4.1,+ssse3,+popcnt,+bmi,+bmi2"),
    "sse": ("nehalem", "+sse4.2,+sse4.1,+ssse3,+popcnt"),
}


@pytest.fixture(scope="module")
def processes() -> dict[str, subprocess.Popen]:
    """One process for each target that is narrower than this one, all compiling at the same time."""
    order = ["avx512", *NARROWER]
    narrower = order[order.index(target().name) + 1 :] if target().name in order else []
    started = {}
    for name in narrower:
        cpu, features = NARROWER[name]
        environment = os.environ | {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features}
        command = [sys.executable, "-c", SCRIPT]
        started[name] = subprocess.Popen(
            command,
            cwd=Path(__file__).parents[1],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    return started


@pytest.mark.parametrize("name", NARROWER)
def test_narrower(name: str, processes: dict[str, subprocess.Popen]) -> None:
    if name not in processes:  # not narrower than this process's own target, which all other tests are about
        assert target().name in (name, "sse", "neon", "generic")
        return
    out, err = processes[name].communicate()
    assert out.strip() == name, err
