"""The quick cases under pytest-benchmark; one fails when its ratio to the NumPy rival is below its floor, not by time.

pytest benchmarks
pytest benchmarks --benchmark-json out.json    # GFLOP/s, % of peak and the ratio are in each `extra_info`
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from lstm_bench import bench, stats, summary, workload
from lstm_bench.cases import CASES, Case
from lstm_bench.engines import ALWAYS, SUBJECT

# How many times as fast as the NumPy rival each case has to be, one thread each: half of what `lstm-bench run`
# `--threads 1` gave on an AVX-512 machine, so that another processor or BLAS passes and a lost fast path does not.
FLOORS = {
    ("vad-step", "inference"): 0.35,
    ("vad-step", "training"): 0.6,
    ("vad-step", "stream"): 2.6,
    ("vad-sequence", "inference"): 3.7,
    ("vad-sequence", "training"): 3.0,
    ("rl-rollout", "inference"): 0.6,
    ("rl-rollout", "training"): 0.4,
    ("rl-rollout", "stream"): 1.8,
    ("rl-train", "inference"): 1.9,
    ("rl-train", "training"): 1.3,
    ("deepar", "inference"): 2.6,
    ("deepar", "training"): 2.0,
    ("speech", "inference"): 1.4,
    ("speech", "training"): 1.0,
    ("hydrology", "inference"): 1.9,
    ("hydrology", "training"): 1.0,
}


def call(engine: Any, case: Case, mode: str) -> Callable[[], Any]:
    """What is timed."""
    work = workload.make(case, "float32")
    if mode != "stream":
        return engine.inference(work) if mode == "inference" else engine.training(work)
    step, x = engine.stream(work), work.x[0]
    return lambda: step(x)


@pytest.mark.parametrize(("name", "mode"), FLOORS)
def test_case(name: str, mode: str, harness: tuple[bench.Run, bench.Team], engine: Any, benchmark: Any) -> None:
    run, members = harness
    case = CASES[name]
    measured = {m.engine: m for m in run.group(members, bench.Group(case, mode, members.threads))}
    ours, numpy = measured[SUBJECT], measured[ALWAYS]
    assert (ours.status, numpy.status) == ("ok", "ok"), (ours.detail, numpy.detail)
    ratio = stats.ratio(ours.rounds, numpy.rounds)
    share = summary.share_of_peak(ours)
    benchmark.extra_info |= {
        "gflops": summary.gflops(ours),
        "percent_of_peak": None if share is None else 100 * share,
        "ratio_to_numpy": ratio.estimate,
        "ratio_interval": [ratio.low, ratio.high],
        "floor": FLOORS[name, mode],
    }
    seconds = ours.median_s or 1.0
    benchmark.pedantic(call(engine, case, mode), rounds=5, iterations=max(1, int(0.01 / seconds)), warmup_rounds=1)
    assert ratio.high >= FLOORS[name, mode], f"{ratio.estimate:.2f} times as fast as NumPy, floor {FLOORS[name, mode]}"
