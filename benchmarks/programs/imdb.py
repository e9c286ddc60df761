"""Sentiment of 25,000 IMDb reviews by two LSTM layers, here, in PyTorch and in Keras: accuracy and seconds an epoch.

    pip install ".[examples]" torch keras jax tensorflow-cpu
    python benchmarks/programs/imdb.py --threads 1
    python benchmarks/programs/imdb.py --rounds 8 --engines fastlstm,torch    # a part of an epoch, for the ratio alone

The processor's time holds beside other programs, and is the measure for one thread; that by the clock is for more.
Every engine has a process of its own, begins with the same weights (of Keras's distributions) and sees the same batches
in the same order; Adam's rate falls from 0.001 to 0 along half a cosine. They train in turn, some batches at a time;
what is not having its turn waits.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

WORDS, LENGTH, UNITS, BATCH, RATE = 10_000, 200, 64, 32, 0.001
ENGINES = ("fastlstm", "torch", "keras-jax", "keras-tensorflow", "keras-torch")
Data = dict[str, np.ndarray]
Train = Callable[[np.ndarray, np.ndarray], None]
Predict = Callable[[np.ndarray], np.ndarray]


# --- the model in each engine: what trains it on some batches, and what predicts -------------------------------------


def stack(k):
    """The model in Keras's words, which are those of fastlstm.models."""
    first, second = k.layers.LSTM(UNITS, return_sequences=True), k.layers.LSTM(UNITS)
    layers = [k.layers.Embedding(WORDS, UNITS), first, second, k.layers.Dense(1, activation="sigmoid")]
    return k.Sequential([k.Input((LENGTH,)), *layers])


def in_keras(k, weights: list[np.ndarray], steps: int) -> tuple[Train, Predict]:
    model = stack(k)
    optimizer = k.optimizers.Adam(k.optimizers.schedules.CosineDecay(RATE, steps))
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    model.set_weights(weights)

    def train(x: np.ndarray, y: np.ndarray) -> None:
        model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0)

    return train, lambda x: model.predict(x, batch_size=128, verbose=0)[:, 0]


def in_torch(weights: list[np.ndarray], steps: int, threads: int) -> tuple[Train, Predict]:
    import torch

    torch.set_num_threads(threads)

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(WORDS, UNITS)
            self.lstm = torch.nn.LSTM(UNITS, UNITS, num_layers=2, batch_first=True)
            self.dense = torch.nn.Linear(UNITS, 1)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.dense(self.lstm(self.table(ids))[0][:, -1])[:, 0]

    model = Model()
    zero = np.zeros(4 * UNITS, np.float32)
    table, *cells, kernel, bias = weights
    first, second = cells[:3], cells[3:]
    given = [table, *(a for w, r, b in (first, second) for a in (w.T, r.T, b, zero)), kernel.T, bias]
    with torch.no_grad():
        for parameter, value in zip(model.parameters(), given, strict=True):
            parameter.copy_(torch.from_numpy(np.ascontiguousarray(value)))
    optimizer = torch.optim.Adam(model.parameters(), RATE, fused=True)  # 1.5 ms a batch less than without
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss_of = torch.nn.BCEWithLogitsLoss()

    def train(x: np.ndarray, y: np.ndarray) -> None:
        ids, labels = torch.from_numpy(x.astype(np.int64)), torch.from_numpy(y)
        for begin in range(0, len(x), BATCH):
            optimizer.zero_grad()
            loss_of(model(ids[begin : begin + BATCH]), labels[begin : begin + BATCH]).backward()
            optimizer.step()
            schedule.step()

    def predict(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            parts = torch.from_numpy(x.astype(np.int64)).split(128)
            return torch.sigmoid(torch.cat([model(part) for part in parts])).numpy()

    return train, predict


def engine(name: str, weights: list[np.ndarray], steps: int, threads: int) -> tuple[Train, Predict]:
    """An engine by its name, for so many batches in all, on so many threads."""
    if name == "fastlstm":
        import fastlstm.models

        fastlstm.set_num_threads(threads)
        return in_keras(fastlstm.models, weights, steps)
    if name == "torch":
        return in_torch(weights, steps, threads)
    os.environ |= {"KERAS_BACKEND": name.removeprefix("keras-"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    if name == "keras-tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    if name == "keras-torch":
        import torch

        torch.set_num_threads(threads)
    import keras

    # TensorFlow is faster without XLA, which "auto" leaves out for LSTMs; JAX takes a second a batch without.
    return in_keras(keras, weights, steps)


def work(name: str, folder: Path, threads: int) -> None:
    """A process of one engine: answers a line for each line that comes."""
    answers, sys.stdout = sys.stdout, sys.stderr  # what others print is not an answer
    data = dict(np.load(folder / "data.npz"))
    weights = [data[f"w{k}"] for k in range(sum(key.startswith("w") for key in data))]
    train, predict = engine(name, weights, int(data["steps"]), threads)
    print("{}", file=answers, flush=True)
    for line in sys.stdin:
        told = json.loads(line)
        if "epoch" in told:
            rows = np.random.default_rng([1, told["epoch"]]).permutation(len(data["x"]))[slice(*told["rows"])]
            x, y = data["x"][rows], data["y"][rows]
            begun = time.perf_counter(), time.process_time()
            train(x, y)
            answer = {"seconds": time.perf_counter() - begun[0], "processor": time.process_time() - begun[1]}
        else:
            right = (predict(data["x_test"]) > 0.5) == (data["y_test"] > 0.5)
            answer = {"accuracy": float(right.mean())}
        print(json.dumps(answer), file=answers, flush=True)


# --- all of them in turn ---------------------------------------------------------------------------------------------


def prepare(samples: int, epochs: int) -> Data:
    """Token ids and labels, 80 % to train with, and the weights that all begin with."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))
    from imdb_sentiment import reviews

    import fastlstm.models
    from fastlstm.models import Tokenizer, pad_sequences

    texts, labels = reviews()
    order = np.random.default_rng(0).permutation(len(texts))[:samples]
    cut = len(order) * 4 // 5
    tokenizer = Tokenizer(num_words=WORDS, oov_token="<OOV>")
    tokenizer.fit_on_texts([texts[k] for k in order[:cut]])
    x = pad_sequences(tokenizer.texts_to_sequences(texts[k] for k in order), maxlen=LENGTH)
    y = labels[order].astype(np.float32)
    fastlstm.models.set_random_seed(1)
    weights = {f"w{k}": w for k, w in enumerate(stack(fastlstm.models).get_weights())}
    steps = np.array(epochs * -(-cut // BATCH))
    return {"x": x[:cut], "y": y[:cut], "x_test": x[cut:], "y_test": y[cut:], "steps": steps} | weights


class Worker:
    """The process of an engine."""

    def __init__(self, name: str, folder: Path, threads: int) -> None:
        counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC"), str(threads))
        command = [sys.executable, __file__, "--worker", name, "--folder", str(folder), "--threads", str(threads)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | counts)  # fmt: skip
        self._answer()

    def _answer(self) -> dict[str, float]:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, **told) -> dict[str, float]:
        """The answer to one line."""
        assert self.process.stdin is not None
        print(json.dumps(told), file=self.process.stdin, flush=True)
        return self._answer()


def report(taken: dict[str, list[dict[str, float]]], batches: int, of: int) -> None:
    """What an epoch takes each engine, by the clock and of the processor, and how much longer than the first."""
    ours = next(iter(taken))
    for name, rounds in taken.items():
        line = name + ":"
        for clock in ("seconds", "processor"):
            each = statistics.median(r[clock] for r in rounds) / batches
            line += f" {1e3 * each:.1f} ms a batch" + ("," if clock == "seconds" else " of the processor's time,")
            if name != ours:
                ratios = sorted(a[clock] / b[clock] for a, b in zip(rounds, taken[ours], strict=True))
                low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
                line += f" {statistics.median(ratios):.2f} times {ours}'s ({low:.2f} to {high:.2f});"
            elif clock == "seconds":
                line += f" {each * of:.1f} s an epoch of {of} batches;"
        print(line.rstrip(",;"))
    print(f"medians of {len(taken[ours])} rounds of {batches} batches")


@click.command()
@click.option("--engines", default=",".join(ENGINES[:-1]), show_default=True, help=f"Of {', '.join(ENGINES)}.")
@click.option("--samples", default=25_000, show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--rounds", type=int, help="Stop after so many rounds, without measuring accuracy.")
@click.option("--batches", default=25, show_default=True, help="Batches of 32 in a round.")
@click.option("--threads", default=1, show_default=True)
@click.option("--worker", hidden=True)
@click.option("--folder", type=click.Path(path_type=Path), hidden=True)
def main(engines: str, samples: int, epochs: int, rounds: int | None, batches: int, threads: int, worker: str,
         folder: Path) -> None:  # fmt: skip
    """Train the same model in each engine in turn."""
    if worker:
        return work(worker, folder, threads)
    names = engines.split(",")
    with tempfile.TemporaryDirectory() as made:
        data = prepare(samples, epochs)
        np.savez(Path(made) / "data.npz", **data)
        workers = {name: Worker(name, Path(made), threads) for name in names}
        taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
        count, step, done = len(data["x"]), batches * BATCH, 0
        for epoch in range(epochs):
            for begin in range(0, count - step + 1 if rounds else count, step):
                turn = done % len(names)
                for name in names[turn:] + names[:turn]:
                    answer = workers[name].ask(epoch=epoch, rows=[begin, begin + step])
                    if done and begin + step <= count:  # the first round compiles, and the last may be short
                        taken[name].append(answer)
                done += 1
                if done == rounds:
                    break
            if done == rounds:
                break
            found = {name: worker.ask()["accuracy"] for name, worker in workers.items()}
            print(f"epoch {epoch + 1}, accuracy of the test:", ", ".join(f"{n} {a:.4f}" for n, a in found.items()),
                  flush=True)  # fmt: skip
        report(taken, batches, -(-count // BATCH))
        for process in (worker.process for worker in workers.values()):
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    main()
