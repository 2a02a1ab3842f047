"""A NumPy sync beside the memory limit and beside the straightforward lines, in one run.

    python benchmarks/array_sync.py [--repeats 15]

Each round times all of them one after the other, on the same arrays; a ratio is the median over the
rounds of the ratios within a round, so that a disturbance of the machine meets both. The limit is
two array copies: they read and write as many bytes as a sync (4Nb).
"""

import argparse
import platform
import statistics
import time
from datetime import date

import numpy as np

from lookahead_core.adapters.numpy import SGD, Lookahead

ALPHA = 0.3
LARGE, SMALL, LEAVES = 32_000_000, (64, 64), 400


class Case:
    """Leaves of one size, and the ways to sync them."""

    def __init__(self, leaves):
        rng = np.random.default_rng(0)
        self.fast = [rng.standard_normal(shape, np.float32) for shape in leaves]
        self.slow = [rng.standard_normal(shape, np.float32) for shape in leaves]
        self.spare = [np.empty_like(leaf) for leaf in (*self.fast, *self.slow)]
        inner = SGD(self.fast, 0.1)
        self.optimizer = Lookahead(inner, sync_period=2, alpha=ALPHA)

    def limit(self):
        for target, leaf in zip(self.spare, (*self.fast, *self.slow), strict=True):
            np.copyto(target, leaf)

    def straightforward(self):
        for slow, fast in zip(self.slow, self.fast, strict=True):
            slow += ALPHA * (fast - slow)
            fast[...] = slow

    def sync(self):
        """`Lookahead.sync` in mid-cycle, where it does not anchor first: trees, checks and all."""
        self.optimizer._state = self.optimizer._state._replace(count=1)
        self.optimizer.sync()


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(case, repeats, names):
    """Seconds of each way in each round."""
    rounds = []
    for _ in range(repeats + 1):
        rounds.append({name: timed(getattr(case, name)) for name in names})
    return rounds[1:]  # the first one meets cold pages


def ratio(rounds, one, other):
    return statistics.median(r[one] / r[other] for r in rounds)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    large = measure(Case([(LARGE,)]), repeats, ("limit", "sync", "straightforward"))
    case = Case([SMALL] * LEAVES)
    # Apart: side by side they would turn each other's 13 MB out of the cache.
    microseconds, limit = (
        statistics.median(r[name] for r in measure(case, repeats * 10, (name,))) / LEAVES * 1e6
        for name in ("sync", "limit")
    )
    print(f"{date.today()}, {platform.machine()}, NumPy {np.__version__}, {repeats} rounds\n")
    print("| a NumPy sync of | against | measured | target |")
    print("|---|---|---|---|")
    print(
        "| 32M float32 | two array copies (4Nb) | "
        f"{ratio(large, 'sync', 'limit'):.2f}x | at most 1.15x |"
    )
    print(
        "| 32M float32 | the straightforward lines | "
        f"{ratio(large, 'sync', 'straightforward'):.2f}x | at most 0.45x |"
    )
    print(
        f"| 400 leaves of 64x64 float32 | a leaf (two copies of it: {limit:.1f} µs) | "
        f"{microseconds:.1f} µs | at most 5 µs |"
    )


if __name__ == "__main__":
    main()
