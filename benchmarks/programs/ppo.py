"""sb3-contrib's RecurrentPPO on CartPole without velocities: frames a second, and that both learn alike.

pip install ".[torch]" sb3-contrib
python benchmarks/programs/ppo.py
"""

from __future__ import annotations

import click
import gymnasium
import numpy as np
import torch
from beside import in_turn, profile, report
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env

import fastlstm.torch

STEPS, ENVIRONMENTS = 128, 8


class Positions(gymnasium.ObservationWrapper):
    """CartPole that shows where the cart and the pole are, and not how fast they move: that takes a memory."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Box(-5, 5, (2,), np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return observation[::2].astype(np.float32)


@click.command()
@click.option("--rounds", default=10, show_default=True, help="Updates of each, of 1024 frames.")
@click.option("--threads", default=1, show_default=True)
def main(rounds: int, threads: int) -> None:
    """Train both in turn."""
    torch.set_num_threads(threads)
    models = []
    for _ in range(2):
        env = make_vec_env("CartPole-v1", ENVIRONMENTS, seed=0, wrapper_class=Positions)
        options = {"n_steps": STEPS, "batch_size": 128, "n_epochs": 4, "seed": 0, "device": "cpu"}
        models.append(RecurrentPPO("MlpLstmPolicy", env, **options))
    plain, ours = models
    print(fastlstm.torch.accelerate(ours.policy))  # the one line

    rewards: dict[RecurrentPPO, list[float]] = {model: [] for model in models}

    def learn(model: RecurrentPPO) -> None:
        model.learn(STEPS * ENVIRONMENTS, reset_num_timesteps=False)
        rewards[model].append(float(np.mean([episode["r"] for episode in model.ep_info_buffer])))

    for model in models:
        learn(model)
    seconds = in_turn(lambda: learn(plain), lambda: learn(ours), rounds)
    report(f"RecurrentPPO, {threads} thread(s)", *seconds, "frames/s", STEPS * ENVIRONMENTS)
    for model, kind in ((plain, "as it is"), (ours, "with fastlstm")):
        curve = ", ".join(f"{reward:.1f}" for reward in rewards[model][:: max(1, rounds // 8)])
        print(f"mean reward of the last 100 episodes, {kind}: {curve}")
    profile("RecurrentPPO", lambda: learn(plain))


if __name__ == "__main__":
    main()
