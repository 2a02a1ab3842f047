"""What a step costs in Keras: Lookahead around Adam against the bare optimizer, in pairs.

    KERAS_BACKEND=tensorflow python -m experiments.benchmarks.keras_step [--rounds 12]

`apply` alone, traced as `fit` has it, on 4 million float32 numbers in 8 variables: a cycle of k=5
steps a round. `fit` of a small convolutional network, an epoch a round; and `apply` on the
variables of that network, ten cycles a round: what it adds to a step of `fit`, which is less than
one epoch of `fit` differs from the next. Seconds are those of the process' own work on the
processor, with one thread, so that other work on the machine counts little; medians of what is
compared within a round, with quartiles.
"""

import argparse
import ctypes
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

# JAX reads it when it is imported.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import keras
import numpy as np

from experiments.benchmarks.paired import Make, difference, interleaved, ratio
from lookahead_core.adapters.keras import Lookahead

BACKEND = keras.backend.backend()
K, CYCLES = 5, 10
BATCH, BATCHES = 64, 20
LARGE = [(500_000,)] * 8
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
WAYS: dict[str, Callable[[Any], Any]] = {"bare": lambda inner: inner, "Lookahead": Lookahead}


def prepare() -> None:
    """One thread, and memory that is freed stays with the process: what is measured is the work.

    Threads that wait for work spin, and pages that are given back to the system and taken again
    cost more than the arithmetic, to one way or the other as the heap happens to lie.
    """
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):  # glibc
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            libc.mallopt(option, 1 << 30)
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    if BACKEND == "torch":
        import torch

        torch.set_num_threads(1)


def worked(function: Callable[[], Any]) -> float:
    """Seconds of processor time that it takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def applying(way: str, shapes: list[tuple[int, ...]], cycles: int) -> Make:
    """Cycles of `apply` in a traced step; torch has none."""

    def make() -> Callable[[], list[float]]:
        variables = [keras.Variable(np.ones(shape, "float32")) for shape in shapes]
        gradients = [keras.ops.full(shape, 1e-3) for shape in shapes]
        optimizer = WAYS[way](keras.optimizers.Adam(1e-4))
        optimizer.build(variables)
        step = traced(optimizer, variables, gradients)
        return lambda: [worked(lambda: [step() for _ in range(K * cycles)])]

    return make


def traced(optimizer: Any, variables: list[Any], gradients: list[Any]) -> Callable[[], Any]:
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: optimizer.apply(gradients), autograph=False)
    if BACKEND == "jax":
        import jax

        step = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
        # Copies: two variables that begin as one array could not be given away both.
        held = [[v.value + 0 for v in own] for own in (variables, optimizer.variables)]

        def run() -> None:
            held[:] = jax.block_until_ready(step(held[1], gradients, held[0]))

        return run
    return lambda: optimizer.apply(gradients)


def network() -> Any:
    """A small convolutional network."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(16, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )


def fitting(way: str) -> Make:
    """An epoch of the small network."""

    def make() -> Callable[[], list[float]]:
        model = network()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(WAYS[way](keras.optimizers.Adam(1e-3)), loss)
        number = BATCH * BATCHES
        x, y = np.zeros((number, 28, 28, 1), "float32"), np.zeros(number, "int32")
        return lambda: [worked(lambda: model.fit(x, y, batch_size=BATCH, verbose=0))]

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    prepare()
    for name, makes in {
        "apply": {way: applying(way, LARGE, 1) for way in WAYS},
        "fit": {way: fitting(way) for way in WAYS},
    }.items():
        times = interleaved(makes, rounds)
        found = ratio(times, "Lookahead", "bare")
        spread = f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"
        print(f"{BACKEND}, {name}: {spread} times the bare optimizer, {found.rounds} rounds")
    step = statistics.median(sum(epoch) for epoch in times["bare"]) / BATCHES
    shapes = [tuple(variable.shape) for variable in network().trainable_variables]
    small = interleaved({way: applying(way, shapes, CYCLES) for way in WAYS}, rounds)
    more = difference(small, "Lookahead", "bare", 1e6 / (K * CYCLES))
    share = 1e-4 * more.median / step
    spread = f"{more.median:.0f} us ({more.low:.0f} to {more.high:.0f})"
    print(f"{BACKEND}, a step on that network: {spread} more, {share:.1f} % of one of fit")


if __name__ == "__main__":
    main()
