"""What the commands do, once their options are understood. Each returns the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from . import bench, check, compare, engines, inform, machine, results, roofline, startup, summary, terminal
from .cases import Case, tagged
from .results import Document

INTERRUPTED = 130
_QUICK_BUDGET_S, _BUDGET_S = 0.2, 0.6


def _entrants(subject: str, rivals: Sequence[str] = ()) -> list[bench.Entrant]:
    """The subject, NumPy, and the rivals asked for, each once."""
    return [bench.Entrant(name, name) for name in dict.fromkeys((subject, engines.ALWAYS, *rivals))]


def _settings(picked: list[Case] | None, modes: Sequence[str], dtype: str, threads: tuple[int, ...] | None,
              time_limit: float, **more: Any) -> bench.Settings:  # fmt: skip
    """The settings that the shared options make; the quick set where no case was picked."""
    settings = bench.Settings(
        cases=picked or tagged("quick"), modes=modes or ("inference", "training"), implied_stream=not modes,
        dtype=dtype, threads=threads or (machine.cores(),), limit_s=time_limit, **more)  # fmt: skip
    if not settings.groups():
        raise click.UsageError("nothing to measure: a bidirectional case cannot be streamed")
    return settings


def run(picked: list[Case] | None, rivals: Sequence[str], subject: Sequence[str], budget: float | None,
        json_file: str | None, markdown: bool, start: bool, **shared: Any) -> int:  # fmt: skip
    """Time the cases and print the table."""
    settings = _settings(picked, entrants=_entrants(subject[0], rivals),
                         budget_s=budget or (_BUDGET_S if picked else _QUICK_BUDGET_S), **shared)  # fmt: skip
    document, complete = terminal.execute(settings, json_file)
    if start and complete:
        click.echo("Timing first results of new processes.", err=True)
        document.starts = startup.measure(settings.entrants, settings.threads[0], settings.limit_s)
        if json_file:
            results.save(document, json_file)
    terminal.show(document, markdown)
    if json_file and document.measurements:
        click.echo(f"\nAll samples are in {json_file}.")
    if not complete:
        return INTERRUPTED
    ours = (m.status for m in document.measurements if m.engine == document.subject)
    return int(any(status not in ("ok", "unsupported") for status in ours))


def compare_files(before: str, after: str, effect: float, markdown: bool) -> int:
    """Judge one saved result against another."""
    old, new = _read(before), _read(after)
    changes = compare.documents(old, new, effect / 100)
    if not changes:
        raise click.UsageError(f"{before} and {after} have no case in common for which both have a time")
    click.echo(terminal.machine_free_note(old, new))
    terminal.show_changes(changes, markdown)
    return compare.exit_code(changes)


def check_against(picked: list[Case] | None, against: str, effect: float, threads: tuple[int, ...] | None,
                  budget: float | None, dependencies: bool, json_file: str | None, markdown: bool,
                  **shared: Any) -> int:  # fmt: skip
    """Judge this code against a reference; one thread unless told otherwise, since that is judged most sharply."""
    settings = _settings(picked, entrants=_entrants(engines.SUBJECT), threads=threads or (1,),
                         budget_s=budget or check.BUDGET_S, min_rounds=check.MIN_ROUNDS, **shared)  # fmt: skip
    try:
        if against.endswith(".json"):
            saved = check.load(against)
            document, _ = terminal.execute(settings if picked else check.settings_of(saved, settings), json_file)
            click.echo(terminal.machine_free_note(saved, document))
            changes = compare.documents(saved, document, effect / 100)
        else:
            changes = _side_by_side(settings, against, effect / 100, dependencies, json_file)
    except check.CheckError as error:
        raise click.UsageError(str(error)) from None
    if not changes:
        raise click.UsageError("no case has a time on both sides; `lstm-bench run` shows what fails")
    terminal.show_changes(changes, markdown)
    return compare.exit_code(changes)


def _side_by_side(settings: bench.Settings, against: str, effect: float, dependencies: bool,
                  json_file: str | None) -> list[compare.Change]:  # fmt: skip
    """Install the reference and run both sides; the first pass is kept in the JSON."""
    click.echo(f"Installing {against} beside this code.", err=True)
    with check.built(against, dependencies) as path:
        sides = (bench.Entrant(engines.SUBJECT, engines.SUBJECT), bench.Entrant(check.BEFORE, engines.SUBJECT, path))
        changes, documents = check.side_by_side(settings, sides, effect, lambda asked: terminal.execute(asked, None)[0])
    if json_file:
        results.save(documents[0], json_file)
    return changes


def explain(case: Case, mode: str, dtype: str, threads: tuple[int, ...] | None) -> int:
    """Print the plan of a case, its limit, and how close a run comes."""
    if not case.supports(mode):
        raise click.UsageError(f"{case.name} is bidirectional and cannot be streamed")
    counts = threads or (machine.cores(),)
    for count in counts:
        settings = bench.Settings([case], [mode], _entrants(engines.SUBJECT)[:1], (count,), dtype, _BUDGET_S)
        explanation = bench.explain(settings)
        m, limits = explanation.measurement, explanation.limits
        if m.status != "ok" or m.median_s is None:
            click.echo(f"{case.name} {mode}: {m.status}, {m.detail}", err=True)
            return 1
        bound = roofline.bound(case, mode, dtype, count, limits.peak_gflops, limits.bandwidth_gbs)
        click.echo(_explained(explanation, bound))
    return 0


def _explained(explanation: bench.Explanation, bound: roofline.Bound) -> str:
    """The plan, the arithmetic of the limit, and what the plan's model expects of more threads, in lines."""
    plan, expected_us, limits, m = explanation
    assert m.median_s is not None
    case, mode, dtype = m.case, m.mode, m.dtype
    flops, read = case.flops(mode), roofline.bytes_read(case, mode, dtype)
    share = roofline.recurrent_bytes(case, dtype) / m.threads
    return "\n".join((
        f"{case.name}: B {case.B}, T {case.T}, I {case.I}, H {case.H}, layers {case.layers}, "
        f"directions {case.directions}; {mode}, {dtype}, {m.threads} thread{'s' * (m.threads > 1)}",
        "", plan.rstrip(), "",
        f"multiply-adds  {flops / 1e9:.4g} GFLOP at the measured peak of vector registers, "
        f"{limits.peak_gflops:.0f} GFLOP/s: "
        f"{summary.milliseconds(bound.compute_s)} ms",
        f"weights        {read / 1e6:.4g} MB of recurrent weights, {share / 1024:.0f} KiB a thread, "
        f"at {bound.bandwidth_gbs:.0f} GB/s: {summary.milliseconds(bound.memory_s)} ms",
        f"limit          {summary.milliseconds(bound.limit_s)} ms, by {bound.name}",
        f"measured       {summary.milliseconds(m.median_s)} ms: {bound.limit_s / m.median_s:.0%} of the limit's speed, "
        f"{summary.gflops(m):.1f} GFLOP/s",
        "expected       times one thread's speed, by the plan's model, not measured: " + ", ".join(
            f"{expected_us[0] / us:.3g} on {n}" for n, us in zip(bench.EXPECTED, expected_us, strict=True) if n > 1),
        ""))  # fmt: skip


def report(result: str, output: str | None, png: str | None) -> int:
    """Write the HTML page, and the PNG if asked for."""
    from . import page

    document = _read(result)
    target = Path(output or Path(result).with_suffix(".html"))
    target.write_text(page.render(document), encoding="utf-8")
    click.echo(f"{target} is written.")
    if png:
        _draw(document, png)
    return 0


def _draw(document: Document, png: str) -> None:
    try:
        from . import drawing
    except ModuleNotFoundError as error:
        raise click.UsageError(
            f"--png needs {error.name}, which is not installed: pip install 'fastlstm[plots]'"
        ) from None
    drawing.save(document, png)
    click.echo(f"{png} is written.")


def info(as_json: bool) -> int:
    """Print what is here."""
    inform.show(as_json)
    return 0


def _read(path: str) -> Document:
    """A result file; what is wrong with it is the user's error."""
    try:
        return results.load(path)
    except results.ResultError as error:
        raise click.UsageError(str(error)) from None
