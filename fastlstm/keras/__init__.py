"""Keras 3: an `LSTM` layer in the place of `keras.layers.LSTM`, and `accelerate`, which makes Keras's own compute so.

Both run on Keras's PyTorch, TensorFlow, JAX and NumPy backends on a CPU, and give what Keras gives, gradients included.
Files that are saved name `keras.layers.LSTM`, so that plain Keras loads them.
"""

from __future__ import annotations

try:
    import keras  # noqa: F401  # here, so that its absence is told in one line
except ModuleNotFoundError as error:
    if error.name != "keras":
        raise
    raise ModuleNotFoundError("fastlstm.keras needs Keras 3: pip install 'fastlstm[keras]'", name="keras") from None

from fastlstm.keras.layer import LSTM, Switch, accelerate

__all__ = ["LSTM", "Switch", "accelerate"]
