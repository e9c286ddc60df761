"""Random calls of the reference: a spec, sizes, and everything that follows from them and a seed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastlstm import reference
from fastlstm.cell import ACTIVATIONS, PLAIN, Activation, CellSpec, parameter_shapes

PARAMETERS = {"affine": (0.6, 0.1), "scaled_tanh": (1.3, 0.7), "leaky_relu": (0.3,), "elu": (0.7,)}
PARAMETERS |= {"hard_sigmoid": (0.4, 0.45), "thresholded_relu": (0.1,)}


BOUNDED = ("sigmoid", "tanh", "hard_tanh", "softsign", "hard_sigmoid")


def kind(name: str) -> Activation:
    return Activation(name, *PARAMETERS.get(name, ()))


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

    def rounding(self) -> float:
        """How far a value of about 1 may be off: one eps for each of the n additions and products on the way to it.

        n is at most the steps times the layers times the products of one gate. Layer normalisation divides by
        deviations, some of which are about 0.1 here.
        """
        operations = self.layers * self.sizes[0] * (sum(self.sizes[2:]) + self.sizes[3] + 10)
        return operations * (10 if self.spec.layer_norm else 1) * float(np.finfo(self.dtype).eps)

    def terms(self) -> np.ndarray:
        """The terms whose sum is the loss."""
        y, state, _ = self.forward()
        values = zip((y, *state), (self.dy, *self.dstate), strict=True)
        return np.concatenate([np.ravel(value * weight) for value, weight in values])


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
