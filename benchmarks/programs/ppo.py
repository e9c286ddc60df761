"""sb3-contrib's RecurrentPPO on CartPole without velocities: frames a second, and that both learn alike.

    pip install ".[torch]" sb3-contrib
    python benchmarks/programs/ppo.py                             # 10 updates of each, a minute
    python benchmarks/programs/ppo.py --rounds 40 --seeds 0,1,2   # with learning curves, ten minutes

Both begin with the same weights and draw the same random numbers in each update: they differ by rounding, until that
turns a first action. From there on they are two runs of one random process.
"""

from __future__ import annotations

import math
import statistics
from functools import partial

import click
import gymnasium
import numpy as np
import torch
from beside import in_turn, profile, report
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import set_random_seed

import fastlstm.torch

STEPS, ENVIRONMENTS = 128, 8


class Positions(gymnasium.ObservationWrapper):
    """CartPole that shows where the cart and the pole are, and not how fast they move: that takes a memory."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-5, 5, (2,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2].astype(np.float32)


class Agent:
    """RecurrentPPO, and its learning curve: the mean reward of the last 100 episodes after each update."""

    def __init__(self, seed: int) -> None:
        env = make_vec_env("CartPole-v1", ENVIRONMENTS, seed=seed, wrapper_class=Positions)
        options = {"n_steps": STEPS, "batch_size": 128, "n_epochs": 4, "seed": seed, "device": "cpu"}
        self.model, self.seed, self.curve = RecurrentPPO("MlpLstmPolicy", env, **options), seed, list[float]()

    def learn(self) -> None:
        """One update."""
        set_random_seed(1000 * self.seed + len(self.curve))
        self.model.learn(STEPS * ENVIRONMENTS, reset_num_timesteps=False)
        self.curve.append(float(np.mean([episode["r"] for episode in self.model.ep_info_buffer])))


def parts(curve: list[float]) -> list[float]:
    """Means of a curve's tenths."""
    return [float(part.mean()) for part in np.array_split(curve, min(10, len(curve)))]


def show(plain: Agent, ours: Agent) -> None:
    """Print both curves."""
    for agent, kind in ((plain, "as it is"), (ours, "with fastlstm")):
        means = " ".join(f"{mean:6.1f}" for mean in parts(agent.curve))
        print(f"seed {agent.seed}, reward, {kind:13} {means}")
    pairs = zip(plain.curve, ours.curve, strict=True)
    same = next((k for k, (before, after) in enumerate(pairs) if before != after), len(plain.curve))
    print(f"seed {plain.seed}, equal for the first {same} updates of {len(plain.curve)}", flush=True)


def compare(curves: list[tuple[list[float], list[float]]]) -> None:
    """Print how far the curves are apart with and without fastlstm, and how far those of different seeds are."""
    for what, chosen in (("whole curves", slice(None)), ("their last fifths", slice(-2, None))):
        before, after = (
            [statistics.fmean(parts(curve)[chosen]) for curve in kind] for kind in zip(*curves, strict=True)
        )
        apart = [b - a for a, b in zip(before, after, strict=True)]
        error = statistics.stdev(apart) / math.sqrt(len(apart))
        print(f"mean of {what}: {statistics.fmean(before):.1f} as it is, {statistics.fmean(after):.1f} with fastlstm, "
              f"difference {statistics.fmean(apart):+.1f} with a standard error of {error:.1f}; standard deviation "
              f"among seeds {statistics.stdev(before):.1f} and {statistics.stdev(after):.1f}")  # fmt: skip


@click.command()
@click.option("--rounds", default=10, show_default=True, help="Updates of each, of 1024 frames.")
@click.option("--seeds", default="0", show_default=True, help="An agent of each, one after the other.")
@click.option("--threads", default=1, show_default=True)
def main(rounds: int, seeds: str, threads: int) -> None:
    """Train both in turn."""
    torch.set_num_threads(threads)
    plain_seconds, our_seconds, curves = list[float](), list[float](), []
    for seed in map(int, seeds.split(",")):
        plain, ours = Agent(seed), Agent(seed)
        swapped = fastlstm.torch.accelerate(ours.model.policy)  # the one line
        if not curves:
            print(swapped)
        plain.learn(), ours.learn()
        taken = in_turn(plain.learn, ours.learn, rounds - 1)
        plain_seconds += taken[0]
        our_seconds += taken[1]
        curves.append((plain.curve, ours.curve))
        show(plain, ours)
    report(f"RecurrentPPO, {threads} thread(s)", plain_seconds, our_seconds, "frames/s", STEPS * ENVIRONMENTS)
    if len(curves) > 1:
        compare(curves)
    profile("RecurrentPPO", partial(Agent.learn, plain))


if __name__ == "__main__":
    main()
