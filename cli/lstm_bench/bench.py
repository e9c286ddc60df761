"""A run: engines started, checked, timed in turn, case after case; whatever fails leaves a named gap."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import machine, measure, roofline, verify
from .cases import Case
from .engines import SUBJECT
from .remote import EngineFailed, Remote
from .results import Document, EngineInfo, Limits, Measurement

BANDWIDTH_SIZES = tuple(1 << k for k in (16, 18, 20, 22, 24, 26))
EXPECTED = (1, 2, 4, 8, 16, 32, 64)  # threads for which `explain` asks the plan's model
PROBER = "multiply-add peak"  # a label among those of the engines
_LATENCY_S, _LATENCY_MOST = 0.5, 20_000
_PATIENCE = 2  # times as long as planned a race may take: a machine that others use can slow down without end
_WARMS_ITSELF_S = 0.05  # a run this long fills the caches in a small part of its time


class Entrant(NamedTuple):
    """An engine under a label, and what its process imports from (None: what this process does)."""

    label: str
    engine: str
    path: tuple[str, ...] | None = None


class Group(NamedTuple):
    """What is measured together: one case in one mode at one thread count."""

    case: Case
    mode: str
    threads: int


@dataclass(frozen=True)
class Settings:
    """What a run measures and how long it may take; the first entrant is the subject, unless another is named."""

    cases: Sequence[Case]
    modes: Sequence[str]
    entrants: Sequence[Entrant]
    threads: Sequence[int] = (1,)
    dtype: str = "float32"
    budget_s: float = 0.6  # of timing, an engine and group
    min_rounds: int = measure.MIN_ROUNDS
    limit_s: float = 120.0  # after which an engine is called hung
    seed: int = 0
    implied_stream: bool = False  # whether cases tagged "stream" are streamed without being asked
    subject: str = ""
    only: tuple[Group, ...] | None = None  # instead of every case in every mode

    def groups(self) -> list[Group]:
        """All groups, thread count by thread count."""
        if self.only is not None:
            return list(self.only)
        return [
            Group(case, mode, threads) for threads in self.threads for case in self.cases for mode in self._modes(case)
        ]

    def _modes(self, case: Case) -> list[str]:
        modes = list(self.modes)
        if self.implied_stream and "stream" in case.tags and "stream" not in modes:
            modes.append("stream")
        return [mode for mode in modes if case.supports(mode)]

    def to_json(self) -> dict[str, Any]:
        """What a result says of its settings."""
        return {"dtype": self.dtype, "threads": list(self.threads), "budget_s": self.budget_s, "seed": self.seed,
                "min_sample_s": measure.MIN_SAMPLE_S, "limit_s": self.limit_s}  # fmt: skip


@dataclass
class Hooks:
    """What the caller wants to hear of: what goes on, and each finished group."""

    doing: Callable[[str], None] = lambda text: None
    finished: Callable[[Group, Document], None] = lambda group, document: None


class Team:
    """The worker processes of one thread count; one that has died is started anew when it is next needed.

    The machine's limits are measured by fastlstm's probes in a process of their own: the buffers that they free change
    how the C library hands out memory later, which made training on the prober's side 1.4 times as fast.
    """

    def __init__(self, entrants: Sequence[Entrant], threads: int, limit_s: float) -> None:
        """Start all processes; they import their engines side by side."""
        self.entrants = {entrant.label: entrant for entrant in entrants}
        self._crew = {**self.entrants, PROBER: Entrant(PROBER, SUBJECT)}
        self.threads, self.limit_s = threads, limit_s
        self.remotes: dict[str, Remote] = {}
        self.abilities: dict[str, dict[str, Any]] = {}
        self.infos: dict[str, EngineInfo] = {}

    def start(self) -> None:
        """Wait until every process has imported its engine or has failed to."""
        for label in self._crew:
            self.remotes[label] = self._launch(label)
        for label, remote in self.remotes.items():
            self.infos[label] = self._greet(label, remote)

    def _launch(self, label: str) -> Remote:
        entrant = self._crew[label]
        remote = Remote(entrant.engine, self.threads, entrant.path)
        remote.tell("hello")
        return remote

    def _greet(self, label: str, remote: Remote) -> EngineInfo:
        try:
            hello = remote.answer(self.limit_s)
        except EngineFailed as failure:
            remote.stop(kill=True)
            return EngineInfo(status=failure.status, detail=failure.detail)
        self.abilities[label] = hello
        return EngineInfo(hello["version"], hello["import_s"])

    def ask(self, label: str, operation: str, **fields: Any) -> dict[str, Any]:
        """An engine's answer; EngineFailed leaves its process to be replaced."""
        remote = self.remotes[label]
        if not remote.alive:
            remote.stop()
            self.remotes[label] = remote = self._launch(label)
            info = self._greet(label, remote)
            if info.status != "ok":
                raise EngineFailed(info.status, info.detail)
        return remote.ask(operation, self.limit_s, **fields)

    def pids(self) -> list[int]:
        """The processes that answered."""
        return [ability["pid"] for ability in self.abilities.values()]

    def stop(self) -> None:
        """End them all."""
        for remote in self.remotes.values():
            remote.stop()


@contextmanager
def team(entrants: Sequence[Entrant], threads: int, limit_s: float) -> Iterator[Team]:
    """A team that is gone when the block is left, however it is left."""
    members = Team(entrants, threads, limit_s)
    try:
        members.start()
        yield members
    finally:
        members.stop()


@dataclass
class _Player:
    """An engine of the team, as the rounds see it."""

    members: Team
    measurement: Measurement

    def turn(self, loops: int, samples: int) -> list[float]:
        """One turn; the time that its threads took to come to rest is kept."""
        slow = self.measurement.warmup[-1] >= _WARMS_ITSELF_S
        answer = self.members.ask(self.measurement.engine, "turn", loops=loops, samples=samples, warm=not slow)
        self.measurement.settle_s = max(self.measurement.settle_s, answer["settle_s"])
        return list(answer["samples"])


@dataclass
class _PeakPlayer:
    """The machine itself: its multiply-add peak in each round, since a shared machine's speed comes and goes."""

    members: Team
    dtype: str

    def turn(self, loops: int, samples: int) -> list[float]:
        """One short timing, in GFLOP/s."""
        answer = self.members.ask(PROBER, "peak", dtype=self.dtype, threads=self.members.threads, probes=1)
        return [float(answer["gflops"])]


@dataclass
class _Field:
    """One group under way: the measurements of all engines, those still in the race and their calibrations."""

    group: Group
    measurements: dict[str, Measurement]
    racing: dict[str, measure.Calibration | None] = field(default_factory=dict)

    def out(self, label: str, error: Exception) -> None:
        """An engine leaves with the reason; the peak, where that fails, is just unknown."""
        if label not in self.measurements:
            return
        measurement = self.measurements[label]
        measurement.status, measurement.detail = (
            (error.status, error.detail) if isinstance(error, EngineFailed) else ("failed", repr(error))
        )
        self.racing.pop(label, None)


class Explanation(NamedTuple):
    """What fastlstm says of a case, and what was measured of it and of the machine."""

    plan: str
    expected_us: list[float]  # by the plan's model, for each of `EXPECTED` threads
    limits: Limits
    measurement: Measurement


class Run:
    """One run over all groups. `document` holds what is finished, at any time."""

    def __init__(self, settings: Settings, hooks: Hooks | None = None) -> None:
        """Nothing is started yet."""
        self.settings, self.hooks = settings, hooks or Hooks()
        self.reference = verify.Reference()
        self.document = Document(
            created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            machine=machine.describe(),
            settings={**settings.to_json(), "reference": self.reference.name},
            subject=settings.subject or settings.entrants[0].label,
        )

    def all(self) -> Document:
        """Measure everything."""
        groups = self.settings.groups()
        for threads in self.settings.threads:
            self.hooks.doing("starting engines")
            with team(self.settings.entrants, threads, self.settings.limit_s) as members:
                self.document.cores[threads] = machine.choose_cores(threads)
                for label in members.entrants:
                    self.document.engines.setdefault(label, members.infos[label])
                try:
                    self.document.limits.append(self.limits(members))
                except EngineFailed as failure:
                    self.document.settings["limits_missing"] = failure.detail
                for group in (g for g in groups if g.threads == threads):
                    self.document.measurements += self.group(members, group)
                    self.hooks.finished(group, self.document)
        self.document.complete = True
        return self.document

    def limits(self, members: Team, sizes: Sequence[int] = BANDWIDTH_SIZES) -> Limits:
        """Measure the peak, and the bandwidth over buffers of these sizes; EngineFailed where fastlstm cannot tell."""
        dtype, threads, probing = self.settings.dtype, members.threads, members.infos[PROBER]
        if probing.status != "ok":
            raise EngineFailed(probing.status, probing.detail)
        self.hooks.doing("measuring the machine's limits")
        peak = members.ask(PROBER, "peak", dtype=dtype, threads=threads)["gflops"]
        reads = (members.ask(PROBER, "bandwidth", nbytes=size, threads=threads)["gbs"] for size in sizes)
        return Limits(threads, dtype, peak, dict(zip(sizes, reads, strict=True)))

    def group(self, members: Team, group: Group) -> list[Measurement]:
        """Every entrant on one case."""
        case, mode, threads = group
        under_way = _Field(group, {
            label: Measurement(case, mode, self.settings.dtype, threads, label, "ok") for label in members.entrants
        })  # fmt: skip
        self._admit(members, under_way)
        self._load(members, under_way)
        self._check(members, under_way)
        self._calibrate(members, under_way)
        self._race(members, under_way)
        self._aftermath(members, under_way)
        return list(under_way.measurements.values())

    def _each(self, members: Team, under_way: _Field, doing: str, step: Callable[[str], None]) -> None:
        """Do a step for every engine that is still in the race; one that fails leaves it."""
        for label in list(under_way.racing):
            self.hooks.doing(f"{under_way.group.case.name} {under_way.group.mode}: {doing} {label}")
            try:
                step(label)
            except EngineFailed as failure:
                under_way.out(label, failure)

    def _admit(self, members: Team, under_way: _Field) -> None:
        """Those that are there and can do it."""
        for label, measurement in under_way.measurements.items():
            info, ability = members.infos[label], members.abilities.get(label)
            if ability is None:
                measurement.status, measurement.detail = info.status, info.detail
            elif measurement.mode not in ability["modes"]:
                measurement.status, measurement.detail = "unsupported", f"no {measurement.mode}"
            elif measurement.dtype not in ability["dtypes"]:
                measurement.status, measurement.detail = "unsupported", f"no {measurement.dtype}"
            else:
                under_way.racing[label] = None

    def task(self, group: Group) -> dict[str, Any]:
        """The group as a worker takes it."""
        return {
            "case": group.case.to_json(),
            "mode": group.mode,
            "dtype": self.settings.dtype,
            "seed": self.settings.seed,
        }

    def _load(self, members: Team, under_way: _Field) -> None:
        def load(label: str) -> None:
            answer = members.ask(label, "load", **self.task(under_way.group))
            measurement = under_way.measurements[label]
            measurement.prepare_s, measurement.first_call_s = answer["prepare_s"], answer["first_call_s"]

        self._each(members, under_way, "preparing", load)

    def _check(self, members: Team, under_way: _Field) -> None:
        """Hold results against the reference; a wrong one gets no time."""
        if not under_way.racing:
            return
        (case, mode, _), dtype = under_way.group, self.settings.dtype
        expected = self.reference.results(case, mode, dtype, self.settings.seed)
        short = case.shortened(verify.checked_steps(case)).to_json()
        with tempfile.TemporaryDirectory(prefix="lstm-bench-") as folder:
            path = str(Path(folder) / "results.npz")

            def check(label: str) -> None:
                members.ask(label, "results", path=path, case=short, prefix=verify.checked_prefix(case, mode))
                with np.load(path) as found:
                    verdict = verify.compare(dict(found), expected, dtype)
                under_way.measurements[label].deviation = {"y": verdict.y, "gradient": verdict.gradient}
                if verdict.wrong:
                    raise EngineFailed("wrong", verdict.wrong)

            self._each(members, under_way, "checking", check)

    def _calibrate(self, members: Team, under_way: _Field) -> None:
        def calibrate(label: str) -> None:
            calibration = measure.Calibration(**members.ask(label, "calibrate", min_sample_s=measure.MIN_SAMPLE_S))
            under_way.racing[label] = calibration
            measurement = under_way.measurements[label]
            measurement.warmup, measurement.loops = calibration.warmup, calibration.loops

        self._each(members, under_way, "calibrating", calibrate)

    def _race(self, members: Team, under_way: _Field) -> None:
        """The timing itself, with the peak measured beside it and an eye on the rest of the machine."""
        calibrations = {label: c for label, c in under_way.racing.items() if c is not None}
        plan = measure.shares(calibrations, self.settings.budget_s, self.settings.min_rounds)
        players: dict[str, measure.Player] = {label: _Player(members, under_way.measurements[label]) for label in plan}
        if plan and self.document.limits_at(under_way.group.threads) is not None:
            players[PROBER] = _PeakPlayer(members, self.settings.dtype)
            plan[PROBER] = measure.Share(max(share.rounds for share in plan.values()), 1, 1)
        self.hooks.doing(f"{under_way.group.case.name} {under_way.group.mode}: timing")
        seconds = _PATIENCE * measure.planned_s(calibrations, {label: plan[label] for label in calibrations}) + 1
        limit = measure.Limit(seconds, self.settings.min_rounds, time.perf_counter)
        before = machine.usage(members.pids())
        rounds = measure.play(players, plan, under_way.out, limit)
        load = machine.others_between(before, machine.usage(members.pids()))
        peak = {number: gflops for number, (gflops,) in rounds.pop(PROBER, {}).items()}
        limits = self.document.limits_at(under_way.group.threads)
        if limits is not None:  # a neighbour may have slowed the first probe: a limit is the most that was ever seen
            limits.peak_gflops = max([limits.peak_gflops, *peak.values()])
        for label, taken in rounds.items():
            measurement = under_way.measurements[label]
            measurement.rounds, measurement.other_load, measurement.peak_gflops = taken, load, peak
            measurement.median_s = float(np.median(np.concatenate([np.asarray(samples) for samples in taken.values()])))

    def _aftermath(self, members: Team, under_way: _Field) -> None:
        """Figures that would disturb the timing: memory, and the latency of single steps."""

        def measure_rest(label: str) -> None:
            measurement = under_way.measurements[label]
            for name, value in members.ask(label, "memory").items():
                setattr(measurement, name, value)
            if under_way.group.mode == "stream":
                answer = members.ask(label, "latency", seconds=_LATENCY_S, most=_LATENCY_MOST)
                measurement.latency = answer["samples"]
            members.ask(label, "unload")

        for label in list(under_way.racing):
            try:
                measure_rest(label)
            except EngineFailed as failure:
                under_way.measurements[label].detail = f"timed, then {failure}"


def explain(settings: Settings) -> Explanation:
    """Ask fastlstm for its plan of the one group in the settings, then time it; EngineFailed if it gives none."""
    (group,), under_way = settings.groups(), Run(settings)
    with team(settings.entrants, group.threads, settings.limit_s) as members:
        (label,) = members.entrants
        told = members.ask(label, "explain", threads=EXPECTED, **under_way.task(group))
        limits = under_way.limits(members, (roofline.recurrent_bytes(group.case, settings.dtype) // group.threads,))
        under_way.document.limits.append(limits)
        return Explanation(told["text"], told["expected"], limits, under_way.group(members, group)[0])
