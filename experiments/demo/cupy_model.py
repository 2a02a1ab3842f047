"""One training run with lookahead_core.adapters.cupy: the code of numpy_model.py on a GPU."""

import cupy

from experiments.demo import numpy_model
from experiments.demo.data import Data
from experiments.demo.mlp import Weights
from lookahead_core import SyncRule
from lookahead_core.adapters import cupy as cupy_adapter

__all__ = ["Trainer"]

if not cupy_adapter.is_available():
    raise ImportError("the cupy backend needs a GPU: CuPy is installed, but finds none here")


class Trainer(numpy_model.Trainer):
    """Weights in training, on the GPU; see `experiment.Trainer`."""

    def __init__(
        self, data: Data, weights: Weights, lr: float, momentum: float, rule: SyncRule | None
    ) -> None:
        super().__init__(
            data, weights, lr, momentum, rule, xp=cupy, adapter=cupy_adapter, to_numpy=cupy.asnumpy
        )
