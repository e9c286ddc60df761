"""`lstm-bench info`: the machine, the engines there are, and the limits that fastlstm's probes measure."""

from __future__ import annotations

import json
from typing import Any

import click

from . import bench, engines, machine
from .remote import EngineFailed, Remote


def ask_once(engine: str, *questions: tuple[str, dict[str, Any]], threads: int = 1) -> list[dict[str, Any]]:
    """Start an engine, ask it some questions, end it."""
    remote = Remote(engine, threads)
    try:
        return [remote.ask(operation, 120.0, **fields) for operation, fields in questions]
    finally:
        remote.stop()


def show(as_json: bool) -> None:
    """Print the machine, the engines and the measured limits."""
    facts: dict[str, Any] = {"machine": machine.describe(), "engines": {}, "limits": {}}
    for name in engines.names():
        try:
            facts["engines"][name] = ask_once(name, ("hello", {}))[0]["version"]
        except EngineFailed as failure:
            facts["engines"][name] = failure.detail
    try:
        facts["target"] = ask_once(engines.SUBJECT, ("target", {}))[0]
        for threads in dict.fromkeys((1, machine.cores())):
            facts["limits"][threads] = _limits(threads)
    except EngineFailed as failure:
        facts["limits_missing"] = failure.detail
    click.echo(json.dumps(facts, indent=1) if as_json else _info_text(facts))


def _limits(threads: int) -> dict[str, Any]:
    questions = [("peak", {"dtype": dtype, "threads": threads}) for dtype in ("float32", "float64")]
    questions += [("bandwidth", {"nbytes": size, "threads": threads}) for size in bench.BANDWIDTH_SIZES]
    answers = ask_once(engines.SUBJECT, *questions, threads=threads)
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
