"""The cases: what is timed, by name, and how many floating-point operations it takes. Imports nothing heavy."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

MODES = ("inference", "training", "stream")
DTYPES = ("float32", "float64")
ITEM_BYTES = {"float32": 4, "float64": 8}


class CaseError(ValueError):
    """A case, filter or shape that cannot be understood; the message says what was expected."""


class Case(NamedTuple):
    """One LSTM on one input: `T` steps of `B` rows of `I` numbers through `layers` layers of `H` units."""

    name: str
    B: int
    T: int
    I: int
    H: int
    layers: int = 1
    bidirectional: bool = False
    tags: tuple[str, ...] = ()
    about: str = ""

    @property
    def directions(self) -> int:
        """How many directions each layer has."""
        return 2 if self.bidirectional else 1

    @property
    def layer_inputs(self) -> tuple[int, ...]:
        """The input size of each layer: `I`, then what the layer below puts out."""
        return (self.I, *([self.directions * self.H] * (self.layers - 1)))

    @property
    def shape(self) -> str:
        """The case as `--shape` takes it."""
        parts = [f"{self.B},{self.T},{self.I},{self.H}"]
        if self.layers != 1:
            parts.append(str(self.layers))
        if self.bidirectional:
            parts.append("bi")
        return ",".join(parts)

    def steps(self, mode: str) -> int:
        """How many steps one timed run takes: a stream is timed one step at a time."""
        return 1 if mode == "stream" else self.T

    def flops(self, mode: str) -> int:
        """Floating-point operations of one timed run, gates' GEMMs only; backward costs two forwards."""
        forward = sum(2 * 4 * self.H * (size + self.H) for size in self.layer_inputs)
        return forward * self.directions * self.B * self.steps(mode) * (3 if mode == "training" else 1)

    def supports(self, mode: str) -> bool:
        """Whether the mode makes sense: the reverse direction of a stream would have to start at its end."""
        return mode != "stream" or not self.bidirectional

    def shortened(self, steps: int) -> Case:
        """The same case over its first `steps` steps."""
        return self._replace(T=min(self.T, steps))

    def to_json(self) -> dict[str, Any]:
        """The fields that say what was computed."""
        return {key: getattr(self, key) for key in ("name", "B", "T", "I", "H", "layers", "bidirectional")}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Case:
        """The inverse of `to_json`; unknown fields are an error."""
        return cls(**fields)


_NAMED = (
    Case("vad-step", 1, 1, 128, 128, tags=("quick", "stream"), about="one frame of Silero VAD, every 32 ms"),
    Case("vad-sequence", 1, 512, 128, 128, tags=("quick",), about="16 s of speech through Silero VAD"),
    Case("rl-rollout", 8, 1, 64, 256, tags=("quick", "stream"), about="RecurrentPPO: a step of 8 environments"),
    Case("rl-train", 8, 128, 64, 256, tags=("quick",), about="RecurrentPPO: a minibatch of 128 steps"),
    Case("darts", 32, 24, 1, 25, about="Darts RNNModel: 1 number in, 25 units"),
    Case("deepar", 32, 100, 30, 40, 2, tags=("quick",), about="DeepAR's defaults, two layers"),
    Case("ocr-line", 1, 63, 24, 32, 1, True, about="a text line, both directions"),
    Case("imdb-stack", 32, 200, 64, 64, 2, about="sentiment of a review, two layers"),
    Case("speech", 32, 200, 128, 128, tags=("quick",), about="2 s of acoustic frames"),
    Case("hydrology", 256, 365, 30, 128, tags=("quick",), about="neuralhydrology: a year, 256 basins"),
    Case("deepbench-256", 64, 150, 256, 256, tags=("deepbench",), about="DeepBench training"),
    Case("deepbench-512", 64, 25, 512, 512, tags=("deepbench",), about="DeepBench training"),
    Case("deepbench-1024", 64, 25, 1024, 1024, tags=("deepbench",), about="DeepBench training"),
    Case("gnmt-b1", 1, 50, 1024, 1024, about="a sentence in a translation encoder"),
    Case("long-2layer", 8, 1000, 256, 256, 2, about="long sequences, two layers"),
)


def _deepbench() -> Iterator[Case]:
    """DeepBench's LSTM sets: training batches, and serving ones of 1, 2 and 4 rows."""
    training = {(512, 25): (16, 32, 64, 128), (1024, 25): (16, 32, 64, 128), (2048, 25): (16, 32, 64, 128),
                (1536, 50): (8, 16, 32), (256, 150): (16, 32, 64)}  # fmt: skip
    for (H, T), batches in training.items():
        for B in batches:
            yield Case(f"db-train-{H}-b{B}", B, T, H, H, tags=("deepbench", "db-train"))
        for B in (1, 2, 4):
            yield Case(f"db-serve-{H}-b{B}", B, T, H, H, tags=("deepbench", "db-serve"))


_FIELD = (
    Case("rnnt-first", 1, 246, 240, 1024, tags=("rnnt",), about="RNN-T encoder, first layer"),
    Case("rnnt-inner", 1, 246, 1024, 1024, tags=("rnnt",), about="RNN-T encoder, inner layer"),
    Case("vollo-2x128", 1, 1, 128, 128, 2, tags=("vollo", "stream"), about="an FPGA's single step: 1.9 us"),
    Case("vollo-3x256", 1, 1, 256, 256, 3, tags=("vollo", "stream"), about="an FPGA's single step: 3.0 us"),
    Case("vollo-3x480", 1, 1, 480, 480, 3, tags=("vollo", "stream"), about="an FPGA's single step: 4.2 us"),
    Case("torch-long", 8, 2000, 256, 256, 2, tags=("complaint",), about="PyTorch's issues: long sequences"),
    Case("torch-wide", 500, 5, 510, 32, tags=("complaint",), about="PyTorch's issues: wide input"),
    Case("torch-small", 128, 32, 32, 64, tags=("complaint",), about="PyTorch's issues: a small model"),
    Case("odd-83", 3, 77, 41, 83, tags=("odd",), about="nothing divides"),
    Case("odd-300", 5, 60, 300, 300, 1, True, tags=("odd",), about="word vectors, both directions"),
    Case("odd-650", 17, 35, 650, 650, 2, tags=("odd",), about="a language model of medium size"),
    Case("odd-b48", 48, 50, 100, 200, tags=("odd",), about="a batch that is no power of two"),
    Case("odd-b1000", 1000, 20, 16, 96, tags=("odd",), about="a thousand short rows"),
)

CASES: dict[str, Case] = {
    case.name: case for case in (*(c._replace(tags=("named", *c.tags)) for c in _NAMED), *_deepbench(), *_FIELD)
}


def tagged(tag: str) -> list[Case]:
    """All cases with this tag, in the table's order."""
    return [case for case in CASES.values() if tag in case.tags]


def named(names: Iterable[str]) -> list[Case]:
    """The cases of these names, in the order given; an unknown one is an error that offers its neighbours."""
    found = []
    for name in names:
        if name not in CASES:
            near = difflib.get_close_matches(name, CASES, n=3, cutoff=0.4)
            hint = f"did you mean {', '.join(near)}?" if near else "`lstm-bench list` shows them all"
            raise CaseError(f"there is no case {name!r}; {hint}")
        found.append(CASES[name])
    return found


def matching(pattern: str) -> list[Case]:
    """The cases whose name or tag matches a shell pattern or contains the text."""
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    found = [c for c in CASES.values() if any(fnmatch.fnmatchcase(word, wanted) for word in (c.name, *c.tags))]
    if not found:
        raise CaseError(f"no case has a name or tag that matches {pattern!r}; `lstm-bench list` shows them all")
    return found


def from_shape(text: str) -> Case:
    """The case that `B,T,I,H[,layers][,bi]` describes."""
    words = [word.strip() for word in text.split(",")]
    bidirectional = words[-1] == "bi"
    digits = words[:-1] if bidirectional else words
    if len(digits) not in (4, 5) or not all(word.isascii() and word.isdigit() and int(word) > 0 for word in digits):
        raise CaseError(f"shape is {text!r}; it should be B,T,I,H[,layers][,bi] with whole numbers above zero")
    B, T, I, H, *layers = map(int, digits)
    case = Case("", B, T, I, H, layers[0] if layers else 1, bidirectional, ("shape",))
    return case._replace(name=f"shape-{case.shape.replace(',', '-')}")
