"""What a kernel is compiled for."""

from __future__ import annotations

from typing import NamedTuple


class Variant(NamedTuple):
    """Choices that must not be branches of an inner loop."""

    dtype: str = "float32"
    training: bool = False  # whether forward keeps what backward needs
    linear: bool = False  # activations left out: tells a fault of the products from one of the gates
