"""Steps in loops of one's own: PyTorch's `LSTMCell` and `LSTM` and, in their place, this library's, in turn.

    pip install ".[torch]"
    python benchmarks/programs/steps.py

Microseconds, medians: a step in inference, with a state given, and four steps of a cell with a backward pass.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import click
import torch

import fastlstm.torch

SIZES = [(4, 64, 1), (64, 64, 8), (128, 128, 1), (128, 128, 16), (256, 256, 1), (64, 256, 32)]  # I, H, B
STEPS = 4

Work = Callable[[], object]


def medians(works: list[Work], rounds: int) -> list[float]:
    """Microseconds of each, in turn."""
    seconds: list[list[float]] = [[] for _ in works]
    for k in range(rounds + 20):
        for work, found in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work()
            if k >= 20:
                found.append(time.perf_counter() - start)
    return [1e6 * statistics.median(found) for found in seconds]


def pair(kind: str, I: int, H: int) -> list[torch.nn.Module]:
    """PyTorch's module and this library's, with the same parameters."""
    plain, ours = getattr(torch.nn, kind)(I, H), getattr(fastlstm.torch, kind)(I, H)
    ours.load_state_dict(plain.state_dict())
    return [plain, ours]


def works(I: int, H: int, B: int) -> tuple[list[Work], list[Work]]:
    """A step of each module in inference, and steps of each cell with a backward pass."""
    x, h, c = torch.randn(B, I), torch.zeros(B, H), torch.zeros(B, H)
    cells, layers = pair("LSTMCell", I, H), pair("LSTM", I, H)

    def train(cell: torch.nn.Module) -> None:
        state = h, c
        for _ in range(STEPS):
            state = cell(x, state)
        state[0].sum().backward()

    steps: list[Work] = [lambda cell=cell: cell(x, (h, c)) for cell in cells]  # type: ignore[misc]
    steps += [lambda layer=layer: layer(x[None], (h[None], c[None])) for layer in layers]  # type: ignore[misc]
    return steps, [lambda cell=cell: train(cell) for cell in cells]  # type: ignore[misc]


@click.command()
@click.option("--rounds", default=400, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(rounds: int, threads: int) -> None:
    """Print a table: torch's, ours."""
    torch.set_num_threads(threads)
    fastlstm.set_num_threads(threads)
    print(f"| features, units, rows | `LSTMCell` | `LSTM` | {STEPS} steps of `LSTMCell`, and backward |")
    print("|---|---|---|---|")
    for I, H, B in SIZES:
        inference, training = works(I, H, B)
        with torch.inference_mode():
            found = medians(inference, rounds)
        found += medians(training, rounds)
        pairs = [f"{a:.0f}, {b:.0f}" for a, b in zip(found[::2], found[1::2], strict=True)]
        print(f"| {I}, {H}, {B} | {' | '.join(pairs)} |", flush=True)


if __name__ == "__main__":
    main()
