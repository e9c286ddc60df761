"""Soaks: many threads, processes and calls, with what they should leave unchanged counted and printed.

    python benchmarks/soak.py threads --seconds 60        # under NUMBA_THREADING_LAYER=omp, tbb, workqueue
    python benchmarks/soak.py processes --forks 200 --spawns 50
    python benchmarks/soak.py start --count 16
    python benchmarks/soak.py interrupt
    python benchmarks/soak.py steps --count 1000000
    python benchmarks/soak.py training --count 10000
    python benchmarks/soak.py denormals

Each ends with exit code 1 if something was not as it should be. The tests run short ones.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

import fastlstm

# (T, B, I, H, bidirectional): rows split over threads, units split, two directions, one step.
SHAPES = [(30, 32, 16, 64, False), (60, 1, 16, 256, False), (60, 3, 7, 70, True), (1, 2, 5, 20, False)]
GROWTH_MB = 2.0  # that resident memory may grow by after the first thousand calls


def say(text: str) -> None:
    """A figure."""
    print(text, flush=True)


class Work:
    """Layers and inputs of `SHAPES`, and the hash of what they give."""

    def __init__(self) -> None:
        self.layers, self.inputs = [], []
        for k, (T, B, I, H, bidirectional) in enumerate(SHAPES):
            self.layers.append(fastlstm.LSTM(I, H, bidirectional=bidirectional, seed=k))
            self.inputs.append(np.random.default_rng(k).standard_normal((T, B, I), dtype=np.float32))

    def run(self, k: int) -> bytes:
        """All results of one layer, inference and training."""
        layer, x = self.layers[k], self.inputs[k]
        inferred, _ = layer(x)
        y, (h, c), tape = layer.forward(x)
        dx, (dh, dc), grads = layer.backward(tape, y)
        total = hashlib.sha256()
        for array in (inferred, y, h, c, dx, dh, dc, *grads.values()):
            total.update(np.ascontiguousarray(array))
        return total.digest()

    def all(self) -> bytes:
        """All results of all layers."""
        return b"".join(self.run(k) for k in range(len(SHAPES)))


def resident_mb() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def threads(seconds: float, count: int) -> bool:
    """Many Python threads call the same layers; every result must have the bits of the first."""
    import numba

    work = Work()
    expected = [work.run(k) for k in range(len(SHAPES))]
    done, wrong, slowest = [0] * count, [0] * count, [0.0] * count
    end = time.perf_counter() + seconds

    def run(me: int) -> None:
        while (began := time.perf_counter()) < end:
            k = (me + done[me]) % len(SHAPES)
            wrong[me] += work.run(k) != expected[k]
            slowest[me] = max(slowest[me], time.perf_counter() - began)
            done[me] += 1

    pool = [threading.Thread(target=run, args=(me,), daemon=True) for me in range(count)]
    for thread in pool:
        thread.start()
    for thread in pool:
        thread.join(seconds + 120)
    stuck = sum(thread.is_alive() for thread in pool)
    say(
        f"{numba.threading_layer()}: {count} threads, {seconds:g} s: {sum(done)} rounds, {min(done)} to {max(done)} a "
        f"thread, the slowest {max(slowest):.2f} s; {sum(wrong)} wrong, {stuck} stuck"
    )
    return not sum(wrong) and not stuck and min(done) > 0


def _child(expected: bytes) -> None:
    os._exit(0 if Work().all() == expected else 3)


def _answer(k: int) -> bytes:
    return Work().run(k % len(SHAPES))


def _ended(process: multiprocessing.process.BaseProcess) -> bool:
    process.join(120)
    if process.exitcode is None:
        process.kill()
    return process.exitcode == 0


def processes(forks: int, spawns: int) -> bool:
    """Children of every kind give the parent's bits: forked before and after use, from a thread, from a pool."""
    warnings.simplefilter("ignore", DeprecationWarning)  # Python's, of forks beside threads
    fork, spawn, server = (multiprocessing.get_context(kind) for kind in ("fork", "spawn", "forkserver"))
    work = Work()
    fastlstm.set_num_threads(1)
    expected = work.all()
    fastlstm.set_num_threads(2)
    failed = {}

    def children(context, count: int, at_once: int) -> int:
        bad = 0
        for first in range(0, count, at_once):
            some = [context.Process(target=_child, args=(expected,)) for _ in range(first, min(first + at_once, count))]
            for process in some:
                process.start()
            bad += sum(not _ended(process) for process in some)
        return bad

    failed["forked before threads were started"] = children(fork, max(forks // 10, 1), 4)
    if work.all() != expected:
        failed["two threads"] = 1
    failed["forked after"] = children(fork, forks, 8)
    from_thread: list[int] = []
    thread = threading.Thread(target=lambda: from_thread.append(children(fork, max(forks // 10, 1), 4)))
    thread.start()
    while thread.is_alive():  # the parent is in parallel regions meanwhile
        if work.all() != expected:
            failed["while another thread forks"] = 1
    failed["forked from a thread"] = from_thread[0]
    failed["spawned"] = children(spawn, spawns, 4)
    failed["of a forkserver"] = children(server, max(spawns // 5, 1), 4)
    hashes = [expected[32 * k : 32 * k + 32] for k in range(len(SHAPES))]
    for context in (fork, spawn):
        with context.Pool(3) as pool:
            answers = pool.map(_answer, range(12))
        failed[f"{context.get_start_method()} pool"] = sum(a != hashes[k % len(SHAPES)] for k, a in enumerate(answers))
    if work.all() != expected:
        failed["afterwards"] = 1
    say(f"{forks} forked, {spawns} spawned, and others: " + ", ".join(f"{k} {v} wrong" for k, v in failed.items()))
    return not any(failed.values())


def start(count: int) -> bool:
    """Many processes on an empty cache at the same time: all right, and nothing is left broken."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import soak; print(soak.Work().all().hex())"
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"FASTLSTM_CACHE_DIR": folder}
        command = [sys.executable, "-c", script, str(Path(__file__).parent)]
        began = time.perf_counter()
        pool = [
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        found = [process.communicate() for process in pool]
        taken = time.perf_counter() - began
        files = {path.name: path.read_bytes() for path in Path(folder).glob("*/*") if path.suffix != ".lock"}
        broken = [name for name, content in files.items() if hashlib.sha256(content[32:]).digest() != content[:32]]
    complaints = [err for _, err in found if err]
    answers = {out for out, _ in found}
    say(
        f"{count} processes on an empty cache: {taken:.1f} s, {len(answers)} answer(s), {len(files)} kernels, "
        f"{len(broken)} broken, {len(complaints)} complaints"
    )
    return len(answers) == 1 and not broken and not complaints and all(not p.returncode for p in pool)


def interrupt(seconds: float) -> bool:
    """Ctrl-C in long calls: how long until KeyboardInterrupt, and whether the layer still works."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    layer = fastlstm.LSTM(256, 256, seed=0)
    x = np.zeros((100, 8, 256), np.float32)
    first, _ = layer(x)
    times = []
    for _ in range(20):  # the first compiles, and others may be slow beside other programs
        began = time.perf_counter()
        y, _, tape = layer.forward(x)
        times.append(time.perf_counter() - began)
        layer.backward(tape, y)
    T = int(seconds * len(x) / min(times))
    long = np.broadcast_to(x[:1], (T, 8, 256))
    good = True

    def timed(name: str, call: Callable[[], object]) -> None:
        nonlocal good
        rung: list[float] = []

        def ring() -> None:
            time.sleep(seconds / 4)
            rung.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        ringer = threading.Thread(target=ring)
        ringer.start()
        try:
            call()
        except KeyboardInterrupt:
            late = time.perf_counter() - rung[0]
            good &= late < 1
            told = f"KeyboardInterrupt {late:.2f} s after Ctrl-C"
        else:
            good, told = False, "ended before it was interrupted"
        ringer.join()
        if not np.array_equal(layer(x)[0], first):
            good, told = False, f"{told}; the layer does not work any more"
        say(f"{name}, T = {T}: {told}")

    timed("inference", lambda: layer(long))
    timed("forward", lambda: layer.forward(long))
    y, _, tape = layer.forward(long)
    timed("backward", lambda: layer.backward(tape, y))
    return good


def _grown(call: Callable[[int], object], count: int) -> float:
    first = min(1000, count // 2)
    for k in range(first):
        call(k)
    before = resident_mb()
    for k in range(first, count):
        call(k)
    return resident_mb() - before


def steps(count: int) -> bool:
    """Memory over many steps of a stream."""
    stream = fastlstm.LSTM(32, 64, seed=0).stream()
    x = np.ones(32, np.float32)
    grown = _grown(lambda k: stream.step(x), count)
    say(f"{count} steps of a stream: resident memory grew by {grown:.2f} MB after the first thousand")
    return grown < GROWTH_MB


def training(count: int) -> bool:
    """Memory over training steps of random shapes, after one of the largest shape."""
    layers = [fastlstm.LSTM(I, H, seed=0) for I, H in ((8, 16), (33, 70))]
    random = np.random.default_rng(0)
    xs = [np.ones((40, 16, layer.input_size), np.float32) for layer in layers]

    def step(k: int) -> None:
        layer, x = layers[k % 2], xs[k % 2]
        T, B = (40, 16) if k < 2 else random.integers(1, (41, 17))
        y, _, tape = layer.forward(x[:T, :B])
        layer.backward(tape, y)

    grown = _grown(step, count)
    say(f"{count} training steps of random shapes: resident memory grew by {grown:.2f} MB after the first thousand")
    return grown < GROWTH_MB


def denormals() -> bool:
    """The time of a call on denormal input and weights beside that of plain ones; PyTorch's too, if it is there."""
    shape, hidden = (50, 32, 128), 128

    def ratio(run: Callable[[np.ndarray, bool], None]) -> float:
        plain = np.full(shape, 0.5, np.float32)
        tiny = np.full(shape, 1e-40, np.float32)
        for small in (False, True):
            run(tiny if small else plain, small)
        pairs = []
        for _ in range(30):
            times = []
            for small in (False, True):
                began = time.perf_counter()
                run(tiny if small else plain, small)
                times.append(time.perf_counter() - began)
            pairs.append(times[1] / times[0])
        return float(np.median(pairs))

    layers = [fastlstm.LSTM(shape[2], hidden, seed=0) for _ in range(2)]
    for array in layers[1].parameters.values():
        array *= np.float32(1e-38)
    ours = ratio(lambda x, small: layers[small](x))
    text = f"denormal input and weights: {ours:.3f} times the plain time"
    try:
        import torch
    except ImportError:
        pass
    else:
        modules = [torch.nn.LSTM(shape[2], hidden) for _ in range(2)]
        with torch.no_grad():
            for parameter in modules[1].parameters():
                parameter *= 1e-38

        def run(x: np.ndarray, small: bool) -> None:
            with torch.inference_mode():
                modules[small](torch.from_numpy(x))

        text += f"; PyTorch {ratio(run):.2f} times"
    say(text)
    return ours < 1.1


def main() -> None:
    """Run one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function: Callable[..., bool], **options: float) -> None:
        made = commands.add_parser(function.__name__, help=function.__doc__)
        for name, value in options.items():
            made.add_argument(f"--{name}", type=type(value), default=value)
        made.set_defaults(run=function)

    command(threads, seconds=60.0, count=64)
    command(processes, forks=200, spawns=50)
    command(start, count=16)
    command(interrupt, seconds=4.0)
    command(steps, count=1_000_000)
    command(training, count=10_000)
    command(denormals)
    chosen = vars(parser.parse_args())
    sys.exit(not chosen.pop("run")(**chosen))


if __name__ == "__main__":
    main()
