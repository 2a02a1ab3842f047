"""A 64-32-10 ReLU network by hand: where it starts, its gradient, and how well it does.

The gradient is for NumPy and CuPy, which have no autograd. The measurement is in NumPy for every
backend, so that one ruler measures all of them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.demo.data import Data

__all__ = ["Measurement", "Weights", "flat", "gradients", "initial_weights", "measure"]

Weights = Mapping[str, NDArray[np.float64]]

PIXELS, HIDDEN, DIGITS = 64, 32, 10


class Measurement(NamedTuple):
    """How well weights do: mean cross-entropy on all training scans, accuracy on the test ones."""

    loss: float
    accuracy: float


def initial_weights(rng: np.random.Generator) -> Weights:
    """He's normal initialisation, biases at zero."""
    return {
        "w1": rng.normal(0.0, np.sqrt(2 / PIXELS), (PIXELS, HIDDEN)),
        "b1": np.zeros(HIDDEN),
        "w2": rng.normal(0.0, np.sqrt(2 / HIDDEN), (HIDDEN, DIGITS)),
        "b2": np.zeros(DIGITS),
    }


def flat(weights: Weights) -> NDArray[np.float64]:
    """All weights as one vector, in the order of their names."""
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


def gradients(weights: Mapping[str, Any], x: Any, y: Any, xp: Any) -> dict[str, Any]:
    """Gradient of the mean cross-entropy of one mini-batch.

    Parameters
    ----------
    weights : mapping of str to array
        As from `initial_weights`.
    x, y : array
        Scans and their digits.
    xp : module
        The array namespace of all of them: numpy or cupy.

    Returns
    -------
    dict like `weights`
    """
    hidden, logits = _forward(weights, x, xp)
    error = xp.exp(_log_softmax(logits, xp))
    error[xp.arange(len(y)), y] -= 1.0
    error /= len(y)
    hidden_error = (error @ weights["w2"].T) * (hidden > 0)
    return {
        "w1": x.T @ hidden_error,
        "b1": hidden_error.sum(axis=0),
        "w2": hidden.T @ error,
        "b2": error.sum(axis=0),
    }


def measure(weights: Weights, data: Data) -> Measurement:
    """Loss on the whole training set and accuracy on the test set."""
    _, logits = _forward(weights, data.train_x, np)
    log_likelihood = _log_softmax(logits, np)[np.arange(len(logits)), data.train_y]
    _, test_logits = _forward(weights, data.test_x, np)
    accuracy = np.mean(test_logits.argmax(axis=1) == data.test_y)
    return Measurement(-float(log_likelihood.mean()), float(accuracy))


def _forward(weights: Mapping[str, Any], x: Any, xp: Any) -> tuple[Any, Any]:
    hidden = xp.maximum(x @ weights["w1"] + weights["b1"], 0.0)
    return hidden, hidden @ weights["w2"] + weights["b2"]


def _log_softmax(logits: Any, xp: Any) -> Any:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - xp.log(xp.exp(shifted).sum(axis=1, keepdims=True))
