"""Who is speaking: JapaneseVowels, 12 coefficients a step, 7 to 29 steps, 9 speakers; sequences of unequal lengths
behind a mask.

The series come with the package `sktime` (or `aeon`), of which two text files are read and nothing imported:

    pip install fastlstm && pip install --no-deps sktime
    python examples/japanese_vowels.py
    python examples/japanese_vowels.py --samples 60 --epochs 2

The data are those of Kudo, Toyama and Shimbo 1999: 270 series to train with, 370 to test.
"""

import argparse
from importlib.metadata import PackageNotFoundError, distribution

import numpy as np

from fastlstm.models import (
    LSTM,
    Adam,
    Bidirectional,
    CosineDecay,
    Dense,
    Dropout,
    Masking,
    Sequential,
    pad_sequences,
    set_random_seed,
)

LENGTH, PADDING = 29, -100.0


def series(part):
    """Series (N, 29, 12), padded at their ends, and the number of each one's speaker."""
    for package in ("sktime", "aeon"):
        try:
            path = distribution(package).locate_file(f"{package}/datasets/data/JapaneseVowels/JapaneseVowels_{part}.ts")
            break
        except PackageNotFoundError:
            continue
    else:
        raise SystemExit("the data come with sktime: pip install --no-deps sktime")
    rows, speakers = [], []
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file if line.strip() and line[0] not in "#@"]
    for line in lines:
        *channels, speaker = line.split(":")
        rows.append(np.array([channel.split(",") for channel in channels], np.float32).T)
        speakers.append(int(speaker) - 1)
    return pad_sequences(rows, maxlen=LENGTH, dtype="float32", padding="post", value=PADDING), np.array(speakers)


def standardise(x_train, x_test):
    """Bring every coefficient to mean 0 and deviation 1 over the steps of the training series, in place."""
    valid = x_train[..., 0] != PADDING
    mean, deviation = x_train[valid].mean(axis=0), x_train[valid].std(axis=0)
    for x in (x_train, x_test):
        valid = x[..., 0] != PADDING
        x[valid] = (x[valid] - mean) / deviation


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, help="train with so many series only")
    parser.add_argument("--epochs", type=int, default=60)
    args = parser.parse_args()

    x_train, y_train = series("TRAIN")
    x_test, y_test = series("TEST")
    chosen = np.random.default_rng(0).permutation(len(x_train))[: args.samples]
    x_train, y_train = x_train[chosen], y_train[chosen]
    standardise(x_train, x_test)

    set_random_seed(1)
    model = Sequential(
        [
            Masking(PADDING, input_shape=(LENGTH, x_train.shape[2])),
            Bidirectional(LSTM(64, return_sequences=True)),
            Dropout(0.3),
            Bidirectional(LSTM(64)),
            Dropout(0.3),
            Dense(9, activation="softmax"),
        ]
    )
    steps = args.epochs * -(-len(x_train) // 16)
    model.compile(Adam(CosineDecay(0.003, steps)), "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(x_train, y_train, batch_size=16, epochs=args.epochs)
    print(f"train: accuracy {history.history['accuracy'][-1]:.4f} on {len(x_train)} series")
    loss, accuracy = model.evaluate(x_test, y_test)
    print(f"test: loss {loss:.4f}, accuracy {accuracy:.4f} on {len(x_test)} series")


if __name__ == "__main__":
    main()
