"""What one LSTM cell computes: its options, validated together, and the parameters that follow from them.

A `CellSpec` is a small immutable value. The reference reads it, the kernels are compiled for it and the layers hand it
on; sizes, types and the number of layers and directions are not part of it. The equations that it selects stand in
`fastlstm.reference`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fastlstm import checks

__all__ = ["ACTIVATIONS", "LAYER_NORM_EPS", "PLAIN", "Activation", "CellSpec", "parameter_shapes"]

LAYER_NORM_EPS = 1e-5
"""Added to the variance in layer normalisation (as in PyTorch and Haste)."""

ACTIVATIONS: dict[str, tuple[float | None, ...]] = {
    "sigmoid": (),  # 1 / (1 + e^-x)
    "tanh": (),
    "relu": (),  # max(x, 0)
    "linear": (),  # x
    "hard_tanh": (),  # min(max(x, -1), 1)
    "softsign": (),  # x / (1 + |x|)
    "softplus": (),  # log(1 + e^x)
    "hard_sigmoid": (0.2, 0.5),  # min(max(alpha x + beta, 0), 1)
    "leaky_relu": (0.01,),  # x if x >= 0 else alpha x
    "elu": (1.0,),  # x if x >= 0 else alpha (e^x - 1)
    "thresholded_relu": (1.0,),  # x if x > alpha else 0
    "affine": (None, None),  # alpha x + beta
    "scaled_tanh": (None, None),  # alpha tanh(beta x)
}
"""The activations, each with the defaults of the parameters that it takes: none, alpha, or alpha and beta.

The defaults are those of the ONNX operators of the same name. ONNX no longer defines any for `affine` and `scaled_tanh`
(None here), so these must be given. Keras 3 uses two of the names with other defaults: there hard_sigmoid has 1 / 6 and
0.5, leaky_relu 0.2.
"""

_CANONICAL = {name.replace("_", ""): name for name in ACTIVATIONS}


@dataclass(frozen=True, init=False)
class Activation:
    """An elementwise function, by name, with its parameters.

    Parameters
    ----------
    name
        A key of `ACTIVATIONS`, or that name as ONNX, Keras or PyTorch write it: case and underscores do not matter
        (`LeakyRelu`).
    alpha, beta
        Parameters of the functions that take them (see `ACTIVATIONS`); None stands for the default. Where a function
        takes none they must be None or 0, and are 0 on the value.

    Raises
    ------
    TypeError, ValueError
        Unknown name; a parameter that the function does not take, or needs and has no default for, or that is no finite
        number.
    """

    name: str
    alpha: float
    beta: float

    def __init__(self, name: str, alpha: float | None = None, beta: float | None = None) -> None:
        if not isinstance(name, str):
            raise TypeError(f"the name of an activation must be a string, but was {name!r}")
        canonical = _CANONICAL.get(name.lower().replace("_", ""))
        if canonical is None:
            raise ValueError(f"unknown activation {name!r}: it must be one of {', '.join(ACTIVATIONS)}")
        takes = dict(zip(("alpha", "beta"), ACTIVATIONS[canonical], strict=False))
        values = {"alpha": alpha, "beta": beta}
        for key, value in values.items():
            if value is None and (value := takes.get(key, 0.0)) is None:
                raise ValueError(f"{key} of activation {canonical!r} must be given: ONNX defines no default for it")
            if checks.number(f"{key} of activation {canonical!r}", value) != 0 and key not in takes:
                raise ValueError(f"{key} of activation {canonical!r} must be None, as it has none, but was {value!r}")
            values[key] = float(value)
        vars(self).update(name=canonical, **values)

    @classmethod
    def parse(cls, value: Activation | str | Iterable[Any]) -> Activation:
        """Make an activation of an `Activation`, a name, or a tuple such as `("leaky_relu", 0.02)`."""
        if isinstance(value, Activation):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, tuple | list) and 1 <= len(value) <= 3:
            return cls(*value)
        raise TypeError(f"an activation must be a name or a tuple (name, alpha, beta), but was {value!r}")


@dataclass(frozen=True, init=False)
class CellSpec:
    """What one LSTM cell computes: immutable, hashable, and with all defaults resolved, so that it can stand as a key.

    Parameters
    ----------
    bias
        Whether the cell has `bias_ih` and `bias_hh` (and, with `layer_norm`, `bias_ln_c`).
    proj_size
        Size P of the projected output, h = W_hr (o * tanh(c)); 0 means no projection (PyTorch).
    peephole
        What the gates see of c: `"none"`; `"diagonal"`, a vector for each gate (Gers and Schmidhuber 2000, ONNX);
        `"full"`, a matrix.
    output_peephole
        Which c the output gate sees: `"new"` (this step's; the default for diagonal) or `"previous"` (the default for
        full).
    candidate_peephole
        Whether the candidate g sees the previous c too. Default: False for diagonal, True for full.
    activations
        Those of (gates, candidate, output), each in a form that `Activation.parse` takes. ONNX calls them f, g and h.
    coupled
        f = 1 - i (CIFG; ONNX `input_forget`). The cell then has three gates: no parameter has a part for f.
    clip
        Bound on the magnitude of what goes into the activations of the gates and the candidate, or None. c itself is
        not clipped.
    layer_norm
        Normalise W x, R h' and the c that goes into the output activation (Ba et al. 2016).
    zoneout
        Probability that a unit of (c, h) keeps its value from the step before (Krueger et al. 2016). A number stands
        for both; Haste, which leaves c alone, is `(0, rate)`.
    recurrent_dropout
        Probability that a unit of h' is dropped on its way into the gates (Gal and Ghahramani 2016).
    recurrent_dropout_mode
        One mask for the whole `"sequence"` (as in Keras), or a new one for each `"step"`.

    Raises
    ------
    TypeError, ValueError
        A value of the wrong type or out of range, or values that contradict each other. Nothing is left half made.
    """

    bias: bool
    proj_size: int
    peephole: str
    output_peephole: str | None
    candidate_peephole: bool
    activations: tuple[Activation, Activation, Activation]
    coupled: bool
    clip: float | None
    layer_norm: bool
    zoneout: tuple[float, float]
    recurrent_dropout: float
    recurrent_dropout_mode: str

    def __init__(
        self,
        *,
        bias: bool = True,
        proj_size: int = 0,
        peephole: str = "none",
        output_peephole: str | None = None,
        candidate_peephole: bool | None = None,
        activations: Iterable[Activation | str | Iterable[Any]] = ("sigmoid", "tanh", "tanh"),
        coupled: bool = False,
        clip: float | None = None,
        layer_norm: bool = False,
        zoneout: float | tuple[float, float] = 0.0,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_mode: str = "sequence",
    ) -> None:
        checks.choice("peephole", peephole, ("none", "diagonal", "full"))
        if candidate_peephole is None:
            candidate_peephole = peephole == "full"
        if peephole != "none":
            if output_peephole is None:
                output_peephole = "previous" if peephole == "full" else "new"
            checks.choice("output_peephole", output_peephole, ("new", "previous"))
        elif output_peephole is not None:
            raise ValueError(f"output_peephole must be None where peephole is 'none', but was {output_peephole!r}")
        elif checks.flag("candidate_peephole", candidate_peephole):
            raise ValueError("candidate_peephole must be False or None where peephole is 'none', but was True")
        if clip is not None and checks.number("clip", clip) <= 0:
            raise ValueError(f"clip must be a number over 0, or None, but was {clip!r}")
        checks.choice("recurrent_dropout_mode", recurrent_dropout_mode, ("sequence", "step"))
        vars(self).update(
            bias=checks.flag("bias", bias),
            proj_size=checks.size("proj_size", proj_size, least=0),
            peephole=peephole,
            output_peephole=output_peephole,
            candidate_peephole=checks.flag("candidate_peephole", candidate_peephole),
            activations=_activations(activations),
            coupled=checks.flag("coupled", coupled),
            clip=None if clip is None else float(clip),
            layer_norm=checks.flag("layer_norm", layer_norm),
            zoneout=_zoneout(zoneout),
            recurrent_dropout=checks.rate("recurrent_dropout", recurrent_dropout),
            recurrent_dropout_mode=recurrent_dropout_mode,
        )

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates that have weights, in the order in which `weight_ih`, `weight_hh` and the biases stack them."""
        return ("i", "g", "o") if self.coupled else ("i", "f", "g", "o")

    @property
    def peephole_gates(self) -> tuple[str, ...]:
        """The gates that see c, in the order in which `weight_ch` stacks them."""
        if self.peephole == "none":
            return ()
        return tuple(gate for gate in self.gates if gate != "g" or self.candidate_peephole)


def parameter_shapes(spec: CellSpec, input_size: int, hidden_size: int) -> dict[str, tuple[int, ...]]:
    """Name the parameters of one layer and direction, with their shapes.

    Parameters
    ----------
    spec
        The cell.
    input_size, hidden_size
        I and H: the number of features of x and of units of c.

    Returns
    -------
    dict
        With P the size of h (`proj_size`, or H without a projection), and G and Gp the lengths of `spec.gates` and
        `spec.peephole_gates`; the layer appends `_l0`, `_l0_reverse` and so on to the names:

        - `weight_ih` (G H, I), `weight_hh` (G H, P), `bias_ih` and `bias_hh` (G H,), `weight_hr` (P, H): as in PyTorch;
        - `weight_ch`, from the cell to the gates: (Gp H,) for diagonal, (Gp H, H) for full peepholes;
        - `weight_ln_ih`, `weight_ln_hh` (G H,), `weight_ln_c` and `bias_ln_c` (H,): layer normalisation. The shifts of
          the first two are `bias_ih` and `bias_hh`.

    Raises
    ------
    TypeError, ValueError
        A size that is no integer over 0, or a `proj_size` that is not under `hidden_size`.
    """
    inputs, units = checks.size("input_size", input_size, least=1), checks.size("hidden_size", hidden_size, least=1)
    if spec.proj_size >= units:
        raise ValueError(f"proj_size must be under hidden_size, which is {units}, but was {spec.proj_size}")
    rows, outputs, seen = len(spec.gates) * units, spec.proj_size or units, len(spec.peephole_gates) * units
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, inputs), "weight_hh": (rows, outputs)}
    if spec.bias:
        shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
    if spec.proj_size:
        shapes |= {"weight_hr": (outputs, units)}
    if spec.peephole != "none":
        shapes |= {"weight_ch": (seen,) if spec.peephole == "diagonal" else (seen, units)}
    if spec.layer_norm:
        shapes |= {"weight_ln_ih": (rows,), "weight_ln_hh": (rows,), "weight_ln_c": (units,)}
        shapes |= {"bias_ln_c": (units,)} if spec.bias else {}
    return shapes


def _zoneout(value: object) -> tuple[float, float]:
    if not isinstance(value, tuple | list):
        value = (value, value)
    if len(value) != 2:
        raise ValueError(f"zoneout must be a number or a pair (c, h), but was {value!r}")
    return checks.rate("zoneout", value[0]), checks.rate("zoneout", value[1])


def _activations(value: Any) -> tuple[Activation, Activation, Activation]:
    if not isinstance(value, tuple | list) or len(value) != 3:
        raise ValueError(f"activations must be three: (gates, candidate, output), but was {value!r}")
    try:
        gates, candidate, output = map(Activation.parse, value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"activations: {error}") from None
    return gates, candidate, output


PLAIN = CellSpec()
"""The cell of `torch.nn.LSTM` with its defaults."""
