"""What the commands do, once their options are understood."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from . import bench, caveats, engines, estimate, machine, results, summary, table
from .cases import Case
from .progress import Progress
from .remote import EngineFailed, Remote
from .results import Document

INTERRUPTED = 130
_BUDGET_S = {True: 0.4, False: 0.8}  # by whether only the quick set runs


def _entrants(subject: str, rivals: Sequence[str]) -> list[bench.Entrant]:
    """The subject, NumPy, and the rivals asked for, each once."""
    return [bench.Entrant(name, name) for name in dict.fromkeys((subject, engines.ALWAYS, *rivals))]


def run(cases: Sequence[Case], modes: Sequence[str], dtype: str, rivals: Sequence[str], subject: Sequence[str],
        threads: tuple[int, ...] | None, budget: float | None, time_limit: float, json_file: str | None,
        markdown: bool) -> int:  # fmt: skip
    """Time the cases, print the table; the exit code."""
    quick = all("quick" in case.tags for case in cases)
    settings = bench.Settings(
        cases=cases, modes=modes or ("inference", "training"), implied_stream=not modes, dtype=dtype,
        entrants=_entrants(subject[0], rivals), threads=threads or (machine.cores(),), limit_s=time_limit,
        budget_s=budget or _BUDGET_S[quick])  # fmt: skip
    if not settings.groups():
        raise click.UsageError("nothing to measure: a bidirectional case cannot be streamed")
    document, complete = execute(settings, json_file)
    show(document, markdown)
    if json_file and document.measurements:
        click.echo(f"\nAll samples are in {json_file}.")
    return 0 if complete else INTERRUPTED


def execute(settings: bench.Settings, json_file: str | None) -> tuple[Document, bool]:
    """Run with a progress bar, keeping the JSON up to date; whether it ran to its end."""
    groups = settings.groups()
    labels = ", ".join(entrant.label for entrant in settings.entrants)
    click.echo(f"{len(groups)} rows with {labels}: {estimate.spoken(estimate.seconds(settings))}.", err=True)
    with Progress(estimate.seconds(settings), len(groups)) as progress:

        def finished(group: bench.Group, document: Document) -> None:
            progress.finished(f"{group.case.name} {group.mode}", estimate.group_seconds(settings, group))
            if json_file:
                results.save(document, json_file)

        under_way = bench.Run(settings, bench.Hooks(progress.doing, finished))
        try:
            under_way.all()
        except KeyboardInterrupt:
            progress.doing("interrupted")
    document = under_way.document
    if json_file:
        results.save(document, json_file)
    if not document.complete:
        click.echo(f"\nInterrupted: {len(document.groups())} of {len(groups)} rows are done.", err=True)
    return document, document.complete


def _about(document: Document) -> str:
    """The machine and the engines, in two lines."""
    told = document.machine
    versions = [f"{label} {info.version}" for label, info in document.engines.items() if info.status == "ok"]
    return f"{told['cpu']}, {told['cores']} cores, {told['system']}\n{'; '.join(versions)}"


def show(document: Document, as_markdown: bool = False) -> None:
    """Print a result: where it was taken, the table, what it comes to, and what to be careful with."""
    if not document.measurements:
        return
    click.echo(_about(document))
    columns, rows = summary.table(document)
    click.echo("\n" + (table.markdown(columns, rows) if as_markdown else table.plain(columns, rows)) + "\n")
    for limits in document.limits:
        click.echo(f"100 % of peak: {limits.peak_gflops:.0f} GFLOP/s, multiply-adds in registers, {limits.dtype}, "
                   f"{limits.threads} thread{'s' * (limits.threads > 1)}, measured in this run.")  # fmt: skip
    if missing := document.settings.get("limits_missing"):
        click.echo(f"The machine's peak is unknown: {missing}")
    for line in summary.means(document):
        click.echo(line[0].upper() + line[1:] + ".")
    for line in caveats.gaps(document):
        click.echo(click.style("gap      ", fg="yellow") + line)
    for line in caveats.warnings(document):
        click.echo(click.style("warning  ", fg="yellow") + line)


def _ask_once(engine: str, *questions: tuple[str, dict[str, Any]], threads: int = 1) -> list[dict[str, Any]]:
    """Start an engine, ask it some questions, end it."""
    remote = Remote(engine, threads)
    try:
        return [remote.ask(operation, 120.0, **fields) for operation, fields in questions]
    finally:
        remote.stop()


def info(as_json: bool) -> int:
    """Print the machine, the engines and the measured limits."""
    facts: dict[str, Any] = {"machine": machine.describe(), "engines": {}, "limits": {}}
    for name in engines.names():
        try:
            facts["engines"][name] = _ask_once(name, ("hello", {}))[0]["version"]
        except EngineFailed as failure:
            facts["engines"][name] = failure.detail
    try:
        facts["target"] = _ask_once(engines.SUBJECT, ("target", {}))[0]
        for threads in dict.fromkeys((1, machine.cores())):
            facts["limits"][threads] = _limits(threads)
    except EngineFailed as failure:
        facts["limits_missing"] = failure.detail
    click.echo(json.dumps(facts, indent=1) if as_json else _info_text(facts))
    return 0


def _limits(threads: int) -> dict[str, Any]:
    questions = [("peak", {"dtype": dtype, "threads": threads}) for dtype in ("float32", "float64")]
    questions += [("bandwidth", {"nbytes": size, "threads": threads}) for size in bench.BANDWIDTH_SIZES]
    answers = _ask_once(engines.SUBJECT, *questions, threads=threads)
    reads = (answer["gbs"] for answer in answers[2:])
    return {
        "peak_gflops": {"float32": answers[0]["gflops"], "float64": answers[1]["gflops"]},
        "bandwidth_gbs": dict(zip(bench.BANDWIDTH_SIZES, reads, strict=True)),
    }


def _info_text(facts: dict[str, Any]) -> str:
    told = facts["machine"]
    caches = ", ".join(f"{level} {size}" for level, size in told["caches"].items())
    lines = [f"machine   {told['cpu']}, {told['cores']} cores, {told['memory_gib']} GiB, {told['system']}",
             f"caches    {caches or 'unknown'}", f"python    {told['python']}"]  # fmt: skip
    if "target" in facts:
        t = facts["target"]
        lines += [f"target    {t['name']} ({t['cpu']}): {t['bits']} bits, {t['registers']} registers, "
                  f"{t['lanes']['float32']} float32 or {t['lanes']['float64']} float64 lanes",
                  f"threads   Numba's layer is {t['threading_layer']}"]  # fmt: skip
    lines += [
        f"{'engines' * (k == 0):<9} {name} {version}" for k, (name, version) in enumerate(facts["engines"].items())
    ]
    for threads, limits in facts["limits"].items():
        peaks = ", ".join(f"{gflops:.0f} GFLOP/s {dtype}" for dtype, gflops in limits["peak_gflops"].items())
        reads = ", ".join(f"{_size(size)} {gbs:.0f}" for size, gbs in limits["bandwidth_gbs"].items())
        lines += [
            "",
            f"{threads} thread{'s' * (threads > 1)}: multiply-add peak {peaks}",
            f"  reads, GB/s by buffer: {reads}",
        ]
    if "limits_missing" in facts:
        lines += ["", f"peak and bandwidths are unknown: {facts['limits_missing']}"]
    return "\n".join(lines)


def _size(nbytes: int) -> str:
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes >> 10} KiB"


def read(path: str | Path) -> Document:
    """A result file; what is wrong with it is the user's error, exit code 2."""
    try:
        return results.load(path)
    except results.ResultError as error:
        raise click.UsageError(str(error)) from None
