"""Results made of known numbers."""

from __future__ import annotations

import numpy as np
from lstm_bench.cases import Case
from lstm_bench.results import Document, EngineInfo, Limits, Measurement

CASE = Case("small", 2, 3, 4, 5)


def measured(engine, seconds, case=CASE, mode="inference", threads=1, rounds=20, noise=0.0, seed=0, peak=100.0, **more):
    """A measurement whose rounds lie around `seconds`, by a normal of that relative width."""
    rng = np.random.default_rng(seed)
    taken = {k: [float(seconds * (1 + noise * rng.standard_normal())) for _ in range(3)] for k in range(rounds)}
    peaks = {} if peak is None else dict.fromkeys(range(rounds), peak)
    return Measurement(case, mode, "float32", threads, engine, "ok", median_s=seconds, loops=1, rounds=taken,
                       warmup=[seconds], peak_gflops=peaks, first_call_s=2 * seconds, **more)  # fmt: skip


def failed(engine, status, detail="", case=CASE, mode="inference", threads=1):
    """A measurement without a time."""
    return Measurement(case, mode, "float32", threads, engine, status, detail)


def document(*measurements, subject="fastlstm", limits=True):
    """A finished result."""
    threads = sorted({m.threads for m in measurements})
    limits = [Limits(t, "float32", 100.0, {65536: 100.0, 1 << 26: 10.0}) for t in threads] if limits else []
    machine = {"cpu": "Test CPU", "cores": 2, "system": "Linux", "caches": {"L2": "1M"}, "python": "3.12"}
    return Document(
        created="2026-01-01T00:00:00+00:00", machine=machine, settings={"dtype": "float32", "threads": threads},
        subject=subject, engines={m.engine: EngineInfo("1.0", 0.1) for m in measurements}, complete=True,
        measurements=list(measurements), limits=limits)  # fmt: skip
