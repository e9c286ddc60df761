"""silero-vad's voice activity detector in PyTorch, with the weights of its package: time a frame of 32 ms.

    pip install ".[torch]" silero-vad
    python benchmarks/programs/silero.py

The package has its model as TorchScript and ONNX, whose parts cannot be exchanged; here it is as a module. Its
probabilities are compared with those of the package, on sound made for it.
"""

from __future__ import annotations

import copy
import time
from functools import partial
from importlib.metadata import files

import click
import numpy as np
import torch
from beside import in_turn, profile, report
from torch import Tensor

import fastlstm.torch

RATE, HOP, CONTEXT = 16000, 512, 64  # Hz; samples of a frame, and of the one before that it sees

State = tuple[Tensor, Tensor]


class Detector(torch.nn.Module):
    """From frames (T, 576) and a state to the probabilities of speech (T,) and the state after them."""

    def __init__(self, weights: list[Tensor]) -> None:
        super().__init__()
        conv = torch.nn.Conv1d
        self.stft_conv = conv(1, 258, 256, stride=128, bias=False)
        self.conv1, self.conv2 = conv(129, 128, 3, padding=1), conv(128, 64, 3, stride=2, padding=1)
        self.conv3, self.conv4 = conv(64, 64, 3, stride=2, padding=1), conv(64, 128, 3, padding=1)
        self.lstm = torch.nn.LSTM(128, 128)
        self.final_conv = conv(128, 1, 1)
        names = [f"lstm.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        convs = [f"conv{k}.{part}" for k in range(1, 5) for part in ("weight", "bias")]
        names = ["stft_conv.weight", *convs, *names, "final_conv.weight", "final_conv.bias"]  # in the package's order
        self.load_state_dict(dict(zip(names, weights, strict=True)))

    def forward(self, frames: Tensor, state: State) -> tuple[Tensor, State]:
        x = torch.nn.functional.pad(frames, (0, 64), "reflect").unsqueeze(1)
        real, imaginary = self.stft_conv(x).split(129, dim=1)
        x = (real.square() + imaginary.square()).sqrt()
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = conv(x).relu()
        y, state = self.lstm(x.transpose(1, 2), state)
        return self.final_conv(y.relu().transpose(1, 2)).sigmoid().flatten(), state


def path(name: str) -> str:
    """A file of the package."""
    return str(next(file.locate() for file in files("silero-vad") or () if file.name == name))


def sound(seconds: float) -> np.ndarray:
    """Syllables of a voice with a moving pitch, with pauses, over faint noise."""
    rng, t = np.random.default_rng(0), np.arange(int(seconds * RATE)) / RATE
    phase = 2 * np.pi * np.cumsum(120 + 25 * np.sin(2 * np.pi * 0.7 * t)) / RATE
    formant = 500 + 250 * np.sin(2 * np.pi * 1.3 * t)
    voice = sum(np.exp(-(((k * 120 - formant) / 200) ** 2)) * np.sin(k * phase) for k in range(1, 30))
    syllables = np.clip(3 * np.sin(2 * np.pi * 3.4 * t), 0, 1) * ((t % 4) < 2.2)
    return (0.2 * voice * syllables + 0.002 * rng.standard_normal(len(t))).astype(np.float32)


@click.command()
@click.option("--seconds", default=16.0, show_default=True, help="Of sound.")
@click.option("--rounds", default=20, show_default=True)
@click.option("--threads", default=1, show_default=True)
def main(seconds: float, rounds: int, threads: int) -> None:
    """Run both in turn, frame by frame and over the whole file."""
    torch.set_num_threads(threads)
    samples = np.concatenate([np.zeros(CONTEXT, np.float32), sound(seconds)])
    frames = torch.from_numpy(np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + HOP)[::HOP].copy())
    package = torch.jit.load(path("silero_vad.jit"))
    plain = Detector([value for name, value in package.state_dict().items() if name.startswith("_model.")]).eval()
    ours = copy.deepcopy(plain)
    print(fastlstm.torch.accelerate(ours))  # the one line
    nothing = torch.zeros(1, 1, 128), torch.zeros(1, 1, 128)

    @torch.inference_mode()
    def whole(model: Detector) -> Tensor:
        return model(frames, nothing)[0]

    @torch.inference_mode()
    def streamed(model: Detector) -> Tensor:
        state, found = nothing, []
        for frame in frames:
            speech, state = model(frame[None], state)
            found.append(speech)
        return torch.cat(found)

    with torch.inference_mode():
        start = time.perf_counter()
        expected = torch.cat([package(frame[None, CONTEXT:], RATE) for frame in frames]).flatten()
        own = 1e3 * (time.perf_counter() - start) / len(frames)
    print(f"the package: probabilities up to {expected.max():.3f}, {own:.3f} ms a frame")
    for model, kind in ((plain, "as it is"), (ours, "with fastlstm")):
        furthest = max(float((work(model) - expected).abs().max()) for work in (streamed, whole))
        print(f"{kind}: probabilities within {furthest:.1e} of the package's")
    for name, work in (("frame by frame", streamed), ("whole file", whole)):
        taken = in_turn(partial(work, plain), partial(work, ours), rounds)
        report(f"silero-vad, {name}, {threads} thread(s)", *taken, "a frame", len(frames))
        profile(f"silero-vad, {name}", partial(work, plain))


if __name__ == "__main__":
    main()
