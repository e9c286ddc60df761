"""What both estimators for scikit-learn do: their parameters, what they make of X, and how they train."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from fastlstm import checks, models
from fastlstm.sklearn.samples import (
    Scale,
    Sequences,
    axes,
    is_list_of_sequences,
    listed,
    padding,
    stacked,
)

PREDICTED_AT_ONCE = 256  # samples; more would not be faster, and take more memory


class LSTMEstimator(BaseEstimator):
    """What both estimators do."""

    n_features_in_: int
    _table: bool  # whether X had two axes in fit

    def __init__(
        self,
        hidden_size: int,
        num_layers: int,
        bidirectional: bool,
        dropout: float,
        optimizer: str,
        learning_rate: float,
        global_clipnorm: float | None,
        batch_size: int,
        max_iter: int,
        shuffle: bool,
        standardize: bool,
        early_stopping: bool,
        validation_fraction: float,
        n_iter_no_change: int,
        tol: float,
        random_state: Any,
        verbose: bool,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.global_clipnorm = global_clipnorm
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.shuffle = shuffle
        self.standardize = standardize
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # --- what goes in -------------------------------------------------------------------------------------------------

    def _sequences(self, X: Any, reset: bool) -> Sequences:
        """X, checked; `reset` learns its layout, which X must have otherwise."""
        kind, axis_count = getattr(getattr(X, "dtype", None), "kind", ""), getattr(X, "ndim", 0)
        if kind == "O" and axis_count == 1:  # an array of sequences, or a column of a data frame
            X = list(X)
        ragged = is_list_of_sequences(X)
        sequences = ragged or axes(X) > 2 or (not reset and not self._table and self.n_features_in_ == 1)
        if reset:
            self._table = not sequences
        elif ragged and self._table:
            raise ValueError(f"X must be series of {self.n_features_in_} steps each, as in fit, but lists unequal ones")
        if not sequences and (reset or self._table):
            X = validate_data(self, X, reset=reset, dtype="numeric")
            return Sequences(X.reshape(-1, 1), np.full(len(X), X.shape[1]))
        found = listed(X, self) if ragged else stacked(X, self)
        if reset:
            self.n_features_in_ = found.steps.shape[1]
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        elif found.steps.shape[1] != self.n_features_in_:
            raise ValueError(
                f"X has {found.steps.shape[1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input at each step"
            )
        return found

    def _padded(self, x: Sequences) -> np.ndarray:
        """The samples as one array (N, T, I), standardised; steps behind a sample's end have a value of their own."""
        steps = ((x.steps - self._x_scale.mean) / self._x_scale.deviation).astype(self.model_.dtype)
        longest = int(x.lengths.max())
        if (x.lengths == longest).all():
            return steps.reshape(len(x.lengths), longest, -1)
        padded = np.full((len(x.lengths), longest, steps.shape[1]), padding(self.model_.dtype), steps.dtype)
        padded[np.arange(longest) < x.lengths[:, None]] = steps
        return padded

    # --- training -----------------------------------------------------------------------------------------------------

    def _begin(self, x: Sequences, weights: np.ndarray, outputs: int, activation: str, loss: str) -> None:
        """Make the model, untrained, and learn the scale of X."""
        checks.size("max_iter", self.max_iter)
        checks.size("num_layers", self.num_layers)
        checks.size("hidden_size", self.hidden_size)
        checks.rate("dropout", self.dropout)
        if self.optimizer not in models.optimizers.OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {[*models.optimizers.OPTIMIZERS]}, but was {self.optimizer!r}")
        dtype, features = np.dtype(np.float32 if x.steps.dtype == np.float32 else np.float64), x.steps.shape[1]
        layers: list[Any] = [models.Masking(padding(dtype), input_shape=(None, features))]
        for k in range(self.num_layers):
            lstm = models.LSTM(self.hidden_size, return_sequences=k < self.num_layers - 1)
            layers.append(models.Bidirectional(lstm) if checks.flag("bidirectional", self.bidirectional) else lstm)
            layers += [models.Dropout(self.dropout)] * bool(self.dropout)
        layers.append(models.Dense(outputs, activation))
        self._random = check_random_state(self.random_state)
        self.model_ = models.Sequential(layers, dtype=dtype, seed=int(self._random.randint(2**31 - 1)))
        optimizer = models.optimizers.OPTIMIZERS[self.optimizer]
        self.model_.compile(optimizer(self.learning_rate, global_clipnorm=self.global_clipnorm), loss)
        self._x_scale = Scale(np.zeros(features), np.ones(features))
        if checks.flag("standardize", self.standardize):
            self._x_scale = Scale.of(x.steps, np.repeat(weights, x.lengths))
        self.loss_curve_: list[float] = []
        self.validation_loss_curve_: list[float] = []
        self.n_iter_ = 0

    def _train(self, x: Sequences, y: np.ndarray, weights: np.ndarray, epochs: int, held: np.ndarray | None) -> None:
        """Some epochs; the samples `held` (N,) are not learnt but measured."""
        padded, weights = self._padded(x), weights / weights.mean()
        validation, callbacks = None, []
        if epochs > 1:
            callbacks.append(
                models.EarlyStopping(
                    "loss" if held is None else "val_loss",
                    min_delta=self.tol,
                    patience=self.n_iter_no_change,
                    restore_best_weights=held is not None,
                )
            )
        if held is not None:
            validation = padded[held], y[held], weights[held]
            padded, y, weights = padded[~held], y[~held], weights[~held]
        history = self.model_.fit(
            padded,
            y,
            batch_size=self.batch_size,
            epochs=self.n_iter_ + epochs,
            initial_epoch=self.n_iter_,
            sample_weight=None if (weights == 1).all() else weights,
            validation_data=validation,
            shuffle=checks.flag("shuffle", self.shuffle),
            callbacks=callbacks,
            verbose=2 if self.verbose else 0,
        ).history
        self.loss_curve_ += history["loss"]
        self.validation_loss_curve_ += history.get("val_loss", [])
        self.n_iter_ = len(self.loss_curve_)

    def _held_out(self, count: int, classes: np.ndarray | None) -> np.ndarray | None:
        """Which samples early stopping measures, each class in its share."""
        if not checks.flag("early_stopping", self.early_stopping):
            return None
        seed = self._random.randint(2**31 - 1)
        _, rows = train_test_split(
            np.arange(count), test_size=self.validation_fraction, random_state=seed, stratify=classes
        )
        return np.isin(np.arange(count), rows)

    def _output(self, X: Any) -> np.ndarray:
        """The model's output (N, outputs)."""
        check_is_fitted(self)
        padded = self._padded(self._sequences(X, reset=False))
        return self.model_.predict(padded, batch_size=PREDICTED_AT_ONCE, verbose=0)

    def _target(self, y: Any) -> Any:
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None")
        return y
