"""The options that commands share, and what their values may be. A bad value ends the command with exit code 2."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from typing import Any

import click

from . import cases
from .cases import Case


class Parsed(click.ParamType[Any]):
    """An option whose text a function turns into a value; its ValueError is the user's error."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        """Take the name that help shows for a value, and the function."""
        self.name, self._parse = name, parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value of the text; a default that is one already stays as it is."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def _counts(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
        raise ValueError(f"{text!r} should be whole numbers from 1, separated by commas")
    return tuple(dict.fromkeys(map(int, words)))


def _engines(text: str) -> tuple[str, ...]:
    from . import engines

    wanted = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    for name in wanted:
        if name not in engines.names():
            raise ValueError(f"there is no engine {name!r}; it should be one of {', '.join(engines.names())}")
    return wanted


def _output(text: str) -> str:
    folder = os.path.dirname(os.path.abspath(text))
    if not os.path.isdir(folder):
        raise ValueError(f"{text!r} cannot be written: there is no folder {folder}")
    if os.path.isdir(text) or not os.access(text if os.path.exists(text) else folder, os.W_OK):
        raise ValueError(f"{text!r} cannot be written")
    return text


ENGINES = Parsed("engine,...", _engines)
OUTPUT = Parsed("file", _output)

threads = click.option(
    "--threads", type=Parsed("n,...", _counts), help="Thread counts of every engine.  [default: one a core]"
)
budget = click.option("--budget", type=click.FloatRange(min=0.01), help="Seconds of timing, an engine and row.")
time_limit = click.option("--time-limit", type=click.FloatRange(min=0.1), default=120.0, show_default=True,
                          help="Seconds after which an engine that does not answer is given up.")  # fmt: skip
json_file = click.option("--json", "json_file", type=OUTPUT, help="Keep all samples in this file.")
markdown = click.option("--markdown", is_flag=True, help="Print the table as Markdown.")
effect = click.option("--effect", type=click.FloatRange(min=0.1, max=100), default=5.0, show_default=True,
                      help="Per cent of speed below which a change does not count.")  # fmt: skip
dtype = click.option("--dtype", type=click.Choice(cases.DTYPES), default="float32", show_default=True)

_SELECTION = (
    click.option("--all", "every", is_flag=True, help="All fifteen named cases."),
    click.option("--case", "chosen", multiple=True, help="Cases by name.",
                 type=Parsed("name,...", lambda text: cases.named(text.split(",")))),
    click.option("--filter", "filtered", multiple=True, help="Cases whose name or tag matches.",
                 type=Parsed("pattern", cases.matching)),
    click.option("--shape", "shapes", multiple=True, help="A case of your own.",
                 type=Parsed("B,T,I,H[,layers][,bi]", cases.from_shape)),
    click.option("--mode", "modes", type=click.Choice(cases.MODES), multiple=True,
                 help="What to time; may be repeated.  [default: inference and training, and stream for single steps]"),
    dtype,
)  # fmt: skip


def selection(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose what is measured; the command gets `picked`, a list of cases or None."""

    @functools.wraps(command)
    def with_cases(every: bool, chosen: Any, filtered: Any, shapes: Any, **rest: Any) -> Any:
        found: list[Case] = cases.tagged("named") if every else []
        found += [case for group in (*chosen, *filtered) for case in group] + list(shapes)
        return command(picked=list(dict.fromkeys(found)) or None, **rest)

    decorated: Callable[..., Any] = with_cases
    for option in reversed(_SELECTION):
        decorated = option(decorated)
    return decorated
