"""Processor time that a container gives: the quotas of Linux's control groups, `docker run --cpus` or a pod's limit.

A process whose threads have used up their quota stands still until its period, mostly 100 ms, is over. Two threads on
the quota of one processor stop for 50 ms of each 100, and what they spin at a barrier is lost: 0.57 times as many calls
as one thread makes (B = 1, T = 512).
"""

from __future__ import annotations

import math
import re
from functools import cache
from pathlib import Path

# Of a line of mountinfo: which part of the groups is seen, where, the version, and the controllers of version 1.
MOUNT = re.compile(r"^\S+ \S+ \S+ (\S+) (\S+) .*- cgroup(2?) \S+ (\S+)$", re.MULTILINE)


@cache
def processors(proc: Path = Path("/proc/self")) -> float:
    """How many processors' time this process may use, by the strictest of its groups, when it first asks; infinite
    where there are no such groups, or none that limits it.
    """
    try:
        memberships, mounts = ((proc / name).read_text("utf-8", "surrogateescape") for name in ("cgroup", "mountinfo"))
    except OSError:
        return math.inf
    most = math.inf
    for seen, where, second, options in MOUNT.findall(mounts):
        for line in memberships.splitlines():
            _, _, named = line.partition(":")
            controllers, _, group = named.partition(":")
            if not ((second and not controllers) or ("cpu" in controllers.split(",") and "cpu" in options.split(","))):
                continue
            inside = Path(group).relative_to(seen) if Path(group).is_relative_to(seen) else Path()
            folder = Path(where, inside)
            most = min([most, *map(_quota, [folder, *folder.parents[: len(inside.parts)]])])
    return most


def _quota(group: Path) -> float:
    """What one group allows, by either version's files; infinite where it sets nothing."""
    try:
        if (both := group / "cpu.max").exists():
            quota, period = both.read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        limit = math.inf if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf
    return limit if limit > 0 else math.inf  # version 1 has -1 for none
