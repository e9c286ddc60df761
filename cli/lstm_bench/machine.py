"""The machine: what it is, and whether anybody else is using it."""

from __future__ import annotations

import os
import platform
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _siblings(core: int) -> str:
    """The logical cores that share this one's hardware, as Linux names them; the core alone where it does not say."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(core)


def choose_cores(threads: int) -> list[int] | None:
    """The cores that all engines are pinned to when there are more than they need; None where there is no choice.

    Engines on one and the same core meet the same neighbour and the same clock: on a shared machine of two cores that
    took the spread of their ratio from 40 to 10 %. High numbers first (the first core serves interrupts), each on
    hardware of its own.
    """
    if not hasattr(os, "sched_getaffinity") or threads >= cores():
        return None
    available = sorted(os.sched_getaffinity(0), reverse=True)
    one_each = list({_siblings(core): core for core in available}.values())
    return sorted((one_each + [core for core in available if core not in one_each])[:threads])


def _cpu() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    if sys.platform == "darwin":
        import subprocess

        asked = subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        )
        if asked.stdout.strip():
            return asked.stdout.strip()
    return platform.processor() or platform.machine()


def _caches() -> dict[str, str]:
    """Sizes of the first core's caches, as Linux tells them."""
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        except OSError:
            continue
        found[f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")] = size
    return found


def _governor() -> str | None:
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text().strip()
    except OSError:
        return None


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def describe() -> dict[str, Any]:
    """What a result has to say about where it was taken."""
    return {
        "cpu": _cpu(),
        "architecture": platform.machine(),
        "cores": cores(),
        "caches": _caches(),
        "memory_gib": _memory_gib(),
        "governor": _governor(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


class Usage(NamedTuple):
    """Processor seconds up to a moment: of the machine, stolen by its host, and of the processes that we measure."""

    wall_s: float
    busy_s: float | None
    stolen_s: float | None
    own_s: float


def stat_fields(folder: str) -> list[str]:
    """What Linux tells of a process, or a thread, in its folder of /proc, from its state on; nothing if it is gone."""
    try:
        return Path(f"{folder}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _process_s(pid: int) -> float:
    """Processor seconds of a process, 0 where it is gone."""
    fields = stat_fields(f"/proc/{pid}")
    if not fields:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def usage(pids: list[int]) -> Usage:
    """Processor seconds now; without /proc nothing is known of others."""
    try:
        user, nice, system, _, _, irq, soft, steal = map(
            int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
        )
    except (OSError, ValueError):
        return Usage(time.perf_counter(), None, None, 0.0)
    tick = os.sysconf("SC_CLK_TCK")
    own = sum(map(_process_s, [os.getpid(), *pids]))
    return Usage(time.perf_counter(), (user + nice + system + irq + soft) / tick, steal / tick, own)


def others_between(before: Usage, after: Usage) -> float | None:
    """How many cores others kept busy, the host's share included; None where the system does not tell."""
    wall = after.wall_s - before.wall_s
    if before.busy_s is None or after.busy_s is None or before.stolen_s is None or after.stolen_s is None or wall <= 0:
        return None
    busy = after.busy_s - before.busy_s - (after.own_s - before.own_s)
    return max(0.0, (busy + after.stolen_s - before.stolen_s) / wall)
