"""The case table, for reading."""

from __future__ import annotations

import json

import click

from .cases import Case
from .table import Column, fitted


def _flops(value: int) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value / 1e3:.3g} k"


def show(cases: list[Case], as_json: bool) -> None:
    """Print the cases as a table or as JSON."""
    if as_json:
        click.echo(
            json.dumps(
                [{**c.to_json(), "tags": c.tags, "flops": c.flops("inference"), "about": c.about} for c in cases]
            )
        )
        return
    columns = [Column("case", True), Column("B,T,I,H,layers", True), Column("FLOP"), Column("tags", True)]
    rows = [[c.name, c.shape, _flops(c.flops("inference")), " ".join(c.tags), c.about] for c in cases]
    click.echo(fitted([*columns, Column("about", True, spare=True)], rows))
