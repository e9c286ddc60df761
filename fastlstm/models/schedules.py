"""Learning-rate schedules: a rate for each step of an optimizer, by Keras's names and formulas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fastlstm import checks


class LearningRateSchedule:
    """The base of the schedules: called with the number of steps taken so far, it returns the rate."""

    fields: tuple[str, ...] = ()

    def __call__(self, step: int) -> float:
        """The rate after `step` steps."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the schedule anew."""
        return {name: getattr(self, name) for name in self.fields}


class ExponentialDecay(LearningRateSchedule):
    """initial_learning_rate * decay_rate ^ (step / decay_steps), the exponent rounded down if `staircase`."""

    fields = ("initial_learning_rate", "decay_steps", "decay_rate", "staircase")

    def __init__(
        self, initial_learning_rate: float, decay_steps: int, decay_rate: float, staircase: bool = False
    ) -> None:
        self.initial_learning_rate, self.decay_rate = float(initial_learning_rate), float(decay_rate)
        self.decay_steps, self.staircase = checks.size("decay_steps", decay_steps), checks.flag("staircase", staircase)

    def __call__(self, step: int) -> float:
        power = step / self.decay_steps
        return self.initial_learning_rate * self.decay_rate ** (math.floor(power) if self.staircase else power)


class CosineDecay(LearningRateSchedule):
    """Half a cosine from the initial rate to alpha times it within `decay_steps` (Loshchilov and Hutter 2016), after
    a linear rise.
    """

    fields = ("initial_learning_rate", "decay_steps", "alpha", "warmup_target", "warmup_steps")

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        alpha: float = 0.0,
        warmup_target: float | None = None,
        warmup_steps: int = 0,
    ) -> None:
        self.initial_learning_rate, self.alpha = float(initial_learning_rate), float(alpha)
        self.decay_steps, self.warmup_steps = (
            checks.size("decay_steps", decay_steps),
            checks.size("warmup_steps", warmup_steps, least=0),
        )
        self.warmup_target = None if warmup_target is None else float(warmup_target)

    def __call__(self, step: int) -> float:
        top = self.initial_learning_rate
        if self.warmup_target is not None:
            if step < self.warmup_steps:
                return top + (self.warmup_target - top) * step / self.warmup_steps
            top, step = self.warmup_target, step - self.warmup_steps
        wave = 0.5 * (1 + math.cos(math.pi * min(step, self.decay_steps) / self.decay_steps))
        return top * ((1 - self.alpha) * wave + self.alpha)


class PiecewiseConstantDecay(LearningRateSchedule):
    """values[0] up to and including the step boundaries[0], then values[1], and so on."""

    fields = ("boundaries", "values")

    def __init__(self, boundaries: Sequence[int], values: Sequence[float]) -> None:
        self.boundaries, self.values = [int(b) for b in boundaries], [float(v) for v in values]
        if len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"values must be one more than the {len(self.boundaries)} boundaries, but were {len(self.values)}"
            )

    def __call__(self, step: int) -> float:
        return self.values[sum(step > b for b in self.boundaries)]


SCHEDULES = {cls.__name__: cls for cls in (ExponentialDecay, CosineDecay, PiecewiseConstantDecay)}
