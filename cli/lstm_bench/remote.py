"""The parent's end of a worker: starts it, asks it, gives up on it after a while, and says plainly what went wrong."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import machine

_BOOT = Path(__file__).with_name("boot.py")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_ENDED = object()


class EngineFailed(Exception):
    """An engine that gave no answer: `status` is missing, failed, crashed or hung, `detail` a line for people."""

    def __init__(self, status: str, detail: str) -> None:
        """Keep the two parts; together they are the message."""
        super().__init__(f"{status}: {detail}")
        self.status, self.detail = status, detail


def environment(threads: int, path: Sequence[str]) -> dict[str, str]:
    """The environment of a worker: every library's thread count, and what it imports from."""
    env = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
    # Intel's OpenMP spins for 200 ms after a parallel region, long past the end of a call; GNU's stops much sooner.
    env.setdefault("KMP_BLOCKTIME", "5")
    env["PYTHONPATH"] = os.pathsep.join(path)
    env["PYTHONUNBUFFERED"] = "1"
    return env


def own_path() -> list[str]:
    """What this process imports from, so that a worker sees the same."""
    return [os.path.abspath(entry) for entry in sys.path if os.path.isdir(entry or ".")]


class Remote:
    """One worker process. `ask` sends one message and waits for its answer."""

    def __init__(
        self, engine: str, threads: int, path: Sequence[str] | None = None, variables: dict[str, str] | None = None
    ) -> None:
        """Start the process; it imports its engine at the first question."""
        self._log = tempfile.TemporaryFile(mode="w+", errors="replace")
        group: dict[str, Any] = (
            {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}  # type: ignore[attr-defined]
            if sys.platform == "win32"
            else {"start_new_session": True}  # Ctrl-C is the parent's to answer
        )
        self._process = subprocess.Popen(
            [sys.executable, str(_BOOT), engine, str(threads), *map(str, machine.choose_cores(threads) or ())],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, bufsize=1,
            env={**environment(threads, path or own_path()), **(variables or {})}, **group)  # fmt: skip
        self._lines: queue.Queue[Any] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(_ENDED)

    def ask(self, operation: str, limit_s: float, **fields: Any) -> dict[str, Any]:
        """The answer to one message; EngineFailed when none comes within `limit_s` seconds, or an error instead."""
        self.tell(operation, **fields)
        return self.answer(limit_s)

    def tell(self, operation: str, **fields: Any) -> None:
        """Send a message without waiting."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": operation, **fields}) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, OSError, ValueError):
            raise self._ended() from None

    def answer(self, limit_s: float) -> dict[str, Any]:
        """Wait for the answer to the message told last."""
        try:
            line = self._lines.get(timeout=limit_s)
        except queue.Empty:
            self.stop(kill=True)
            raise EngineFailed("hung", f"no answer within {limit_s:.0f} s") from None
        if line is _ENDED:
            raise self._ended()
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            error = reply["error"]
            if error["missing"]:
                raise EngineFailed("missing", f"{error['missing'].partition('.')[0]} is not installed")
            raise EngineFailed("failed", f"{error['type']}: {error['text']}".strip().splitlines()[0])
        return dict(reply["ok"])

    def _ended(self) -> EngineFailed:
        code = self._process.wait()
        said = self.log().strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return EngineFailed("crashed", f"{how}: {said[-1][:200]}" if said else how)

    def log(self) -> str:
        """What the worker has written to stderr."""
        self._log.seek(0)
        return self._log.read()

    @property
    def alive(self) -> bool:
        """Whether the process is still there."""
        return self._process.poll() is None

    def stop(self, kill: bool = False) -> None:
        """End the process: by closing its pipe, or at once."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if kill:
            self._process.kill()
        with contextlib.suppress(OSError):  # it may have died with a message unread
            self._process.stdin.close()
        try:
            self._process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()
        self._log.close()
