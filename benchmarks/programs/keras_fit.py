"""A two-layer Keras model of text, trained by `fit` on the backend that KERAS_BACKEND names: time an epoch.

pip install ".[keras]" torch                  # or jax, or tensorflow
KERAS_BACKEND=torch python benchmarks/programs/keras_fit.py
"""

from __future__ import annotations

import contextlib

import click
import keras
import numpy as np
from beside import in_turn, report

import fastlstm.keras

ROWS, STEPS, WORDS, UNITS, BATCH = 256, 200, 10000, 64, 32


def model() -> keras.Model:
    """Embedding, two LSTM layers, a sigmoid."""
    keras.utils.set_random_seed(0)
    lstm = keras.layers.LSTM
    hidden = [keras.layers.Embedding(WORDS, UNITS), lstm(UNITS, return_sequences=True), lstm(UNITS)]
    made = keras.Sequential([keras.Input((STEPS,)), *hidden, keras.layers.Dense(1, activation="sigmoid")])
    made.compile("adam", "binary_crossentropy")
    return made


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Epochs of each, of 8 batches of 32 rows of 200 steps.")
def main(rounds: int) -> None:
    """Train and predict with both in turn."""
    rng = np.random.default_rng(0)
    x = rng.integers(1, WORDS, (ROWS, STEPS))
    y = (x[:, :5].sum(axis=1) % 2).astype(np.float32)
    plain, ours = model(), model()

    def fit(which: keras.Model) -> None:
        with fastlstm.keras.accelerate() if which is ours else contextlib.nullcontext():  # the one line
            which.fit(x, y, batch_size=BATCH, verbose=0, shuffle=False)

    def predict(which: keras.Model) -> None:
        with fastlstm.keras.accelerate() if which is ours else contextlib.nullcontext():
            which.predict(x, batch_size=BATCH, verbose=0)

    for name, work in (("fit", fit), ("predict", predict)):
        for which in (plain, ours):
            work(which)
        backend = keras.backend.backend()
        seconds = in_turn(lambda work=work: work(plain), lambda work=work: work(ours), rounds)
        report(f"Keras on {backend}, {name}", *seconds, "an epoch", 1)
    furthest = max(abs(a - b).max() for a, b in zip(plain.get_weights(), ours.get_weights(), strict=True))
    print(f"weights after {rounds + 1} epochs: within {furthest:.1e} of each other")


if __name__ == "__main__":
    main()
