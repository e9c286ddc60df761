"""The estimators: scikit-learn's own checks of its conventions, and what they do not look at: sequences."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from fastlstm.sklearn import LSTMClassifier, LSTMRegressor

rng = np.random.default_rng(3)
SMALL = {"hidden_size": 8, "max_iter": 40, "learning_rate": 0.02, "random_state": 0}


def ragged(count: int = 60, features: int = 3) -> tuple[list[np.ndarray], np.ndarray]:
    """Sequences of 1 to 12 steps whose class is the sign of the last step's first feature."""
    X = [rng.standard_normal((n, features)) for n in rng.integers(1, 13, count)]
    return X, np.array(["down", "up"])[[int(x[-1, 0] > 0) for x in X]]


# What scikit-learn would skip where pandas or an environment variable is missing.
SKIPPED = {
    "check_sample_weights_pandas_series",
    "check_array_api_input",
    "check_classifier_data_not_an_array",
    "check_regressor_data_not_an_array",
}


@pytest.mark.filterwarnings("ignore")  # the checks are about warnings too, and let through those that they cause
@pytest.mark.parametrize("kind", [LSTMClassifier, LSTMRegressor])
def test_scikit_learns_checks(kind: type[BaseEstimator]) -> None:
    results = check_estimator(kind(hidden_size=16, max_iter=60), on_fail=None, on_skip=None)
    assert len(results) > 50
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] not in ("passed", "skipped")}
    assert not failed
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= SKIPPED


def test_a_list_is_learnt_and_scored() -> None:
    X, y = ragged()
    model = LSTMClassifier(**SMALL).fit(X, y)
    assert model.score(X, y) > 0.95
    assert model.n_features_in_ == 3 and list(model.classes_) == ["down", "up"]
    probability = model.predict_proba(X)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(model.classes_[probability.argmax(axis=1)], model.predict(X))
    np.testing.assert_allclose(np.exp(model.predict_log_proba(X)), probability, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}])
def test_a_sequence_is_the_same_alone_and_among_longer_ones(options: dict) -> None:
    X, y = ragged(20)
    model = LSTMClassifier(**SMALL | {"max_iter": 3} | options).fit(X, y)
    together = model.predict_proba(X)
    for x, wanted in zip(X, together, strict=True):
        np.testing.assert_allclose(model.predict_proba([x])[0], wanted, rtol=1e-12)
        np.testing.assert_allclose(model.predict_proba(x[None])[0], wanted, rtol=1e-12)


def test_layouts_that_mean_the_same_give_the_same() -> None:
    X, y = rng.standard_normal((30, 6)), rng.standard_normal(30)
    table = LSTMRegressor(**SMALL).fit(X, y)
    assert table.n_features_in_ == 6
    series = LSTMRegressor(**SMALL).fit(X[:, :, None], y)
    assert series.n_features_in_ == 1
    np.testing.assert_array_equal(table.predict(X), series.predict(X[:, :, None]))
    # Univariate sequences may come as rows too, and be of any length.
    np.testing.assert_array_equal(series.predict(X), series.predict([x for x in X]))
    assert series.predict(X[:, :4]).shape == (30,)
    objects = np.empty(2, object)
    objects[:] = X[0], X[1, :4]
    np.testing.assert_array_equal(series.predict(objects), series.predict([X[0], X[1, :4]]))


def test_numbers_of_any_size_are_learnt() -> None:
    X = rng.standard_normal((80, 8, 2)) * [1e4, 1e-3] + [1e6, 0]
    y = np.stack([X[:, -1, 0], 5 * X[:, -1, 1]], axis=1)
    model = LSTMRegressor(**SMALL | {"max_iter": 100}).fit(X, y)
    assert model.predict(X).shape == (80, 2)
    assert model.score(X, y) > 0.9
    assert LSTMRegressor(**SMALL, standardize=False).fit(X, y).score(X, y) < 0.1


def test_the_dtype_is_that_of_X() -> None:
    X, y = rng.standard_normal((10, 5, 2)), rng.standard_normal(10)
    for dtype in (np.float32, np.float64):
        model = LSTMRegressor(**SMALL | {"max_iter": 1}).fit(X.astype(dtype), y)
        assert model.model_.dtype == dtype
        assert model.predict(X).dtype == dtype
    assert LSTMRegressor(**SMALL | {"max_iter": 1}).fit((10 * X).astype(int), y).predict(X).dtype == np.float64


def test_a_seed_repeats_to_the_bit_and_another_does_not() -> None:
    X, y = ragged(30)
    once, again, other = (LSTMClassifier(**SMALL | {"random_state": s, "dropout": 0.2}).fit(X, y) for s in (1, 1, 2))
    np.testing.assert_array_equal(once.predict_proba(X), again.predict_proba(X))
    assert abs(once.predict_proba(X) - other.predict_proba(X)).max() > 1e-3


def test_it_stops_early_with_the_weights_of_the_best_epoch() -> None:
    X, y = ragged(100)
    model = LSTMClassifier(
        **SMALL | {"max_iter": 200}, early_stopping=True, validation_fraction=0.3, n_iter_no_change=3
    ).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == len(model.validation_loss_curve_) < 200
    assert model.n_iter_ - 1 - int(np.argmin(model.validation_loss_curve_)) >= 3
    assert LSTMClassifier(**SMALL | {"max_iter": 200}, tol=10.0, n_iter_no_change=4).fit(X, y).n_iter_ <= 6


def test_partial_fit_goes_on_where_it_was() -> None:
    X, y = ragged()
    model = LSTMClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes must be given in the first call"):
        model.partial_fit(X, y)
    for _ in range(40):
        model.partial_fit(X[:30], y[:30], classes=["down", "sideways", "up"]).partial_fit(X[30:], y[30:])
    assert model.n_iter_ == 80 and model.predict_proba(X).shape == (60, 3)
    assert model.score(X, y) > 0.95
    with pytest.raises(ValueError, match="y must be of the classes"):
        model.partial_fit(X, np.where(y == "up", "over", y))
    with pytest.raises(ValueError, match="classes must be those of the first call"):
        model.partial_fit(X, y, classes=["down", "up"])
    with pytest.raises(ValueError, match="class_weight must be a dictionary or None"):
        LSTMClassifier(class_weight="balanced").partial_fit(X, y, classes=["down", "up"])


def test_partial_fit_of_numbers() -> None:
    X = rng.standard_normal((40, 5))
    model = LSTMRegressor(**SMALL)
    for _ in range(60):
        model.partial_fit(X, X[:, -1])
    assert model.score(X, X[:, -1]) > 0.9
    with pytest.raises(ValueError, match="y must have the shape"):
        model.partial_fit(X, X[:, -2:])


def test_a_copy_and_a_pickle_go_on_by_themselves() -> None:
    X, y = ragged(20)
    model = LSTMClassifier(**SMALL).fit(X, y)
    other, before = pickle.loads(pickle.dumps(model)), model.predict_proba(X)
    np.testing.assert_array_equal(other.predict_proba(X), before)
    assert abs(other.partial_fit(X, y).predict_proba(X) - before).max() > 0
    np.testing.assert_array_equal(model.predict_proba(X), before)


def test_weights_choose_what_is_learnt() -> None:
    X = rng.standard_normal((40, 5))
    y = np.where(np.arange(40) < 20, 1.0, -1.0) * X[:, -1]
    weights = np.where(np.arange(40) < 20, 1.0, 0.0)
    model = LSTMRegressor(**SMALL | {"max_iter": 80}).fit(X, y, sample_weight=weights)
    assert model.score(X[:20], y[:20]) > 0.9 > 0 > model.score(X[20:], y[20:])
    np.testing.assert_array_equal(
        model.predict(X), LSTMRegressor(**SMALL | {"max_iter": 80}).fit(X[:20], y[:20]).predict(X)
    )


def test_pipelines_and_grids() -> None:
    X, y = ragged(40)
    grid = GridSearchCV(LSTMClassifier(**SMALL | {"max_iter": 10}), {"hidden_size": [4, 8]}, cv=2).fit(X, y)
    assert grid.best_params_["hidden_size"] in (4, 8)
    # Of sequences, only their lengths tell the classes apart here, and the pipeline takes them off.
    same = make_pipeline(FunctionTransformer(lambda X: [x[-1:] for x in X]), clone(grid.best_estimator_)).fit(X, y)
    assert same.score(X, y) > 0.9
    table = rng.standard_normal((60, 8))
    pipeline = make_pipeline(StandardScaler(), LSTMRegressor(**SMALL | {"max_iter": 60}))
    assert cross_val_score(pipeline, table, table[:, -1], cv=2).min() > 0.5


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([np.zeros((3, 2)), np.zeros((4, 3))], r"X\[1\] must be a sequence .* with I = 2, as X\[0\],"),
        ([np.zeros((3, 2)), np.zeros((0, 2))], r"X\[1\] must be a sequence .* of at least one step"),
        ([np.zeros((3, 2)), [[1, 2], [3]]], r"X\[1\] must be a sequence"),
        ([np.full((3, 2), np.nan), np.zeros((4, 2))], "NaN"),
        (np.zeros((2, 0, 3)), "at least"),
        (np.zeros((2, 3, 4, 5)), "must be"),
        (np.full((2, 3, 1), np.inf), "infinity"),
    ],
)
def test_wrong_sequences_are_told(X: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LSTMRegressor().fit(X, [1.0, 2.0])


def test_what_differs_from_fit_is_told() -> None:
    model = LSTMRegressor(**SMALL | {"max_iter": 1})
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((2, 3)))
    model.fit(rng.standard_normal((5, 4)), np.arange(5.0))
    with pytest.raises(ValueError, match="X must be series of 4 steps each"):
        model.predict([[1.0, 2.0], [1.0]])
    with pytest.raises(ValueError, match="expecting 4 features"):
        model.predict(np.zeros((2, 3)))
    model.fit(rng.standard_normal((5, 4, 2)), np.arange(5.0))
    with pytest.raises(ValueError, match="X has 3 features, but LSTMRegressor is expecting 2"):
        model.predict(np.zeros((2, 4, 3)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"num_layers": 1.5}, "num_layers must be an integer"),
        ({"max_iter": 0}, "max_iter must be at least 1"),
        ({"dropout": 2}, "dropout must be a probability"),
        ({"optimizer": "lbfgs"}, "optimizer must be one of"),
        ({"loss": "huber"}, "loss must be"),
        ({"bidirectional": "yes"}, "bidirectional must be True or False"),
    ],
)
def test_wrong_parameters_are_told_by_fit(options: dict, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        LSTMRegressor(**options).fit(np.zeros((4, 3)), np.zeros(4))


def test_without_scikit_learn_one_line_tells_what_to_install() -> None:
    script = """
import sys
sys.modules["sklearn"] = None
try:
    import fastlstm.sklearn
except ModuleNotFoundError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert told.splitlines() == ["fastlstm.sklearn needs scikit-learn: pip install 'fastlstm[sklearn]'"]
