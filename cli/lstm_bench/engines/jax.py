"""JAX: one jitted `lax.scan` a layer, with the input's product taken out of the scan."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..workload import Workload
from .adapter import Adapter

Params = dict[str, jax.Array]


def _cell(gates: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    i, f, g, o = jnp.split(gates, 4, axis=-1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def _layer(params: Params, suffix: str, x: jax.Array, reverse: bool) -> jax.Array:
    bias = params[f"bias_ih_{suffix}"] + params[f"bias_hh_{suffix}"]
    inputs, R = x @ params[f"weight_ih_{suffix}"].T + bias, params[f"weight_hh_{suffix}"].T
    zeros = jnp.zeros((x.shape[1], R.shape[0]), x.dtype)

    def step(state: tuple[jax.Array, jax.Array], gates: jax.Array) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
        h, c = state
        h, c = _cell(gates + h @ R, c)
        return (h, c), h

    return lax.scan(step, (zeros, zeros), inputs, reverse=reverse)[1]


class Engine(Adapter):
    """JAX on the CPU; its thread pool reads NPROC when the first array is made."""

    def __init__(self, threads: int) -> None:
        """Keep float64 as it is and the pool at this many threads."""
        super().__init__(threads)
        os.environ["NPROC"] = str(threads)
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_enable_x64", True)

    def version(self) -> str:
        """JAX's version."""
        return jax.__version__

    def _stack(self, work: Workload) -> Callable[[Params, jax.Array], jax.Array]:
        directions = ("", "_reverse")[: work.case.directions]

        def stack(params: Params, x: jax.Array) -> jax.Array:
            for k in range(work.case.layers):
                x = jnp.concatenate([_layer(params, f"l{k}{d}", x, bool(d)) for d in directions], axis=-1)
            return x

        return stack

    def _arrays(self, work: Workload) -> tuple[Params, jax.Array, jax.Array]:
        return {k: jnp.asarray(v) for k, v in work.params.items()}, jnp.asarray(work.x), jnp.asarray(work.dy)

    def inference(self, work: Workload) -> Callable[[], jax.Array]:
        """The jitted stack, waited for."""
        params, x, _ = self._arrays(work)
        forward = jax.jit(self._stack(work))
        return lambda: forward(params, x).block_until_ready()

    def training(self, work: Workload) -> Callable[[], tuple[jax.Array, jax.Array, Params]]:
        """The jitted vector-Jacobian product."""
        params, x, dy = self._arrays(work)
        stack = self._stack(work)

        @jax.jit
        def both(params: Params, x: jax.Array, dy: jax.Array) -> tuple[jax.Array, jax.Array, Params]:
            y, pull = jax.vjp(stack, params, x)
            grads, dx = pull(dy)
            return y, dx, grads

        return lambda: jax.block_until_ready(both(params, x, dy))

    def stream(self, work: Workload) -> Callable[[Any], jax.Array]:
        """A jitted step whose state is donated to the next."""
        case = work.case
        params, _, _ = self._arrays(work)

        def step_all(state: tuple[jax.Array, jax.Array], params: Params, x: jax.Array) -> tuple[Any, jax.Array]:
            hs, cs = [], []
            for k in range(case.layers):
                bias = params[f"bias_ih_l{k}"] + params[f"bias_hh_l{k}"]
                gates = x @ params[f"weight_ih_l{k}"].T + state[0][k] @ params[f"weight_hh_l{k}"].T + bias
                x, c = _cell(gates, state[1][k])
                hs.append(x)
                cs.append(c)
            return (jnp.stack(hs), jnp.stack(cs)), x

        compiled = jax.jit(step_all, donate_argnums=0)
        state = tuple(jnp.zeros((case.layers, case.B, case.H), work.x.dtype) for _ in range(2))

        def step(x: Any) -> jax.Array:
            nonlocal state
            state, y = compiled(state, params, x)
            return y.block_until_ready()

        return step

    def native(self, array: np.ndarray) -> jax.Array:
        """The array on the CPU device."""
        return jnp.asarray(array)
