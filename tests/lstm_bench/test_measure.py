"""How times are taken, on a clock that is ours."""

import collections
import itertools

import pytest
from lstm_bench import measure
from lstm_bench.measure import Calibration, Share


class Clock:
    """Time that passes only when a run says so."""

    def __init__(self):
        self.now, self.runs = 0.0, 0

    def __call__(self):
        return self.now

    def run_of(self, *seconds):
        """A run that takes these times in turn, then the last one for ever."""

        def run():
            self.now += seconds[min(self.runs, len(seconds) - 1)]
            self.runs += 1

        return run


def test_a_sample_is_the_mean_of_its_loops():
    clock = Clock()
    assert measure.sample(clock.run_of(1.0, 2.0, 3.0), 3, clock) == pytest.approx(2.0)


def test_calibration_doubles_loops_until_a_sample_is_long_enough_and_reports_the_warm_up():
    clock = Clock()
    found = measure.calibrate(clock.run_of(0.4, 0.001), clock, min_sample_s=0.006)
    assert found.loops == 6 and found.seconds == pytest.approx(0.001)
    assert found.warmup[0] == pytest.approx(0.4) and len(found.warmup) >= 2


def test_calibration_trusts_one_very_long_run():
    clock = Clock()
    assert measure.calibrate(clock.run_of(3.0), clock) == Calibration(1, 3.0, [3.0])
    assert clock.runs == 1


def test_calibration_survives_a_clock_that_stands_still():
    clock = Clock()
    found = measure.calibrate(clock.run_of(0.0, 0.0, 0.0, 1.0), clock, min_sample_s=0.01)
    assert found.loops >= 1 and found.seconds > 0


def test_a_turn_throws_its_first_sample_away():
    clock = Clock()
    assert measure.turn(clock.run_of(9.0, 9.0, 1.0, 2.0, 3.0, 4.0), 2, 2, clock) == pytest.approx([1.5, 3.5])
    clock = Clock()
    assert measure.turn(clock.run_of(9.0, 1.0), 1, 2, clock, warm=False) == pytest.approx([9.0, 1.0])


def test_the_budget_is_cut_into_many_short_turns_and_slow_engines_get_fewer():
    fast, slow, giant = Calibration(10, 0.0002, []), Calibration(1, 0.1, []), Calibration(1, 9.0, [])
    cut = measure.shares({"fast": fast, "slow": slow, "giant": giant}, budget_s=0.8)
    assert cut["fast"] == Share(measure.MAX_ROUNDS, measure.SAMPLES_A_TURN, 10)
    assert cut["slow"] == Share(8, 1, 1)
    assert cut["giant"] == Share(measure.MIN_ROUNDS, 1, 1)
    assert measure.shares({"giant": giant}, 0.8, min_rounds=7)["giant"].rounds == 7


@pytest.mark.parametrize("own, rounds", [(40, 40), (3, 40), (7, 12), (1, 5), (12, 40)])
def test_an_engine_plays_exactly_its_rounds_evenly_spread(own, rounds):
    played = [k for k in range(rounds) if measure.takes_part(Share(own, 1, 1), k, rounds)]
    assert len(played) == own
    gaps = [b - a for a, b in itertools.pairwise(played)]
    assert not gaps or max(gaps) - min(gaps) <= 1


class Player:
    def __init__(self, name, log, fail_at=None):
        self.name, self.log, self.fail_at, self.turns = name, log, fail_at, 0

    def turn(self, loops, samples):
        self.turns += 1
        if self.turns == self.fail_at:
            raise RuntimeError("gone")
        self.log.append(self.name)
        return [float(self.turns)] * samples


@pytest.mark.parametrize("n", range(2, 8))
def test_each_engine_follows_each_other_one_equally_often(n):
    names = "ABCDEFG"[:n]
    rounds = [measure.in_order(names, number) for number in range(2 * n)]
    assert all(sorted(names) == sorted(each) for each in rounds)
    assert collections.Counter(each[0] for each in rounds) == dict.fromkeys(names, 2)
    followed = collections.Counter(pair for each in rounds for pair in itertools.pairwise(each))
    assert followed == dict.fromkeys(itertools.permutations(names, 2), 2)


def test_two_sides_and_the_probe_follow_each_other_equally_often_from_round_to_round_too():
    turns = [name for number in range(6) for name in measure.in_order("ABP", number)]
    assert collections.Counter(itertools.pairwise([*turns, turns[0]])) == dict.fromkeys(
        itertools.permutations("ABP", 2), 3
    )


def test_rounds_are_interleaved_and_change_their_order():
    log = []
    players = {name: Player(name, log) for name in "ABC"}
    taken = measure.play(players, dict.fromkeys("ABC", Share(4, 2, 1)), failed=lambda name, error: pytest.fail(name))
    assert "".join(log) == "ABCBCACABCBA"
    assert taken["B"] == {0: [1.0, 1.0], 1: [2.0, 2.0], 2: [3.0, 3.0], 3: [4.0, 4.0]}


def test_past_the_limit_all_play_together_until_each_has_its_least_rounds():
    clock, log = Clock(), []

    class Slow(Player):
        def turn(self, loops, samples):
            clock.now += 1.0
            return super().turn(loops, samples)

    players = {name: Slow(name, log) for name in "AB"}
    plan = {"A": Share(40, 1, 1), "B": Share(4, 1, 1)}
    taken = measure.play(players, plan, lambda name, error: pytest.fail(name), measure.Limit(5.5, 3, clock))
    assert len(taken["A"]) == 9 and len(taken["B"]) == 3
    assert sorted(set(taken["A"]) & set(taken["B"])) == sorted(
        taken["B"]
    )  # every round of B's has one of A's to its side
    assert clock.now == 12.0


def test_the_planned_time_counts_every_sample():
    calibrations = {"A": Calibration(10, 0.001, []), "B": Calibration(1, 0.5, [])}
    assert measure.planned_s(calibrations, {"A": Share(4, 2, 10), "B": Share(3, 1, 1)}) == pytest.approx(
        4 * 3 * 0.01 + 3 * 2 * 0.5
    )


def test_a_failing_engine_leaves_and_the_others_go_on():
    log, failures = [], []
    players = {"A": Player("A", log), "B": Player("B", log, fail_at=2)}
    taken = measure.play(
        players, dict.fromkeys("AB", Share(4, 1, 1)), lambda name, error: failures.append((name, str(error)))
    )
    assert failures == [("B", "gone")]
    assert list(taken) == ["A"] and len(taken["A"]) == 4
