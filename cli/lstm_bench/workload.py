"""The numbers that every engine gets: weights, input and output gradient of a case, from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from .cases import Case


class Workload(NamedTuple):
    """What an engine is asked to compute.

    `params` has PyTorch's names and shapes: `weight_ih_l0 (4H, I)`, `weight_hh_l0 (4H, H)`, `bias_ih_l0 (4H,)`,
    `bias_hh_l0 (4H,)`, with `_reverse` for the second direction. `x` is `(T, B, I)`, `dy` is `(T, B, D*H)`.
    """

    case: Case
    params: dict[str, np.ndarray]
    x: np.ndarray
    dy: np.ndarray


def suffixes(case: Case) -> Iterator[tuple[str, int]]:
    """Each layer and direction as PyTorch names it, with its input size."""
    for layer, size in enumerate(case.layer_inputs):
        for direction in ("", "_reverse")[: case.directions]:
            yield f"l{layer}{direction}", size


def make(case: Case, dtype: str, seed: int = 0) -> Workload:
    """Draw the workload of a case; a shortened case gets the first steps of the whole one's numbers."""
    rng_params, rng_x, rng_dy = (np.random.default_rng([seed, stream]) for stream in range(3))
    bound = case.H**-0.5
    params = {}
    for suffix, size in suffixes(case):
        shapes = {"weight_ih": (4 * case.H, size), "weight_hh": (4 * case.H, case.H),
                  "bias_ih": (4 * case.H,), "bias_hh": (4 * case.H,)}  # fmt: skip
        for kind, shape in shapes.items():
            params[f"{kind}_{suffix}"] = rng_params.uniform(-bound, bound, shape).astype(dtype)
    x = rng_x.standard_normal((case.T, case.B, case.I), np.float32).astype(dtype)
    dy = rng_dy.standard_normal((case.T, case.B, case.directions * case.H), np.float32).astype(dtype)
    return Workload(case, params, x, dy)
