"""silero-vad's ONNX model in onnxruntime and in `fastlstm.onnx.replace`, frame by frame: time a frame of 32 ms.

    pip install ".[onnx]" torch silero-vad
    python benchmarks/programs/silero_onnx.py

Its LSTM computes too little in a frame to be worth a cut, so `replace` leaves such calls to onnxruntime; what they take
where every call is cut stands beside it.
"""

from __future__ import annotations

from functools import partial

import click
import numpy as np
import onnxruntime
from beside import in_turn, report
from silero import CONTEXT, HOP, path, sound

import fastlstm
import fastlstm.onnx


@click.command()
@click.option("--seconds", default=16.0, show_default=True, help="Of sound.")
@click.option("--rounds", default=10, show_default=True)
def main(seconds: float, rounds: int) -> None:
    """Run both in turn, on one thread."""
    fastlstm.set_num_threads(1)
    options, name = onnxruntime.SessionOptions(), path("silero_vad.onnx")
    options.intra_op_num_threads = 1
    samples = np.concatenate([np.zeros(CONTEXT, np.float32), sound(seconds)])
    frames = np.lib.stride_tricks.sliding_window_view(samples, CONTEXT + HOP)[::HOP].copy()

    def streamed(session: onnxruntime.InferenceSession | fastlstm.onnx.Session) -> np.ndarray:
        state, found = np.zeros((2, 1, 128), np.float32), []
        for frame in frames:
            speech, state = session.run(None, {"input": frame[None], "state": state, "sr": np.array(16000)})
            found.append(speech)
        return np.concatenate(found)

    plain = onnxruntime.InferenceSession(name, options, providers=["CPUExecutionProvider"])
    ours = {"as replaced": fastlstm.onnx.replace(name, options)}
    ours["every call cut"] = fastlstm.onnx.replace(name, options, least_flops=0)
    for kind, session in ours.items():
        print(f"{kind}: probabilities within {abs(streamed(session) - streamed(plain)).max():.1e} of onnxruntime's")
        seconds_of = in_turn(partial(streamed, plain), partial(streamed, session), rounds)
        report(f"silero-vad, {kind}", *seconds_of, "a frame", len(frames))


if __name__ == "__main__":
    main()
