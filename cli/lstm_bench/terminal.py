"""What a run and a comparison look like on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import click

from . import bench, caveats, compare, estimate, results, summary, table
from .progress import Progress
from .results import Document


def execute(settings: bench.Settings, json_file: str | None) -> tuple[Document, bool]:
    """Run with a progress bar, keeping the JSON up to date; whether it ran to its end."""
    groups = settings.groups()
    labels = ", ".join(entrant.label for entrant in settings.entrants)
    seconds = estimate.seconds(settings)
    rows = f"{len(groups)} row{'s' * (len(groups) > 1)}"
    click.echo(
        f"{rows} with {labels}: {estimate.spoken(seconds)}, more where kernels must first be compiled.", err=True
    )
    with Progress(seconds, len(groups)) as progress:

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
    click.echo("\n" + (table.markdown(columns, rows) if as_markdown else table.fitted(columns, rows)) + "\n")
    for limits in document.limits:
        click.echo(f"100 % of peak: {limits.peak_gflops:.0f} GFLOP/s, multiply-adds in registers, {limits.dtype}, "
                   f"{limits.threads} thread{'s' * (limits.threads > 1)}, measured in this run.")  # fmt: skip
    if missing := document.settings.get("limits_missing"):
        click.echo(f"The machine's peak is unknown: {missing}")
    for mean in summary.means(document):
        at = f"{mean.mode.capitalize()}, {mean.threads} thread{'s' * (mean.threads > 1)}"
        click.echo(f"{at}: {mean.mean:.2f} times as fast as the fastest rival (geometric mean of {mean.cases}), "
                   f"least {mean.least:.2f} at {mean.case} ({mean.rival}).")  # fmt: skip
    for line in caveats.gaps(document):
        click.echo(click.style("gap      ", fg="yellow") + line)
    for line in caveats.warnings(document):
        click.echo(click.style("warning  ", fg="yellow") + line)


def machine_free_note(old: Document, new: Document) -> str:
    """What two runs allow one to judge, to be said before their comparison."""
    same = all(old.machine.get(fact) == new.machine.get(fact) for fact in ("cpu", "cores", "system"))
    where = "the same kind of machine" if same else f"another machine ({old.machine['cpu']}, now {new.machine['cpu']})"
    return (
        f"Two runs, {old.created} and {new.created}, on {where}.\n"
        "Only figures that hold from run to run are judged: the ratio to the NumPy rival and the share of the peak,\n"
        "each measured beside the case. Times are for reading."
    )


def show_changes(changes: Sequence[compare.Change], markdown: bool) -> None:
    """Print a comparison and what it comes to."""
    columns, rows = compare.table(changes)
    click.echo("\n" + (table.markdown(columns, rows) if markdown else table.fitted(columns, rows)) + "\n")
    click.echo(compare.tally(changes) + ".")
    for change in changes:
        if change.detail:
            click.echo(f"{change.case} {change.mode}: {change.detail}")
