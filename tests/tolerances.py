"""How far a result may lie from the exact one: one table, by dtype and operation.

Rounding a sum of n products, term by term, is off by about sqrt(n) eps, since the roundings' signs are as good as
random; an activation adds a few eps of its own (`fastlstm.simd.math` states them), as if the sum had some more terms.
A layer adds its own roundings to those that it is fed with. Over steps they do not grow for long, since a forget gate
below 1 fades them; the gradient of a parameter alone is a sum over all T * B rows. What is left is a small factor:
that of the table, twice to four times the worst of thousands of random cases.
"""

from __future__ import annotations

import numpy as np

ACTIVATION_TERMS = 16  # what the activations of a step add, in terms of a sum

# (dtype, operation): the factor before sqrt(terms) eps. "values" are absolute, since |h| < 1; the others are relative
# to the largest entry.
FACTORS = {
    ("float32", "values"): 2.0,
    ("float32", "dx"): 3.0,
    ("float32", "dstate"): 3.0,
    ("float32", "dparameters"): 3.0,
    ("float64", "values"): 3.0,
    ("float64", "dx"): 4.0,
    ("float64", "dstate"): 4.0,
    ("float64", "dparameters"): 4.0,
}

# What the library promises for unit-scale input, T = 100 and H up to 256, whatever the rounding above would allow.
PROMISED_VALUES = {"float32": 2e-6, "float64": 1e-12}  # absolute
PROMISED_GRADIENTS = {"float32": 1e-4, "float64": 1e-10}  # relative to the largest entry

# Absolute error of the elementary functions, as their module states it.
TANH = {"float32": 3.2e-7, "float64": 3e-16}
SIGMOID = {"float32": 1.5e-7, "float64": 3e-16}

# A trained model against onnxruntime, whose own roundings differ as much.
ONNXRUNTIME = 1e-5

# A stack of layers against PyTorch's: likewise.
TORCH = 1e-5

SMALLEST_SCALE = 0.1  # a gradient that cancels out is judged by the terms that it is the sum of


def operation(name: str) -> str:
    """The operation of the table that a result belongs to."""
    if name in ("y", "h_n", "c_n"):
        return "values"
    return {"dx": "dx", "dh_0": "dstate", "dc_0": "dstate"}.get(name, "dparameters")


def bound(dtype: str, name: str, case) -> float:
    """The tolerance of one result of a case (`layer_case.LayerCase`)."""
    kind = operation(name)
    terms = (
        case.I
        + case.H * (1 + case.bidirectional)
        + ACTIVATION_TERMS
        + (case.T * case.B if kind == "dparameters" else 0)
    )
    return FACTORS[dtype, kind] * case.layers * float(np.sqrt(terms) * np.finfo(dtype).eps)


def scale(name: str, expected: np.ndarray) -> float:
    """What a tolerance is relative to."""
    largest = float(abs(expected).max(initial=0))
    return max(largest, 1.0 if operation(name) == "values" else SMALLEST_SCALE)


def check(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], case) -> None:
    """Compare all results of a case with those in float64: names, shapes, dtype and every entry."""
    assert set(found) == set(expected)
    for name, wanted in expected.items():
        assert found[name].shape == wanted.shape, name
        assert found[name].dtype == case.dtype, name
        error, allowed = abs(found[name] - wanted).max(initial=0), bound(case.dtype, name, case) * scale(name, wanted)
        assert error <= allowed, f"{name} is off by {error:.3g}, more than {allowed:.3g}, in {case}"


def of_case(case: object) -> float:
    """How far a call of the passes may be from the reference's, relative to the largest value.

    The reference's own rounding; the gradients pass every step twice, and products are summed in another order.
    """
    return 20 * case.rounding()  # type: ignore[attr-defined]
