"""How honest the gate is: `lstm-bench check` on equal sides, and on sides of which one is slower by a known part.

    python benchmarks/false_alarms.py [--runs 20] [--slowdown 10] [--side equal|slowed] [--case NAME,...] [-o FILE]

Both sides are this code. For the second half this side's copy of fastlstm has a delay patched into its calls: after
each call of the layer or the stream it waits, busily, for the given part of the time that the call took. A run that
finds `slower` anywhere counts as an alarm; at most one in twenty may be false, and at least nineteen in twenty slow
sides must be found. A run of equal sides takes about a minute, one of slowed sides two, since `check` looks twice at
what it finds slower: the whole experiment with 20 runs a side takes an hour. Fewer cases leave fewer chances.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from lstm_bench import bench, cases, check, compare, engines, options
from lstm_bench.bench import Entrant, Settings
from lstm_bench.remote import own_path
from lstm_bench.results import Document

import fastlstm

PATCH = '''

def _slowed(call):
    """`call`, then a wait for a part of the time that it took."""
    import functools
    import time

    @functools.wraps(call)
    def slowed(*arguments, **options):
        start = time.perf_counter()
        result = call(*arguments, **options)
        end = time.perf_counter()
        until = end + {part} * (end - start)
        while time.perf_counter() < until:
            pass
        return result

    return slowed


for _kind, _names in ((LSTM, ("__call__", "forward", "backward")), (Stream, ("step",))):
    for _name in _names:
        setattr(_kind, _name, _slowed(getattr(_kind, _name)))
'''


def slowed_copy(folder: Path, percent: float) -> tuple[str, ...]:
    """A copy of this fastlstm whose calls take so much longer; the path to import it from."""
    package = folder / f"slower-{percent:g}" / "fastlstm"
    shutil.copytree(Path(fastlstm.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "__init__.py").open("a") as file:
        file.write(PATCH.format(part=percent / 100))
    return (str(package.parent), *own_path())


def one(settings: Settings, ours: tuple[str, ...], theirs: tuple[str, ...]) -> dict[str, Any]:
    """One check of `ours` against `theirs`: the verdicts, and how long it took."""
    start = time.perf_counter()
    sides = (Entrant(engines.SUBJECT, engines.SUBJECT, ours), Entrant(check.BEFORE, engines.SUBJECT, theirs))

    def execute(asked: Settings) -> Document:
        return bench.Run(asked).all()

    changes, documents = check.side_by_side(settings, sides, 0.05, execute)
    verdicts = {f"{c.case} {c.mode}": f"{c.verdict} ({c.detail})" if c.detail else c.verdict for c in changes}
    speeds = {f"{c.case} {c.mode}": c.speed.estimate for c in changes if c.speed is not None}
    return {"alarm": bool(compare.exit_code(changes)), "verdicts": verdicts, "speeds": speeds, "passes": len(documents),
            "seconds": time.perf_counter() - start}  # fmt: skip


def tally(runs: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How often each verdict was given."""
    said = [verdict.partition(" ")[0] for run in runs for verdict in run["verdicts"].values()]
    return {verdict: said.count(verdict) for verdict in compare.COLOURS}


@click.command()
@click.option("--runs", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--slowdown", type=click.FloatRange(min=1), default=10.0, show_default=True, help="Per cent.")
@click.option("--case", "picked", type=options.Parsed("name,...", lambda text: cases.named(text.split(","))))
@click.option("--side", type=click.Choice(["equal", "slowed"]), help="Only these runs.  [default: both, in turn]")
@options.threads
@click.option("-o", "--output", type=options.OUTPUT)
def main(
    runs: int, slowdown: float, picked: Any, side: str | None, threads: tuple[int, ...] | None, output: str | None
) -> None:
    """Count false alarms and missed slowdowns of `lstm-bench check`."""
    settings = Settings(picked or cases.tagged("quick"), ("inference", "training"), [], threads or (1,),
                        budget_s=check.BUDGET_S, min_rounds=check.MIN_ROUNDS, implied_stream=True)  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ([side] if side else ["equal", "slowed"])}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        plain = tuple(own_path())
        ours = {"equal": plain, "slowed": slowed_copy(Path(folder), slowdown)}
        for number in range(runs):
            for name in found:
                run = one(settings, ours[name], plain)
                found[name].append(run)
                click.echo(f"{number + 1:3} {name:6} {'ALARM' if run['alarm'] else 'quiet'} {run['seconds']:5.0f} s  "
                           + ", ".join(f"{key}: {v}" for key, v in run["verdicts"].items() if v != "same"))  # fmt: skip
            if output:
                Path(output).write_text(json.dumps({"slowdown_percent": slowdown, **found}, indent=1))
    for name, each in found.items():
        click.echo(f"{name}: {sum(run['alarm'] for run in each)} alarms in {len(each)} runs; verdicts {tally(each)}")
    alarms = {name: sum(run["alarm"] for run in each) for name, each in found.items()}
    sys.exit(int(alarms.get("equal", 0) > runs / 20 or alarms.get("slowed", runs) < runs * 19 / 20))


if __name__ == "__main__":
    main()
