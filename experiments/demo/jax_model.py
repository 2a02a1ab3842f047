"""One training run with jax.grad, optax.sgd and lookahead_core.adapters.optax, step by jitted step.

Training turns on 64-bit floats for the whole process: the demo compares backends to the last
digits.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from experiments.demo.data import BATCH_SIZE, Data
from experiments.demo.mlp import Weights
from lookahead_core import SyncRule
from lookahead_core.adapters.optax import MetaTransformation, meta_optimizer

__all__ = ["Trainer"]

Params = dict[str, jax.Array]
Step = Callable[..., tuple[Params, Any]]


class Trainer:
    """Weights in training; see `experiment.Trainer`."""

    def __init__(
        self, data: Data, weights: Weights, lr: float, momentum: float, rule: SyncRule | None
    ) -> None:
        jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]
        self._x, self._y = jnp.asarray(data.train_x), jnp.asarray(data.train_y)
        self._params = {name: jnp.asarray(leaf) for name, leaf in weights.items()}
        self._optimizer = _optimizer(lr, momentum, rule)
        self._state = self._optimizer.init(self._params)
        self._jitted = _jitted_step(lr, momentum, rule)
        # Compile now: the clock of the experiment is for training. The step is pure, so running
        # it once and dropping what it returns changes nothing.
        self._jitted(self._params, self._state, self._x, self._y, np.arange(BATCH_SIZE))

    def step(self, batch: NDArray[np.int64]) -> None:
        self._params, self._state = self._jitted(self._params, self._state, self._x, self._y, batch)

    def fast(self) -> Weights:
        return _on_host(self._params)

    def slow(self) -> Weights:
        if not isinstance(self._optimizer, MetaTransformation):
            return self.fast()
        return _on_host(self._optimizer.slow_params(self._state, self._params))


def _optimizer(lr: float, momentum: float, rule: SyncRule | None) -> Any:
    inner = optax.sgd(lr, momentum=momentum)
    return inner if rule is None else meta_optimizer(inner, rule)


@cache  # all seeds share one compiled step
def _jitted_step(lr: float, momentum: float, rule: SyncRule | None) -> Step:
    optimizer = _optimizer(lr, momentum, rule)
    # optax' SGD does not tell its rate, which some rules ask for.
    extra = {"learning_rate": lr} if rule is not None and rule.needs_inner_lr else {}

    @jax.jit
    def step(
        params: Params, state: Any, x: jax.Array, y: jax.Array, rows: jax.Array
    ) -> tuple[Params, Any]:
        gradient = jax.grad(_loss)(params, x[rows], y[rows])
        updates, state = optimizer.update(gradient, state, params, **extra)
        return optax.apply_updates(params, updates), state

    return step


def _loss(params: Params, x: jax.Array, y: jax.Array) -> jax.Array:
    # Not jnp.maximum, whose derivative at 0 is 1/2 where the other backends have 0.
    hidden = jax.nn.relu(x @ params["w1"] + params["b1"])
    logits = hidden @ params["w2"] + params["b2"]
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))


def _on_host(params: Params) -> Weights:
    return {name: np.asarray(leaf) for name, leaf in params.items()}
