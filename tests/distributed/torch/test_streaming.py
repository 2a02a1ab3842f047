"""Fragments that are synced at steps of their own, and behind the steps: clause C82."""

from math import prod

import pytest
import torch
import torch.distributed as dist
from streaming_runs import LR, SHAPES, Run, gathered, target

from lookahead_core import Interpolate, Momentum, SyncRule, diloco, local_sgd, lookahead, slowmo
from lookahead_core.adapters.torch import MetaOptimizer, StreamingOptimizer
from lookahead_core.analysis import peak_traffic

K, STEPS = 6, 27
RULES = {
    "local sgd": local_sgd(K),
    "lookahead": lookahead(K, 0.4),
    "heavy ball": slowmo(K, momentum=0.5, slow_lr=0.8),
    "nesterov": diloco(K, lr=0.7, momentum=0.9),
    "nesterov, mixed": SyncRule(K, Momentum(0.7, 0.9), restart=0.5),
    "mixed": SyncRule(K, Interpolate(0.9), restart=0.25),
    "a schedule": SyncRule(K, Interpolate(lambda syncs: 1 / (1 + syncs))),
}
OWN = [[0, 3], [1, 2, 4]]  # fragments by the positions of parameters


def simulated(rule, size, fragments, delay):
    """All workers on one process, by plain loops on lists of numbers: nothing of the library's.

    `fragments` are lists of positions in the flat model; fragment p of P is taken at k (p + 1) / P.
    """
    k, outer = rule.sync_period, rule.outer
    number = sum(map(prod, SHAPES))
    targets = [target(worker).tolist() for worker in range(size)]
    slow = torch.linspace(-1, 1, number, dtype=torch.float64).tolist()
    fast = [list(slow) for _ in range(size)]
    velocity = [[0.0] * number for _ in range(size)]
    buffer = [0.0] * number
    syncs = [0] * len(fragments)
    due = {}
    for step in range(1, STEPS + 1):
        for w in range(size):
            for i in range(number):
                velocity[w][i] = 0.9 * velocity[w][i] + fast[w][i] - targets[w][i]
                fast[w][i] -= LR * velocity[w][i]
        for p, members in enumerate(fragments):
            if (step - k * (p + 1) // len(fragments)) % k == 0 and step >= k // len(fragments):
                mean = {i: sum(slow[i] - f[i] for f in fast) / size for i in members}
                due[p] = step + delay, mean
        for p, (when, mean) in list(due.items()):
            if when != step:
                continue
            del due[p]
            for i, d in mean.items():
                if isinstance(outer, Interpolate):
                    alpha = outer.alpha(syncs[p]) if callable(outer.alpha) else outer.alpha
                    slow[i] -= alpha * d
                else:
                    buffer[i] = outer.momentum * buffer[i] + d
                    ahead = d + outer.momentum * buffer[i] if outer.nesterov else buffer[i]
                    slow[i] -= outer.lr * ahead
                for w in range(size):
                    fast[w][i] += rule.restart * (slow[i] - fast[w][i])
            syncs[p] += 1
    return slow, fast


def positions(fragments):
    """Positions in the flat model of the parameters of each fragment."""
    begins = [sum(map(prod, SHAPES[:n])) for n in range(len(SHAPES) + 1)]
    return [[i for n in own for i in range(begins[n], begins[n + 1])] for own in fragments]


def slow_of(run):
    entries = run.optimizer.state_dict()["state"]
    return [x for n in range(len(SHAPES)) for x in entries[n]["lookahead_slow"].flatten().tolist()]


def lists(run, fragments):
    return [[run.leaves[n] for n in own] for own in fragments]


@pytest.mark.clause("C82")
@pytest.mark.parametrize("delay", [0, 1, 2, K - 1])
@pytest.mark.parametrize("fragments", [[[0, 1, 2, 3, 4]], OWN, [[4], [0], [2], [1], [3]]], ids=len)
@pytest.mark.parametrize("name", RULES)
def test_it_is_a_simulation_of_it_on_one_process(name, fragments, delay, rank, size):
    run = Run(rank, RULES[name], positions=fragments, delay=delay, check_replicas=True).to(STEPS)
    slow, fast = simulated(RULES[name], size, positions(fragments), delay)
    assert run.flat() == pytest.approx(fast[rank], rel=1e-12, abs=1e-12)
    if delay or len(fragments) > 1:  # else a cycle has ended, and the slow weights are the fast
        with run.optimizer.slow_weights():
            assert run.flat() == pytest.approx(slow, rel=1e-12, abs=1e-12)
