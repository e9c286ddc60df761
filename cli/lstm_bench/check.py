"""The gate: this code against a git revision, a wheel or a release, side by side, or against a saved result."""

from __future__ import annotations

import importlib.util
import re
import site
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from . import bench, compare, results
from .engines import SUBJECT
from .results import Document

BEFORE = "before"
BUDGET_S, MIN_ROUNDS = 0.8, 10  # of timing, a side and case
_PASSES = 3
_VOTES = 2


class CheckError(ValueError):
    """A reference that cannot be found or built; the message says why."""


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        raise CheckError("git is not installed, so that --against can take a JSON file or a wheel only") from None


def requirement(reference: str, folder: Path) -> str:
    """What pip is to install: a wheel, a release `fastlstm==...`, or the files of a revision, put in `folder`."""
    if reference.endswith(".whl"):
        if not Path(reference).is_file():
            raise CheckError(f"{reference} is no file")
        return str(Path(reference).resolve())
    if re.fullmatch(rf"{SUBJECT}==[\w.+!-]+", reference):
        return reference
    commit = _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{reference}^{{commit}}")
    if commit.returncode:
        raise CheckError(
            f"{reference!r} is neither a JSON or wheel file, nor {SUBJECT}==VERSION, nor a git revision here"
        )
    top = _git("rev-parse", "--show-toplevel").stdout.decode().strip()
    archive = _git("-C", top, "archive", "--format=tar", commit.stdout.decode().strip())
    source = folder / "source"
    source.mkdir()
    unpacked = subprocess.run(["tar", "-x", "-C", str(source)], input=archive.stdout, capture_output=True, check=False)
    if archive.returncode or unpacked.returncode:
        raise CheckError(
            f"git could not write out {reference!r}: {(archive.stderr or unpacked.stderr).decode().strip()}"
        )
    return str(source)


def _reason(said: str) -> str:
    """The line of pip's output that names the fault."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "pip gave no reason")


@contextmanager
def built(reference: str, dependencies: bool = False) -> Iterator[tuple[str, ...]]:
    """Install a reference into a folder of its own; gives the path to import it from.

    Numba and NumPy are shared with this side, since it is fastlstm's code that is compared; with `dependencies` the
    reference brings its own.
    """
    with tempfile.TemporaryDirectory(prefix="lstm-bench-", ignore_cleanup_errors=True) as folder:
        target = Path(folder) / "site"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--target",
            str(target),
        ]
        command += [] if dependencies else ["--no-deps"]
        command += ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
        done = subprocess.run(
            [*command, requirement(reference, Path(folder))], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise CheckError(f"{reference!r} could not be installed: {_reason(done.stderr)}")
        yield (str(target), *site.getsitepackages(), site.getusersitepackages())


def votes(passes: Sequence[dict[tuple[str, str, int], compare.Change]]) -> list[compare.Change]:
    """The verdicts of several passes as one: `slower` takes two passes in fresh processes that say so.

    One pass cannot tell a slower kernel from a process that was unlucky with its memory. A case that only one pass
    calls slower is undecided; all else is what the last pass that saw it says.
    """
    final = []
    for key in passes[0]:
        seen = [each[key] for each in passes if key in each]
        bad = [change for change in seen if change.verdict in compare.BAD]
        if len(bad) >= _VOTES:
            final.append(bad[-1])
        elif bad:
            final.append(seen[-1]._replace(verdict="undecided", detail="slower in one pass only"))
        else:
            final.append(seen[-1])
    return final


def needs_another(key: tuple[str, str, int], passes: Sequence[dict[tuple[str, str, int], compare.Change]]) -> bool:
    """Whether a case is still open: slower once, or undecided so far."""
    seen = [each[key].verdict for each in passes if key in each]
    bad = sum(verdict in compare.BAD for verdict in seen)
    return bad == 1 or (bad == 0 and len(seen) == 1 and seen[0] == "undecided")


def side_by_side(
    settings: bench.Settings,
    sides: tuple[bench.Entrant, bench.Entrant],
    effect: float,
    execute: Callable[[bench.Settings], Document],
) -> tuple[list[compare.Change], list[Document]]:
    """Run this side and the one before in up to three passes; later ones, in new processes, over what is open."""
    passes: list[dict[tuple[str, str, int], compare.Change]] = []
    documents = []
    groups = settings.groups()
    for number in range(_PASSES):
        order = sides if number % 2 == 0 else sides[::-1]  # whoever starts first may get the better memory
        document = execute(replace(settings, entrants=order, subject=sides[0].label, only=tuple(groups)))
        documents.append(document)
        changes = compare.sides(document, sides[1].label, effect)
        passes.append({(c.case, c.mode, c.threads): c for c in changes})
        groups = [
            g for g in groups if (k := (g.case.name, g.mode, g.threads)) in passes[0] and needs_another(k, passes)
        ]
        if not groups or not document.complete:
            break
    return votes(passes), documents


def settings_of(saved: Document, settings: bench.Settings) -> bench.Settings:
    """The same cases, modes, dtype and thread counts as a saved result has times for."""
    timed = [m for m in saved.measurements if m.engine == saved.subject and m.status == "ok"]
    if not timed:
        raise CheckError(f"the saved result has no time of {saved.subject}")
    groups = tuple(bench.Group(m.case, m.mode, m.threads) for m in timed)
    return replace(settings, dtype=timed[0].dtype, threads=tuple(dict.fromkeys(g.threads for g in groups)), only=groups)


def load(path: str) -> Document:
    """The saved result; raises CheckError where it cannot be used."""
    try:
        return results.load(path)
    except results.ResultError as error:
        raise CheckError(str(error)) from None
