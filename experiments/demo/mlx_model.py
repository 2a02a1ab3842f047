"""One training run with mx.grad, optim.SGD and lookahead_core.adapters.mlx, by compiled steps."""

import mlx.core as mx
import mlx.optimizers as optim
import numpy as np
from numpy.typing import NDArray

from experiments.demo.data import Data
from experiments.demo.mlp import Weights
from lookahead_core import SyncRule
from lookahead_core.adapters.mlx import MetaOptimizer

__all__ = ["Trainer"]

Params = dict[str, mx.array]


class Trainer:
    """Weights in training; see `experiment.Trainer`."""

    def __init__(
        self, data: Data, weights: Weights, lr: float, momentum: float, rule: SyncRule | None
    ) -> None:
        self._x, self._y = mx.array(data.train_x, mx.float64), mx.array(data.train_y)
        self._params = {name: mx.array(leaf, mx.float64) for name, leaf in weights.items()}
        inner = optim.SGD(learning_rate=0.0, momentum=momentum)
        # As an array: MLX makes a float32 of a float.
        inner.learning_rate = mx.array(lr, mx.float64)
        self._optimizer = inner if rule is None else MetaOptimizer(inner, rule)
        self._optimizer.init(self._params)
        self._state = [self._params, self._optimizer.state]
        self._compiled = mx.compile(self._update, self._state, self._state)

    def step(self, batch: NDArray[np.int64]) -> None:
        rows = mx.array(batch)
        self._compiled(self._x[rows], self._y[rows])
        mx.eval(self._state)

    def fast(self) -> Weights:
        return {name: np.array(leaf) for name, leaf in self._params.items()}

    def slow(self) -> Weights:
        if not isinstance(self._optimizer, MetaOptimizer):
            return self.fast()
        slow = self._optimizer.slow_weights(self._params)
        return {name: np.array(leaf) for name, leaf in slow.items()}

    def _update(self, x: mx.array, y: mx.array) -> None:
        gradients = mx.grad(_loss)(self._params, x, y)
        self._params.update(self._optimizer.apply_gradients(gradients, self._params))


def _loss(params: Params, x: mx.array, y: mx.array) -> mx.array:
    hidden = mx.maximum(x @ params["w1"] + params["b1"], 0.0)
    logits = hidden @ params["w2"] + params["b2"]
    own = mx.take_along_axis(logits, y[:, None], axis=1)[:, 0]
    return (mx.logsumexp(logits, axis=1) - own).mean()
