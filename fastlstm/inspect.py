"""Pictures of what `LSTM.trace` found: which gates open when, and how much of a gradient reaches which step.

They need matplotlib (`pip install "fastlstm[plots]"`) and are returned, never shown: `figure.savefig("gates.png")`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastlstm import checks
from fastlstm.trace import Trace

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

NAMES = {
    "i": "input gate i",
    "f": "forget gate f",
    "o": "output gate o",
    "g": "candidate g",
    "c": "cell state c",
    "h": "output h",
}
# Told apart whatever colours one sees (Okabe and Ito 2008), and by their strokes in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STROKES = ("-", "--", "-.", ":")


def plot_gates(trace: Trace, unit: int | None = None, row: int = 0) -> Figure:
    """Draw the gates, the candidate, c and h of one sequence over time.

    Parameters
    ----------
    trace
        Of one layer and direction: an element of what `LSTM.trace` returns.
    unit
        Which unit, for curves; None for heat maps of all units. With a projection, whose outputs belong to no unit, h
        has no curve.
    row
        Which sequence of the batch, between 0 and B - 1.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.

    Raises
    ------
    TypeError, ValueError
        A trace that is none, a unit or row that is not there, or a sequence of no steps.
    ImportError
        matplotlib is not installed.
    """
    if not isinstance(trace, Trace):
        raise TypeError(f"trace must be one of those that LSTM.trace returns, but was {type(trace).__name__}")
    alone = trace.sequence(row)
    steps, units = alone.c.shape
    if not steps:
        raise ValueError(f"row must be a sequence of at least one step, but row {row} has none")
    where = f"{_place(trace)}, row {row}"
    if unit is None:
        figure = _figure(10, 7)
        figure.suptitle(f"{where}: {units} units")
        _maps(figure, alone)
        return figure
    if checks.size("unit", unit, least=0) >= units:
        raise ValueError(f"unit must be less than the number of units, {units}, but was {unit}")
    figure = _figure(10, 5.5)
    figure.suptitle(f"{where}, unit {unit}")
    _curves(figure, alone, unit)
    return figure


def plot_gradient_norm(
    traces: Trace | Sequence[Trace] | Mapping[str, Any], axes: Axes | None = None
) -> Figure | SubFigure:
    """Draw the norm of the gradient with respect to h over time, on a logarithmic axis: a curve that falls towards the
    first step is a gradient that vanishes, one that rises is a gradient that explodes.

    Parameters
    ----------
    traces
        One trace or several, made with a gradient (`dy` or `dstate`); or a mapping from labels to traces, or to what
        their `gradient_norm` returned.
    axes
        Where to draw; None for a figure of its own. A norm of 0 has no place on the axis: the curve has a gap there.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, or the part of one, in which the axes stand.

    Raises
    ------
    TypeError, ValueError
        No traces, traces without gradients, or several of one layer and direction that no labels tell apart.
    ImportError
        matplotlib is not installed.
    """
    norms = _norms(traces)
    if axes is None:
        axes = _figure(8, 4).subplots()
    axes.set_yscale("log", nonpositive="mask")
    for k, (label, norm) in enumerate(norms.items()):
        colour, stroke = COLOURS[k % len(COLOURS)], STROKES[k % len(STROKES)]
        axes.plot(norm, color=colour, linestyle=stroke, label=label, marker="o" if len(norm) == 1 else None)
    axes.set(xlabel="step t", ylabel=r"norm of $\partial$ loss / $\partial h_t$")
    axes.margins(x=0.01)
    axes.grid(alpha=0.3)
    axes.legend()
    return axes.figure


def _place(trace: Trace) -> str:
    return f"layer {trace.layer}{', reverse' * trace.reverse}"


def _norms(traces: Any) -> dict[str, np.ndarray]:
    """(T,) by label."""
    if isinstance(traces, Trace):
        traces = [traces]
    if not isinstance(traces, Mapping):
        if not isinstance(traces, Sequence) or not all(isinstance(trace, Trace) for trace in traces):
            raise TypeError(f"traces must be what LSTM.trace returns, or a mapping, but was {type(traces).__name__}")
        places = [_place(trace) for trace in traces]
        if twice := [place for place in places if places.count(place) > 1]:
            raise ValueError(f"traces must have labels where several are of the same place, as of {twice[0]}: map them")
        traces = dict(zip(places, traces, strict=True))
    if not traces:
        raise ValueError("traces must be at least one, but there was none")
    found = {}
    for label, trace in traces.items():
        norm = trace.gradient_norm() if isinstance(trace, Trace) else np.asarray(trace)
        if norm.dtype.kind != "f" or norm.ndim != 1:
            raise ValueError(f"traces[{label!r}] must be a trace, or norms (T,), but is {norm.dtype} of {norm.shape}")
        found[str(label)] = norm
    return found


def _figure(width: float, height: float) -> Figure:
    """A figure that no window and no global state knows of; sizes in inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('fastlstm.inspect needs matplotlib: pip install "fastlstm[plots]"') from error
    return Figure(figsize=(width, height), layout="constrained")


def _maps(figure: Figure, trace: Trace) -> None:
    """Time from left to right, a line of the picture for each unit."""
    panels = figure.subplots(3, 2, sharex=True)
    for axes, (name, title) in zip(panels.T.flat, NAMES.items(), strict=True):
        values = getattr(trace, name)
        greatest = float(np.max(abs(values), initial=0.0, where=np.isfinite(values)))
        signed = bool((values < 0).any()) or name in "gch"
        end = greatest or 1.0 if name in "ch" else max(greatest, 1.0)
        image = axes.imshow(
            values.T, aspect="auto", origin="lower", cmap="RdBu_r" if signed else "cividis", vmin=-end if signed else 0,
            vmax=end, extent=(-0.5, len(values) - 0.5, -0.5, values.shape[1] - 0.5),
        )  # fmt: skip
        axes.set_title(title, fontsize=10)
        axes.set_ylabel("unit" if name != "h" or values.shape == trace.c.shape else "feature")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
        figure.colorbar(image, ax=axes, pad=0.01)
    for axes in panels[-1]:
        axes.set_xlabel("step t")


def _curves(figure: Figure, trace: Trace, unit: int) -> None:
    """Gates above, what they let through below."""
    colours = dict(zip(NAMES, COLOURS, strict=False))
    for axes, names in zip(figure.subplots(2, 1, sharex=True), ("ifo", "gch"), strict=True):
        for name, stroke in zip(names, STROKES, strict=False):
            values = getattr(trace, name)
            if values.shape == trace.c.shape:
                mark = "o" if len(values) == 1 else None
                axes.plot(values[:, unit], color=colours[name], linestyle=stroke, label=NAMES[name], marker=mark)
        axes.axhline(0, color="#8b96a5", linewidth=0.8, zorder=0)
        axes.set_ylabel("opening, 0 to 1" if names == "ifo" else "value")
        axes.margins(x=0.01)
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        low, high = axes.get_ylim()
        if names == "ifo":  # all of a sigmoid's range, and what other activations need
            axes.set_ylim(min(low, -0.03), max(high, 1.03))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("step t")
