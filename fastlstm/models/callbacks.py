"""Callbacks: what is told of training as it goes on, by Keras's names and rules."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlstm import checks
from fastlstm.models import keywords, tensors

if TYPE_CHECKING:
    from fastlstm.models.sequential import Sequential

Logs = dict[str, float]


class Callback:
    """The base of the callbacks: override what is of interest. `model` and `params` are set before training begins."""

    model: Sequential
    params: dict[str, Any]

    def set_model(self, model: Sequential) -> None:
        """Told the model before training."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Told epochs, steps and batch_size before training."""
        self.params = params

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """After the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Before an epoch."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """After an epoch, with its loss and metrics."""

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """After a step, with the means so far."""

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        """What a checkpoint must keep for a resumed run to go on the same: plain values and arrays."""
        return {}, []

    def load_state(self, values: dict[str, Any], arrays: list[np.ndarray]) -> None:
        """Take back what `state` returned."""


class History(Callback):
    """Loss and metrics of each epoch.

    Attributes
    ----------
    history : dict
        Name -> a value for each epoch.
    epoch : list of int
        The epochs.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {"epoch": self.epoch, "history": self.history}, []

    def load_state(self, values: dict[str, Any], arrays: list[np.ndarray]) -> None:
        self.epoch = [int(e) for e in values["epoch"]]
        self.history = {str(name): [float(v) for v in of] for name, of in values["history"].items()}

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw each quantity over the epochs, training and validation together; needs matplotlib.

        Parameters
        ----------
        path
            Where to write the figure, if anywhere.

        Returns
        -------
        matplotlib.figure.Figure
            The figure.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError("history.plot() needs matplotlib: pip install matplotlib") from error
        names = [name for name in self.history if not name.startswith("val_")]
        figure = Figure(figsize=(4.5 * max(len(names), 1), 3.2), layout="constrained")
        for axes, name in zip(np.atleast_1d(figure.subplots(1, max(len(names), 1))), names, strict=True):
            for key, label in ((name, "training"), (f"val_{name}", "validation")):
                if key in self.history:
                    axes.plot([e + 1 for e in self.epoch], self.history[key], label=label)
            axes.set(xlabel="epoch", ylabel=name)
            axes.legend()
        if path is not None:
            figure.savefig(path)
        return figure


class _Monitor(Callback):
    """Follows one quantity: what is better, and the best so far."""

    def __init__(self, monitor: str, mode: str, min_delta: float = 0.0, best: float | None = None) -> None:
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max', but was {mode!r}")
        self.monitor, self.min_delta = str(monitor), abs(float(min_delta))
        self.greater = mode == "max" or (mode == "auto" and ("acc" in self.monitor or self.monitor.endswith("auc")))
        self._first = best
        self.best = self._start()

    def _start(self) -> float:
        return self._first if self._first is not None else -math.inf if self.greater else math.inf

    def _value(self, logs: Logs | None) -> float:
        if self.monitor not in (logs or {}):
            raise ValueError(
                f"monitor must be one of {sorted(logs or {})}, which this training reports, but was {self.monitor!r}"
            )
        return (logs or {})[self.monitor]

    def _better(self, value: float) -> bool:
        return value - self.min_delta > self.best if self.greater else value + self.min_delta < self.best


class EarlyStopping(_Monitor):
    """Stops training when a quantity no longer improves.

    Parameters
    ----------
    monitor
        The quantity.
    min_delta
        Improvement by no more than this does not count.
    patience
        Epochs without improvement that are let pass.
    verbose
        Whether to print when it stops.
    mode
        "min", "max", or "auto": max for accuracies.
    baseline
        Value that must be improved on from the start.
    restore_best_weights
        Whether the model ends with the weights of the best epoch.
    start_from_epoch
        Epochs that are not looked at.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0.0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.verbose = checks.size("patience", patience, least=0), verbose
        self.baseline, self.restore_best_weights, self.start_from_epoch = (
            baseline,
            restore_best_weights,
            start_from_epoch,
        )
        self.wait, self.stopped_epoch, self.best_epoch = 0, 0, 0
        self.best_weights: list[np.ndarray] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        self.wait, self.stopped_epoch, self.best_epoch, self.best, self.best_weights = 0, 0, 0, self._start(), []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        value = self._value(logs)
        if epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and not self.best_weights:
            self.best_weights, self.best_epoch = self.model.get_weights(), epoch
        self.wait += 1
        if self._better(value):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
            if self.baseline is None or (value > self.baseline if self.greater else value < self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch, self.model.stop_training = epoch, True

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.stopped_epoch and self.verbose:
            print(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.best_weights:
            self.model.set_weights(self.best_weights)

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {
            "wait": self.wait,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "stopped_epoch": self.stopped_epoch,
        }, self.best_weights

    def load_state(self, values: dict[str, Any], arrays: list[np.ndarray]) -> None:
        self.wait, self.best = int(values["wait"]), float(values["best"])
        self.best_epoch, self.stopped_epoch = int(values["best_epoch"]), int(values["stopped_epoch"])
        self.best_weights = arrays


class ModelCheckpoint(_Monitor):
    """Saves the model after each epoch, or after the best ones.

    Parameters
    ----------
    filepath
        Where; may have fields such as "{epoch:02d}" or "{val_loss:.2f}".
    monitor, mode
        The quantity, and which way is better.
    verbose
        Whether to print when it saves.
    save_best_only
        Whether a file is written only when the quantity improved.
    save_weights_only
        Whether to leave the architecture and the optimizer out.
    initial_value_threshold
        Value that must be improved on from the start.
    save_freq
        "epoch".
    """

    def __init__(
        self,
        filepath: str | os.PathLike[str],
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        initial_value_threshold: float | None = None,
        save_freq: str = "epoch",
    ) -> None:
        keywords.settle("ModelCheckpoint", {"save_freq": save_freq})
        super().__init__(monitor, mode, best=initial_value_threshold)
        self.filepath, self.verbose = os.fspath(filepath), verbose
        self.save_best_only, self.save_weights_only = save_best_only, save_weights_only

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if self.save_best_only:
            value = self._value(logs)
            if not self._better(value):
                return
            self.best = value
        path = self.filepath.format(**{"epoch": epoch + 1} | (logs or {}))
        (self.model.save_weights if self.save_weights_only else self.model.save)(path)
        if self.verbose:
            print(f"Epoch {epoch + 1}: saved to {path}")

    def state(self) -> tuple[dict[str, Any], list[np.ndarray]]:
        return {"best": self.best}, []

    def load_state(self, values: dict[str, Any], arrays: list[np.ndarray]) -> None:
        self.best = float(values["best"])


class BackupAndRestore(Callback):
    """Keeps the whole state of training after each epoch, and goes on from it when `fit` is called again after an
    interruption.

    The resumed run ends with the same weights and history as one that was never interrupted: what is random hangs on
    the seed, the epoch and the step.

    Parameters
    ----------
    backup_dir
        Folder of the backup; made if need be.
    delete_checkpoint
        Whether the backup is removed when training ends.
    save_freq
        "epoch".
    double_checkpoint
        Has no effect: a backup is always written beside the one before it, and then takes its place.
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str = "epoch",
        double_checkpoint: bool = False,
        delete_checkpoint: bool = True,
    ) -> None:
        keywords.settle("BackupAndRestore", {"save_freq": save_freq})
        self.path, self.delete_checkpoint = Path(backup_dir) / "training.safetensors", delete_checkpoint

    def on_train_begin(self, logs: Logs | None = None) -> None:
        for left in tensors.unfinished(self.path):  # by a process that was killed as it wrote
            left.unlink(missing_ok=True)

    def on_train_end(self, logs: Logs | None = None) -> None:
        if self.delete_checkpoint:
            self.path.unlink(missing_ok=True)


class LearningRateScheduler(Callback):
    """Sets the learning rate of each epoch.

    Parameters
    ----------
    schedule
        Called with the epoch and the rate so far; returns the rate.
    verbose
        Whether to print the rate.
    """

    def __init__(self, schedule: Any, verbose: int = 0) -> None:
        if not callable(schedule):
            raise TypeError(f"schedule must be a function of epoch and learning rate, but was {schedule!r}")
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        optimizer = self.model.optimizer
        assert optimizer is not None
        optimizer.learning_rate = float(self.schedule(epoch, optimizer.rate))
        if self.verbose:
            print(f"Epoch {epoch + 1}: learning rate {optimizer.learning_rate:g}")


class CallbackList:
    """The callbacks of one training, in order, those that back up last: they keep the state of all others."""

    def __init__(self, callbacks: Sequence[Callback], model: Sequential, params: dict[str, Any]) -> None:
        for callback in callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(f"callbacks must be Callback objects, but had {callback!r}")
        self.all = sorted(callbacks, key=lambda c: isinstance(c, BackupAndRestore))
        self.model = model
        self.wants_batches = any(type(c).on_train_batch_end is not Callback.on_train_batch_end for c in self.all)
        for callback in self.all:
            callback.set_model(model)
            callback.set_params(params)

    def each(self, event: str, *args: Any) -> None:
        for callback in self.all:
            getattr(callback, event)(*args)

    def train_begin(self, epoch: int) -> int:
        """Begin; the epoch to go on with, later than the given one if a backup was found."""
        from fastlstm.models import saving

        self.each("on_train_begin", {})
        for callback in self.all:
            if isinstance(callback, BackupAndRestore) and callback.path.exists():
                epoch = max(epoch, saving.restore(self.model, callback.path, self._others()))
        return epoch

    def epoch_end(self, epoch: int, logs: Logs) -> None:
        from fastlstm.models import saving

        self.each("on_epoch_end", epoch, logs)
        for callback in self.all:
            if isinstance(callback, BackupAndRestore):
                saving.backup(self.model, callback.path, epoch + 1, self._others())

    def train_end(self) -> None:
        self.each("on_train_end", {})

    def _others(self) -> list[Callback]:
        return [c for c in self.all if not isinstance(c, BackupAndRestore)]
