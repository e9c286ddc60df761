"""`Sequential`: compile, fit, evaluate, predict, save, in Keras's words and with its defaults."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.models import data, keywords, losses, metrics, optimizers
from fastlstm.models.base import turned
from fastlstm.models.callbacks import Callback, CallbackList, History
from fastlstm.models.data import Samples
from fastlstm.models.losses import Loss
from fastlstm.models.metrics import Metric
from fastlstm.models.network import Network
from fastlstm.models.optimizers import Optimizer
from fastlstm.models.progress import Progress

Logs = dict[str, float]


class Means:
    """Running means of the loss over samples, and of the metrics over what they were taken of."""

    def __init__(self, names: Sequence[str]) -> None:
        self.sums, self.counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)

    def add(self, name: str, value: float, count: float) -> None:
        self.sums[name] += value * count
        self.counts[name] += count

    def logs(self) -> Logs:
        return {name: self.sums[name] / self.counts[name] if self.counts[name] else 0.0 for name in self.sums}


class Sequential(Network):
    """A model of layers one after another, as `keras.Sequential`.

    Parameters
    ----------
    layers
        The layers; more can follow by `add`.
    name
        Name of the model.
    dtype
        float32 (the default) or float64.
    seed
        Seed of initial weights, order of samples and dropout. With it a run is the same to the bit, at any thread
        count.

    Examples
    --------
    >>> model = Sequential([Embedding(10000, 64), LSTM(64), Dense(1, activation="sigmoid")])
    >>> model.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    >>> history = model.fit(x, y, epochs=3, validation_split=0.2)
    """

    optimizer: Optimizer | None = None
    loss: Loss | None = None

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Sequence[Any] | None = None, **others: Any
    ) -> None:
        """Choose how the model is trained.

        Parameters
        ----------
        optimizer
            An optimizer, or "sgd", "adam", "adamw" or "rmsprop".
        loss
            A loss or its name.
        metrics
            Metrics or their names; "accuracy" is that of the loss's kind.
        **others
            Further arguments of Keras's method, as long as they change nothing; likewise of those that follow.

        Raises
        ------
        ValueError
            A name that is not known.
        """
        keywords.settle("compile", others)
        made = losses.get(loss)
        if isinstance(metrics, str):
            raise TypeError(f"metrics must be a list, such as [{metrics!r}], but was {metrics!r}")
        self.metrics: list[Metric] = [_metric(m, made) for m in metrics or ()]
        self.optimizer, self.loss = optimizers.get(optimizer), made
        self.stop_training, self.epochs_seen = False, 0

    def _compiled(self) -> tuple[Optimizer, Loss]:
        if self.optimizer is None or self.loss is None:
            raise ValueError("the model must be compiled first: compile(optimizer, loss, metrics)")
        return self.optimizer, self.loss

    # --- one batch ----------------------------------------------------------------------------------------------------

    def _logits(self, loss: Loss) -> bool:
        """Whether the loss is computed from what the model's last activation was given."""
        return loss.undoes is not None and not loss.from_logits and loss.undoes == self.last_activation

    def _measure(
        self, batch: Samples, rng: np.random.Generator | None, training: bool, means: Means
    ) -> tuple[float, Any]:
        """The loss of a batch, and, in training, its gradient in `gradient`."""
        _, loss = self._compiled()
        x = data.inner(batch.x)
        passed = self.forward(x, training, rng, self._logits(loss))
        out, logits = (passed.y, loss.from_logits) if passed.logits is None else (passed.logits, True)
        y = batch.y.swapaxes(0, 1) if out.ndim == 3 else batch.y
        mask = passed.mask if out.ndim == 3 else None
        valid = np.ones(out.shape[:-1], out.dtype) if mask is None else mask.astype(out.dtype)
        weights = valid / out.dtype.type(max(valid.sum(dtype=np.float64), 1))
        if batch.weights is not None:
            weights = weights * batch.weights
        value = float((loss.values(y, out, logits) * weights).sum(dtype=np.float64))
        means.add("loss", value, len(batch.x))
        count = float(valid.sum(dtype=np.float64))
        for metric in self.metrics:
            means.add(
                metric.name, float((metric.values(y, passed.y) * valid).sum(dtype=np.float64)) / max(count, 1), count
            )
        if training:
            self.backward(loss.gradient(y, out, logits, weights), passed)
        return value, x

    def _learn(self, batch: Samples, rng: np.random.Generator, means: Means) -> float:
        """One step of the optimizer."""
        optimizer, _ = self._compiled()
        value, x = self._measure(batch, rng, True, means)
        if not math.isfinite(value) and not self._warned:
            self._warned = True
            warnings.warn(
                f"the loss became {value} in step {optimizer.iterations + 1}, first in {self.first_not_finite(x)}; "
                "a smaller learning_rate or clipnorm=1.0 often helps",
                RuntimeWarning,
                stacklevel=3,
            )
        optimizer.apply(self.theta, self.gradient, self.segments)
        return value

    _warned = False

    def _names(self) -> list[str]:
        return ["loss", *(metric.name for metric in self.metrics)]

    def train_on_batch(
        self, x: Any, y: Any, sample_weight: Any = None, class_weight: Any = None, return_dict: bool = False
    ) -> Any:
        """One step on one batch; its loss, with the metrics in a list if there are some, or all by name if
        `return_dict`.
        """
        optimizer, loss = self._compiled()
        samples = data.samples(self, loss, x, y, sample_weight, class_weight)
        optimizer.build(self.theta.size, self.dtype)
        means = Means(self._names())
        self._learn(samples, np.random.default_rng([self.seed, 2, optimizer.iterations]), means)
        logs = means.logs()
        values = list(logs.values())
        return logs if return_dict else values if self.metrics else values[0]

    # --- many ---------------------------------------------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[Any, ...] | None = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        validation_batch_size: int | None = None,
        **others: Any,
    ) -> History:
        """Train.

        Parameters
        ----------
        x
            Samples (N, T, I), (N, n), or token ids (N, T).
        y
            Targets, as the loss takes them.
        batch_size
            Samples of a step; 32 if None.
        epochs
            Number of the epoch at which training ends, counted from `initial_epoch`'s 0.
        verbose
            0: silent; 1: a bar; 2: a line an epoch; "auto": a bar at a terminal, else silent.
        callbacks
            Called as training goes on.
        validation_split
            Share of the samples, the last of them, that is held out and measured after each epoch.
        validation_data
            (x, y) or (x, y, sample_weight) to be measured instead.
        shuffle
            Whether samples come in a new order in each epoch.
        class_weight
            Weight of a sample in the loss by its class.
        sample_weight
            Weight of each sample in the loss, (N,).
        initial_epoch
            Epochs that an earlier run has done.
        validation_batch_size
            As batch_size, for validation.

        Returns
        -------
        History
            Loss and metrics of each epoch.

        Raises
        ------
        TypeError, ValueError
            An argument of the wrong type, shape or range; nothing has been trained then.
        """
        optimizer, loss = self._compiled()
        keywords.settle("fit", others)
        size = checks.size("batch_size", 32 if batch_size is None else batch_size)
        last, first = checks.size("epochs", epochs, least=0), checks.size("initial_epoch", initial_epoch, least=0)
        train = data.samples(self, loss, x, y, sample_weight, class_weight)
        held = self._held_out(train, validation_split, validation_data, loss)
        if validation_data is None and held is not None:
            train = train.batch(slice(0, len(train.x) - len(held.x)))
        optimizer.build(self.theta.size, self.dtype)
        steps = -(-len(train.x) // size)
        progress = Progress(verbose, last, steps)
        history = History()
        called = CallbackList([*(callbacks or ()), history], self, {"epochs": last, "steps": steps, "batch_size": size})
        self.stop_training, self._warned = False, False
        first = called.train_begin(first)
        epoch = first
        while epoch < last and not self.stop_training:
            progress.begin(epoch)
            called.each("on_epoch_begin", epoch, {})
            logs = self._epoch(train, size, shuffle, progress, called)
            if held is not None:
                logs |= {
                    f"val_{name}": value for name, value in self._validate(held, validation_batch_size or size).items()
                }
            progress.end(logs)
            self.epochs_seen += 1
            called.epoch_end(epoch, logs)
            epoch += 1
        called.train_end()
        return history

    def _held_out(self, train: Samples, split: float, given: Any, loss: Loss) -> Samples | None:
        """The samples for validation."""
        if given is not None:
            if not isinstance(given, tuple | list) or len(given) not in (2, 3):
                raise TypeError(
                    f"validation_data must be (x, y) or (x, y, sample_weight), but was {type(given).__name__}"
                )
            x, y, weights = (*given, None)[:3]
            return data.samples(self, loss, x, y, weights, prefix="validation ")
        if not checks.rate("validation_split", split):
            return None
        at = math.floor(len(train.x) * (1 - split))
        if not 0 < at < len(train.x):
            raise ValueError(
                f"validation_split must leave samples on both sides, but {split} of {len(train.x)} samples does not"
            )
        return train.batch(slice(at, None))._replace(weights=None)

    def _epoch(self, train: Samples, size: int, shuffle: bool, progress: Progress, called: CallbackList) -> Logs:
        """All samples once. What is random hangs on seed, epoch and step alone, so that a resumed run repeats an
        uninterrupted one.
        """
        count, means = len(train.x), Means(self._names())
        order = np.random.default_rng([self.seed, 1, self.epochs_seen]).permutation(count) if shuffle else None
        for step, begin in enumerate(range(0, count, size)):
            rows: Any = slice(begin, begin + size) if order is None else order[begin : begin + size]
            self._learn(train.batch(rows), np.random.default_rng([self.seed, 2, self.epochs_seen, step]), means)
            if called.wants_batches:
                called.each("on_train_batch_end", step, means.logs())
            progress.step(step + 1, means.logs)
            if self.stop_training:
                break
        return means.logs()

    def _validate(self, samples: Samples, size: int) -> Logs:
        """Loss and metrics; the states of stateful layers are those of training afterwards."""
        kept = [layer.states() for layer in self.layers]
        self.reset_states()
        logs = self._evaluate(samples, size)
        for layer, states in zip(self.layers, kept, strict=True):
            layer.load_states(states)
        return logs

    def _evaluate(self, samples: Samples, size: int, progress: Progress | None = None) -> Logs:
        means = Means(self._names())
        for step, begin in enumerate(range(0, len(samples.x), size)):
            self._measure(samples.batch(slice(begin, begin + size)), None, False, means)
            if progress is not None:
                progress.step(step + 1, means.logs)
        return means.logs()

    def evaluate(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: Any = None,
        return_dict: bool = False,
        callbacks: Sequence[Callback] | None = None,
        **others: Any,
    ) -> Any:
        """The loss, with the metrics in a list if there are some, or all by name if `return_dict`. No event of
        `callbacks` comes up.
        """
        _, loss = self._compiled()
        keywords.settle("evaluate", others)
        size = checks.size("batch_size", 32 if batch_size is None else batch_size)
        samples = data.samples(self, loss, x, y, sample_weight)
        progress = Progress(verbose, 0, -(-len(samples.x) // size))
        progress.begin(0)
        logs = self._evaluate(samples, size, progress)
        progress.end(logs)
        return logs if return_dict else list(logs.values()) if self.metrics else logs["loss"]

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        callbacks: Sequence[Callback] | None = None,
        **others: Any,
    ) -> np.ndarray:
        """The model's output for samples x. No event of `callbacks` comes up."""
        keywords.settle("predict", others)
        size = checks.size("batch_size", 32 if batch_size is None else batch_size)
        x = data.inputs(self, x)
        progress = Progress(verbose, 0, -(-len(x) // size))
        progress.begin(0)
        parts = []
        for step, begin in enumerate(range(0, len(x), size)):
            parts.append(turned(self.forward(data.inner(x[begin : begin + size])).y))
            progress.step(step + 1, dict)
        progress.end({})
        return np.concatenate(parts)

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, filepath: str | os.PathLike[str], overwrite: bool = True, zipped: bool | None = None) -> None:
        """Write architecture, weights, optimizer and its state to one file; see `load_model`.

        Parameters
        ----------
        filepath
            The file, whatever its suffix; it is replaced at once, whole, or not at all.
        overwrite
            Whether a file may be there already.
        zipped
            Has no effect.
        """
        from fastlstm.models import saving

        if not overwrite and os.path.exists(filepath):
            raise FileExistsError(f"filepath must be new where overwrite is False, but {os.fspath(filepath)} exists")

        saving.save_model(self, filepath)

    def save_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Write the weights alone, as safetensors."""
        from fastlstm.models import saving

        saving.save_weights(self, filepath)

    def load_weights(self, filepath: str | os.PathLike[str]) -> None:
        """Read weights that `save` or `save_weights` wrote, for a model of these layers."""
        from fastlstm.models import saving

        saving.load_weights(self, filepath)


def _metric(metric: Any, loss: Loss) -> Metric:
    return metrics.get(metric, loss)
