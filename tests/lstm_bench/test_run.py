"""Runs over engines that crash, hang, lie or are not there: gaps with names, and the rest goes on."""

import pytest
from bench_samples import CASE
from lstm_bench import bench, caveats, startup, summary
from lstm_bench.bench import Entrant, Hooks, Settings

pytestmark = pytest.mark.usefixtures("fakes")
BIG = CASE._replace(name="big", H=6)


def run(*names, cases=(CASE,), modes=("inference",), hooks=None, **more):
    settings = Settings(
        cases, modes, [Entrant(name, name) for name in names], budget_s=0.01, limit_s=more.pop("limit_s", 30), **more
    )
    return bench.Run(settings, hooks).all()


def statuses(document):
    return {(m.case.name, m.mode, m.engine): m.status for m in document.measurements}


def test_what_fails_leaves_a_named_gap():
    document = run("fine", "wrong", "raising", "limited", "missing", modes=("inference", "training"))
    found = statuses(document)
    assert found == {
        ("small", "inference", "fine"): "ok", ("small", "training", "fine"): "ok",
        ("small", "inference", "wrong"): "wrong", ("small", "training", "wrong"): "ok",
        ("small", "inference", "raising"): "ok", ("small", "training", "raising"): "failed",
        ("small", "inference", "limited"): "ok", ("small", "training", "limited"): "unsupported",
        ("small", "inference", "missing"): "missing", ("small", "training", "missing"): "missing",
    }  # fmt: skip
    gaps = "\n".join(caveats.gaps(document))
    assert "missing: missing, nothing is not installed" in gaps
    assert "small inference, wrong: wrong, y is off by 1.0e-03" in gaps
    assert "small training, raising: failed, RuntimeError: no gradient today" in gaps
    assert "limited" not in gaps  # what it cannot do by its nature is no gap
    assert document.complete and document.engines["fine"].version == "fine 1.0"
    wrong = next(m for m in document.measurements if m.status == "wrong")
    assert wrong.median_s is None and not wrong.rounds


def test_a_crash_in_a_turn_costs_one_case_and_the_process_is_started_anew():
    document = run("fine", "crashing", cases=(CASE, BIG))
    assert statuses(document) == {
        ("small", "inference", "fine"): "ok", ("small", "inference", "crashing"): "crashed",
        ("big", "inference", "fine"): "ok", ("big", "inference", "crashing"): "ok",
    }  # fmt: skip
    crashed = document.groups()["small", "inference", "float32", 1]["crashing"]
    assert crashed.detail == "exit code 7: a last word"
    assert summary.speeds(document.groups()["big", "inference", "float32", 1], "fine")[0].rival == "crashing"


def test_a_hanging_engine_is_given_up_after_the_limit():
    document = run("fine", "hanging", limit_s=3)
    assert document.groups()["small", "inference", "float32", 1]["hanging"].detail == "no answer within 3 s"
    assert statuses(document)["small", "inference", "fine"] == "ok"


def test_measurements_hold_all_that_judging_takes():
    document = run("fine", modes=("inference", "stream"))
    inference, stream = document.measurements
    assert inference.rounds and all(inference.rounds.values()) and inference.loops >= 1
    assert len(inference.warmup) >= 2 and inference.first_call_s > 0 and inference.prepare_s >= 0
    assert inference.deviation["y"] < 1e-6 and inference.allocated_bytes > 0
    assert stream.latency and not inference.latency
    assert "fastlstm" in document.settings["limits_missing"] and inference.peak_gflops == {}


def test_an_interrupt_keeps_what_is_finished():
    finished = []

    def interrupt(group, document):
        finished.append(group.case.name)
        if len(finished) == 2:
            raise KeyboardInterrupt

    settings = Settings(
        [CASE, BIG, CASE._replace(name="third")], ["inference"], [Entrant("fine", "fine")], budget_s=0.01
    )
    under_way = bench.Run(settings, Hooks(finished=interrupt))
    with pytest.raises(KeyboardInterrupt):
        under_way.all()
    assert [m.case.name for m in under_way.document.measurements] == ["small", "big"]
    assert not under_way.document.complete


def test_workers_end_with_the_team():
    with bench.team([Entrant("fine", "fine"), Entrant("missing", "missing")], 1, 30) as members:
        remote = members.remotes["fine"]
        assert remote.alive
    assert not remote.alive


def test_starts_are_timed_for_those_that_start():
    found = startup.measure([Entrant("fine", "fine"), Entrant("missing", "missing")], 1, 30)
    assert list(found) == ["fine"] and found["fine"]["cold_s"] > 0 and found["fine"]["warm_s"] > 0


def test_streams_of_tagged_cases_are_implied_and_impossible_ones_left_out():
    step, both = CASE._replace(tags=("stream",)), CASE._replace(name="both", bidirectional=True)
    settings = Settings([step, both], ["inference"], [], implied_stream=True)
    assert [(g.case.name, g.mode) for g in settings.groups()] == [
        ("small", "inference"),
        ("small", "stream"),
        ("both", "inference"),
    ]
    assert Settings([both], ["stream"], []).groups() == []
