"""Short ones of the soaks in `benchmarks/soak.py`, which a person runs for longer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "soak.py"


def soak(*arguments: str, **environment: str) -> tuple[int, str]:
    """The exit code of a soak, and what it printed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_many_threads_on_the_same_layers(layer: str) -> None:
    _, told = soak("threads", "--seconds", "2", "--count", "64", NUMBA_THREADING_LAYER=layer)
    assert told.startswith(f"{layer}: 64 threads") and told.endswith("0 wrong, 0 stuck\n"), told


def test_children_of_every_kind() -> None:
    code, told = soak("processes", "--forks", "8", "--spawns", "2")
    assert code == 0, told


def test_many_processes_start_on_an_empty_cache() -> None:
    code, told = soak("start", "--count", "4")
    assert code == 0, told


def test_ctrl_c_in_long_calls() -> None:
    """How soon they end is the soak's to judge; here it counts that they do, and that the layer works afterwards."""
    _, told = soak("interrupt", "--seconds", "2")
    assert told.count("KeyboardInterrupt") == 3 and "does not work" not in told, told


@pytest.mark.parametrize("what", [("steps", "--count", "30000"), ("training", "--count", "2000")])
def test_memory_does_not_grow(what: tuple[str, ...]) -> None:
    code, told = soak(*what)
    assert code == 0, told
