"""The safetensors format: a length, a JSON header, and the bytes of the arrays. Nothing in a file is executed, and
nothing in it is believed.

https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "|i1",
    "U8": "|u1",
    "BOOL": "|b1",
}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}
GREATEST_HEADER = 100_000_000  # bytes, the format's own bound


def write(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write arrays to a file that is, whenever the process dies, either the old one or the new one, whole."""
    path = Path(path)
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at, parts = 0, []
    for name, array in arrays.items():
        part = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        header[name] = {"dtype": NAMES[part.dtype], "shape": list(array.shape), "data_offsets": [at, at + part.nbytes]}
        at += part.nbytes
        parts.append(part)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for part in parts:
                file.write(part.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def unfinished(path: Path) -> list[Path]:
    """What `write` has left beside a file when its process was killed."""
    return list(path.parent.glob(f".{path.name}.*.part"))


def _sync_folder(folder: Path) -> None:
    """Let the new name outlast a crash of the system too, where a folder can be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a file; ValueError, naming the file and what is wrong with it, for one that is not whole
    and in order.
    """
    data = Path(path).read_bytes()

    def wrong(what: str) -> ValueError:
        return ValueError(f"{os.fspath(path)} is no whole safetensors file: {what}")

    if len(data) < 8:
        raise wrong(f"it has {len(data)} bytes")
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data) - 8, GREATEST_HEADER):
        raise wrong(f"its header is said to have {length} bytes, and the file has {len(data)}")
    try:
        header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise wrong(f"its header cannot be read ({error})") from None
    if not isinstance(header, dict):
        raise wrong("its header is no mapping")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise wrong("its metadata are not strings by name")
    body, arrays, spans = memoryview(data)[8 + length :], {}, []
    for name, entry in header.items():
        fault = _fault(entry)
        if fault:
            raise wrong(f"{name!r}: {fault}")
        (begin, end), dtype = entry["data_offsets"], np.dtype(DTYPES[entry["dtype"]])
        count = 1
        for n in entry["shape"]:
            count *= n
        if not 0 <= begin <= end <= len(body) or end - begin != count * dtype.itemsize:
            raise wrong(
                f"{name!r}: bytes {begin} to {end} of {len(body)} for the shape {entry['shape']} of {entry['dtype']}"
            )
        spans.append((begin, end))
        arrays[name] = np.frombuffer(body[begin:end], dtype).reshape(entry["shape"])
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise wrong(f"its arrays leave a gap or overlap at byte {at}")
        at = end
    if at != len(body):
        raise wrong(f"{len(body) - at} bytes belong to no array")
    return arrays, metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)


def _fault(entry: Any) -> str:
    """What is wrong with the description of an array."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        return "it must have dtype, shape and data_offsets"
    if entry["dtype"] not in DTYPES:
        return f"its dtype {entry['dtype']!r} is none of {', '.join(DTYPES)}"
    for key in ("shape", "data_offsets"):
        if not isinstance(entry[key], list) or not all(type(n) is int and n >= 0 for n in entry[key]):
            return f"its {key} must be whole numbers"
    return (
        ""
        if len(entry["data_offsets"]) == 2 and len(entry["shape"]) <= 32
        else "its data_offsets must be two, its axes at most 32"
    )
