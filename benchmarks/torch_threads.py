"""Whether torch's threads and this library's are in each other's way, in training steps of Linear, LSTM and Linear.

    pip install ".[torch]"
    python benchmarks/torch_threads.py

Linux tells of each thread for how long it ran, and for how long it could have run but waited for a processor. Other
programs make threads wait too, so stop them.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import NamedTuple

import click
import torch

import fastlstm.torch

CASES = {"torch.nn.LSTM": ((1, 1), (2, 1)), "fastlstm.torch.LSTM": ((1, 1), (2, 1), (2, 2))}


class Times(NamedTuple):
    """Of a thread, in ns."""

    ran: int
    waited: int


class Round(NamedTuple):
    """What some steps took."""

    ms: float  # a step
    processors: float  # that ran at once, on average
    waiting: float  # threads that waited for one, on average
    threads: int  # that ran at all


class Model(torch.nn.Module):
    """Linear, LSTM and Linear, and what trains them."""

    def __init__(self, kind: type[torch.nn.RNNBase], size: int, hidden_size: int) -> None:
        super().__init__()
        self.below = torch.nn.Linear(size, hidden_size)
        self.lstm = kind(hidden_size, hidden_size)
        self.above = torch.nn.Linear(hidden_size, size)
        self.optimizer = torch.optim.Adam(self.parameters())

    def step(self, x: torch.Tensor) -> None:
        """Train on a batch (T, B, I) that the model is to repeat."""
        self.optimizer.zero_grad()
        y, _ = self.lstm(self.below(x).relu())
        (self.above(y) - x).square().mean().backward()
        self.optimizer.step()


def times() -> dict[str, Times]:
    """Of each thread of this process."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        ran, waited, _ = map(int, (task / "schedstat").read_text().split())
        found[task.name] = Times(ran, waited)
    return found


def measure(model: Model, x: torch.Tensor, steps: int) -> Round:
    """Run some steps."""
    before, began = times(), time.perf_counter_ns()
    for _ in range(steps):
        model.step(x)
    taken, after = time.perf_counter_ns() - began, times()
    new = Times(0, 0)
    ran = [now.ran - before.get(name, new).ran for name, now in after.items()]
    waited = sum(now.waited - before.get(name, new).waited for name, now in after.items())
    return Round(1e-6 * taken / steps, sum(ran) / taken, waited / taken, sum(part > 0 for part in ran))


@click.command()
@click.option("--shape", default=(50, 64, 64, 128), show_default=True, help="T, B, I and H.", nargs=4, type=int)
@click.option("--rounds", default=10, show_default=True, help="Of each, in turn.")
@click.option("--steps", default=10, show_default=True, help="In a round.")
def main(shape: tuple[int, int, int, int], rounds: int, steps: int) -> None:
    """Train on one thread, on two of torch's, and on two of both."""
    T, B, I, H = shape
    x = torch.randn(T, B, I)
    models = {"torch.nn.LSTM": Model(torch.nn.LSTM, I, H), "fastlstm.torch.LSTM": Model(fastlstm.torch.LSTM, I, H)}
    cases = [(name, counts) for name, each in CASES.items() for counts in each]
    taken: dict[tuple[str, tuple[int, int]], list[Round]] = {case: [] for case in cases}
    for k in range(rounds + 1):  # the first compiles
        for case in cases:
            name, (theirs, ours) = case
            torch.set_num_threads(theirs)
            fastlstm.set_num_threads(ours)
            models[name].step(x)
            made = measure(models[name], x, steps)
            taken[case] += [made] if k else []
    for (name, (theirs, ours)), made in taken.items():
        ms, processors, waiting = (statistics.median(each) for each in list(zip(*made, strict=True))[:3])
        most = max(each.threads for each in made)
        kind, work = f"{name},", f"{processors:.2f} processors at work, {waiting:.2f} threads waiting for one"
        print(f"{kind:20} torch on {theirs}, fastlstm on {ours}: {ms:6.2f} ms a step, {work}, {most} threads ran")


if __name__ == "__main__":
    main()
