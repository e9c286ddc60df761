"""What weights in fewer bits gain and lose, as the table of the README.

    python benchmarks/quantized.py [--threads 1] [--rounds 15]

Calls take turns, PyTorch's in a process of its own: torch.ao.quantization's dynamic int8, which rounds what a matrix is
multiplied with too. Weights are initial ones, of one distribution, and errors those of y against each side's own
float32.
"""

from __future__ import annotations

import click
import numpy as np
from variants import asked, inference, medians

import fastlstm

CASES = {"vad-sequence": (512, 128), "gnmt-b1": (50, 1024)}  # T, and I = H, of one row
TORCH = """
import sys, time, warnings, torch
T, H, threads = map(int, sys.argv[1:4])
warnings.simplefilter("ignore")
torch.set_num_threads(threads)
torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.LSTM(H, H))
calls = {"float": module}
calls["int8"] = torch.ao.quantization.quantize_dynamic(module, {torch.nn.LSTM}, torch.qint8)
x = torch.randn(T, 1, H)
with torch.inference_mode():
    off = calls["int8"](x)[0] - module(x)[0]
    print(float(off.abs().max()), float(off.square().mean().sqrt()), flush=True)
    for line in sys.stdin:
        call = calls[line.strip()]
        start = time.perf_counter()
        call(x)
        print(time.perf_counter() - start, flush=True)
"""


def table(name: str, T: int, H: int, threads: int, rounds: int) -> None:
    lstm = fastlstm.LSTM(H, H, seed=0)
    lstm.freeze()
    x = np.random.default_rng(0).standard_normal((T, 1, H), np.float32)
    quantised = {weights: lstm.quantize(weights) for weights in ("bfloat16", "int8")}
    calls = {"float32": inference(lstm, x)} | {weights: inference(q, x) for weights, q in quantised.items()}
    errors = {weights: q.error(lstm, x) for weights, q in quantised.items()}
    with asked(TORCH, T, H, threads) as (ask, answers):
        off = [float(word) for word in answers.readline().split()]
        found = medians(calls | {"torch float32": ask("float"), "torch dynamic int8": ask("int8")}, rounds)
    weights = {kind: max(e.rms for e in q.weight_errors.values()) for kind, q in quantised.items()}
    for kind, seconds in found.items():
        row = [name, kind, f"{seconds * 1e3:.2f}", f"{found['float32'] / seconds:.2f}"]
        row.append(f"{weights[kind]:.4f}" if kind in weights else "")
        output = errors[kind] if kind in errors else off if kind.endswith("int8") else None
        row += ["", ""] if output is None else [f"{value:.5f}" for value in output]
        click.echo(f"| {' | '.join(row)} |")


@click.command()
@click.option("--threads", default=1, show_default=True)
@click.option("--rounds", default=15, show_default=True)
def main(threads: int, rounds: int) -> None:
    """Print the table, in Markdown."""
    fastlstm.set_num_threads(threads)
    click.echo("| case | weights | ms | times as fast | RMS error of weights | max. error of y | RMS error of y |")
    click.echo("|---|---|---|---|---|---|---|")
    for name, (T, H) in CASES.items():
        table(name, T, H, threads, rounds)


if __name__ == "__main__":
    main()
