"""Optimizers: SGD, Adam, AdamW, RMSprop with Keras's formulas and defaults, each one pass over all parameters of a
model at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.clipping import square_sum
from fastlstm.models import kernels, keywords, schedules
from fastlstm.models.schedules import LearningRateSchedule

Segments = list[slice]


def _number(name: str, value: Any, least: float = 0.0) -> float:
    checks.real(name, value)
    if not (value >= least and math.isfinite(value)):
        raise ValueError(f"{name} must be a finite number of at least {least:g}, but was {value!r}")
    return float(value)


class Optimizer:
    """The base of the optimizers.

    Parameters
    ----------
    learning_rate
        A number over 0, or a schedule.
    clipnorm
        Greatest norm of the gradient of each variable.
    clipvalue
        Greatest magnitude of each element of a gradient.
    global_clipnorm
        Greatest norm of the gradient of all variables together.
    **others
        Further arguments of Keras's optimizers, as long as they change nothing.

    Attributes
    ----------
    iterations : int
        Steps taken.
    """

    fields: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()  # names of the arrays that are kept from step to step

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        name: str | None = None,
        **others: Any,
    ) -> None:
        keywords.settle(type(self).__name__, others)
        self.name = name or type(self).__name__.lower()
        if not isinstance(learning_rate, LearningRateSchedule):
            learning_rate = _number("learning_rate", learning_rate)
        self.learning_rate = learning_rate
        given = {"clipnorm": clipnorm, "clipvalue": clipvalue, "global_clipnorm": global_clipnorm}
        if sum(value is not None for value in given.values()) > 1:
            raise ValueError(
                f"of clipnorm, clipvalue and global_clipnorm one at the most may be given, but they were {given}"
            )
        self.clipnorm, self.clipvalue, self.global_clipnorm = (
            None if value is None else _number(name, value) for name, value in given.items()
        )
        self.iterations = 0
        self.kept: dict[str, np.ndarray] = {}

    @property
    def rate(self) -> float:
        """The learning rate of the next step."""
        return (
            self.learning_rate(self.iterations)
            if isinstance(self.learning_rate, LearningRateSchedule)
            else self.learning_rate
        )

    def build(self, size: int, dtype: np.dtype) -> None:
        """Make the kept arrays for so many parameters, unless they are there."""
        sizes = {name: size if self._used(name) else 0 for name in self.slots}
        if any(
            name not in self.kept or self.kept[name].size != n or self.kept[name].dtype != dtype
            for name, n in sizes.items()
        ):
            self.kept = {name: np.zeros(n, dtype) for name, n in sizes.items()}

    def _used(self, slot: str) -> bool:
        return True

    def apply(self, p: np.ndarray, g: np.ndarray, segments: Segments) -> None:
        """One step of the parameters p along the gradients g, both flat; `segments` are the variables in them. g is
        clipped in place.
        """
        self._clip(g, segments)
        self._step(p, g, p.dtype.type)
        self.iterations += 1

    def _clip(self, g: np.ndarray, segments: Segments) -> None:
        if self.clipvalue:
            np.clip(g, -self.clipvalue, self.clipvalue, out=g)
        limit = self.clipnorm or self.global_clipnorm
        if limit:
            for part in segments if self.clipnorm else [slice(None)]:
                norm = math.sqrt(square_sum(g[part]))
                if norm > limit:
                    g[part] *= g.dtype.type(limit / norm)

    def _step(self, p: np.ndarray, g: np.ndarray, cast: type) -> None:
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The arguments that make the optimizer anew."""
        rate: Any = self.learning_rate
        if isinstance(rate, LearningRateSchedule):
            rate = {"schedule": type(rate).__name__, "config": rate.get_config()}
        clips = {"clipnorm": self.clipnorm, "clipvalue": self.clipvalue, "global_clipnorm": self.global_clipnorm}
        return {"learning_rate": rate} | {name: getattr(self, name) for name in self.fields} | clips


class SGD(Optimizer):
    """Gradient descent with momentum, and Nesterov's form of it (Sutskever et al. 2013)."""

    fields = ("momentum", "nesterov")
    slots = ("momentum",)

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.01,
        momentum: float = 0.0,
        nesterov: bool = False,
        **clips: Any,
    ) -> None:
        super().__init__(learning_rate, **clips)
        self.momentum, self.nesterov = checks.rate("momentum", momentum), checks.flag("nesterov", nesterov)

    def _used(self, slot: str) -> bool:
        return self.momentum != 0

    def _step(self, p: np.ndarray, g: np.ndarray, cast: type) -> None:
        if self.momentum:
            kernels.compiled(kernels.sgd_momentum)(
                p, g, self.kept["momentum"], cast(self.rate), cast(self.momentum), self.nesterov
            )
        else:
            kernels.compiled(kernels.sgd)(p, g, cast(self.rate))


class Adam(Optimizer):
    """Steps scaled by running means of the gradient and of its square (Kingma and Ba 2015); AMSGrad by Reddi et al.
    2018.
    """

    fields: tuple[str, ...] = ("beta_1", "beta_2", "epsilon", "amsgrad")
    slots = ("m", "v", "greatest")
    weight_decay = 0.0

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **clips: Any,
    ) -> None:
        super().__init__(learning_rate, **clips)
        self.beta_1, self.beta_2 = checks.rate("beta_1", beta_1), checks.rate("beta_2", beta_2)
        self.epsilon, self.amsgrad = _number("epsilon", epsilon), checks.flag("amsgrad", amsgrad)

    def _used(self, slot: str) -> bool:
        return slot != "greatest" or self.amsgrad

    def _step(self, p: np.ndarray, g: np.ndarray, cast: type) -> None:
        t, rate = self.iterations + 1, self.rate
        alpha = rate * math.sqrt(1 - self.beta_2**t) / (1 - self.beta_1**t)
        rest = (
            cast(alpha),
            cast(1 - self.beta_1),
            cast(1 - self.beta_2),
            cast(self.epsilon),
            cast(1 - rate * self.weight_decay),
        )
        kept = self.kept
        if self.amsgrad:
            kernels.compiled(kernels.adam_amsgrad)(p, g, kept["m"], kept["v"], kept["greatest"], *rest)
        else:
            kernels.compiled(kernels.adam)(p, g, kept["m"], kept["v"], *rest)


class AdamW(Adam):
    """Adam whose parameters decay by themselves (Loshchilov and Hutter 2019)."""

    fields = ("weight_decay", *Adam.fields)

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        weight_decay: float = 0.004,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        **clips: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, **clips)
        self.weight_decay = _number("weight_decay", weight_decay)


class RMSprop(Optimizer):
    """Steps divided by the root of a running mean of the gradient's square (Hinton 2012)."""

    fields = ("rho", "momentum", "epsilon", "centered")
    slots = ("v", "mean", "momentum")

    def __init__(
        self,
        learning_rate: float | LearningRateSchedule = 0.001,
        rho: float = 0.9,
        momentum: float = 0.0,
        epsilon: float = 1e-7,
        centered: bool = False,
        **clips: Any,
    ) -> None:
        super().__init__(learning_rate, **clips)
        self.rho, self.momentum = checks.rate("rho", rho), checks.rate("momentum", momentum)
        self.epsilon, self.centered = _number("epsilon", epsilon), checks.flag("centered", centered)

    def _used(self, slot: str) -> bool:
        return {"v": True, "mean": self.centered, "momentum": self.momentum != 0}[slot]

    def _step(self, p: np.ndarray, g: np.ndarray, cast: type) -> None:
        kept = self.kept
        numbers = (cast(self.rate), cast(self.rho), cast(1 - self.rho), cast(self.momentum), cast(self.epsilon))
        kernels.compiled(kernels.rmsprop)(p, g, kept["v"], kept["mean"], kept["momentum"], *numbers)


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def get(optimizer: object) -> Optimizer:
    """An optimizer from its name, or the optimizer itself."""
    if isinstance(optimizer, Optimizer):
        return optimizer
    if isinstance(optimizer, str) and optimizer.lower() in OPTIMIZERS:
        return OPTIMIZERS[optimizer.lower()]()
    raise ValueError(
        f"optimizer must be an Optimizer or one of {', '.join(map(repr, OPTIMIZERS))}, but was {optimizer!r}"
    )


def from_config(name: str, config: dict[str, Any]) -> Optimizer:
    """The optimizer that `get_config` described."""
    rate = config["learning_rate"]
    if isinstance(rate, dict):
        rate = schedules.SCHEDULES[rate["schedule"]](**rate["config"])
    made = {"SGD": SGD, "Adam": Adam, "AdamW": AdamW, "RMSprop": RMSprop}[name]
    return made(**config | {"learning_rate": rate})
