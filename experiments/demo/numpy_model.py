"""One training run with lookahead_core.adapters.numpy, or with an adapter that works like it."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.demo.data import Data
from experiments.demo.mlp import Weights, gradients
from lookahead_core import SyncRule
from lookahead_core.adapters import numpy as numpy_adapter

__all__ = ["Trainer"]


class Trainer:
    """Weights in training; see `experiment.Trainer`.

    Parameters
    ----------
    data, weights, lr, momentum, rule
        As in `experiment.Trainer`.
    xp : module
        Array namespace to compute in.
    adapter : module
        Has `SGD` and `MetaOptimizer` for arrays of `xp`.
    to_numpy : callable
        Copies an array of `xp` to NumPy.
    """

    def __init__(
        self,
        data: Data,
        weights: Weights,
        lr: float,
        momentum: float,
        rule: SyncRule | None,
        *,
        xp: ModuleType = np,
        adapter: ModuleType = numpy_adapter,
        to_numpy: Callable[[Any], NDArray[np.float64]] = np.array,
    ) -> None:
        self._xp, self._to_numpy = xp, to_numpy
        self._x, self._y = xp.asarray(data.train_x), xp.asarray(data.train_y)
        self._weights = {name: xp.array(leaf) for name, leaf in weights.items()}
        self._rule, inner = rule, adapter.SGD(self._weights, lr=lr, momentum=momentum)
        self._optimizer = inner if rule is None else adapter.MetaOptimizer(inner, rule)

    def step(self, batch: NDArray[np.int64]) -> None:
        rows = self._xp.asarray(batch)
        gradient = gradients(self._weights, self._x[rows], self._y[rows], self._xp)
        self._optimizer.step(gradient)

    def fast(self) -> Weights:
        return self._copies(self._weights)

    def slow(self) -> Weights:
        return self._copies(self._optimizer.slow_weights()) if self._rule else self.fast()

    def _copies(self, weights: dict[str, Any]) -> Weights:
        return {name: self._to_numpy(leaf) for name, leaf in weights.items()}
