"""`LSTMClassifier` and `LSTMRegressor`."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from fastlstm.sklearn.base import LSTMEstimator
from fastlstm.sklearn.samples import Scale, Sequences, sample_weights


class LSTMClassifier(ClassifierMixin, LSTMEstimator):
    """Classes of sequences: LSTM layers, of whose last output a softmax layer tells the class; by cross-entropy.

    Parameters
    ----------
    hidden_size
        H, the units of each layer and direction.
    num_layers
        Layers, each fed with the output of the one below.
    bidirectional
        Whether each layer also runs from the last step to the first.
    dropout
        Probability with which an element of each layer's output is dropped in training.
    optimizer
        "adam", "adamw", "rmsprop" or "sgd".
    learning_rate
        Its learning rate.
    global_clipnorm
        Greatest norm of the gradient of all parameters together; None: no bound.
    batch_size
        Samples of a training step.
    max_iter
        Epochs at the most.
    shuffle
        Whether samples come in a new order in each epoch.
    standardize
        Whether each feature of X is brought to mean 0 and deviation 1, by those of all steps in training.
    early_stopping
        Whether a part of the samples is held out to tell when to stop; the weights are those of its best epoch then.
    validation_fraction
        That part.
    n_iter_no_change, tol
        Training ends when the loss (that of the part held out, if there is one) has not fallen by more than `tol` for
        so many epochs.
    random_state
        Seed, or generator, of initial weights, order, dropout and what is held out. A run with a seed repeats to the
        bit, at any thread count.
    verbose
        Whether to print a line for each epoch.
    class_weight
        Weight of the samples of each class, as a dictionary; "balanced": inversely to the class's share; None: 1.

    Attributes
    ----------
    classes_ : ndarray
        The classes.
    n_features_in_ : int
        For X of two axes T, else I.
    feature_names_in_ : ndarray
        The columns of X where it was a data frame.
    n_iter_ : int
        Epochs that were run, those of `partial_fit` included.
    loss_curve_, validation_loss_curve_ : list of float
        The loss after each epoch, and that of the samples held out.
    model_ : fastlstm.models.Sequential
        The model.

    Examples
    --------
    >>> sequences = [np.random.rand(n, 12) for n in (7, 12, 9, 20)]
    >>> LSTMClassifier(max_iter=20, random_state=0).fit(sequences, ["a", "b", "a", "b"]).predict(sequences)
    """

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        optimizer: str = "adam",
        learning_rate: float = 0.005,
        global_clipnorm: float | None = 1.0,
        batch_size: int = 32,
        max_iter: int = 100,
        shuffle: bool = True,
        standardize: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        verbose: bool = False,
        class_weight: Any = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "class_weight", "__class__")}
        super().__init__(**given)
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LSTMClassifier:
        """Train anew.

        Parameters
        ----------
        X
            Samples (N, T) or (N, T, I), or a list of N sequences (T, I) or (T,) of any lengths.
        y
            The class of each, (N,).
        sample_weight
            The weight of each in the loss, (N,).

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            An argument, or a parameter of the estimator, of the wrong type, shape or range.
        """
        x, y, weights = self._samples(X, y, sample_weight, reset=True)
        x, y, weights = x.chosen(weights > 0), y[weights > 0], weights[weights > 0]
        self.classes_, number = np.unique(y, return_inverse=True)
        weights = weights * compute_sample_weight(self.class_weight, y)
        self._begin(x, weights, len(self.classes_), "softmax", "sparse_categorical_crossentropy")
        self._train(x, number, weights, self.max_iter, self._held_out(len(y), number))
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> LSTMClassifier:
        """Train for one epoch on some samples, from the weights as they are; X is standardised as the first ones were.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes
            All classes that there will be; needed in the first call.

        Returns
        -------
        self
        """
        first = not hasattr(self, "model_")
        if first and classes is None:
            raise ValueError("classes must be given in the first call of partial_fit, but were None")
        if self.class_weight == "balanced":
            raise ValueError("class_weight must be a dictionary or None for partial_fit, but was 'balanced'")
        x, y, weights = self._samples(X, y, sample_weight, reset=first)
        known = np.unique(classes) if first else self.classes_
        if not first and classes is not None and not np.array_equal(np.unique(classes), known):
            raise ValueError(f"classes must be those of the first call, {known}, but were {classes}")
        if missing := sorted(set(np.unique(y).tolist()) - set(known.tolist())):
            raise ValueError(f"y must be of the classes {known}, but has {missing} too")
        self.classes_ = known
        weights = weights * compute_sample_weight(self.class_weight, y)
        if first:
            self._begin(x, weights, len(known), "softmax", "sparse_categorical_crossentropy")
        self._train(x, np.searchsorted(known, y), weights, 1, None)
        return self

    def _samples(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Sequences, np.ndarray, np.ndarray]:
        x = self._sequences(X, reset)
        y = check_array(self._target(y), ensure_2d=False, dtype=None, input_name="y", estimator=self)
        y = column_or_1d(y, warn=True)
        check_classification_targets(y)
        check_consistent_length(x.lengths, y)
        return x, y, sample_weights(sample_weight, len(y))

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of each class, in the order of `classes_`, (N, classes)."""
        return self._output(X)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each sample, (N,)."""
        probability = self.predict_proba(X)
        return self.classes_[probability.argmax(axis=1)]


class LSTMRegressor(RegressorMixin, LSTMEstimator):
    """One or more numbers told from a sequence: LSTM layers, and a linear layer of the last output.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, dropout, optimizer, learning_rate, global_clipnorm, batch_size, max_iter, \
shuffle, early_stopping, validation_fraction, n_iter_no_change, tol, random_state, verbose
        As of `LSTMClassifier`.
    standardize
        Whether each feature of X, and y, is brought to mean 0 and deviation 1 within.
    loss
        "mean_squared_error" or "mean_absolute_error".

    Attributes
    ----------
    n_features_in_, feature_names_in_, n_iter_, loss_curve_, validation_loss_curve_, model_
        As of `LSTMClassifier`; losses are those of the standardised y.

    Examples
    --------
    >>> wave = np.sin(np.arange(200) / 5)
    >>> windows = np.lib.stride_tricks.sliding_window_view(wave[:-1], 20)
    >>> LSTMRegressor(max_iter=20, random_state=0).fit(windows, wave[20:]).score(windows, wave[20:])
    """

    def __init__(
        self,
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        optimizer: str = "adam",
        learning_rate: float = 0.005,
        global_clipnorm: float | None = 1.0,
        batch_size: int = 32,
        max_iter: int = 100,
        shuffle: bool = True,
        standardize: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        verbose: bool = False,
        loss: str = "mean_squared_error",
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "loss", "__class__")}
        super().__init__(**given)
        self.loss = loss

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> LSTMRegressor:
        """Train anew.

        Parameters
        ----------
        X
            Samples (N, T) or (N, T, I), or a list of N sequences (T, I) or (T,) of any lengths.
        y
            Numbers (N,) or (N, K).
        sample_weight
            The weight of each sample in the loss, (N,).

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError
            An argument, or a parameter of the estimator, of the wrong type, shape or range.
        """
        x, y, weights = self._samples(X, y, sample_weight, reset=True)
        x, y, weights = x.chosen(weights > 0), y[weights > 0], weights[weights > 0]
        self._begin_regression(x, y, weights)
        self._train(x, self._scaled(y), weights, self.max_iter, self._held_out(len(y), None))
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> LSTMRegressor:
        """Train for one epoch on some samples, from the weights as they are; X and y are standardised as the first
        ones were.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self
        """
        first = not hasattr(self, "model_")
        x, y, weights = self._samples(X, y, sample_weight, reset=first)
        if first:
            self._begin_regression(x, y, weights)
        elif y.shape[1:] != self._y_shape:
            raise ValueError(f"y must have the shape (N, {self._y_shape}), as in the first call, but has {y.shape}")
        self._train(x, self._scaled(y), weights, 1, None)
        return self

    def _samples(self, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Sequences, np.ndarray, np.ndarray]:
        x = self._sequences(X, reset)
        y = check_array(self._target(y), ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        if y.ndim > 2:
            raise ValueError(f"y must be (N,) or (N, K), but has the shape {y.shape}")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        check_consistent_length(x.lengths, y)
        return x, y, sample_weights(sample_weight, len(y))

    def _begin_regression(self, x: Sequences, y: np.ndarray, weights: np.ndarray) -> None:
        if self.loss not in ("mean_squared_error", "mean_absolute_error"):
            raise ValueError(f"loss must be 'mean_squared_error' or 'mean_absolute_error', but was {self.loss!r}")
        self._begin(x, weights, y[0].size, "linear", self.loss)
        self._y_shape = y.shape[1:]
        columns = y.reshape(len(y), -1)
        count = columns.shape[1]
        self._y_scale = Scale.of(columns, weights) if self.standardize else Scale(np.zeros(count), np.ones(count))

    def _scaled(self, y: np.ndarray) -> np.ndarray:
        return (y.reshape(len(y), -1) - self._y_scale.mean) / self._y_scale.deviation

    def predict(self, X: Any) -> np.ndarray:
        """The numbers told from each sample, shaped as y in `fit`."""
        found = self._output(X)
        y = found * self._y_scale.deviation + self._y_scale.mean
        return y.astype(found.dtype).reshape(len(found), *self._y_shape)
