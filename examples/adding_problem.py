"""The adding problem: a thousand random numbers, two of them marked; say their sum (Hochreiter and Schmidhuber 1997).

A model that forgets can do no better than say 1 always: a mean squared error of 1/6. The gates' biases begin such that
the cell remembers for about as long as a sequence lasts (Tallec and Ollivier 2018, "chrono" initialisation), and the
sequences grow as it learns.

    python examples/adding_problem.py --plot gradient.png    # the gradient that reaches each step; needs matplotlib
    python examples/adding_problem.py --length 50 --steps 30
"""

import argparse
import time

import numpy as np

from fastlstm.models import LSTM, Adam, Dense, Sequential, set_random_seed

UNITS, BATCH = 64, 64


def batch(rng, length, size):
    """Sequences (size, length, 2) of numbers and marks, one mark in each half, and the sums of the marked numbers."""
    x = np.zeros((size, length, 2), np.float32)
    x[..., 0] = rng.random((size, length))
    half = length // 2
    for begin, end in ((0, half), (half, length)):
        x[np.arange(size), rng.integers(begin, end, size), 1] = 1
    return x, (x[..., 0] * x[..., 1]).sum(axis=1)


def remember(layer, length, rng):
    """Forget biases log(u), u uniform in 1 .. length - 1, and input biases the negative of them."""
    kernel, recurrent, bias = layer.get_weights()
    bias[UNITS : 2 * UNITS] = np.log(rng.uniform(1, length - 1, UNITS))
    bias[:UNITS] = -bias[UNITS : 2 * UNITS]
    layer.set_weights([kernel, recurrent, bias])


def gradient_norms(model, x, y):
    """The norm over the batch of the gradient that reaches h of each step."""
    layer, weight = model.layers[0].core(), model.layers[1].get_weights()[0]
    dh = 2 * (model.predict(x, verbose=0) - y[:, None]) / len(y) @ weight.T
    (trace,) = layer.trace(x.swapaxes(0, 1), dstate=(dh[None], np.zeros_like(dh[None])))
    return trace.gradient_norm()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--length", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2000, help="steps of the optimizer, at the most")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--plot", help="file for a figure of the gradient's norm over time, before and after training")
    args = parser.parse_args()

    set_random_seed(3)
    rng = np.random.default_rng(3)
    model = Sequential([LSTM(UNITS, input_shape=(None, 2)), Dense(1)])
    model.compile(Adam(0.01, clipnorm=1.0), "mse")
    model.build()
    remember(model.layers[0], args.length, rng)
    x_test, y_test = batch(np.random.default_rng(99), args.length, 256)
    norms = {"before training": gradient_norms(model, x_test, y_test)}
    began, step = time.perf_counter(), 0
    for length in [n for n in (50, 150, 400) if n < args.length] + [args.length]:
        x, y = batch(np.random.default_rng(98), length, 256)
        while step < args.steps and (args.seconds is None or time.perf_counter() - began < args.seconds):
            model.train_on_batch(*batch(rng, length, BATCH))
            step += 1
            if step % 20 == 0 and (error := model.evaluate(x, y, batch_size=128)) < 0.004:
                print(
                    f"length {length}: error {error:.5f}, step {step}, {time.perf_counter() - began:.0f} s", flush=True
                )
                break
    error = model.evaluate(x_test, y_test, batch_size=128)
    print(f"test: mean squared error {error:.5f} at {args.length} steps ({'solved' if error < 0.01 else 'not solved'})")
    norms["after training"] = gradient_norms(model, x_test, y_test)

    if args.plot:
        from fastlstm.inspect import plot_gradient_norm

        plot_gradient_norm(norms).savefig(args.plot)


if __name__ == "__main__":
    main()
