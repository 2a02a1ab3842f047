"""One training run with lookahead_core.adapters.cupy: the code of numpy_model.py on a GPU."""

import cupy

import numpy_model
from data import Data
from lookahead_core.adapters import cupy as cupy_adapter
from methods import Method
from mlp import Weights

__all__ = ["Trainer"]

if not cupy_adapter.is_available():
    raise ImportError("the cupy backend needs a GPU: CuPy is installed, but finds none here")


class Trainer(numpy_model.Trainer):
    """Weights in training, on the GPU; see `experiment.Trainer`."""

    def __init__(self, data: Data, weights: Weights, method: Method, lr: float) -> None:
        super().__init__(
            data, weights, method, lr, xp=cupy, adapter=cupy_adapter, to_numpy=cupy.asnumpy
        )
