"""What layers have in common: named parameters, their first values, how they are read, replaced and frozen, and their
packed copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastlstm import checks
from fastlstm.cell import CellSpec, parameter_shapes
from fastlstm.parameters import Parameters
from fastlstm.passes import packing
from fastlstm.runtime.memory import placed


class Parameterised:
    """Sizes and options of layers x directions of one cell and one dtype, and their named parameters."""

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    proj_size: int
    reverse: bool
    batch_first: bool
    dropout: float
    input_dropout: float
    merge: str
    dtype: np.dtype

    def __init__(
        self,
        spec: CellSpec,
        input_sizes: list[int],
        hidden_size: int,
        directions: int,
        dtype: np.dtype,
        random: np.random.Generator,
        forget_bias: float,
    ) -> None:
        self.spec, self._random = spec, random
        self._variant = packing.variant_of(spec, dtype)
        self._suffixes = [
            [f"_l{k}{suffix}" for suffix in ("", "_reverse")[:directions]] for k in range(len(input_sizes))
        ]
        self._parameters: dict[str, np.ndarray] = {}
        self._names: list[str] = []
        for size, suffixes in zip(input_sizes, self._suffixes, strict=True):
            shapes = parameter_shapes(spec, size, hidden_size)
            self._names = [*shapes]
            for suffix in suffixes:
                for name, shape in shapes.items():
                    value = _first(name, shape, hidden_size, random)
                    if name == "bias_ih" and forget_bias:
                        at = spec.gates.index("f") * hidden_size
                        value[at : at + hidden_size] += forget_bias
                    self._parameters[name + suffix] = array = placed(shape, dtype)
                    array[...] = value
        self._mapping = Parameters(self._parameters)
        self._packed: dict[str, tuple[bytes, Any, object]] = {}
        self._frozen = False

    @property
    def directions(self) -> int:
        """D: 2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """P, the size of h: proj_size or, without a projection, hidden_size."""
        return self.proj_size or self.hidden_size

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        """The parameters by name, in PyTorch's order; the arrays themselves, not copies."""
        return self._mapping

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the parameters by name."""
        return {name: array.copy() for name, array in self._parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy parameters from a mapping.

        Parameters
        ----------
        state_dict
            For every name of `parameters` an array of its shape, or anything that `numpy.asarray` takes, such as a
            torch tensor.

        Raises
        ------
        TypeError, ValueError
            No mapping, or names that are missing, unexpected or misshapen: one error lists them all, and nothing has
            been copied.
        """
        arrays = checks.state_dict(state_dict, self._parameters)
        if self._frozen:
            raise ValueError("load_state_dict: the layer must not be frozen, but is; call freeze(False) first")
        for name, value in arrays.items():
            self._parameters[name][...] = value
        self._mapping.written()

    def freeze(self, frozen: bool = True) -> None:
        """Make the parameters read-only, and calls faster by what it takes to find out whether they changed.

        A call otherwise reads all parameters once for that if they were taken from `parameters` since the last one, or
        if somebody still holds one, which shows where a call computes little: for one step of one row it is half of
        the time.

        Parameters
        ----------
        frozen
            False makes the parameters writable again.

        Notes
        -----
        NumPy refuses writes to the arrays of `parameters` then, but not through views that were taken before.
        """
        self._frozen = checks.flag("frozen", frozen)
        for array in self._parameters.values():
            array.flags.writeable = not frozen
        self._packed.clear()
        self._mapping.written()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes: nothing that was derived or prepared."""
        return self.__dict__ | {"_packed": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What kernels are compiled for depends on the processor, which may be another one than where this was kept."""
        vars(self).update(state)
        self._variant = packing.variant_of(self.spec, self.dtype)

    def _bind(self, ways: Sequence[str]) -> tuple[list[Any], object]:
        """The weights of all layers, each packed in a way of its own, and the epoch of the parameters in which they
        hold, if they do so beyond this call.
        """
        epoch, held = self._mapping.epoch, True
        packs = []
        for way, suffixes in zip(ways, self._suffixes, strict=True):
            for suffix in suffixes:
                packs.append(self._pack(way, suffix))
                held = held and (self._frozen or self._packed[way + suffix][2] is epoch)
        return packs, epoch if held else None

    def _matrices(self) -> list[np.ndarray]:
        """W_ih and W_hh of the first layer's first direction."""
        return [self._parameters["weight_ih_l0"], self._parameters["weight_hh_l0"]]

    def _lie(self) -> list[np.ndarray] | None:
        """The parameters of the first layer's first direction, if somebody holds them, who may change them before the
        next call; None if packed copies would last.
        """
        if self._frozen or self._mapping.alone(self._parameters.keys()):
            return None
        w_hh = self._parameters["weight_hh_l0"]
        nothing = [] if self.spec.bias else [np.zeros(len(w_hh), w_hh.dtype)] * 2
        return [*self._parameters.values(), *nothing]

    def _named(self, suffix: str) -> dict[str, np.ndarray]:
        """The parameters of one layer and direction, by their names without suffix."""
        return {name: self._parameters[name + suffix] for name in self._names}

    def _pack(self, way: str, suffix: str) -> Any:
        """The packed weights of one layer and direction; packed anew when a digest tells that parameters changed.

        No digest is needed where nobody can have changed them.
        """
        known, epoch = self._packed.get(way + suffix), self._mapping.epoch
        if known is not None and (self._frozen or known[2] is epoch):
            return known[1]
        settled = epoch if self._mapping.alone(n for n in self._parameters if n.endswith(suffix)) else None
        p = self._named(suffix)
        used = [a for name, a in p.items() if way == "forward" or name not in ("bias_ih", "bias_hh")]
        mark = packing.digest(self._variant, used)
        if known is not None and known[0] == mark:
            packed = known[1]
        else:
            packed = packing.WAYS[way](self.spec, self._variant, p)
        self._packed[way + suffix] = (mark, packed, settled)
        return packed


def _first(name: str, shape: tuple[int, ...], hidden_size: int, random: np.random.Generator) -> np.ndarray:
    """The value that a parameter starts with: ones and zeros for a normalisation, else PyTorch's."""
    if name.startswith("weight_ln"):
        return np.ones(shape)
    if name == "bias_ln_c":
        return np.zeros(shape)
    bound = hidden_size**-0.5
    return random.uniform(-bound, bound, shape)
