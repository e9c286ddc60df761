"""What a kernel is compiled for."""

from __future__ import annotations

from typing import NamedTuple


class Function(NamedTuple):
    """An elementwise function, as a variant names it."""

    name: str
    alpha: float = 0.0
    beta: float = 0.0


class Variant(NamedTuple):
    """Choices that must not be branches of an inner loop.

    All but the first three belong to cells that `torch.nn.LSTM` does not have; `fastlstm.cell` says what they mean.
    """

    dtype: str = "float32"
    linear: bool = False  # activations left out: tells a fault of the products from one of the gates
    ragged: bool = False  # whether rows have lengths, or are reset on the way
    special: bool = False  # whether the cell is another than the plain one; if not, what follows is as here
    standard: bool = True  # activations sigmoid, tanh, tanh and no clip: gates and c tell their slopes
    gates: Function = Function("sigmoid")
    candidate: Function = Function("tanh")
    output: Function = Function("tanh")
    clipped: bool = False
    clip: float = 0.0
    coupled: bool = False
    diagonal: bool = False  # peephole by a vector for each gate
    output_new: bool = False  # whether the output gate's is on the new c
    full: bool = False  # peephole by matrices on the c before
    normed: bool = False  # layer normalisation
    projected: bool = False
    masked: bool = False  # recurrent dropout: h is multiplied by a mask on its way into the gates
    zoned_c: bool = False  # zoneout of c
    zoned_h: bool = False  # and of h
    weights: str = ""  # how packed weights are stored: as `dtype`, or "int8" or "bfloat16"; inference alone
    amx: bool = False  # whether the processor has a matrix unit to multiply with (`simd.amx`, `simd.digits`)
    exact: bool = False  # whether R h, of int8 weights and an h of at most 1, is computed in whole numbers

    @property
    def whole(self) -> bool:
        """Whether a unit of the cell needs all others of its row, so that threads cannot split units."""
        return self.normed or self.projected or self.full

    @property
    def keeps(self) -> bool:
        """Whether the tape keeps h as it went into the gates: the plain cell in a dense call finds it anew."""
        return self.ragged or self.special

    @property
    def narrow(self) -> bool:
        """Whether packed weights are stored in fewer bits than those of `dtype`."""
        return self.weights != ""

    @property
    def scaled(self) -> bool:
        """Whether sums over packed weights are to be multiplied by the scales of the units' gates."""
        return self.weights == "int8"

    @property
    def stored(self) -> str:
        """The dtype that packed weights are stored as; `uint16` stands for bfloat16."""
        return {"": self.dtype, "int8": "int8", "bfloat16": "uint16"}[self.weights]

    @property
    def holds(self) -> bool:
        """Whether h as it is must be held beside what goes into the gates."""
        return self.masked or self.zoned_h
