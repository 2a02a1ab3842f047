"""Training runs for the figures: the demo's network and scans, through the array-loop adapter."""

from collections.abc import Callable, Iterator
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.demo.data import BATCH_SIZE, TRAIN_SIZE, load_data
from experiments.demo.mlp import Weights, gradients, initial_weights, measure

__all__ = ["STEPS_PER_EPOCH", "accuracy", "batch_gradient", "batches", "copies", "loss", "started"]

STEPS_PER_EPOCH = TRAIN_SIZE // BATCH_SIZE


def started(seed: int, make: Callable[[Any], Any]) -> tuple[dict[str, Any], Any]:
    """Initial weights of a seed, and the optimizer that `make` puts around them."""
    weights = dict(initial_weights(np.random.default_rng(seed)))
    return weights, make(weights)


def batches(seed: int, steps: int) -> Iterator[NDArray[np.int64]]:
    """Rows of the mini-batches of a seed; every epoch is a permutation of the training set."""
    rng = np.random.default_rng([seed, 1])
    epochs = ceil(steps / STEPS_PER_EPOCH)
    order = np.concatenate([rng.permutation(TRAIN_SIZE) for _ in range(epochs)])
    yield from order.reshape(-1, BATCH_SIZE)[:steps]


def batch_gradient(weights: Weights, rows: NDArray[np.int64]) -> dict[str, Any]:
    """Gradient of the mean loss of a mini-batch."""
    scans = load_data()
    return gradients(weights, scans.train_x[rows], scans.train_y[rows], np)


def copies(weights: Weights) -> Weights:
    """`weights`, which go on being moved in place, as they are now."""
    return {name: leaf.copy() for name, leaf in weights.items()}


def accuracy(weights: Weights) -> float:
    """On the test set, in percent."""
    return 100 * measure(weights, load_data()).accuracy


def loss(weights: Weights) -> float:
    """Mean cross-entropy on the training set, in nats."""
    return measure(weights, load_data()).loss
