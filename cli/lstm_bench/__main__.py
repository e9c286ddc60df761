"""The command line. Only click and the case table are imported here, so that help and errors come at once."""

from __future__ import annotations

import sys
from typing import Any

import click

from . import cases, options


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fastlstm", prog_name="lstm-bench")
def main() -> None:
    """Times LSTMs on this machine: fastlstm beside its rivals, each in a process of its own, in turn.

    Results are checked before they are timed; ratios are taken round by round and carry an interval.
    """


@main.command()
@options.selection
@click.option("--rivals", type=options.ENGINES, default=(), help="Engines to compare with; NumPy always takes part.")
@click.option("--engine", "subject", type=options.ENGINES, default=("fastlstm",), hidden=True)
@options.threads
@options.budget
@options.time_limit
@options.json_file
@options.markdown
@click.option("--start", is_flag=True, help="Also time the first result of a new process, kernels compiled and cached.")
def run(**chosen: Any) -> None:
    """Time cases and print a row for each.

    Without --case, --filter, --shape or --all it is a set that ends within a minute.
    """
    from . import commands

    sys.exit(commands.run(**chosen))


@main.command("compare")
@click.argument("before", type=click.Path())
@click.argument("after", type=click.Path())
@options.effect
@options.markdown
def compare_files(**chosen: Any) -> None:
    """Judge the result AFTER against the result BEFORE.

    The exit code is 1 if a case became slower, 0 else.
    """
    from . import commands

    sys.exit(commands.compare_files(**chosen))


@main.command()
@options.selection
@click.option(
    "--against", required=True, metavar="REF", help="A git revision, a wheel, fastlstm==VERSION, or a JSON of `run`."
)
@options.effect
@options.threads
@options.budget
@options.time_limit
@click.option(
    "--with-dependencies", "dependencies", is_flag=True, help="Install the reference's own Numba and NumPy too."
)
@options.json_file
@options.markdown
def check(**chosen: Any) -> None:
    """Judge this code against a reference, in turn, in one go.

    The exit code is 1 if a case is slower (or gives no result any more), 0 else.
    """
    from . import commands

    sys.exit(commands.check_against(**chosen))


@main.command()
@click.argument("case", type=options.Parsed("CASE", lambda text: cases.named([text])[0]))
@click.option("--mode", type=click.Choice(cases.MODES), default="inference", show_default=True)
@options.dtype
@options.threads
def explain(**chosen: Any) -> None:
    """Show how fastlstm cuts CASE, what limits it on this machine, and how close it comes."""
    from . import commands

    sys.exit(commands.explain(**chosen))


@main.command()
@click.argument("result", type=click.Path())
@click.option("-o", "--output", type=options.OUTPUT, help="The page to write.  [default: RESULT with .html]")
@click.option("--png", type=options.OUTPUT, help="Also draw the charts into this PNG file; needs matplotlib.")
def report(**chosen: Any) -> None:
    """Write the result file RESULT as one self-contained HTML page."""
    from . import commands

    sys.exit(commands.report(**chosen))


@main.command("list")
@click.option("--filter", "filtered", type=options.Parsed("pattern", cases.matching), multiple=True,
              help="Cases whose name or tag matches.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_cases(filtered: Any, as_json: bool) -> None:
    """Show the cases there are."""
    from . import listing

    listing.show([case for group in filtered for case in group] or list(cases.CASES.values()), as_json)


@main.command()
@click.option("--dtype", "dtypes", type=click.Choice(cases.DTYPES), multiple=True, default=("float32",),
              show_default=True, help="Of the layers; may be repeated.")  # fmt: skip
@click.option("--no-training", is_flag=True, help="Leave out what only training needs.")
@click.option("--ragged", is_flag=True, help="What lengths and resets need, too.")
def warmup(dtypes: tuple[str, ...], no_training: bool, ragged: bool) -> None:
    """Compile fastlstm's kernels ahead, so that the first call of a new process does not.

    They are kept in FASTLSTM_CACHE_DIR, or the user's cache folder.
    """
    import fastlstm

    fastlstm.warmup(dtypes, training=not no_training, ragged=ragged)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def info(as_json: bool) -> None:
    """Show the machine, the engines that are installed, and the measured peak and bandwidths."""
    from . import commands

    sys.exit(commands.info(as_json))


if __name__ == "__main__":
    main()
