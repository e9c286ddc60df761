"""How a time is taken: loops calibrated to a minimum duration, engines in turn, round after round.

Nothing here knows what it times or which clock it reads, so that the tests run it on fakes.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import repeat
from typing import NamedTuple, Protocol

Timer = Callable[[], float]

MIN_SAMPLE_S = 0.002  # 10^4 times the clock's own cost; short enough that most samples see no preemption
# A neighbour on the same host slows a virtual machine for 20 to 100 ms at a time, and /proc/stat does not show it.
# Turns shorter than that, and many of them, leave most rounds untouched; with 12 longer rounds ratios strayed by 30 %.
MAX_ROUNDS = 40
MIN_ROUNDS = 3
SAMPLES_A_TURN = 5


class Calibration(NamedTuple):
    """How often a run is repeated for one sample, and what the warm-up that found it out took."""

    loops: int
    seconds: float  # of one run, from the last and longest trial
    warmup: list[float]  # seconds a run in each trial, in order


class Share(NamedTuple):
    """What one engine does in a group: `samples` in each of `rounds` turns, `loops` runs in each sample."""

    rounds: int
    samples: int
    loops: int


@dataclass
class Limit:
    """When a race has taken too long, and how many rounds each engine gets even so."""

    seconds: float
    rounds: int
    timer: Timer
    start: float = field(init=False)

    def __post_init__(self) -> None:
        """The time runs from now."""
        self.start = self.timer()

    def passed(self) -> bool:
        """Whether it is over."""
        return self.timer() - self.start > self.seconds


class Player(Protocol):
    """An engine as the rounds see it."""

    def turn(self, loops: int, samples: int) -> list[float]:
        """Take this many samples, each the mean seconds of `loops` runs."""


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector waits until the samples are taken (and is not run here: 0.1 s a turn beside torch or jax)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def sample(run: Callable[[], object], loops: int, timer: Timer) -> float:
    """The mean seconds of one of `loops` runs."""
    start = timer()
    for _ in repeat(None, loops):
        run()
    return (timer() - start) / loops


def calibrate(run: Callable[[], object], timer: Timer, min_sample_s: float = MIN_SAMPLE_S) -> Calibration:
    """Double the loops until a sample lasts `min_sample_s`; at least two trials, since the first one warms up."""
    loops, warmup = 1, []
    with _no_collection():
        while True:
            seconds = sample(run, loops, timer)
            warmup.append(seconds)
            if seconds * loops >= min_sample_s and (len(warmup) > 1 or seconds >= 0.5):
                return Calibration(loops, seconds, warmup)
            wanted = math.ceil(min_sample_s / seconds) if seconds > 0 else 2 * loops
            loops = max(loops, min(2 * loops, wanted))


def turn(run: Callable[[], object], loops: int, samples: int, timer: Timer, warm: bool = True) -> list[float]:
    """`samples` samples after one that is thrown away, because another engine had the caches before."""
    with _no_collection():
        if warm:
            sample(run, loops, timer)
        return [sample(run, loops, timer) for _ in range(samples)]


def shares(calibrations: Mapping[str, Calibration], budget_s: float, min_rounds: int = MIN_ROUNDS) -> dict[str, Share]:
    """Cut a budget of seconds an engine into rounds and samples; slow engines sit out some rounds, but not too many."""
    cut = {}
    for name, (loops, seconds, _) in calibrations.items():
        turn_s = loops * seconds
        rounds = max(min_rounds, min(MAX_ROUNDS, int(budget_s / turn_s)))
        samples = max(1, min(SAMPLES_A_TURN, int(budget_s / (rounds * turn_s))))
        cut[name] = Share(rounds, samples, loops)
    return cut


def takes_part(share: Share, number: int, rounds: int) -> bool:
    """Whether an engine plays in round `number` of `rounds`: its own rounds lie evenly among all."""
    return (number + 1) * share.rounds // rounds > number * share.rounds // rounds


def in_order(names: Sequence[str], number: int) -> list[str]:
    """Who plays when in round `number`; of three: A B C, B C A, C A B, then the same of C B A.

    An engine finds the caches, and the processor's clock, as the one before it left them. So over `2 n` rounds of n
    engines each begins equally often, and within rounds follows each other one equally often (Williams 1949).
    """
    n = len(names)
    names = names[::-1] if number // n % 2 else names
    return [names[(number + (-1) ** (k + 1) * ((k + 1) // 2)) % n] for k in range(n)]


def planned_s(calibrations: Mapping[str, Calibration], plan: Mapping[str, Share]) -> float:
    """How long all turns take together if runs are as fast as when they were calibrated, warm-up samples included."""
    return sum(
        plan[name].rounds * (plan[name].samples + 1) * plan[name].loops * calibrations[name].seconds for name in plan
    )


def play(
    players: Mapping[str, Player],
    plan: Mapping[str, Share],
    failed: Callable[[str, Exception], None],
    limit: Limit | None = None,
) -> dict[str, dict[int, list[float]]]:
    """Rounds in turn: for each engine the samples of each round that it took part in.

    An engine whose turn raises is reported to `failed` and left out of all that follows. Past the limit, all play on
    together, and only until each has had the least rounds.
    """
    taken: dict[str, dict[int, list[float]]] = {name: {} for name in players}
    rounds = max((plan[name].rounds for name in players), default=0)
    for number in range(rounds):
        late = limit is not None and limit.passed()
        if (
            late
            and limit is not None
            and all(len(each) >= min(limit.rounds, plan[name].rounds) for name, each in taken.items())
        ):
            break
        for name in in_order(list(players), number):
            if name not in taken or not (late or takes_part(plan[name], number, rounds)):
                continue
            try:
                taken[name][number] = players[name].turn(plan[name].loops, plan[name].samples)
            except Exception as error:  # an engine may fail in any way; the others go on
                del taken[name]
                failed(name, error)
    return taken
