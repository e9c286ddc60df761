"""Sequence to sequence: an LSTM reads one sequence of tokens, its last state begins another that writes the answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.models import data, optimizers
from fastlstm.models.base import Call
from fastlstm.models.callbacks import History
from fastlstm.models.decoding import Steps, choose
from fastlstm.models.feedforward import Dense, Embedding
from fastlstm.models.losses import SparseCategoricalCrossentropy
from fastlstm.models.network import Network, fresh_seed
from fastlstm.models.progress import Progress
from fastlstm.models.recurrent import LSTM


class Seq2Seq:
    """Encoder and decoder (Sutskever, Vinyals and Le 2014), trained on the right answers (teacher forcing). Token 0 is
    padding on both sides.

    Parameters
    ----------
    input_dim, output_dim
        Tokens that there are on either side.
    units
        H of both LSTMs.
    embedding_dim
        Elements of a token's row.
    dtype
        float32 or float64.
    seed
        Seed of initial weights and the order of samples; None: what `set_random_seed` was told, or fresh entropy.
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        units: int = 128,
        embedding_dim: int = 32,
        dtype: Any = np.float32,
        seed: int | None = None,
    ) -> None:
        self.seed = fresh_seed() if seed is None else int(seed)
        self.encoder = Network(
            [Embedding(input_dim, embedding_dim, mask_zero=True), LSTM(units)], "encoder", dtype, self.seed
        )
        below = [Embedding(output_dim, embedding_dim), LSTM(units, return_sequences=True), Dense(output_dim)]
        self.decoder = Network(below, "decoder", dtype, self.seed + 1)
        self.encoder.build()
        self.decoder.build()
        self.loss = SparseCategoricalCrossentropy(from_logits=True)
        self.compile()

    def compile(self, optimizer: Any = "adam") -> None:
        """Choose the optimizer, by name or itself; "adam" at first."""
        first = optimizers.get(optimizer)
        again = optimizers.from_config(type(first).__name__, first.get_config())
        self.optimizers = {id(self.encoder): first, id(self.decoder): again}
        self.epochs_seen = 0

    def gradients(self, x: np.ndarray, before: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        """The loss and accuracy of a batch: x (B, S), decoder's inputs and targets (B, T); gradients into both
        networks' `gradient`.
        """
        (read, encode), (write, decode, out) = self.encoder.layers, self.decoder.layers
        assert isinstance(encode, LSTM) and isinstance(decode, LSTM) and isinstance(out, Dense)
        call = Call(training=True)
        ids = read.forward(x, call)
        _, state, encoded = encode.run(ids.y, call._replace(mask=ids.mask))
        shown = write.forward(before, call)
        h, _, decoded = decode.run(shown.y, call, state)
        logits = out.logits(h)
        target = np.ascontiguousarray(y.T)
        valid = (target != 0).astype(logits.dtype)
        weights = valid / logits.dtype.type(max(valid.sum(), 1))
        value = float((self.loss.values(target, logits, True) * weights).sum(dtype=np.float64))
        accuracy = float(((logits.argmax(axis=-1) == target) * weights).sum(dtype=np.float64))
        dh = out.backward_logits(self.loss.gradient(target, logits, True, weights), h)
        dx, dstate = decode.run_backward(dh, decoded)
        write.backward(dx, shown.tape)
        dx, _ = encode.run_backward(np.zeros_like(state[0]), encoded, dstate)
        read.backward(dx, ids.tape)
        return value, accuracy

    def fit(
        self, x: Any, y: Any, batch_size: int = 32, epochs: int = 1, start: int = 1, verbose: str | int = "auto"
    ) -> History:
        """Train.

        Parameters
        ----------
        x, y
            Token ids (N, S) and (N, T), padded with 0.
        batch_size, epochs, verbose
            As in `Sequential.fit`.
        start
            The token that the decoder is given before the first of y.

        Returns
        -------
        History
            "loss" and "accuracy", the share of right tokens, for each epoch.
        """
        x, y = data.inputs(self.encoder, x), data.inputs(self.decoder, y, "y")
        if len(x) != len(y):
            raise ValueError(f"y must have as many samples as x, which has {len(x)}, but has {len(y)}")
        size, count = checks.size("batch_size", batch_size), len(x)
        before = data.inputs(self.decoder, np.concatenate((np.full((count, 1), start), y[:, :-1]), axis=1), "start")
        history, progress = History(), Progress(verbose, checks.size("epochs", epochs, least=0), -(-count // size))
        for epoch in range(epochs):
            progress.begin(epoch)
            order = np.random.default_rng([self.seed, 1, self.epochs_seen]).permutation(count)
            sums, logs = np.zeros(2), {"loss": math.nan, "accuracy": math.nan}
            for step, begin in enumerate(range(0, count, size)):
                rows = order[begin : begin + size]
                sums += np.array(self.gradients(x[rows], before[rows], y[rows])) * len(rows)
                for network in (self.encoder, self.decoder):
                    optimizer = self.optimizers[id(network)]
                    optimizer.build(network.theta.size, network.dtype)
                    optimizer.apply(network.theta, network.gradient, network.segments)
                logs = dict(zip(logs, (sums / min(begin + size, count)).tolist(), strict=True))
                progress.step(step + 1, lambda logs=logs: logs)  # type: ignore[misc]
            progress.end(logs)
            self.epochs_seen += 1
            history.on_epoch_end(epoch, logs)
        return history

    def decode(
        self,
        x: Any,
        length: int,
        start: int = 1,
        stop: int | None = None,
        temperature: float = 0.0,
        seed: int | None = None,
    ) -> np.ndarray:
        """The answers to token ids x (N, S).

        Parameters
        ----------
        length
            Tokens of an answer, at the most.
        start
            As in `fit`.
        stop
            The token that ends an answer; 0 follows it.
        temperature
            0 takes the likeliest token at each step; else tokens are drawn by softmax(logits / temperature).
        seed
            Seed of the draws.

        Returns
        -------
        numpy.ndarray
            (N, length).
        """
        x = data.inputs(self.encoder, x)
        read, encode = self.encoder.layers
        assert isinstance(encode, LSTM)
        ids = read.forward(x, Call())
        _, state, _ = encode.run(ids.y, Call(mask=ids.mask))
        steps, rng = Steps(self.decoder.layers, len(x)), np.random.default_rng(seed)
        steps.begin([state])
        found = np.zeros((len(x), checks.size("length", length)), np.int64)
        last, running = np.full(len(x), start), np.ones(len(x), bool)
        for t in range(found.shape[1]):
            last = choose(steps.step(last), temperature, rng)
            found[:, t] = np.where(running, last, 0)
            running &= last != stop if stop is not None else True
            if not running.any():
                break
        return found
