"""Workers for the ratios: the harness of `lstm-bench`, started once for all cases."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lstm_bench import bench, engines
from lstm_bench.bench import Entrant, Settings

THREADS = 1
BUDGET_S = 0.4


@pytest.fixture(scope="session")
def harness() -> Iterator[tuple[bench.Run, bench.Team]]:
    """A run without groups of its own, and the processes of fastlstm and NumPy."""
    entrants = [Entrant(name, name) for name in (engines.SUBJECT, engines.ALWAYS)]
    run = bench.Run(Settings([], [], entrants, (THREADS,), budget_s=BUDGET_S))
    with bench.team(entrants, THREADS, limit_s=120) as members:
        run.document.limits.append(run.limits(members, sizes=(1 << 16,)))
        yield run, members


@pytest.fixture(scope="session")
def engine() -> engines.Adapter:
    """fastlstm in this process, for pytest-benchmark's own clock."""
    return engines.load(engines.SUBJECT)(THREADS)
