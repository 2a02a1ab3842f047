"""A NumPy sync beside the memory limit and beside the straightforward lines, in one run.

    python -m experiments.benchmarks.array_sync [--rounds 15]

All of them on the same arrays in each round (paired.py). The limit is two array copies: they read
and write as many bytes as a sync (4Nb).
"""

import argparse

import numpy as np

from experiments.benchmarks.paired import environment, interleaved, ratio, spread, timed
from experiments.benchmarks.report import Tables
from lookahead_core.adapters.numpy import SGD, Lookahead

TITLE = "A NumPy sync"
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


def interleaved_calls(case, names):
    """What runs each of the ways once, as `interleaved` wants it; the arrays are one case's."""

    def way(run):
        return lambda: lambda: [timed(run)]

    return {name: way(getattr(case, name.removesuffix(" again"))) for name in names}


def tabulate(rounds, quick, report):
    """The table of NumPy."""
    large = interleaved(
        interleaved_calls(
            Case([(LARGE // 16 if quick else LARGE,)]),
            ("limit", "limit again", "sync", "straightforward"),
        ),
        rounds,
        renewals=1,
    )
    report.put(TITLE, "32M float32", "over two copies (4Nb)", ratio(large, "sync", "limit"))
    report.put(
        TITLE, "32M float32", "over the plain lines", ratio(large, "sync", "straightforward")
    )
    report.put(TITLE, "32M float32", "two copies, twice", ratio(large, "limit again", "limit"))
    case = Case([SMALL] * LEAVES)
    # Apart: side by side they would turn each other's 13 MB out of the cache.
    for name, column in (("sync", "µs a leaf"), ("limit", "two copies of a leaf, µs")):
        times = interleaved(interleaved_calls(case, (name,)), rounds * 10, renewals=1)[name]
        report.put(
            TITLE, "400 leaves of 64 x 64", column, spread([1e6 / LEAVES * t for (t,) in times])
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    report = Tables(environment("numpy", rounds=rounds))
    tabulate(rounds, False, report)
    print(report.markdown())


if __name__ == "__main__":
    main()
