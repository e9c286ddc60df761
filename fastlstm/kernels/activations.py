"""Activations by name, and their slopes, on a vector of pre-activations; `fastlstm.reference` states each as a formula.

`kind` is a `Function` known while compiling, so that what is compiled is the one function. A NaN comes through every
value; at a kink the slope is PyTorch's.
"""

from __future__ import annotations

from fastlstm.runtime.jit import choose, inline
from fastlstm.simd.math import exp, log1p_unit, sigmoid_below, tanh_ratio
from fastlstm.simd.vector import fma, magnitude, splat, where_at_most, where_less


@inline
def sigmoid(kind, x):
    return 1.0 / sigmoid_below(x)


@inline
def tanh(kind, x):
    above, below = tanh_ratio(x)
    return above / below


@inline
def relu(kind, x):
    zero = splat(0.0, x)
    return where_less(x, zero, zero, x)


@inline
def linear(kind, x):
    return x


@inline
def hard_tanh(kind, x):
    one = splat(1.0, x)
    x = where_less(one, x, one, x)
    return where_less(x, -one, -one, x)


@inline
def softsign(kind, x):
    return x / (1.0 + magnitude(x))


@inline
def softplus(kind, x):
    return relu(kind, x) + log1p_unit(exp(-magnitude(x)))


@inline
def hard_sigmoid(kind, x):
    zero, one = splat(0.0, x), splat(1.0, x)
    x = fma(x, kind.alpha, splat(kind.beta, x))
    x = where_less(one, x, one, x)
    return where_less(x, zero, zero, x)


@inline
def leaky_relu(kind, x):
    return where_less(x, splat(0.0, x), x * kind.alpha, x)


@inline
def elu(kind, x):
    return where_less(x, splat(0.0, x), (exp(x) - 1.0) * kind.alpha, x)


@inline
def thresholded_relu(kind, x):
    return where_at_most(x, splat(kind.alpha, x), splat(0.0, x), x)


@inline
def affine(kind, x):
    return x * kind.alpha + kind.beta


@inline
def scaled_tanh(kind, x):
    return tanh(kind, x * kind.beta) * kind.alpha


@inline
def sigmoid_slope(kind, x):
    y = sigmoid(kind, x)
    return y * (1.0 - y)


@inline
def tanh_slope(kind, x):
    y = tanh(kind, x)
    return 1.0 - y * y


@inline
def relu_slope(kind, x):
    return where_less(splat(0.0, x), x, splat(1.0, x), splat(0.0, x))


@inline
def linear_slope(kind, x):
    return splat(1.0, x)


@inline
def hard_tanh_slope(kind, x):
    return where_less(magnitude(x), splat(1.0, x), splat(1.0, x), splat(0.0, x))


@inline
def softsign_slope(kind, x):
    below = 1.0 + magnitude(x)
    return 1.0 / (below * below)


@inline
def hard_sigmoid_slope(kind, x):
    zero = splat(0.0, x)
    y = x * kind.alpha + kind.beta
    return where_less(zero, y, where_less(y, splat(1.0, x), splat(kind.alpha, x), zero), zero)


@inline
def leaky_relu_slope(kind, x):
    return where_less(splat(0.0, x), x, splat(1.0, x), splat(kind.alpha, x))


@inline
def elu_slope(kind, x):
    return where_less(splat(0.0, x), x, splat(1.0, x), exp(x) * kind.alpha)


@inline
def thresholded_relu_slope(kind, x):
    return where_less(splat(kind.alpha, x), x, splat(1.0, x), splat(0.0, x))


@inline
def affine_slope(kind, x):
    return splat(kind.alpha, x)


@inline
def scaled_tanh_slope(kind, x):
    return tanh_slope(kind, x * kind.beta) * (kind.alpha * kind.beta)


VALUES = {
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "linear": linear,
    "hard_tanh": hard_tanh,
    "softsign": softsign,
    "softplus": softplus,
    "hard_sigmoid": hard_sigmoid,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "thresholded_relu": thresholded_relu,
    "affine": affine,
    "scaled_tanh": scaled_tanh,
}
SLOPES = {
    "sigmoid": sigmoid_slope,
    "tanh": tanh_slope,
    "relu": relu_slope,
    "linear": linear_slope,
    "hard_tanh": hard_tanh_slope,
    "softsign": softsign_slope,
    "softplus": sigmoid,
    "hard_sigmoid": hard_sigmoid_slope,
    "leaky_relu": leaky_relu_slope,
    "elu": elu_slope,
    "thresholded_relu": thresholded_relu_slope,
    "affine": affine_slope,
    "scaled_tanh": scaled_tanh_slope,
}


def activate(kind, x):
    """The function `kind` of a vector x."""


def slope(kind, x):
    """Its derivative at x."""


@choose(activate)
def _value(kind):
    return VALUES[kind.name].py_func


@choose(slope)
def _slope(kind):
    return SLOPES[kind.name].py_func


@inline
def clamp(v, x):
    """x between -clip and clip, where there is a clip."""
    if v.clipped:
        end = splat(v.clip, x)
        x = where_less(end, x, end, x)
        return where_less(x, -end, -end, x)
    return x


@inline
def within(v, x, d):
    """d where clamp(x) depends on x, else 0."""
    if v.clipped:
        return where_less(splat(v.clip, x), magnitude(x), splat(0.0, x), d)
    return d
