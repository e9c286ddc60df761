"""Verdicts between results whose truth is known."""

import pytest
from bench_samples import CASE, document, failed, measured
from lstm_bench import check, compare
from lstm_bench.compare import Change
from lstm_bench.stats import Interval

NUMPY = dict(seed=7, noise=0.01)


def result(seconds, numpy_s=5e-3, noise=0.01, seed=0, **more):
    """A run on a machine where NumPy takes so long and the peak is as given."""
    return document(measured("fastlstm", seconds, noise=noise, seed=seed, **more), measured("numpy", numpy_s, **NUMPY))


def only(changes):
    (change,) = changes
    return change


@pytest.mark.parametrize("factor, verdict", [(1.0, "same"), (1.12, "slower"), (0.88, "faster"), (1.02, "same")])
def test_two_runs_on_one_machine(factor, verdict):
    change = only(compare.documents(result(1e-3), result(1e-3 * factor, seed=1)))
    assert change.verdict == verdict and change.by == "x NumPy and % of peak"
    assert change.speed.estimate == pytest.approx(1 / factor, rel=0.02)
    assert compare.exit_code([change]) == (verdict == "slower")


def test_a_slower_machine_is_no_slower_code():
    change = only(compare.documents(result(1e-3), result(2e-3, numpy_s=10e-3, peak=50.0, seed=1)))
    assert change.verdict == "same"


def test_figures_that_disagree_decide_nothing():
    change = only(compare.documents(result(1e-3), result(2e-3, numpy_s=10e-3, peak=100.0, seed=1)))
    assert change.verdict == "undecided"


def test_noise_decides_nothing():
    change = only(compare.documents(result(1e-3, noise=0.4), result(1.1e-3, noise=0.4, seed=1)))
    assert change.verdict == "undecided"


def test_without_numpy_the_share_of_the_peak_is_judged_and_without_both_nothing():
    alone = [document(measured("fastlstm", s, noise=0.01, seed=k)) for k, s in enumerate((1e-3, 1.2e-3))]
    change = only(compare.documents(*alone))
    assert change.verdict == "slower" and change.by == "% of peak"
    blind = [document(measured("fastlstm", s, peak=None)) for s in (1e-3, 1.2e-3)]
    assert only(compare.documents(*blind)).verdict == "undecided"


def test_what_no_longer_works_is_broken():
    before, after = result(1e-3), document(failed("fastlstm", "wrong", "y is off by 1"), measured("numpy", 5e-3))
    change = only(compare.documents(before, after))
    assert change.verdict == "broken" and compare.exit_code([change]) == 1
    assert compare.documents(after, before) == []


def test_only_common_cases_are_compared():
    other = document(measured("fastlstm", 1e-3, case=CASE._replace(name="other")))
    assert compare.documents(result(1e-3), other) == []


@pytest.mark.parametrize("factor, verdict", [(1.0, "same"), (1.1, "slower"), (0.9, "faster")])
def test_two_sides_of_one_run(factor, verdict):
    both = document(measured("fastlstm", 1e-3 * factor, noise=0.02), measured("before", 1e-3, noise=0.02, seed=1))
    change = only(compare.sides(both, "before"))
    assert change.verdict == verdict and change.by == "time"


def test_tables_and_tally():
    changes = compare.documents(result(1e-3), result(1.3e-3, seed=1))
    columns, rows = compare.table(changes)
    assert len(rows) == 1 and len(rows[0]) == len(columns)
    assert compare.tally(changes) == "1 slower" and compare.tally([]) == "nothing to compare"


KEY = ("small", "inference", 1)


def said(*verdicts):
    """One case through several passes."""
    speed = Interval(0.9, 0.88, 0.92, 40)
    return [{KEY: Change("small", "inference", 1, 1.0, 1.1, speed, "time", verdict)} for verdict in verdicts]


@pytest.mark.parametrize("verdicts, final, again", [
    (("same",), "same", False),
    (("faster",), "faster", False),
    (("slower",), "undecided", True),
    (("undecided",), "undecided", True),
    (("slower", "slower"), "slower", False),
    (("slower", "same"), "undecided", True),
    (("undecided", "slower"), "undecided", True),
    (("undecided", "same"), "same", False),
    (("slower", "same", "slower"), "slower", False),
    (("slower", "same", "same"), "undecided", True),
    (("broken", "broken"), "broken", False),
])  # fmt: skip
def test_slower_takes_two_passes(verdicts, final, again):
    passes = said(*verdicts)
    assert [change.verdict for change in check.votes(passes)] == [final]
    assert check.needs_another(KEY, passes) is again
