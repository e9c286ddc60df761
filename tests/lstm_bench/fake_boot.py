"""A stand-in for lstm_bench/boot.py: workers whose engines misbehave as their names say."""

from __future__ import annotations

import os
import sys
import time

from lstm_bench import engines, worker
from lstm_bench.engines.numpy import Engine as NumpyEngine


class Fine(NumpyEngine):
    def version(self):
        return "fine 1.0"


class Wrong(NumpyEngine):
    """Off by one part in a thousand."""

    def inference(self, work):
        run = super().inference(work)
        return lambda: run() * 1.001


class Limited(NumpyEngine):
    modes = ("inference",)
    dtypes = ("float32",)


class Raising(NumpyEngine):
    def training(self, work):
        raise RuntimeError("no gradient today")


class Crashing(NumpyEngine):
    """Ends its process in the first timed turn of a case of five units."""

    def inference(self, work):
        run = super().inference(work)
        return run if work.case.H != 5 else self._doomed(run)

    def _doomed(self, run):
        calls = 0

        def crash():
            nonlocal calls
            calls += 1
            if calls > 8:  # past loading and calibration
                print("a last word", file=sys.stderr, flush=True)
                os._exit(7)
            return run()

        return crash


class Hanging(NumpyEngine):
    def inference(self, work):
        time.sleep(600)


class Missing:
    def __init__(self, threads):
        raise ModuleNotFoundError("No module named 'nothing.at_all'", name="nothing.at_all")


FAKES = {"fine": Fine, "wrong": Wrong, "limited": Limited, "raising": Raising, "crashing": Crashing,
         "hanging": Hanging, "missing": Missing}  # fmt: skip

if __name__ == "__main__":
    engines.load = lambda name: FAKES[name]
    worker.main()
