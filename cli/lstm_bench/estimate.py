"""How long a run will take, said before it starts: what engines of a kind were seen to cost, not a promise."""

from __future__ import annotations

from typing import NamedTuple

from . import measure
from .bench import Group, Settings


class Habits(NamedTuple):
    """What an engine costs: to start, to prepare a case, and how fast it then is at worst."""

    start_s: float = 3.0
    prepare_s: float = 0.2
    gflops: float = 20.0  # one thread
    step_us: float = 20.0
    trains: bool = True


_HABITS = {
    "fastlstm": Habits(4.0, 0.2, 60, 2),
    "numpy": Habits(0.3, 0.02, 25, 60),
    "torch": Habits(4.0, 0.05, 40, 15),
    "onnxruntime": Habits(0.5, 0.1, 40, 10, trains=False),
    "openvino": Habits(0.7, 0.3, 40, 10, trains=False),
    "jax": Habits(1.5, 1.2, 20, 15),
    "keras": Habits(6.0, 2.0, 15, 100),
}
_CHECK_S = 0.2


def group_seconds(settings: Settings, group: Group) -> float:
    """The seconds that one group will take."""
    total = 0.0
    for entrant in settings.entrants:
        habits = _HABITS.get(entrant.engine, Habits())
        if group.mode == "training" and not habits.trains:
            continue
        case, mode, threads = group
        run_s = case.flops(mode) / (habits.gflops * threads**0.7 * 1e9) + case.steps(mode) * habits.step_us * 1e-6
        sample_s = max(run_s, measure.MIN_SAMPLE_S)
        timing_s = max(settings.budget_s, settings.min_rounds * sample_s)
        warm_s = 0 if run_s >= 0.05 else measure.MAX_ROUNDS * sample_s
        total += habits.prepare_s + _CHECK_S + timing_s + warm_s + 3 * run_s + (0.6 if mode == "stream" else 0)
    return total


def seconds(settings: Settings) -> float:
    """The seconds that a whole run will take."""
    start = max(_HABITS.get(entrant.engine, Habits()).start_s for entrant in settings.entrants)
    return start * len(settings.threads) + sum(group_seconds(settings, group) for group in settings.groups())


def spoken(seconds_: float) -> str:
    """A duration as one says it."""
    return f"about {max(5, round(seconds_ / 5) * 5)} s" if seconds_ < 100 else f"about {round(seconds_ / 60)} min"
