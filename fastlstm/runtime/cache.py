"""Where compiled kernels are kept, and when they are stale.

Numba's own cache watches the file of the caching function alone; a kernel is made of many. Here the folder bears
the digest of every source that goes into a kernel, so that an edit anywhere, or another version of Numba, compiles
anew. Numba adds the processor to the key of each entry.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import warnings
from functools import cache
from pathlib import Path

import llvmlite
import numba
from numba.core import caching

PACKAGE = Path(__file__).parent.parent
SOURCES = ("simd/*.py", "kernels/*.py", "passes/*.py", "runtime/*.py", "models/kernels.py")


def sources() -> list[Path]:
    """The files whose text decides what a kernel compiles to."""
    return sorted(path for pattern in SOURCES for path in PACKAGE.glob(pattern))


@cache
def digest() -> str:
    """A name for this state of the sources, of Numba and of Python."""
    total = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__} {sys.version}".encode())
    for path in sources():
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()[:16]


def root() -> Path:
    """The folder of all caches: `FASTLSTM_CACHE_DIR`, else Numba's `NUMBA_CACHE_DIR`, else the user's cache folder."""
    named = os.environ.get("FASTLSTM_CACHE_DIR") or numba.config.CACHE_DIR
    if named:
        return Path(named)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "fastlstm"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fastlstm"


@cache
def folder() -> Path | None:
    """The folder of this state's kernels; None, with one warning, where nothing can be written."""
    try:
        path = root() / digest()
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder can be told
        warnings.warn(
            f"fastlstm keeps no compiled kernels ({error}); set FASTLSTM_CACHE_DIR to a writable folder",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return path


class Locator(caching._CacheLocator):
    """Tells Numba to keep the kernels of this package in `folder()`; it takes no function of anybody else."""

    def __init__(self, name: str) -> None:
        self._name = name

    def get_cache_path(self) -> str:
        return str(folder())

    def get_source_stamp(self) -> str:
        return digest()

    def get_disambiguator(self) -> str:
        return self._name

    @classmethod
    def from_function(cls, py_func, py_file):
        if Path(py_file).is_relative_to(PACKAGE) and folder() is not None:
            return cls(f"{Path(py_file).stem}-{py_func.__code__.co_firstlineno}")
        return None


caching.CacheImpl._locator_classes.insert(0, Locator)
