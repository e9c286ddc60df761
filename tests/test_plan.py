"""Plans: within what the passes take, whatever the sizes, and splitting where it is meant to."""

from __future__ import annotations

import itertools

import pytest

from fastlstm import LSTM, set_num_threads
from fastlstm.plan import plan_backward, plan_forward

SIZES = (1, 2, 7, 64, 1000)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_plan_can_be_carried_out(threads: int, dtype: str) -> None:
    for T, B, I, H, D in itertools.product(SIZES, SIZES, (1, 64, 1000), SIZES, (1, 2)):
        forward = plan_forward(T, B, I, H, D, dtype, threads, True)
        backward = plan_backward(T, B, I, H, D, dtype, threads)
        assert plan_forward(T, B, I, H, D, dtype, threads, False).chunk == 0, (
            "W x of a chunk takes rows that are equally far apart"
        )
        for plan in (forward, backward):
            assert 1 <= plan.parts <= max(1, threads // D)
            assert plan.by_units or plan.parts <= B
            assert plan.parts > 1 or not plan.by_units
        assert 0 <= forward.chunk <= T and 1 <= backward.chunk <= T
        assert forward.chunk == 0 or forward.by_units or forward.parts == 1, (
            "threads that split rows have no common chunk"
        )


def test_plans_are_told_in_words() -> None:
    set_num_threads(2)
    lstm = LSTM(64, 256, num_layers=2, batch_first=True)
    assert "threads split units" in lstm.plan(100, 1).explain()
    assert "threads split rows" in lstm.plan(100, 64, training=True, layer=1).explain()
    assert lstm.plan(1, 1).explain().startswith("one thread to a direction")
    with pytest.raises(ValueError, match=r"T must be at least 1, but was 0"):
        lstm.plan(0, 1)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=rf"layer must be .*, but was {layer}"):
            lstm.plan(1, 1, layer=layer)


def test_threads_that_gain_nothing_are_not_asked() -> None:
    """Half of eight rows take the matrix unit as long as all of them; of 64 a quarter of the time."""
    assert plan_forward(1, 8, 64, 256, 1, "float32", 2, True, unit=True).parts == 1
    assert plan_forward(1, 64, 64, 256, 1, "float32", 4, True, unit=True).parts == 4


def test_what_the_model_expects_of_more_threads() -> None:
    """Rows that divide evenly scale; threads without a row add nothing; a call of microseconds stays on one thread."""
    lstm = LSTM(30, 128)
    one, four, many = (lstm.plan(365, 256, threads=n).expected_us for n in (1, 4, 256))
    assert one / four == pytest.approx(4)
    assert one / many < 256
    assert lstm.plan(365, 256, threads=5).expected_us == pytest.approx(one * 52 / 256)
    assert lstm.plan(1, 1, threads=64).expected_us == lstm.plan(1, 1, threads=1).expected_us
    assert len({LSTM(24, 32, bidirectional=True).plan(63, 1, threads=n).expected_us for n in (2, 4, 64)}) == 1
    both = LSTM(30, 128, bidirectional=True)
    assert both.plan(365, 256, threads=2).expected_us == pytest.approx(both.plan(365, 256, threads=1).expected_us / 2)
