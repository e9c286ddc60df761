"""Quotas of control groups, from files as Linux writes them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from fastlstm.runtime import quota, threads


class Groups:
    """A process's two files and a tree of groups, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.proc, self.top = folder / "proc", folder / "cgroup"
        self.proc.mkdir()

    def member(self, *lines: str) -> None:
        (self.proc / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def mounted(self, *rows: tuple[str, str, str, str]) -> None:
        """Rows of what is seen, the folder, the type and the options, beside a mount of another kind."""
        text = "22 27 0:21 / /proc rw,relatime shared:5 master:1 - proc proc rw\n"
        for k, (seen, name, kind, options) in enumerate(rows):
            text += f"{k + 30} 31 0:3{k} {seen} {self.top / name} rw,nosuid - {kind} {kind} {options}\n"
        (self.proc / "mountinfo").write_text(text)

    def group(self, name: str, **files: str) -> None:
        (self.top / name).mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (self.top / name / f"cpu.{file}").write_text(text + "\n")

    def found(self) -> float:
        return quota.processors.__wrapped__(self.proc)


@pytest.fixture
def groups(tmp_path: Path) -> Groups:
    return Groups(tmp_path)


def test_the_strictest_of_the_groups_above_counts(groups: Groups) -> None:
    groups.member("0::/pods/one/app")
    groups.mounted(("/", "", "cgroup2", "rw"))
    groups.group("pods", max="250000 100000")
    groups.group("pods/one", max="max 100000")
    groups.group("pods/one/app", max="300000 50000")
    groups.group("pods/other", max="1000 100000")
    assert groups.found() == 2.5


@pytest.mark.parametrize("seen", ["/docker/abc", "/"])
def test_a_container_sees_its_own_group_at_the_top(groups: Groups, seen: str) -> None:
    groups.member("0::/docker/abc" if seen != "/" else "0::/")
    groups.mounted((seen, "", "cgroup2", "rw"))
    groups.group("", max="50000 100000")
    assert groups.found() == 0.5


def test_version_1(groups: Groups) -> None:
    groups.member("9:name=systemd:/app", "4:cpuset:/app", "2:cpu,cpuacct:/app", "0::/app")
    groups.mounted(
        ("/", "cpuset", "cgroup", "rw,cpuset"), ("/", "cpu", "cgroup", "rw,cpu,cpuacct"), ("/", "all", "cgroup2", "rw")
    )
    groups.group("cpuset/app", cfs_quota_us="1", cfs_period_us="100000")
    groups.group("cpu", cfs_quota_us="-1", cfs_period_us="100000")
    groups.group("cpu/app", cfs_quota_us="150000", cfs_period_us="100000")
    groups.group("all/app")
    assert groups.found() == 1.5


def test_no_quota(groups: Groups) -> None:
    assert groups.found() == math.inf  # no such files: another system
    groups.member("0::/")
    groups.mounted(("/", "", "cgroup2", "rw"))
    assert groups.found() == math.inf
    for text in ("max 100000", "", "half 100000", "100000 0", "-1 100000"):
        groups.group("", max=text)
        assert groups.found() == math.inf


def test_a_call_uses_no_more_threads_than_whole_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """And one at the least; who sets a count gets it."""
    monkeypatch.setattr(threads, "_limit", None)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda process: range(4), raising=False)
    monkeypatch.setattr(threads, "_most", lambda: 8)
    for given, count in ((math.inf, 4), (6.0, 4), (4.0, 4), (2.5, 2), (1.0, 1), (0.25, 1)):
        monkeypatch.setattr(threads.quota, "processors", lambda given=given: given)
        assert threads.get_num_threads() == count
    threads.set_num_threads(3)
    assert threads.get_num_threads() == 3
