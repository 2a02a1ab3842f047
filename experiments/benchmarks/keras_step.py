"""What a step costs in Keras: Lookahead around Adam against the bare optimizer, in pairs.

    KERAS_BACKEND=tensorflow python -m experiments.benchmarks.keras_step [--rounds 12]

`apply` alone, traced as `fit` has it, on 4 million float32 numbers in 8 variables: a cycle of k=5
steps a round. And `fit` of a small convolutional network, an epoch a round. Seconds are those of
the process' own work on the processor, with one thread, so that other work on the machine counts
little; medians of the ratios within a round, with quartiles.
"""

import argparse
import ctypes
import os
import time
from collections.abc import Callable
from typing import Any

# JAX reads it when it is imported.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")

import keras
import numpy as np

from experiments.benchmarks.paired import Make, interleaved, ratio
from lookahead_core.adapters.keras import Lookahead

BACKEND = keras.backend.backend()
K = 5
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


def applying(way: str) -> Make:
    """A cycle of `apply` in a traced step; torch has none."""

    def make() -> Callable[[], list[float]]:
        variables = [keras.Variable(np.ones(500_000, "float32")) for _ in range(8)]
        gradients = [keras.ops.full((500_000,), 1e-3) for _ in variables]
        optimizer = WAYS[way](keras.optimizers.Adam(1e-4))
        optimizer.build(variables)
        step = traced(optimizer, variables, gradients)
        return lambda: [worked(lambda: [step() for _ in range(K)])]

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


def fitting(way: str) -> Make:
    """An epoch of a small convolutional network."""

    def make() -> Callable[[], list[float]]:
        layers = keras.layers
        model = keras.Sequential(
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
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(WAYS[way](keras.optimizers.Adam(1e-3)), loss)
        x, y = np.zeros((1280, 28, 28, 1), "float32"), np.zeros(1280, "int32")
        return lambda: [worked(lambda: model.fit(x, y, batch_size=64, verbose=0))]

    return make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=12)
    rounds = parser.parse_args().rounds
    prepare()
    for name, kind in {"apply": applying, "fit": fitting}.items():
        times = interleaved({way: kind(way) for way in WAYS}, rounds)
        found = ratio(times, "Lookahead", "bare")
        spread = f"{found.median:.3f} ({found.low:.3f} to {found.high:.3f})"
        print(f"{BACKEND}, {name}: {spread} times the bare optimizer, {found.rounds} rounds")


if __name__ == "__main__":
    main()
