"""Where compiled kernels are kept, and when they are stale.

The folder bears the digest of every source that goes into a kernel, of Numba's, llvmlite's and Python's versions, so
that an edit anywhere, or another version, compiles anew; a file's name that of the kernel's variant and of the
processor. A file that was cut or overwritten fails its checksum and counts as missing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import secrets
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent.parent
SOURCES = ("checks.py", "cell.py", "simd/*.py", "kernels/*.py", "passes/*.py", "runtime/*.py", "models/kernels.py")
CHECKSUM = 32  # bytes of SHA-256 at the head of a file
PATIENCE_S = 60.0  # several times what any kernel takes to compile
_warned = False


def sources() -> list[Path]:
    """The files whose text decides what a kernel compiles to."""
    return sorted(path for pattern in SOURCES for path in PACKAGE.glob(pattern))


def _version(name: str) -> Path:
    """A file of Numba or llvmlite that no two versions share; to import them for it would take longer than all else."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ImportError(f"fastlstm needs {name}, which cannot be imported")
    return Path(spec.origin).with_name("_version.py")


@cache
def digest() -> str:
    """A name for this state of the sources, of Numba and of Python."""
    total = hashlib.sha256(sys.version.encode())
    for path in (_version("numba"), _version("llvmlite"), *sources()):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def root() -> Path:
    """The folder of all caches: `FASTLSTM_CACHE_DIR`, else Numba's `NUMBA_CACHE_DIR`, else the user's cache folder."""
    if named := os.environ.get("FASTLSTM_CACHE_DIR") or os.environ.get("NUMBA_CACHE_DIR"):
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fastlstm"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastlstm"


def _refused(error: Exception) -> None:
    """Warn, once, that nothing can be kept."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"fastlstm keeps no compiled kernels ({error}); set FASTLSTM_CACHE_DIR to a writable folder",
            RuntimeWarning,
            stacklevel=2,
        )


def load(name: str) -> bytes | None:
    """What `save` kept under a name; None where that is nothing, or not whole."""
    try:
        content = (root() / digest() / name).read_bytes()
    except (OSError, RuntimeError):  # RuntimeError: no home folder can be told
        return None
    code = content[CHECKSUM:]
    return code if hashlib.sha256(code).digest() == content[:CHECKSUM] else None


def save(name: str, code: bytes) -> None:
    """Keep code under a name; whoever reads at the same time finds all of it or nothing."""
    try:
        folder = root() / digest()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f"{name}.{secrets.token_hex(8)}"
        try:
            temporary.write_bytes(hashlib.sha256(code).digest() + code)
            os.replace(temporary, folder / name)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError) as error:
        _refused(error)


@contextlib.contextmanager
def compiling(name: str) -> Iterator[None]:
    """While a process is in here, others that would compile the same wait, since they will find it kept.

    No longer than `PATIENCE_S`, and not at all where there is no such lock: then they compile it too.
    """
    with contextlib.ExitStack() as opened:
        try:
            import fcntl

            path = root() / digest() / f"{name}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = opened.enter_context(open(path, "a"))
        except (ImportError, OSError, RuntimeError):
            yield
            return
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.02)
            except OSError:  # a file system without locks
                break
        yield


@cache
def folder() -> Path | None:
    """The folder of this state's kernels, for Numba's own cache; None, with a warning, where nothing can be written."""
    try:
        path = root() / digest()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:
        _refused(error)
        return None
    return path
