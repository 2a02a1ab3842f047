"""The experiment: each method at each learning rate from the same starts, on any backend.

One seed fixes the initial weights and the order of the mini-batches, whatever the method and the
backend, so a difference between two runs of a seed is a difference between optimizers. What the
numbers mean is summary.py.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from time import perf_counter
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from experiments.demo.data import BATCH_SIZE, TRAIN_SIZE, Data, load_data
from experiments.demo.methods import Method
from experiments.demo.mlp import DIGITS, Measurement, Weights, flat, initial_weights, measure
from lookahead_core import SyncRule

__all__ = [
    "BACKENDS",
    "Checkpoint",
    "Result",
    "Trace",
    "Trainer",
    "check_backend",
    "run_grid",
    "run_one",
    "trace",
]

BACKENDS = ("numpy", "torch", "jax", "mlx", "keras", "cupy")
STEPS_PER_EPOCH = TRAIN_SIZE // BATCH_SIZE


class Trainer(Protocol):
    """What a backend's module has to offer: a class `Trainer` with these methods.

    Parameters
    ----------
    data : Data
        Scans; training takes mini-batches of `data.train_x`.
    weights : mapping of str to array
        Where to start; not changed.
    lr, momentum : float
        Of the inner optimizer, which is SGD.
    rule : SyncRule or None
        What is around it, if anything.
    """

    def __init__(
        self, data: Data, weights: Weights, lr: float, momentum: float, rule: SyncRule | None
    ) -> None: ...

    def step(self, batch: NDArray[np.int64]) -> None:
        """Train on the rows `batch`."""

    def fast(self) -> Weights:
        """Copy of the weights that the inner optimizer moves."""

    def slow(self) -> Weights:
        """Copy of the weights to ship: the read-out of the rule, else the fast ones."""


class Checkpoint(NamedTuple):
    """Both sets of weights at one moment of training."""

    fast: Measurement
    slow: Measurement


@dataclass(frozen=True)
class Result:
    """One training run.

    Attributes
    ----------
    method, lr, seed
        What was run.
    shipped : Measurement
        Of the weights to ship, at the end.
    seconds : float
        Training alone, without measurements and compilation.
    checkpoints : tuple of Checkpoint
        One an epoch, just before a sync, where fast and slow weights are furthest apart.
    weights : array, shape (2410,)
        The weights to ship, in the order of their names.
    """

    method: Method
    lr: float
    seed: int
    shipped: Measurement
    seconds: float
    checkpoints: tuple[Checkpoint, ...]
    weights: NDArray[np.float64]

    @property
    def diverged(self) -> bool:
        """Whether the final training loss is NaN, infinite, or worse than guessing blindly."""
        return not self.shipped.loss <= math.log(DIGITS)


class Trace(NamedTuple):
    """Training loss of the fast and slow weights of one run, step by step.

    Attributes
    ----------
    method : Method
        What was run.
    lr : float
        Learning rate of the run.
    sync_period : int
        Steps between syncs.
    fast, slow : array of float, same length
        Loss on the whole training set, before the first step and after each.
    """

    method: Method
    lr: float
    sync_period: int
    fast: NDArray[np.float64]
    slow: NDArray[np.float64]


def check_backend(backend: str) -> None:
    """Raise ImportError, with a message for the user, unless `backend` can run here."""
    try:
        _trainer_of(backend)
    except ModuleNotFoundError as error:
        raise ImportError(
            f"the {backend} backend needs {error.name}, which is not installed here; "
            f"python -m pip install '.[{backend}]' in a clone"
        ) from error


def run_grid(
    backend: str,
    methods: Iterable[Method],
    lrs: Iterable[float],
    seeds: Iterable[int],
    epochs: int,
) -> Iterator[Result]:
    """Every method at every learning rate for every seed, one run at a time."""
    for lr, method, seed in product(lrs, methods, seeds):
        yield run_one(backend, method, lr, seed, epochs)


# Divergence is a result here, and not an accident: overflow shows in the loss.
@np.errstate(over="ignore", invalid="ignore")
def run_one(backend: str, method: Method | str, lr: float, seed: int, epochs: int) -> Result:
    """Train once and measure.

    Parameters
    ----------
    backend : {"numpy", "torch", "jax", "mlx", "keras", "cupy"}
        Whose adapter to train with.
    method : Method or its value
        Optimizer to use.
    lr : float
        Nominal learning rate.
    seed : int
        Fixes initial weights and mini-batches.
    epochs : int
        Passes over the training set.

    Returns
    -------
    Result
    """
    method, scans = Method(method), load_data()
    trainer, batches = _start(backend, method, lr, seed, epochs)
    before_syncs = range(STEPS_PER_EPOCH - 1, len(batches), STEPS_PER_EPOCH)
    *stretches, last = np.split(batches, before_syncs)
    seconds, checkpoints = 0.0, []
    for stretch in stretches:
        seconds += _train(trainer, stretch)
        fast, slow = measure(trainer.fast(), scans), measure(trainer.slow(), scans)
        checkpoints.append(Checkpoint(fast, slow))
    seconds += _train(trainer, last)
    shipped = trainer.slow()
    return Result(
        method, lr, seed, measure(shipped, scans), seconds, tuple(checkpoints), flat(shipped)
    )


@np.errstate(over="ignore", invalid="ignore")
def trace(backend: str, method: Method, lr: float, seed: int, steps: int, epochs: int) -> Trace:
    """Follow the first `steps` steps of a run of so many epochs."""
    trainer, batches = _start(backend, method, lr, seed, epochs)
    losses = [_both_losses(trainer)]
    for batch in batches[:steps]:
        trainer.step(batch)
        losses.append(_both_losses(trainer))
    fast, slow = np.transpose(losses)
    rule = method.rule(len(batches))
    period = 1 if rule is None else rule.period(rule.init(()))
    return Trace(method, lr, period, fast, slow)


def _trainer_of(backend: str) -> type[Trainer]:
    """The backend's class. Imported here, so that one backend does not need the others."""
    trainer: type[Trainer] = import_module(f"experiments.demo.{backend}_model").Trainer
    return trainer


def _start(
    backend: str, method: Method, lr: float, seed: int, epochs: int
) -> tuple[Trainer, NDArray[np.int64]]:
    """A trainer at the seed's initial weights, and the seed's mini-batches, one a row."""
    rng = np.random.default_rng(seed)
    weights = initial_weights(rng)
    order = [rng.permutation(TRAIN_SIZE) for _ in range(epochs)]
    batches = np.reshape(order, (epochs * STEPS_PER_EPOCH, BATCH_SIZE))
    rule = method.rule(len(batches))
    trainer = _trainer_of(backend)
    return trainer(load_data(), weights, method.inner_lr(lr), method.momentum, rule), batches


def _train(trainer: Trainer, batches: NDArray[np.int64]) -> float:
    """Train on `batches` one after the other; seconds it took."""
    began = perf_counter()
    for batch in batches:
        trainer.step(batch)
    trainer.fast()  # waits for what a device, or jax, still has to do
    return perf_counter() - began


def _both_losses(trainer: Trainer) -> tuple[float, float]:
    """Training loss of the fast and of the slow weights."""
    scans = load_data()
    return measure(trainer.fast(), scans).loss, measure(trainer.slow(), scans).loss
