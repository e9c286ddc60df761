"""Parameters: a mapping that tells when nobody can have changed what it holds, and calls that go by it."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable

import numpy as np
import pytest

import fastlstm
from fastlstm.parameters import Parameters

X = np.random.default_rng(1).standard_normal((3, 2, 5)).astype(np.float32)
NAMES = ("a", "b")


def mapping() -> Parameters:
    return Parameters({name: np.zeros((3, 2)) for name in NAMES})


def test_it_is_a_read_only_mapping_to_the_arrays_themselves() -> None:
    p = mapping()
    assert list(p) == list(NAMES) and len(p) == 2 and "a" in p and "c" not in p
    assert p["a"] is p["a"] and dict(p)["b"] is p["b"]
    assert repr(p) == "Parameters(a (3, 2), b (3, 2))"
    with pytest.raises(TypeError, match="item assignment"):
        p["a"] = np.zeros(3)  # type: ignore[index]
    with pytest.raises(KeyError):
        p["c"]


def test_whoever_takes_an_array_begins_an_epoch() -> None:
    p = mapping()
    for taken in (lambda: p["a"], lambda: list(p.values()), lambda: dict(p), lambda: p.get("b"), p.written):
        before = p.epoch
        taken()
        assert p.epoch is not before
    before = p.epoch
    assert list(p) and len(p) and repr(p)
    assert p.epoch is before


@pytest.mark.parametrize(
    "hold",
    [
        lambda a: a,
        lambda a: a[1:],
        lambda a: a.reshape(-1)[::2],
        memoryview,
        lambda a: a.ctypes.data_as(type(a.ctypes._as_parameter_)),
        lambda a: lambda: a,
    ],
    ids=["itself", "view", "view of a view", "buffer", "ctypes", "closure"],
)
def test_an_array_is_alone_while_nobody_holds_it(hold: Callable) -> None:
    p = mapping()
    assert p.alone(NAMES)
    held = hold(p["a"])
    assert not p.alone(NAMES) and p.alone(["b"])
    del held
    assert p.alone(NAMES)


def changes() -> dict[str, Callable[[fastlstm.LSTM], object]]:
    """Ways to change a parameter; what they return is held until the call after."""

    def view(lstm: fastlstm.LSTM) -> np.ndarray:
        rows = lstm.parameters["weight_ih_l1"][2:4]
        lstm(X)
        rows += 0.5
        return rows

    def mapping(lstm: fastlstm.LSTM) -> object:
        parameters = lstm.parameters
        lstm(X)
        parameters["weight_hh_l0"][0, 0] += 0.5
        return None

    def state_dict(lstm: fastlstm.LSTM) -> object:
        lstm.load_state_dict({name: array + 0.5 for name, array in lstm.state_dict().items()})
        return None

    def thawed(lstm: fastlstm.LSTM) -> object:
        lstm.freeze()
        lstm(X)
        lstm.freeze(False)
        lstm.parameters["bias_hh_l0"][0] += 0.5
        return None

    return {f.__name__: f for f in (view, mapping, state_dict, thawed)}


@pytest.mark.parametrize("change", changes().values(), ids=changes())
@pytest.mark.parametrize("settled", [True, False])
def test_every_change_counts_at_the_next_call(change: Callable, settled: bool) -> None:
    lstm, fresh = (fastlstm.LSTM(5, 7, num_layers=2, seed=0) for _ in range(2))
    held = None if settled else lstm.parameters["bias_ih_l0"]
    for _ in range(3):
        before = lstm(X)[0]
        kept = change(lstm)
        y = lstm(X)[0]
        assert not np.array_equal(y, before)
        fresh.load_state_dict(lstm.state_dict())
        np.testing.assert_array_equal(y, fresh(X)[0])
        np.testing.assert_array_equal(lstm(X)[0], y)
    del held, kept


def test_threads_that_write_and_threads_that_call() -> None:
    """After a writer is done, no call may compute with what it read before."""
    lstm, halt = fastlstm.LSTM(5, 7, seed=0), threading.Event()

    def call() -> None:
        while not halt.is_set():
            lstm(X)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    try:
        for k in range(300):
            lstm.parameters["bias_ih_l0"].fill(k % 7 / 7)
            y = lstm(X)[0]
            fresh = fastlstm.LSTM(5, 7, seed=0)
            fresh.parameters["bias_ih_l0"].fill(k % 7 / 7)
            np.testing.assert_array_equal(y, fresh(X)[0])
    finally:
        halt.set()
        for caller in callers:
            caller.join()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda lstm: pickle.loads(pickle.dumps(lstm))])
def test_a_copy_has_parameters_of_its_own(copied: Callable) -> None:
    lstm = fastlstm.LSTM(5, 7, seed=0)
    y = lstm(X)[0]
    lstm(X)
    other = copied(lstm)
    np.testing.assert_array_equal(other(X)[0], y)
    other.parameters["weight_hh_l0"][...] = 0
    assert not np.array_equal(other(X)[0], y)
    np.testing.assert_array_equal(lstm(X)[0], y)
