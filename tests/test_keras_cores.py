"""Tapes that wait for their gradient under a number: used once, dropped when they are too many, and computed again."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest

pytest.importorskip("keras")

from fastlstm.keras import cores, operator

N, T, I, H = 3, 4, 5, 6
OPTIONS = operator.Options(
    1, False, True, False, False, bias=True, recurrent=False, mask=False, training=True, activations=operator.PLAIN
)


@pytest.fixture(autouse=True)
def _empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept or waits at the beginning."""
    monkeypatch.setattr(cores, "_idle", [])
    monkeypatch.setattr(cores, "_kept", OrderedDict())


def arrays(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = (N, T, I), (N, H), (N, H), (I, 4 * H), (H, 4 * H), (4 * H,)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def gradients(number: int, given: list[np.ndarray]) -> tuple[np.ndarray, ...]:
    douts = [np.ones(shape, np.float32) for shape in ((N, T, H), (N, H), (N, H))]
    return operator.backward(OPTIONS, number, *douts, *given)


def assert_equal(found: tuple[np.ndarray, ...], expected: tuple[np.ndarray, ...]) -> None:
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_tape_is_used_once_and_then_made_again() -> None:
    given = arrays(0)
    *_, number = operator.forward(OPTIONS, *given)
    assert list(cores._kept) == [number]
    first = gradients(number, given)
    assert not cores._kept
    assert_equal(gradients(number, given), first)
    assert_equal(gradients(-1, given), first)
    assert len(cores._idle) == 1  # it has served all


def test_calls_of_one_layer_with_different_weights_do_not_mix() -> None:
    one, other = arrays(1), arrays(2)
    expected = [gradients(-1, given) for given in (one, other)]
    numbers = [operator.forward(OPTIONS, *given)[-1] for given in (one, other)]
    assert_equal(gradients(numbers[0], one), expected[0])
    assert_equal(gradients(numbers[1], other), expected[1])


def test_the_oldest_tapes_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    given = arrays(3)
    *_, first = operator.forward(OPTIONS, *given)
    (_, _, size), *_ = cores._kept.values()
    expected = gradients(first, given)
    monkeypatch.setattr(cores, "MOST_BYTES", 2 * size)
    numbers = [int(operator.forward(OPTIONS, *given)[-1]) for _ in range(4)]
    assert list(cores._kept) == numbers[2:]
    for number in numbers:
        assert_equal(gradients(number, given), expected)
    monkeypatch.setattr(cores, "MOST_BYTES", 1)
    *_, newest = operator.forward(OPTIONS, *given)
    assert list(cores._kept) == [newest]


def test_cores_of_layers_that_are_gone_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "MOST_CORES", 2)
    for layer in (1, 2, 3, 2):
        operator.forward(OPTIONS._replace(layer=layer, training=False), *arrays(layer))
    assert [core.key[0] for core in cores._idle] == [3, 2]


def test_cores_of_tapes_that_are_dropped_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of calls in training whose gradients nobody asks for; a tape's size counts what its core holds."""
    given = arrays(4)
    for _ in range(5):
        operator.forward(OPTIONS, *given)
    assert len(cores._kept) == 5 and not cores._idle
    assert min(size for _, _, size in cores._kept.values()) > 3 * sum(part.nbytes for part in given[3:5])
    monkeypatch.setattr(cores, "MOST_CORES", 2)
    monkeypatch.setattr(cores, "MOST_BYTES", 1)
    *_, number = operator.forward(OPTIONS, *given)
    assert list(cores._kept) == [number] and len(cores._idle) == 2
