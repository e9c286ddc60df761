"""The kernel cache.

Its name follows the sources, a second process compiles nothing, and nothing breaks where nothing can be written.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import llvmlite
import numba
import pytest

from fastlstm.runtime import cache, compiling

CALL = """
import warnings
import numpy as np
from numba.core import event
import fastlstm
with warnings.catch_warnings(record=True) as caught, event.install_recorder("numba:compile") as compiled:
    warnings.simplefilter("always")
    for seed in range(2):
        lstm = fastlstm.LSTM(3, 5, seed=0)
        y, _ = lstm(np.ones((4, 2, 3), np.float32))
dispatchers = [entry.data["dispatcher"] for _, entry in compiled.buffer if "dispatcher" in entry.data]
names = {str(dispatcher.py_func.__module__) for dispatcher in dispatchers}
print(len(caught), sum(name.startswith("fastlstm") for name in names), y.tobytes().hex()[:40])
print(*(str(warning.message) for warning in caught), sep="\\n")
"""


def start(folder: Path, before: str = "") -> subprocess.Popen:
    environment = os.environ | {"FASTLSTM_CACHE_DIR": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", before + CALL],
        cwd=Path(__file__).parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[int, int, str, str]:
    """Warnings, whether anything of this package was compiled, the sum of y, and the warnings' text."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    first, *rest = out.splitlines()
    warned, compiled, total = first.split()
    return int(warned), int(compiled), total, "\n".join(rest)


def test_processes_share_it(tmp_path: Path) -> None:
    """Two processes fill a cache at the same time, each kernel made by one of them; a third compiles nothing."""
    fillers = [start(tmp_path), start(tmp_path)]
    results = [finish(process) for process in fillers]
    assert [warned for warned, *_ in results] == [0, 0]
    assert sum(compiled for _, compiled, *_ in results) > 0
    kept = {path.name.rpartition("_")[0] for path in tmp_path.glob("*/*")}
    assert kept == {"alike", "call", "digest", "pack_forward", "forward"}
    warned, compiled, total, _ = finish(start(tmp_path))
    assert (warned, compiled) == (0, 0)
    assert {total} == {result[2] for result in results}
    assert [path.name for path in tmp_path.iterdir()] == [cache.digest()]
    assert not list(cache.PACKAGE.rglob("*.nb[ci]")), "kernels are kept beside the sources"


def test_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    warned, compiled, _, text = finish(start(tmp_path / "file" / "folder"))
    assert (warned, compiled > 0) == (1, True)
    assert "fastlstm keeps no compiled kernels" in text and "set FASTLSTM_CACHE_DIR to a writable folder" in text


FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
"""
DELETED = """
import shutil
from fastlstm.runtime import cache
save = cache.save
def save_after(*arguments):
    shutil.rmtree(cache.root())
    save(*arguments)
cache.save = save_after
"""


def test_a_full_and_a_deleted_folder(tmp_path: Path) -> None:
    """Where a file can only be written in part, nothing of it is left; a folder that somebody deletes is made anew."""
    if sys.platform == "win32":  # neither such a limit, nor can a file be deleted that is open
        return
    full, deleted = start(tmp_path / "full", FULL), start(tmp_path / "deleted", DELETED)
    warned, compiled, total, text = finish(full)
    assert (warned, compiled > 0) == (1, True) and "keeps no compiled kernels" in text
    sizes = [path.stat().st_size for path in tmp_path.glob("full/*/*")]
    assert all(size == 0 or size > cache.CHECKSUM for size in sizes) and max(sizes) <= 2000
    assert not [path for path in tmp_path.glob("full/*/*") if path.name.count(".") and path.suffix != ".lock"]
    warned, compiled, again, _ = finish(deleted)
    assert (warned, compiled > 0, again) == (0, True, total)
    assert len([path for path in tmp_path.glob("deleted/*/*") if path.suffix != ".lock"]) == 1


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, of which the digest is taken."""
    shutil.copytree(cache.PACKAGE, tmp_path / "fastlstm")
    monkeypatch.setattr(cache, "PACKAGE", tmp_path / "fastlstm")
    return tmp_path / "fastlstm"


def test_digest_follows_every_source_of_a_kernel(copy: Path) -> None:
    digest = cache.digest.__wrapped__
    seen = {digest()}
    rooms = {path.parent.name for path in cache.sources()}
    assert rooms == {"fastlstm", "simd", "kernels", "passes", "runtime", "models"}
    for path in cache.sources():
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n# edited\n")
        assert digest() not in seen, path
        seen.add(digest())
        path.write_bytes(kept)
    (copy / "simd" / "another.py").write_text("")
    assert digest() not in seen


def test_digest_follows_versions_and_nothing_else(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = cache.digest.__wrapped__
    before = digest()
    for name in ("layer.py", "stream.py", "reference.py"):
        (copy / name).write_text("")
    assert digest() == before
    (copy / "_version.py").write_text("another")
    monkeypatch.setattr(cache, "_version", lambda name: copy / "_version.py")
    assert digest() != before


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path / "a"))
    assert cache.root() == tmp_path / "a"
    monkeypatch.delenv("FASTLSTM_CACHE_DIR")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "b"))
    assert cache.root() == tmp_path / "b"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    if sys.platform != "win32":
        assert cache.root() == tmp_path / "c" / "fastlstm"
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", str(tmp_path / "d"))
        assert cache.root() == tmp_path / "d" / ".cache" / "fastlstm"


def test_functions_of_others_are_left_to_numba() -> None:
    assert compiling.Locator.from_function(test_where_it_lies, __file__) is None


def test_what_was_cut_or_overwritten_counts_as_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path))
    assert cache.load("kernel") is None
    cache.save("kernel", b"code")
    (path,) = tmp_path.glob("*/*")
    whole = path.read_bytes()
    assert (path.name, cache.load("kernel")) == ("kernel", b"code")
    for content in (whole[:-1], whole[: cache.CHECKSUM], b"", whole[:-1] + b"\0", b"\0" * len(whole)):
        path.write_bytes(content)
        assert cache.load("kernel") is None, content
    path.unlink()
    path.mkdir()
    assert cache.load("kernel") is None


def test_who_would_compile_the_same_waits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """But not forever, and not where nothing can be locked."""
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path))
    entered: list[str] = []

    def second() -> None:
        with cache.compiling("kernel"):
            entered.append("second")

    with cache.compiling("another"), cache.compiling("kernel"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.2)
        entered.append("first")
    thread.join()
    assert entered == (["first", "second"] if sys.platform != "win32" else ["second", "first"])
    monkeypatch.setattr(cache, "PATIENCE_S", 0.1)
    with cache.compiling("kernel"):
        second()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("FASTLSTM_CACHE_DIR", str(tmp_path / "file"))
    with cache.compiling("kernel"):
        second()
    assert len(entered) == 4


def test_a_version_of_numba_is_told_without_importing_it() -> None:
    for library in (numba, llvmlite):
        assert library.__version__ in cache._version(library.__name__).read_text()
