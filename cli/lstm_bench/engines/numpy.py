"""A plain LSTM in NumPy on its BLAS: the rival that is always there, written as well as NumPy allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..workload import Workload
from .adapter import Adapter


class Weights(NamedTuple):
    """One layer and direction: `W (I, 4H)`, `R (H, 4H)`, `b (4H,)`."""

    W: np.ndarray
    R: np.ndarray
    b: np.ndarray


class Tape(NamedTuple):
    """What the forward pass of one layer and direction leaves: time runs in the direction of the layer."""

    x: np.ndarray  # (T, B, I)
    gates: np.ndarray  # (T, B, 4H) after the activations
    c: np.ndarray  # (T + 1, B, H), the initial state first
    tanh_c: np.ndarray  # (T, B, H)
    h: np.ndarray  # (T + 1, B, H)


def _activate(gates: np.ndarray, H: int) -> None:
    """Gates i, f, g, o in place; sigmoid(x) = 0.5 + 0.5 tanh(x / 2) lets one tanh serve all four."""
    gates[..., : 2 * H] *= 0.5
    gates[..., 3 * H :] *= 0.5
    np.tanh(gates, out=gates)
    for part in (gates[..., : 2 * H], gates[..., 3 * H :]):
        part *= 0.5
        part += 0.5


def _forward(x: np.ndarray, weights: Weights, reverse: bool) -> tuple[np.ndarray, Tape]:
    """One layer and direction over the whole sequence: y and the tape."""
    x = x[::-1] if reverse else x
    (T, B, _), H = x.shape, weights.R.shape[0]
    gates = (x.reshape(T * B, -1) @ weights.W + weights.b).reshape(T, B, 4 * H)
    h, c = np.zeros((2, T + 1, B, H), x.dtype)
    tanh_c = np.empty((T, B, H), x.dtype)
    product = np.empty((B, 4 * H), x.dtype)
    for t in range(T):
        gates[t] += np.matmul(h[t], weights.R, out=product)
        _activate(gates[t], H)
        i, f, g, o = np.split(gates[t], 4, axis=-1)
        np.multiply(f, c[t], out=c[t + 1])
        c[t + 1] += i * g
        np.multiply(o, np.tanh(c[t + 1], out=tanh_c[t]), out=h[t + 1])
    y = h[1:]
    return (y[::-1] if reverse else y), Tape(x, gates, c, tanh_c, h)


def _backward(tape: Tape, dy: np.ndarray, weights: Weights, reverse: bool) -> tuple[np.ndarray, Weights]:
    """Gradients of one layer and direction: dx and those of the weights; the tape's gates are overwritten."""
    dy = dy[::-1] if reverse else dy
    (T, B, _), H = tape.x.shape, weights.R.shape[0]
    R_T = np.ascontiguousarray(weights.R.T)
    dh, dc = np.zeros((2, B, H), dy.dtype)
    for t in range(T - 1, -1, -1):
        i, f, g, o = np.split(tape.gates[t], 4, axis=-1)
        dh += dy[t]
        dc += dh * o * (1 - tape.tanh_c[t] ** 2)
        do = dh * tape.tanh_c[t] * o * (1 - o)
        di, df, dg = dc * g * i * (1 - i), dc * tape.c[t] * f * (1 - f), dc * i * (1 - g * g)
        dc *= f
        np.concatenate((di, df, dg, do), axis=-1, out=tape.gates[t])
        np.matmul(tape.gates[t], R_T, out=dh)
    dG = tape.gates.reshape(T * B, 4 * H)
    dx = (dG @ weights.W.T).reshape(tape.x.shape)
    x = np.ascontiguousarray(tape.x).reshape(T * B, -1)
    grads = Weights(x.T @ dG, tape.h[:-1].reshape(T * B, H).T @ dG, dG.sum(axis=0))
    return (dx[::-1] if reverse else dx), grads


class Engine(Adapter):
    """NumPy; the number of threads is its BLAS's, set by the environment before the process starts."""

    traced = True

    def version(self) -> str:
        """NumPy's version and the BLAS that it was built with."""
        blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]  # type: ignore[call-overload, index]
        return f"{np.__version__} ({blas['name']} {blas['version']})"

    def _weights(self, work: Workload) -> list[list[Weights]]:
        """Layers x directions, transposed for row-major products, the two biases added up."""

        def one(suffix: str) -> Weights:
            p = work.params
            return Weights(np.ascontiguousarray(p[f"weight_ih_{suffix}"].T),
                           np.ascontiguousarray(p[f"weight_hh_{suffix}"].T),
                           p[f"bias_ih_{suffix}"] + p[f"bias_hh_{suffix}"])  # fmt: skip

        directions = ("", "_reverse")[: work.case.directions]
        return [[one(f"l{layer}{direction}") for direction in directions] for layer in range(work.case.layers)]

    def _run(self, x: np.ndarray, layers: list[list[Weights]]) -> tuple[np.ndarray, list[list[Tape]]]:
        tapes = []
        for layer in layers:
            passes = [_forward(x, weights, reverse=bool(d)) for d, weights in enumerate(layer)]
            x = passes[0][0] if len(passes) == 1 else np.concatenate([y for y, _ in passes], axis=-1)
            tapes.append([tape for _, tape in passes])
        return x, tapes

    def inference(self, work: Workload) -> Callable[[], np.ndarray]:
        """y of the whole stack."""
        layers = self._weights(work)
        return lambda: self._run(work.x, layers)[0]

    def training(self, work: Workload) -> Callable[[], tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]]:
        """Forward, then backward through layers and time."""
        layers = self._weights(work)
        H = work.case.H

        def run() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
            y, tapes = self._run(work.x, layers)
            d, grads = work.dy, {}
            for k in range(len(layers) - 1, -1, -1):
                dxs = []
                for direction, weights in enumerate(layers[k]):
                    part = d[..., direction * H : (direction + 1) * H]
                    dx, gradient = _backward(tapes[k][direction], part, weights, reverse=bool(direction))
                    suffix = f"l{k}" + "_reverse" * direction
                    grads[f"weight_ih_{suffix}"], grads[f"weight_hh_{suffix}"] = gradient.W.T, gradient.R.T
                    grads[f"bias_ih_{suffix}"] = grads[f"bias_hh_{suffix}"] = gradient.b
                    dxs.append(dx)
                d = dxs[0] if len(dxs) == 1 else dxs[0] + dxs[1]
            return y, d, grads

        return run

    def stream(self, work: Workload) -> Callable[[np.ndarray], np.ndarray]:
        """One step through all layers, the state kept in place."""
        case, layers = work.case, [layer[0] for layer in self._weights(work)]
        h = np.zeros((case.layers, case.B, case.H), work.x.dtype)
        c = np.zeros_like(h)

        def step(x: np.ndarray) -> np.ndarray:
            for k, weights in enumerate(layers):
                gates = x @ weights.W
                gates += weights.b
                gates += h[k] @ weights.R
                _activate(gates, case.H)
                i, f, g, o = np.split(gates, 4, axis=-1)
                c[k] *= f
                c[k] += i * g
                x = np.multiply(o, np.tanh(c[k]), out=h[k])
            return x

        return step
