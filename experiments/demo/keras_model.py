"""One training run with a compiled Keras model and lookahead_core.adapters.keras, in float32."""

import warnings

import keras
import numpy as np
from numpy.typing import NDArray

from experiments.demo.data import Data
from experiments.demo.mlp import Weights
from lookahead_core import SyncRule
from lookahead_core.adapters.keras import MetaOptimizer

__all__ = ["Trainer"]

NAMES = ("w1", "b1", "w2", "b2")


class Trainer:
    """Weights in training; see `experiment.Trainer`."""

    def __init__(
        self, data: Data, weights: Weights, lr: float, momentum: float, rule: SyncRule | None
    ) -> None:
        self._x, self._y = data.train_x.astype("float32"), data.train_y
        hidden, classes = (weights[name].shape[0] for name in ("b1", "b2"))
        self._model = keras.Sequential(
            [
                keras.Input((self._x.shape[1],)),
                keras.layers.Dense(hidden, activation="relu"),
                keras.layers.Dense(classes),
            ]
        )
        self._model.set_weights([weights[name] for name in NAMES])
        inner = keras.optimizers.SGD(lr, momentum=momentum)
        self._optimizer = inner if rule is None else MetaOptimizer(inner, rule)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._model.compile(self._optimizer, loss)
        self._optimizer.build(self._model.trainable_variables)

    def step(self, batch: NDArray[np.int64]) -> None:
        self._model.train_on_batch(self._x[batch], self._y[batch])

    def fast(self) -> Weights:
        with warnings.catch_warnings():
            # Of Keras 3.15 itself, where it makes NumPy arrays of torch's tensors.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            arrays = self._model.get_weights()
        return {n: a.astype("float64") for n, a in zip(NAMES, arrays, strict=True)}

    def slow(self) -> Weights:
        if not isinstance(self._optimizer, MetaOptimizer):
            return self.fast()
        with self._optimizer.slow_weights():
            return self.fast()
