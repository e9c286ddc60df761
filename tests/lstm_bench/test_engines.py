"""Every engine that is installed computes the same LSTM; each in a worker of its own, as when it is timed."""

import numpy as np
import pytest
from lstm_bench import engines, verify, workload
from lstm_bench.cases import Case
from lstm_bench.remote import EngineFailed, Remote

SHAPES = (
    Case("plain", 3, 7, 5, 6),
    Case("two-both", 2, 9, 4, 8, 2, True),
    Case("three", 4, 5, 3, 10, 3),
    Case("one", 1, 1, 1, 1),
)


@pytest.fixture(scope="module")
def reference():
    return verify.Reference()


@pytest.fixture(scope="module", params=engines.names())
def worker(request):
    """A worker with the engine in it, and what it says it can do."""
    remote = Remote(request.param, 1)
    try:
        abilities = remote.ask("hello", 120)
        yield remote, abilities
    except EngineFailed as failure:
        if failure.status != "missing" or request.param in (engines.SUBJECT, engines.ALWAYS):
            raise
        pytest.skip(failure.detail)
    finally:
        remote.stop()


@pytest.mark.parametrize("case", SHAPES, ids=lambda case: case.name)
def test_it_computes_what_the_reference_does(worker, case, reference, tmp_path):
    remote, abilities = worker
    path = str(tmp_path / "results.npz")
    for dtype in abilities["dtypes"]:
        for mode in (mode for mode in abilities["modes"] if case.supports(mode)):
            remote.ask("load", 120, case=case.to_json(), mode=mode, dtype=dtype, seed=3)
            prefix = verify.checked_prefix(case, mode)
            remote.ask("results", 120, path=path, case=case.to_json(), prefix=prefix)
            with np.load(path) as found:
                results = dict(found)
            expected = reference.results(case, mode, dtype, 3)
            assert verify.compare(results, expected, dtype).wrong == "", (dtype, mode)
            assert set(results) == set(expected) | ({"timed_y"} if prefix else set())


def test_the_judges_agree(reference):
    assert reference.name == "fastlstm.reference"
    case = SHAPES[1]
    work = workload.make(case, "float64")
    expected = reference.results(case, "training", "float64", 0)
    assert verify.compare(reference.by_numpy(work, "training"), expected, "float64").wrong == ""


def test_unknown_engines_are_told():
    with pytest.raises(ValueError, match="no engine 'theano'; it should be one of"):
        engines.load("theano")


def test_a_shortened_workload_is_the_beginning_of_the_whole_one():
    case = Case("c", 2, 9, 3, 4)
    whole, short = workload.make(case, "float32"), workload.make(case.shortened(4), "float32")
    assert np.array_equal(whole.x[:4], short.x) and np.array_equal(whole.dy[:4], short.dy)
    assert all(np.array_equal(whole.params[name], short.params[name]) for name in whole.params)
