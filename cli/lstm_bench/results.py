"""What a run leaves: raw samples with everything needed to judge them, as JSON that says what it is."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .cases import Case

SCHEMA = "lstm-bench"
VERSION = 1


class ResultError(ValueError):
    """A file that is no result of lstm-bench, or one that this version cannot read."""


@dataclass
class Measurement:
    """One engine on one case.

    `status` is ok, wrong, missing, unsupported, failed, crashed or hung; only ok has samples.
    """

    case: Case
    mode: str
    dtype: str
    threads: int
    engine: str
    status: str
    detail: str = ""
    median_s: float | None = None  # for people who read the file; everything else is computed from the rounds
    loops: int = 0
    rounds: dict[int, list[float]] = field(default_factory=dict)  # seconds a run
    warmup: list[float] = field(default_factory=list)
    prepare_s: float | None = None
    first_call_s: float | None = None
    latency: list[float] = field(default_factory=list)  # single steps of a stream
    peak_rss_bytes: int | None = None
    rss_before_bytes: int | None = None
    allocated_bytes: int | None = None
    deviation: dict[str, float | None] = field(default_factory=dict)
    settle_s: float = 0.0
    other_load: float | None = None  # cores kept busy by others meanwhile
    peak_gflops: dict[int, float] = field(default_factory=dict)  # the multiply-add peak in each round

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What was measured, whoever did it."""
        return self.case.name, self.mode, self.dtype, self.threads

    def to_json(self) -> dict[str, Any]:
        """The fields, the case as an object."""
        return {**asdict(self), "case": self.case.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Measurement:
        """The inverse of `to_json`; fields of later minor additions are ignored."""
        known = {f.name for f in fields(cls)}
        kept = {name: value for name, value in data.items() if name in known}
        kept["case"] = Case.from_json(kept["case"])
        for name, as_type in (("rounds", list), ("peak_gflops", float)):
            kept[name] = {int(number): as_type(value) for number, value in kept.get(name, {}).items()}
        return cls(**kept)


@dataclass
class EngineInfo:
    """An engine's version and what its start took, or why it is not there."""

    version: str = ""
    import_s: float | None = None
    status: str = "ok"
    detail: str = ""


@dataclass
class Limits:
    """What the machine can do at a thread count, by fastlstm's probes, in the same run."""

    threads: int
    dtype: str
    peak_gflops: float
    bandwidth_gbs: dict[int, float]  # by the size of the buffer that is read, in bytes

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Limits:
        """The inverse of `asdict`: JSON knows no integer keys."""
        return cls(**{**data, "bandwidth_gbs": {int(size): gbs for size, gbs in data["bandwidth_gbs"].items()}})


@dataclass
class Document:
    """A whole run."""

    created: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    subject: str
    engines: dict[str, EngineInfo] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    limits: list[Limits] = field(default_factory=list)
    cores: dict[int, list[int] | None] = field(default_factory=dict)  # that engines were pinned to, by thread count
    starts: dict[str, dict[str, float]] = field(default_factory=dict)  # seconds to an engine's first result
    complete: bool = False

    def limits_at(self, threads: int) -> Limits | None:
        """What the machine can do at this thread count, if it was measured."""
        return next((limits for limits in self.limits if limits.threads == threads), None)

    def groups(self) -> dict[tuple[str, str, str, int], dict[str, Measurement]]:
        """The measurements by what was measured, then by engine."""
        found: dict[tuple[str, str, str, int], dict[str, Measurement]] = {}
        for measurement in self.measurements:
            found.setdefault(measurement.key, {})[measurement.engine] = measurement
        return found

    def to_json(self) -> dict[str, Any]:
        """The document as JSON's own types, its schema first."""
        body = {f.name: getattr(self, f.name) for f in fields(self)}
        body["engines"] = {name: asdict(info) for name, info in self.engines.items()}
        body["measurements"] = [measurement.to_json() for measurement in self.measurements]
        body["limits"] = [asdict(limits) for limits in self.limits]
        return {"schema": SCHEMA, "version": VERSION, **body}


def save(document: Document, path: str | Path) -> None:
    """Write the file whole or not at all, so that an interrupt cannot leave half of one."""
    target = Path(path)
    partial = target.with_name(target.name + ".part")
    partial.write_text(json.dumps(document.to_json(), indent=1))
    os.replace(partial, target)


def load(path: str | Path) -> Document:
    """Read a result; ResultError says what is wrong with the file."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise ResultError(f'{path} is JSON, but not a result of lstm-bench: it has no "schema": "{SCHEMA}"')
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ResultError(f"{path} has version {version!r}; it should be a whole number from 1")
    if version > VERSION:
        raise ResultError(
            f"{path} has version {version} of the format, written by a newer lstm-bench; this one reads up to {VERSION}"
        )
    known = {f.name for f in fields(Document)}
    try:
        body = {name: value for name, value in data.items() if name in known}
        body["engines"] = {name: EngineInfo(**info) for name, info in body["engines"].items()}
        body["measurements"] = [Measurement.from_json(item) for item in body["measurements"]]
        body["cores"] = {int(threads): pinned for threads, pinned in body.get("cores", {}).items()}
        body["limits"] = [Limits.from_json(item) for item in body.get("limits", [])]
        return Document(**body)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ResultError(f"{path} is a result of lstm-bench with a part missing or misshapen: {error!r}") from None
