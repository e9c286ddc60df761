"""The PyTorch adapter's threads beside torch's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastlstm.torch
from fastlstm.torch import passes as torch_passes


def test_threads_are_the_least_of_both_settings() -> None:
    before, ours = torch.get_num_threads(), fastlstm.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch_passes.threads() == 1
        fastlstm.torch.LSTM(64, 64)(torch.randn(20, 16, 64))[0].sum().backward()
        assert (torch.get_num_threads(), fastlstm.get_num_threads()) == (1, ours)
        torch.set_num_threads(64)
        assert torch_passes.threads() == ours
    finally:
        torch.set_num_threads(before)


STEPS = """
import os, threading
import torch
import fastlstm.torch
from fastlstm.passes import calls
from fastlstm.runtime import threads

def ran():
    found = {}
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/schedstat") as file:
            found[task] = int(file.read().split()[0])
    return found

def step(module):
    x = torch.ones(30, 64, 64)
    y = module(torch.nn.functional.linear(x, weight).relu())
    y = y[0] if isinstance(y, tuple) else y
    torch.nn.functional.linear(y, weight).square().mean().backward()

def workers(module):
    before = ran()
    for _ in range(5):
        step(module)
    return {task for task, time in ran().items() if time > before.get(task, 0)} - {str(threading.get_native_id())}

torch.set_num_threads(2)
fastlstm.set_num_threads(2)
threads._crowded = lambda: False  # whatever else the machine does
parts, fan_out = [], calls.fan_out
calls.fan_out = lambda task, count, *rest: parts.append(count) or fan_out(task, count, *rest)
weight = torch.full((64, 64), 0.01, requires_grad=True)
lstm = fastlstm.torch.LSTM(64, 64)
step(lstm)
theirs = workers(torch.nn.Identity())
print(len(theirs), len(workers(lstm) - theirs), sorted(set(parts)))
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="only Linux tells which threads ran")
def test_a_training_step_runs_on_the_threads_that_torch_has(tmp_path: Path) -> None:
    """Torch's and this library's parallel regions are of one OpenMP, which has a pool of threads for each caller."""
    environment = os.environ | {"NUMBA_THREADING_LAYER": "omp", "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "error", "-c", STEPS]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout == "1 0 [2]\n", done.stdout + done.stderr
