"""The reference against finite differences, torch, onnxruntime and its own definitions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fastlstm import reference
from fastlstm.cell import ACTIVATIONS, PLAIN, Activation, CellSpec, parameter_shapes

EPS = float(np.finfo(np.float64).eps)


@dataclass
class Case:
    """One call: the spec, the sizes, and everything random that follows from them and the seed."""

    spec: CellSpec = PLAIN
    layers: int = 1
    bidirectional: bool = False
    sizes: tuple[int, int, int, int] = (4, 3, 2, 3)  # T, B, I, H
    lengths: bool = False
    reset: str = ""  # "", "zero" or "values"
    masks: tuple[str, ...] = ()  # of "input", "recurrent", "zoneout_c", "zoneout_h"
    seed: int = 0
    scale: float = 0.5  # of the parameters
    dtype: type = np.float64
    arrays: dict[str, np.ndarray] = field(init=False)  # what has a gradient: the parameters, x, h_0, c_0
    options: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        steps, batch, inputs, hidden = self.sizes
        outputs, directions = self.spec.proj_size or hidden, 1 + self.bidirectional
        runs = self.layers * directions

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal(shape).astype(self.dtype)

        self.arrays, masks = {}, {}
        for layer in range(self.layers):
            width = directions * outputs if layer else inputs
            if "input" in self.masks:
                masks[f"input_l{layer}"] = rng.binomial(1, 0.7, (steps, batch, width)) / 0.7
            for suffix in (f"_l{layer}", f"_l{layer}_reverse")[:directions]:
                for name, shape in parameter_shapes(self.spec, width, hidden).items():
                    centre = 1 if name.startswith("weight_ln") else 0
                    self.arrays[name + suffix] = centre + self.scale * normal(*shape)
                if "recurrent" in self.masks:
                    shape = (steps if self.spec.recurrent_dropout_mode == "step" else 1, batch, outputs)
                    masks["recurrent" + suffix] = rng.binomial(1, 0.7, shape) / 0.7
                for name, size in (("zoneout_c", hidden), ("zoneout_h", outputs)):
                    if name in self.masks:
                        masks[name + suffix] = rng.binomial(1, 0.4, (steps, batch, size))
        self.arrays |= {
            "x": normal(steps, batch, inputs),
            "h_0": normal(runs, batch, outputs),
            "c_0": normal(runs, batch, hidden),
        }
        self.dy = normal(steps, batch, directions * outputs)
        self.dstate = normal(runs, batch, outputs), normal(runs, batch, hidden)
        flags = rng.random((steps, batch)) < 0.4
        values = normal(runs, batch, outputs), normal(runs, batch, hidden)
        self.options = {
            "num_layers": self.layers,
            "bidirectional": self.bidirectional,
            "spec": self.spec,
            "lengths": rng.permutation(np.arange(batch) * steps // max(batch - 1, 1)) if self.lengths else None,
            "reset": {"": None, "zero": flags, "values": (flags, values)}[self.reset],
            "masks": masks,
        }

    @property
    def params(self) -> dict[str, np.ndarray]:
        return {name: value for name, value in self.arrays.items() if name not in ("x", "h_0", "c_0")}

    def forward(self) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray], reference.Tape]:
        state = self.arrays["h_0"], self.arrays["c_0"]
        return reference.forward(self.params, self.arrays["x"], state, **self.options)

    def gradients(self) -> dict[str, np.ndarray]:
        dx, (dh, dc), grads = reference.backward(self.forward()[2], self.dy, self.dstate)
        return grads | {"x": dx, "h_0": dh, "c_0": dc}

    def terms(self) -> np.ndarray:
        """The terms whose sum is the loss."""
        y, state, _ = self.forward()
        values = zip((y, *state), (self.dy, *self.dstate), strict=True)
        return np.concatenate([np.ravel(value * weight) for value, weight in values])


def difference(case: Case, name: str, direction: np.ndarray, step: float) -> float:
    """The loss's derivative along a direction by the central difference, summed term by term."""
    value = case.arrays[name]
    case.arrays[name] = value + step * direction
    after = case.terms()
    case.arrays[name] = value - step * direction
    before = case.terms()
    case.arrays[name] = value
    return float((after - before).sum() / (2 * step))


def check_gradients(case: Case, entrywise: bool) -> None:
    """Compare `backward` with finite differences, for each array by entry or along one random direction.

    The central difference D(s) is off by s^2 L''' / 6 from truncation, which is a third of D(2 s) - D(s), and by the rounding
    of the terms over s. A term that comes out of n additions and products is off by about n eps times its size, n being at
    most the steps times the layers times the number of products in one gate. The step eps^(1/3) balances the two.
    """
    grads = case.gradients()
    assert set(grads) == set(case.arrays)
    rng = np.random.default_rng(case.seed + 1)
    terms = abs(case.terms()).sum()
    operations = case.layers * case.sizes[0] * (sum(case.sizes[2:]) + case.sizes[3] + 10)
    for name, grad in grads.items():
        assert grad.shape == case.arrays[name].shape
        assert grad.dtype == case.dtype
        if entrywise:
            directions = np.eye(grad.size).reshape(-1, *grad.shape)
        else:
            directions = rng.standard_normal((1, *grad.shape))
        for direction in directions:
            step = EPS ** (1 / 3) / np.linalg.norm(direction)
            found, wider = difference(case, name, direction, step), difference(case, name, direction, 2 * step)
            tolerance = abs(wider - found) + operations * EPS * terms / step
            assert tolerance < 1e-5 * max(1, terms) * np.linalg.norm(direction), "the test would hold nothing"
            expected = (grad * direction).sum()
            assert abs(found - expected) <= tolerance, f"{name} {np.argwhere(direction)[0]}: {expected} is {found}"


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
def test_plain_gradients(layers: int, bidirectional: bool) -> None:
    check_gradients(Case(layers=layers, bidirectional=bidirectional, sizes=(3, 2, 2, 3)), entrywise=True)


PARAMETERS = {"affine": (0.6, 0.1), "scaled_tanh": (1.3, 0.7), "leaky_relu": (0.3,), "elu": (0.7,)}
PARAMETERS |= {"hard_sigmoid": (0.4, 0.45), "thresholded_relu": (0.1,)}


BOUNDED = ("sigmoid", "tanh", "hard_tanh", "softsign", "hard_sigmoid")


def kind(name: str) -> Activation:
    return Activation(name, *PARAMETERS.get(name, ()))


ALONE = {
    "no bias": {"bias": False},
    "projection": {"proj_size": 2},
    "diagonal": {"peephole": "diagonal"},
    "diagonal, previous": {"peephole": "diagonal", "output_peephole": "previous"},
    "diagonal, candidate": {"peephole": "diagonal", "candidate_peephole": True},
    "full": {"peephole": "full", "activations": ("sigmoid", "sigmoid", "tanh")},
    "full, new": {"peephole": "full", "output_peephole": "new"},
    "full, no candidate": {"peephole": "full", "candidate_peephole": False},
    "coupled": {"coupled": True},
    "coupled, diagonal": {"coupled": True, "peephole": "diagonal"},
    "coupled, full": {"coupled": True, "peephole": "full"},
    "clip": {"clip": 0.4},
    "clip, diagonal": {"clip": 0.6, "peephole": "diagonal"},
    "layer norm": {"layer_norm": True},
    "layer norm, no bias": {"layer_norm": True, "bias": False},
    "layer norm, coupled": {"layer_norm": True, "coupled": True},
    "zoneout at inference": {"zoneout": (0.4, 0.1)},
    "zoneout at inference, projection": {"zoneout": (0.0, 0.2), "proj_size": 1},
} | {name: {"activations": (kind(name),) * 3} for name in ACTIVATIONS}


@pytest.mark.parametrize("options", ALONE.values(), ids=ALONE)
def test_gradients_of_each_option(options: dict[str, Any]) -> None:
    check_gradients(Case(CellSpec(**options), seed=1), entrywise=True)


CALLS = {
    "lengths": {"lengths": True},
    "reset": {"reset": "zero"},
    "reset to values": {"reset": "values"},
    "reset and lengths": {"reset": "values", "lengths": True, "layers": 2},
    "input": {"masks": ("input",), "layers": 2},
    "recurrent, one mask": {"masks": ("recurrent",)},
    "recurrent, one a step": {"masks": ("recurrent",), "spec": CellSpec(recurrent_dropout_mode="step")},
    "zoneout": {"masks": ("zoneout_c", "zoneout_h")},
    "zoneout of c": {"masks": ("zoneout_c",), "spec": CellSpec(peephole="diagonal")},
    "all": {"masks": ("input", "recurrent", "zoneout_c", "zoneout_h"), "reset": "zero", "lengths": True, "layers": 2},
}


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS)
def test_gradients_of_each_kind_of_call(options: dict[str, Any]) -> None:
    check_gradients(Case(bidirectional=True, seed=2, **options), entrywise="layers" not in options)


def random_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)

    def flip(chance: float = 0.5) -> bool:
        return bool(rng.random() < chance)

    hidden = int(rng.integers(2, 6))
    peephole = str(rng.choice(["none", "diagonal", "full"]))
    peepholes = {"peephole": peephole}
    if peephole != "none":
        peepholes |= {"output_peephole": str(rng.choice(["new", "previous"])), "candidate_peephole": flip()}
    spec = CellSpec(
        bias=flip(0.8),
        proj_size=int(rng.integers(1, hidden)) if flip(0.3) else 0,
        activations=[kind(str(name)) for name in rng.choice(list(ACTIVATIONS), 3)],
        coupled=flip(0.3),
        clip=float(rng.uniform(0.3, 2)) if flip(0.3) else None,
        layer_norm=flip(0.3),
        zoneout=(float(rng.random()), float(rng.random())) if flip(0.3) else 0.0,
        recurrent_dropout_mode=str(rng.choice(["sequence", "step"])),
        **peepholes,
    )
    names = ("input", "recurrent", "zoneout_c", "zoneout_h")
    return Case(
        spec,
        layers=int(rng.integers(1, 4)),
        bidirectional=flip(),
        sizes=(int(rng.integers(1, 6)), int(rng.integers(1, 5)), int(rng.integers(1, 5)), hidden),
        lengths=flip(),
        reset=str(rng.choice(["", "zero", "values"])),
        masks=tuple(name for name in names if flip(0.3)),
        seed=seed,
        scale=0.5 if spec.activations[0].name in BOUNDED else 0.2,  # c = f * c_ + ... with an unbounded f explodes
    )


@pytest.mark.parametrize("seed", range(60))
def test_gradients_of_random_combinations(seed: int) -> None:
    check_gradients(random_case(seed), entrywise=False)
