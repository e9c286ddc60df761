"""The command line. Only click and the case table are imported here, so that help and errors come at once."""

from __future__ import annotations

import sys
from typing import Any

import click

from . import cases

_SUBJECT = "fastlstm"


class _Cases(click.ParamType[Any]):
    """Names of cases, separated by commas."""

    name = "name,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The cases of these names."""
        try:
            return value if isinstance(value, list) else cases.named(value.split(","))
        except cases.CaseError as error:
            self.fail(str(error), param, ctx)


class _Shape(click.ParamType[Any]):
    """One's own case."""

    name = "B,T,I,H[,layers][,bi]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The case of this shape."""
        try:
            return value if isinstance(value, cases.Case) else cases.from_shape(value)
        except cases.CaseError as error:
            self.fail(str(error), param, ctx)


class _Filter(click.ParamType[Any]):
    """A pattern over names and tags."""

    name = "pattern"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The cases that match."""
        try:
            return value if isinstance(value, list) else cases.matching(value)
        except cases.CaseError as error:
            self.fail(str(error), param, ctx)


class _Counts(click.ParamType[Any]):
    """Thread counts, separated by commas."""

    name = "n,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The counts as integers from 1."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",")]
        if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
            self.fail(f"{value!r}; it should be whole numbers from 1, separated by commas", param, ctx)
        return tuple(dict.fromkeys(map(int, words)))


class _Engines(click.ParamType[Any]):
    """Engines, separated by commas."""

    name = "engine,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The names, each known."""
        from . import engines

        if isinstance(value, tuple):
            return value
        wanted = tuple(dict.fromkeys(word.strip() for word in value.split(",")))
        for name in wanted:
            if name not in engines.names():
                self.fail(f"there is no engine {name!r}; it should be one of {', '.join(engines.names())}", param, ctx)
        return wanted


def _selection(command: Any) -> Any:
    """The options that choose what is measured."""
    options = [
        click.option("--all", "every", is_flag=True, help="All fifteen named cases."),
        click.option("--case", "chosen", type=_Cases(), multiple=True, help="Cases by name."),
        click.option("--filter", "filtered", type=_Filter(), multiple=True, help="Cases whose name or tag matches."),
        click.option("--shape", "shapes", type=_Shape(), multiple=True, help="A case of your own."),
        click.option("--mode", "modes", type=click.Choice(cases.MODES), multiple=True,
                     help="What to time; may be repeated.  [default: inference and training, stream for single steps]"),
        click.option("--dtype", type=click.Choice(cases.DTYPES), default="float32", show_default=True),
    ]  # fmt: skip
    for option in reversed(options):
        command = option(command)
    return command


def selected(every: bool, chosen: Any, filtered: Any, shapes: Any) -> list[cases.Case]:
    """The cases that the options name, each once; the quick set if none does."""
    found = [case for group in (*chosen, *filtered) for case in group] + list(shapes)
    if every:
        found = cases.tagged("named") + found
    return list(dict.fromkeys(found)) if found or every else cases.tagged("quick")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fastlstm", prog_name="lstm-bench")
def main() -> None:
    """Times LSTMs on this machine: fastlstm beside its rivals, each in a process of its own, in turn.

    Results are checked before they are timed; ratios are taken round by round and carry an interval.
    """


@main.command()
@_selection
@click.option("--rivals", type=_Engines(), default=(), help="Engines to compare with; NumPy always takes part.")
@click.option(
    "--engine", "subject", default=_SUBJECT, type=_Engines(), hidden=True, help="The engine in the first columns."
)
@click.option("--threads", type=_Counts(), help="Thread counts for every engine.  [default: one a core]")
@click.option("--budget", type=click.FloatRange(min=0.01), help="Seconds of timing, an engine and row.")
@click.option("--time-limit", type=click.FloatRange(min=0.1), default=120.0, show_default=True,
              help="Seconds after which an engine that does not answer is given up.")  # fmt: skip
@click.option(
    "--json", "json_file", type=click.Path(dir_okay=False, writable=True), help="Keep all samples in this file."
)
@click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
def run(**options: Any) -> None:
    """Time cases and print a row for each."""
    from . import commands

    sys.exit(
        commands.run(cases=selected(*(options.pop(k) for k in ("every", "chosen", "filtered", "shapes"))), **options)
    )


@main.command("list")
@click.option("--filter", "filtered", type=_Filter(), multiple=True, help="Cases whose name or tag matches.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_cases(filtered: Any, as_json: bool) -> None:
    """Show the cases there are."""
    from . import listing

    listing.show([case for group in filtered for case in group] or list(cases.CASES.values()), as_json)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def info(as_json: bool) -> None:
    """Show the machine, the engines that are installed, and the measured peak and bandwidths."""
    from . import commands

    sys.exit(commands.info(as_json))


if __name__ == "__main__":
    main()
