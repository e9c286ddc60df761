"""What lengths, resets and other cells cost beside the plain call, as the tables of the README.

    python benchmarks/variants.py [--threads 1] [--rounds 15] [--cell "layer normalisation"]

Each figure is a ratio of medians over interleaved rounds, in one process but for PyTorch's, which has its own.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import click
import numpy as np

import fastlstm

CELLS: dict[str, dict] = {
    "diagonal peephole": {"peephole": "diagonal"},
    "full peephole": {"peephole": "full"},
    "hard_sigmoid, tanh, tanh": {"activations": ("hard_sigmoid", "tanh", "tanh")},
    "sigmoid, softsign, relu": {"activations": ("sigmoid", "softsign", "relu")},
    "coupled": {"coupled": True},
    "clip": {"clip": 3.0},
    "projection to 64": {"proj_size": 64},
    "layer normalisation": {"layer_norm": True},
    "zoneout": {"zoneout": 0.1},
    "recurrent dropout": {"recurrent_dropout": 0.1},
}
TORCH = """
import sys, time, torch
B, T, H, threads = map(int, sys.argv[1:5])
torch.set_num_threads(threads)
lengths = torch.tensor(eval(sys.argv[5]))
lstm, x = torch.nn.LSTM(H, H), torch.randn(T, B, H)
packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
calls = {"dense": lambda: lstm(x), "packed": lambda: lstm(packed)}
with torch.inference_mode():
    for line in sys.stdin:
        call = calls[line.strip()]
        start = time.perf_counter()
        call()
        print(time.perf_counter() - start, flush=True)
"""


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def medians(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Seconds of each, over rounds in turn."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()  # compiles
        call()
    for k in range(rounds):
        for name in list(calls) if k % 2 else reversed(list(calls)):
            samples[name].append(calls[name]())
    return {name: statistics.median(found) for name, found in samples.items()}


def inference(lstm: fastlstm.LSTM, x: np.ndarray, **options: object) -> Callable[[], float]:
    return lambda: timed(lambda: lstm(x, **options))


def training(lstm: fastlstm.LSTM, x: np.ndarray) -> Callable[[], float]:
    dy = np.ones((*x.shape[:2], lstm.output_size), x.dtype)
    return lambda: timed(lambda: lstm.backward(lstm.forward(x)[2], dy))


@contextmanager
def asked(script: str, *arguments: object) -> Iterator[tuple[Callable[[str], Callable[[], float]], IO[str]]]:
    """Run a Python script that answers each name that it is asked for with seconds; gives what makes a call of a name,
    and the answers, for what the script says first.
    """
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        questions, answers = process.stdin, process.stdout

        def ask(name: str) -> Callable[[], float]:
            def call() -> float:
                print(name, file=questions, flush=True)
                return float(answers.readline())

            return call

        yield ask, answers


def lengths_table(rounds: int, threads: int) -> None:
    B, T, H, rng = 64, 1000, 128, np.random.default_rng(0)
    lengths, x = rng.integers(1, T + 1, B), rng.standard_normal((T, B, H), np.float32)
    lstm, share = fastlstm.LSTM(H, H, seed=0), lengths.sum() / (B * T)
    order = np.argsort(-lengths, kind="stable")
    sizes = (lengths[order] > np.arange(T)[:, None]).sum(axis=1)
    sizes = sizes[sizes > 0]
    data = np.concatenate([x[t, order[:n]] for t, n in enumerate(sizes)])
    packed = fastlstm.PackedSequence(data, sizes)
    calls = {"dense": inference(lstm, x), "lengths": inference(lstm, x, lengths=lengths)}
    calls["packed"] = inference(lstm, packed)
    with asked(TORCH, B, T, H, threads, lengths.tolist()) as (ask, _):
        found = medians(calls | {"torch dense": ask("dense"), "torch packed": ask("packed")}, rounds)
    click.echo(f"B {B}, T {T}, H {H}, lengths uniform in 1..T: {share:.3f} of the rows are\n")
    click.echo("| | ms | over the share of the dense time |\n|---|---|---|")
    for name, seconds in found.items():
        dense = found["torch dense" if name.startswith("torch") else "dense"]
        ratio = "" if name.endswith("dense") else f"{seconds / (share * dense):.2f}"
        click.echo(f"| {name} | {seconds * 1e3:.1f} | {ratio} |")


def resets_table(rounds: int) -> None:
    T, B, H, rng = 128, 8, 256, np.random.default_rng(0)
    x, lstm = rng.standard_normal((T, B, H), np.float32), fastlstm.LSTM(H, H, seed=0)
    flags = rng.random((T, B)) < 0.02
    found = medians({"plain": inference(lstm, x), "with resets": inference(lstm, x, reset=flags)}, 5 * rounds)
    click.echo(f"\nT {T}, B {B}, H {H}, 2 % resets: {found['with resets'] / found['plain']:.3f} of the plain call\n")


def cells_table(rounds: int, cells: dict[str, dict]) -> None:
    T, B, H = 200, 32, 128
    x = np.random.default_rng(0).standard_normal((T, B, H), np.float32)
    layers = {name: fastlstm.LSTM(H, H, seed=0, **options) for name, options in ({"plain": {}} | cells).items()}
    infer = medians({name: inference(lstm, x) for name, lstm in layers.items()}, rounds)
    train = medians({name: training(lstm, x) for name, lstm in layers.items()}, rounds)
    click.echo(f"B {B}, T {T}, H {H} (`speech`): time over the plain cell's\n")
    click.echo("| | inference | training |\n|---|---|---|")
    for name in cells:
        click.echo(f"| {name} | {infer[name] / infer['plain']:.2f} | {train[name] / train['plain']:.2f} |")


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=15, show_default=True)
@click.option("--cell", "cells", multiple=True, type=click.Choice(list(CELLS)), help="These cells alone.")
def main(threads: int, rounds: int, cells: tuple[str, ...]) -> None:
    """Print the tables, in Markdown."""
    fastlstm.set_num_threads(threads)
    if not cells:
        lengths_table(rounds, threads)
        resets_table(rounds)
    cells_table(rounds, {name: CELLS[name] for name in cells or CELLS})


if __name__ == "__main__":
    main()
