"""The process that an engine lives in: one JSON message a line in, one out. Between messages it sleeps on the pipe."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable
from typing import Any

from .machine import stat_fields

PROBES = 5  # a limit is what the machine can do: the best of so many 10 ms timings
STEPS_KEPT = 64  # inputs that a timed stream cycles through


class Worker:
    """One engine and the case that it has prepared."""

    def __init__(self, engine: str, threads: int) -> None:
        """Import the engine; the time that takes is told in `hello`."""
        start = time.perf_counter()
        from . import engines

        self.adapter = engines.load(engine)(threads)
        self.import_s = time.perf_counter() - start
        self.run: Callable[[], Any] = _nothing_loaded
        self.task: dict[str, Any] = {}
        self.first: Any = None  # what the first call gave, until it is checked

    def hello(self) -> dict[str, Any]:
        """Who is there and what it can do."""
        adapter = self.adapter
        return {"version": adapter.version(), "import_s": self.import_s, "modes": adapter.modes,
                "dtypes": adapter.dtypes, "python": sys.version.split()[0], "pid": os.getpid()}  # fmt: skip

    def _work(self, task: dict[str, Any]) -> Any:
        from . import workload
        from .cases import Case

        return workload.make(Case.from_json(task["case"]), task["dtype"], task["seed"])

    def _runner(self, work: Any, mode: str) -> Callable[[], Any]:
        """The call that is timed; a stream's goes through its inputs over and over."""
        if mode != "stream":
            return self.adapter.inference(work) if mode == "inference" else self.adapter.training(work)
        step = self.adapter.stream(work)
        inputs = [self.adapter.native(x) for x in work.x[:STEPS_KEPT]]
        at = 0

        def run() -> Any:
            nonlocal at
            x = inputs[at]
            at = (at + 1) % len(inputs)
            return step(x)

        return run

    def load(self, **task: Any) -> dict[str, Any]:
        """Prepare a case and run it once: where an engine compiles lazily, here is where it does."""
        self.unload()
        self.task, mode = task, task["mode"]
        work = self._work(task)
        start = time.perf_counter()
        self.run = self._runner(work, mode)
        prepared = time.perf_counter()
        self.first = self.run()
        return {"prepare_s": prepared - start, "first_call_s": time.perf_counter() - prepared}

    def unload(self) -> dict[str, Any]:
        """Drop the case and give its memory back."""
        self.run, self.task, self.first = _nothing_loaded, {}, None
        gc.collect()
        _trim()
        return {}

    def results(self, path: str, case: dict[str, Any], prefix: int) -> dict[str, Any]:
        """Write the results of the shortened `case`, and the first `prefix` steps of the whole case's y."""
        import numpy as np

        mode = self.task["mode"]
        work = self._work({**self.task, "case": case})
        found: dict[str, Any] = {}
        if mode == "stream":
            step = self.adapter.stream(work)
            found["y"] = np.stack([self.adapter.numpy(step(self.adapter.native(x))) for x in work.x])
        elif mode == "training":
            y, dx, grads = self.adapter.training(work)()
            found = {name: self.adapter.numpy(value) for name, value in {"y": y, "dx": dx, **grads}.items()}
        else:
            found["y"] = self.adapter.numpy(self.adapter.inference(work)())
        if prefix:
            y = self.first[0] if mode == "training" else self.first
            found["timed_y"] = self.adapter.numpy(y)[:prefix]
        self.first = None
        np.savez(path, **found)
        return {"steps": len(work.x)}

    def calibrate(self, min_sample_s: float) -> dict[str, Any]:
        """Find the loops that make a sample long enough."""
        from . import measure

        return measure.calibrate(self.run, time.perf_counter, min_sample_s)._asdict()

    def turn(self, loops: int, samples: int, warm: bool = True) -> dict[str, Any]:
        """Take samples, then wait until the engine's own threads have stopped spinning."""
        from . import measure

        taken = measure.turn(self.run, loops, samples, time.perf_counter, warm)
        return {"samples": taken, "settle_s": _settle()}

    def memory(self) -> dict[str, Any]:
        """Peak resident bytes in one more run, and what NumPy allocated in it if the engine's arrays are NumPy's."""
        _trim()
        if self.adapter.traced:
            tracemalloc.start()
        before = _reset_peak()
        self.run()
        found = {"peak_rss_bytes": _peak_rss(), "rss_before_bytes": before, "allocated_bytes": None}
        if self.adapter.traced:
            found["allocated_bytes"] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        return found

    def latency(self, seconds: float, most: int) -> dict[str, Any]:
        """Single runs, each timed by itself, for as long as that."""
        from . import measure

        measure.turn(self.run, 1, 50, time.perf_counter, warm=True)
        stop, taken = time.perf_counter() + seconds, list[float]()
        while len(taken) < most and time.perf_counter() < stop:
            taken += measure.turn(self.run, 1, 200, time.perf_counter, warm=False)
        return {"samples": taken[:most], "settle_s": _settle()}

    def peak(self, dtype: str, threads: int, probes: int = PROBES) -> dict[str, Any]:
        """The multiply-add peak, by fastlstm's probe: the best of several timings."""
        from fastlstm.simd import probe

        return {"gflops": max(float(probe.fma_peak_gflops(dtype, threads=threads)) for _ in range(probes))}

    def bandwidth(self, nbytes: int, threads: int) -> dict[str, Any]:
        """The read bandwidth of threads that read a buffer of this size each, by fastlstm's probe."""
        from fastlstm.simd import probe

        return {"gbs": max(float(probe.read_bandwidth_gbs(nbytes, threads=threads)) for _ in range(PROBES))}

    def explain(self, threads: tuple[int, ...], **task: Any) -> dict[str, Any]:
        """fastlstm's own account of how it cuts a call, and the microseconds that its model expects for other thread
        counts.
        """
        work = self._work(task)
        lstm = self.adapter.layer(work)  # type: ignore[attr-defined]
        T = 1 if task["mode"] == "stream" else work.case.T
        training = task["mode"] == "training"
        passes = (False, True) if training else (False,)
        layers = range(work.case.layers)
        expected = [
            sum(lstm.plan(T, work.case.B, back, layer, n).expected_us for back in passes for layer in layers)
            for n in threads
        ]
        return {"text": lstm.plan(T, work.case.B, training=training).explain(), "expected": expected}

    def target(self) -> dict[str, Any]:
        """What fastlstm's kernels are compiled for, and Numba's threading layer."""
        import numba

        from fastlstm.simd import isa

        target = isa.target()
        _fill()
        return {"name": target.name, "bits": target.bits, "registers": target.registers, "cpu": target.cpu,
                "lanes": {dtype: int(target.lanes(dtype)) for dtype in ("float32", "float64")},
                "threading_layer": numba.threading_layer()}  # fmt: skip


def _nothing_loaded() -> None:
    raise RuntimeError("no case is loaded")


def _fill() -> None:
    """Run something parallel: Numba chooses its threading layer then."""
    import numpy as np
    from numba import njit, prange

    @njit(parallel=True)  # type: ignore[untyped-decorator]
    def fill(out: np.ndarray) -> None:
        for k in prange(out.size):
            out[k] = k

    fill(np.empty(8))


def _settle(step_s: float = 0.001, most_s: float = 1.0) -> float:
    """Sleep until no other thread of this process runs; thread pools spin for a while after their last job."""
    start, quiet = time.perf_counter(), 0
    while quiet < 2 and time.perf_counter() - start < most_s:
        time.sleep(step_s)
        quiet = 0 if _others_run() else quiet + 1
    return time.perf_counter() - start


def _others_run(window_s: float = 0.05) -> bool:
    """Whether another thread of this process runs, or burns processor time where the system does not tell. Linux does,
    and adds what a thread has used to the process's clock at ticks alone, up to 10 ms apart.
    """
    tasks = "/proc/self/task"
    if not os.path.isdir(tasks):
        used = time.process_time()
        time.sleep(window_s)
        return time.process_time() - used > 0.25 * window_s
    others = set(map(int, os.listdir(tasks))) - {threading.get_native_id()}
    return any(stat_fields(f"{tasks}/{task}")[:1] == ["R"] for task in others)


def _trim() -> None:
    """Hand free memory back to the system where the C library knows how."""
    if sys.platform == "linux":
        import ctypes

        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _status(field: str) -> int | None:
    """A field of /proc/self/status in bytes."""
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith(field + ":"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def _reset_peak() -> int | None:
    """Start the peak of resident memory anew, where Linux lets us; the resident bytes now."""
    try:
        with open("/proc/self/clear_refs", "w") as refs:
            refs.write("5")
    except OSError:
        return None
    return _status("VmRSS")


def _peak_rss() -> int | None:
    """The peak of resident memory: since the reset on Linux, since the start elsewhere, unknown on Windows."""
    peak = _status("VmHWM")
    if peak is None and sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return peak


OPERATIONS = ("hello", "load", "unload", "results", "calibrate", "turn", "memory", "latency", "peak", "bandwidth",
              "explain", "target")  # fmt: skip


def serve(engine: str, threads: int) -> None:
    """Answer messages until the pipe closes. What libraries print goes to stderr, never into the protocol."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    worker: Worker | None = None
    for line in sys.stdin:
        message = json.loads(line)
        operation = message.pop("op")
        try:
            if operation not in OPERATIONS:
                raise ValueError(f"unknown operation {operation!r}")
            worker = worker or Worker(engine, threads)
            reply({"ok": getattr(worker, operation)(**message)})
        except Exception as error:  # whatever an engine raises is an answer, told to the parent
            missing = error.name if isinstance(error, ModuleNotFoundError) and worker is None else None
            reply({"error": {"type": type(error).__name__, "text": str(error), "missing": missing,
                             "traceback": traceback.format_exc()}})  # fmt: skip


def main() -> None:
    """Entry of the process: `ENGINE THREADS [CORE ...]`; threads that the engine starts inherit the cores."""
    engine, threads, *cores = sys.argv[1:]
    if cores:
        os.sched_setaffinity(0, set(map(int, cores)))
    serve(engine, int(threads))
