"""One token after another: a trained model run step by step through streams, greedily or by chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.models import data
from fastlstm.models.activations import softmax
from fastlstm.models.base import Call, Layer
from fastlstm.models.feedforward import Activation, Dense, Dropout, Embedding, Input
from fastlstm.models.network import Network
from fastlstm.models.packing import State
from fastlstm.models.recurrent import LSTM
from fastlstm.stream import Stream


class Steps:
    """Embedding, LSTMs and dense layers, for B rows at once: a token in, the logits of the next token out.

    Parameters
    ----------
    layers
        Trained layers that begin with an embedding and end in a dense layer, or its softmax.
    batch_size
        B.

    Raises
    ------
    ValueError
        A layer that cannot run step by step.
    """

    def __init__(self, layers: Sequence[Layer], batch_size: int = 1) -> None:
        first, *above = [layer for layer in layers if not isinstance(layer, Input | Dropout)]
        if above and isinstance(above[-1], Activation):
            above.pop()
        if not isinstance(first, Embedding) or not above or not isinstance(above[-1], Dense):
            raise ValueError("layers must begin with an Embedding and end in a Dense layer")
        self._table, self._above = first, above
        self._streams: dict[int, Stream] = {}
        for k, layer in enumerate(above):
            if isinstance(layer, LSTM) and not layer.go_backwards:
                self._streams[k] = layer.core().stream(checks.size("batch_size", batch_size))
            elif not isinstance(layer, Dense | Activation):
                raise ValueError(f"layer {layer.name} cannot run step by step")

    def begin(self, states: Sequence[State]) -> None:
        """Set the state (h, c) of each LSTM, two arrays (B, H)."""
        for stream, (h, c) in zip(self._streams.values(), states, strict=True):
            stream.state = (h[None], c[None])

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Logits (B, V) of what follows the tokens (B,)."""
        x = self._table.params["embeddings"][ids]
        for k, layer in enumerate(self._above):
            if k in self._streams:
                x = self._streams[k].step(x)
            elif k == len(self._above) - 1:
                assert isinstance(layer, Dense)
                x = layer.logits(x)
            else:
                x = layer.forward(x, Call()).y
        return x


def choose(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> np.ndarray:
    """A token for each row of logits (B, V): the likeliest where the temperature is 0, else drawn by softmax(logits /
    temperature).
    """
    if not temperature:
        return logits.argmax(axis=-1)
    p = np.cumsum(softmax(logits.astype(np.float64) / temperature), axis=-1)
    return (p < rng.random((len(p), 1)) * p[:, -1:]).sum(axis=-1)


def generate(
    model: Network, prompt: Any, length: int, temperature: float = 1.0, seed: int | None = None, stop: int | None = None
) -> np.ndarray:
    """Let a language model go on with a text.

    Parameters
    ----------
    model
        Embedding, LSTMs with `return_sequences`, and a dense layer over all tokens.
    prompt
        Token ids (t,), at least one.
    length
        How many tokens follow.
    temperature
        0 takes the likeliest token; 1 draws by the model's probabilities; less than 1 keeps nearer to the likeliest.
    seed
        Seed of the draws; None takes fresh entropy.
    stop
        A token after which nothing follows.

    Returns
    -------
    numpy.ndarray
        The tokens that follow the prompt, at most `length`.
    """
    table = model.embedded
    if table is None or not model.built:
        raise ValueError("model must be built, and begin with an Embedding")
    ids = data.tokens(table, data.array("prompt", prompt), "prompt")
    if ids.ndim != 1:
        raise ValueError(f"prompt must have the shape (tokens,), but has {ids.shape}")
    count, rng = checks.size("length", length, least=0), np.random.default_rng(seed)
    if isinstance(temperature, bool) or not temperature >= 0:
        raise ValueError(f"temperature must be a number of at least 0, but was {temperature!r}")
    steps, found = Steps(model.layers), []
    for token in ids[:-1]:
        steps.step(np.array([token]))
    last = ids[-1:]
    for _ in range(count):
        last = choose(steps.step(last), temperature, rng)
        found.append(int(last[0]))
        if stop is not None and found[-1] == stop:
            break
    return np.array(found, np.int64)
