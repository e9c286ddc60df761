"""Train an LSTM on several processes, or machines, with PyTorch's DistributedDataParallel over gloo.

    torchrun --nproc-per-node 2 examples/torch_ddp.py
    torchrun --nproc-per-node 2 examples/torch_ddp.py --steps 100

Each process trains on its share of every batch, and DistributedDataParallel averages the gradients. Before it trains,
the first process computes the gradients of the whole first batch by itself, and prints how far off those of all are.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fastlstm.torch


class Classifier(nn.Module):
    """Whether the sum of a sequence is positive, told from the last step of a bidirectional LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = fastlstm.torch.LSTM(4, 32, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits (B,) of sequences (B, T, 4)."""
        y, _ = self.lstm(x)
        return self.head(y.mean(1)).squeeze(1)


def batch(seed: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (B, T, 4) and labels (B,), the same in every process."""
    x = torch.randn(rows, 20, 4, generator=torch.Generator().manual_seed(seed))
    return x, (x.sum((1, 2)) > 0).float()


def main() -> None:
    """Train, and print the loss now and then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of training (default: 20)")
    parser.add_argument("--rows", type=int, default=64, help="rows of a batch over all processes (default: 64)")
    options = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    if options.rows % world:
        parser.error(f"--rows must be a multiple of the {world} processes, but was {options.rows}")
    torch.manual_seed(0)
    alone = Classifier()
    model = DistributedDataParallel(copy.deepcopy(alone))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    loss_of = nn.BCEWithLogitsLoss()

    for step in range(options.steps):
        x, label = batch(step, options.rows)
        loss = loss_of(model(x[rank::world]), label[rank::world])
        optimizer.zero_grad()
        loss.backward()
        if step == 0 and rank == 0:
            loss_of(alone(x), label).backward()
            pairs = zip(model.parameters(), alone.parameters(), strict=True)
            worst = max(float((shared.grad - whole.grad).abs().max()) for shared, whole in pairs)
            print(f"gradients of {world} processes differ from those of one by at most {worst:.1e}")
        optimizer.step()
        if rank == 0 and (step % 10 == 9 or step == options.steps - 1):
            print(f"step {step + 1}: loss {loss.item():.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # Until Python 3.14, a thread of gloo's that is about to drop a gradient's averaging, and the Python object that it
    # holds, aborts a process that has begun to end: seen once in twenty runs on a busy machine, after a barrier too.
    sys.stdout.flush()
    os._exit(0)
