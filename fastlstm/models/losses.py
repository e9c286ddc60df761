"""Losses, by Keras's names and formulas. Each gives a value for every sample (and step), and the gradient of their
weighted sum.

Where a model ends in the activation that a loss undoes (softmax before a cross-entropy), the loss is computed from the
logits: nothing overflows, and
no probability is clipped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.models import keywords
from fastlstm.models.activations import sigmoid, softmax

CLIP = 1e-7  # Keras's epsilon: what keeps a probability off 0 and 1


class Loss:
    """The base of the losses.

    Attributes
    ----------
    undoes : str or None
        The activation whose logits the loss can be computed from.
    """

    name = "loss"
    undoes: str | None = None

    def __init__(self, from_logits: bool = False, **others: Any) -> None:
        keywords.settle(type(self).__name__, {k: v for k, v in others.items() if k not in ("name", "dtype")})
        self.from_logits = checks.flag("from_logits", from_logits)

    def target(self, y: np.ndarray, out_shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
        """Targets, made what `values` takes; ValueError where they do not fit an output (batch, ...)."""
        shape = y.shape if len(y.shape) == len(out_shape) else (*y.shape, 1)
        if any(n is not None and m != n for m, n in zip(shape[1:], out_shape[1:], strict=False)) or len(shape) != len(
            out_shape
        ):
            wanted = ", ".join("any" if n is None else str(n) for n in out_shape[1:])
            raise ValueError(f"y must have the shape (batch, {wanted}), as the model's output, but has {y.shape}")
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError(
                f"y must be finite, but has {int(np.count_nonzero(~np.isfinite(y)))} NaN or infinite elements"
            )
        return y.astype(dtype, copy=False).reshape(shape)

    def values(self, y: np.ndarray, out: np.ndarray, logits: bool) -> np.ndarray:
        """The loss of each sample, shaped as `out` without its last axis; `out` are logits if `logits`."""
        raise NotImplementedError

    def gradient(self, y: np.ndarray, out: np.ndarray, logits: bool, weights: np.ndarray) -> np.ndarray:
        """The gradient of sum(weights * values) with respect to `out`."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the loss anew."""
        return {"from_logits": self.from_logits} if self.undoes else {}


class MeanSquaredError(Loss):
    """mean((out - y)^2) over the last axis."""

    name = "mean_squared_error"

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)

    def values(self, y: np.ndarray, out: np.ndarray, logits: bool) -> np.ndarray:
        return np.square(out - y).mean(axis=-1)

    def gradient(self, y: np.ndarray, out: np.ndarray, logits: bool, weights: np.ndarray) -> np.ndarray:
        return (out - y) * (weights * out.dtype.type(2 / out.shape[-1]))[..., None]


class MeanAbsoluteError(Loss):
    """mean(|out - y|) over the last axis."""

    name = "mean_absolute_error"

    def __init__(self, **others: Any) -> None:
        super().__init__(**others)

    def values(self, y: np.ndarray, out: np.ndarray, logits: bool) -> np.ndarray:
        return np.abs(out - y).mean(axis=-1)

    def gradient(self, y: np.ndarray, out: np.ndarray, logits: bool, weights: np.ndarray) -> np.ndarray:
        return np.sign(out - y) * (weights * out.dtype.type(1 / out.shape[-1]))[..., None]


class BinaryCrossentropy(Loss):
    """-y log p - (1 - y) log(1 - p), the mean over the last axis.

    Parameters
    ----------
    from_logits
        Whether the model ends in logits rather than in probabilities.
    """

    name = "binary_crossentropy"
    undoes = "sigmoid"

    def target(self, y: np.ndarray, out_shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
        y = super().target(y, out_shape, dtype)
        if y.size and not (y.min() >= 0 and y.max() <= 1):
            raise ValueError(f"y must lie between 0 and 1 for {self.name}, but goes from {y.min()} to {y.max()}")
        return y

    def values(self, y: np.ndarray, out: np.ndarray, logits: bool) -> np.ndarray:
        if logits:
            return (np.maximum(out, 0) - out * y + np.log1p(np.exp(-np.abs(out)))).mean(axis=-1)
        p = np.clip(out, CLIP, 1 - CLIP)
        return -(y * np.log(p) + (1 - y) * np.log(1 - p)).mean(axis=-1)

    def gradient(self, y: np.ndarray, out: np.ndarray, logits: bool, weights: np.ndarray) -> np.ndarray:
        each = (weights * out.dtype.type(1 / out.shape[-1]))[..., None]
        if logits:
            return (sigmoid(out) - y) * each
        p = np.clip(out, CLIP, 1 - CLIP)
        return (p - y) / (p * (1 - p)) * each * (p == out)


class CategoricalCrossentropy(Loss):
    """-sum(y log p) over the last axis; y holds a probability for each class, such as a one-hot row.

    Parameters
    ----------
    from_logits
        Whether the model ends in logits rather than in probabilities.
    """

    name = "categorical_crossentropy"
    undoes = "softmax"

    def values(self, y: np.ndarray, out: np.ndarray, logits: bool) -> np.ndarray:
        if logits:
            z = out - out.max(axis=-1, keepdims=True)
            return y.sum(axis=-1) * np.log(np.exp(z).sum(axis=-1)) - (y * z).sum(axis=-1)
        p = out / out.sum(axis=-1, keepdims=True)
        return -(y * np.log(np.clip(p, CLIP, 1 - CLIP))).sum(axis=-1)

    def gradient(self, y: np.ndarray, out: np.ndarray, logits: bool, weights: np.ndarray) -> np.ndarray:
        if logits:
            return (softmax(out) * y.sum(axis=-1, keepdims=True) - y) * weights[..., None]
        total = out.sum(axis=-1, keepdims=True)
        p = out / total
        dp = np.where((p >= CLIP) & (p <= 1 - CLIP), -y / np.clip(p, CLIP, 1 - CLIP), 0) * weights[..., None]
        return (dp - (dp * p).sum(axis=-1, keepdims=True)) / total


class SparseCategoricalCrossentropy(Loss):
    """-log p[y], with y the number of the class.

    Parameters
    ----------
    from_logits
        Whether the model ends in logits rather than in probabilities.
    """

    name = "sparse_categorical_crossentropy"
    undoes = "softmax"

    def target(self, y: np.ndarray, out_shape: tuple[int | None, ...], dtype: np.dtype) -> np.ndarray:
        if len(y.shape) == len(out_shape) and y.shape[-1] == 1:
            y = y[..., 0]
        if len(y.shape) != len(out_shape) - 1 or any(
            n is not None and m != n for m, n in zip(y.shape[1:], out_shape[1:-1], strict=False)
        ):
            wanted = ", ".join("any" if n is None else str(n) for n in out_shape[1:-1])
            raise ValueError(
                f"y must be class numbers of the shape (batch{', ' * bool(wanted)}{wanted}) "
                f"for {self.name}, but has the shape {y.shape}"
            )
        classes = y.astype(np.int64, copy=False)
        if y.dtype.kind not in "iub" and not (classes == y).all():
            raise ValueError(f"y must be whole numbers for {self.name}, but has others")
        count = out_shape[-1]
        if y.size and count is not None and not (classes.min() >= 0 and classes.max() < count):
            raise ValueError(
                f"y must lie in 0..{count - 1}, as the model has {count} outputs, "
                f"but goes from {classes.min()} to {classes.max()}"
            )
        return classes

    def values(self, y: np.ndarray, out: np.ndarray, logits: bool) -> np.ndarray:
        if logits:
            z = out - out.max(axis=-1, keepdims=True)
            return np.log(np.exp(z).sum(axis=-1)) - np.take_along_axis(z, y[..., None], axis=-1)[..., 0]
        p = np.take_along_axis(out, y[..., None], axis=-1)[..., 0] / out.sum(axis=-1)
        return -np.log(np.clip(p, CLIP, 1 - CLIP))

    def gradient(self, y: np.ndarray, out: np.ndarray, logits: bool, weights: np.ndarray) -> np.ndarray:
        if logits:
            d = softmax(out)
            np.put_along_axis(d, y[..., None], np.take_along_axis(d, y[..., None], axis=-1) - 1, axis=-1)
            return d * weights[..., None]
        one_hot = np.zeros_like(out)
        np.put_along_axis(one_hot, y[..., None], 1, axis=-1)
        return CategoricalCrossentropy().gradient(one_hot, out, False, weights)


LOSSES: dict[str, type[Loss]] = {
    "mse": MeanSquaredError,
    "mean_squared_error": MeanSquaredError,
    "mae": MeanAbsoluteError,
    "mean_absolute_error": MeanAbsoluteError,
    "binary_crossentropy": BinaryCrossentropy,
    "categorical_crossentropy": CategoricalCrossentropy,
    "sparse_categorical_crossentropy": SparseCategoricalCrossentropy,
}


def get(loss: object) -> Loss:
    """A loss from its name, or the loss itself."""
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]()
    raise ValueError(f"loss must be a Loss or one of {', '.join(map(repr, LOSSES))}, but was {loss!r}")
