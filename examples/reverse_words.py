"""Sequence to sequence: words of random letters written backwards, through an encoder and a decoder.

python examples/reverse_words.py
python examples/reverse_words.py --samples 500 --epochs 1
"""

import argparse

import numpy as np

from fastlstm.models import Adam, Seq2Seq

LETTERS, START, STOP, LONGEST = 26, 27, 28, 10


def words(rng, count):
    """Letters 1..26 (N, 10), padded with 0, and the same backwards with a stop behind (N, 11)."""
    x, y = np.zeros((count, LONGEST), int), np.zeros((count, LONGEST + 1), int)
    for k, length in enumerate(rng.integers(3, LONGEST + 1, count)):
        x[k, :length] = rng.integers(1, LETTERS + 1, length)
        y[k, : length + 1] = [*x[k, :length][::-1], STOP]
    return x, y


def spelt(row):
    """Letters as text."""
    return "".join(chr(96 + k) for k in row if 1 <= k <= LETTERS)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()

    rng = np.random.default_rng(1)
    x, y = words(rng, args.samples)
    x_test, y_test = words(rng, 500)
    model = Seq2Seq(LETTERS + 1, STOP + 1, units=128, embedding_dim=32, seed=1)
    model.compile(Adam(0.003, clipnorm=1.0))
    history = model.fit(x, y, batch_size=64, epochs=args.epochs, start=START, verbose=2)
    found = model.decode(x_test, LONGEST + 1, start=START, stop=STOP)
    print(f"train: share of right letters {history.history['accuracy'][-1]:.4f}")
    print(f"test: share of words right to the last letter {(found == y_test).all(axis=1).mean():.4f}")
    for row, answer in zip(x_test[:4], found[:4], strict=True):
        print(f"  {spelt(row)} -> {spelt(answer)}")


if __name__ == "__main__":
    main()
