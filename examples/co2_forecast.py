"""Forecast of a series: the weekly CO2 at Mauna Loa, a year ahead, against the seasonal-naive forecast.

The series comes with the package `statsmodels`, of which one CSV file is read and nothing imported:

    pip install fastlstm && pip install --no-deps statsmodels
    python examples/co2_forecast.py --plot forecast.png      # the plot needs matplotlib
    python examples/co2_forecast.py --weeks 800 --epochs 2

A window of two years, less its last value, is what the model sees; the 52 weeks that follow are what it says at once.
The last eight years are for testing; nothing of them is seen in training. The seasonal-naive forecast is the year
before, raised by what that year rose over the one before it.
"""

import argparse
import csv
from importlib.metadata import distribution

import numpy as np

from fastlstm.models import LSTM, Adam, CosineDecay, Dense, EarlyStopping, Sequential, set_random_seed, windows

YEAR, WINDOW, HELD_OUT = 52, 104, 8 * 52


def weekly():
    """The CO2 of each week, in parts per million, gaps filled by straight lines."""
    path = distribution("statsmodels").locate_file("statsmodels/datasets/co2/co2.csv")
    with open(path, encoding="utf-8", newline="") as file:
        values = np.array([float(row["co2"] or "nan") for row in csv.DictReader(file)])
    known = np.isfinite(values)
    return np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])


def samples(series):
    """What is seen (N, 104, 1) and the 52 weeks that follow (N, 52), both less the last value seen (N, 1)."""
    x, y = windows(series, WINDOW, horizon=YEAR)
    last = x[:, -1]
    return x - last[:, None], last, y - last


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weeks", type=int, help="train with the last so many weeks before the test only")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--plot", help="file for a figure of the last forecast")
    args = parser.parse_args()

    series = weekly()
    cut = len(series) - HELD_OUT
    x, _, y = samples(series[:cut][-args.weeks if args.weeks else None :])
    x_test, last, y_test = samples(series[cut - WINDOW :])
    scale = x.std()

    set_random_seed(2)
    model = Sequential([LSTM(48, input_shape=(WINDOW, 1)), Dense(YEAR)])
    model.compile(Adam(CosineDecay(0.005, args.epochs * -(-len(x) // 32)), clipnorm=1.0), "mse")
    model.fit(x / scale, y / scale, epochs=args.epochs, callbacks=[EarlyStopping("loss", patience=10)])

    forecast = model.predict(x_test / scale) * scale
    naive = x_test[:, -YEAR:, 0] + (x_test[:, -1:, 0] - x_test[:, -1 - YEAR : -YEAR, 0])
    error, naive_error = np.abs(forecast - y_test).mean(), np.abs(naive - y_test).mean()
    print(
        f"mean absolute error of {len(x_test)} forecasts: model {error:.3f} ppm, seasonal-naive {naive_error:.3f} ppm"
    )

    if args.plot:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        axes.plot(range(-WINDOW, 0), x_test[-1, :, 0] + last[-1], color="black", label="seen")
        for values, label in ((y_test, "came"), (forecast, "model"), (naive, "seasonal-naive")):
            axes.plot(range(YEAR), values[-1] + last[-1], label=label)
        axes.set(xlabel="week", ylabel="CO2 in ppm")
        axes.legend()
        figure.savefig(args.plot)


if __name__ == "__main__":
    main()
