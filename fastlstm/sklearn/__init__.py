"""scikit-learn: `LSTMClassifier` and `LSTMRegressor`, for pipelines, grid search and all else that takes an estimator.

A sample is a sequence. X may be

- (N, T): N univariate series of T steps each; T is then `n_features_in_`, as for any other estimator;
- (N, T, I): N sequences of I features a step; I is `n_features_in_`, and T may differ from call to call;
- a list of N sequences, each (T, I) or (T,), whose T differ.

Arithmetic and predictions are in float32 if X is in fit, else in float64, which takes about twice the time. Training
and prediction are those of `fastlstm.models.Sequential`; the fitted one is the attribute `model_`.
"""

from __future__ import annotations

try:
    import sklearn  # noqa: F401  # here, so that its absence is told in one line
except ModuleNotFoundError as error:
    if error.name != "sklearn":
        raise
    message = "fastlstm.sklearn needs scikit-learn: pip install 'fastlstm[sklearn]'"
    raise ModuleNotFoundError(message, name="sklearn") from None

from fastlstm.sklearn.estimators import LSTMClassifier, LSTMRegressor

__all__ = ["LSTMClassifier", "LSTMRegressor"]
