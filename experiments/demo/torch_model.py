"""One training run with torch's autograd and SGD and lookahead_core.adapters.torch, on the CPU.

Importing this sets torch to one thread for the whole process: on matrices as small as these,
several of them are four times slower.
"""

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.demo.data import Data
from experiments.demo.mlp import Weights
from lookahead_core import SyncRule
from lookahead_core.adapters.torch import MetaOptimizer

__all__ = ["Trainer"]

torch.set_num_threads(1)


class Trainer:
    """Weights in training; see `experiment.Trainer`."""

    def __init__(
        self, data: Data, weights: Weights, lr: float, momentum: float, rule: SyncRule | None
    ) -> None:
        self._x, self._y = torch.tensor(data.train_x), torch.tensor(data.train_y)
        self._weights = {
            name: torch.tensor(leaf, requires_grad=True) for name, leaf in weights.items()
        }
        self._optimizer: torch.optim.Optimizer = torch.optim.SGD(
            self._weights.values(), lr=lr, momentum=momentum
        )
        if rule is not None:
            self._optimizer = MetaOptimizer(self._optimizer, rule)

    def step(self, batch: NDArray[np.int64]) -> None:
        rows = torch.from_numpy(batch)
        self._optimizer.zero_grad()
        self._loss(self._x[rows], self._y[rows]).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()

    def fast(self) -> Weights:
        return {
            name: cast("NDArray[np.float64]", leaf.detach().numpy().copy())
            for name, leaf in self._weights.items()
        }

    def slow(self) -> Weights:
        if not isinstance(self._optimizer, MetaOptimizer):
            return self.fast()
        with self._optimizer.slow_weights():
            return self.fast()

    def _loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(x @ self._weights["w1"] + self._weights["b1"])
        logits = hidden @ self._weights["w2"] + self._weights["b2"]
        return torch.nn.functional.cross_entropy(logits, y)
