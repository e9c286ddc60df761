"""GluonTS's DeepAR estimator, with its defaults or more units, on generated hourly series: time an epoch, and the loss.

pip install ".[torch]" "gluonts[torch]"
python benchmarks/programs/deepar.py
"""

from __future__ import annotations

import copy
import logging
import warnings
from functools import partial

import click
import lightning.pytorch as lightning
import numpy as np
import pandas as pd
import torch
from beside import in_turn, profile, report
from gluonts.dataset.common import ListDataset
from gluonts.torch.model.deepar import DeepAREstimator

import fastlstm.torch

BATCHES, HOURS, SERIES = 20, 24 * 60, 50


def series() -> ListDataset:
    """Daily and weekly cycles of different strength, with noise."""
    rng, t = np.random.default_rng(0), np.arange(HOURS)
    found = []
    for _ in range(SERIES):
        day, week, level = rng.uniform(0.2, 1, 3)
        values = level + day * np.sin(2 * np.pi * t / 24) + week * np.sin(2 * np.pi * t / 168)
        found.append({"start": pd.Period("2024-01-01", "h"), "target": 10 + values + 0.1 * rng.standard_normal(HOURS)})
    return ListDataset(found, freq="h")


@click.command()
@click.option("--rounds", default=7, show_default=True, help="Epochs of each, of 20 batches of 32.")
@click.option("--context", default=72, show_default=True, help="Hours that the model looks back.")
@click.option("--units", default=40, show_default=True, help="Of each of the two layers.")
@click.option("--threads", default=1, show_default=True)
def main(rounds: int, context: int, units: int, threads: int) -> None:
    """Train both in turn."""
    torch.set_num_threads(threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    estimator = DeepAREstimator(
        freq="h", prediction_length=24, context_length=context, hidden_size=units, num_batches_per_epoch=BATCHES
    )
    lightning.seed_everything(0, verbose=False)
    plain = estimator.create_lightning_module()
    prepared = estimator.create_transformation().apply(series(), is_train=True)
    np.random.seed(0)
    batches = list(estimator.create_training_data_loader(prepared, plain))  # the same for both, and not timed
    loader = torch.utils.data.DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    plain.training_step(batches[0], 0)  # the loss has parameters that its first call makes
    ours = copy.deepcopy(plain)
    print(fastlstm.torch.accelerate(ours))  # the one line
    losses: dict[bool, list[float]] = {False: [], True: []}

    def epoch(module: lightning.LightningModule) -> None:
        lightning.seed_everything(len(losses[module is ours]), verbose=False)  # of dropout
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, gradient_clip_val=10.0,
        )  # fmt: skip
        trainer.fit(module, loader)
        losses[module is ours].append(float(trainer.callback_metrics["train_loss"]))

    for module in (plain, ours):
        epoch(module)
    seconds = in_turn(partial(epoch, plain), partial(epoch, ours), rounds)
    report(f"DeepAR, {units} units, context {context}, {threads} thread(s)", *seconds, "an epoch", 1)
    print("loss of each epoch as it is:    ", *(f"{loss:.4f}" for loss in losses[False]))
    print("loss of each epoch with fastlstm:", *(f"{loss:.4f}" for loss in losses[True]))
    profile("DeepAR", lambda: epoch(plain))


if __name__ == "__main__":
    main()
