"""Pictures of a trace hold its values, say what they show, and open no window; bad input."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

import fastlstm
from fastlstm.inspect import NAMES, plot_gates, plot_gradient_norm

X = np.random.default_rng(0).standard_normal((7, 3, 4), dtype=np.float32)
DY = np.ones((7, 3, 10), np.float32)


def traces() -> tuple[fastlstm.Trace, ...]:
    return fastlstm.LSTM(4, 5, bidirectional=True, seed=0).trace(X, lengths=[7, 4, 0], dy=DY)


def drawn(figure: Figure, path: Path) -> None:
    figure.savefig(path / "figure.png")
    assert (path / "figure.png").stat().st_size > 5000


def test_a_map_for_each_value(tmp_path: Path) -> None:
    trace = traces()[1]
    figure = plot_gates(trace, row=1)
    panels = {axes.get_title(): axes for axes in figure.axes if axes.images}
    assert list(panels) == [NAMES[name] for name in "igfcoh"] and figure.get_suptitle() == (
        "layer 0, reverse, row 1: 5 units"
    )
    for name, title in NAMES.items():
        (image,), axes = panels[title].images, panels[title]
        np.testing.assert_array_equal(image.get_array(), getattr(trace, name)[:4, 1].T)
        low, high = image.get_clim()
        assert (low, high) == (0, 1) if name in "ifo" else low == -high < 0
        assert axes.get_ylabel() == "unit"
        assert axes.get_xlim() == (-0.5, 3.5), "padding is not shown"
    drawn(figure, tmp_path)


def test_curves_of_a_unit(tmp_path: Path) -> None:
    trace = traces()[0]
    figure = plot_gates(trace, unit=2)
    upper, lower = figure.axes
    for axes, names in ((upper, "ifo"), (lower, "gch")):
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        for name in names:
            np.testing.assert_array_equal(lines[NAMES[name]], getattr(trace, name)[:, 0, 2])
        strokes = [(line.get_color(), line.get_linestyle()) for line in axes.lines[:3]]
        assert len({stroke for _, stroke in strokes}) == len({colour for colour, _ in strokes}) == 3
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [NAMES[name] for name in names]
    assert figure.get_suptitle() == "layer 0, row 0, unit 2" and lower.get_xlabel() == "step t"
    drawn(figure, tmp_path)


def test_other_cells(tmp_path: Path) -> None:
    """Gates below 0 have a scale with both signs; a projected output belongs to no unit."""
    plain = traces()[0]
    trace = dataclasses.replace(plain, f=-3 * plain.f, h=plain.h[..., :2])
    figure = plot_gates(trace)
    maps = {axes.get_title(): axes for axes in figure.axes if axes.images}
    low, high = maps[NAMES["f"]].images[0].get_clim()
    assert low == -high == -max(1.0, abs(trace.f[:, 0]).max())
    assert maps[NAMES["h"]].get_ylabel() == "feature"
    drawn(figure, tmp_path)
    labels = [text.get_text() for text in plot_gates(trace, unit=4).axes[1].get_legend().get_texts()]
    assert labels == [NAMES["g"], NAMES["c"]]


def test_a_single_step_and_what_is_not_finite(tmp_path: Path) -> None:
    lstm = fastlstm.LSTM(4, 5, seed=0)
    for x in (X[:1, 0], np.full((3, 4), np.nan, np.float32)):
        (trace,) = lstm.trace(x, dy=np.ones((len(x), 5), np.float32))
        for figure in (plot_gates(trace), plot_gates(trace, unit=0), plot_gradient_norm(trace)):
            drawn(figure, tmp_path)


def test_norms_of_the_gradient(tmp_path: Path) -> None:
    found = traces()
    figure = plot_gradient_norm(found)
    (axes,) = figure.axes
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "step t" and "loss" in axes.get_ylabel()
    assert [line.get_label() for line in axes.lines] == ["layer 0", "layer 0, reverse"]
    for line, trace in zip(axes.lines, found, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), trace.gradient_norm())
    drawn(figure, tmp_path)


def test_norms_by_label_in_axes_that_are_there(tmp_path: Path) -> None:
    figure = Figure()
    axes = figure.subplots()
    trace, zeros = traces()[0], np.zeros(7)
    assert plot_gradient_norm({"before": trace, "after": trace.gradient_norm() / 2, "none": zeros}, axes) is figure
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["before", "after", "none"]
    drawn(figure, tmp_path)


def run(script: str) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, cwd=Path(__file__).parent, check=True, capture_output=True, text=True).stdout


def test_matplotlib_is_asked_for_when_something_is_drawn() -> None:
    """And told of in a line where it is missing; a window it never opens."""
    script = """
import sys
import numpy as np, fastlstm.inspect
loaded = "matplotlib" in sys.modules
trace = fastlstm.LSTM(1, 2).trace(np.ones((3, 1), np.float32))[0]
sys.modules["matplotlib.figure"] = None
try:
    fastlstm.inspect.plot_gates(trace)
except ImportError as error:
    print(loaded, error)
del sys.modules["matplotlib.figure"]
fastlstm.inspect.plot_gates(trace)
print("matplotlib.pyplot" in sys.modules)
"""
    told = 'fastlstm.inspect needs matplotlib: pip install "fastlstm[plots]"'
    assert run(script).splitlines() == [f"False {told}", "False"]


@pytest.mark.parametrize(
    ("call", "error", "told"),
    [
        (lambda found: plot_gates(found), TypeError, "trace must be one of those that LSTM.trace returns"),
        (lambda found: plot_gates(found[0], unit=5), ValueError, "unit must be less than the number of units, 5"),
        (lambda found: plot_gates(found[0], unit=-1), ValueError, "unit must be at least 0"),
        (lambda found: plot_gates(found[0], unit="a"), TypeError, "unit must be an integer"),
        (lambda found: plot_gates(found[0], row=3), ValueError, "row must be less than the number of rows, 3"),
        (lambda found: plot_gates(found[0], row=2), ValueError, "row must be a sequence of at least one step"),
        (lambda found: plot_gradient_norm(np.ones(3)), TypeError, "traces must be what LSTM.trace returns"),
        (lambda found: plot_gradient_norm([*found, 1]), TypeError, "traces must be what LSTM.trace returns"),
        (lambda found: plot_gradient_norm([]), ValueError, "traces must be at least one"),
        (lambda found: plot_gradient_norm([*found, found[1]]), ValueError, "as of layer 0, reverse: map them"),
        (lambda found: plot_gradient_norm({"a": np.ones((2, 2))}), ValueError, "must be a trace, or norms"),
        (lambda found: plot_gradient_norm({"a": "b"}), ValueError, r"traces\['a'\] must be a trace"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        call(traces())
