"""The machine's own facts, from numbers that are ours."""

import os

import pytest
from lstm_bench import machine, roofline
from lstm_bench.cases import Case
from lstm_bench.machine import Usage


def test_other_load_is_what_is_neither_idle_nor_ours():
    before, after = Usage(0.0, 100.0, 5.0, 10.0), Usage(10.0, 117.0, 6.0, 20.0)
    assert machine.others_between(before, after) == pytest.approx((17 - 10 + 1) / 10)
    assert machine.others_between(after, before) is None  # no time has passed
    assert machine.others_between(before, after._replace(busy_s=None)) is None
    assert machine.others_between(before, Usage(10.0, 105.0, 5.0, 20.0)) == 0.0  # clocks tick coarsely


def test_usage_counts_this_process():
    first = machine.usage([])
    if first.busy_s is None:
        pytest.skip("no /proc/stat here")
    sum(k * k for k in range(2_000_000))
    assert machine.usage([]).own_s > first.own_s
    assert machine.usage([2**30]).own_s >= first.own_s  # a process that is gone counts nothing


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity here")
def test_cores_are_chosen_on_hardware_of_their_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "_siblings", lambda core: f"{core % 2},{core % 2 + 2}")
    assert machine.choose_cores(4) is None and machine.choose_cores(9) is None
    one, two, three = (machine.choose_cores(n) for n in (1, 2, 3))
    assert len(one) == 1 and len({core % 2 for core in two}) == 2 and len(set(three)) == 3


def test_the_bound_is_the_longer_of_arithmetic_and_reading():
    measured = {1 << 16: 200.0, 1 << 20: 100.0, 1 << 26: 10.0}
    big = Case("big", 64, 10, 512, 512)
    found = roofline.bound(big, "inference", "float32", 1, 100.0, measured)
    assert found.compute_s == pytest.approx(big.flops("inference") / 100e9) and found.name == "multiply-adds"
    single = Case("single", 1, 10, 256, 256)  # 1 MiB of recurrent weights
    found = roofline.bound(single, "inference", "float32", 1, 1000.0, measured)
    assert found.memory_s == pytest.approx(10 * 2**20 / 100e9) and found.limit_s == found.memory_s
    assert roofline.bound(single, "training", "float32", 1, 1000.0, measured).memory_s == pytest.approx(
        2 * found.memory_s
    )
    halves = roofline.bound(single, "inference", "float32", 2, 1000.0, measured)  # each thread reads half of it
    assert 100 < halves.bandwidth_gbs < 200


def test_bandwidth_between_sizes_follows_their_logarithms():
    measured = {1 << 10: 100.0, 1 << 14: 25.0}
    assert roofline.bandwidth_at(measured, 1 << 12) == pytest.approx(50.0)
    assert roofline.bandwidth_at(measured, 1) == 100.0 and roofline.bandwidth_at(measured, 1 << 30) == 25.0


def test_intensity_is_flops_a_byte_of_recurrent_weights():
    assert roofline.intensity(Case("c", 8, 5, 64, 64), "inference", "float32") == pytest.approx(8 * 2 * 2 / 4)
    assert roofline.intensity(Case("c", 8, 5, 64, 64), "inference", "float64") == pytest.approx(8 * 2 * 2 / 8)
