"""Packed weights of PyTorch's tensors, kept as long as the tensors hold what was packed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from fastlstm.cell import CellSpec
from fastlstm.passes import packing
from fastlstm.runtime.variant import Variant
from fastlstm.torch.inputs import Inputs, shapes_of
from fastlstm.torch.memory import array_of, lie


@dataclass(eq=False)
class Packed:
    """The packed weights of a direction, and what tells whether they are those of now."""

    mark: bytes
    weights: Any
    reader: packing.Reader
    storage: StorageWeakRef
    make: Callable[[Sequence[Tensor]], Any]  # packs tensors alike
    last: bytes = b""  # what the tensors held at the last look

    def holds(self) -> bool:
        """Whether the tensors, which must still lie where they lay, hold what was packed."""
        self.last = self.reader.digest()
        return self.last == self.mark


_packed: dict[tuple, Packed] = {}


def key_of(way: str, weights: Sequence[Tensor], bias: bool, cell: str = "") -> tuple:
    """What the packed weights of a direction are known by: above all where its tensors lie."""
    w_ih, w_hh, *_ = weights
    # All of them: the reader reads there, whoever holds the memory now.
    places = tuple([weight.data_ptr() for weight in weights])
    return way, lie(*weights), places, w_ih.shape, w_hh.shape, w_ih.dtype, bias, cell


def current(key: tuple, weights: Sequence[Tensor]) -> Packed | None:
    """The packed weights of tensors that lie where others did: anew when a digest tells that they changed."""
    known = _packed.get(key)
    if known is None or known.holds():
        return known
    mark, storage = known.last, StorageWeakRef(weights[0].untyped_storage())
    found = _packed[key] = replace(known, mark=mark, weights=known.make(weights), storage=storage)
    return found


def _made(way: str, spec: CellSpec, variant: Variant, names: list[str], weights: Sequence[Tensor]) -> Any:
    return packing.WAYS[way](spec, variant, dict(zip(names, map(array_of, weights), strict=True)))


def _pack(way: str, call: Inputs, spec: CellSpec, variant: Variant, weights: tuple[Tensor, ...]) -> Packed:
    """The packed weights of one direction: anew when a digest tells that they changed, dropped when they are gone."""
    key = key_of(way, weights, call.bias, call.cell)
    lying = key[1]
    if lying and (found := current(key, weights)) is not None:
        return found
    known, w_ih, names = _packed.get(key), weights[0], [*shapes_of(spec, weights[0].shape[1], call.c_0.shape[2])]
    arrays = {name: array_of(weight) for name, weight in zip(names, weights, strict=True)}
    used = [array for name, array in arrays.items() if way == "forward" or name not in ("bias_ih", "bias_hh")]
    reader = packing.Reader(variant, used)
    mark = reader.digest()  # before they are packed: who changes them meanwhile has them packed again
    if known is not None and not lying and mark == known.mark:
        return known
    make = partial(_made, way, spec, variant, names)
    if known is None:
        for other, old in list(_packed.items()):
            if old.storage.expired():
                _packed.pop(other, None)
    storage = StorageWeakRef(w_ih.untyped_storage())
    found = _packed[key] = Packed(mark, packing.WAYS[way](spec, variant, arrays), reader, storage, make)
    return found


def packs_of(way: str, call: Inputs, spec: CellSpec, variant: Variant) -> list[Packed]:
    """Those of each direction."""
    D = call.h_0.shape[0]  # a tensor's `len` takes microseconds
    each = len(call.weights) // D
    return [_pack(way, call, spec, variant, call.weights[d * each :][:each]) for d in range(D)]
