"""Series cut into windows."""

import numpy as np
import pytest

from fastlstm.models import LSTM, Adam, Dense, Sequential, windows


def test_windows_of_a_series_and_what_follows():
    x, y = windows(np.arange(8.0), 3, horizon=2)
    assert x[..., 0].tolist() == [[k, k + 1, k + 2] for k in range(4)] and x.shape == (4, 3, 1)
    assert y.tolist() == [[k + 3, k + 4] for k in range(4)]
    x, y = windows(list(range(8)), 3, stride=3)
    assert (x[..., 0].tolist(), y.tolist()) == ([[0, 1, 2], [3, 4, 5]], [[3], [6]])


def test_windows_of_several_features():
    series = np.random.default_rng(0).standard_normal((9, 2))
    x, y = windows(series, 4, horizon=3)
    assert (x.shape, y.shape) == ((3, 4, 2), (3, 3, 2))
    for k in range(3):
        np.testing.assert_array_equal(x[k], series[k : k + 4])
        np.testing.assert_array_equal(y[k], series[k + 4 : k + 7])


def test_a_model_forecasts_from_windows_better_than_the_last_value():
    wave = np.sin(np.arange(300) / 7) * np.sin(np.arange(300) / 17)
    x, y = windows(wave, 20, horizon=2)
    model = Sequential([LSTM(16), Dense(2)], seed=1)
    model.compile(Adam(0.01), "mse")
    model.fit(x[:200], y[:200], epochs=40)
    naive = np.square(x[200:, -1] - y[200:]).mean()
    assert model.evaluate(x[200:], y[200:]) < naive / 20


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((np.arange(5.0), 4, 2), ValueError, r"series must have at least length \+ horizon = 6 steps, but has 5"),
        ((np.zeros((2, 3, 4)), 1), ValueError, r"series must have the shape \(N,\) or \(N, n\)"),
        ((["a", "b"], 1), TypeError, "series must be numbers"),
        ((np.arange(5.0), 0), ValueError, "length must be at least 1"),
        ((np.arange(5.0), 1, 0), ValueError, "horizon must be at least 1"),
        ((np.arange(5.0), 1, 1, 1.5), TypeError, "stride must be an integer"),
    ],
)
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        windows(*arguments)
